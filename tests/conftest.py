"""SIGINT works in every test; those marked `gpu` run where the CUDA driver finds a GPU."""

from __future__ import annotations

import os
import signal

import pytest

from agp_edge.errors import DeviceError
from agp_edge.gpu import find_gpus


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that: programs that
    # tests interrupt would go on for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("AGP_EDGE_REQUIRE_GPU") == "1":
        return
    try:
        find_gpus()
    except DeviceError as error:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))
