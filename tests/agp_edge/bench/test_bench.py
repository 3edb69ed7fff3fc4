"""The command on a real model, and with an engine that stalls once."""

import csv
import ctypes
import json
import re
import time

import cv2
import numpy as np
import pytest

from agp_edge import DataError, Detector, Error, _core
from agp_edge.bench import Plan, read_benchmark, run_benchmark, write_json
from agp_edge.bench.formats import FORMATS, bgr_decoder, in_format
from agp_edge.bench.frames import read_frames, synthetic_frames
from agp_edge.cli import main


@pytest.fixture(scope="module")
def files(small_model, tmp_path_factory):
    """What one run of the command wrote."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--size", "320x240", "--duration", "1.2", "--rate", "125", "--inflight", "1,2"]
    names = [f"--{kind}={folder / f'bench.{kind}'}" for kind in ("json", "csv", "html")]
    assert (
        main(
            [
                "bench",
                str(small_model),
                *arguments,
                "--threads=1",
                "--cold=2",
                "--warm-up=2",
                *names,
            ]
        )
        == 0
    )
    return folder


@pytest.fixture(scope="module")
def document(files):
    return json.loads((files / "bench.json").read_text())


def test_everything_is_in_the_file(document, small_model):
    assert document["model"]["name"] == "small"
    assert len(document["model"]["sha256"]) == 64
    assert document["frames"]["source"] == "synthetic"
    assert document["frames"]["sizes"] == {"320x240 bgr8": 16}
    assert document["settings"]["engine"].startswith("OpenVINO")
    assert document["settings"]["threads"] == 1
    assert document["provenance"]["versions"]["agp-edge"]
    assert [(m["load"], m["inflight"]) for m in document["measurements"]] == [
        ("closed", 1), ("open", 1), ("closed", 2), ("open", 2)
    ]  # fmt: skip
    for found in document["measurements"]:
        samples = found["samples_ns"]
        assert found["peak_rss_bytes"] > 10 << 20
        assert len(samples["end"]) == found["end_to_end_ms"]["count"] > 100
        latency = np.array(samples["end"]) - np.array(samples["due"])
        assert found["end_to_end_ms"]["maximum"] == pytest.approx(latency.max() / 1e6)
        assert found["end_to_end_ms"]["percentiles"]["p50"]["value"] == pytest.approx(
            np.sort(latency)[-(-len(latency) // 2) - 1] / 1e6
        )
        if found["load"] == "open":
            assert len(samples["due"]) == 150
    assert len(document["cold"]["steps_ms"]["whole"]) == 2
    assert min(document["cold"]["steps_ms"]["whole"]) > min(document["cold"]["steps_ms"]["open"])


def test_the_histogram_is_readable_by_others(document):
    from hdrh.histogram import HdrHistogram

    found = document["measurements"][0]
    decoded = HdrHistogram.decode(found["hdr_histogram_ns"])
    samples = found["samples_ns"]
    latency = np.array(samples["end"]) - np.array(samples["due"])
    assert decoded.get_total_count() == len(latency)
    assert decoded.get_max_value() == pytest.approx(latency.max(), rel=2e-3)


def test_read_back(files, document, tmp_path):
    again = read_benchmark(files / "bench.json")
    write_json(tmp_path / "again.json", again)
    assert json.loads((tmp_path / "again.json").read_text()) == document


def test_the_table(files, document):
    with (files / "bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 10
    whole = [row for row in rows if row["stage"] == "end to end"]
    for row, found in zip(whole, document["measurements"], strict=True):
        assert float(row["p90_ms"]) == found["end_to_end_ms"]["percentiles"]["p90"]["value"]
        p999 = found["end_to_end_ms"]["percentiles"]["p99.9"]["value"]
        assert row["p99.9_ms"] == ("" if p999 is None else str(p999))
        assert int(row["missed_deadlines"]) == found["missed_deadlines"]
    assert {row["count"] for row in rows if row["stage"] in ("copy", "copy_back")} == {""}


def test_the_page_needs_no_network_and_no_other_file(files, document):
    page = (files / "bench.html").read_text()
    assert not re.search(r"https?://|//[\w-]+\.\w|<link|<script|<iframe|@import|url\(", page)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("<svg") == 3 * len(document["measurements"])
    assert document["model"]["sha256"] in page
    # every frame is in the timeline's columns and in the histogram's bars
    for found in document["measurements"]:
        assert f"of {found['end_to_end_ms']['count']}, later than" in page


def test_stages_sum_to_the_whole(document):
    for found in document["measurements"]:
        means = {name: s["mean"] for name, s in found["stages_ms"].items() if s is not None}
        del means["other"]  # what no stage explains
        assert sum(means.values()) == pytest.approx(found["end_to_end_ms"]["mean"], rel=0.05)
        assert found["stages_share"] == pytest.approx(1, abs=0.05)


class StallsOnce:
    """The small model's tensors and an engine that answers at once, but once sleeps for 0.2 s."""

    def __init__(self):
        self.when = time.monotonic() + 5
        self.stalls = 0

    def __call__(self, stream, inputs, outputs):
        ctypes.memset(outputs[0], 0, 4 * 64)
        if self.stalls == 0 and time.monotonic() > self.when:
            self.stalls += 1
            time.sleep(0.2)

    def engine(self):
        image, distance = (
            ("image", "float32", (1, 3, 64, 64)),
            ("distance", "float32", (1, 1, 8, 8)),
        )
        return _core.CallableEngine("stalls once", [image], [distance], self)


def test_a_stall_of_200_ms_at_60_frames_a_second(small_model, monkeypatch):
    """p99.9 needs 1000 frames, and they 17 seconds; nearly all of it is sleep."""
    plan = Plan(
        duration_s=17.0, rate_hz=60.0, loads=("open",), warm_up_least_s=0.0, warm_up_limit_s=2.0
    )
    stalls = StallsOnce()
    monkeypatch.setattr("agp_edge.detector.open_engine", lambda *_, **__: stalls.engine())
    (measured,) = run_benchmark(
        small_model, synthetic_frames(128, 96), plan, threads=1
    ).measurements
    assert stalls.stalls == 1
    summary = measured.end_to_end()
    assert summary.count == 1020
    assert summary.at(99.9).value > 180  # the second frame behind the stall
    assert summary.maximum >= 200
    assert summary.at(50.0).value < 16
    late = int((measured.samples.latency > 1e9 / 60).sum())
    assert measured.missed() == late >= 11  # 200 ms are twelve periods
    assert not measured.is_overloaded()


def test_real_frames(small_model, tmp_path, good_frame):
    cv2.imwrite(str(tmp_path / "colour.png"), good_frame)
    cv2.imwrite(str(tmp_path / "mono.png"), good_frame[:50, :, 0])
    frames = read_frames(tmp_path)
    assert frames.to_dict()["sizes"] == {"128x96 bgr8": 1, "128x50 mono8": 1}
    assert frames.to_dict()["source"] == "folder"
    found = run_benchmark(
        small_model, frames, Plan(duration_s=0.2, rate_hz=50.0, warm_up_limit_s=0.5)
    )
    assert len(found.measurements[1].samples.end) == 10


def test_synthetic_frames_are_the_same_every_time():
    first, second = synthetic_frames(64, 48), synthetic_frames(64, 48)
    assert first.to_dict() == second.to_dict()
    assert len({array.tobytes() for array in first.arrays}) == len(first.arrays) == 16
    assert len(synthetic_frames(1500, 2048).arrays) == 11


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_the_same_picture(small_model, format):
    """Through the detector, and through OpenCV's conversion, as `--against` does it."""
    frames, plain = (synthetic_frames(130, 98, format=name) for name in (format, "bgr8"))
    assert frames.to_dict()["sizes"] == {f"130x98 {format}": 16}
    decode = bgr_decoder(format)
    with Detector(small_model) as detector:
        for frame, picture in zip(frames.arrays, plain.arrays, strict=True):
            score = detector.score(frame, format=format).score
            # OpenCV rounds, and treats the border otherwise
            assert detector.score(decode(frame)).score == pytest.approx(score, rel=0.06)
            if format in ("bgr8", "rgb8"):
                assert detector.score(picture).score == pytest.approx(score, rel=1e-6)
    smooth = cv2.GaussianBlur(plain.arrays[0], (0, 0), 4)
    expected = cv2.cvtColor(smooth, cv2.COLOR_BGR2GRAY) if "mono" in format else smooth
    shown = decode(in_format(smooth, format)).astype(int)
    assert np.abs(shown - expected).max() <= (6 if format == "nv12" else 3)


@pytest.mark.parametrize("source", ["synthetic", "folder"])
def test_a_camera_s_format_on_the_command_line(small_model, tmp_path, good_frame, source, capsys):
    cv2.imwrite(str(tmp_path / "colour.png"), good_frame)
    options = ["--frames", str(tmp_path)] if source == "folder" else ["--size", "128x96"]
    options += ["--format=bayer_grbg12", "--duration=0.2", "--inflight=1,2", "--cold=1"]
    options += ["--warm-up=0.5", "--against=onnxruntime"]
    assert main(["bench", str(small_model), *options]) == 0
    said = capsys.readouterr().out
    assert "128x96 bayer_grbg12" in said
    differs = re.search(r"^ONNX Runtime \+ OpenCV: scores .* (\d+\.\d+)%", said, re.MULTILINE)
    assert differs
    assert float(differs.group(1)) < 15  # tiny and noisy: without decoding it would be far more


def test_a_model_without_a_threshold(write_model, tmp_path):
    model = write_model(tmp_path / "none.onnx", changes={"threshold": None})
    found = run_benchmark(
        model, synthetic_frames(64, 64), Plan(duration_s=0.1, rate_hz=50.0, warm_up_limit_s=0.5)
    )
    assert len(found.measurements) == 2
    with pytest.raises(Error):
        Detector(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--duration", "0"], "duration_s is 0.0"), (["--rate", "-1"], "rate_hz is -1.0"),
     (["--inflight", "0"], "inflight is"), (["--deadline", "-5"], "deadline_ms is"),
     (["--loads", "open,shut"], "loads is"),
     (["--size", "0x5"], "the frame's size is 0x5"), (["--format", "yuy2"], "unknown format"),
     (["--size", "3x1", "--format", "nv12"], "expected 2x2"),
     (["--frames", "nowhere"], "does not exist")],
)  # fmt: skip
def test_refused(small_model, capsys, arguments, message):
    assert main(["bench", str(small_model), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no JSON"), ("[]", "no benchmark"),
     ('{"kind": "agp-edge bench", "version": 9}', "update"),
     ('{"kind": "agp-edge bench", "version": 1}', "damaged")],
)  # fmt: skip
def test_files_that_are_no_benchmark(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_benchmark(path)
