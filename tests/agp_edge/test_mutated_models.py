"""200 damaged model files through info, Detector and score: one error line each, never a crash.

The files are made and used in a few subprocesses, so that a crash shows as a crash. A damaged ONNX
file may also work: where only a weight changed by less than the self-test sees, or a byte that
nothing reads. Those are counted.
"""

import json
import subprocess
import sys
from collections import Counter

import pytest

from agp_edge import Detector, DeviceError, read_manifest
from agp_edge.gpu import find_gpus
from agp_edge.plan.build import plan_from_onnx
from agp_edge.self_test import self_test_frame
from agp_edge.site import file_sha256, write_site
from agp_edge.site_document import Site

ONNX_FILES, PLAN_FILES, BATCHES = 120, 80, 4

WORKER = r"""
import json, os, random, sys, tempfile, traceback
from pathlib import Path
import agp_edge
from agp_edge.cli import main

source, foreign, image, folder, first, count, site = sys.argv[1:]
original, other = Path(source).read_bytes(), Path(foreign).read_bytes()
suffix = Path(source).suffix
stderr = tempfile.TemporaryFile()
os.dup2(stderr.fileno(), 2)
report = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

def truncated(chance, data):
    return data[: chance.randrange(len(data))]

def flipped(chance, data):
    data = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)

def flipped_structure(chance, data):
    # names, types, attributes and the manifest stand at the ends; weights in the middle
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.choice((chance.randrange(600), -1 - chance.randrange(2000)))
        data[place] = chance.randrange(256)
    return bytes(data)

def spliced(chance, data):
    start, end = sorted(chance.randrange(len(data)) for _ in range(2))
    piece = chance.choice((data, other))
    begin = chance.randrange(len(piece))
    return data[:start] + piece[begin : begin + chance.randrange(3000)] + data[end:]

def doubled(chance, data):
    return data + chance.choice((data, other, b"\0" * 100))

def empty(chance, data):
    return b""

def wrong_kind(chance, data):
    return chance.choice((
        other, b"\x08" + chance.randbytes(3000), chance.randbytes(5000), b"{}",
        b"\x89PNG\r\n\x1a\n" + chance.randbytes(500), b"ftrt" + chance.randbytes(2000),
        b"vtrt" + data[4:40], b"PK\x03\x04" + data[:2000], b"\x7fELF" + data[:500], b"\0" * 4096,
    ))

KINDS = (truncated, flipped, flipped_structure, spliced, flipped, truncated, doubled, spliced,
         flipped_structure, wrong_kind)

def call(use, *arguments):
    # (exit code, what stands on stderr)
    stderr.seek(0); stderr.truncate()
    code = use(*arguments)
    sys.stderr.flush()
    stderr.seek(0)
    return code, stderr.read().decode()

def open_detector(path):
    # as a program would, whose last line of defence is agp_edge.Error
    try:
        with agp_edge.Detector(path):
            return 0
    except agp_edge.Error as error:
        print("agp-edge: " + " ".join(str(error).split()), file=sys.stderr)
        assert "\n" not in str(error).strip(), error
        return 1

for index in range(int(first), int(first) + int(count)):
    chance = random.Random(index)
    kind = empty if index == int(first) else KINDS[index % len(KINDS)]
    data = kind(chance, original)
    path = Path(folder) / f"{index}{suffix}"
    path.write_bytes(data)
    if site:
        Path(f"{path}.json").write_bytes(Path(site).read_bytes())
    row = {"index": index, "kind": kind.__name__, "same": data == original}
    try:
        row["info"] = call(main, ["info", str(path)])
        row["detector"] = call(open_detector, path)
        row["score"] = call(main, ["score", str(path), image])
    except BaseException:
        row["unexpected"] = traceback.format_exc()
    os.write(report, (json.dumps(row) + "\n").encode())
    path.unlink()
"""


def rows_of(model, foreign, image, folder, count, *, site=""):
    """What became of `count` damaged copies of `model`, in batches."""
    size = count // BATCHES
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, (model, foreign, image, folder)),
             str(batch * size), str(size), str(site)],
            stdout=subprocess.PIPE, text=True,
        )
        for batch in range(BATCHES)
    ]  # fmt: skip
    rows = []
    for run in runs:
        output, _ = run.communicate(timeout=300)
        found = [json.loads(line) for line in output.splitlines()]
        last = found[-1]["index"] if found else "none"
        assert run.returncode == 0, f"died with {run.returncode} after file {last}"
        rows += found
    assert len(rows) == count
    for row in rows:
        assert "unexpected" not in row, row
        for use in ("info", "detector", "score"):
            code, stderr = row[use]
            if code == 1:
                assert stderr.startswith("agp-edge: "), row
                assert stderr.count("\n") == 1, row
                assert "this is a bug" not in stderr, row
                assert len(stderr) < 1500, row
            else:
                assert code in (0, 3), row
                assert stderr == "", row
    return rows


@pytest.fixture(scope="module")
def tested_model(tmp_path_factory, write_model):
    """The small model with a self-test."""
    path = write_model(tmp_path_factory.mktemp("mutants") / "small.onnx")
    with Detector(path) as detector:
        score = detector.score(self_test_frame(read_manifest(path), 5)).score
    return write_model(path, changes={"self_test": {"seed": 5, "score": score}})


@pytest.fixture(scope="module")
def plan(tested_model):
    path = tested_model.with_suffix(".plan")
    plan_from_onnx(tested_model, path, backend="rtx", targets=(86,))
    return path


@pytest.fixture(scope="module")
def image(tested_model, good_frame):
    import cv2

    path = tested_model.parent / "good.png"
    cv2.imwrite(str(path), good_frame)
    return path


def test_onnx_files(tested_model, plan, image, tmp_path):
    rows = rows_of(tested_model, plan, image, tmp_path, ONNX_FILES)
    opened = [row for row in rows if row["detector"][0] == 0]
    refused = Counter(row["kind"] for row in rows if row["detector"][0] == 1)
    print(f"{len(opened)} of {len(rows)} damaged ONNX files work:", Counter(
        row["kind"] for row in opened
    ))  # fmt: skip
    # what opens has passed the self-test, and can be scored
    assert all(row["score"][0] in (0, 3) for row in opened)
    assert len(opened) < 0.25 * len(rows)
    assert min(refused[kind] for kind in ("truncated", "flipped", "spliced", "wrong_kind")) >= 8
    assert refused["empty"] == BATCHES
    # a file that info refuses runs nowhere
    assert all(row["detector"][0] == 1 for row in rows if row["info"][0] == 1)


def test_plans(tested_model, plan, image, tmp_path):
    try:
        find_gpus()
    except DeviceError:
        pass
    else:
        pytest.skip("a damaged plan is code that a GPU would run: only the signed way is tested")
    rows = rows_of(plan, tested_model, image, tmp_path, PLAN_FILES // 2)
    # info reads the manifest only: it is whole in most of them
    assert sum(row["info"][0] == 1 for row in rows) >= 8
    for row in rows:
        if row["kind"] in ("wrong_kind", "doubled", "spliced"):
            continue  # may have become an ONNX file
        assert row["detector"][0] == row["score"][0] == 1, row
        if row["info"][0] == 0:  # the manifest is whole: the driver is asked, TensorRT is not
            assert "no NVIDIA GPU" in row["detector"][1], row


def test_plans_with_a_site_file(tested_model, plan, image, tmp_path):
    """With a site file every changed byte is seen, on every machine, before TensorRT reads one."""
    copy = tmp_path / "whole.plan"
    copy.write_bytes(plan.read_bytes())
    site = write_site(copy, Site(model_sha256=file_sha256(copy)))
    rows = rows_of(plan, tested_model, image, tmp_path, PLAN_FILES // 2, site=site)
    for row in rows:
        assert not row["same"]
        for use in ("info", "detector", "score"):
            assert row[use][0] == 1, row
            assert "SHA-256" in row[use][1], row


def test_how_many():
    assert ONNX_FILES + PLAN_FILES >= 200
