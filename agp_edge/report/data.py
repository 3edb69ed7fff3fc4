"""The page about a data set: findings with thumbnails. Reads a check, writes one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agp_edge.errors import DataError
from agp_edge.images import IMAGE_SUFFIXES, read_image
from agp_edge.report.pictures import data_uri
from agp_edge.report.render import write_page

if TYPE_CHECKING:
    import os

    from agp_edge.data_check import DataCheck, Finding

__all__ = ["write_data_report"]

_GROUPS = 12  # shown of a finding
_PHOTOS = 6  # shown of a group
_LONGEST = 160  # pixels of a thumbnail; a page of 10 findings stays below 5 MB


@dataclass(frozen=True)
class Thumbnail:
    """A file and its picture; None where it is no readable image."""

    name: str
    picture: str | None


@dataclass(frozen=True)
class Shown:
    """A finding and what is shown of it."""

    finding: Finding
    groups: tuple[tuple[Thumbnail, ...], ...]
    hidden: int  # groups that are not shown


def write_data_report(path: str | os.PathLike[str], check: DataCheck) -> None:
    """Writes the page, aside and renamed.

    Raises:
        DependencyError: Jinja2 or OpenCV is not installed.
    """
    shown = [
        Shown(
            finding,
            tuple(
                tuple(_thumbnail(check, name) for name in group[:_PHOTOS])
                for group in finding.groups[:_GROUPS]
            ),
            max(0, len(finding.groups) - _GROUPS),
        )
        for finding in check.findings
    ]
    write_page(path, "data.html.j2", check=check, shown=shown)


def _thumbnail(check: DataCheck, name: str) -> Thumbnail:
    path = check.layout.root / name
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return Thumbnail(name, None)
    try:
        return Thumbnail(name, data_uri(read_image(path), longest=_LONGEST))
    except DataError:  # an unreadable image is a finding of its own
        return Thumbnail(name, None)
