"""The site file: each key does what it says, nothing else is read, and no other file runs."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from agp_edge import DataError, Detector, ModelError
from agp_edge.cli import main
from agp_edge.manifest import CalibrationTail
from agp_edge.signature import check_signature, new_key, sign_site
from agp_edge.site import file_sha256, read_site, site_path, write_site
from agp_edge.site_document import Site, parse_site

DIGEST = "0" * 64


@pytest.fixture
def model(tmp_path, write_model):
    return write_model(tmp_path / "m.onnx")


def put(model, **settings):
    """Writes a site file by hand, as an engineer at the line does."""
    document = {"agp_edge_site": "1.0", "model_sha256": file_sha256(model), **settings}
    site_path(model).write_text(json.dumps(document, indent=2))
    return site_path(model)


def one_error(capfd, *arguments):
    code = main([str(argument) for argument in arguments])
    stderr = capfd.readouterr().err
    assert code == 1, stderr
    assert stderr.count("\n") == 1, stderr
    assert "this is a bug" not in stderr
    return stderr


def test_threshold(model, bad_frame):
    with Detector(model) as plain:
        score = plain.score(bad_frame).score
    put(model, threshold=score + 1)
    with Detector(model) as detector:
        result = detector.score(bad_frame)
        assert detector.threshold == pytest.approx(score + 1)
        assert not result.is_anomalous
        assert result.mask_threshold == result.threshold
        assert not result.regions
        assert detector.site == json.loads(site_path(model).read_text())
    put(model, threshold=score + 1, mask_threshold=0.3)
    with Detector(model) as detector:
        result = detector.score(bad_frame)
        assert result.mask_threshold == pytest.approx(0.3)
        assert not result.is_anomalous
        assert result.regions
    # what the caller says counts more, and for the mask as well
    with Detector(model, threshold=score / 2) as detector:
        result = detector.score(bad_frame)
        assert result.is_anomalous
        assert result.mask_threshold == result.threshold


def test_p_values(model, good_frame, bad_frame):
    with Detector(model) as plain:
        assert plain.score(good_frame).p_value is None
        good, bad = plain.score(good_frame).score, plain.score(bad_frame).score
    put(model, calibration_tail={"n": 99, "scores": [bad * 2, good * 2, good * 1.5]})
    with Detector(model) as detector:
        assert detector.score(bad_frame).p_value == 2 / 100  # one of 99 scored at least as high
        assert detector.score(good_frame).p_value == 1.0  # below the tail nothing is claimed


def test_p_values_are_valid():
    """For exchangeable scores P(p <= alpha) <= alpha, with the whole sample and with a tail."""
    rng = np.random.default_rng(0)
    for kept in (50, 8):
        hits = np.zeros(4)
        for _ in range(4000):
            scores = rng.gamma(2.0, size=51)
            tail = CalibrationTail(n=50, scores=tuple(sorted(scores[1:])[-kept:]))
            hits += tail.p_value(scores[0]) <= np.array([0.02, 0.05, 0.1, 0.5])
        rates = hits / 4000
        # three standard errors above
        allowed = np.array([0.02, 0.05, 0.1, 0.5])
        assert (rates <= allowed + 3 * np.sqrt(allowed * (1 - allowed) / 4000)).all(), rates
        if kept == 50:  # and not needlessly careful: (k + 1) / 51 steps
            assert rates[3] > 0.45
    exact = CalibrationTail(n=3, scores=(1.0, 2.0, 3.0))
    assert [exact.p_value(s) for s in (0.5, 1.0, 2.5, 3.0, 4.0)] == [1, 1, 0.5, 0.5, 0.25]


def test_region_of_interest(model, bad_frame):
    put(model, rois=[[0, 0, 64, 96]])
    with Detector(model) as detector:  # left of the square
        result = detector.score(bad_frame)
        assert result.roi == (0, 0, 64, 96)
        assert not result.is_anomalous
    with Detector(model, roi=(64, 0, 64, 96)) as detector:
        result = detector.score(bad_frame)
        assert result.roi == (64, 0, 64, 96)
        assert result.is_anomalous
    put(model, rois=[])
    with Detector(model) as detector:
        assert detector.score(bad_frame).roi == (0, 0, 128, 96)


def test_several_regions_are_refused(model, capfd):
    put(model, rois=[[0, 0, 64, 96], [64, 0, 64, 96]])
    with pytest.raises(ModelError, match=r"has 2 entries in 'rois'.*one region.*copy the model"):
        Detector(model)
    assert "'rois'" in one_error(capfd, "info", model)


def test_dont_care(model, bad_frame):
    with Detector(model) as plain:
        everything = plain.score(bad_frame)
    assert everything.is_anomalous
    # the square and as much round it as blur and convolution reach
    put(model, dont_care=[[[60, 4], [124, 4], [124, 68], [60, 68]]])
    with Detector(model) as detector:
        result = detector.score(bad_frame)
    assert not result.is_anomalous
    assert result.score < 0.5 * everything.score
    assert not result.regions
    assert not result.mask.any()
    np.testing.assert_array_equal(result.anomaly_map, everything.anomaly_map)
    # a triangle elsewhere changes nothing
    put(model, dont_care=[[[0, 0], [20, 0], [0, 20]]])
    with Detector(model) as detector:
        assert detector.score(bad_frame).score == everything.score


def test_dont_care_that_leaves_nothing(model, bad_frame):
    from agp_edge import FrameError

    put(model, dont_care=[[[-1, -1], [500, -1], [500, 500], [-1, 500]]])
    with (
        Detector(model) as detector,
        pytest.raises(FrameError, match=r"don't-care areas cover all of the region of interest"),
    ):
        detector.score(bad_frame)


def test_minimum_area_and_millimetres(model, bad_frame):
    put(model, mm_per_pixel=0.25)
    with Detector(model) as detector:
        result = detector.score(bad_frame)
        assert result.regions
        for region in result.regions:
            assert region.area_mm2 == pytest.approx(region.frame_area / 16)
            assert "area_mm2" in result.to_dict()["regions"][0]
        largest = max(region.area for region in result.regions)
    put(model, min_area=largest + 1)
    with Detector(model) as detector:
        assert not detector.score(bad_frame).regions
    with Detector(model, min_area=0) as detector:
        result = detector.score(bad_frame)
        assert result.regions
        assert result.regions[0].area_mm2 is None


WRONG = [
    ({"treshold": 1}, "has the unknown key 'treshold', expected are model_sha256, threshold"),
    ({"threshold": "2"}, r"says \"2\" for 'threshold': expected a number"),
    ({"threshold": True}, "'threshold': expected a number"),
    ({"threshold": 10**400}, "'threshold': expected a finite number"),
    ({"mm_per_pixel": 0}, "'mm_per_pixel': expected a number above 0"),
    ({"min_area": 2.5}, "'min_area': expected a whole number"),
    ({"min_area": -1}, "'min_area': expected a whole number"),
    ({"rois": [0, 0, 10, 10]}, "'rois': expected a list with one"),
    ({"rois": [[0, 0, 10]]}, "'rois': expected a list with one"),
    ({"rois": [[0, 0, 0, 10]]}, "'rois': expected a list with one"),
    ({"rois": [[0, 0, 10.0, 10]]}, "'rois': expected a list with one"),
    ({"dont_care": [[[0, 0], [1, 1]]]}, "'dont_care': expected three or more corners"),
    ({"dont_care": [[[0, 0], [1, 1], [2]]]}, r"'dont_care': expected \[x, y\]"),
    ({"dont_care": {"a": 1}}, "'dont_care': expected a list of polygons"),
    ({"calibration_tail": [1, 2]}, "'calibration_tail': expected"),
    ({"calibration_tail": {"n": 1, "scores": [1, 2]}}, "2 scores in 'calibration_tail' for n = 1"),
    ({"calibration_tail": {"n": 5, "scores": []}}, "0 scores in 'calibration_tail'"),
    ({"model_sha256": "abc"}, "'model_sha256': expected 64 hex digits"),
    ({"signature": 5}, "'signature': expected a string"),
    ({"agp_edge_site": "1.2"}, r"is of version 1\.2, this agp-edge reads up to 1\.1"),
    ({"threshold_record": 1}, "'threshold_record': expected an object"),
    ({"threshold_record": {"method": "x"}}, "'threshold_record.false_reject': expected a number"),
    ({"agp_edge_site": "2.0"}, r"is of version 2\.0"),
    ({"agp_edge_site": 1}, "has no version"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_settings(changes, message, model, capfd):
    put(model, **changes)
    with pytest.raises(ModelError, match=message) as raised:
        Detector(model)
    assert "m.onnx.json" in str(raised.value)
    assert "m.onnx.json" in one_error(capfd, "info", model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ("{" * 100_000, "is not valid JSON"),
        ('{"agp_edge_site":"1.0"}', "lacks the key 'model_sha256'"),
        ('{"agp_edge_site":"1.0","threshold":NaN}', "holds NaN"),
        ('{"agp_edge_site":"1.0","threshold":1e999}', "finite"),
        ('{"agp_edge_site":"1.0","min_area":1,"min_area":2}', "has the key 'min_area' twice"),
    ],
)
def test_documents_that_are_none(text, message, model):
    site_path(model).write_text(text)
    with pytest.raises(ModelError, match=message):
        Detector(model)
    site_path(model).write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not UTF-8"):
        Detector(model)


def test_another_file_is_refused_before_an_engine_reads_it(model, monkeypatch, capfd):
    put(model)
    Detector(model).close()
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    import agp_edge.detector

    def untouched(*_, **__):
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(agp_edge.detector, "open_engine", untouched)
    monkeypatch.setattr(agp_edge.detector, "read_manifest_text", untouched)
    with pytest.raises(ModelError, match=r"is not the file that .* was written for: its SHA-256"):
        Detector(model)
    assert "SHA-256" in one_error(capfd, "info", model)


def test_a_plan_of_another_hash_is_refused_before_tensorrt(small_model, tmp_path):
    """In a process where importing any TensorRT would be seen."""
    import subprocess
    import sys

    from agp_edge.plan.build import plan_from_onnx

    plan = tmp_path / "m.plan"
    plan_from_onnx(small_model, plan, backend="rtx", targets=(86,))
    put(plan)
    flipped = bytearray(plan.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    plan.write_bytes(flipped)
    code = (
        "import sys, agp_edge\n"
        "try:\n agp_edge.Detector(sys.argv[1])\n"
        "except agp_edge.ModelError as error:\n print(error)\n"
        "print([m for m in sys.modules if 'tensorrt' in m and not m.startswith('agp_edge')])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(plan)], capture_output=True, text=True, check=True
    )
    assert "is not the file that" in run.stdout
    assert run.stdout.endswith("[]\n")


def test_missing_files(model, tmp_path):
    assert read_site(model) is None
    with pytest.raises(ModelError, match=r"none\.json' cannot be read"):
        Detector(model, site=tmp_path / "none.json")
    elsewhere = tmp_path / "line3.json"
    put(model, threshold=123.0).rename(elsewhere)
    with Detector(model, site=elsewhere) as detector:
        assert detector.threshold == 123.0
    put(model)
    model.unlink()
    with pytest.raises(ModelError, match=r"m\.onnx' cannot be read"):
        Detector(model)


def test_what_is_written_is_read_back(model):
    site = Site(
        model_sha256=file_sha256(model),
        threshold=0.1 + 0.2,
        mask_threshold=1e-30,
        calibration_tail=CalibrationTail(n=10, scores=(1.0, 2.5)),
        rois=((1, 2, 30, 40),),
        dont_care=(((0.5, 0), (10, 0.25), (3, 9)),),
        min_area=7,
        mm_per_pixel=0.05,
    )
    path = write_site(model, site)
    assert read_site(model) == site
    assert sorted(file.name for file in path.parent.iterdir()) == ["m.onnx", "m.onnx.json"]
    with pytest.raises(ModelError, match=r"finite|JSON"):
        write_site(model, Site(model_sha256=DIGEST, threshold=float("1e999")))
    assert read_site(model) == site


# -- signatures ------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path):
    return new_key(tmp_path / "keys" / "line.pem")


def test_sign_and_verify(model, keys, capfd, bad_frame):
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(ModelError, match="has no site file, and a signature was asked for"):
        Detector(model, verify=public)
    site_path(model).write_text('{"agp_edge_site": "1.0", "threshold": 0.25, "mm_per_pixel": 1}')
    assert main(["sign", str(model)]) == 0
    assert capfd.readouterr().out.endswith(", not signed\n")
    with pytest.raises(ModelError, match="has a site file without a signature"):
        Detector(model, verify=public)
    assert main(["sign", str(model), "--key", str(private)]) == 0
    assert capfd.readouterr().out.endswith(", signed\n")
    document = json.loads(site_path(model).read_text())
    assert document["threshold"] == 0.25  # kept
    with Detector(model, verify=public) as detector:
        assert detector.threshold == 0.25
        assert detector.score(bad_frame).is_anomalous
    # the key's own layout, checked by the library's documented recipe
    import base64

    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    signature = base64.b64decode(document.pop("signature"))
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    load_pem_public_key(public.read_bytes()).verify(signature, text.encode())


def test_any_change_breaks_the_signature(model, keys, tmp_path, capfd):
    private, public = keys
    put(model, threshold=0.25, rois=[[0, 0, 64, 96]])
    main(["sign", str(model), "--key", str(private)])
    signed = json.loads(site_path(model).read_text())
    for changes in (
        {"threshold": 0.26},
        {"rois": [[0, 0, 64, 95]]},
        {"min_area": 0},
        {"signature": signed["signature"][:-4] + "AAA="},
        {"signature": "no base64"},
        {"signature": ""},
    ):
        site_path(model).write_text(json.dumps({**signed, **changes}))
        with pytest.raises(ModelError, match="does not fit the key"):
            Detector(model, verify=public)
        Detector(model).close()  # nobody asked for a signature
    del signed["rois"]
    site_path(model).write_text(json.dumps(signed))
    with pytest.raises(ModelError, match="does not fit the key"):
        Detector(model, verify=public)
    _, other = new_key(tmp_path / "other.pem")
    main(["sign", str(model), "--key", str(private)])
    with pytest.raises(ModelError, match="signed with another key"):
        Detector(model, verify=other)
    # reformatting the file is no change
    text = json.dumps(json.loads(site_path(model).read_text()), indent=8, sort_keys=True)
    site_path(model).write_text(text)
    Detector(model, verify=public).close()
    assert capfd.readouterr()


def test_a_swapped_model_is_refused_though_the_signature_is_true(model, keys, write_model):
    private, public = keys
    put(model)
    write_site(model, sign_site(read_site(model), private))
    write_model(model, changes={"name": "another"})
    with pytest.raises(ModelError, match="SHA-256"):
        Detector(model, verify=public)


def test_bad_keys(model, keys, tmp_path, capfd):
    private, public = keys
    put(model)
    site = read_site(model)
    with pytest.raises(DataError, match=r"none\.pem' cannot be read"):
        sign_site(site, tmp_path / "none.pem")
    with pytest.raises(DataError, match="is no Ed25519 private key"):
        sign_site(site, public)
    with pytest.raises(DataError, match="is no Ed25519 public key"):
        check_signature(site, private, "m")
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is no Ed25519 public key"):
        check_signature(site, tmp_path / "empty", "m")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    foreign = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pub").write_bytes(
        foreign.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(DataError, match="is no Ed25519 public key"):
        check_signature(site, tmp_path / "ec.pub", "m")
    with pytest.raises(DataError, match="exists and is not overwritten"):
        new_key(private)
    assert "not overwritten" in one_error(capfd, "sign", "--new-key", private)


def test_without_cryptography(model, monkeypatch):
    import sys

    from agp_edge import DependencyError

    put(model, threshold=0.2)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    Detector(model).close()
    with pytest.raises(DependencyError, match=r"pip install 'agp-edge\[sign\]'"):
        Detector(model, verify="line.pub")


def test_info_says_what_overrides_what(model, capfd):
    put(model, threshold=0.25, mm_per_pixel=0.1, rois=[[1, 2, 30, 40]])
    assert main(["info", str(model)]) == 0
    text = capfd.readouterr().out
    assert "m.onnx.json, not signed" in text
    assert "threshold           0.25 (the model says 0.3)" in text
    assert "region of interest  [1, 2, 30, 40] (the model says none)" in text
    assert "fits the file" in text
    assert "fp32 asked" in text
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["site"]["threshold"] == 0.25


def test_score_takes_the_site_file(model, bad_frame, tmp_path, keys, capfd):
    import cv2

    cv2.imwrite(str(tmp_path / "bad.png"), bad_frame)
    put(model, threshold=99.0, calibration_tail={"n": 2, "scores": [1.0, 2.0]}, min_area=3)
    assert main(["score", str(model), str(tmp_path / "bad.png"), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["threshold"] == 99.0
    assert 0 < document["p_value"] <= 1
    assert "signature" in one_error(
        capfd, "score", model, tmp_path / "bad.png", "--verify", keys[1]
    )


def test_parse_is_strict_about_default_hash():
    assert parse_site('{"agp_edge_site":"1.0"}', "s", default_sha256=DIGEST).model_sha256 == DIGEST
    assert Path(site_path("a/b.plan")) == Path("a/b.plan.json")
