"""What was measured: one row of times per frame, as columns."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agp_edge.result import Latency

__all__ = ["ENGINE_STAGES", "STAGES", "Recorder", "Samples"]

# What a `Latency` can hold beside its total, in the order of the frame's way. A CPU engine copies
# nothing; a field that an engine does not fill is "n/a", not zero.
ENGINE_STAGES = ("wait", "copy", "preprocess", "execute", "postprocess", "copy_back")
# "queue": from the time a frame was due until it was handed in (open loop). "wait": for another
# frame's turn. "other": inside the detector and in none of its stages. "python": outside the C++
# code, the way to another thread and back included.
STAGES = ("queue", *ENGINE_STAGES, "other", "python")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Frames in the order in which they were due: int64 (n,) arrays, nanoseconds."""

    due: NDArray[np.int64]
    """When the frame arrived; 0 is the start of the measurement."""

    start: NDArray[np.int64]
    """When the call began."""

    end: NDArray[np.int64]
    """When its result was there."""

    total: NDArray[np.int64]
    """The detector's own figure, from the frame's entry to the result."""

    engine: dict[str, NDArray[np.int64]]
    """Those of `ENGINE_STAGES` that this engine measures."""

    unserved: NDArray[np.int64]
    """Due times of frames that were never served, because the load was given up."""

    @property
    def latency(self) -> NDArray[np.int64]:
        """From due to end."""
        return self.end - self.due

    def stage(self, name: str) -> NDArray[np.int64] | None:
        """One of `STAGES`; None where this engine does not have it."""
        if name == "queue":
            return self.start - self.due
        if name == "other":
            return self.total - sum(self.engine.values(), np.zeros_like(self.total))
        if name == "python":
            return self.end - self.start - self.total
        return self.engine.get(name)

    def columns(self) -> dict[str, list[int]]:
        """Everything as lists of whole nanoseconds, for JSON."""
        arrays = {"due": self.due, "start": self.start, "end": self.end, "total": self.total}
        named = {**arrays, **self.engine, "unserved_due": self.unserved}
        return {name: array.tolist() for name, array in named.items()}

    @classmethod
    def from_columns(cls, columns: dict[str, list[int]]) -> Samples:
        """The inverse of `columns`; KeyError where one is missing."""
        arrays = {name: np.asarray(values, np.int64) for name, values in columns.items()}
        return cls(
            due=arrays["due"],
            start=arrays["start"],
            end=arrays["end"],
            total=arrays["total"],
            engine={name: arrays[name] for name in ENGINE_STAGES if name in arrays},
            unserved=arrays["unserved_due"],
        )


class Recorder:
    """Takes rows from several threads while a load runs; sorts and converts them afterwards."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int, Latency]] = []
        self._unserved: list[int] = []
        self._lock = threading.Lock()

    def add(self, index: int, due: int, start: int, end: int, latency: Latency) -> None:
        """One served frame; times are nanoseconds of the load's clock."""
        self._rows.append((index, due, start, end, latency))  # atomic

    def add_unserved(self, due: int) -> None:
        """One frame that nobody took."""
        with self._lock:
            self._unserved.append(due)

    def __len__(self) -> int:
        return len(self._rows)

    def tail(self, count: int) -> list[tuple[int, int]]:
        """(due, end) of the last `count` served frames, about."""
        return [(row[1], row[3]) for row in self._rows[-count:]]

    def samples(self, origin: int) -> Samples:
        """All rows; times from `origin`."""
        rows = sorted(self._rows, key=lambda row: row[0])
        engine: dict[str, NDArray[np.int64]] = {}
        if rows:
            for name in ENGINE_STAGES:
                key = f"{name}_ms"
                if getattr(rows[0][4], key, None) is not None:
                    engine[name] = _nanoseconds([getattr(row[4], key) for row in rows])
        return Samples(
            due=np.array([row[1] - origin for row in rows], np.int64),
            start=np.array([row[2] - origin for row in rows], np.int64),
            end=np.array([row[3] - origin for row in rows], np.int64),
            total=_nanoseconds([row[4].total_ms for row in rows]),
            engine=engine,
            unserved=np.array(sorted(due - origin for due in self._unserved), np.int64),
        )


def _nanoseconds(milliseconds: Sequence[float]) -> NDArray[np.int64]:
    return np.rint(np.asarray(milliseconds, np.float64) * 1e6).astype(np.int64)
