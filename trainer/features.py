"""Features of the frozen backbone: reads training images, writes a cache of them (fp16, on disk).

The backbone never changes, so that its features are computed once and read back in each epoch. They
are rounded to fp16 with and without a cache: both ways train the same model, up to rounding. The
memory needed does not grow with the number of images: they come in batches, also from the cache,
which is read and not mapped, since mapped pages count as the process's memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from agp_edge.errors import ModelError
from agp_edge.files import remove_leftovers, write_aside
from agp_edge.trainer.config import ModelConfig, config_to_dict
from agp_edge.trainer.perturbation import attention_prior, border_prior, energy_prior

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from agp_edge.dataset import Sample
    from agp_edge.trainer.data import ImageReader
    from agp_edge.trainer.model import AgpNet

__all__ = [
    "CachedFeatures",
    "ComputedFeatures",
    "Features",
    "FeaturesInMemory",
    "FeaturesPart",
    "default_cache_dir",
    "in_order",
    "open_features",
]

# Settings that do not change what the backbone and the fusion give.
_AFTER_FUSION = frozenset(
    {
        "whiten", "components", "shrinkage", "decoder", "decoder_width", "decoder_depth",
        "decoder_heads", "bottleneck", "dropout", "position_scale", "distance", "sigma", "score",
        "top_share", "power", "memory", "products", "fine_memory", "fine_regions", "fine_weight",
        "fine_centred", "patch_memory", "patch_weight", "border_deviations",
        "discriminators", "discriminator_width",
        "discriminator_weight", "regions", "region_images", "second_backbone", "second_side",
        "second_layers", "second_weight",
    }
)  # fmt: skip


class Features(Protocol):
    """Fused tokens and prior masks of a fixed list of images."""

    def __len__(self) -> int:
        """How many images there are."""

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens before whitening, float32 (B, N, C), and prior masks, float32 (B, N)."""


class FeatureExtractor:
    """Images -> fused tokens and prior mask."""

    def __init__(self, model: AgpNet, prior: str, device: torch.device) -> None:
        """Prepares the way through `model`, which lives on `device`.

        Args:
            model: its backbone and fusion are used.
            prior: "attention", "energy", "border", or "auto": attention where the backbone has
                self-attention over the whole grid, else energy.
            device: where the backbone runs.
        """
        if prior not in ("auto", "attention", "energy", "border"):
            raise ModelError(f"prior is '{prior}'; expected auto, attention, energy or border")
        self.model = model
        self.prior = prior
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> fp16 tokens (B, N, C) and masks (B, N), on the CPU.

        Raises:
            ModelError: the backbone has no attention to be the prior, or a feature is not finite
                in fp16.
        """
        images = images.to(self.device)
        backbone, grid = self.model.backbone.first, self.model.grid
        prior = None
        if self.prior in ("auto", "attention"):
            features, maps = backbone.forward_with_attention(images)
            prior = attention_prior(maps, backbone.prefix_tokens)
            if prior is not None and prior.shape[1] != grid[0] * grid[1]:
                prior = None  # the blocks' grid is not the token grid
            if prior is None and self.prior == "attention":
                raise ModelError(
                    "prior is 'attention', but the backbone has no self-attention over the token "
                    "grid; use energy or border"
                )
        else:
            features = backbone(images)
        tokens = self.model.fusion(features)
        if self.prior == "border":
            prior = border_prior(tokens, grid)
        elif prior is None:
            prior = energy_prior(features, grid)
        tokens16 = tokens.to("cpu", torch.float16)
        if not torch.isfinite(tokens16).all():
            raise ModelError(
                "a feature of the backbone is not finite in 16 bits; its weights are damaged, or "
                "normalise is 'none' and must be 'layer'"
            )
        # attention values are near 1 / N: brought near 1, where fp16 has its digits
        scaled = prior / prior.mean(dim=1, keepdim=True).clamp(min=1e-12)
        return tokens16, scaled.to("cpu", torch.float16)


class ComputedFeatures:
    """Features computed each time that they are read: for sets larger than the cache may be."""

    def __init__(
        self, extractor: FeatureExtractor, reader: ImageReader, samples: Sequence[Path | Sample]
    ) -> None:
        """Reads `samples` through `reader` when asked."""
        self._extractor = extractor
        self._reader = reader
        self._samples = samples

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._samples)

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens before whitening, float32 (B, N, C), and prior masks, float32 (B, N)."""
        images = self._reader.read([self._samples[index] for index in indices])
        tokens, prior = self._extractor(images)
        return tokens.float(), prior.float()


class CachedFeatures:
    """Features in a .npy file, fp16 (n, N, C + 1): tokens, and the prior at the end."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        """Opens a whole file of that shape; it may be removed while it is open.

        Raises:
            OSError, ValueError: the file is missing, cut, of another shape or no array.
        """
        array: NDArray[np.float16] = np.load(path, mmap_mode="r")  # checks header and length
        if array.shape != shape or array.dtype != np.float16:
            raise ValueError(f"'{path}' is an array of {array.dtype} {array.shape}")
        self._shape = shape
        self._start = int(getattr(array, "offset", 0))  # of the first value, bytes
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """How many images there are."""
        return self._shape[0]

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens before whitening, float32 (B, N, C), and prior masks, float32 (B, N)."""
        rows = np.empty((len(indices), *self._shape[1:]), np.float16)
        for row, index in zip(rows, indices, strict=True):
            self._file.seek(self._start + int(index) * row.nbytes)
            left = memoryview(row.view(np.uint8)).cast("B")
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise ModelError("the feature cache was cut while it was in use; train again")
                left = left[count:]
        both = torch.from_numpy(rows.astype(np.float32))
        return both[:, :, :-1], both[:, :, -1]


class FeaturesInMemory:
    """Features of a few images, at hand already; their masks are ones."""

    def __init__(self, tokens: Tensor) -> None:
        """Keeps `tokens`, (images, N, C) before whitening, in any precision."""
        self._tokens = tokens

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._tokens)

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens before whitening, float32 (B, N, C), and masks of ones, float32 (B, N)."""
        tokens = self._tokens[torch.from_numpy(np.asarray(indices, np.int64))].float()
        return tokens, torch.ones(tokens.shape[:2])


class FeaturesPart:
    """Some neighbours among the images of other features."""

    def __init__(self, features: Features, first: int, count: int) -> None:
        """Shows the images first to first + count - 1."""
        self._features = features
        self._first = first
        self._count = count

    def __len__(self) -> int:
        """How many images there are."""
        return self._count

    def read(self, indices: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Tokens before whitening, float32 (B, N, C), and prior masks, float32 (B, N)."""
        return self._features.read(indices + self._first)


def in_order(
    features: Features, batch: int, indices: NDArray[np.intp] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of tokens and prior masks, as `read` gives them; of all images, or of `indices`."""
    chosen = np.arange(len(features)) if indices is None else indices
    for start in range(0, len(chosen), batch):
        yield features.read(chosen[start : start + batch])


def open_features(
    model: AgpNet,
    config: ModelConfig,
    prior: str,
    reader: ImageReader,
    samples: Sequence[Path | Sample],
    *,
    key: dict[str, Any],
    cache_dir: Path,
    cache_gb: float,
    device: torch.device,
    batch: int = 16,
    progress: bool = True,
) -> Features:
    """The features of `samples`: from the cache, computed into it, or computed anew in each epoch.

    Args:
        model: its backbone and fusion are used.
        config: of the model; what stands before the whitening is part of the cache's key.
        prior: as FeatureExtractor takes it.
        reader: of the images.
        samples: the images, in the order of the indices.
        key: what else the features depend on: hashes of weights and images, normalisation.
        cache_dir: where caches live; the oldest are removed when room is needed.
        cache_gb: most disk that `cache_dir` may take; 0: no cache.
        device: where the backbone runs.
        batch: images per pass.
        progress: whether to show a bar.
    """
    extractor = FeatureExtractor(model, prior, device)
    shape = (len(samples), model.grid[0] * model.grid[1], model.fusion.channels + 1)
    size = 2 * shape[0] * shape[1] * shape[2]
    if size > cache_gb * 1e9:
        return ComputedFeatures(extractor, reader, samples)
    path = cache_dir / f"{_digest(config, prior, key)}.npy"
    cached = _read_cache(path, shape)
    if cached is not None:
        return cached
    _make_room(cache_dir, int(cache_gb * 1e9) - size)
    with write_aside(path) as aside, aside.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, images in reader.batches(samples, batch, desc="features", progress=progress):
            tokens, mask = extractor(images)
            file.write(torch.cat([tokens, mask.unsqueeze(2)], dim=2).numpy().tobytes())
    cached = _read_cache(path, shape)
    if cached is None:
        raise ModelError(f"the feature cache '{path}' cannot be read back; is the disk full?")
    return cached


def default_cache_dir() -> Path:
    """Where features are cached: $AGP_EDGE_CACHE, else below the user's cache folder."""
    own = os.environ.get("AGP_EDGE_CACHE")
    if own:
        return Path(own) / "features"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "agp_edge" / "features"


def _digest(config: ModelConfig, prior: str, key: dict[str, Any]) -> str:
    settings = {
        name: value for name, value in config_to_dict(config).items() if name not in _AFTER_FUSION
    }
    import timm  # noqa: PLC0415  (only its version)

    document = {
        "version": 2,
        "settings": settings,
        "prior": prior,
        "torch": torch.__version__,
        "timm": timm.__version__,
        **key,
    }
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_cache(path: Path, shape: tuple[int, int, int]) -> CachedFeatures | None:
    """The features in a cache file; None where it is missing, cut or of another shape."""
    try:
        cached = CachedFeatures(path, shape)
    except (OSError, ValueError, EOFError):
        return None
    with suppress(OSError):
        os.utime(path)  # used now: removed last
    return cached


def _make_room(folder: Path, limit: int) -> None:
    """Removes the caches that were not used for longest until the folder holds `limit` bytes."""
    remove_leftovers(folder, older_than=86400.0)  # younger ones may be another training's
    caches = sorted(folder.glob("[!.]*.npy"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in caches)
    for path in caches:
        if total <= limit:
            return
        total -= path.stat().st_size
        with suppress(OSError):
            path.unlink()
