"""Which files a data set's folder holds, without refusing any: what is odd becomes a finding.

`agp_edge.dataset.open_dataset` stops at the first thing that does not fit; here all are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.dataset import GOOD, Sample, samples_with_parts
from agp_edge.errors import DataError
from agp_edge.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import os

__all__ = ["Layout", "find_layout"]

# What people call good parts, in some languages; any other name than "good" is a defect type here.
_MEANT_GOOD = frozenset(
    {"good", "ok", "io", "i.o.", "normal", "pass", "passed", "gut", "bon", "bueno", "buono"}
)


@dataclass
class Layout:
    """The samples found and what is odd about the folders; paths are below `root`."""

    root: Path
    train: list[Sample]
    test: list[Sample]  # empty for a plain folder
    has_parts: bool = False
    parts_error: str | None = None  # why parts.csv cannot be used
    good_names: list[Path] = field(default_factory=list)  # folders that seem to hold good images
    ignored: list[Path] = field(default_factory=list)  # folders and files that nothing reads
    missing_masks: list[Path] = field(default_factory=list)  # images whose neighbours have one
    unmasked_types: list[str] = field(default_factory=list)  # defect types without any mask
    orphaned_masks: list[Path] = field(default_factory=list)  # masks without an image
    good_masks: list[Path] = field(default_factory=list)  # masks of good images

    @property
    def samples(self) -> list[Sample]:
        """Training images, then test images."""
        return [*self.train, *self.test]

    def name(self, path: Path) -> str:
        """The path from the root, as parts.csv has it."""
        return path.relative_to(self.root).as_posix()


def find_layout(folder: str | os.PathLike[str]) -> Layout:
    """Finds images, masks and what does not fit; reads no image.

    Raises:
        DataError: the folder is missing or holds no image where one is looked for.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"data set '{root}' {'is a file' if root.exists() else 'does not exist'}; give a "
            "folder of good images or one in the MVTec-AD layout (train/good, test/*)"
        )
    layout = Layout(root, [], [])
    if (root / "train").is_dir() or (root / "test").is_dir():
        _train(layout)
        _test(layout)
        _masks(layout)
    else:
        layout.train = [Sample(path, GOOD) for path in _images(root)]
        layout.ignored += [path for path in _folders(root) if any(_images(path))]
    if not layout.samples:
        raise DataError(
            f"data set '{root}' holds no image that would be read; expected files ending in "
            f"{' '.join(IMAGE_SUFFIXES)} in it, or in train/good and test/*"
        )
    try:
        layout.has_parts = (root / "parts.csv").exists()
        layout.train = samples_with_parts(layout.train, root)
        layout.test = samples_with_parts(layout.test, root)
    except DataError as error:
        layout.has_parts = False
        layout.parts_error = str(error)
        layout.train = [Sample(s.path, s.label, s.mask_path) for s in layout.train]
        layout.test = [Sample(s.path, s.label, s.mask_path) for s in layout.test]
    return layout


def _train(layout: Layout) -> None:
    train = layout.root / "train"
    if not train.is_dir():
        return
    layout.ignored += _images(train)
    for folder in _folders(train):
        if folder.name == GOOD:
            layout.train = [Sample(path, GOOD) for path in _images(folder)]
            layout.ignored += _folders(folder)
        elif _means_good(folder.name):
            layout.good_names.append(folder)
        else:
            layout.ignored.append(folder)


def _test(layout: Layout) -> None:
    test = layout.root / "test"
    if not test.is_dir():
        return
    layout.ignored += _images(test)
    for folder in _folders(test):
        if folder.name != GOOD and _means_good(folder.name):
            layout.good_names.append(folder)
        masks = layout.root / "ground_truth" / folder.name
        samples = []
        for path in _images(folder):
            names = (f"{path.stem}_mask.png", f"{path.stem}.png")
            found = [masks / name for name in names if (masks / name).is_file()]
            samples.append(Sample(path, folder.name, found[0] if found else None))
        layout.ignored += _folders(folder)
        if folder.name == GOOD:
            layout.good_masks += [s.mask_path for s in samples if s.mask_path is not None]
            samples = [Sample(s.path, GOOD) for s in samples]
        elif any(sample.mask_path for sample in samples):
            layout.missing_masks += [s.path for s in samples if s.mask_path is None]
        elif samples and (layout.root / "ground_truth").is_dir():
            layout.unmasked_types.append(folder.name)
        layout.test += samples


def _masks(layout: Layout) -> None:
    truth = layout.root / "ground_truth"
    if not truth.is_dir():
        return
    used = {sample.mask_path for sample in layout.test} | set(layout.good_masks)
    for folder in _folders(truth):
        layout.orphaned_masks += [path for path in _images(folder) if path not in used]


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _means_good(name: str) -> bool:
    return name.strip().lower() in _MEANT_GOOD
