"""One way to score a frame, and what has to be known to judge it fairly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Way"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A frame in, a score out, by somebody else's code."""

    name: str
    score: Callable[[NDArray[Any]], float]
    """uint8 (H, W, 3) BGR or (H, W) mono -> score; blocks until it is there."""

    same_graph: bool
    """Whether it runs the same model, so that its scores have to agree with ours."""

    note: str = ""
    """What it does otherwise, for the table."""
