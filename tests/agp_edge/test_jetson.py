"""Warnings for a Jetson, from files as JetPack 6.2 has them on an Orin Nano, in a played root."""

import shutil

import pytest

from agp_edge import doctor
from agp_edge.cli import main
from agp_edge.jetson import find_jetson

CONF = """\
# comments
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
"""
GPU = "sys/class/devfreq/17000000.gpu"
CPU = "sys/devices/system/cpu/cpufreq/policy0"
FILES = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "etc/nvpmodel.conf": CONF,
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fan",
    f"{CPU}/scaling_min_freq": "1728000\n",
    f"{CPU}/scaling_max_freq": "1728000\n",
    f"{GPU}/min_freq": "1020000000\n",
    f"{GPU}/max_freq": "1020000000\n",
    f"{GPU}/cur_freq": "1020000000\n",
    "sys/class/hwmon/hwmon1/oc1_event_cnt": "0\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
}


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Makes a root; None for a value removes the file."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def make(changes=None):
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        for name, text in {**FILES, **(changes or {})}.items():
            if text is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
        return root

    return make


def only(root):
    (warning,) = find_jetson(root).warnings
    return warning


def test_a_board_at_its_best_has_no_warning(board):
    jetson = find_jetson(board())
    assert jetson.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert jetson.release == "R36.4.3"
    assert jetson.warnings == ()


def test_other_machines_are_none(tmp_path, board):
    assert find_jetson(tmp_path) is None
    pc = {"proc/device-tree/model": "Raspberry Pi 5", "etc/nv_tegra_release": None}
    assert find_jetson(board(pc)) is None


def test_a_power_mode_below_the_fastest(board):
    warning = only(board({"var/lib/nvpmodel/status": "pmode:0000 fmode:fan"}))
    assert warning.startswith("the power mode is 0 (15W), the fastest is 2 (MAXN_SUPER)")
    assert "`sudo nvpmodel -m 2`" in warning
    no_maxn = CONF.replace("ID=2 NAME=MAXN_SUPER", "ID=2 NAME=7W")
    older = {"etc/nvpmodel.conf": no_maxn, "var/lib/nvpmodel/status": "pmode:0002"}
    assert "is 2 (7W), the fastest is 1 (25W)" in only(board(older))
    own = {"var/lib/nvpmodel/status": "pmode:0009"}
    assert "is 9 (unknown), the fastest is 2" in only(board(own))


def test_the_mode_is_asked_of_nvpmodel_where_no_file_has_it(board, tmp_path):
    program = tmp_path / "bin" / "nvpmodel"
    program.parent.mkdir()
    root = board({"var/lib/nvpmodel/status": None})
    for answer, expected in (
        ("NV Power Mode: MAXN_SUPER\\n2", 0),
        ("NV Power Mode: 15W\\n0", 1),
        ("Error opening the file", 0),  # nothing is known, so nothing is said
    ):
        program.write_text(f'#!/bin/sh\n[ "$1" = -q ] && printf "{answer}\\n"\n')
        program.chmod(0o755)
        assert len(find_jetson(root).warnings) == expected, answer
    program.unlink()
    assert find_jetson(root).warnings == ()


def test_clocks_that_may_fall(board):
    cpu = {f"{CPU}/scaling_min_freq": "115200"}
    gpu = {f"{GPU}/min_freq": "306000000"}
    assert "(the CPU's may fall between frames)" in only(board(cpu))
    assert "(the GPU's may fall between frames)" in only(board(gpu))
    both = only(board({**cpu, **gpu}))
    assert "(the CPU's and the GPU's may fall between frames)" in both
    assert "`sudo jetson_clocks`" in both
    # the memory controller is no GPU
    other = {"sys/class/devfreq/emc/min_freq": "1", "sys/class/devfreq/emc/max_freq": "2"}
    assert find_jetson(board(other)).warnings == ()


def test_throttling(board):
    over = {"sys/class/hwmon/hwmon1/oc1_event_cnt": "12"}
    assert "has throttled 12 times since it started (oc1 over-current events)" in only(board(over))
    hot = {"sys/class/thermal/cooling_device1/cur_state": "1"}
    assert "too hot and throttles (cooling by cpu-throttle-alert)" in only(board(hot))


def test_files_that_cannot_be_read_or_hold_nonsense(board):
    nonsense = dict.fromkeys(FILES, "\x00\xffnonsense")
    assert find_jetson(board({**nonsense, "proc/device-tree/model": "Jetson"})).warnings == ()
    missing = dict.fromkeys(FILES)
    assert find_jetson(board({**missing, "proc/device-tree/model": "Jetson"})).warnings == ()


def test_doctor_prints_them(board, monkeypatch, capfd):
    root = board({"var/lib/nvpmodel/status": "pmode:0001", f"{GPU}/min_freq": "0"})
    monkeypatch.setattr(doctor, "ROOT", root)
    assert main(["doctor"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "yes  Jetson: NVIDIA Jetson Orin Nano Developer Kit" in out
    assert "       Jetson Linux R36.4.3\n" in out
    assert "       warning: the power mode is 1 (25W)" in out
    assert "       warning: the clocks are not locked" in out
