"""Scores that survive an interruption: one JSON line per image, keyed by model and image bytes."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ImageScore", "ScoreJournal"]

_VERSION = "1.0"


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """What the model said of one image."""

    sha256: str
    """Of the file's bytes, 64 hex digits."""

    score: float
    peak: float
    """The smallest mask threshold at which the image shows no region."""

    width: int
    height: int
    is_blank: bool
    """Every pixel has one value, or none is above 7 of 255: an image of nothing."""


class ScoreJournal:
    """A file of scores, appended to as they come; a context manager.

    Lines that were cut off, by a killed process or a full disk, are left out. A file of another
    scorer is not read: `stale` says so, and it is begun anew.
    """

    def __init__(self, path: str | os.PathLike[str], scored_by: str) -> None:
        """Reads what is there.

        Args:
            path: the file; made where it is missing.
            scored_by: digest of all that decides a score; other scores are of no use.

        Raises:
            OSError: the file or its folder cannot be read or written.
        """
        self.path = Path(path)
        self.stale = False
        self._scores: dict[str, ImageScore] = {}
        lines = self._lines()
        header = {"agp_edge_scores": _VERSION, "scored_by": scored_by}
        if lines and lines[0] == header:
            for line in lines[1:]:
                with suppress(TypeError):
                    score = ImageScore(**line)
                    self._scores[score.sha256] = score
        else:
            self.stale = bool(lines)
            lines = []
        self._file: TextIO = self.path.open("a" if lines else "w", encoding="utf-8")
        if lines:
            self._file.write("\n")  # ends a line that was cut off
        else:
            self._write(header)

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, sha256: str) -> ImageScore | None:
        """The score of an image, if it is known."""
        return self._scores.get(sha256)

    def add(self, score: ImageScore) -> None:
        """Keeps a score; it is in the file when this returns."""
        self._scores[score.sha256] = score
        self._write(asdict(score))

    def __enter__(self) -> ScoreJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        records: list[dict[str, Any]] = []
        for line in text.splitlines():
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
        if not records and text.strip():
            records.append({})  # something that is not ours
        return records
