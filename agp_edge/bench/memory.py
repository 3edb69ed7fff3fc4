"""High-water marks of memory."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["peak_rss", "reset_peak_rss"]


def peak_rss() -> int | None:
    """Largest resident set of this process since the last reset, bytes; None off Linux."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def reset_peak_rss() -> None:
    """Begin a new high-water mark, where the kernel allows it (proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
