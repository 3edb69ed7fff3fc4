"""The loop: it learns, it is reproducible, it resumes bit for bit, it refuses what is wrong."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agp_edge.dataset import open_dataset, part_of
from agp_edge.errors import DataError, DeviceError, ModelError
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.state import read_state
from agp_edge.trainer.train import train

CNN = "test_efficientnet"
VIT = "test_vit"


def weights_of(folder):
    return load_file(folder / "checkpoint.safetensors")


def assert_same_weights(one, two):
    first, second = weights_of(one), weights_of(two)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backbone", [CNN, VIT])
@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_loss_falls_and_files_are_there(small, images, tmp_path, backbone, decoder):
    folder = tmp_path / "run"
    result = small.run(
        images,
        folder,
        model=small.model_config(backbone, decoder=decoder, decoder_width=64),
        config=small.train_config(epochs=15, patience=15, learning_rate=1e-2, alpha=0.0, beta=0.1),
    )
    log = log_of(folder)
    assert [entry["epoch"] for entry in log] == list(range(result.epochs))
    assert log[-1]["loss"] < 0.95 * log[0]["loss"]
    assert result.held_out_error == min(entry["held_out_error"] for entry in log)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    checkpoint, _ = read_checkpoint(folder)
    assert checkpoint.epoch == result.best_epoch
    assert checkpoint.name == "run"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_same_seed_same_weights_and_another_seed_others(small, images, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        small.run(images, tmp_path / name, config=small.train_config(seed=seed, epochs=2))
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    first, other = weights_of(tmp_path / "a"), weights_of(tmp_path / "c")
    assert any(not torch.equal(first[key], other[key]) for key in first if "decoder" in key)


def test_cache_changes_nothing_but_rounding(small, images, tmp_path):
    small.run(images, tmp_path / "cached", config=small.train_config(epochs=1, cache_gb=1.0))
    small.run(images, tmp_path / "again", config=small.train_config(epochs=1, cache_gb=1.0))
    small.run(images, tmp_path / "without", config=small.train_config(epochs=1, cache_gb=0.0))
    assert_same_weights(tmp_path / "cached", tmp_path / "again")
    # other batches through the backbone: other order of summation, now and then another fp16 digit
    errors = [log_of(tmp_path / name)[0]["held_out_error"] for name in ("cached", "without")]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


@pytest.mark.parametrize("perturbation", ["attention", "uniform", "none"])
def test_image_noise_trains(small, images, tmp_path, perturbation):
    config = small.train_config(epochs=2, image_noise=True, perturbation=perturbation)
    result = small.run(images, tmp_path / "run", config=config)
    assert math.isfinite(result.held_out_error)


def test_stopped_run_resumes_to_the_same_weights(small, images, tmp_path, monkeypatch):
    config = small.train_config(epochs=4)
    small.run(images, tmp_path / "whole", config=config)

    class Stopped(Exception):
        pass

    def stop_after(epoch):
        from agp_edge.trainer import loop

        write = loop.write_log

        def stopping(folder, history):
            write(folder, history)
            if len(history) == epoch:
                raise Stopped

        monkeypatch.setattr(loop, "write_log", stopping)

    stop_after(2)
    with pytest.raises(Stopped):
        small.run(images, tmp_path / "halves", config=config)
    monkeypatch.undo()
    assert len(log_of(tmp_path / "halves")) == 2
    assert load_model(tmp_path / "halves")[1].finished  # could be exported as it is
    result = small.run(images, tmp_path / "halves", config=config, resume=True)
    assert result.epochs == 4
    assert_same_weights(tmp_path / "whole", tmp_path / "halves")
    strip = [{**entry, "seconds": 0} for entry in log_of(tmp_path / "whole")]
    assert [{**entry, "seconds": 0} for entry in log_of(tmp_path / "halves")] == strip


KILLED = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from conftest import run, train_config
from agp_edge.trainer import loop

checkpoint = loop.write_checkpoint
def slow(folder, *args):  # most of the time is spent where a kill hurts most
    time.sleep(0.2)
    checkpoint(folder, *args)
    time.sleep(0.2)
loop.write_checkpoint = slow
run(Path(sys.argv[1]), Path(sys.argv[2]), config=train_config(epochs=12, patience=12))
"""


def test_killed_run_resumes_to_the_same_weights(small, images, tmp_path):
    """kill -9 in the middle of a training: at most one epoch is lost, no file is half written."""
    config = small.train_config(epochs=12, patience=12)
    small.run(images, tmp_path / "whole", config=config)

    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(images), str(folder), str(Path(__file__).parent)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    seen = 0
    while seen < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if (folder / "log.jsonl").exists():
            seen = len(log_of(folder))  # readable at any moment
    time.sleep(0.3)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()

    state = read_state(folder)
    assert state is not None
    finished = len(state.history)
    assert 3 <= finished < 12
    assert len(log_of(folder)) in (finished - 1, finished)
    load_model(folder)
    (folder / ".checkpoint-x.tmp.safetensors").write_bytes(b"of a kill while writing")

    result = small.run(images, folder, config=config, resume=True)
    assert result.epochs == 12
    assert_same_weights(tmp_path / "whole", folder)
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    expected = [{**entry, "seconds": 0} for entry in log_of(tmp_path / "whole")]
    assert [{**entry, "seconds": 0} for entry in log_of(folder)] == expected


def test_resume_with_nothing_there_starts(small, images, tmp_path):
    assert (
        small.run(images, tmp_path / "new", config=small.train_config(epochs=1), resume=True).epochs
        == 1
    )


def test_resume_refuses_another_run(small, images, tmp_path):
    folder = tmp_path / "run"
    small.run(images, folder, config=small.train_config(epochs=1))
    with pytest.raises(ModelError, match=r"run'.*holds a run already.*--resume"):
        small.run(images, folder, config=small.train_config(epochs=1))
    with pytest.raises(ModelError, match=r"started with epochs = 1, now it is 2"):
        small.run(images, folder, config=small.train_config(epochs=2), resume=True)
    other = small.write_images(tmp_path / "other", 20, start=50)
    with pytest.raises(DataError, match="other training images"):
        small.run(other, folder, config=small.train_config(epochs=1), resume=True)


def test_resume_refuses_other_backbone_weights(small, images, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    small.run(images, folder, config=small.train_config(epochs=1))
    from agp_edge.trainer import network

    original = network.pretrained_model

    def changed(*args, **options):
        pretrained = original(*args, **options)
        with torch.no_grad():
            next(pretrained.model.parameters()).add_(1.0)
        return pretrained

    monkeypatch.setattr(network, "pretrained_model", changed)
    with pytest.raises(ModelError, match="other backbone weights"):
        small.run(images, folder, config=small.train_config(epochs=1), resume=True)


def test_parts_stay_on_one_side(small, tmp_path):
    root = tmp_path / "data"
    small.write_images(root / "train" / "good", 20)
    rows = [f"train/good/{index:03}.png,{index // 4}" for index in range(20)]
    (root / "parts.csv").write_text("\n".join(["file,part", *rows]))
    small.run(root, tmp_path / "run", config=small.train_config(epochs=1, hold_out=0.4))
    checkpoint, _ = read_checkpoint(tmp_path / "run")
    part = dict(row.rsplit(",", 1) for row in rows)
    held = {part[file] for file, _ in checkpoint.held_out}
    assert len(held) == 2
    assert len(checkpoint.held_out) == 8
    assert not held & {part[file] for file in checkpoint.train_files}
    assert {p for _, p in checkpoint.held_out} == held
    assert {part_of(sample) for sample in open_dataset(root).train} == set(part.values())


def test_early_stop_keeps_the_best_epoch(small, images, tmp_path):
    # a learning rate of nothing: the first epoch stays the best
    config = small.train_config(epochs=30, patience=2, learning_rate=1e-30)
    result = small.run(images, tmp_path / "run", config=config)
    assert result.epochs < 30
    assert (result.best_epoch, result.epochs) == (0, 3)


def test_nan_stops_with_step_and_cause_and_keeps_the_checkpoint(
    small, images, tmp_path, monkeypatch
):
    from agp_edge.trainer import loop

    folder = tmp_path / "run"
    original = loop.reconstruction_loss
    calls = 0

    def breaking(target, reconstructed, hard_share=1.0):
        nonlocal calls
        calls += 1
        loss = original(target, reconstructed, hard_share)
        # 16 images: two steps and one held-out pass per epoch; the second step of the second epoch
        return loss * math.nan if calls == 5 else loss

    monkeypatch.setattr(loop, "reconstruction_loss", breaking)
    with pytest.raises(ModelError, match=r"epoch 1, step 1.*learning rate.*epoch 0 is kept"):
        small.run(images, folder)
    load_model(folder)
    assert len(log_of(folder)) == 1


def test_divergence_is_an_error_not_a_model(small, images, tmp_path):
    config = small.train_config(learning_rate=1e30, clip=1e30, warmup=0.0)
    with pytest.raises(ModelError, match="learning rate"):
        small.run(images, tmp_path / "run", config=config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"hold_out": 0.0}, "hold_out is 0"),
        ({"false_reject": 1.5}, "false_reject is 1.5"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"perturbation": "some"}, "perturbation is 'some'"),
        ({"prior": "some"}, "prior is 'some'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_settings_are_named(small, images, tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        small.run(images, tmp_path / "run", config=small.train_config(**changes))


def test_unusable_images(small, images, tmp_path):
    one = small.write_images(tmp_path / "one", 1)
    with pytest.raises(DataError, match="1 part"):
        small.run(one, tmp_path / "run")
    test_only = tmp_path / "test_only"
    small.write_images(test_only / "test" / "good", 2)
    with pytest.raises(DataError, match="no good images"):
        small.run(test_only, tmp_path / "run")
    cut = small.write_images(tmp_path / "cut", 6)
    path = cut / "003.png"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"003\.png.*truncated"):
        small.run(cut, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_identical_images_are_one_part(small, tmp_path):
    folder = small.write_images(tmp_path / "same", 1)
    for index in range(1, 8):
        (folder / f"{index:03}.png").write_bytes((folder / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"8 images show 1 part.*copies of one file.*few-shot"):
        small.run(folder, tmp_path / "run")
    small.write_images(folder, 7)  # the last copy stays
    twin = folder / "007.png"
    for seed in range(6):
        small.run(folder, tmp_path / f"{seed}", config=small.train_config(epochs=1, seed=seed))
        checkpoint, _ = read_checkpoint(tmp_path / f"{seed}")
        sides = [dict(checkpoint.held_out).keys(), checkpoint.train_files]
        assert any({"000.png", twin.name} <= set(side) for side in sides)


def test_unknown_device(small, images, tmp_path):
    with pytest.raises(DeviceError, match="nonsense"):
        train(
            open_dataset(images), tmp_path / "run", small.model_config(), device="nonsense",
            weights="random", progress=False,
        )  # fmt: skip
