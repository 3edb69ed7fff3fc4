"""Two processes over gloo learn what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agp_edge.trainer.checkpoint import load_model

PROGRAM = """
import json
import os
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from conftest import model_config, run, train_config
result = run(
    Path(sys.argv[1]), Path(sys.argv[2]),
    model=model_config(fine_regions=0, patch_memory=0),
    config=train_config(perturbation="none", batch=6, epochs=2),
)
# One file a process: lines printed by two processes to one pipe may run into each other.
Path(sys.argv[2] + os.environ["RANK"] + ".json").write_text(
    json.dumps([result.is_first, result.held_out_error])
)
"""


def test_two_processes_have_the_loss_of_one(small, images, tmp_path):
    config = small.train_config(perturbation="none", batch=6, epochs=2)
    small.run(
        images,
        tmp_path / "one",
        model=small.model_config(fine_regions=0, patch_memory=0),
        config=config,
    )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [str(images), str(tmp_path / "two"), str(Path(__file__).parent)]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(program), *arguments],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"two{rank}.json").read_text()) for rank in (0, 1)]
    assert [is_first for is_first, _ in told] == [True, False]
    assert told[0][1] == told[1][1]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["held_out_error"] == pytest.approx(one["held_out_error"], rel=1e-4)
    assert load_model(tmp_path / "two")[1].finished


def test_bf16_trains_to_nearly_the_same_loss(small, images, tmp_path):
    results = [
        small.run(
            images, tmp_path / precision, model=small.model_config(fine_regions=0, patch_memory=0),
            config=small.train_config(epochs=2, precision=precision),
        )
        for precision in ("fp32", "bf16")
    ]  # fmt: skip
    assert results[0].held_out_error != results[1].held_out_error
    assert results[1].held_out_error == pytest.approx(results[0].held_out_error, rel=0.02)


def test_impossible_devices(small, images, tmp_path):
    from agp_edge.errors import DeviceError
    from agp_edge.trainer.device import open_fabric

    with pytest.raises(DeviceError, match="fp16 needs a GPU"):
        open_fabric("cpu", 1, "fp16")
    with pytest.raises(DeviceError, match="0 processes"):
        open_fabric("cpu", 0, "fp32")
