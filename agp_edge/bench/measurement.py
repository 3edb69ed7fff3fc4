"""One load on one detector: its samples and every figure that is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agp_edge.bench.recorder import encoded_histogram
from agp_edge.bench.samples import STAGES, Samples
from agp_edge.bench.statistics import Summary, summarise

__all__ = ["Measurement"]

NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one load gave; all summaries in milliseconds."""

    load: str
    """"closed" or "open"."""

    inflight: int
    """Frames under way at a time."""

    rate_hz: float
    """At which frames were due in the open loop, and to which the deadline belongs."""

    deadline_ms: float
    samples: Samples
    machine: dict[str, Any]
    """What the monitor saw."""

    peak_rss: int | None
    """Bytes."""

    @property
    def name(self) -> str:
        """E.g. "open loop, 2 in flight"."""
        return f"{self.load} loop, {self.inflight} in flight"

    def end_to_end(self) -> Summary:
        """From the time a frame was due until its result was there."""
        return summarise(self.samples.latency / NS_PER_MS, unserved=len(self.samples.unserved))

    def stages(self) -> dict[str, Summary | None]:
        """Each of `STAGES`; None where the engine does not have it."""
        found: dict[str, Summary | None] = {}
        for stage in STAGES:
            values = self.samples.stage(stage)
            # a closed loop asks when it is ready: nothing queues
            absent = values is None or (stage == "queue" and self.load == "closed")
            found[stage] = None if absent else summarise(np.asarray(values) / NS_PER_MS)
        return found

    def stages_share(self) -> float | None:
        """Sum of the stages over the whole, of all frames; "other" is what is missing to 1."""
        whole = int(self.samples.latency.sum())
        if whole <= 0:
            return None
        return 1 - int(np.asarray(self.samples.stage("other")).sum()) / whole

    def throughput_hz(self) -> float | None:
        """Served frames a second, from the first call to the last result."""
        if len(self.samples.end) == 0:
            return None
        span = int(self.samples.end.max() - self.samples.start.min())
        return len(self.samples.end) / span * 1e9 if span > 0 else None

    def missed(self) -> int:
        """Frames whose result came later than the deadline after they were due, or never."""
        late = int((self.samples.latency > self.deadline_ms * NS_PER_MS).sum())
        return late + len(self.samples.unserved)

    def is_overloaded(self) -> bool:
        """Whether the open loop's frames came faster than they were served, to the end.

        True where frames were left, or where the last tenth of the frames waited longer than their
        deadline in the median and than the tenth in the middle did.
        """
        if self.load == "closed":
            return False
        if len(self.samples.unserved):
            return True
        queue = self.samples.start - self.samples.due
        tenth = max(1, len(queue) // 10)
        middle = len(queue) // 2
        last = float(np.median(queue[-tenth:]))
        return last > max(
            self.deadline_ms * NS_PER_MS, float(np.median(queue[middle - tenth // 2 :][:tenth]))
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: figures, histogram, and every sample."""
        stages = self.stages()
        return {
            "load": self.load,
            "inflight": self.inflight,
            "rate_hz": self.rate_hz,
            "deadline_ms": self.deadline_ms,
            "throughput_hz": self.throughput_hz(),
            "missed_deadlines": self.missed(),
            "overloaded": self.is_overloaded(),
            "end_to_end_ms": self.end_to_end().to_dict(),
            "stages_ms": {
                name: None if summary is None else summary.to_dict()
                for name, summary in stages.items()
            },
            "stages_share": self.stages_share(),
            "peak_rss_bytes": self.peak_rss,
            "machine": self.machine,
            "hdr_histogram_ns": encoded_histogram(self.samples.latency.tolist()),
            "samples_ns": self.samples.columns(),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Measurement:
        """The inverse of `to_dict`; figures are made again from the samples."""
        return cls(
            load=document["load"],
            inflight=document["inflight"],
            rate_hz=document["rate_hz"],
            deadline_ms=document["deadline_ms"],
            samples=Samples.from_columns(document["samples_ns"]),
            machine=document["machine"],
            peak_rss=document["peak_rss_bytes"],
        )
