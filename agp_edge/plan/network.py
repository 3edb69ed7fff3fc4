"""model.onnx -> TensorRT's network: parsed, with errors that name node and operator."""

from __future__ import annotations

from typing import Any

from agp_edge.errors import DeviceError, ModelError

__all__ = ["check_ends", "count_weights", "not_null", "parse_network"]


def parse_network(
    trt: Any, builder: Any, logger: Any, graph: str, *, source: str, title: str
) -> Any:
    """The network of the ONNX file `graph`; `source` is its name in messages.

    Raises:
        ModelError: the parser refused it; node, operator and reason are named.
    """
    flags = 0
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is not None:  # where it is gone, every network is
        flags = 1 << int(strongly_typed)
    network = not_null(builder.create_network(flags), "network", title, logger)
    parser = not_null(trt.OnnxParser(network, logger), "ONNX parser", title, logger)
    # From the file, not from its bytes: its errors name the file.
    if not parser.parse_from_file(graph):
        reasons = [_reason(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ModelError(
            f"{title} cannot read '{source}': {'; '.join(reasons) or logger.last_error}; "
            "export the model with operators that it supports"
        )
    return network


def check_ends(trt: Any, network: Any, source: str) -> None:
    """Refuses a graph whose inputs or outputs the GPU's stages could not serve."""
    ends = [network.get_input(index) for index in range(network.num_inputs)]
    ends += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in ends:
        if tensor.dtype not in (trt.DataType.FLOAT, trt.DataType.HALF):
            raise ModelError(
                f"tensor '{tensor.name}' of '{source}' is {tensor.dtype.name.lower()}, float32 or "
                "float16 is expected of inputs and outputs, whatever the layers are: export the "
                "model again"
            )


def _reason(error: Any) -> str:
    text = f"{str(error.code()).rpartition('.')[2]}, {error.desc()}"
    if error.node() < 0:
        return text
    return f"node {error.node()} '{error.node_name()}' ({error.node_operator()}): {text}"


def count_weights(trt: Any, network: Any) -> int:
    """How many numbers the layers hold."""
    total = 0
    kinds = {
        trt.LayerType.CONVOLUTION: (trt.IConvolutionLayer, ("kernel", "bias")),
        trt.LayerType.DECONVOLUTION: (trt.IDeconvolutionLayer, ("kernel", "bias")),
        trt.LayerType.CONSTANT: (trt.IConstantLayer, ("weights",)),
        trt.LayerType.SCALE: (trt.IScaleLayer, ("shift", "scale", "power")),
    }
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in kinds:
            # The bindings hand out the base class; this is their documented way down.
            layer.__class__, names = kinds[layer.type]
            total += sum(getattr(layer, name).size for name in names)
    return total


def not_null(value: Any, what: str, title: str, logger: Any) -> Any:
    """`value`, or a DeviceError that says which object the compiler could not create."""
    if value is None:
        raise DeviceError(
            f"{title} could not create its {what} ({logger.last_error or 'it gave no reason'}): "
            "check the installation with `agp-edge doctor`"
        )
    return value
