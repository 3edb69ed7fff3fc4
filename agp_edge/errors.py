"""The error tree; C++ throws the same names (cpp/include/agp_edge/error.hpp).

agp_edge.Error
├── ModelError       file is not a model of ours, corrupt, wrong version, wrong GPU, bad output
├── FrameError       shape, dtype, pixel format, region of interest of a frame
├── DeviceError      no GPU, CUDA failure, out of memory
├── DataError        data set layout, unreadable image: the file is named
├── DependencyError  a package or library that this call needs is not installed
└── BusyError        as many frames are in flight as may be; also a TimeoutError

Every message is one sentence: which thing, what was given, what was expected, what to do.
"""

from __future__ import annotations

__all__ = [
    "BusyError",
    "DataError",
    "DependencyError",
    "DeviceError",
    "Error",
    "FrameError",
    "ModelError",
]


class Error(Exception):
    """Root of everything that agp_edge raises on purpose."""


class ModelError(Error):
    """The file is no model of ours, is corrupt, of a wrong version or GPU, or answers nonsense."""


class FrameError(Error):
    """The frame has a wrong shape, dtype, pixel format or region of interest."""


class DeviceError(Error):
    """No GPU, a CUDA failure, or device memory is exhausted."""


class DataError(Error):
    """A data set's layout or an image file is not what was expected; the file is named."""


class DependencyError(Error):
    """A package or library that this call needs is missing; the message says how to install it."""


class BusyError(Error, TimeoutError):
    """As many frames are in flight as may be, and none was answered in time."""
