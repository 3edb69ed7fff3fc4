"""Every hyperparameter, its unit and where its value comes from; all stages read them.

Sources: "paper" is arXiv 2408.07490 as far as it is documented; "neighbour" is ViTAD
(arXiv 2312.07495), the nearest public method; "ours" was chosen on good images and may be changed
where experiments say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from agp_edge.errors import ModelError
from agp_edge.manifest import PostprocessSpec

__all__ = [
    "DECODERS",
    "FITTED",
    "ModelConfig",
    "TrainConfig",
    "check_train_config",
    "config_from_dict",
    "config_to_dict",
    "postprocess_spec",
]

FITTED = ("regions", "memory")  # decoders that are fitted in one pass, without gradients
DECODERS = (*FITTED, "transformer", "mlp")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is; together with the weights it rebuilds the model."""

    backbone: str = "tf_efficientnet_lite0"  # timm's name; paper: DINO ViT-S/16 and others
    height: int = 256  # pixels of the network's input; neighbour: 256
    width: int = 256
    # Indices of model.blocks (EfficientNet, MobileNet) or of timm's feature_info (other CNNs:
    # stages, ViT: blocks); (): all stages from stride 8 on but the last; of other CNNs the last of
    # strides 8, 16, 32; of a ViT the blocks after a quarter, a half and three quarters (neighbour:
    # 3, 6, 9 of 12).
    layers: tuple[int, ...] = ()
    # Pixels between tokens of the fused grid; 0: the layers' own where they share one, else 16.
    stride: int = 0
    pool: int = 1  # tokens; side of the mean over neighbours at each layer, 1: none; ours
    normalise: str = "layer"  # each layer's token: "layer" (paper), "l2" or "none"
    # Layers become one target: "sum" (paper; needs equal widths), "concat", "auto": sum where the
    # widths are equal.
    fuse: str = "auto"
    whiten: bool = True  # fixed linear map that gives the target unit covariance; ours
    components: int = 0  # of the whitened target, largest variances first; 0: all
    shrinkage: float = 0.03  # added to the variances, in units of their mean; keeps noise small
    # "regions": the mean of the good tokens of a region, by their covariance, ours; "memory": the
    # nearest of `memory` prototypes, ours; "transformer" (paper); "mlp": each token by itself. The
    # last two are trained under perturbation.
    decoder: str = "regions"
    regions: int = 4  # along a side of the image
    # Weight, in images, of the whole image's covariance in a region's, on either grid; 0: the one
    # under which good images of parts left out are likeliest; ours.
    region_images: float = 0.0
    memory: int = 1024  # prototypes
    products: int = 1  # that one network knows, each by a branch of its own
    decoder_width: int = 64  # channels inside; unknown in the paper; narrow, so that it cannot copy
    decoder_depth: int = 4  # blocks; paper: 4
    decoder_heads: int = 4  # unknown in the paper
    bottleneck: int = 0  # channels of the narrowest layer before the decoder; 0: none
    dropout: float = 0.0  # share of bottleneck channels dropped in training
    position_scale: bool = True  # each grid position brought to the same mean and spread; ours
    distance: str = "l2"  # per token: "l2" (paper), divided by sqrt(channels), or "cosine"
    # Along a side, on the finest grid, of the first layers alone: the fine map; 0: a memory stands
    # in their place; ours.
    fine_regions: int = 16
    fine_memory: int = 0  # prototypes of that memory; both 0: there is no fine map
    # What a standard deviation of the fine distance on good images is worth, in those of the
    # coarse one; ours.
    fine_weight: float = 1.4
    # Whether the fine map's own mean over the image is taken off it: a shot that is a little
    # strange all over, by its light or its grain, is then not worse for it; ours.
    fine_centred: bool = True
    # Prototypes of patches of the first layer, neither normalised nor whitened; 0: none; ours.
    patch_memory: int = 256
    patch_weight: float = 0.7  # in the unit of fine_weight
    # timm's name of a backbone that sees each image too, for a map of its own; "": none; ours.
    second_backbone: str = ""
    second_side: int = 336  # pixels of the shorter side of what it sees; ours
    # As `layers`, but of a ViT the blocks after a half and three quarters: early ones see what the
    # first backbone's layers see.
    second_layers: tuple[int, ...] = ()
    second_weight: float = 1.0  # in the unit of fine_weight; ours
    # Standard deviations of good images' distances, from their mean: beyond that the outermost
    # tokens of the finest grid may count less; 0: never; without fine maps it is not used; ours.
    border_deviations: float = 3.0
    discriminators: int = 0  # networks trained on noise beside the coarse distance; 0: none; ours
    discriminator_width: int = 64  # channels of each one's hidden layer
    discriminator_weight: float = 0.3  # in the unit of fine_weight
    sigma: float = 4.0  # map pixels; Gaussian blur of the anomaly map; neighbour: 4
    # Of the map; paper: "max". "power_mean" is near it where a small defect stands out, and a mean
    # of many pixels where a wide area is a little raised; "top_mean": of the largest; ours.
    score: str = "power_mean"
    power: int = 20  # of "power_mean", 1 to 64; ours
    top_share: float = 0.02  # of the map's pixels, for "top_mean"; ours


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the network is trained; nothing of it is needed at inference."""

    setup: str = "one-class"  # "multi-class": several products; "few-shot": copies of few images
    # Not used by decoders that are fitted. Paper: 500 on MVTec-AD; here the held-out error rises
    # after four to nine.
    epochs: int = 10
    batch: int = 16  # images
    learning_rate: float = 1e-3  # AdamW, at its peak; neighbour: 1e-4 with a far larger decoder
    weight_decay: float = 1e-4  # neighbour
    warmup: float = 0.05  # share of all steps with a rising rate; cosine decay to zero after it
    clip: float = 1.0  # largest gradient norm
    seed: int = 0
    hold_out: float = 0.2  # share of the parts kept for the threshold; nothing else sees them
    stop_share: float = 0.1  # share of the other parts kept for early stop; 0: the last epoch stays
    patience: int = 8  # epochs without a better held-out error before training stops
    false_reject: float = 0.05  # share of good images that the threshold may reject
    # "uniform": a mask of ones; "dropout": alpha is the share of tokens set to zero, at most 1
    perturbation: str = "attention"  # or "uniform", "dropout", "none"
    prior: str = "auto"  # "attention" (paper; ViT), "energy", "border"; auto: attention or energy
    alpha: float = 1.0  # masked noise at the last epoch, in units of a token's RMS; unknown
    beta: float = 0.5  # noise everywhere, in the same unit; unknown; UniAD: 20 / sqrt(channels)
    momentum: float = 0.99  # eta of the decoder's momentum copy; unknown
    image_noise: bool = False  # second pass with a perturbed image (paper); needs the backbone
    image_noise_std: float = 0.5  # of the normalised image's unit; unknown
    image_share: float = 0.5  # share of the image under noise at the last epoch; unknown
    hard_share: float = 1.0  # share of tokens, worst first, that the loss counts; paper: all
    # The discriminators' noise: "both", half of them attention-guided (more where the prior mask is
    # large, the paper's idea), half alike everywhere; or "guided", "alike" for all; ours.
    noise: str = "both"
    noise_least: float = 0.4  # standard deviations of a whitened token; the first member's
    noise_most: float = 1.2  # the last one's
    noise_steps: int = 240
    noise_batch: int = 1024  # tokens
    noise_rate: float = 4e-3  # AdamW, at its peak
    cache_gb: float = 8.0  # most disk that cached features may take; 0: no cache
    precision: str = "fp32"  # of the decoder's training: "bf16" or "fp16" (GPU): mixed with fp32
    copies: int = 128  # few-shot: training images made of the good ones
    threshold_copies: int = 32  # few-shot: other copies, for the threshold
    suspects: str = "none"  # defects among the good images: or "report", "exclude", "weight"
    augment: str = "auto"  # few-shot: "shift", "flip" or "rotate", see augment.py


def postprocess_spec(config: ModelConfig) -> PostprocessSpec:
    """How the runtime makes anomaly map and score of the network's distances."""
    return PostprocessSpec(
        sigma=config.sigma, score=config.score, top_share=config.top_share, power=config.power
    )


def check_train_config(config: TrainConfig) -> None:  # noqa: PLR0912  (one check after another)
    """Refuses values that no training can have; the model's parts check their own.

    Raises:
        ModelError: names the setting, its value and what was expected.
    """
    for name in ("hold_out", "false_reject"):
        if not 0.0 < getattr(config, name) < 1.0:
            raise ModelError(f"{name} is {getattr(config, name)}; expected a share between 0 and 1")
    for name in (
        "epochs", "batch", "copies", "threshold_copies", "noise_steps", "noise_batch"
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise ModelError(f"{name} is {getattr(config, name)}; expected at least 1")
    for name in ("learning_rate", "clip", "noise_least", "noise_most", "noise_rate"):
        if not getattr(config, name) > 0.0:
            raise ModelError(f"{name} is {getattr(config, name)}; expected more than 0")
    for name in (
        "weight_decay",
        "patience",
        "alpha",
        "beta",
        "image_noise_std",
        "cache_gb",
        "seed",
    ):
        if not getattr(config, name) >= 0:
            raise ModelError(f"{name} is {getattr(config, name)}; expected 0 or more")
    for name in ("warmup", "momentum", "image_share", "hard_share", "stop_share"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ModelError(f"{name} is {getattr(config, name)}; expected 0 to 1")
    for name, known in (
        ("setup", ("one-class", "multi-class", "few-shot")),
        ("precision", ("fp32", "bf16", "fp16")),
        ("suspects", ("none", "report", "exclude", "weight")),
        ("noise", ("both", "guided", "alike")),
        ("augment", ("auto", "shift", "flip", "rotate")),
    ):
        if getattr(config, name) not in known:
            raise ModelError(f"{name} is '{getattr(config, name)}'; expected {', '.join(known)}")
    if config.perturbation not in ("attention", "uniform", "dropout", "none"):
        raise ModelError(
            f"perturbation is '{config.perturbation}'; expected attention, uniform, dropout or none"
        )


_Config = TypeVar("_Config", ModelConfig, TrainConfig)


def config_to_dict(config: ModelConfig | TrainConfig) -> dict[str, Any]:
    """The config as what JSON can hold; tuples become lists."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(config).items()
    }


def config_from_dict(kind: type[_Config], document: dict[str, Any], source: str) -> _Config:
    """The config that `config_to_dict` wrote.

    Keys that are missing take their default: an older file lacks what came later.

    Raises:
        ModelError: a key is unknown or of a wrong type; names `source`.
    """
    known = {field.name: field for field in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise ModelError(f"{source}: unknown setting '{key}'; was it made by a newer version?")
        default = known[key].default
        if isinstance(default, tuple) and isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and value is not True:
            values[key] = float(value)
        elif type(value) is type(default):
            values[key] = value
        else:
            raise ModelError(
                f"{source}: setting '{key}' is {value!r}; expected a {type(default).__name__}"
            )
    return kind(**values)
