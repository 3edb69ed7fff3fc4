"""Networks of both families with random weights, and pictures of good parts."""

import dataclasses

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from agp_edge import Detector, read_manifest
from agp_edge.manifest import MANIFEST_KEY, InputSpec, Manifest, OutputSpec, SelfTest, ThresholdSpec
from agp_edge.self_test import self_test_frame

SIZE = 64
IMAGES = 30
FAMILIES = ("test_efficientnet", "test_vit")


def picture(seed):
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: 70 + seed, : 90 - seed]  # no two of one size
    stripes = 30 * np.sin(columns / 4 + random.uniform(0, 6)) + 20 * np.sin(rows / 9)
    grey = 120 + stripes + random.normal(0, 8, stripes.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for index in range(IMAGES):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), picture(index))
    return folder


def export(name, images, path):
    """The trainer's own network with random weights, whitened on the images; its run beside it."""
    from agp_edge.trainer.backbone import Backbone, backbone_options
    from agp_edge.trainer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
    from agp_edge.trainer.config import ModelConfig, TrainConfig
    from agp_edge.trainer.graph import INPUT_NAME, OPSET, OUTPUT_NAME, graph_from_model
    from agp_edge.trainer.model import AgpNet
    from agp_edge.trainer.weights import pretrained_model

    torch.manual_seed(0)
    # one whose memories are layers, one whose regions are none
    memories = {"decoder": "memory", "fine_regions": 0, "fine_memory": 512}
    own = memories if name == FAMILIES[0] else {}
    config = ModelConfig(backbone=name, height=SIZE, width=SIZE, **own)
    full = pretrained_model(name, "random", **backbone_options(name, SIZE, SIZE))
    network = AgpNet(config, Backbone(full.model, name, config.layers)).eval()
    mean, std = np.float32(full.mean), np.float32(full.std)
    with torch.no_grad():
        inputs = [
            torch.from_numpy(
                (np.repeat(cv2.resize(image, (SIZE, SIZE))[..., None], 3, 2) - mean) / std
            ).permute(2, 0, 1)[None]
            for image in images
        ]
        network.whitening.fit(
            (network.fusion(network.backbone(x.float())) for x in inputs), config.shrinkage
        )
    model = graph_from_model(network, SIZE, SIZE)
    run = path.with_suffix("")
    run.mkdir()
    checkpoint = Checkpoint(
        name=name, model=config, train=TrainConfig(), weights_source="random", mean=full.mean,
        std=full.std, data_root="", data_digest="", train_files=(), held_out=(), epoch=1,
        held_out_error=None, finished=True,
    )  # fmt: skip
    write_checkpoint(run, network, checkpoint)
    grid = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    manifest = Manifest(
        name=name,
        backbone=name,
        input=InputSpec(name=INPUT_NAME, height=SIZE, width=SIZE, mean=full.mean, std=full.std),
        output=OutputSpec(name=OUTPUT_NAME, height=grid[2], width=grid[3]),
        threshold=ThresholdSpec(
            value=1.5, method="test", false_reject=0.05, n=20, unit="images", mask_value=None
        ),
        opset=OPSET,
        hashes={"weights": read_checkpoint(run)[0].weights_digest},
        self_test=SelfTest(seed=3, score=0.0),
    )
    helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    onnx.save(model, path)
    with Detector(path, self_test=False) as detector:
        score = detector.score(self_test_frame(read_manifest(path), 3)).score
    manifest = dataclasses.replace(manifest, self_test=SelfTest(seed=3, score=score))
    del model.metadata_props[:]
    helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Each family once, by name."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: export(name, [picture(seed) for seed in range(8)], folder / f"{name}.onnx")
        for name in FAMILIES
    }


@pytest.fixture(params=FAMILIES)
def family(request, exported):
    return exported[request.param]


@pytest.fixture
def cnn(exported):
    return exported[FAMILIES[0]]
