"""Puts a threshold where the line reads it: the model's site file, or an ONNX file's manifest."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from agp_edge import _core
from agp_edge.calibration.graph.model_digest import copy_without_manifest, graph_sha256
from agp_edge.engines import is_plan
from agp_edge.errors import ModelError
from agp_edge.files import write_aside
from agp_edge.manifest import (
    MANIFEST_KEY,
    MANIFEST_LIMIT,
    MANIFEST_VERSION,
    CalibrationTail,
    ThresholdSpec,
    read_manifest,
)
from agp_edge.site import file_sha256, read_site, site_path, write_site
from agp_edge.site_document import Site

__all__ = ["write_manifest_threshold", "write_site_threshold", "writes_to_site"]

# What a build adds to a manifest: the precision read back, compute capabilities, versions.
_RESERVE = 400


def writes_to_site(model: str | os.PathLike[str]) -> bool:
    """Whether the threshold belongs into the site file: for a plan, and where one lies there.

    A plan cannot be written into, and a site file counts more than the manifest.
    """
    return is_plan(os.fspath(model)) or site_path(model).exists()


def write_site_threshold(model: str | os.PathLike[str], spec: ThresholdSpec) -> Path:
    """Sets threshold, record and tail in the site file; the model's bytes stay as they are.

    What else the file says stays; a signature does not, since it covered the old threshold.

    Returns:
        The site file.

    Raises:
        ModelError: the file that is there is invalid or of another model.
    """
    site = read_site(model) or Site(model_sha256=file_sha256(model))
    return write_site(
        model,
        replace(
            site,
            threshold=spec.value,
            mask_threshold=spec.mask_value,
            threshold_record=spec.record(),
            calibration_tail=spec.tail,
            signature=None,
        ),
    )


def write_manifest_threshold(
    model: str | os.PathLike[str], spec: ThresholdSpec
) -> tuple[ThresholdSpec, Path]:
    """Sets the threshold in an ONNX file's manifest; every other byte stays, in its order.

    The file is written aside and renamed. The tail is cut to what a plan's manifest can hold.

    Returns:
        The threshold as it was written, and the file.

    Raises:
        ModelError: not an ONNX file of ours.
    """
    document = read_manifest(model)
    document["agp_edge_manifest"] = max(
        document["agp_edge_manifest"], MANIFEST_VERSION, key=_version
    )
    text, written = _fitting(document, spec)
    _core.check_manifest_json(text, os.fspath(model))
    before = graph_sha256(model)
    with write_aside(model) as aside:
        copy_without_manifest(model, aside)
        with aside.open("ab") as file:
            file.write(_metadata_entry(MANIFEST_KEY, text))
        # read back as any reader will: same graph, and the manifest that was meant
        if graph_sha256(aside) != before or _core.read_manifest_json(str(aside)) != text:
            raise ModelError(
                f"the copy of '{os.fspath(model)}' with the new threshold differs in more than "
                "that: nothing was written, export the model again"
            )
    return written, Path(model)


def _fitting(document: dict[str, Any], spec: ThresholdSpec) -> tuple[str, ThresholdSpec]:
    """The manifest's text, with as much of the tail as leaves room for a build's own keys."""
    while True:
        document["threshold"] = spec.to_dict()
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        too_long = len(text.encode()) - (MANIFEST_LIMIT - _RESERVE)
        if too_long <= 0 or spec.tail is None:
            return text, spec
        # a score takes at most 26 bytes
        kept = spec.tail.scores[max(1, too_long // 26) :]
        tail = CalibrationTail(n=spec.tail.n, scores=kept) if kept else None
        spec = dataclasses.replace(spec, tail=tail)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _metadata_entry(key: str, value: str) -> bytes:
    """Field 14 of onnx.proto's ModelProto: a StringStringEntryProto (key 1, value 2)."""
    entry = _text_field(1, key) + _text_field(2, value)
    return _varint(14 << 3 | 2) + _varint(len(entry)) + entry


def _text_field(number: int, text: str) -> bytes:
    content = text.encode()
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
