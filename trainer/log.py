"""The run's record: the history of epochs -> log.jsonl and loss.png."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agp_edge.files import write_aside

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["best_epoch", "draw_loss", "write_log"]


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The epoch whose weights the checkpoint holds; None where there is no epoch.

    That with the smallest held-out error, the first of equals; the last one where nothing is held
    out for early stop.
    """
    if history and history[0]["held_out_error"] is None:
        return history[-1]
    return min(history, key=lambda entry: entry["held_out_error"], default=None)


def write_log(folder: Path, history: list[dict[str, Any]]) -> None:
    """Writes log.jsonl, one epoch a line."""
    with write_aside(folder / "log.jsonl") as aside:
        lines = [json.dumps(entry) for entry in history]
        aside.write_text("\n".join([*lines, ""]), encoding="utf-8")


def draw_loss(folder: Path, history: list[dict[str, Any]]) -> None:
    """Writes loss.png: training loss (with perturbation) and held-out error (without) by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (slow to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [entry["epoch"] for entry in history]
    for key, label in (
        ("loss", "training loss, perturbed"),
        ("held_out_error", "held-out error, clean"),
    ):
        values = [entry[key] for entry in history]
        if None not in values:  # the held-out error, where nothing is held out for early stop
            axes.plot(epochs, values, marker=".", label=label)
    best = best_epoch(history)
    if best is not None:
        axes.axvline(best["epoch"], color="0.7", linestyle="--", label="checkpoint")
    axes.set(xlabel="epoch", ylabel="mean squared error")
    axes.set_ylim(bottom=0.0)
    axes.legend()
    with write_aside(folder / "loss.png") as aside:
        figure.savefig(aside, dpi=110)
