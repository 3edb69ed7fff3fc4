"""The live display: a bar per load on stderr with the latencies of the last seconds."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agp_edge.bench.samples import Recorder

__all__ = ["live_display"]

# Twice a second is live enough; each time costs the interpreter some 0.1 ms.
INTERVAL_S = 0.5
LAST_FRAMES = 500


@contextmanager
def live_display(name: str, duration_s: float, recorder: Recorder) -> Iterator[None]:
    """Shows how far a load is and what the last 500 frames took."""
    stop = threading.Event()

    def show() -> None:
        begun = time.monotonic()
        with tqdm(total=round(duration_s, 1), desc=name, unit="s", leave=False) as bar:
            while not stop.wait(INTERVAL_S):
                bar.n = min(round(time.monotonic() - begun, 1), bar.total)
                last = recorder.tail(LAST_FRAMES)
                if last:
                    ms = np.array([end - due for due, end in last]) / 1e6
                    p50, p99 = np.percentile(ms, (50, 99))
                    bar.set_postfix_str(
                        f"{len(recorder)} frames, last: p50 {p50:.2f} p99 {p99:.2f} "
                        f"max {ms.max():.2f} ms",
                        refresh=False,
                    )
                bar.refresh()

    thread = threading.Thread(target=show, name="bench-display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
