"""Plans built on the device that runs them, once: reads model.onnx, keeps plans in a cache folder.

A plan fits one GPU, one TensorRT and one driver, so its name is a hash of all that went into it.
The folder may be deleted at any time; plans are built again when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from agp_edge.dependencies import require
from agp_edge.errors import DataError, Error, ModelError
from agp_edge.files import write_aside
from agp_edge.gpu import find_gpus
from agp_edge.site import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Target", "cache_folder", "cached_plan", "plan_for_this_gpu", "plan_key"]

LOG = logging.getLogger("agp_edge.plan.cache")
LOG.addHandler(logging.NullHandler())

# Part of every key: raised when plans of the same inputs come out different.
CACHE_FORMAT = 1
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a plan is built for and with."""

    compiler: str
    """Product and version, e.g. "TensorRT 10.3.0"."""

    compute_capability: str
    """E.g. "8.7"."""

    gpu: str
    """As the driver calls it: two GPUs of one compute capability differ in what is fastest."""

    driver: str
    """The driver's own version, and the newest CUDA that it runs."""


def plan_for_this_gpu(
    onnx_path: str | os.PathLike[str],
    *,
    build: bool = True,
    progress: Callable[[float], None] | None = None,
    content: bytes | None = None,
) -> Path:
    """The plan of a model for this machine's first GPU: from the cache, or compiled now.

    Args:
        onnx_path: a model made by `agp-edge export`.
        build: whether it may be compiled, which takes seconds to many minutes; False only looks
            into the cache.
        progress: as for `agp_edge.plan.build.plan_from_onnx`.
        content: the model's bytes, when their hash was compared; None: the file is read.

    Raises:
        DeviceError: no NVIDIA GPU; asked first.
        DependencyError: no compiler, or the package `filelock` is not installed.
        ModelError: the model cannot be compiled, or is not in the cache and `build` is False.
    """
    from agp_edge.plan.build import compiler_version, plan_from_onnx  # noqa: PLC0415  (loads TensorRT)

    gpu = find_gpus()[0]
    flavour, compiler = compiler_version()
    major, minor = gpu.compute_capability
    target = Target(
        compiler=compiler,
        compute_capability=f"{major}.{minor}",
        gpu=gpu.name,
        driver=_driver(gpu.driver_cuda),
    )
    # TensorRT compiles for the GPU that is here; TensorRT for RTX has to be told
    targets = (10 * major + minor,) if flavour == "rtx" else ()

    def compile_plan(path: Path) -> None:
        with _as_file(onnx_path, content) as model:
            plan_from_onnx(model, path, backend=flavour, targets=targets, progress=progress)

    return cached_plan(onnx_path, target, compile_plan, build=build, content=content)


@contextmanager
def _as_file(path: str | os.PathLike[str], content: bytes | None) -> Iterator[Path]:
    """The file; where its bytes were read already, a copy of them, since the file may change."""
    if content is None:
        yield Path(path)
        return
    with TemporaryDirectory(prefix="agp-edge-") as folder:
        copy = Path(folder) / Path(path).name
        copy.write_bytes(content)
        try:
            yield copy
        except Error as error:
            text = str(error).replace(str(copy), os.fspath(path))
            raise type(error)(text) from error


def cached_plan(
    onnx_path: str | os.PathLike[str],
    target: Target,
    compile_plan: Callable[[Path], None],
    *,
    build: bool = True,
    options: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    content: bytes | None = None,
) -> Path:
    """The plan under its key; compiled where it is missing or damaged.

    Processes that ask for the same plan wait for the first of them; each sees a whole file or none.

    Args:
        onnx_path: the model.
        target: what the plan is for.
        compile_plan: writes the plan to the path that it gets, or raises.
        build: whether it may be called.
        options: what else the plan depends on; ready for JSON.
        folder: the cache; None: `cache_folder()`.
        content: the model's bytes; None: the file is read.

    Raises:
        ModelError: not in the cache and `build` is False, or the model's weights lie in other
            files.
        DataError: the folder cannot be written.
        DependencyError: the package `filelock` is not installed.
    """
    base = cache_folder() if folder is None else Path(folder)
    key = plan_key(onnx_path, target, options, content=content)
    plan, record = base / f"{key}.plan", base / f"{key}.json"
    if _is_whole(plan, record):
        return plan
    if not build:
        raise ModelError(
            f"'{os.fspath(onnx_path)}' is not compiled yet for {target.gpu} ({target.compiler}), "
            "and build=False forbids it here: open it once with build=True, or compile it with "
            "`agp-edge build` and open the plan"
        )
    filelock = require("filelock", extra="cache")
    try:
        base.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(base / f"{key}.lock"):
            if _is_whole(plan, record):  # another process was faster
                return plan
            LOG.info("compiling '%s' for %s into '%s'", onnx_path, target.gpu, plan)
            # the record is the sign that the plan is whole: gone first, back last
            record.unlink(missing_ok=True)
            with write_aside(plan) as aside:
                compile_plan(aside)
            document = {
                "plan_sha256": file_sha256(plan),
                "model": os.fspath(onnx_path),
                "target": asdict(target),
                "options": dict(options or {}),
            }
            with write_aside(record) as aside:
                aside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the plan cache '{base}' cannot be written ({error.strerror or error}): make it "
            "writable, or set AGP_EDGE_CACHE to another folder"
        ) from error
    return plan


def plan_key(
    onnx_path: str | os.PathLike[str],
    target: Target,
    options: Mapping[str, Any] | None = None,
    *,
    content: bytes | None = None,
) -> str:
    """32 hex digits of a SHA-256 over the model's bytes, the target and the options.

    Args:
        onnx_path: the model.
        target: what the plan is for.
        options: what else the plan depends on; ready for JSON.
        content: the model's bytes; None: the file is read.

    Raises:
        ModelError: the model cannot be read, or keeps weights in another file, whose changes the
            key would not show.
    """
    from agp_edge import _core  # noqa: PLC0415  (the extension stays out of this module's import)

    path = Path(onnx_path)
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        raise ModelError(f"the model '{path}' cannot be read ({error.strerror})") from error
    _core.refuse_external_data(str(path), content)
    document = {
        "format": CACHE_FORMAT,
        "onnx": hashlib.sha256(content).hexdigest(),
        "target": asdict(target),
        "options": dict(options or {}),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Where plans are kept: $AGP_EDGE_CACHE, else agp-edge/plans in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("AGP_EDGE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is to be ignored
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "agp-edge" / "plans"


def _is_whole(plan: Path, record: Path) -> bool:
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        expected = document["plan_sha256"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("the record '%s' is damaged (%s): the plan is compiled again", record, error)
        return False
    with suppress(ModelError):
        if file_sha256(plan) == expected:
            return True
    LOG.warning("the plan '%s' is not what was compiled: it is compiled again", plan)
    return False


def _driver(newest_cuda: tuple[int, int]) -> str:
    cuda = f"CUDA {newest_cuda[0]}.{newest_cuda[1]}"
    with suppress(OSError):  # not on every Jetson
        return f"{DRIVER_VERSION.read_text().splitlines()[0].strip()}; {cuda}"
    return cuda
