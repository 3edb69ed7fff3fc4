"""What is wrong with a data set and what to do: facts -> findings, the most important first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agp_edge.calibration.decision.conformal import parts_needed
from agp_edge.dataset import GOOD

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from pathlib import Path

    from agp_edge.data_check.layout import Layout
    from agp_edge.data_check.scan import Facts

__all__ = ["LEVELS", "Finding", "image_findings", "layout_findings", "promise_finding"]

# error: a figure from this data set cannot be trusted.
LEVELS = ("error", "warning", "note")

# Robust standard deviations from the median; 5 is one of 3.5 million if the values were normal.
_OUTLIER = 5.0
# Less than that is no outlier however alike the others are: a synthetic set has no spread at all.
_LEAST_BRIGHTNESS = 16.0  # grey levels
_LEAST_SHARPNESS = 1.0  # powers of two
_LEAST_CLIPPED = 0.2  # share of pixels
# Below that many images, median and deviation say little.
_ENOUGH = 10


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with the images that show it."""

    kind: str  # stable, for programs: "leak", "duplicates", ...
    level: str  # one of LEVELS
    title: str  # what is wrong, with the number
    advice: str  # what to do
    groups: tuple[
        tuple[str, ...], ...
    ] = ()  # names from the root; those of a group belong together


def layout_findings(layout: Layout) -> list[Finding]:
    """Odd folders, parts.csv that cannot be used, masks without image and images without mask."""

    def names(paths: Iterable[Path]) -> tuple[tuple[str, ...], ...]:
        return tuple((layout.name(path),) for path in paths)

    found = []
    if layout.parts_error is not None:
        found.append(
            Finding("parts-file", "error", f"parts.csv cannot be used: {layout.parts_error}",
                    "mend it, or propose one anew with --write-parts")
        )  # fmt: skip
    if layout.good_names:
        found.append(
            Finding(
                "labels",
                "error",
                f"{len(layout.good_names)} folders sound like good images and count as defects or "
                "not at all",
                f"the folder of good images is called '{GOOD}': rename them",
                names(layout.good_names),
            )
        )
    if layout.test and not layout.train:
        found.append(
            Finding("sides", "note", "there are no training images", "expected train/good")
        )
    labels = {sample.label for sample in layout.test}
    if layout.test and len({label == GOOD for label in labels}) < 2:
        missing = "defective" if labels == {GOOD} else GOOD
        found.append(
            Finding("sides", "warning", f"the test folder holds no {missing} images",
                    "AUROC and the like need both; photograph some")
        )  # fmt: skip
    if layout.missing_masks:
        found.append(
            Finding(
                "masks-missing",
                "error",
                f"{len(layout.missing_masks)} defective images lack the mask that their neighbours "
                "have",
                "draw them as ground_truth/TYPE/NAME_mask.png; training and evaluation stop at it",
                names(layout.missing_masks),
            )
        )
    if layout.unmasked_types:
        types = ", ".join(layout.unmasked_types)
        found.append(
            Finding("masks-types", "note", f"no image of {types} has a mask",
                    "pixel figures leave these types out")
        )  # fmt: skip
    if layout.good_masks:
        found.append(
            Finding(
                "masks-on-good",
                "error",
                f"{len(layout.good_masks)} good test images have a mask",
                "a mask marks a defect: move the image to its defect type, or delete the mask",
                names(layout.good_masks),
            )
        )
    if layout.orphaned_masks:
        found.append(
            Finding(
                "masks-orphaned",
                "warning",
                f"{len(layout.orphaned_masks)} masks belong to no image",
                "delete them, or name them after their image",
                names(layout.orphaned_masks),
            )
        )
    if layout.ignored:
        found.append(
            Finding(
                "ignored",
                "warning",
                f"{len(layout.ignored)} files or folders are read by nothing",
                "images belong into train/good and test/TYPE, or directly into a plain folder",
                names(layout.ignored),
            )
        )
    return found


def image_findings(facts: Sequence[Facts], name: Callable[[Facts], str]) -> list[Finding]:
    """Unreadable files, masks that do not fit, sizes, channels, and outliers among the images."""
    found = []

    def add(kind: str, level: str, title: str, advice: str, chosen: Iterable[Facts]) -> None:
        groups = tuple((name(fact),) for fact in chosen)
        if groups:
            found.append(Finding(kind, level, f"{len(groups)} {title}", advice, groups))

    add(
        "unreadable", "error", "images are unreadable",
        "remove them or copy them again; training stops at them",
        (fact for fact in facts if fact.error is not None),
    )  # fmt: skip
    fine = [fact for fact in facts if fact.error is None]
    add(
        "masks-unfit", "error", "masks do not fit: unreadable, of another size, or without 255",
        "draw them on the image as stored, 255 where the defect is",
        (fact for fact in fine if fact.mask_error is not None),
    )  # fmt: skip
    add(
        "masks-empty", "warning", "masks are empty",
        "the image counts as defective and its pixels as good: draw the defect, or check the label",
        (fact for fact in fine if fact.mask_share == 0.0),
    )  # fmt: skip
    found += _mixed("channels", "warning", fine, lambda f: f.channels, name,
                    lambda c: "grey" if c == 1 else "colour",
                    "a line's camera gives one kind: convert the others")  # fmt: skip
    found += _mixed("sizes", "note", fine, lambda f: (f.width, f.height), name,
                    lambda s: f"{s[0]}x{s[1]}",
                    "all are squashed to the network's input; cut parts out alike if they are of "
                    "one size")  # fmt: skip
    if len(fine) < _ENOUGH:
        return found
    brightness = np.array([fact.brightness for fact in fine])
    add(
        "brightness", "warning", "images are far darker or brighter than the rest",
        "a lamp or an exposure was off: leave them out unless the line will see the like",
        _chosen(fine, np.abs(_deviation(brightness, _LEAST_BRIGHTNESS)) > 1),
    )  # fmt: skip
    clipped = np.array([fact.clipped for fact in fine])
    add(
        "clipped", "warning", "images are clipped to black or white far more than the rest",
        "nothing can be seen there: correct the exposure",
        _chosen(fine, clipped > np.median(clipped) + _LEAST_CLIPPED),
    )  # fmt: skip
    sharpness = np.array([fact.sharpness for fact in fine])
    add(
        "blurred", "warning", "images are far less sharp than the rest",
        "out of focus or in motion: leave them out unless the line will see the like",
        _chosen(fine, _deviation(sharpness, _LEAST_SHARPNESS) < -1),
    )  # fmt: skip
    return found


def promise_finding(
    parts: int, hold_out: float, false_reject: float, confidence: float | None, *, asked: bool
) -> Finding | None:
    """Whether the good parts bear the promise on false rejects; None: they do.

    Args:
        parts: independent good parts for training.
        hold_out: share of them that training keeps for the threshold.
        false_reject: share of good parts that may be rejected, in (0, 1).
        confidence: as `parts_needed` takes it.
        asked: whether the user asked for that promise; if not, it is only a warning.
    """
    needed = parts_needed(false_reject, confidence)
    held = min(max(round(hold_out * parts), 1), parts - 1)
    if held >= needed:
        return None
    sure = "on average" if confidence is None else f"with a confidence of {confidence:g}"
    total = int(np.ceil(needed / hold_out - 1e-9))
    return Finding(
        "promise",
        "error" if asked else "warning",
        f"{parts} good parts are too few to promise {100 * false_reject:g} % false rejects {sure}: "
        f"{needed} must be held out, {max(held, 0)} are",
        f"photograph {total} good parts in all (training holds {100 * hold_out:g} % out), or ask "
        "for a larger rate",
    )


def _mixed(  # noqa: PLR0917  (a row of a table)
    kind: str,
    level: str,
    facts: Sequence[Facts],
    value: Callable[[Facts], Hashable],
    name: Callable[[Facts], str],
    text: Callable[..., str],
    advice: str,
) -> list[Finding]:
    by_value: dict[Hashable, list[Facts]] = defaultdict(list)
    for fact in facts:
        by_value[value(fact)].append(fact)
    if len(by_value) < 2:
        return []
    ranked = sorted(by_value.items(), key=lambda item: -len(item[1]))
    shown = ", ".join(f"{len(items)} {text(key)}" for key, items in ranked[:3])
    more = f" and {len(ranked) - 3} more" if ranked[3:] else ""
    others = tuple((name(fact),) for _, items in ranked[1:] for fact in items)
    return [Finding(kind, level, f"images differ in {kind}: {shown}{more}", advice, others)]


def _deviation(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], least: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Distance from the median in units of what counts as an outlier."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))  # of a normal law, its deviation
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = (values - middle) / max(
        _OUTLIER * float(spread), least
    )
    return result


def _chosen(facts: Sequence[Facts], mask: Iterable[bool]) -> list[Facts]:
    return [fact for fact, chosen in zip(facts, mask, strict=True) if chosen]
