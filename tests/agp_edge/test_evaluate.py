"""Evaluation, its command and its page, on a generated data set and a model small enough to read.

The model's distance is |pixel - 128| averaged over 8 x 8 pixels, so what it must say is known.
"""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.ndimage import label

from agp_edge import Detector
from agp_edge.cli import main
from agp_edge.errors import DataError
from agp_edge.evaluate import evaluate
from agp_edge.manifest import (
    MANIFEST_KEY,
    InputSpec,
    Manifest,
    OutputSpec,
    PostprocessSpec,
    ThresholdSpec,
)
from agp_edge.metrics import image_auroc, image_auroc_interval
from agp_edge.report import write_report

KEYS = [
    "image_auroc",
    "image_auroc_interval",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "aupro",
    "types",
    "n_good",
    "n_defective",
    "manifest",
]
TYPE_KEYS = [key for key in KEYS if key not in ("types", "manifest")]
SIZE = 64
GRID = SIZE // 8


def write_model(path, *, threshold=14.0, roi=None):
    """An ONNX file of ours: the distance is the mean deviation from mid-grey per 8 x 8 block."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["grey"], keepdims=1),
        helper.make_node("Abs", ["grey"], ["deviation"]),
        helper.make_node(
            "AveragePool", ["deviation"], ["distance"], kernel_shape=[8, 8], strides=[8, 8]
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "mid_grey",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 1, GRID, GRID])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    manifest = Manifest(
        name="mid-grey",
        backbone="none",
        input=InputSpec(
            name="image",
            height=SIZE,
            width=SIZE,
            mean=(128.0, 128.0, 128.0),
            std=(1.0, 1.0, 1.0),
            roi=roi,
        ),
        output=OutputSpec(name="distance", height=GRID, width=GRID),
        postprocess=PostprocessSpec(sigma=2.0),
        threshold=None
        if threshold is None
        else ThresholdSpec(
            value=threshold, method="conformal", false_reject=0.05, n=20, unit="parts"
        ),
        opset=18,
    )
    helper.set_model_props(model, {MANIFEST_KEY: manifest.to_json()})
    onnx.save(model, str(path))
    return path


def write_data(root, *, masks=("spot", "scratch"), parts=True, good=8, defective=6):
    """Noisy grey parts, two photos each; bright spots (easy) and faint scratches (hard)."""
    generator = np.random.default_rng(11)
    lines = ["file,part"]

    def photo(folder, number, image, mask=None):
        folder_path = root / folder
        folder_path.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder_path / f"{number:02d}.png"), image)
        lines.append(f"{folder}/{number:02d}.png,{folder}-{number // 2}")
        kind = folder.rpartition("/")[2]
        if mask is not None and kind in masks:
            (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
            name = root / "ground_truth" / kind / f"{number:02d}_mask.png"
            cv2.imwrite(str(name), mask.astype(np.uint8) * 255)

    def clean():
        return 128 + generator.normal(0, generator.uniform(8, 16), (96, 80))

    def grey(pixels):
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    for number in range(good):
        photo("train/good", number, grey(clean()))
        photo("test/good", number, grey(clean()))
    for number in range(defective):
        spot = np.zeros((96, 80), bool)
        spot[20 + 4 * number : 34 + 4 * number, 10 : 24 + number] = True
        photo("test/spot", number, grey(clean() + 70 * spot), spot)
        scratch = np.zeros((96, 80), bool)
        scratch[60:70, 30:70] = True
        photo("test/scratch", number, grey(clean() + 4 * scratch), scratch)
    if parts:
        (root / "parts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "grey.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def evaluation(model, data):
    return evaluate(model, data)


def test_image_figures_are_those_of_the_detector_scores(evaluation, model, data):
    labels, scores, parts = [], [], []
    with Detector(model) as detector:
        for path in sorted((data / "test").glob("*/*.png")):
            labels.append(path.parent.name != "good")
            scores.append(detector.score(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).score)
            parts.append(f"{path.parent.name}-{int(path.stem) // 2}")
    assert evaluation.overall.image_auroc == image_auroc(labels, scores)
    assert evaluation.overall.image_auroc_interval == image_auroc_interval(
        labels, scores, parts=parts
    )
    assert evaluation.has_parts
    assert (evaluation.overall.n_good, evaluation.overall.n_defective) == (8, 12)


def test_types_are_measured_against_all_good_images(evaluation):
    assert list(evaluation.types) == ["scratch", "spot"]
    for metrics in evaluation.types.values():
        assert (metrics.n_good, metrics.n_defective) == (8, 6)
    assert evaluation.types["spot"].image_auroc == 1.0
    assert evaluation.types["scratch"].image_auroc < 1.0
    # with equally many images of each type, the whole is the mean of the types
    mean = (evaluation.types["spot"].image_auroc + evaluation.types["scratch"].image_auroc) / 2
    assert evaluation.overall.image_auroc == pytest.approx(mean)
    assert evaluation.types["spot"].aupro > 0.8
    assert evaluation.types["scratch"].aupro < evaluation.types["spot"].aupro


def test_aupro_is_that_of_maps_and_masks_at_the_map_size(evaluation, model, data):
    negatives, regions = [], []
    with Detector(model) as detector:
        for path in sorted((data / "test").glob("*/*.png")):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            scores = detector.score(image).anomaly_map
            mask = np.zeros(scores.shape, bool)
            file = data / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            if file.exists():
                full = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
                for y in range(SIZE):
                    for x in range(SIZE):
                        mask[y, x] = full[int((y + 0.5) * 1.5), int((x + 0.5) * 1.25)] > 127
            negatives.append(scores[~mask])
            labels, count = label(mask, np.ones((3, 3)))
            regions += [scores[labels == number] for number in range(1, count + 1)]
    negatives = np.concatenate(negatives)
    points = [(0.0, 0.0)]
    for threshold in np.quantile(negatives, np.linspace(1, 0.65, 1500)):
        rate = (negatives >= threshold).mean()
        points.append((rate, np.mean([(region >= threshold).mean() for region in regions])))
    rates, overlaps = np.array(points).T
    inside = rates <= 0.3
    expected = np.trapezoid(
        [*overlaps[inside], np.interp(0.3, rates, overlaps)], [*rates[inside], 0.3]
    )
    assert len(regions) == 12
    assert evaluation.overall.aupro == pytest.approx(expected / 0.3, abs=2e-3)


def test_masks_are_cut_to_the_region_of_interest(tmp_path):
    data = write_data(tmp_path / "data", parts=False, defective=2)
    # only the lower right quarter is looked at: spots lie outside it, scratches inside
    model = write_model(tmp_path / "roi.onnx", roi=(24, 56, 48, 32))
    with pytest.raises(DataError, match="no defective pixel"):
        evaluate(model, data)
    for path in [*(data / "test/spot").iterdir(), *(data / "ground_truth/spot").iterdir()]:
        path.unlink()
    (data / "test/spot").rmdir()
    for path in (data / "test/scratch").iterdir():  # now as bright as a spot
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        image[60:70, 30:70] = 230
        cv2.imwrite(str(path), image)
    assert evaluate(model, data).overall.aupro > 0.9


def test_the_same_digits_twice(evaluation, model, data):
    assert evaluate(model, data).to_dict() == evaluation.to_dict()


def test_without_masks_pixel_figures_are_null(model, tmp_path):
    data = write_data(tmp_path, masks=("spot",), parts=False)
    evaluation = evaluate(model, data)
    assert evaluation.types["spot"].aupro is not None
    for metrics in (evaluation.overall, evaluation.types["scratch"]):
        assert metrics.aupro is None
        assert metrics.pixel_auroc is None
    assert not evaluation.has_parts


def test_verdicts_are_counted(evaluation):
    by_hand = {(frame.sample.is_defective, frame.is_anomalous): 0 for frame in evaluation.frames}
    for frame in evaluation.frames:
        assert frame.is_anomalous == (frame.score > 14.0)
        by_hand[frame.sample.is_defective, frame.is_anomalous] += 1
    for (defective, anomalous), number in by_hand.items():
        assert evaluation.count(defective=defective, anomalous=anomalous) == number
    assert evaluation.count(defective=True) == 12


@pytest.mark.parametrize("own", [None, 14.0])
def test_the_site_files_threshold_decides(own, data, tmp_path, capsys):
    """With or without one in the model; the command and the page say whose it is."""
    from agp_edge.site import file_sha256, write_site
    from agp_edge.site_document import Site

    model = write_model(tmp_path / "m.onnx", threshold=own)
    write_site(model, Site(model_sha256=file_sha256(model), threshold=1e-3))
    found = evaluate(model, data)
    assert found.threshold == pytest.approx(1e-3)
    assert found.threshold_source == "site file"
    assert all(frame.is_anomalous for frame in found.frames)
    page = tmp_path / "page.html"
    assert main(["eval", str(model), str(data), "--html", str(page)]) == 0
    lines = capsys.readouterr().out
    assert "at the threshold 0.001 of the site file:" in lines
    assert "promised: no record: set by hand" in lines
    assert "0.001 of the site file, no record: set by hand" in page.read_text(encoding="utf-8")


def test_a_model_without_threshold_is_measured_without_verdicts(evaluation, data, tmp_path):
    model = write_model(tmp_path / "bare.onnx", threshold=None)
    bare = evaluate(model, data)
    assert bare.threshold is None
    assert all(frame.is_anomalous is None for frame in bare.frames)
    assert bare.overall == evaluation.overall
    write_report(tmp_path / "bare.html", bare, model)
    assert "no threshold" in (tmp_path / "bare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["good", "defects", "test"])
def test_one_class_only_is_a_data_error(model, tmp_path, missing):
    data = write_data(tmp_path, parts=False, good=2, defective=2)
    gone = {"good": ["good"], "defects": ["spot", "scratch"], "test": ["good", "spot", "scratch"]}
    for name in gone[missing]:
        for path in (data / "test" / name).iterdir():
            path.unlink()
        (data / "test" / name).rmdir()
    if missing == "test":
        (data / "test").rmdir()
    with pytest.raises(DataError, match="evaluation needs"):
        evaluate(model, data)


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_prints_a_table_and_writes_exactly_the_agreed_keys(
    capsys, evaluation, model, data, tmp_path
):
    code, out, _ = run(capsys, "eval", model, data, "--json", tmp_path / "figures.json")
    assert code == 0
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert list(figures) == KEYS
    assert list(figures["types"]) == ["scratch", "spot"]
    for metrics in figures["types"].values():
        assert list(metrics) == TYPE_KEYS
    assert figures["manifest"]["name"] == "mid-grey"
    overall = evaluation.overall
    assert figures["image_auroc"] == overall.image_auroc
    assert figures["image_auroc_interval"] == list(overall.image_auroc_interval)
    low, high = overall.image_auroc_interval
    assert f"{overall.image_auroc:.4f} ({low:.4f} to {high:.4f})" in out
    assert re.search(rf"^spot +8 +6 .*{evaluation.types['spot'].aupro:.4f}$", out, re.MULTILINE)
    assert "promised: rejects at most 5 % of new good parts on average, from 20 held-out" in out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]  # nothing left aside


def test_command_has_one_line_for_a_data_set_without_test_images(capsys, model, data):
    code, out, err = run(capsys, "eval", model, data / "train" / "good")
    assert code == 1
    assert out == ""
    assert err.strip().startswith("agp-edge: data set")
    assert "has no test images" in err
    assert err.strip().count("\n") == 0


class Resources(HTMLParser):
    """Collects whatever a browser would fetch or run, and the pictures."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]


def test_page_needs_nothing_but_itself(evaluation, model, tmp_path):
    page = tmp_path / "report.html"
    notes = ["Data: a <b>generated</b> set, see https://example.com."]
    write_report(page, evaluation, model, title="Grey & parts", notes=notes)
    text = page.read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parser.tags)
    assert parser.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in parser.sources)
    assert "url(" not in text
    assert "@import" not in text
    assert "Grey &amp; parts" in text
    assert "a &lt;b&gt;generated&lt;/b&gt; set" in text  # notes are text, not markup
    for frame in evaluation.frames:
        assert evaluation.name_of(frame) in text
    assert f"{evaluation.overall.image_auroc:.4f}" in text
    assert "image_ap" not in text
    assert page.stat().st_size < 2_000_000


def test_page_shows_no_more_frames_than_asked(evaluation, model, tmp_path):
    page = tmp_path / "report.html"
    write_report(page, evaluation, model, max_cards=4)
    parser = Resources()
    parser.feed(page.read_text(encoding="utf-8"))
    assert 2 <= parser.tags.count("img") <= 8  # a frame and its map each


def test_mask_of_another_size_is_refused_with_both_sizes(model, tmp_path):
    data = write_data(tmp_path / "data", parts=False, good=2, defective=2)
    path = next(data.glob("ground_truth/*/*.png"))
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    height, width = mask.shape
    cv2.imwrite(str(path), np.ascontiguousarray(mask[: height - 3]))
    sizes = rf"{path.name}' is {width}x{height - 3} pixels, its image '.*' {width}x{height}"
    with pytest.raises(DataError, match=sizes):
        evaluate(model, data)


def test_page_of_frames_larger_than_a_picture_stays_small(model, tmp_path):
    data = write_data(tmp_path / "data", parts=False, good=2, defective=2)
    for path in [*data.glob("test/*/*.png"), *data.glob("ground_truth/*/*.png")]:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        large = cv2.resize(image, (1600, 1200), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(path), large)
    write_report(tmp_path / "report.html", evaluate(model, data), model)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_latency_percentiles_rise_and_are_finite(evaluation):
    for stage, values in evaluation.latency((50, 90, 99)).items():
        assert stage in ("preprocess", "execute", "postprocess", "total")
        assert values == sorted(values)
        assert all(math.isfinite(value) and value >= 0 for value in values)
