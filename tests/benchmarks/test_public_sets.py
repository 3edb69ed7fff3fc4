"""benchmarks/public_sets.py from folder to table, on generated images with untrained backbones."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import provenance
import public_sets

from agp_edge.errors import ModelError
from agp_edge.evaluate import evaluate
from agp_edge.manifest import read_manifest
from agp_edge.plan.build import plan_from_onnx
from agp_edge.public_layouts import open_public

SIDE = 64
SMALL = ["--backbone", "test_vit", "--size", str(SIDE), "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Where results go instead of into the repository."""
    monkeypatch.setattr(provenance, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def write(path, seed, *, defect=False, mask_path=None, value=255):
    """A colour image of stripes; a defect is a bright square, drawn into the mask too."""
    random = np.random.default_rng(seed)
    stripes = 110 + 40 * np.sin(np.arange(SIDE) / 3 + random.uniform(0, 1))
    image = stripes[None, :, None] + random.normal(0, 6, (SIDE, SIDE, 3))
    if defect:
        image[20:36, 28:44] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))
    if mask_path is not None:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[20:36, 28:44] = value
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(mask_path), mask)


def write_mvtec(root, names):
    for index, name in enumerate(names):
        for number in range(8):
            write(root / name / f"train/good/{number:03}.png", 100 * index + number)
        for number in range(2):
            write(root / name / f"test/good/{number:03}.png", 100 * index + 50 + number)
            write(
                root / name / f"test/spot/{number:03}.png",
                100 * index + 60 + number,
                defect=True,
                mask_path=root / name / f"ground_truth/spot/{number:03}_mask.png",
            )


def write_visa(root, names):
    rows = ["object,split,label,image,mask"]
    for index, name in enumerate(names):
        for number in range(10):
            image = f"{name}/Data/Images/Normal/{number:04}.JPG"
            write(root / image, 100 * index + number)
            rows.append(f"{name},{'test' if number < 2 else 'train'},normal,{image},")
        for number in range(2):
            image = f"{name}/Data/Images/Anomaly/{number:03}.JPG"
            mask = f"{name}/Data/Masks/Anomaly/{number:03}.png"
            seed = 100 * index + 60 + number
            write(root / image, seed, defect=True, mask_path=root / mask, value=1 + number)
            rows.append(f"{name},test,anomaly,{image},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")


def write_mvtec3d(root, names):
    for index, name in enumerate(names):
        for number in range(8):
            write(root / name / f"train/good/rgb/{number:03}.png", 100 * index + number)
        write(root / name / "validation/good/rgb/000.png", 100 * index + 40)
        for number in range(2):
            write(root / name / f"test/good/rgb/{number:03}.png", 100 * index + 50 + number)
            write(
                root / name / f"test/hole/rgb/{number:03}.png",
                100 * index + 60 + number,
                defect=True,
                mask_path=root / name / f"test/hole/gt/{number:03}.png",
            )


def untrained(backbone):
    """A state dict as a publisher saves it, for the backbone's own size; never twice the same."""
    import timm

    state = timm.create_model(backbone).state_dict()
    return {f"backbone.{name}": tensor for name, tensor in state.items()}


def run(tmp_path, *arguments):
    return public_sets.main([*arguments, "--runs", str(tmp_path / "runs"), *SMALL])


def test_one_class_table_of_mvtec(tmp_path, results, capsys):
    data = tmp_path / "data"
    write_mvtec(data, ["bottle"])
    assert run(tmp_path, "mvtec", str(data), "--weights", "random") == 0
    out = capsys.readouterr().out
    assert "random weights: a test of the path, not a figure" in out
    assert "| paper, mean of 15 | 99.2 | 98.3 | - |" in out
    assert "public review" in out
    assert "1 of 15 classes: this mean cannot be compared" in out

    document = json.loads((results / "public_mvtec_one-class_paper_random.json").read_text())
    assert document["provenance"]["versions"]["timm"]
    assert document["note"] == "random weights: a test of the path, not a figure"
    assert document["paper"] == {"image_auroc": 99.2, "pixel_auroc": 98.3, "aupro": None}
    assert document["model_config"]["whiten"] is False
    assert document["train_config"]["image_noise"] is True
    row = document["classes"]["bottle"]
    assert (row["n_good"], row["n_defective"]) == (2, 2)
    assert (row["training"]["n_train"], row["training"]["epochs"]) == (8, 1)

    # the table says what the exported file gives
    model = tmp_path / "runs/bottle/model.onnx"
    again = evaluate(model, data / "bottle", resamples=2).to_dict()
    for key in public_sets.METRICS:
        assert row[key] == again[key]
    cells = " | ".join(f"{100 * row[key]:.1f}" for key in public_sets.METRICS)
    assert f"| bottle | {cells} |" in out
    assert f"| bottle | {cells} |" in (
        results / "public_mvtec_one-class_paper_random.md"
    ).read_text(encoding="utf-8")

    # what is done is not done again
    written = model.with_name("checkpoint.safetensors").stat().st_mtime_ns
    assert run(tmp_path, "mvtec", str(data), "--weights", "random") == 0
    assert model.with_name("checkpoint.safetensors").stat().st_mtime_ns == written
    assert f"| bottle | {cells} |" in capsys.readouterr().out


def test_multi_class_of_visa_from_a_weights_file(tmp_path, results, capsys):
    """One model, a row per class; the paper's backbone, its weights from a local file."""
    data, weights = tmp_path / "data", tmp_path / "dino.pth"
    torch.save({"teacher": untrained("vit_small_patch16_224.dino")}, weights)
    write_visa(data, ["candle", "pcb1"])
    arguments = ["visa", str(data), "--weights", str(weights), "--setup", "multi-class"]
    arguments += ["--runs", str(tmp_path / "runs"), *SMALL[2:]]  # the default backbone
    assert public_sets.main(arguments) == 0
    out = capsys.readouterr().out
    assert "random" not in out
    assert "| **mean of 2** |" in out
    assert "| paper, mean of 12, setup not stated | 92.3 | 98.4 | - |" in out
    document = json.loads((results / "public_visa_multi-class_paper.json").read_text())
    assert list(document["classes"]) == ["candle", "pcb1"]
    assert document["weights"] == "dino.pth"
    assert document["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(document)
    model = tmp_path / "runs/all/model.onnx"
    for dataset in open_public("visa", data):
        again = evaluate(model, dataset, resamples=2).to_dict()
        assert document["classes"][dataset.root.name]["aupro"] == again["aupro"]

    # shape and compile: the plan that an edge device would get
    manifest = read_manifest(model)
    assert (manifest["setup"], manifest["classes"]) == ("multi-class", ["candle", "pcb1"])
    assert (manifest["input"]["height"], manifest["input"]["width"]) == (SIDE, SIDE)
    assert (manifest["output"]["height"], manifest["output"]["width"]) == (4, 4)  # patches of 16
    report = plan_from_onnx(model, tmp_path / "m.plan", backend="rtx", targets=(86,))
    assert report.precision == "fp32"
    assert report.weights > 20_000_000  # nine blocks of ViT-S and a decoder of its width

    # other weights do not go on where these ended
    torch.save({"teacher": untrained("vit_small_patch16_224.dino")}, weights)
    assert public_sets.main(arguments) == 1
    assert "was started with other backbone weights" in capsys.readouterr().err


def test_dinov2_from_a_file_has_a_map_at_a_multiple_of_its_patch(tmp_path):
    from agp_edge.trainer.network import new_model

    weights = tmp_path / "dinov2.pth"
    state = untrained("vit_small_patch14_dinov2.lvd142m")  # for 518 pixels
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, weights)  # published with it
    arguments = ["mvtec", "-", "--weights", "-", "--backbone", "vit_small_patch14_dinov2.lvd142m"]
    config, _ = public_sets.configs(public_sets.parse([*arguments, "--size", "56"]))
    model, _ = new_model(config, str(weights), 0)
    loaded = model.backbone.model.blocks[8].mlp.fc2.weight
    assert torch.equal(loaded, state["backbone.blocks.8.mlp.fc2.weight"])
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 56, 56)).shape == (1, 1, 4, 4)
    wrong, _ = public_sets.configs(public_sets.parse(arguments))
    with pytest.raises(ModelError, match="multiples of 14 pixels"):
        new_model(wrong, str(weights), 0)


def test_product_method_on_a_cnn_with_mvtec3d(tmp_path, results, capsys):
    data = tmp_path / "data"
    write_mvtec3d(data, ["bagel", "rope"])
    options = ["--backbone", "test_efficientnet", "--method", "product", "--with-validation"]
    arguments = ["mvtec3d", str(data), "--weights", "random", "--runs", str(tmp_path / "runs")]
    assert public_sets.main([*arguments, *SMALL, *options, "--classes", "rope"]) == 0
    out = capsys.readouterr().out
    assert "| paper, mean of 10, setup not stated | 84.9 | - | - |" in out
    name = "public_mvtec3d_one-class_product_random.json"
    document = json.loads((results / name).read_text())
    assert list(document["classes"]) == ["rope"]
    assert document["classes"]["rope"]["training"]["n_train"] == 9
    assert document["model_config"]["whiten"] is True


def test_what_cannot_be_run_is_said_in_one_line(tmp_path, results, capsys):
    data = tmp_path / "data"
    write_mvtec(data, ["bottle"])
    for arguments, message in (
        (["visa", str(data), "--weights", "random"], "1cls.csv' does not exist"),
        (["mvtec", str(data), "--weights", "no.pth"], "weights 'no.pth' do not exist"),
        (["mvtec", str(data), "--weights", "random", "--classes", "nut"], "no class 'nut'"),
        (
            ["mvtec", str(data), "--weights", "random", "--setup", "multi-class"],
            "multi-class needs two classes or more; got 1",
        ),
    ):
        assert run(tmp_path, *arguments) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert message in captured.err
        assert len(captured.err.strip().splitlines()) == 1
    assert not results.exists()
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, "coco", str(data), "--weights", "random")
    assert caught.value.code == 2
