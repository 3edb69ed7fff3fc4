"""Files that are either whole or absent: written aside, synced, renamed."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["remove_leftovers", "write_aside"]


@contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`; at the end it takes the final name, synced to the disk.

    The file appears under its final name complete or not at all, even if the process is killed;
    an older file of that name stays until then. An exception inside the block removes the
    temporary file and leaves `path` as it was.

        with write_aside("model.onnx") as aside:
            aside.write_bytes(model)

    The folder is created where it is missing. The temporary name keeps the suffix of `path`, so
    that writers which choose a format by it work.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{final.stem}-", suffix=f".tmp{final.suffix}", dir=final.parent
    )
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        # mkstemp and some writers make private files; this one is like any other new file
        aside.chmod(0o666 & ~_umask())
        _sync(aside)
        aside.replace(final)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    _sync_folder(final.parent)


def remove_leftovers(folder: str | os.PathLike[str], *, older_than: float = 0.0) -> None:
    """Removes what killed processes left of `write_aside` in `folder`; a missing folder is fine.

    Args:
        folder: nobody else may be writing in it, unless `older_than` tells their files apart.
        older_than: seconds since the last write.
    """
    for path in Path(folder).glob(".*-*.tmp*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # makes the rename itself durable; Windows cannot open a folder, and does not need it
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
