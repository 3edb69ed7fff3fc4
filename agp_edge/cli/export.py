"""`agp-edge export`: checkpoint -> model.onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "export a checkpoint to ONNX, check it against torch and set the decision threshold"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train wrote")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="ONNX file to write")
    parser.add_argument(
        "--data", metavar="FOLDER", help="the data set, if it moved since the training"
    )
    parser.add_argument(
        "--false-reject",
        type=float,
        metavar="SHARE",
        help="share of good parts that the default threshold may reject, between 0 and 1 "
        "(default: as trained)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, and print what was found."""
    from agp_edge.trainer.export import onnx_from_checkpoint  # noqa: PLC0415  (loads torch)

    result = onnx_from_checkpoint(
        args.checkpoint, args.output, data=args.data, false_reject=args.false_reject
    )
    print(f"torch and ONNX Runtime on {result.parity}")
    threshold = result.manifest.threshold
    if threshold is not None and threshold.false_reject >= 1.0:
        print(
            f"threshold {threshold.value:.4f}: the largest score of changed copies of the "
            f"{threshold.n} good images; NO false-reject rate is promised: hold new good parts "
            "against it before a line depends on it"
        )
    elif threshold is not None:
        print(
            f"threshold {threshold.value:.4f}: at most {threshold.false_reject:.1%} of good "
            f"{threshold.unit} rejected, from {threshold.n} held-out {threshold.unit}"
        )
    if result.products:
        print("one threshold for all products; the rate holds for their mixture, not for each:")
    for product in result.products:
        print(
            f"  {product.name}: {product.rejected} of {product.images} held-out images rejected, "
            f"scores {product.median:.4f} (median) to {product.largest:.4f}"
        )
    print(f"wrote {result.path}")
    return 0
