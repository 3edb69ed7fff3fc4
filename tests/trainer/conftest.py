"""Small images and tiny untrained timm networks: a training takes a second."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from agp_edge.calibration.fp16.convert import fp16_from_onnx
from agp_edge.dataset import open_dataset
from agp_edge.manifest import read_manifest
from agp_edge.plan.build import plan_from_onnx
from agp_edge.trainer.backbone import Backbone, backbone_options
from agp_edge.trainer.config import ModelConfig, TrainConfig
from agp_edge.trainer.model import AgpNet
from agp_edge.trainer.train import train
from agp_edge.trainer.weights import pretrained_model

CNN = "test_efficientnet"
VIT = "test_vit"
SIZE = 64


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower on several threads, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def texture(seed, height=90, width=70):
    """A grey picture with structure: stripes, shading and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    stripes = 30 * np.sin(columns / 4 + random.uniform(0, 6)) + 20 * np.sin(rows / 9)
    image = 120 + stripes + random.normal(0, 8, (height, width))
    return np.clip(image, 0, 255).astype(np.uint8)


def write_images(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), texture(start + index))
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("good"), 20)


def model_config(backbone=CNN, **changes):
    settings = {
        "backbone": backbone,
        "height": SIZE,
        "width": SIZE,
        "decoder": "transformer",
        "decoder_width": 32,
        "decoder_depth": 2,
        "decoder_heads": 2,
        "fine_regions": 4,
        "patch_memory": 8,
        **changes,
    }
    return ModelConfig(**settings)


def train_config(**changes):
    settings = {"epochs": 3, "batch": 8, "cache_gb": 1.0}
    return TrainConfig(**{**settings, **changes})


def run(images, folder, *, model=None, config=None, resume=False):
    return train(
        open_dataset(images),
        folder,
        model or model_config(),
        config or train_config(),
        weights="random",
        resume=resume,
        device="cpu",
        cache_dir=folder.parent / "cache",
        progress=False,
    )


def new_model(config):
    options = backbone_options(config.backbone, config.height, config.width)
    full = pretrained_model(config.backbone, "random", **options)
    return AgpNet(config, Backbone(full.model, config.backbone, config.layers)).eval()


def compile_plans(path):
    """TensorRT for RTX compiles the file for real, in FP32 and in FP16; no GPU is needed."""
    half = fp16_from_onnx(path, path.with_name("half.onnx")).path
    for source, precision in ((path, "fp32"), (half, "fp16")):
        plan = path.with_name(f"{precision}.plan")
        report = plan_from_onnx(source, plan, backend="rtx", targets=(86,))
        assert report.precision == precision
        assert read_manifest(plan)["hashes"] == read_manifest(path)["hashes"]


@pytest.fixture(scope="session")
def small():
    """The functions of this file; test modules cannot import it."""
    return SimpleNamespace(
        SIZE=SIZE,
        compile_plans=compile_plans,
        model_config=model_config,
        new_model=new_model,
        run=run,
        texture=texture,
        train_config=train_config,
        write_images=write_images,
    )
