"""ONNX files whose weights lie in other files: found without loading them, and refused.

A hash of such a file, as in a site file or the plan cache, does not change when its weights do.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from agp_edge.errors import ModelError

__all__ = ["refuse_external_data"]

# How a tensor names the file with its values (onnx.proto): a StringStringEntryProto whose key is
# "location", in the field external_data = 13 of TensorProto.
_KEY = b"\x0a\x08location\x12"
_FIELD = 13 << 3 | 2
_LONGEST_LENGTH = 5  # bytes of a varint that counts a protobuf's bytes


def refuse_external_data(path: str | os.PathLike[str]) -> None:
    """Refuses an ONNX file some of whose weights lie in another file.

    Args:
        path: an ONNX file; a plan holds its weights and passes.

    Raises:
        ModelError: it names another file, or cannot be read.
    """
    try:
        with (
            Path(path).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            location = _location(content)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(f"the model '{os.fspath(path)}' cannot be read ({error})") from error
    if location is not None:
        name = os.fspath(path)
        raise ModelError(
            f"'{name}' keeps weights in another file, '{location}', which no hash of the model "
            "covers: one file with everything in it is expected; make it with "
            f"`onnx.save_model(onnx.load('{name}'), 'single.onnx')`"
        )


def _location(content: mmap.mmap) -> str | None:
    """The first other file that a tensor names."""
    start = content.find(_KEY)
    while start >= 0:
        if _is_external_data(content[max(0, start - 1 - _LONGEST_LENGTH) : start]):
            begin, length = start + len(_KEY), 0
            for shift in range(0, 7 * _LONGEST_LENGTH, 7):
                byte = content[begin : begin + 1] or b"\0"
                begin += 1
                length |= (byte[0] & 0x7F) << shift
                if byte[0] < 0x80:
                    break
            return content[begin : begin + length].decode(errors="replace")
        start = content.find(_KEY, start + 1)
    return None


def _is_external_data(before: bytes) -> bool:
    """Whether tag and length of that field stand right before: metadata may have such a key too."""
    length = 1
    while length < len(before) - 1 and before[-length - 1] >= 0x80:
        length += 1
    return len(before) > length and before[-length - 1] == _FIELD
