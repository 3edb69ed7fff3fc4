"""Templates -> one self-contained HTML file; every page is written here.

A page extends `base.html.j2`, which brings the style and the macros `tile` and `verdict`.
"""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.dependencies import require
from agp_edge.files import write_aside

if TYPE_CHECKING:
    import os

__all__ = ["write_page"]


def write_page(path: str | os.PathLike[str], template: str, **context: Any) -> None:
    """Renders a template of this folder and writes the page, aside and renamed.

    Args:
        path: the HTML file.
        template: file name, such as "report.html.j2".
        context: what the template reads; a name that it reads and does not get is an error. It also
            gets `made`: the date and the version that wrote the page.

    Raises:
        DependencyError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "agp-edge": version("agp-edge"),
    }
    page = environment.get_template(template).render(made=made, **context)
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")
