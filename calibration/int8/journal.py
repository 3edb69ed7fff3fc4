"""What a long quantisation has found so far, line by line beside its output, so that it resumes.

The first line says what it is about: model, images, method. A journal about something else is
refused and never mixed in. It is removed when the work is done.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Journal"]


class Journal:
    """Facts by kind and name; each is on the disk when `put` returns."""

    def __init__(self, path: str | os.PathLike[str], subject: Mapping[str, Any]) -> None:
        """Opens a journal or begins one.

        Args:
            path: the file.
            subject: what the facts are about; has to equal that of an existing journal.

        Raises:
            DataError: the file is about something else, or is no journal.
        """
        self._path = Path(path)
        self._facts: dict[tuple[str, str], Any] = {}
        wanted = json.loads(json.dumps(subject))
        if self._path.exists():
            self._read(wanted)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append({"agp_edge_quantisation": wanted})

    def get(self, kind: str, name: str) -> Any | None:
        """What `put` was given; None where it was given nothing."""
        return self._facts.get((kind, name))

    def put(self, kind: str, name: str, value: Any) -> None:
        """Notes a fact; `value` is what JSON can hold, and not None."""
        self._facts[kind, name] = value
        self._append({"kind": kind, "name": name, "value": value})

    def remove(self) -> None:
        """Deletes the file: the work is done."""
        self._path.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, wanted: dict[str, Any]) -> None:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")
            subject = json.loads(lines[0])["agp_edge_quantisation"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"'{self._path}' is no record of an interrupted quantisation: remove it"
            ) from error
        if subject != wanted:
            names = sorted(
                key for key in {*subject, *wanted} if subject.get(key) != wanted.get(key)
            )
            raise DataError(
                f"'{self._path}' is the record of an interrupted quantisation of something else "
                f"(other {', '.join(names)}): give what it was begun with, or remove it"
            )
        whole = lines[: len(lines) - 1]  # what follows the last line break was cut off
        if len(whole) < len(lines) - bool(not lines[-1]):
            self._path.write_text("\n".join(whole) + "\n", encoding="utf-8")
        for text in whole[1:]:
            line = json.loads(text)
            self._facts[line["kind"], line["name"]] = line["value"]
