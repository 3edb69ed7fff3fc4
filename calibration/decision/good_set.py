"""The good images that a promise stands on: found, told apart by part, and looked at.

A promise counts what is independent. Photos of one part are named in parts.csv or lie in a folder
per part; without either, each photo counts as a part of its own, and copies of a file once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dataset import GOOD, Sample, samples_with_parts
from agp_edge.dependencies import require
from agp_edge.errors import DataError
from agp_edge.images import IMAGE_SUFFIXES, list_images, read_image

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from agp_edge.calibration.decision.scoring import Scored

__all__ = [
    "distinct_photos",
    "good_samples",
    "labelled_samples",
    "near_duplicates",
    "part_key",
    "set_warnings",
    "suspicious",
    "trained_on",
]

# Iglewicz and Hoaglin (1993): a modified z-score above 3.5 is labelled an outlier.
_OUTLIER = 3.5
_TO_SIGMA = 0.6745  # of a normal law: the median absolute deviation in standard deviations
_NAMED = 5


def good_samples(
    folder: str | os.PathLike[str], parts_file: str | os.PathLike[str] | None = None
) -> list[Sample]:
    """The good images of a folder: its images, or those of its subfolders, one for each part.

    Args:
        folder: not a whole data set, whose train/good the model has seen.
        parts_file: a parts.csv (file,part), its paths from its own folder; None: the one in
            `folder`, or of the data set that `folder` belongs to, where there is one.

    Raises:
        DataError: there is no image, or the parts are not complete.
    """
    root = Path(folder)
    if (root / "test").is_dir() or (root / "train").is_dir():
        raise DataError(
            f"'{root}' is a data set; give a folder of good images that the model was not trained "
            f"on, such as '{root / 'test' / 'good'}' or, better, a new shoot"
        )
    samples = samples_in(root, GOOD)
    return _with_parts_file(samples, root, parts_file)


def labelled_samples(
    folder: str | os.PathLike[str], parts_file: str | os.PathLike[str] | None = None
) -> list[Sample]:
    """Known parts: test/good and test/<type> of a data set, or good/ and <type>/ of a folder.

    Each holds images, or a subfolder per part. Folders train and ground_truth are passed over.

    Args:
        folder: the data set or the folder.
        parts_file: as for `good_samples`.

    Raises:
        DataError: there is no folder `good`, no image, or the parts are not complete.
    """
    root = Path(folder)
    base = root / "test" if (root / "test").is_dir() else root
    if not (base / GOOD).is_dir():
        raise DataError(
            f"'{base}' has no folder 'good'; expected good/ and a folder per defect type, or a "
            "data set with test/good"
        )
    folders = sorted(
        path
        for path in base.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name not in ("train", "ground_truth")
    )
    samples = [sample for path in folders for sample in samples_in(path, path.name)]
    return _with_parts_file(samples, root, parts_file)


def samples_in(folder: Path, label: str) -> list[Sample]:
    """The images of a folder, or of its subfolders, each of which is a part.

    Raises:
        DataError: there is none, or both.
    """
    subfolders = []
    if folder.is_dir():
        subfolders = sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    if not subfolders:
        return [Sample(path, label) for path in list_images(folder)]
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir() if path.is_file()):
        raise DataError(
            f"'{folder}' holds images and folders; expected images, or a folder per part with its "
            "photos"
        )
    return [
        Sample(image, label, part=f"{label}/{path.name}")
        for path in subfolders
        for image in list_images(path)
    ]


def _with_parts_file(
    samples: list[Sample], root: Path, parts_file: str | os.PathLike[str] | None
) -> list[Sample]:
    if parts_file is not None:
        file = Path(parts_file)
        if file.name != "parts.csv" or not file.is_file():
            raise DataError(f"'{file}' is not a file parts.csv; expected columns file,part")
        return samples_with_parts(_from(file.parent.absolute(), samples), file.parent.absolute())
    if any(sample.part is not None for sample in samples):
        return samples
    absolute = root.absolute()
    for folder in (absolute, *absolute.parents[:2]):
        if (folder / "parts.csv").is_file():
            return samples_with_parts(_from(folder, samples), folder)
    return samples


def _from(folder: Path, samples: list[Sample]) -> list[Sample]:
    """The samples with absolute paths, which `folder` starts."""
    for sample in samples:
        if not sample.path.absolute().is_relative_to(folder):
            raise DataError(
                f"'{sample.path}' does not lie under '{folder}', whose parts.csv is to name its "
                "part; put parts.csv into a folder that holds all images"
            )
    return [replace(sample, path=sample.path.absolute()) for sample in samples]


def trained_on(
    folder: str | os.PathLike[str], samples: Sequence[Sample], manifest: Mapping[str, Any]
) -> list[str]:
    """Warnings about good images that the model may have seen.

    Raises:
        DataError: they are the very images that it was trained on.
    """
    root = Path(folder).absolute()
    hashes = {
        sample.path.absolute(): hashlib.sha256(sample.path.read_bytes()).hexdigest()
        for sample in samples
        if sample.path.is_file()
    }
    for base in (root, root.parent.parent):
        if _data_digest(hashes, base) == manifest.get("hashes", {}).get("data"):
            raise DataError(
                f"the model was trained on the images in '{folder}', and scores them lower than "
                "new ones: give good images that it has not seen, best of another shoot"
            )
    if root.parts[-2:] == ("train", GOOD):
        return [
            f"'{folder}' looks like training images; what the model was trained on scores lower "
            "than new parts, and no promise holds"
        ]
    return []


def _data_digest(hashes: Mapping[Path, str], base: Path) -> str:
    """What the trainer writes into `hashes.data`: over names from the data set's root and bytes."""
    whole = hashlib.sha256()
    for path in sorted(hashes):
        name = path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
        whole.update(f"{name}\0{hashes[path]}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def part_key(sample: Sample) -> str | None:
    """The part that a sample shows, told apart by label; None where none is known."""
    return None if sample.part is None else f"{sample.label}\0{sample.part}"


def distinct_photos(images: Sequence[Scored]) -> tuple[list[Scored], list[str]]:
    """The images without copies of a file that no part is named for, and what was found.

    Returns:
        Those that count, and a warning for copies, where there are any.
    """
    seen: dict[str, Scored] = {}
    kept, copies = [], []
    for image in images:
        first = seen.setdefault(image.result.sha256, image)
        if first is not image and image.sample.part is None:
            copies.append(f"'{image.sample.path.name}' of '{first.sample.path.name}'")
        else:
            kept.append(image)
    if not copies:
        return kept, []
    return kept, [f"copies of a file count once: {_some(copies)}"]


def near_duplicates(images: Sequence[Scored], *, progress: bool = False) -> list[str]:
    """Says where photos that count as parts of their own look like photos of one part.

    Args:
        images: distinct files; nothing is looked for where parts are named.
        progress: show a progress bar on stderr.

    Raises:
        DataError: an image has become unreadable.
    """
    if len(images) < 2 or any(image.sample.part is not None for image in images):
        return []
    from agp_edge.data_check.pattern import pattern_of  # noqa: PLC0415  (only where it is needed)
    from agp_edge.data_check.same_part import find_same_parts  # noqa: PLC0415

    bar = require("tqdm").tqdm(images, desc="compare", unit="image", disable=not progress)
    patterns = np.stack([pattern_of(read_image(image.sample.path)) for image in bar])
    found = find_same_parts(patterns)
    groups = int(found.groups.max()) + 1
    if groups == len(images):
        return []
    pairs = [
        f"'{images[pair.first].sample.path.name}' and '{images[pair.second].sample.path.name}' "
        f"({pair.correlation:.2f})"
        for pair in found.pairs
    ]
    return [
        f"the {len(images)} photos look like {groups} parts, and each counted as one: the promise "
        f"then says too much; name the parts in parts.csv (`agp-edge data` proposes it); most "
        f"alike: {_some(pairs[:3])}"
    ]


def set_warnings(images: Sequence[Scored]) -> list[str]:
    """What a user should know of a good set before a promise is made from it.

    Raises:
        DataError: all images are blank.
    """
    warnings = []
    blank = [image.sample.path.name for image in images if image.result.is_blank]
    if len(blank) == len(images):
        raise DataError(
            "every image is blank (black, or one value everywhere), the first is "
            f"'{images[0].sample.path}'; check camera, light and export"
        )
    if blank:
        warnings.append(
            "blank images (black, or one value everywhere) count as good parts all the same: "
            f"{_some(blank)}; remove them if the line does not send such frames"
        )
    sizes = Counter((image.result.width, image.result.height) for image in images)
    if len(sizes) > 1:
        listed = [f"{count} of {w}x{h}" for (w, h), count in sizes.most_common()]
        warnings.append(
            f"the images have {len(sizes)} sizes ({_some(listed)} pixels); a camera sends one: "
            "calibrate with frames as the line sees them"
        )
    found = suspicious(images)
    if found:
        worst = [f"'{image.sample.path.name}' ({image.result.score:.4g})" for image in found]
        warnings.append(
            f"{len(found)} of {len(images)} good images score far above the others, which lifts "
            f"the threshold if they show defects: {_some(worst)}; look at them and remove what is "
            "not good"
        )
    return warnings


def suspicious(images: Sequence[Scored]) -> list[Scored]:
    """Images that score far above the others, largest first.

    The modified z-score of Iglewicz and Hoaglin (1993), (x - median) / MAD scaled to a normal law,
    above 3.5; of the logarithm of scores where all are positive, since their law has a long tail to
    the right, and with the MAD of the upper half, so that a skewed law is not taken for outliers.
    A few parts in a hundred may be far out and move neither median nor MAD.
    """
    if len(images) < 10:
        return []
    values = np.array([image.result.score for image in images])
    if values.min() > 0:
        values = np.log(values)
    middle = float(np.median(values))
    upper = values[values > middle] - middle
    spread = float(np.median(upper)) if len(upper) else 0.0
    if not spread > 0:
        return []
    far = np.flatnonzero(_TO_SIGMA * (values - middle) / spread > _OUTLIER)
    return [images[int(index)] for index in far[np.argsort(-values[far])]]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
