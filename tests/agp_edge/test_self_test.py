import hashlib

import numpy as np
import pytest

from agp_edge import Detector, ModelError, self_test
from agp_edge.self_test import check_self_test, self_test_frame, synthetic_frame

SPEC = {"input": {"height": 64, "width": 48, "roi": None}}


def test_the_bytes_never_change():
    # Manifests in the field hold scores of these frames: a changed generator refuses them all.
    frame = synthetic_frame(7, 384, 384)
    digest = hashlib.sha256(frame.tobytes()).hexdigest()
    assert digest == "faefe9ca3159d18a9360bebf4c1760fada1b6ef385631248af7932f8c9a49f0e"


def test_any_size_and_seed():
    for seed in (0, 1, 2**31 - 1, 2**32 - 1):
        for height, width in ((1, 1), (3, 700), (257, 2)):
            frame = synthetic_frame(seed, height, width)
            assert frame.shape == (height, width, 3)
            assert frame.dtype == np.uint8


def test_a_larger_frame_begins_with_the_smaller_one():
    np.testing.assert_array_equal(synthetic_frame(3, 90, 130)[:64, :64], synthetic_frame(3, 64, 64))


def test_seeds_and_channels_differ_and_use_the_range():
    one, two = synthetic_frame(1, 256, 256), synthetic_frame(2, 256, 256)
    assert (one != two).mean() > 0.9
    for channel in range(3):
        assert one[:, :, channel].std() > 10
    assert np.abs(np.corrcoef(one.reshape(-1, 3).T)[0, 1]) < 0.95


def test_the_frame_holds_the_region_of_interest():
    assert self_test_frame(SPEC, 1).shape == (96, 72, 3)
    spec = {"input": {"height": 64, "width": 48, "roi": [100, 10, 30, 40]}}
    assert self_test_frame(spec, 1).shape == (96, 130, 3)


def manifest(asked: str, score: float) -> dict:
    return {"precision": {"asked": asked}, "self_test": {"seed": 1, "score": score}}


@pytest.mark.parametrize(("asked", "off"), [("fp32", 0.9e-3), ("fp16", 0.9e-2), ("int8", 4.5e-2)])
def test_within_the_tolerance(asked, off):
    check_self_test(manifest(asked, 0.5), 0.5 * (1 + off), "m")
    check_self_test(manifest(asked, 0.5), 0.5 * (1 - off), "m")


@pytest.mark.parametrize(
    ("asked", "score"),
    [("fp32", 0.5006), ("fp16", 0.506), ("int8", 0.47), ("fp32", float("nan")),
     ("fp32", float("inf"))],
)  # fmt: skip
def test_outside_the_tolerance(asked, score):
    with pytest.raises(ModelError, match=r"'m' fails its self-test: .* expected 0\.5 within"):
        check_self_test(manifest(asked, 0.5), score, "m")


def test_an_engine_that_computes_more_coarsely():
    check_self_test(manifest("fp32", 0.5), 0.5 * (1 + 0.9e-2), "m", engine="openvino-bf16")
    check_self_test(manifest("int8", 0.5), 0.5 * (1 + 4.5e-2), "m", engine="openvino-bf16")
    with pytest.raises(ModelError, match=r"within 0\.01 of it \(fp32, computed in bfloat16\)"):
        check_self_test(manifest("fp32", 0.5), 0.506, "m", engine="openvino-bf16")
    with pytest.raises(ModelError, match="fails"):
        check_self_test(manifest("fp32", 0.5), 0.502, "m", engine="openvino")


def open_with_score(write_model, path, score, **options):
    changes = {"self_test": {"seed": 11, "score": score}}
    return Detector(write_model(path, changes=changes), **options)


def true_score(write_model, tmp_path) -> float:
    path = write_model(tmp_path / "plain.onnx")
    with Detector(path) as detector:
        return detector.score(self_test_frame(detector.manifest, 11)).score


def test_a_detector_checks_itself_on_load(write_model, tmp_path):
    score = true_score(write_model, tmp_path)
    open_with_score(write_model, tmp_path / "right.onnx", score).close()
    with pytest.raises(ModelError, match="fails its self-test"):
        open_with_score(write_model, tmp_path / "wrong.onnx", score * 1.002)
    open_with_score(write_model, tmp_path / "wrong.onnx", score * 2, self_test=False).close()


def test_the_caller_s_own_settings_do_not_reach_the_self_test(write_model, tmp_path):
    score = true_score(write_model, tmp_path)
    # This region lies outside the synthetic frame.
    with open_with_score(
        write_model, tmp_path / "m.onnx", score, roi=(500, 500, 64, 64), threshold=-1.0, outputs=()
    ) as detector:
        assert detector.threshold == -1.0


def test_every_engine_passes_the_same_self_test(write_model, tmp_path):
    score = true_score(write_model, tmp_path)
    for engine in ("onnxruntime", "openvino"):
        open_with_score(write_model, tmp_path / "m.onnx", score, engine=engine).close()


@pytest.mark.parametrize(
    ("vnni", "cause"), [(False, "this CPU has no VNNI"), (True, "build it again")]
)
def test_a_cpu_whose_int8_sums_overflow_is_named(monkeypatch, vnni, cause):
    monkeypatch.setattr(self_test, "has_vnni", lambda: vnni)
    with pytest.raises(ModelError, match=cause):
        check_self_test(manifest("int8", 0.5), 0.7, "m", engine="openvino")
    with pytest.raises(ModelError, match="build it again"):
        check_self_test(manifest("int8", 0.5), 0.7, "m", engine="onnxruntime")
    with pytest.raises(ModelError, match="build it again"):
        check_self_test(manifest("fp32", 0.5), 0.7, "m", engine="openvino")
