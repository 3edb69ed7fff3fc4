"""`agp-edge validate`: rates, limits, repeatability, other thresholds, and the report to sign."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from agp_edge import Detector
from agp_edge.calibration.decision.validate import validate
from agp_edge.dataset import GOOD
from agp_edge.images import read_image

from ..conftest import photo, write_photo


def by_part(model, known, kind):
    with Detector(model, threshold=0.0) as detector:
        return np.array(
            [
                [detector.score(read_image(path)).score for path in sorted(folder.iterdir())]
                for folder in sorted((known / kind).iterdir())
            ]
        )


def test_rates_and_limits(model, known, command, tmp_path):
    good = by_part(model, known, "good").max(axis=1)
    small = by_part(model, known, "small").max(axis=1)
    threshold = float(np.sort(small)[3])  # four of twelve small defects escape
    write_site_threshold(model, threshold)
    found = validate(model, known)
    assert found.has_parts
    assert len(found.parts) == 44
    assert (found.escape_by_type["small"].count, found.escape_by_type["small"].total) == (4, 12)
    assert found.escape_by_type["large"].count == 0
    assert (found.escape.count, found.escape.total) == (4, 24)
    assert found.false_reject.count == (good > threshold).sum()
    # Clopper-Pearson by the Beta quantiles
    assert found.escape.low == pytest.approx(stats.beta.ppf(0.025, 4, 21))
    assert found.escape.high == pytest.approx(stats.beta.ppf(0.975, 5, 20))
    assert found.escape_by_type["large"].low == 0.0
    assert found.escape_by_type["large"].high == pytest.approx(1 - 0.025 ** (1 / 12))
    for other in found.alternatives([0.123]):
        rejected, escaped = found.at(other)
        bad = [part.largest for part in found.parts if part.label != GOOD]
        assert rejected.count == (good > other).sum()
        assert escaped.count == sum(score <= other for score in bad)
    assert any(found.at(other)[1].count == 0 for other in found.alternatives())
    code, out, _ = command("validate", model, known, "--at", "0.123")
    assert code == 0
    assert "escapes        4 of 24 (16.67%; limits" in out
    assert re.search(r"0\.123 +\d+ of 20 rejected", out)
    assert "no record: set by hand" in out


def write_site_threshold(model, threshold):
    from agp_edge.site import file_sha256, write_site
    from agp_edge.site_document import Site

    write_site(model, Site(model_sha256=file_sha256(model), threshold=threshold))


def test_repeatability_is_the_pooled_spread(model, known):
    write_site_threshold(model, 0.3)
    gauge = validate(model, known).repeatability
    scores = np.concatenate([by_part(model, known, kind) for kind in ("good", "large", "small")])
    assert (gauge.parts, gauge.shots) == (44, 88)
    within = scores.var(axis=1, ddof=1).mean()
    assert gauge.repeatability == pytest.approx(np.sqrt(within), rel=1e-6)
    between = (2 * scores.mean(axis=1).var(ddof=1) - within) / 2
    assert gauge.part_variation == pytest.approx(np.sqrt(between), rel=1e-6)
    part = scores[0]
    write_site_threshold(model, float(part.mean()))
    flips = validate(model, known).repeatability.flips
    assert "good: good/part00" in flips


def test_report_to_sign(model, known, command, tmp_path):
    threshold = float(np.sort(by_part(model, known, "small").max(axis=1))[0])
    write_site_threshold(model, threshold)
    page, figures = tmp_path / "v.html", tmp_path / "v.json"
    code, _, err = command(
        "validate", model, known, "--html", page, "--json", figures,
        "--max-escape", "0.01", "--max-false-reject", "0.9",
    )  # fmt: skip
    assert code == 4
    assert "the escape rate is 1 of 24" in err
    document = json.loads(figures.read_text())
    assert document["escape"]["count"] == 1
    assert document["versions"]["agp-edge"]
    assert len(document["model_sha256"]) == 64
    text = page.read_text()
    for piece in (
        document["model_sha256"], document["images_sha256"], "Carried out by", "Released by",
        "Signature", "Escapes", "truly small", "data:image/jpeg;base64,", "in use",
    ):  # fmt: skip
        assert piece in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)  # one file, nothing fetched
    import hashlib

    assert hashlib.sha256(figures.read_bytes()).hexdigest() in text


def test_warnings_of_a_promise_that_is_about_something_else(model, known, tmp_path, command):
    assert command("threshold", model, known / "good", "--false-reject", "0.1")[0] == 0
    code, _, err = command("validate", model, known)
    assert code == 0
    assert "are those that the threshold was found on" in err
    rng = np.random.default_rng(20)
    write_photo(known / "good/part99/0.png", photo(rng))
    assert "found on" not in command("validate", model, known)[2]


def test_without_parts_or_defects(model, good, tmp_path, command):
    write_site_threshold(model, 0.3)
    (tmp_path / "set").mkdir()
    good.rename(tmp_path / "set/good")
    code, out, _ = command("validate", model, tmp_path / "set")
    assert code == 0
    assert "40 photos, each taken for a part of its own" in out
    assert "escapes" not in out
    assert "repeatability" not in out
    assert command("validate", model, tmp_path / "set", "--max-escape", "0.1")[0] == 4
    assert command("validate", model, tmp_path / "set", "--html", tmp_path / "v.html")[0] == 0


def test_what_cannot_be_validated(model, tmp_path, command):
    (tmp_path / "empty").mkdir()
    code, _, err = command("validate", model, tmp_path / "empty")
    assert code == 1
    assert "has no folder 'good'" in err
