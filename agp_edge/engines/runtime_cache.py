"""TensorRT for RTX's runtime cache: the kernels that it compiled for this GPU, for the next start.

A plan of TensorRT for RTX holds no machine code for the GPU: the runtime compiles it when the plan
is opened. What it compiled is kept beside the plan cache and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.files import write_aside
from agp_edge.plan.cache import cache_folder

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["RuntimeCache", "cache_path", "context_with_cache"]

LOG = logging.getLogger("agp_edge.engines.runtime_cache")
LOG.addHandler(logging.NullHandler())

# Before the cache's own bytes: this, and their SHA-256. A damaged file never reaches TensorRT.
MAGIC = b"agp_edge runtime cache 1\n"
DIGEST_BYTES = 32


class RuntimeCache:
    """The cache of one opened plan and its file; nothing that goes wrong here costs the engine."""

    def __init__(self, cache: Any, path: Path, stored: bytes) -> None:
        self._cache = cache  # the context works with it: kept as long as the engine
        self._path = path
        self._stored = stored

    def save(self) -> None:
        """Write what is not in the file yet; a file that cannot be written is logged."""
        try:
            memory = self._cache.serialize()
            if memory is None:
                LOG.warning("TensorRT for RTX gave no runtime cache to keep as '%s'", self._path)
                return
            content = bytes(memoryview(memory))
            if content == self._stored:
                return
            with write_aside(self._path) as aside:
                aside.write_bytes(MAGIC + hashlib.sha256(content).digest() + content)
            self._stored = content
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            LOG.warning(
                "the runtime cache '%s' cannot be kept (%s): the next start compiles again; make "
                "the folder writable, or set AGP_EDGE_CACHE to another one",
                self._path,
                error,
            )


def context_with_cache(
    trt: Any, engine: Any, plan: Buffer, *, gpu: str
) -> tuple[Any, RuntimeCache | None]:
    """An execution context whose kernels come from the cache as far as they are there.

    Args:
        trt: the bindings' module.
        engine: TensorRT's.
        plan: the bytes that it was loaded from.
        gpu: what it runs on, for the file's name.

    Returns:
        The context, None where TensorRT gives none; and its cache, None where this TensorRT has no
        such thing or does not get along with it.
    """
    if not hasattr(trt, "IRuntimeCache"):
        return engine.create_execution_context(), None
    path = cache_path(plan, version=trt.__version__, gpu=gpu)
    stored = _read(path)
    try:
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if stored and not cache.deserialize(stored):
            LOG.info("the runtime cache '%s' does not fit any more: compiling again", path)
            stored = b""
        context = (
            engine.create_execution_context(runtime_config=config)
            if config.set_runtime_cache(cache)
            else None
        )
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # null, or another API
        LOG.warning("the runtime cache '%s' cannot be used (%s)", path, error)
        context = None
    if context is None:
        return engine.create_execution_context(), None
    kept = RuntimeCache(cache, path, stored)
    kept.save()
    return context, kept


def cache_path(plan: Buffer, *, version: str, gpu: str) -> Path:
    """The file of a plan's cache: named by its bytes, TensorRT's version and the GPU.

    The driver is left out: TensorRT compares it, and a newer one may use an older one's kernels.
    """
    key = hashlib.sha256(hashlib.sha256(plan).digest() + f"{version}\n{gpu}".encode())
    return cache_folder() / f"{key.hexdigest()[:32]}.runtime"


def _read(path: Path) -> bytes:
    try:
        file = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        LOG.warning("the runtime cache '%s' cannot be read (%s)", path, error.strerror)
        return b""
    content = file[len(MAGIC) + DIGEST_BYTES :]
    if file != MAGIC + hashlib.sha256(content).digest() + content:
        LOG.warning("the runtime cache '%s' is damaged: compiling again", path)
        return b""
    return content
