"""`agp-edge threshold`: what it sets and where, what it promises, what it refuses and warns of."""

import csv
import json
import re
import shutil

import numpy as np
import onnx
import pytest

from agp_edge import Detector, read_manifest
from agp_edge.calibration.decision.good_set import suspicious
from agp_edge.calibration.decision.score_journal import ImageScore
from agp_edge.calibration.decision.scoring import Scored, journal_path, region_peak
from agp_edge.calibration.decision.set_threshold import set_threshold
from agp_edge.calibration.decision.write_threshold import write_manifest_threshold
from agp_edge.dataset import Sample
from agp_edge.images import list_images, read_image
from agp_edge.manifest import MANIFEST_LIMIT, CalibrationTail, ThresholdSpec
from agp_edge.site import file_sha256, read_site, site_path, write_site
from agp_edge.site_document import Site

from ..conftest import photo, write_photo, write_small_model


def scores(model, images):
    with Detector(model, threshold=0.0) as detector:
        return np.array([detector.score(read_image(path)).score for path in images])


def test_the_order_statistic_goes_into_the_manifest_and_nothing_else_changes(
    model, good, command, threshold_of
):
    before = onnx.load(model)
    expected = np.sort(scores(model, list_images(good)))
    code, out, err = command("threshold", model, good, "--false-reject", "0.05")
    assert (code, err) == (0, "")
    record = threshold_of(model)
    assert record["value"] == expected[38]  # ceil(41 * 0.95) = 39th of 40
    assert record["false_reject"] == pytest.approx(2 / 41)
    assert (record["n"], record["unit"], record["images"]) == (40, "images", 40)
    assert (record["target"], record["method"]) == (0.05, "conformal")
    assert record["images_sha256"].startswith("sha256:")
    assert "rejects at most 4.88 % of new good images on average, from 40" in out
    after = onnx.load(model)
    assert after.graph == before.graph
    assert {p.key for p in after.metadata_props} == {p.key for p in before.metadata_props}
    with Detector(model) as detector:
        results = [detector.score(read_image(path)) for path in list_images(good)]
    assert sum(result.is_anomalous for result in results) == 1  # of 40: the threshold itself passes
    ranks = [result.p_value * 41 for result in results]
    assert sorted(np.rint(ranks)) == list(range(2, 42))
    rows = csv.DictReader(command("score", model, good, "--csv")[1].splitlines())
    assert [float(row["p_value"]) for row in rows] == [result.p_value for result in results]
    assert "promise" in command("info", model)[1]


def test_p_values_are_super_uniform(model, good, tmp_path):
    """New good parts: P(p <= alpha) <= alpha; checked on photographs that were not calibrated."""
    set_threshold(model, good, false_reject=0.05)
    rng = np.random.default_rng(99)
    with Detector(model) as detector:
        p_values = np.array([detector.score(photo(rng)).p_value for _ in range(300)])
    for alpha in (0.05, 0.1, 0.2, 0.5):
        # one calibration set: the rate itself varies like Beta, here by at most four deviations
        spread = np.sqrt(alpha * (1 - alpha) * (1 / 300 + 1 / 40))
        assert (p_values <= alpha).mean() <= alpha + 4 * spread
    rng = np.random.default_rng(100)
    hits = np.zeros(3)
    alphas = np.array([0.05, 0.1, 0.5])
    for _ in range(3000):
        drawn = rng.gamma(2, size=41).round(1)  # with ties
        tail = CalibrationTail(n=40, scores=tuple(sorted(drawn[1:])[-10:]))
        hits += tail.p_value(drawn[0]) <= alphas
    assert (hits / 3000 <= alphas + 3 * np.sqrt(alphas * (1 - alphas) / 3000)).all()


def test_parts_count_once_with_their_largest_score(model, good, command, threshold_of):
    images = list_images(good)
    found = scores(model, images).reshape(20, 2)
    rows = [f"{path.name},tile{index // 2}" for index, path in enumerate(images)]
    (good / "parts.csv").write_text("file,part\n" + "\n".join(rows) + "\n")
    assert command("threshold", model, good, "--false-reject", "0.1")[0] == 0
    record = threshold_of(model)
    assert (record["n"], record["unit"], record["images"]) == (20, "parts", 40)
    assert record["value"] == np.sort(found.max(axis=1))[18]
    code, _, err = command("threshold", model, good, "--false-reject", "0.04")
    assert code == 1
    assert "20 independent good parts" in err
    assert "24 are needed; photograph 4 more" in err
    (good / "parts.csv").write_text("file,part\n" + "\n".join(rows[1:]) + "\n")
    code, _, err = command("threshold", model, good, "--false-reject", "0.1")
    assert code == 1
    assert "does not list 'p00.png'" in err


def test_a_folder_per_part(model, good, tmp_path, command, threshold_of):
    for index, path in enumerate(list_images(good)):
        (good / f"tile{index // 2}").mkdir(exist_ok=True)
        path.rename(good / f"tile{index // 2}" / path.name)
    assert command("threshold", model, good, "--false-reject", "0.1")[0] == 0
    assert threshold_of(model)["n"] == 20
    write_photo(good / "loose.png", photo(np.random.default_rng(0)))
    code, _, err = command("threshold", model, good, "--false-reject", "0.1")
    assert code == 1
    assert "holds images and folders" in err


def test_too_few_are_refused_before_anything_is_scored(model, good, command):
    before = file_sha256(model)
    code, _, err = command("threshold", model, good, "--false-reject", "0.001")
    assert code == 1
    assert "999 are needed; photograph 959 more" in err
    code, _, err = command(
        "threshold", model, good, "--false-reject", "0.001", "--confidence", "0.95"
    )
    assert "2995 are needed" in err
    assert err.count("\n") == 1
    assert file_sha256(model) == before
    assert not journal_path(model).exists()


def test_an_interrupted_run_goes_on_where_it_was(model, good, command, monkeypatch):
    images = list_images(good)
    whole = images[20].read_bytes()
    images[20].write_bytes(whole[:200])
    code, _, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 1
    assert "p20.png' is truncated or corrupt" in err
    images[20].write_bytes(whole)
    with journal_path(model).open("a") as file:
        file.write('{"sha256": "cut o')  # as a kill leaves it
    code, out, err = command("threshold", model, good, "--false-reject", "0.05")
    assert (code, err) == (0, "")
    assert "scored 40 images" in out
    assert "20 of them before" in out
    # the threshold changed the file, not the model: all scores are known
    assert "40 of them before" in command("threshold", model, good, "--false-reject", "0.1")[1]


def test_scores_of_another_model_are_not_used(model, good, command, threshold_of):
    command("threshold", model, good, "--false-reject", "0.05")
    write_small_model(model, seed=1)
    code, out, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 0
    assert "those of another model" in err
    assert "before)" not in out.splitlines()[0]
    assert threshold_of(model)["value"] == np.sort(scores(model, list_images(good)))[38]
    journal_path(model).write_text("no journal at all\n")
    assert command("threshold", model, good, "--false-reject", "0.05")[0] == 0


def test_unreadable_images_are_left_out_only_when_asked(model, good, command, threshold_of):
    list_images(good)[3].write_bytes(b"")
    code, _, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 1
    assert "p03.png' is empty" in err
    code, _, err = command("threshold", model, good, "--false-reject", "0.05", "--skip-unreadable")
    assert code == 0
    assert "warning: left out: image" in err
    assert threshold_of(model)["n"] == 39


def test_what_a_good_set_should_not_hold(model, good, command, threshold_of):
    rng = np.random.default_rng(1)
    for number in range(2):
        write_photo(good / f"scratched{number}.png", photo(rng, 24))
    write_photo(good / "small.png", photo(rng, size=(48, 64)))
    write_photo(good / "black.png", np.zeros((96, 128, 3), np.uint8))
    shutil.copy(good / "p00.png", good / "z_copy.png")
    code, out, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 0
    (line,) = re.findall("highest scores, to be looked at: .*", out)
    assert line.count("(") == 5
    assert {"scratched0.png", "scratched1.png"} < set(re.findall(r"'(.*?)'", line))
    assert "of 44 good images score far above the others" in err
    assert "scratched0.png" in err
    assert "scratched1.png" in err
    assert "2 sizes (43 of 128x96, 1 of 64x48 pixels)" in err
    assert "blank images (black, or one value everywhere)" in err
    assert "black.png;" in err
    assert "copies of a file count once: 'z_copy.png' of 'p00.png'" in err
    assert threshold_of(model)["n"] == 44


def test_only_black_images(model, tmp_path, command):
    for number in range(25):
        write_photo(tmp_path / f"dark/{number}.png", np.full((96, 128), number % 5, np.uint8))
    code, _, err = command("threshold", model, tmp_path / "dark", "--false-reject", "0.05")
    assert code == 1
    assert "every image is blank" in err
    assert "check camera, light and export" in err


def test_photos_of_one_part_are_noticed(model, tmp_path, command):
    rng = np.random.default_rng(3)
    parts = [rng.normal(120, 40, (24, 32, 3)) for _ in range(30)]
    for index, part in enumerate(parts):
        for shot in range(2):
            frame = np.kron(part, np.ones((4, 4, 1))) + rng.normal(0, 6, (96, 128, 3))
            write_photo(
                tmp_path / f"shots/{index:02d}_{shot}.png", np.clip(frame, 0, 255).astype(np.uint8)
            )
    code, _, err = command("threshold", model, tmp_path / "shots", "--false-reject", "0.05")
    assert code == 0
    found = re.search(r"the 60 photos look like (\d+) parts", err)
    assert found, err
    assert 27 <= int(found[1]) <= 33  # by correlation: a pair may be missed or made
    assert "parts.csv" in err


def test_real_skewed_scores_are_not_called_suspicious():
    rng = np.random.default_rng(4)

    def images(values):
        return [
            Scored(
                Sample(f"{index}.png", "good"),
                ImageScore(
                    sha256=str(index), score=value, peak=value, width=1, height=1, is_blank=False
                ),
            )
            for index, value in enumerate(values)
        ]

    calm = sum(bool(suspicious(images(rng.lognormal(0, 0.4, 200)))) for _ in range(100))
    assert calm <= 25
    planted = images([*rng.lognormal(0, 0.1, 95), 5.0, 4.0, 6.0, 4.5, 5.5])
    assert [image.result.score for image in suspicious(planted)][:5] == [6.0, 5.5, 5.0, 4.5, 4.0]
    assert suspicious(images([1.0] * 50)) == []


def test_site_files(model, good, command):
    write_site(model, Site(model_sha256=file_sha256(model), min_area=2, signature="c2ln"))
    before = file_sha256(model)
    code, out, _ = command("threshold", model, good, "--false-reject", "0.05", "--region", "0.1")
    assert code == 0
    assert file_sha256(model) == before
    assert "sign it again" in out
    site = read_site(model)
    assert site.min_area == 2
    assert site.signature is None
    assert site.threshold_record["target"] == 0.05
    assert site.threshold_record["mask_target"] == 0.1
    assert site.calibration_tail.n == len(site.calibration_tail.scores) == 40
    with Detector(model) as detector:
        results = [detector.score(read_image(path)) for path in list_images(good)]
        assert detector.threshold == site.threshold
    assert sum(result.is_anomalous for result in results) == 1
    assert sum(bool(result.regions) for result in results) == 3  # 41 - ceil(41 * 0.9) - 1
    assert min(result.p_value for result in results) == 2 / 41
    assert "rejects at most 4.88 %" in command("info", model)[1]
    # of another model: refused before anything is scored or written
    write_small_model(model, seed=5)
    code, _, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 1
    assert "is not the file that" in err


def test_a_site_file_on_request_and_dry_runs(model, good, command):
    before = file_sha256(model)
    assert command("threshold", model, good, "--false-reject", "0.05", "--dry-run")[0] == 0
    assert file_sha256(model) == before
    assert not site_path(model).exists()
    assert command("threshold", model, good, "--false-reject", "0.05", "--site")[0] == 0
    assert file_sha256(model) == before
    assert read_site(model).threshold is not None


@pytest.mark.parametrize("min_area", [0, 1, 5, 40])
def test_region_peak_is_the_smallest_threshold_without_a_region(min_area):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(6)
    for _ in range(20):
        values = cv2.GaussianBlur(rng.random((20, 24), dtype=np.float32), (0, 0), 1.5)
        counts = np.ones(values.shape, bool)
        counts[:6, :8] = False

        def largest(threshold, values=values, counts=counts):
            above = ((values > threshold) & counts).astype(np.uint8)
            sizes = cv2.connectedComponentsWithStats(above, connectivity=8)[2][1:, 4]
            return max(sizes, default=0)

        peak = region_peak(values, counts, min_area)
        assert largest(peak) < max(min_area, 1)
        lower = values[counts & (values < peak)].max()
        assert largest(lower) >= max(min_area, 1)


def test_labelled_methods(model, known, command, threshold_of):
    code, out, _ = command("threshold", model, known, "--method", "f1")
    assert code == 0
    assert "no false-reject rate is promised" in out
    assert "defective parts found" in out
    record = threshold_of(model)
    assert (record["method"], record["false_reject"], record["n"]) == ("f1", 1.0, 20)
    code, out, _ = command("threshold", model, known, "--method", "recall", "--recall", "0.9")
    assert code == 0
    assert "finds at least 0.9 of new defective parts" in out
    value = threshold_of(model)["value"]
    bad = [p for kind in ("large", "small") for p in sorted(known.glob(f"{kind}/*/*.png"))]
    smallest = np.sort(scores(model, bad).reshape(24, 2).min(axis=1))
    assert smallest[0] <= value < smallest[1]  # floor(25 * 0.1) = 2: the 2nd smallest is found
    code, _, err = command("threshold", model, known, "--method", "recall", "--recall", "0.99")
    assert code == 1
    assert "99 are needed" in err


def test_options_that_do_not_go_together(model, good, known, command):
    for arguments, message in (
        ((good,), "--false-reject is missing"),
        ((known, "--method", "recall"), "go together"),
        ((good, "--method", "f1"), "has no folder 'good'"),
        ((known.parent / "nothing", "--false-reject", "0.1"), "does not exist"),
    ):
        code, _, err = command("threshold", model, *arguments)
        assert code == 1
        assert message in err
        assert err.count("\n") == 1


def test_images_that_the_model_was_trained_on(tmp_path, good, model, command):
    import hashlib

    whole = hashlib.sha256()
    for path in list_images(good):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.name}\0{digest}\n".encode())
    trained = onnx.load(model)
    document = read_manifest(model) | {"hashes": {"data": f"sha256:{whole.hexdigest()}"}}
    onnx.helper.set_model_props(trained, {"agp_edge.manifest": json.dumps(document)})
    onnx.save(trained, model)
    code, _, err = command("threshold", model, good, "--false-reject", "0.05")
    assert code == 1
    assert "the model was trained on the images" in err


def test_the_tail_fits_a_plans_manifest(model):
    tail = CalibrationTail(n=5000, scores=tuple(float(f"0.{i:08d}") for i in range(1, 5001)))
    spec = ThresholdSpec(
        value=0.5, method="conformal", false_reject=0.01, n=5000, unit="parts", tail=tail
    )
    written, _ = write_manifest_threshold(model, spec)
    text = json.dumps(read_manifest(model), separators=(",", ":"), ensure_ascii=False)
    assert len(text.encode()) <= MANIFEST_LIMIT - 400
    assert len(written.tail.scores) > 100
    assert written.tail.scores == tail.scores[-len(written.tail.scores) :]
    assert written.tail.p_value(1.0) == 1 / 5001
