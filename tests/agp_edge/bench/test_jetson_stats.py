"""jetson-stats as a module that answers in the shape its documentation gives (7.2, jtop.jtop)."""

import sys

import pytest

from agp_edge.bench import Plan, run_benchmark
from agp_edge.bench.frames import synthetic_frames
from agp_edge.bench.jetson_stats import open_jetson_stats
from agp_edge.bench.monitor import Monitor
from agp_edge.bench.system import System
from agp_edge.bench.text import benchmark_lines

JTOP = '''
__version__ = "7.2.2"
closed = 0

class JtopException(Exception):
    """Its own, derived from nothing else."""

class Model:
    id, name = 2, "MAXN_SUPER"

class Clocks:
    def __bool__(self):
        return True

class jtop:
    """Before start() there is nothing to be read."""
    def start(self):
        if {refuses}:
            raise JtopException("The jtop.service is not active. Please run:\\nsudo jtop")
        core = {{"online": True, "governor": "schedutil", "user": 3.1,
                "freq": {{"min": 729600, "max": 1510400, "cur": 1344000}}}}
        self.cpu = {{"total": {{"user": 2.0}}, "cpu": [core, {{"online": False}}]}}
        self.gpu = {{"gpu": {{"type": "integrated", "status": {{"load": 12.5}},
                    "freq": {{"governor": "nvhost", "min": 306000, "max": 624750,
                             "cur": 510000}}}}}}
        self.temperature = {{"cpu": {{"temp": 48.5, "online": True}},
                            "cv0": {{"temp": -256, "online": False}}}}
        self.power = {{
            "rail": {{"VDD_SOC": {{"online": True, "type": "INA3221", "volt": 5000, "curr": 300,
                                 "power": 1500, "avg": 1490}},
                     "VDD_OFF": {{"online": False, "power": 9000, "avg": 9000}}}},
            "tot": {{"name": "VDD_IN", "online": True, "volt": 5000, "curr": 1400, "power": 7000,
                    "avg": 7010}}}}
        self.memory = {{"RAM": {{"tot": 7802168, "used": 3000000, "shared": 204800}}, "SWAP": {{}}}}
        self.nvpmodel, self.jetson_clocks = Model(), Clocks()

    def close(self):
        global closed
        closed += 1
'''


@pytest.fixture
def jtop(tmp_path, monkeypatch):
    """Writes the module; `refuses`: its service does not run."""

    def install(*, refuses=False):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / "jtop.py").write_text(JTOP.format(refuses=refuses))
        monkeypatch.syspath_prepend(folder)

    monkeypatch.delitem(sys.modules, "jtop", raising=False)
    yield install
    sys.modules.pop("jtop", None)


def test_it_fills_in_what_sysfs_does_not_show(jtop, tmp_path):
    jtop()
    empty = tmp_path / "root"
    empty.mkdir()
    with open_jetson_stats() as stats:
        system = System(empty, jetson_stats=stats)
        reading, known = system.read(), system.describe()
        with Monitor(system) as monitor:
            pass
    assert reading.cpu_mhz == (1344,)
    assert reading.gpu_mhz == 510
    assert reading.temperatures == {"cpu": 48.5}
    assert reading.rails_w == {"VDD_SOC": 1.5, "VDD_IN": 7}
    assert reading.power_w == 7  # not the sum, which would count the input's parts twice
    assert known["nvpmodel"] == "2 MAXN_SUPER"
    assert known["jetson_stats"] == {
        "version": "7.2.2", "problem": None, "nvpmodel": "2 MAXN_SUPER", "jetson_clocks": True
    }  # fmt: skip
    assert monitor.to_dict(1)["peak_gpu_dram_bytes"] == 200 << 20
    assert sys.modules["jtop"].closed == 1


def test_sysfs_is_believed_first(jtop, tmp_path):
    jtop()
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("51000\n")
    with open_jetson_stats() as stats:
        reading = System(tmp_path / "root", jetson_stats=stats).read()
    assert reading.temperatures == {"thermal_zone0": 51}
    assert reading.gpu_mhz == 510


def test_a_service_that_does_not_run_is_said_and_stops_nothing(jtop, small_model):
    jtop(refuses=True)
    plan = Plan(duration_s=0.1, rate_hz=50.0, warm_up_limit_s=0.2)
    found = run_benchmark(small_model, synthetic_frames(64, 48), plan, threads=1)
    stats = found.provenance["machine"]["jetson_stats"]
    assert stats == {
        "version": "7.2.2",
        "problem": "The jtop.service is not active. Please run: sudo jtop",
    }
    text = "\n".join(benchmark_lines(found))
    assert "jetson-stats 7.2.2 could not be read: The jtop.service is not active" in text
    assert "most memory: this process " in text


def test_without_it(small_model):
    with open_jetson_stats() as stats:
        assert stats is None
    assert System().describe()["jetson_stats"] is None
