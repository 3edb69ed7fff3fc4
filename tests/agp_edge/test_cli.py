import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import agp_edge
from agp_edge import cli
from agp_edge.cli import main
from agp_edge.errors import ModelError


@pytest.fixture
def images(tmp_path, good_frame, bad_frame):
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), good_frame)
    cv2.imwrite(str(folder / "b.png"), bad_frame)
    cv2.imwrite(str(folder / "c.bmp"), good_frame[:, :, 0])
    return folder


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "agp_edge", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_every_command_lists_itself():
    done = run("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")]
    assert set(cli.COMMANDS) <= set(listed)
    assert "exit codes: 0 fine" in done.stdout


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: agp-edge {command}" in capsys.readouterr().out


def test_version(capsys):
    import agp_edge

    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"agp-edge {agp_edge.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["score"], ["score", "m.onnx", "a.png", "--roi", "1,2"], ["build", "m.onnx"],
     ["score", "m.onnx", "a.png", "--json", "--csv"],
     ["score", "m.onnx", "a.png", "--overlay", "d", "--format", "mono12"],
     ["build", "m.onnx", "-o", "p", "--sm", "eight"]],
)  # fmt: skip
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: agp-edge" in capsys.readouterr().err


def command_that_raises(monkeypatch, error):
    class Command:
        HELP = "raise"

        def add_arguments(self, parser: argparse.ArgumentParser) -> None:
            pass

        def run(self, args: argparse.Namespace) -> int:
            raise error

    monkeypatch.setattr(cli, "COMMANDS", ("fail",))
    monkeypatch.setattr(cli, "_command", lambda name: Command())
    return ["fail"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("m is bad:\n  do this"), 1, "m is bad: do this"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "x.csv"), 1, "Permission denied: 'x.csv'"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch.nn"),
            1,
            "`pip install 'agp-edge[train]'`",
        ),
        (
            ImportError("undefined symbol", name="agp_edge._core"),
            1,
            "the compiled part of agp_edge does not load (undefined symbol)",
        ),
        (ZeroDivisionError("division by zero"), 1, "ZeroDivisionError: division by zero (this is"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 1, "AGP_EDGE_TRACEBACK=1"),
    ],
)
def test_an_exception_becomes_one_line(error, code, line, monkeypatch, capsys):
    monkeypatch.delenv("AGP_EDGE_TRACEBACK", raising=False)
    assert main(command_that_raises(monkeypatch, error)) == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("agp-edge: ")
    assert line in stderr
    assert stderr.count("\n") == 1


def test_the_traceback_on_request(monkeypatch):
    monkeypatch.setenv("AGP_EDGE_TRACEBACK", "1")
    with pytest.raises(ModelError):
        main(command_that_raises(monkeypatch, ModelError("m")))


def test_score_text(small_model, images):
    done = run("score", small_model, images)
    assert done.returncode == 3
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        str(images / name) for name in ("a.png", "b.png", "c.bmp")
    ]
    assert "threshold 0.3  good" in lines[0]
    assert "score 0.7754  threshold 0.3  anomalous" in lines[1]
    assert lines[1].endswith(" ms")


def test_score_exit_codes(small_model, images, capsys):
    model = str(small_model)
    assert main(["score", model, str(images / "a.png")]) == 0
    assert main(["score", model, str(images / "b.png")]) == 3
    assert main(["score", model, str(images / "b.png"), "--threshold", "0.9"]) == 0
    assert main(["score", model, str(images / "b.png"), "--roi", "0,0,64,96"]) == 0
    capsys.readouterr()


def test_score_json_and_csv(small_model, images, capsys):
    assert main(["score", str(small_model), str(images), "--json"]) == 3
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["verdict"] for record in records] == ["good", "anomalous", "good"]
    assert records[1]["regions"][0]["area"] > 0
    assert main(["score", str(small_model), str(images), "--csv"]) == 3
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["verdict"] for row in rows] == ["good", "anomalous", "good"]
    assert [float(row["score"]) for row in rows] == [record["score"] for record in records]
    assert rows[1]["regions"] == "1"
    assert rows[1]["error"] == ""
    assert {row["p_value"] for row in rows} == {""}  # the model has no calibrated scores


def test_score_raw_frames(small_model, tmp_path, capfd):
    rng = np.random.default_rng(2)
    mosaic = rng.integers(0, 4096, (64, 96)).astype(np.uint16)
    folder = tmp_path / "raw"
    folder.mkdir()
    cv2.imwrite(str(folder / "frame.png"), mosaic)
    with agp_edge.Detector(small_model) as detector:
        expected = {
            name: detector.score(mosaic, format=name) for name in ("mono12", "bayer_gbrg12")
        }
    for name, result in expected.items():
        code = main(["score", str(small_model), str(folder), "--json", "--format", name])
        assert code == (3 if result.is_anomalous else 0)
        assert json.loads(capfd.readouterr().out)["score"] == result.score
    assert main(["score", str(small_model), str(folder), "--format", "mono8"]) == 1
    assert "frame.png': the frame is uint16" in capfd.readouterr().err
    cv2.imwrite(str(folder / "frame.png"), np.zeros((8, 8, 3), np.uint8))
    assert main(["score", str(small_model), str(folder), "--format", "mono12"]) == 1
    assert "a raw frame is saved as one channel" in capfd.readouterr().err


def test_an_unreadable_image_does_not_stop_the_batch(small_model, images, capfd):
    (images / "aa.png").write_bytes((images / "a.png").read_bytes()[:100])
    missing = str(images / "zz.png")
    assert main(["score", str(small_model), str(images), missing, "--json"]) == 1
    out, err = capfd.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["verdict"] for record in records] == [
        "good", "error", "anomalous", "good", "error",
    ]  # fmt: skip
    assert "aa.png" in records[1]["error"]
    assert err.count("\n") == 1
    assert "aa.png" in err
    assert "(2 of 5 images failed)" in err
    assert main(["score", str(small_model), str(images), "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert "aa.png" in rows[1]["error"]
    assert rows[1]["score"] == ""


def test_names_that_the_terminal_cannot_show(small_model, images, write_model, tmp_path):
    (images / "a.png").rename(images / "瓶.png")
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run("score", small_model, images, env=ascii_only)
    assert (done.returncode, done.stderr) == (3, "")
    assert r"\u74f6.png" in done.stdout
    model = write_model(tmp_path / "m.onnx", changes={"classes": ["瓶"]})
    done = run("info", model, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_name_that_is_no_text(small_model, images):
    odd = os.fsdecode(os.fsencode(images / "a") + b"\xff.png")
    (images / "a.png").rename(odd)
    done = run("score", small_model, odd)
    assert (done.returncode, done.stderr) == (0, "")
    odd_model = odd.replace(".png", ".onnx")
    os.link(small_model, odd_model)
    done = run("score", odd_model, odd)
    assert done.returncode == 1
    assert done.stderr.startswith("agp-edge: ")
    assert done.stderr.count("\n") == 1
    assert "this is a bug" not in done.stderr


def test_overlays(small_model, images, tmp_path, bad_frame, capsys):
    import cv2

    target = tmp_path / "new" / "overlays"
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").write_bytes((images / "b.png").read_bytes())
    main(["score", str(small_model), str(images), str(other), "--overlay", str(target)])
    capsys.readouterr()
    assert sorted(path.name for path in target.iterdir()) == [
        "a.png", "b-2.png", "b.png", "c.png",
    ]  # fmt: skip
    overlay = cv2.imread(str(target / "b.png"))
    assert overlay.shape == bad_frame.shape
    assert (overlay[30:40, 85:95] != bad_frame[30:40, 85:95]).any()


def test_overlays_into_a_file_that_is_in_the_way(small_model, images, tmp_path, capfd):
    (tmp_path / "taken").write_text("x")
    code = main(["score", str(small_model), str(images), "--overlay", str(tmp_path / "taken")])
    assert code == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(small_model, images):
    with subprocess.Popen(
        [sys.executable, "-m", "agp_edge", "score", small_model, *[images] * 20],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_ctrl_c(small_model, tmp_path):
    fifo = tmp_path / "never.png"
    os.mkfifo(fifo)  # reading it blocks until somebody writes
    with subprocess.Popen(
        [sys.executable, "-m", "agp_edge", "score", small_model, fifo],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until_it_sleeps_in_the_fifo(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == "agp-edge: interrupted\n"


def wait_until_it_sleeps_in_the_fifo(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/syscall") as file:  # noqa: PTH123  (a kernel file)
            if file.read().split()[0] == str(OPENAT):
                return
        time.sleep(0.05)
    raise AssertionError("the command did not reach its image in 30 s")


OPENAT = {"x86_64": 257, "aarch64": 56}[os.uname().machine]


def test_the_frames_of_a_run_get_the_detector_s_numbers(small_model, images, bad_frame, capsys):
    from agp_edge import Detector

    with Detector(small_model) as detector:
        expected = detector.score(bad_frame)
    main(["score", str(small_model), str(images / "b.png"), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["score"] == expected.score
    assert record["regions"] == json.loads(json.dumps(expected.to_dict()["regions"]))
