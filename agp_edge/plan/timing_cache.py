"""TensorRT's timing cache: what the builder measured on this GPU, kept for the next build."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.dependencies import require
from agp_edge.errors import DataError
from agp_edge.files import write_aside

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_timing_cache", "save_timing_cache"]

# Held while the file is read or written, never while a plan is compiled.
LOCK_SECONDS = 10.0


def load_timing_cache(config: Any, path: Path) -> bytes:
    """Give the builder what an earlier build measured; an empty cache where there is none.

    A cache of another GPU or TensorRT, or a corrupt one, is ignored and replaced: it only costs
    the time of measuring again.

    Args:
        config: TensorRT's builder configuration.
        path: the cache; need not exist.

    Returns:
        The file's content, empty where there was none.

    Raises:
        DataError: it cannot be read, or could not be written after the build.
        DependencyError: the package `filelock` is not installed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):  # a folder that cannot be written shows before minutes of work
            stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(
            f"the timing cache '{path}' cannot be used ({_reason(error)}): make the file readable "
            "and its folder writable, or choose another file"
        ) from error
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return stored


def save_timing_cache(config: Any, path: Path, loaded: bytes) -> str | None:
    """Write what the builder knows now; the file is whole or as it was.

    What another build wrote in the meantime is kept. Nothing is written where nothing is new.

    Args:
        config: TensorRT's builder configuration, after the build.
        path: the cache.
        loaded: what `load_timing_cache` returned.

    Returns:
        Why nothing could be written: the plan is built all the same. None: all is well.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return "TensorRT handed out no timing cache: nothing was kept for the next build"
    try:
        with _locked(path):
            stored = path.read_bytes() if path.exists() else b""
            if stored and stored != loaded:
                other = config.create_timing_cache(stored)
                if other is not None:  # False, and unchanged, where it is of another GPU or version
                    cache.combine(other, False)
            content = bytes(memoryview(cache.serialize()))
            if content != stored:
                with write_aside(path) as aside:
                    aside.write_bytes(content)
    except OSError as error:
        return (
            f"the timing cache '{path}' could not be written ({_reason(error)}): the next build "
            "measures again"
        )
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises TimeoutError, which is an OSError."""
    filelock = require("filelock", extra="cache")
    with filelock.FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        yield


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"another process has held its lock for {LOCK_SECONDS:g} s"
    return error.strerror or str(error)
