"""Quantisation-aware training: rounds where the INT8 graph rounds, and loses less for it."""

import json

import numpy as np
import pytest
import torch

from agp_edge import Detector, Error, ModelError, read_manifest
from agp_edge.calibration.graph.model_file import load_fp32
from agp_edge.calibration.graph.run_graph import open_graph
from agp_edge.calibration.int8 import quantize
from agp_edge.calibration.int8.finetune import rounded_copy
from agp_edge.calibration.int8.qdq_graph import (
    calibrated_tensors,
    layers_of,
    only_layers,
    quantised_graph,
    with_half_scales,
)
from agp_edge.calibration.int8.quantize import quantise_onnx
from agp_edge.calibration.int8.ranges import collect_ranges
from agp_edge.cli import main
from agp_edge.cli.quantize import quantise_lines
from agp_edge.plan.build import plan_from_onnx
from agp_edge.report.quantisation import write_quantisation
from agp_edge.trainer.checkpoint import load_model

from .conftest import picture

STEPS = 30


def test_training_rounds_what_the_graph_rounds(family):
    """Torch's fake quantisation and ONNX Runtime's Q/DQ nodes add the same noise to the map."""
    model = load_fp32(str(family), read_manifest(family))
    layers = layers_of(model)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    limits = collect_ranges(model, calibrated_tensors(layers), [image], method="mse")
    full = with_half_scales(quantised_graph(model, layers, limits))
    exact = open_graph(model)(image)[0]
    network, _ = load_model(family.with_suffix(""))
    # one of each kind by itself: of many, values on the edge between two steps fall to either side
    kinds = {(layer.op, layer.shortcut is None): layer.name for layer in reversed(layers)}
    noisy = 0
    for name in kinds.values():
        expected = open_graph(only_layers(full, layers, {name}))(image)[0]
        copy, trained = rounded_copy(
            network, layers, limits, torch.from_numpy(image), rounded=[name], trained=[name]
        )
        assert 1 <= len(trained) <= 4
        assert sum(tensor.requires_grad for tensor in copy.parameters()) <= len(trained)
        with torch.no_grad():
            found = copy(torch.from_numpy(image))[0].numpy()
        noise = np.abs(expected - exact).mean()
        noisy += noise > 1e-6  # an untrained head gives nothing
        assert np.abs(found - expected).mean() < 0.1 * noise + 1e-6
    assert noisy >= 2


@pytest.fixture(scope="module")
def trained(exported, good, tmp_path_factory):
    """All layers of the small CNN after a few steps, and what the command said."""
    model = exported["test_efficientnet"]
    path = tmp_path_factory.mktemp("qat") / "m.onnx"
    report = quantise_onnx(
        model, good, path, count=16, method="qat", checkpoint=model.with_suffix(""), steps=STEPS
    )
    return path, report


def test_training_loses_less(trained, tmp_path):
    path, report = trained
    assert report.method == "qat"
    assert report.post_training.chosen.layers == report.search.chosen.layers == len(report.layers)
    assert report.accuracy.pixel_flips < report.post_training.chosen.accuracy.pixel_flips
    assert report.accuracy.map_difference < report.post_training.chosen.accuracy.map_difference
    assert read_manifest(path)["quantisation"]["method"] == "qat"
    assert sorted(file.name for file in path.parent.iterdir()) == ["m.onnx"]
    with Detector(path) as detector:  # passes its own self-test
        assert np.isfinite(detector.score(picture(1)).score)
    plan = plan_from_onnx(path, tmp_path / "m.plan", backend="rtx", targets=(86,))
    assert plan.precision == "int8"


def test_an_interrupted_run_does_not_train_twice(trained, cnn, good, tmp_path, monkeypatch):
    """And the same inputs give the same file."""
    from agp_edge.calibration.int8 import finetune

    path, figures = tmp_path / "m.onnx", tmp_path / "m.json"
    arguments = ["quantize", str(cnn), str(good), "-o", str(path), "--count", "16"]
    arguments += ["--method", "qat", "--checkpoint", str(cnn.with_suffix(""))]
    arguments += ["--steps", str(STEPS), "--json", str(figures)]
    real = quantize.Work.write

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize.Work, "write", stop)
    assert main(arguments) == 130
    monkeypatch.setattr(quantize.Work, "write", real)
    monkeypatch.setattr(finetune, "finetuned", stop)
    assert main(arguments) == 0
    assert path.read_bytes() == trained[0].read_bytes()
    assert json.loads(figures.read_text())["method"] == "qat"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.json", "m.onnx"]


def test_a_training_in_vain_is_said(cnn, good, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "_rank", lambda search: 0)
    report = quantise_onnx(
        cnn, good, tmp_path / "m.onnx", count=16, budget=0.0005, method="qat",
        checkpoint=cnn.with_suffix(""), steps=1,
    )  # fmt: skip
    assert (report.method, report.post_training) == ("ptq", None)
    assert report.training.chosen.layers >= 1
    assert any("did no better" in line for line in quantise_lines(report))
    assert report.to_dict()["training"]["int8_layers"] == report.training.chosen.layers
    write_quantisation(tmp_path / "m.html", report)
    assert "no better, not kept" in (tmp_path / "m.html").read_text()


def test_nothing_is_trained_within_the_budget(cnn, good, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "tuned_graph", None)
    report = quantise_onnx(
        cnn, good, tmp_path / "m.onnx", count=16, budget=1.0, method="qat",
        checkpoint=cnn.with_suffix(""),
    )  # fmt: skip
    assert (report.method, report.post_training) == ("ptq", None)
    assert report.search.chosen.layers == len(report.layers)


def test_wrong_checkpoints(exported, good, tmp_path):
    cnn, vit = exported["test_efficientnet"], exported["test_vit"]
    output = tmp_path / "m.onnx"
    with pytest.raises(Error, match="give the checkpoint that the ONNX file was exported from"):
        quantise_onnx(cnn, good, output, method="qat")
    with pytest.raises(Error, match="with the method qat only"):
        quantise_onnx(cnn, good, output, checkpoint=cnn.with_suffix(""))
    with pytest.raises(ModelError, match="was not exported from the checkpoint"):
        quantise_onnx(cnn, good, output, method="qat", checkpoint=vit.with_suffix(""))
    with pytest.raises(ModelError, match="give the folder that `agp-edge train` wrote"):
        quantise_onnx(cnn, good, output, method="qat", checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []
