"""A board that is only files: what is read of it, and what is made of it."""

import time

import pytest

from agp_edge.bench.monitor import Monitor
from agp_edge.bench.system import System


@pytest.fixture
def board(tmp_path):
    """An Orin Nano as JetPack 6 shows it, as far as it is read."""

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    for core in range(6):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(f"{folder}/scaling_governor", "schedutil")
        write(f"{folder}/scaling_cur_freq", 729600 + core)
        write(f"{folder}/scaling_max_freq", 1510400)
    write("sys/class/devfreq/17000000.gpu/cur_freq", 306000000)
    write("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    write("sys/class/thermal/thermal_zone0/temp", 48531)
    write("sys/class/thermal/cooling_device0/type", "pwm-fan")
    write("sys/class/thermal/cooling_device0/cur_state", 2)
    write("sys/class/thermal/cooling_device1/type", "cpufreq-cpu0")
    write("sys/class/thermal/cooling_device1/cur_state", 0)
    for number, (name, volt, ampere) in enumerate(
        (("VDD_IN", 5000, 1400), ("VDD_CPU_GPU_CV", 5000, 500), ("VDD_SOC", 5000, 300)), 1
    ):
        write("sys/class/hwmon/hwmon1/name", "ina3221")
        write(f"sys/class/hwmon/hwmon1/in{number}_label", name)
        write(f"sys/class/hwmon/hwmon1/in{number}_input", volt)
        write(f"sys/class/hwmon/hwmon1/curr{number}_input", ampere)
    write("sys/class/hwmon/hwmon1/in7_label", "sum of shunt voltages")
    write("sys/class/hwmon/hwmon2/name", "soctherm_oc")
    write("sys/class/hwmon/hwmon2/oc1_event_cnt", 0)
    write("var/lib/nvpmodel/status", "pmode:0002 fmode:fanNull")
    write(
        "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >"
    )
    write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write("proc/loadavg", "0.52 0.58 0.59 1/389 12345")
    write.root = tmp_path
    return write


def test_a_board_is_read(board):
    system = System(board.root)
    reading = system.read()
    assert reading.cpu_mhz[0] == pytest.approx(729.6)
    assert len(reading.cpu_mhz) == 6
    assert reading.gpu_mhz == 306
    assert reading.temperatures == {"cpu-thermal": 48.531}
    assert reading.rails_w == {"VDD_IN": 7.0, "VDD_CPU_GPU_CV": 2.5, "VDD_SOC": 1.5}
    assert reading.power_w == 7.0  # the input rail, not the sum of all
    assert reading.throttling == {"oc1 over-current": 0, "cooling by cpufreq-cpu0": 0}
    known = system.describe()
    assert known["governors"] == ["schedutil"]
    assert known["cpu_limit_mhz"] == 1510.4
    assert known["nvpmodel"] == "2 MAXN_SUPER"
    assert known["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert known["load_average"] == 0.52


def test_boards_without_an_input_rail_have_the_sum_of_all(board):
    board("sys/class/hwmon/hwmon1/in1_label", "VDD_GPU_SOC")
    assert System(board.root).read().power_w == pytest.approx(11.0)


def test_jetpack_4(tmp_path):
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    (folder / "rail_name_0").write_text("POM_5V_IN\n")
    (folder / "in_power0_input").write_text("4321\n")
    assert System(tmp_path).read().power_w == 4.321


def test_a_machine_that_shows_nothing(tmp_path):
    system = System(tmp_path)
    reading = system.read()
    assert reading.power_w is reading.gpu_mhz is None
    assert reading.cpu_mhz == ()
    assert system.describe()["governors"] == []
    with Monitor(system) as monitor:
        pass
    found = monitor.to_dict(10)
    assert found["power_w"] is found["energy_per_frame_j"] is found["cpu_mhz"] is None
    assert found["throttled"] == []


def test_energy_and_throttling_while_a_load_runs(board):
    with Monitor(System(board.root), interval_s=0.02) as monitor:
        time.sleep(0.1)
        board("sys/class/hwmon/hwmon1/curr1_input", 2800)
        board("sys/class/hwmon/hwmon2/oc1_event_cnt", 3)
        board("sys/class/thermal/cooling_device1/cur_state", 1)
        time.sleep(0.1)
        board("sys/class/thermal/cooling_device1/cur_state", 0)
    found = monitor.to_dict(100)
    assert found["readings"] >= 6
    assert 7.0 < found["power_w"] < 14.0
    # about 0.2 s of 7 W, then 14 W
    assert 100 * found["energy_per_frame_j"] == pytest.approx(0.2 * 10.5, rel=0.4)
    assert found["throttled"] == ["oc1 over-current: 0 to 3", "cooling by cpufreq-cpu0: 0 to 1"]
    assert found["cpu_mhz"] == [729.6, 729.605]


def test_this_machine_can_be_read():
    assert System().describe()["cores"] >= 1
    System().read()
