"""Site files of every version that was ever written keep their meaning; those here never change."""

import json
from pathlib import Path

import pytest

from agp_edge import Detector, ModelError
from agp_edge.cli import main
from agp_edge.manifest import CalibrationTail
from agp_edge.site import file_sha256, site_path, write_site
from agp_edge.site_document import SITE_VERSION, Site, parse_site

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDS = {
    "1.0": None,
    "1.1": {
        "method": "conformal",
        "false_reject": 0.02,
        "n": 118,
        "unit": "parts",
        "target": 0.02,
        "confidence": 0.9,
        "recall": None,
        "mask_target": 0.01,
        "images": 354,
        "images_sha256": "sha256:" + "3c" * 32,
        "scored_by": "sha256:" + "5e" * 32,
        "created": "2026-11-24T07:00:00+00:00",
    },
}
versions = pytest.mark.parametrize("version", sorted(RECORDS))


def golden(version):
    return (GOLDEN / f"site-{version}.json").read_text(encoding="utf-8")


def expected(version):
    return Site(
        model_sha256="0f" * 32,
        threshold=0.0812,
        mask_threshold=0.0745,
        threshold_record=RECORDS[version],
        calibration_tail=CalibrationTail(n=118, scores=(0.0702, 0.0731, 0.0812)),
        rois=((120, 40, 960, 768),),
        dont_care=(((0.0, 0.0), (64.5, 0.0), (64.5, 48.0)),),
        min_area=6,
        mm_per_pixel=0.045,
        signature="c2lnbmF0dXJl",
    )


def test_there_is_a_golden_site_file_of_each_version():
    assert {path.stem for path in GOLDEN.glob("site-*.json")} == {f"site-{v}" for v in RECORDS}
    assert max(RECORDS) == SITE_VERSION


@versions
def test_each_setting_is_read_as_it_was_meant(version):
    assert parse_site(golden(version), "golden") == expected(version)


@versions
def test_it_is_still_written_the_same_way(version, small_model, tmp_path):
    """Signatures cover these bytes: another order of keys or digits would void them all."""
    model = tmp_path / "m.onnx"
    model.write_bytes(small_model.read_bytes())
    assert write_site(model, expected(version)).read_text(encoding="utf-8") == golden(version)


@versions
def test_what_a_signature_covers_has_not_changed(version):
    document = json.loads(golden(version))
    del document["signature"]
    signed = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert parse_site(golden(version), "golden").signed_bytes() == signed


@versions
def test_a_detector_works_by_it(version, small_model, tmp_path, good_frame):
    model = tmp_path / "m.onnx"
    model.write_bytes(small_model.read_bytes())
    document = {**json.loads(golden(version)), "model_sha256": file_sha256(model)}
    document["rois"] = [[8, 4, 96, 80]]  # the golden one is for larger frames
    site_path(model).write_text(json.dumps(document))
    with Detector(model) as detector:
        result = detector.score(good_frame)
        assert detector.threshold == pytest.approx(0.0812)
        assert result.mask_threshold == pytest.approx(0.0745)
        assert result.roi == (8, 4, 96, 80)
        assert result.p_value is not None
        assert detector.site["min_area"] == 6
        assert detector.site["mm_per_pixel"] == 0.045


@pytest.mark.parametrize("version", ["1.2", "2.0", "10.1"])
def test_a_newer_version_is_refused_in_one_sentence(version, small_model, tmp_path, capfd):
    model = tmp_path / "m.onnx"
    model.write_bytes(small_model.read_bytes())
    document = {**json.loads(golden("1.1")), "agp_edge_site": version, "a_new_key": [1]}
    site_path(model).write_text(json.dumps(document))
    said = (
        f"the site file '{site_path(model)}' is of version {version}, this agp-edge reads up to "
        f"{SITE_VERSION}: install a newer agp-edge"
    )
    with pytest.raises(ModelError) as caught:
        Detector(model)
    assert str(caught.value) == said
    assert main(["info", str(model)]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert said in error
