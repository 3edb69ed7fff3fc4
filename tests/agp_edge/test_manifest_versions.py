"""Manifests of every version that was ever written keep loading; the file here never changes."""

import json
from pathlib import Path

import pytest

from agp_edge import Detector, ModelError, read_manifest
from agp_edge.cli import main
from agp_edge.manifest import (
    CalibrationTail,
    InputSpec,
    Manifest,
    OutputSpec,
    PostprocessSpec,
    PrecisionSpec,
    SelfTest,
    ThresholdSpec,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("manifest-*.json")), ids=lambda p: p.stem)
def test_golden_manifests_load(golden, write_model, tmp_path):
    text = golden.read_text(encoding="utf-8").strip()
    path = write_model(tmp_path / "golden.onnx", manifest=text)
    assert read_manifest(path) == json.loads(text)


def test_there_is_a_golden_manifest_of_each_version():
    assert (GOLDEN / "manifest-1.0.json").exists()
    assert (GOLDEN / "manifest-1.1.json").exists()
    assert (GOLDEN / "manifest-1.2.json").exists()


def bottle(score="top_mean", **more):
    return Manifest(
        name="bottle",
        backbone="tf_efficientnet_lite0",
        input=InputSpec(
            name="image", height=256, width=320, mean=(127.0,) * 3, std=(128.0,) * 3,
            roi=(120, 40, 960, 768),
        ),
        output=OutputSpec(name="distance", height=32, width=40),
        postprocess=PostprocessSpec(sigma=4.0, score=score, top_share=0.02),
        classes=("Flasche 0,5 l", "瓶"),
        threshold=ThresholdSpec(
            value=0.0731, method="conformal", false_reject=0.02, n=118, unit="parts",
            mask_value=0.0688, **more,
        ),
        precision=PrecisionSpec(asked="fp16", built=None),
        opset=18,
        versions={"agp_edge": "0.1.0", "torch": "2.14.1", "timm": "1.0.20"},
        hashes={"data": "sha256:" + "0f" * 32, "weights": "sha256:" + "a1" * 32},
        created="2026-11-24T06:00:00+00:00",
        self_test=SelfTest(seed=1, score=0.05125),
    )  # fmt: skip


def test_without_what_1_1_brought_it_is_still_written_as_1_0():
    golden = (GOLDEN / "manifest-1.0.json").read_text(encoding="utf-8").strip()
    assert bottle().to_json() == golden.replace('manifest":"1.0"', 'manifest":"1.2"')


@pytest.mark.parametrize(("version", "score"), [("1.1", "top_mean"), ("1.2", "power_mean")])
def test_later_versions_are_still_written_the_same_way(version, score):
    manifest = bottle(
        score, target=0.02, confidence=0.9, mask_target=0.01, images=354,
        images_sha256="sha256:" + "3c" * 32, scored_by="sha256:" + "5e" * 32,
        created="2026-11-24T07:00:00+00:00", tail=CalibrationTail(n=118, scores=(0.0702, 0.0731)),
    )  # fmt: skip
    golden = (GOLDEN / f"manifest-{version}.json").read_text(encoding="utf-8").strip()
    assert manifest.to_json() == golden.replace('manifest":"1.1"', 'manifest":"1.2"')


def test_a_newer_minor_is_read_and_its_new_keys_are_kept(write_model, tmp_path, good_frame):
    changes = {"agp_edge_manifest": "1.7", "input.gamma": 2.2, "tiles": {"size": 256}}
    path = write_model(tmp_path / "minor.onnx", changes=changes)
    with Detector(path) as detector:
        assert detector.manifest["tiles"] == {"size": 256}
        assert detector.manifest["input"]["gamma"] == 2.2
        assert not detector.score(good_frame).is_anomalous


@pytest.mark.parametrize("version", ["2.0", "10.1"])
def test_a_newer_major_is_refused(version, write_model, tmp_path):
    path = write_model(tmp_path / "major.onnx", changes={"agp_edge_manifest": version})
    for use in (read_manifest, Detector):
        with pytest.raises(ModelError, match=rf"version {version}.*install a newer agp-edge"):
            use(path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"agp_edge_manifest":"1.0","name":"\udc80"}', "UTF-8|utf-8|corrupt"),
        ('{"agp_edge_manifest":"1.0","deep":' + "[" * 5000 + "]" * 5000 + "}", "manifest of"),
        ('{"agp_edge_manifest":"1.0","n":' + "9" * 5000 + "}", "manifest of"),
        ("[1, 2]", "JSON object"),
        (" ", "not valid JSON"),
    ],
)
def test_manifests_that_are_none(manifest, message, write_model, tmp_path):
    if "\udc80" in manifest:  # one byte of the file, which the ONNX library would not write
        path = write_model(tmp_path / "m.onnx", manifest=manifest.replace("\udc80", "\x01"))
        path.write_bytes(path.read_bytes().replace(b'\x01"}', b'\x80"}'))
    else:
        path = write_model(tmp_path / "m.onnx", manifest=manifest)
    with pytest.raises(ModelError, match=message):
        read_manifest(path)


@pytest.mark.parametrize("depth", [5_000, 200_000])
@pytest.mark.parametrize("key", ["classes", "an_unknown_one"])
def test_nesting_that_no_stack_takes(key, depth, write_model, tmp_path):
    golden = (GOLDEN / "manifest-1.0.json").read_text(encoding="utf-8")
    text = json.dumps({**json.loads(golden), key: "HERE"}).replace(
        '"HERE"', "[" * depth + "]" * depth
    )
    path = write_model(tmp_path / "deep.onnx", manifest=text)
    with pytest.raises(ModelError, match="nests deeper than 64 levels"):
        read_manifest(path)


def test_info(small_model, capsys):
    assert main(["info", str(small_model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_manifest(small_model)
    assert main(["info", str(small_model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "name            small" in lines
    assert "  height        64" in lines
    assert any(line.split() == ["roi", "-"] for line in lines)
