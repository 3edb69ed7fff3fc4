"""cpu= and priority=: where every thread runs that a detector starts."""

import json
import os
import subprocess
import sys

import pytest

from agp_edge import Detector, Error

# In a process of its own: OpenVINO's threads belong to the process, not to a detector.
PLACED = """
import json, os, sys
import numpy as np
from agp_edge import Detector
path, engine, cpu, priority = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tasks = lambda: {int(task) for task in os.listdir("/proc/self/task")}
frame = np.zeros((480, 640, 3), np.uint8)
before = tasks()
affinity = os.sched_getaffinity(0)
with Detector(path, engine=engine, cpu=cpu, priority=priority) as detector:
    detector.score(frame)
    detector.submit(frame).result(30)
    rows = [
        (open(f"/proc/self/task/{task}/comm").read().strip(), sorted(os.sched_getaffinity(task)),
         os.sched_getscheduler(task), os.sched_getparam(task).sched_priority)
        for task in tasks() - before
    ]
assert os.sched_getaffinity(0) == affinity
print(json.dumps(rows))
"""


def placed(model, engine, *, cpu, priority):
    done = subprocess.run(
        [sys.executable, "-c", PLACED, str(model), engine, str(cpu), str(priority)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def may_be_real_time() -> bool:
    return (
        subprocess.run(
            [sys.executable, "-c",
             "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))"],
            capture_output=True, check=False,
        ).returncode == 0
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_thread_of_the_detector_is_pinned(small_model, engine):
    cpu = max(os.sched_getaffinity(0))
    rows = placed(small_model, engine, cpu=cpu, priority=0)
    # Two of ours; threads that these start bear their names.
    assert {"agp_edge 0", "agp_edge 1"} <= {name for name, *_ in rows}
    assert {tuple(cpus) for _, cpus, *_ in rows} == {(cpu,)}, rows
    assert {policy for *_, policy, _ in rows} == {os.SCHED_OTHER}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_real_time_priority(small_model, engine):
    if not may_be_real_time():
        with pytest.raises(Error, match="real-time priority 5 is not permitted to this process"):
            Detector(small_model, engine=engine, priority=5)
        return
    rows = placed(small_model, engine, cpu=max(os.sched_getaffinity(0)), priority=5)
    assert {(policy, priority) for *_, policy, priority in rows} == {(os.SCHED_FIFO, 5)}, rows


REFUSED = """
import os, resource, sys
from agp_edge import _core
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)  # with it goes the right
try:
    _core.place_this_thread([], 5)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_priority_that_is_not_permitted():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(
        "Error the real-time priority 5 is not permitted to this process (Operation not permitted)"
    )
    assert "CAP_SYS_NICE" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu": 4096}, "the CPU 4096 was given for the detector's threads"),
        ({"cpu": -1}, "the CPU -1 was given"),
        ({"cpu": "0"}, "cpu is '0': expected the number of a CPU"),
        ({"cpu": []}, r"cpu is \[\]: expected"),
        ({"cpu": 0.5}, "cpu is 0.5: expected"),
        ({"priority": 100}, "the priority 100 was given .* 1 to 99 is expected"),
        ({"priority": -3}, "the priority -3 was given"),
    ],
)
def test_wrong_places(small_model, options, message):
    with pytest.raises(Error, match=message):
        Detector(small_model, **options)
