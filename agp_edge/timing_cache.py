"""TensorRT's timing cache: what the builder measured on this GPU, kept for the next build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agp_edge.errors import ModelError
from agp_edge.files import write_aside

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_timing_cache", "save_timing_cache"]


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the builder what an earlier build measured; an empty cache where there is none.

    A cache of another GPU or TensorRT, or a corrupt one, is ignored and replaced: it only costs
    the time of measuring again.

    Args:
        config: TensorRT's builder configuration.
        path: the cache; need not exist.

    Raises:
        ModelError: the file exists and cannot be read.
    """
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ModelError(f"the timing cache '{path}' cannot be read ({error.strerror})") from error
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what the builder knows now; the file is whole or as it was."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with write_aside(path) as aside:
        aside.write_bytes(memoryview(cache.serialize()))
