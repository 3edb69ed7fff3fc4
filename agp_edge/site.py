"""The site file: what may change on the line without building the model again (docs/site_file.md).

`engine.plan.json` beside `engine.plan` (or `model.onnx.json` beside `model.onnx`). It names the
model's SHA-256, so that a model that was changed or swapped is refused before any engine reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import ModelError
from agp_edge.files import write_aside
from agp_edge.manifest import CalibrationTail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "SITE_VERSION",
    "CalibrationTail",
    "Site",
    "file_sha256",
    "overrides",
    "parse_site",
    "read_approved",
    "read_site",
    "settings_for",
    "site_path",
    "write_site",
]

SITE_VERSION = "1.1"
# A tail of a million scores takes 20 MB; more is not a site file.
SIZE_LIMIT = 64 << 20

# Of "threshold_record": the types of each key, and whether it may be missing.
_NUMBER = (int, float)
_RECORD: dict[str, tuple[tuple[type, ...], bool]] = {
    "method": ((str,), False),
    "false_reject": (_NUMBER, False),
    "n": (_NUMBER, False),
    "unit": ((str,), False),
    "target": (_NUMBER, True),
    "confidence": (_NUMBER, True),
    "recall": (_NUMBER, True),
    "mask_target": (_NUMBER, True),
    "images": (_NUMBER, True),
    "images_sha256": ((str,), True),
    "scored_by": ((str,), True),
    "created": ((str,), True),
}

Roi = tuple[int, int, int, int]
Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The settings of one line for one model file; None and empty: as the model says."""

    model_sha256: str
    """64 hex digits."""

    threshold: float | None = None
    mask_threshold: float | None = None
    """None: `threshold`, where that is set."""

    threshold_record: dict[str, Any] | None = None
    """How the threshold was found: the manifest's `threshold` without its numbers."""

    calibration_tail: CalibrationTail | None = None
    rois: tuple[Roi, ...] = ()
    """x, y, width, height in frame pixels; one at most in this version."""

    dont_care: tuple[Polygon, ...] = ()
    """Corners (x, y) in frame pixels: what lies inside has no say in the verdict."""

    min_area: int | None = None
    """Anomaly-map pixels."""

    mm_per_pixel: float | None = None
    """Side of a frame pixel on the part, millimetres."""

    signature: str | None = field(default=None)
    """Ed25519 over `signed_bytes`, base64."""

    def to_dict(self) -> dict[str, Any]:
        """The document, version first, without the keys that are not set.

        The version is the oldest that knows these keys: what is older refuses the file.
        """
        values = {
            key: value for key, value in asdict(self).items() if value is not None and value != ()
        }
        version = "1.0" if self.threshold_record is None else SITE_VERSION
        return {"agp_edge_site": version, **values}

    def signed_bytes(self) -> bytes:
        """What a signature covers: the document without it, keys sorted, no white space, ASCII."""
        document = replace(self, signature=None).to_dict()
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


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


def parse_site(text: str, source: str, *, default_sha256: str | None = None) -> Site:
    """The settings in a document, each of them checked.

    Args:
        text: JSON.
        source: its file, for messages.
        default_sha256: of a document that has none; None: it has to have one.

    Raises:
        ModelError: names the key and what was expected.
    """
    reader = _Reader(source)
    document = reader.document(text)
    reader.version(document.pop("agp_edge_site", None))
    known = {
        "model_sha256": reader.sha256,
        "threshold": reader.number,
        "mask_threshold": reader.number,
        "threshold_record": reader.record,
        "calibration_tail": reader.tail,
        "rois": reader.rois,
        "dont_care": reader.polygons,
        "min_area": reader.count,
        "mm_per_pixel": reader.positive,
        "signature": reader.text,
    }
    values: dict[str, Any] = {} if default_sha256 is None else {"model_sha256": default_sha256}
    for key, value in document.items():
        if key not in known:
            raise reader.error(
                f"has the unknown key '{key}', expected are {', '.join(known)}: correct or "
                "remove it"
            )
        values[key] = known[key](key, value)
    if "model_sha256" not in values:
        raise reader.error("lacks the key 'model_sha256': run `agp-edge sign` on the model")
    return Site(**values)


class _Reader:
    """Checks one value at a time; every refusal names file and key."""

    def __init__(self, source: str) -> None:
        self._source = source

    def error(self, what: str) -> ModelError:
        return ModelError(f"the site file '{self._source}' {what}")

    def wrong(self, key: str, value: object, expected: str) -> ModelError:
        shown = json.dumps(value)
        shown = shown if len(shown) < 80 else shown[:77] + "..."
        return self.error(f"says {shown} for '{key}': expected {expected}")

    def document(self, text: str) -> dict[str, Any]:
        def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
            unique = dict(items)
            if len(unique) != len(items):
                keys = [key for key, _ in items]
                twice = next(key for key in keys if keys.count(key) > 1)
                raise self.error(f"has the key '{twice}' twice: remove one")
            return unique

        def constant(name: str) -> float:
            raise self.error(f"holds {name}, which is no JSON number: write a finite one")

        try:
            document = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        except (ValueError, RecursionError) as error:
            raise self.error(f"is not valid JSON ({error}): correct it") from error
        if not isinstance(document, dict):
            raise self.error("is not a JSON object: expected keys and values in braces")
        return document

    def version(self, value: object) -> None:
        match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", value) if isinstance(value, str) else None
        if match is None:
            raise self.error(f'has no version: expected the key "agp_edge_site": "{SITE_VERSION}"')
        # a newer minor may hold what changes verdicts, so that it cannot be passed over
        if (int(match[1]), int(match[2])) > tuple(map(int, SITE_VERSION.split("."))):
            raise self.error(
                f"is of version {value}, this agp-edge reads up to {SITE_VERSION}: install a newer "
                "agp-edge"
            )

    def number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, value, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong(key, str(value)[:40], "a finite number")
        return number

    def positive(self, key: str, value: object) -> float:
        number = self.number(key, value)
        if number <= 0:
            raise self.wrong(key, value, "a number above 0")
        return number

    def count(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self.wrong(key, value, "a whole number, 0 or more")
        return value

    def text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong(key, value, "a string")
        return value

    def sha256(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise self.wrong(key, value, "64 hex digits in lower case")
        return value

    def items(self, key: str, value: object, expected: str) -> list[Any]:
        if not isinstance(value, list):
            raise self.wrong(key, value, expected)
        return value

    def rois(self, key: str, value: object) -> tuple[Roi, ...]:
        expected = "a list with one [x, y, width, height] in frame pixels"
        found = self.items(key, value, expected)
        for roi in found:
            whole = [
                number
                for number in self.items(key, roi, expected)
                if isinstance(number, int) and not isinstance(number, bool) and number < 2**31
            ]
            if len(whole) != 4 or len(roi) != 4 or min(whole) < 0 or min(whole[2:]) < 1:
                raise self.wrong(key, roi, expected)
        if len(found) > 1:
            raise self.error(
                f"has {len(found)} entries in '{key}', and this version looks at one region of "
                "interest per detector: copy the model once per region, with a site file each"
            )
        return tuple((roi[0], roi[1], roi[2], roi[3]) for roi in found)

    def polygons(self, key: str, value: object) -> tuple[Polygon, ...]:
        expected = "a list of polygons, each of three or more [x, y] in frame pixels"
        polygons = []
        for outline in self.items(key, value, expected):
            corners = []
            for corner in self.items(key, outline, expected):
                if len(self.items(key, corner, expected)) != 2:
                    raise self.wrong(key, corner, "[x, y] for each corner")
                corners.append((self.number(key, corner[0]), self.number(key, corner[1])))
            if len(corners) < 3:
                raise self.wrong(key, outline, "three or more corners in a polygon")
            polygons.append(tuple(corners))
        return tuple(polygons)

    def record(self, key: str, value: object) -> dict[str, Any]:
        expected = "an object that `agp-edge threshold` wrote"
        if not isinstance(value, dict):
            raise self.wrong(key, value, expected)
        for name, (kinds, optional) in _RECORD.items():
            inner = value.get(name)
            if inner is None and optional:
                continue
            if isinstance(inner, bool) or not isinstance(inner, kinds):
                raise self.wrong(f"{key}.{name}", inner, "a number" if float in kinds else "text")
        unknown = sorted(set(value) - set(_RECORD))
        if unknown:
            raise self.wrong(key, unknown, f"only the keys {', '.join(_RECORD)}")
        return value

    def tail(self, key: str, value: object) -> CalibrationTail:
        expected = '{"n": good parts in all, "scores": [the largest of their scores]}'
        if not isinstance(value, dict) or set(value) != {"n", "scores"}:
            raise self.wrong(key, value, expected)
        count = self.count(f"{key}.n", value["n"])
        listed = self.items(f"{key}.scores", value["scores"], "a list of numbers")
        scores = tuple(sorted(self.number(f"{key}.scores", score) for score in listed))
        if not 1 <= len(scores) <= count:
            raise self.error(
                f"has {len(scores)} scores in '{key}' for n = {count} parts: expected 1 to n"
            )
        return CalibrationTail(n=count, scores=scores)


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
