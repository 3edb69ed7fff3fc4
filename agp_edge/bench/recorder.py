"""Latencies as an HdrHistogram: every order of magnitude to three digits, in a few kilobytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agp_edge.dependencies import require

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["encoded_histogram"]

# Nanoseconds; an hour is longer than any load here lasts, so nothing is clipped.
HIGHEST = 3_600_000_000_000
DIGITS = 3


def encoded_histogram(latency_ns: Iterable[int]) -> str:
    """The histogram in the format of the HdrHistogram family (V2, compressed, base64).

    Any of its tools reads it: `HdrHistogram.decode(text)`.

    Args:
        latency_ns: at most an hour each.

    Raises:
        DependencyError: hdrhistogram is not installed.
    """
    histogram = require("hdrh.histogram", extra="bench").HdrHistogram(1, HIGHEST, DIGITS)
    for value in latency_ns:
        # a value that does not fit would be dropped without a word
        if not histogram.record_value(max(1, int(value))):
            raise OverflowError(f"a latency of {value} ns does not fit the histogram")
    return str(histogram.encode().decode("ascii"))
