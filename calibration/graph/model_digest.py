"""Which model gave a score: a digest that a new threshold in the file does not change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["copy_without_manifest", "graph_sha256"]

_BLOCK = 1 << 20


def graph_sha256(model: str | os.PathLike[str]) -> str:
    """64 hex digits over an ONNX file without its manifest entry, or over a whole plan.

    Raises:
        ModelError: not a model of ours.
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    for block in _without_manifest(model):
        digest.update(block)
    return digest.hexdigest()


def copy_without_manifest(model: str | os.PathLike[str], target: Path) -> None:
    """Writes what `graph_sha256` reads, byte for byte.

    Raises:
        ModelError: not a model of ours.
        OSError: a file cannot be read or written.
    """
    with target.open("wb") as file:
        for block in _without_manifest(model):
            file.write(block)


def _without_manifest(model: str | os.PathLike[str]) -> Iterator[bytes]:
    begin, end = _core.manifest_extent(os.fspath(model))
    with Path(model).open("rb") as file:
        left = begin
        while block := file.read(min(_BLOCK, left)):
            left -= len(block)
            yield block
        file.seek(end)
        while block := file.read(_BLOCK):
            yield block
