"""The whole check: a folder -> layout, facts of each image, photos of the same part, findings."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from agp_edge.data_check.findings import (
    LEVELS,
    Finding,
    image_findings,
    layout_findings,
    promise_finding,
)
from agp_edge.data_check.layout import Layout, find_layout
from agp_edge.data_check.same_part import Pair, find_same_parts
from agp_edge.data_check.scan import Facts, scan
from agp_edge.dependencies import require
from agp_edge.files import write_aside
from agp_edge.trainer.config import TrainConfig

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

__all__ = ["DataCheck", "check_data"]


# Photos of monocrystalline cells, among which correlation finds the related ones, are alike by
# 0.81; drawn boards that differ in placement and noise only, where its pairs are false, by 0.92.
_NEARLY_EQUAL = 0.9


@dataclass(frozen=True)
class DataCheck:
    """What was found in a data set."""

    layout: Layout
    facts: tuple[Facts, ...]  # training images, then test images
    pairs: tuple[Pair, ...]  # photos of the same part; indices of `facts`; strongest first
    parts: tuple[str, ...]  # of each of `facts`: proposed, names are kept where parts.csv has one
    limit: float  # correlation from which a pair counts
    good_parts: int  # independent parts among the training images
    findings: tuple[Finding, ...]  # the most important first

    @property
    def is_trustworthy(self) -> bool:
        """Whether no finding makes the figures untrustworthy."""
        return all(finding.level != "error" for finding in self.findings)

    def name_of(self, index: int) -> str:
        """An image's path from the root."""
        return self.layout.name(self.facts[index].sample.path)

    def write_parts(self, path: str | os.PathLike[str]) -> None:
        """Writes the proposed parts.csv, aside and renamed."""
        with write_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "part"])
            writer.writerows((self.name_of(i), part) for i, part in enumerate(self.parts))

    def to_dict(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        return {
            "data": str(self.layout.root),
            "trustworthy": self.is_trustworthy,
            "images": {"train": len(self.layout.train), "test": len(self.layout.test)},
            "has_parts": self.layout.has_parts,
            "parts": len(set(self.parts)),
            "good_train_parts": self.good_parts,
            "correlation_limit": self.limit,
            "findings": [
                {
                    "kind": finding.kind,
                    "level": finding.level,
                    "title": finding.title,
                    "advice": finding.advice,
                    "groups": [list(group) for group in finding.groups],
                }
                for finding in self.findings
            ],
            "pairs": [
                {
                    "first": self.name_of(pair.first),
                    "second": self.name_of(pair.second),
                    "correlation": round(pair.correlation, 4),
                }
                for pair in self.pairs
            ],
            "files": [
                {
                    "file": self.name_of(index),
                    "label": fact.sample.label,
                    "part": part,
                    "error": fact.error,
                    "sha256": fact.digest,
                    "width": fact.width,
                    "height": fact.height,
                    "channels": fact.channels,
                    "brightness": round(fact.brightness, 2),
                    "clipped": round(fact.clipped, 4),
                    "sharpness": round(fact.sharpness, 3),
                    "mask_error": fact.mask_error,
                    "mask_share": fact.mask_share,
                }
                for index, (fact, part) in enumerate(zip(self.facts, self.parts, strict=True))
            ],
        }


def check_data(
    folder: str | os.PathLike[str],
    *,
    false_reject: float | None = None,
    confidence: float | None = None,
    progress: bool = False,
) -> DataCheck:
    """Looks at every image of a data set once.

    Args:
        folder: of good images, or in the MVTec-AD layout; with or without parts.csv.
        false_reject: share of good parts that the line may reject, in (0, 1); None: the default of
            training, of which too few parts are only a warning.
        confidence: of that promise, in (0, 1); None: on average.
        progress: whether to show bars.

    Raises:
        DataError: the folder is missing or holds no images.
        DependencyError: OpenCV or SciPy is not installed.
        ValueError: a number is out of range.
    """
    layout = find_layout(folder)
    shown = tqdm(layout.samples, desc="read", unit="image", disable=not progress)
    facts, patterns = scan(layout.samples, progress=lambda _: shown)
    # one photo for each file's bytes: a hundred copies would hide all other neighbours
    originals: dict[str, int] = {}
    for index, fact in enumerate(facts):
        if fact.error is None:
            originals.setdefault(fact.digest, index)
    kept = np.array(list(originals.values()), np.int64)
    same = find_same_parts(
        patterns[kept],
        progress=lambda blocks: tqdm(blocks, desc="compare", disable=not progress),
    )
    pairs = tuple(
        Pair(int(kept[pair.first]), int(kept[pair.second]), pair.correlation) for pair in same.pairs
    )
    copies = [
        (originals[fact.digest], index)
        for index, fact in enumerate(facts)
        if fact.error is None and originals[fact.digest] != index
    ]
    parts = _parts(facts, [*copies, *((pair.first, pair.second) for pair in pairs)])
    check = DataCheck(layout, tuple(facts), pairs, parts, same.limit, 0, ())
    good = range(len(layout.train))
    # a hand-made parts.csv is trusted for the count, a proposal where there is none
    names = [facts[i].sample.part or parts[i] for i in good if facts[i].error is None]
    good_parts = len(set(names))
    defaults = TrainConfig()
    promise = None
    if layout.train:
        promise = promise_finding(
            good_parts,
            defaults.hold_out,
            defaults.false_reject if false_reject is None else false_reject,
            confidence,
            asked=false_reject is not None,
        )
    findings = [
        *_leaks(check, copies, same.likeness),
        *_duplicates(check, copies),
        *image_findings(facts, lambda fact: layout.name(fact.sample.path)),
        *layout_findings(layout),
        *([] if promise is None else [promise]),
    ]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))  # stable
    return DataCheck(layout, tuple(facts), pairs, parts, same.limit, good_parts, tuple(findings))


def _parts(facts: Sequence[Facts], edges: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Names of the connected photos: by edges, and by what parts.csv says already."""
    links = list(edges)
    first_of: dict[str, int] = {}
    for index, fact in enumerate(facts):
        if fact.sample.part is not None:
            links.append((first_of.setdefault(fact.sample.part, index), index))
    ends = np.array(links, np.int64).reshape(-1, 2)
    graph = require("scipy.sparse").coo_matrix(
        (np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(facts), len(facts))
    )
    _, groups = require("scipy.sparse.csgraph").connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for fact, group in zip(facts, groups.tolist(), strict=True):
        if fact.sample.part is not None:
            names.setdefault(group, fact.sample.part)
    for group in groups.tolist():
        names.setdefault(group, f"part{len(names):05d}")
    return tuple(names[group] for group in groups.tolist())


def _duplicates(check: DataCheck, copies: Sequence[tuple[int, int]]) -> list[Finding]:
    by_original: dict[int, list[int]] = defaultdict(list)
    for original, copy in copies:
        by_original[original].append(copy)
    if not by_original:
        return []
    groups = [[original, *others] for original, others in by_original.items()]
    torn = [g for g in groups if len({check.facts[i].sample.label for i in g}) > 1]
    found = []
    if torn:
        found.append(
            Finding("duplicates-labels", "error",
                    f"{len(torn)} files lie under two labels, byte for byte",
                    "one of the labels is wrong: decide, and delete the other copy",
                    _named(check, torn))
        )  # fmt: skip
    count = sum(len(group) - 1 for group in groups)
    found.append(
        Finding("duplicates", "warning", f"{count} files are exact copies of others",
                "delete them: they add nothing and count as parts", _named(check, groups))
    )  # fmt: skip
    return found


def _leaks(check: DataCheck, copies: Sequence[tuple[int, int]], likeness: float) -> list[Finding]:
    """Photos of one part on both sides, and what parts.csv does not say.

    A parts.csv is somebody's word, which correlation can doubt and not overrule: what only
    correlation says is an error where there is no parts.csv, and a warning where there is one, or
    where the photos of any two parts are nearly equal.
    """
    layout = check.layout
    nearly_equal = likeness >= _NEARLY_EQUAL
    sure = _parts(check.facts, copies) if layout.has_parts or nearly_equal else check.parts
    caution = (
        f"; any two photos of this product correlate by {likeness:.2f}, so trust your eyes more "
        "than this finding"
        if nearly_equal
        else ""
    )
    crossing = _crossing(sure, layout)
    found = []
    if crossing:
        found.append(
            Finding(
                "leak",
                "error",
                f"{len(crossing)} parts are on both sides: {_tested(crossing, layout)} of "
                f"{len(layout.test)} test images show a part that the model is trained on",
                "split by part: any figure is too good until then; --write-parts proposes which "
                "photos belong together",
                _named(check, crossing),
            )
        )
    doubtful = [group for group in _crossing(check.parts, layout) if group not in crossing]
    if doubtful and not layout.has_parts:
        found.append(
            Finding(
                "leak-doubtful",
                "warning",
                f"{len(doubtful)} parts may be on both sides: {_tested(doubtful, layout)} of "
                f"{len(layout.test)} test images look like a part that the model is trained on",
                "if they show one part, split by part: --write-parts proposes which photos belong "
                f"together{caution}",
                _named(check, doubtful),
            )
        )
    several = [group for group in _grouped(check.parts) if len(group) > 1]
    if several and not layout.has_parts:
        photos = sum(len(group) for group in several)
        found.append(
            Finding(
                "same-part",
                "warning",
                f"{photos} photos {'may ' if nearly_equal else ''}show only {len(several)} parts, "
                "and there is no parts.csv",
                f"write it with --write-parts {layout.root / 'parts.csv'} and look it through; "
                f"training then keeps photos of a part together{caution}",
                _named(check, sorted(several, key=len, reverse=True)),
            )
        )
    apart = [
        [pair.first, pair.second] for pair in check.pairs if sure[pair.first] != sure[pair.second]
    ]
    if apart and layout.has_parts:
        border = len(layout.train)  # facts before it are of the training side
        across = [pair for pair in apart if pair[0] < border <= pair[1]]
        apart.sort(key=lambda pair: pair not in across)  # stable: the strongest stay first
        found.append(
            Finding(
                "parts-apart",
                "warning",
                f"{len(apart)} pairs look like one part and parts.csv says two, {len(across)} of "
                "them across the split",
                "look at them; join the parts in parts.csv if they are one",
                _named(check, apart),
            )
        )
    return found


def _crossing(parts: Sequence[str], layout: Layout) -> list[list[int]]:
    """The parts with photos on both sides of the split, those with most photos first."""
    border = len(layout.train)  # facts before it are of the training side
    groups = [group for group in _grouped(parts) if group[0] < border <= group[-1]]
    return sorted(groups, key=len, reverse=True)


def _tested(groups: Iterable[Sequence[int]], layout: Layout) -> int:
    """How many of the photos are test images."""
    return sum(index >= len(layout.train) for group in groups for index in group)


def _grouped(parts: Sequence[str]) -> list[list[int]]:
    """The photos of each part."""
    by_part: dict[str, list[int]] = defaultdict(list)
    for index, part in enumerate(parts):
        by_part[part].append(index)
    return list(by_part.values())


def _named(check: DataCheck, groups: Iterable[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(check.name_of(index) for index in group) for group in groups)
