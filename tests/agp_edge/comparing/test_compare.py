"""Models whose differences are known, compared."""

import json

import cv2
import numpy as np
import pytest

from agp_edge import DataError, Detector, ModelError
from agp_edge.cli import main
from agp_edge.comparing import compare as compare_module
from agp_edge.comparing.compare import compare
from agp_edge.comparing.comparison import TOLERANCES, Tolerances
from agp_edge.report.comparison import write_comparison


@pytest.fixture(scope="module")
def data(tmp_path_factory, good_frame, bad_frame):
    """Six good and four bad frames; the bad ones fade."""
    root = tmp_path_factory.mktemp("compare") / "data"
    rng = np.random.default_rng(0)
    for folder in ("train/good", "test/good", "test/square"):
        (root / folder).mkdir(parents=True)

    def write(name, frame):
        noise = rng.integers(-3, 4, frame.shape)
        cv2.imwrite(str(root / name), np.clip(frame + noise, 0, 255).astype(np.uint8))

    write("train/good/0.png", good_frame)
    for index in range(6):
        write(f"test/good/{index}.png", good_frame)
    for index in range(4):
        share = 1 - 0.2 * index
        write(f"test/square/{index}.png", share * bad_frame + (1 - share) * good_frame)
    return root


def scores_of(model, data):
    with Detector(model, threshold=0.0) as detector:
        return [
            detector.score(cv2.imread(str(path))).score
            for path in sorted(data.glob("test/*/*.png"))
        ]


def test_a_model_and_itself(small_model, data):
    comparison = compare(small_model, small_model, data)
    assert comparison.score_maximum == comparison.map_share_maximum == 0
    assert comparison.rank_correlation == pytest.approx(1)
    assert comparison.image_auroc == (1, 1)
    assert comparison.flips == comparison.failures == ()
    assert len(comparison.frames) == 10
    assert comparison.tolerances == TOLERANCES["fp32"]


def test_a_known_offset(small_model, data, write_model, tmp_path):
    """0.01 more everywhere: on every map's pixel, hence on every score."""
    other = write_model(tmp_path / "other.onnx", poison=0.01)
    comparison = compare(small_model, other, data)
    scores = np.array(scores_of(small_model, data))
    assert [frame.scores[0] for frame in comparison.frames] == list(scores)
    assert comparison.score_maximum == pytest.approx(0.01, rel=1e-3)
    assert comparison.score_share_maximum == pytest.approx(0.01 / scores.min(), rel=1e-3)
    assert comparison.score_share_mean == pytest.approx(np.mean(0.01 / scores), rel=1e-3)
    spans = []
    with Detector(small_model) as detector:
        for path in sorted(data.glob("test/*/*.png")):
            found = detector.score(cv2.imread(str(path))).anomaly_map
            spans += [found.min(), found.max()]
    expected = 0.01 / (max(spans) - min(spans))
    assert comparison.map_share_maximum == pytest.approx(expected, rel=1e-3)
    assert comparison.map_share_mean == pytest.approx(expected, rel=1e-3)
    assert comparison.rank_correlation == pytest.approx(1)
    assert [failure.split()[0] for failure in comparison.failures[:2]] == ["scores", "maps"]


def test_verdicts_that_differ(small_model, data, write_model, tmp_path):
    scores = scores_of(small_model, data)
    faintest = min(scores[6:])
    assert faintest > max(scores[:6])
    # between the faintest defect and the next: A lets one pass, B (0.05 more) none
    a = write_model(tmp_path / "a.onnx", changes={"threshold.value": faintest + 0.02})
    b = write_model(tmp_path / "b.onnx", poison=0.05, changes={"threshold.value": faintest + 0.02})
    comparison = compare(a, b, data)
    assert [comparison.name_of(frame) for frame in comparison.flips] == ["test/square/3.png"]
    assert comparison.flips[0].verdicts == (False, True)
    assert any("1 verdicts differ > 0" in failure for failure in comparison.failures)
    loose = compare(a, b, data, tolerances=Tolerances(score=10, map=10, flips=1))
    assert loose.failures == ()


def test_a_verdict_on_the_threshold_itself(small_model, data, write_model, tmp_path):
    """A threshold that is one of the scores: the least rounding turns that verdict."""
    scores = scores_of(small_model, data)
    on_it = {"threshold.value": scores[8]}
    a = write_model(tmp_path / "a.onnx", changes=on_it)
    b = write_model(tmp_path / "b.onnx", poison=1e-5, changes=on_it)
    comparison = compare(a, b, data)
    assert [comparison.name_of(frame) for frame in comparison.flips] == ["test/square/2.png"]
    assert comparison.is_borderline(comparison.flips[0])
    assert comparison.failures == ()
    assert comparison.to_dict()["flips"][0]["borderline"] is True


def test_the_site_files_threshold_counts(small_model, data, write_model, tmp_path):
    from agp_edge.site import file_sha256, write_site
    from agp_edge.site_document import Site

    other = write_model(tmp_path / "site.onnx")
    write_site(other, Site(model_sha256=file_sha256(other), threshold=1e-6))
    comparison = compare(small_model, other, data)
    assert comparison.thresholds == (pytest.approx(0.3), pytest.approx(1e-6))
    assert {frame.verdicts for frame in comparison.flips} == {(False, True)}
    assert comparison.threshold_sources == ("model", "site file")
    assert comparison.to_dict()["threshold_sources"] == ["model", "site file"]


def test_whose_threshold_is_said(small_model, data, write_model, tmp_path, capsys):
    """A site file gives one to a model without; a model without any takes the other's."""
    from agp_edge.site import file_sha256, write_site
    from agp_edge.site_document import Site

    bare = write_model(tmp_path / "bare.onnx", changes={"threshold": None})
    main(["compare", str(small_model), str(bare), str(data)])
    text = "(thresholds: A's model says 0.3, B takes that of the other model, 0.3)"
    assert text in capsys.readouterr().out
    write_site(bare, Site(model_sha256=file_sha256(bare), threshold=0.25))
    main(["compare", str(bare), str(small_model), str(data)])
    assert "(thresholds: A's site file says 0.25, B's model says 0.3)" in capsys.readouterr().out


def test_no_threshold_anywhere(data, write_model, tmp_path):
    model = write_model(tmp_path / "m.onnx", changes={"threshold": None})
    comparison = compare(model, model, data)
    assert comparison.thresholds is None
    assert comparison.flips == ()
    assert comparison.to_dict()["thresholds"] is None


def test_tolerances_go_by_the_coarser_precision(small_model, data, write_model, tmp_path):
    half = write_model(
        tmp_path / "half.onnx", changes={"precision": {"asked": "fp16", "built": None}}
    )
    for pair in ((small_model, half), (half, small_model)):
        assert compare(*pair, data, limit=2).tolerances == TOLERANCES["fp16"]


def test_order_of_scores(small_model, data, write_model, tmp_path):
    """A model that is blind ranks by chance; Spearman's value is SciPy's own definition."""
    other = write_model(tmp_path / "other.onnx", changes={"postprocess.sigma": 0.0})
    comparison = compare(small_model, other, data)
    first, second = np.array([frame.scores for frame in comparison.frames]).T
    ranks = [np.argsort(np.argsort(column)) for column in (first, second)]
    assert comparison.rank_correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_plain_folders_and_limits(small_model, data, tmp_path):
    comparison = compare(small_model, small_model, data / "test" / "good", limit=3)
    assert len(comparison.frames) == 3
    assert len({frame.sample.path for frame in comparison.frames}) == 3
    assert comparison.image_auroc is None
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError):
        compare(small_model, small_model, tmp_path / "none")


def test_models_of_different_sizes(small_model, data, tmp_path, monkeypatch):

    original = compare_module._map
    maps = iter([0, 1] * 10)
    monkeypatch.setattr(compare_module, "_map", lambda answer: original(answer)[next(maps) :])
    with pytest.raises(ModelError, match="only models of one input size"):
        compare(small_model, small_model, data)


def test_the_command(small_model, data, write_model, tmp_path, capfd):
    assert main(["compare", str(small_model), str(small_model), str(data)]) == 0
    assert "within the tolerances (scores 0.001, maps 0.001" in capfd.readouterr().out
    scores = scores_of(small_model, data)
    threshold = {"threshold.value": min(scores[6:]) + 0.02}
    a = write_model(tmp_path / "a.onnx", changes=threshold)
    b = write_model(tmp_path / "b.onnx", poison=0.05, changes=threshold)
    files = ["--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert main(["compare", str(a), str(b), str(data), *files]) == 4
    output = capfd.readouterr().out
    assert "test/square/3.png (square)" in output
    assert " good -> " in output
    assert "outside the tolerances" in output
    figures = json.loads((tmp_path / "c.json").read_text())
    assert figures["n_images"] == len(figures["frames"]) == 10
    assert [flip["file"] for flip in figures["flips"]] == ["test/square/3.png"]
    assert figures["image_auroc_difference"] == 0
    page = (tmp_path / "c.html").read_text()
    assert "The models differ" in page
    assert page.count("data:image/jpeg;base64,") == 40
    assert "http" not in page.replace("http-equiv", "")
    loose = ["--score-tolerance", "10", "--map-tolerance", "10", "--flips", "1"]
    assert main(["compare", str(a), str(b), str(data), *loose]) == 0
    assert main(["compare", str(a), str(b), str(data), "--limit", "0"]) == 1


def test_the_page_shows_flips_first(small_model, data, write_model, tmp_path):
    threshold = {"threshold.value": min(scores_of(small_model, data)[6:]) + 0.02}
    a = write_model(tmp_path / "a.onnx", changes=threshold)
    b = write_model(tmp_path / "b.onnx", poison=0.05, changes=threshold)
    write_comparison(tmp_path / "c.html", compare(a, b, data), max_cards=2)
    page = (tmp_path / "c.html").read_text()
    assert page.count('<div class="card">') == 2
    assert "test/square/3.png" in page[page.index('<div class="card">') :].split("</main>")[0]


def test_a_checkpoint_and_its_export(tmp_path, good_frame):
    """Torch in front, behind and between the same stages, against the exported file."""
    import torch

    from agp_edge.dataset import open_dataset
    from agp_edge.trainer.config import ModelConfig, TrainConfig
    from agp_edge.trainer.export import onnx_from_checkpoint
    from agp_edge.trainer.train import train

    rng = np.random.default_rng(0)
    images = tmp_path / "good"
    images.mkdir()
    for index in range(12):
        noise = rng.integers(-20, 21, good_frame.shape)
        cv2.imwrite(
            str(images / f"{index}.png"), np.clip(good_frame + noise, 0, 255).astype(np.uint8)
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(
            open_dataset(images),
            tmp_path / "run",
            ModelConfig(
                backbone="test_efficientnet",
                height=64,
                width=64,
                decoder_width=32,
                decoder_depth=1,
                decoder_heads=2,
            ),
            TrainConfig(epochs=1, batch=4),
            weights="random",
            device="cpu",
            cache_dir=tmp_path / "cache",
            progress=False,
        )
        exported = onnx_from_checkpoint(tmp_path / "run", tmp_path / "m.onnx", progress=False)
        comparison = compare(tmp_path / "run", exported.path, images)
    finally:
        torch.set_num_threads(threads)
    assert comparison.engines[0].startswith("torch ")
    assert comparison.precisions == ("fp32", "fp32")
    assert comparison.failures == ()
    assert comparison.score_maximum > 0  # two implementations, not one twice
    # the checkpoint has no threshold: it takes the exported one
    assert comparison.thresholds[0] == comparison.thresholds[1]
