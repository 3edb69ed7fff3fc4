"""Defects among the good images: frozen features -> images that do not belong, with their maps.

A detector learns what it is shown, also the defects among it, and is then blind to them. So each
image is scored by a model that has not seen it (cross-fitting, folds by part): one Gaussian over
the whitened features of the other folds, scaled per grid position, as in judge.py. No decoder is
trained. A second round leaves the first round's suspects out of the Gaussians, since a defect that
is there five times hides itself. What lies far above the bulk of the scores is suspect.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from agp_edge.dataset import part_folds, part_of
from agp_edge.errors import DataError
from agp_edge.files import write_aside
from agp_edge.trainer.config import postprocess_spec
from agp_edge.trainer.features import CachedFeatures
from agp_edge.trainer.fusion import Whitening
from agp_edge.trainer.position import PositionScale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.config import ModelConfig
    from agp_edge.trainer.features import Features
    from agp_edge.trainer.model import AgpNet

__all__ = [
    "LEAST_PARTS",
    "LIMIT",
    "MODES",
    "Suspects",
    "drawn",
    "find_suspects",
    "shares_of",
    "training_shares",
    "write_suspects",
]

MODES = ("report", "exclude", "weight")
# Of fewer parts the bulk is not known well enough to call anything far from it.
LEAST_PARTS = 10

# Robust deviations of the log score above its median: 1 of 740 good images lies above it if these
# are normal. Not tuned.
LIMIT = 3.0
_FOLDS = 5
_ROUNDS = 2
_BATCH = 16
_SHOWN = 60  # suspects with a picture
# Images that a Gaussian is fitted to at most: half a million tokens for a few hundred dimensions.
_FIT_IMAGES = 2000


@dataclass(frozen=True)
class Suspects:
    """How far every good image lies from the others."""

    samples: tuple[Sample, ...]
    scores: NDArray[np.float64]  # (n,), of models that did not see the image; larger is worse
    deviations: NDArray[np.float64]  # (n,), of the log score from the median, robust
    distances: NDArray[np.float32]  # (n, grid height, grid width)

    @property
    def found(self) -> NDArray[np.intp]:
        """Indices of the suspects, the worst first."""
        above = np.flatnonzero(self.deviations > LIMIT)
        return above[np.argsort(-self.deviations[above], kind="stable")]


def find_suspects(
    model: AgpNet, config: ModelConfig, features: Features, samples: Sequence[Sample], *, seed: int
) -> Suspects:
    """Scores each good image by a model that did not see its part; several products each by itself.

    Args:
        model: its grid is used; neither whitening nor decoder need be fitted, none is changed.
        config: of the model: shrinkage, blur and score.
        features: fused tokens of `samples`, in their order.
        samples: good images; photos of one part share a fold.
        seed: of the folds.

    Raises:
        DataError: a product shows fewer than ten parts.
    """
    scores = np.zeros(len(samples))
    deviations = np.zeros(len(samples))
    distances = np.zeros((len(samples), *model.grid), np.float32)
    for product in sorted({sample.product or "" for sample in samples}):
        own = np.array([i for i, s in enumerate(samples) if (s.product or "") == product])
        folds = _folds([part_of(samples[index]) for index in own], seed)
        suspect = np.zeros(len(own), np.bool_)
        for _ in range(_ROUNDS):
            distances[own] = _distances(model, config, features, own, folds, suspect)
            scores[own] = _scores(model, config, distances[own])
            deviations[own] = _deviations(scores[own])
            suspect = deviations[own] > LIMIT
    return Suspects(tuple(samples), scores, deviations, distances)


def shares_of(suspects: Suspects, mode: str) -> dict[Path, float]:
    """How often each suspect is shown in training, of how often the others are.

    Args:
        suspects: what was found.
        mode: "exclude": never; "weight": `(LIMIT / deviation)^2`, a Cauchy-like weight that falls
            from 1 at the limit; "report": nothing is changed.
    """
    if mode not in MODES:
        raise ValueError(f"mode is '{mode}'; expected report, exclude or weight")
    if mode == "report":
        return {}
    return {
        suspects.samples[index].path: 0.0
        if mode == "exclude"
        else float((LIMIT / suspects.deviations[index]) ** 2)
        for index in suspects.found
    }


def drawn(
    order: NDArray[np.intp], shares: NDArray[np.float64], seed: Sequence[int]
) -> NDArray[np.intp]:
    """An epoch's order in which an image of share s stays with probability s.

    Args:
        order: indices (n,).
        shares: of all images, in [0, 1].
        seed: the same seed, order and shares give the same answer.

    Returns:
        Indices (n,): the places of those dropped go to others that stayed.
    """
    random = np.random.default_rng(seed)
    kept = random.random(len(order)) < shares[order]
    if not kept.any():
        raise DataError("every training image is suspect; look at the data set")
    order = order.copy()
    order[~kept] = random.choice(order[kept], int((~kept).sum()))
    return order


def write_suspects(folder: Path, suspects: Suspects, root: Path, mode: str) -> None:
    """Writes suspects.json (all scores) and suspects.html (pictures and maps) into `folder`.

    Args:
        folder: of the run.
        suspects: what was found.
        root: of the data set; names in the files are relative to it.
        mode: what was done with them.
    """
    from agp_edge.report.suspects import SuspectCard, write_suspects_page  # noqa: PLC0415

    found = suspects.found
    names = [sample.path.relative_to(root).as_posix() for sample in suspects.samples]
    shares = shares_of(suspects, mode)
    document = {
        "mode": mode,
        "limit": LIMIT,
        "suspects": [
            {
                "file": names[index],
                "score": float(suspects.scores[index]),
                "deviations": float(suspects.deviations[index]),
                "share": shares.get(suspects.samples[index].path, 1.0),
            }
            for index in found
        ],
        "scores": dict(zip(names, suspects.scores.tolist(), strict=True)),
    }
    with write_aside(folder / "suspects.json") as aside:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    bulk = np.percentile(suspects.distances, (50.0, 99.9))
    cards = [
        SuspectCard(
            names[index],
            suspects.samples[index].path,
            float(suspects.deviations[index]),
            (suspects.distances[index] - bulk[0]) / max(float(bulk[1] - bulk[0]), 1e-12),
        )
        for index in found[:_SHOWN]
    ]
    write_suspects_page(
        folder / "suspects.html", cards, found=len(found), images=len(names), mode=mode
    )


def training_shares(
    folder: Path | None,
    model: AgpNet,
    config: ModelConfig,
    features: Features,
    samples: Sequence[Sample],
    *,
    root: Path,
    mode: str,
    seed: int,
) -> NDArray[np.float64]:
    """Looks for suspects before a training, and says how often each image is to be shown.

    Args:
        folder: of the run, where list and page are written; None: another process writes them.
        model: as `find_suspects` takes it.
        config: as `find_suspects` takes it.
        features: of `samples`.
        samples: images of the training; those held out for the threshold are not among them, since
            a threshold without its highest scores would promise too much.
        root: of the data set.
        mode: one of MODES, or "none": nothing is looked for. "report" looks only where features are
            cached and parts suffice: what was not asked for costs no pass of the backbone.
        seed: of the folds.

    Returns:
        Shares (n,) in [0, 1].

    Raises:
        DataError: "exclude" or "weight" was asked for and there are fewer than ten parts.
    """
    shares = np.ones(len(samples))
    parts: dict[str | None, set[str]] = {}  # by product: each is looked at by itself
    for sample in samples:
        parts.setdefault(sample.product, set()).add(part_of(sample))
    few = any(len(own) < LEAST_PARTS for own in parts.values())
    if mode == "none" or (mode == "report" and (few or not isinstance(features, CachedFeatures))):
        return shares
    suspects = find_suspects(model, config, features, samples, seed=seed)
    if folder is not None:
        write_suspects(folder, suspects, root, mode)
    less = shares_of(suspects, mode)
    return np.array([less.get(sample.path, 1.0) for sample in samples])


def _folds(parts: list[str], seed: int) -> NDArray[np.intp]:
    known = len(set(parts))
    if known < LEAST_PARTS:
        raise DataError(
            f"suspects are found by comparing parts, and {len(parts)} images show {known}; "
            f"give images of at least {LEAST_PARTS} parts"
        )
    return part_folds(parts, _FOLDS, seed)


@torch.no_grad()
def _distances(  # noqa: PLR0917  (private; each is used once)
    model: AgpNet,
    config: ModelConfig,
    features: Features,
    own: NDArray[np.intp],
    folds: NDArray[np.intp],
    suspect: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Scaled distance grids (n, gh, gw), each by the Gaussian of the other folds."""
    found = np.zeros((len(own), *model.grid), np.float32)
    for fold in range(int(folds.max()) + 1):
        others = np.flatnonzero((folds != fold) & ~suspect)
        if not len(others):  # all suspect: then none is
            others = np.flatnonzero(folds != fold)
        if len(others) > _FIT_IMAGES:
            others = others[:: -(-len(others) // _FIT_IMAGES)]
        whitening = Whitening(model.fusion.channels, config.components)
        whitening.fit((t for _, t in _tokens(features, own[others])), config.shrinkage)
        scale = PositionScale(model.grid)
        scale.fit(_norm(whitening, t, model.grid) for _, t in _tokens(features, own[others]))
        held = np.flatnonzero(folds == fold)
        for where, tokens in _tokens(features, own[held]):
            found[held[where]] = scale(_norm(whitening, tokens, model.grid))[:, 0].numpy()
    return found


def _tokens(features: Features, indices: NDArray[np.intp]) -> Iterator[tuple[slice, Tensor]]:
    """Which of `indices`, and their fused tokens (B, N, C)."""
    for start in range(0, len(indices), _BATCH):
        where = slice(start, start + _BATCH)
        yield where, features.read(indices[where])[0]


def _norm(whitening: Whitening, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    target: Tensor = whitening(tokens.float())
    return target.square().mean(dim=2).sqrt().reshape(-1, 1, *grid)


def _scores(
    model: AgpNet, config: ModelConfig, distances: NDArray[np.float32]
) -> NDArray[np.float64]:
    postprocessor = postprocess_spec(config).native(model.grid, (config.height, config.width))
    return np.array([postprocessor.run(grid, outputs=1).score for grid in distances])


def _deviations(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log scores from their median, in deviations estimated below it: defects lie above."""
    logs = np.log(np.maximum(scores, 1e-12))
    middle = np.median(logs)
    below = middle - logs[logs <= middle]
    # of a normal law, its deviation; the floor is for sets of equal images
    deviation = max(1.4826 * float(np.median(below)), 1e-3)
    return np.asarray((logs - middle) / deviation, np.float64)
