"""The site file: what may change on the line without building the model again (docs/site_file.md).

`engine.plan.json` beside `engine.plan` (or `model.onnx.json` beside `model.onnx`). It names the
model's SHA-256, so that a model that was changed or swapped is refused before any engine reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import ModelError
from agp_edge.files import write_aside
from agp_edge.site_document import Site, parse_site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "file_sha256",
    "overrides",
    "read_approved",
    "read_site",
    "settings_for",
    "site_path",
    "write_site",
]

# A tail of a million scores takes 20 MB; more is not a site file.
SIZE_LIMIT = 64 << 20


def site_path(model: str | os.PathLike[str]) -> Path:
    """Where the site file of a model lies: its path and ".json"."""
    return Path(f"{os.fspath(model)}.json")


def read_site(
    model: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Site | None:
    """The site file of a model, compared with the model's bytes; None where there is none.

    Args:
        model: an ONNX file or a plan; read once for its hash, by no engine.
        path: the site file; None: the one beside the model, if it exists.

    Raises:
        ModelError: the file is unreadable, not a valid site file, of a newer version, or made for
            another model file.
    """
    return _compared(model, path, file_sha256)


def read_approved(
    model: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> tuple[Site | None, bytes | None]:
    """The site file of a model, and the very bytes whose hash was compared; both None without one.

    To be loaded in place of the file, which may be another one by then.

    Args:
        model: as for `read_site`.
        path: as for `read_site`.

    Raises:
        ModelError: as `read_site`.
    """
    content = b""

    def digest(model: str | os.PathLike[str]) -> str:
        nonlocal content
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise _unreadable(model, error) from error
        return hashlib.sha256(content).hexdigest()

    site = _compared(model, path, digest)
    return site, None if site is None else content


def _compared(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str] | None,
    digest: Callable[[str | os.PathLike[str]], str],
) -> Site | None:
    file = site_path(model) if path is None else Path(path)
    if path is None and not file.exists():
        return None
    site = parse_site(_read_text(file), str(file))
    found = digest(model)
    if found != site.model_sha256:
        raise ModelError(
            f"'{os.fspath(model)}' is not the file that '{file}' was written for: its SHA-256 is "
            f"{found}, expected {site.model_sha256}; put the right model there, or run `agp-edge "
            "sign` if it was replaced on purpose"
        )
    return site


def settings_for(model: str | os.PathLike[str]) -> Site:
    """The settings in the site file beside a model, for the model as it is now; not signed.

    The file may be missing, lack its hash or hold that of an older model.

    Raises:
        ModelError: as `read_site`, but for the hash.
    """
    digest = file_sha256(model)
    file = site_path(model)
    if not file.exists():
        return Site(model_sha256=digest)
    site = parse_site(_read_text(file), str(file), default_sha256=digest)
    return replace(site, model_sha256=digest, signature=None)


def _read_text(file: Path) -> str:
    try:
        if file.stat().st_size > SIZE_LIMIT:
            raise ModelError(f"the site file '{file}' is larger than {SIZE_LIMIT >> 20} MiB")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the site file '{file}' cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"the site file '{file}' is not UTF-8: write it again") from error


def write_site(model: str | os.PathLike[str], site: Site) -> Path:
    """Write the site file beside a model; an older one stays until the new one is whole."""
    path = site_path(model)
    text = json.dumps(site.to_dict(), indent=2)
    parse_site(text, str(path))  # what cannot be read back must not be written
    with write_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    return path


def file_sha256(path: str | os.PathLike[str]) -> str:
    """64 hex digits.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def _unreadable(path: str | os.PathLike[str], error: OSError) -> ModelError:
    return ModelError(f"the model '{os.fspath(path)}' cannot be read ({error.strerror})")


def overrides(manifest: Mapping[str, Any], site: Site) -> list[tuple[str, str, str]]:
    """What a site file changes: name, its value, what stands in the manifest; for people."""
    threshold = manifest.get("threshold") or {}
    roi = manifest["input"].get("roi")
    rows = []
    if site.threshold is not None:
        rows.append(("threshold", f"{site.threshold:g}", _text(threshold.get("value"))))
    if site.mask_threshold is not None:
        own = threshold.get("mask_value") or threshold.get("value")
        rows.append(("mask threshold", f"{site.mask_threshold:g}", _text(own)))
    if site.rois:
        rows.append(("region of interest", _text(list(site.rois[0])), _text(roi)))
    if site.calibration_tail is not None:
        tail = site.calibration_tail
        own = threshold.get("tail")
        before = "none" if own is None else f"from {len(own['scores'])} of {own['n']}"
        rows.append(("p-values", f"from {len(tail.scores)} of {tail.n} good parts", before))
    if site.dont_care:
        rows.append(("don't-care areas", str(len(site.dont_care)), "none"))
    if site.min_area is not None:
        rows.append(("minimum area", f"{site.min_area} map pixels", "0 map pixels"))
    if site.mm_per_pixel is not None:
        rows.append(("mm per pixel", f"{site.mm_per_pixel:g}", "none"))
    return rows


def _text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
