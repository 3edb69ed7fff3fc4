"""torch, ONNX Runtime, OpenVINO and the Detector agree on real images, by benchmarks/parity.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import parity

from agp_edge.dataset import open_dataset
from agp_edge.demo_data import lay_out_cells
from agp_edge.manifest import read_manifest
from agp_edge.trainer.checkpoint import load_model
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.train import train


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run on twelve solar cells and its ONNX file."""
    folder = tmp_path_factory.mktemp("parity")
    lay_out_cells("mono", folder / "data", limit=12)
    run = train(
        open_dataset(folder / "data"),
        folder / "run",
        weights="wheel",
        device="cpu",
        cache_dir=folder / "features",
        progress=False,
    )
    onnx_from_checkpoint(run.folder, folder / "model.onnx", progress=False)
    return run.folder, folder / "model.onnx"


def test_all_ways_agree_on_real_images(exported):
    for name, images in parity.image_sets(4).items():
        found = parity.compare(*exported, images)
        assert set(found) == {
            "onnxruntime",
            "openvino",
            "detector, onnxruntime",
            "detector, openvino",
        }
        for way, difference in found.items():
            assert difference.images == 4
            assert difference.is_within_tolerance, f"{name}, {way}: {difference}"


def test_the_comparison_notices_another_model(exported):
    """A tolerance that nothing exceeds proves nothing: the inverse roots grow by 5 %."""
    run, onnx_file = exported
    images = parity.image_sets(1)["solar cells"]
    model, _ = load_model(run)
    spec = read_manifest(onnx_file)["input"]
    tensor = parity.tensor_from(parity.read_image(images[0]), spec)
    network = parity.networks(run, onnx_file)["torch"]
    _, reference = parity.answer_from(network(tensor), read_manifest(onnx_file))
    model.decoder.matrix *= 1.05
    with parity.torch.no_grad():
        grid = model(parity.torch.from_numpy(tensor)).numpy()
    _, changed = parity.answer_from(grid, read_manifest(onnx_file))
    assert np.abs(changed - reference).max() / np.ptp(reference) > parity.TOLERANCE


def test_a_shifted_image_is_outside_the_tolerance(exported):
    """Half a pixel of misplacement, the classic resize mistake, must not pass unnoticed."""
    run, onnx_file = exported
    manifest = read_manifest(onnx_file)
    network = parity.networks(run, onnx_file)["onnxruntime"]
    image = parity.read_image(parity.image_sets(1)["solar cells"][0])
    tensor = parity.tensor_from(image, manifest["input"])
    shifted = tensor.copy()
    shifted[..., :-1] = (tensor[..., :-1] + tensor[..., 1:]) / 2
    _, reference = parity.answer_from(network(tensor), manifest)
    _, moved = parity.answer_from(network(shifted), manifest)
    assert np.abs(moved - reference).max() / np.ptp(reference) > 10 * parity.TOLERANCE
