"""`agp-edge train` and `agp-edge export`: what they print, write and refuse."""

import json
import os
import subprocess
import sys

import pytest

from agp_edge.cli import main
from agp_edge.manifest import read_manifest

SMALL = ["--backbone", "test_efficientnet", "--weights", "random", "--size", "64", "--batch", "8"]


@pytest.fixture
def arguments(images, tmp_path):
    return ["train", str(images), "-o", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]


def test_train_resume_and_export(arguments, tmp_path, capfd):
    assert main([*arguments, *SMALL, "--seed", "3"]) == 0
    out, err = capfd.readouterr()
    assert "trained, held-out error" in out
    assert "next: agp-edge export" in out
    assert "fine map" in err  # a bar
    document = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert document["train"]["seed"] == 3
    assert (document["model"]["height"], document["model"]["width"]) == (64, 64)

    # resuming needs none of the settings again, and refuses others
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments, "--resume", "--seed", "4"]) == 1
    assert main([*arguments, *SMALL]) == 1
    _, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("agp-edge: ")]
    assert "seed = 3, now it is 4" in lines[0]
    assert "--resume" in lines[1]

    model = tmp_path / "model.onnx"
    assert main(["export", str(tmp_path / "run"), "-o", str(model), "--false-reject", "0.3"]) == 0
    out, _ = capfd.readouterr()
    assert "scores differ by at most" in out
    assert "of good images rejected, from 4 held-out images" in out
    manifest = read_manifest(model)
    assert manifest["threshold"]["n"] == 4
    assert manifest["training"] == {"epoch": 0, "epochs": 1, "input_size": "as given"}


def test_the_paper_s_decoder(arguments, tmp_path, capfd):
    options = ["--decoder", "transformer", "--epochs", "2", "--perturbation", "uniform"]
    assert main([*arguments, *SMALL, *options]) == 0
    out, _ = capfd.readouterr()
    assert out.startswith("2 epochs, best ")
    document = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert document["model"]["decoder"] == "transformer"
    assert document["train"]["perturbation"] == "uniform"
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments, "--resume", "--decoder", "mlp"]) == 1
    assert "decoder = 'transformer', now it is 'mlp'" in capfd.readouterr().err
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "model.onnx")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "no_such_net"], "no model 'no_such_net'"),
        (["--backbone", "test_efficientnet", "--weights", "gone.pth"], "gone.pth"),
        ([*SMALL, "--size", "60"], "60x60 does not fit"),
        ([*SMALL, "--layers", "7"], "layers 0 to"),
        ([*SMALL, "--decoder", "transformer", "--epochs", "0"], "epochs is 0"),
        ([*SMALL, "--epochs", "5"], "leave --epochs out, or add --decoder transformer"),
        ([*SMALL, "--learning-rate", "1"], "leave --learning-rate out"),
        ([*SMALL, "--perturbation", "none"], "leave --perturbation out"),
        ([*SMALL, "--image-noise"], "leave --image-noise out"),
        ([*SMALL, "--precision", "bf16"], "leave --precision out"),
        ([*SMALL, "--device", "warp"], "device 'warp'"),
        ([*SMALL, "--hold-out", "1.5"], "hold_out is 1.5"),
    ],
)
def test_mistakes_are_one_line(arguments, capfd, options, message):
    assert main([*arguments, *options]) == 1
    _, err = capfd.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("agp-edge: ")
    assert message in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no image"),
        (lambda folder: folder.write_text("x"), "is a file"),
        (lambda folder: (folder / "train").mkdir(parents=True), "good"),
    ],
)
def test_missing_and_empty_data(tmp_path, capfd, make, message):
    folder = tmp_path / "data"
    make(folder)
    assert main(["train", str(folder), "-o", str(tmp_path / "run"), *SMALL]) == 1
    _, err = capfd.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("options", [["--size", "0"], ["--size", "axb"], ["--layers", "a"], []])
def test_wrong_usage(tmp_path, options):
    command = [sys.executable, "-m", "agp_edge", "train", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "usage: agp-edge train" in done.stderr


def test_export_of_nothing(tmp_path, capfd):
    assert main(["export", str(tmp_path / "gone"), "-o", str(tmp_path / "model.onnx")]) == 1
    _, err = capfd.readouterr()
    assert "agp-edge train" in err
    assert not (tmp_path / "model.onnx").exists()
