"""The document in a site file (docs/site_file.md): its settings, each of them checked."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agp_edge.errors import ModelError
from agp_edge.manifest import CalibrationTail

__all__ = ["SITE_VERSION", "Polygon", "Roi", "Site", "parse_site"]

SITE_VERSION = "1.1"

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
