"""Which parts of an ONNX graph stand in the patterns that TensorRT fuses into one kernel each.

TensorRT's documentation ("Layer Fusion"; "Multi-Head Attention Fusion") names them: attention as
MatMul, Softmax, MatMul with nothing but a scale on the first operand; LayerNormalization and Gelu
as one operator each, not as the dozen of operators that they can be written in.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


class Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self._producer = {output: node for node in self.nodes for output in node.output}
        self._consumers = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._consumers[name].append(node)

    def count(self, kind: str) -> int:
        return sum(node.op_type == kind for node in self.nodes)

    def before(self, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
        return self._producer.get(node.input[index])

    def after(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return self._consumers[node.output[0]]

    def attentions(self) -> list[onnx.NodeProto]:
        """Every Softmax that stands alone between two products of computed matrices."""
        found = []
        for softmax in self.nodes:
            if softmax.op_type != "Softmax":
                continue
            scores = self.before(softmax, 0)
            if scores is None or scores.op_type != "MatMul":
                continue
            products = self.after(softmax)
            alone = len(self.after(scores)) == len(products) == 1
            if alone and products[0].op_type == "MatMul" and self._is_scaled_product(scores):
                found.append(softmax)
        return found

    def _is_scaled_product(self, product: onnx.NodeProto) -> bool:
        """Q times K transposed, a constant scale on Q: nothing else between them."""
        query, key = (self.before(product, index) for index in (0, 1))
        return (
            query is not None
            and key is not None
            and key.op_type == "Transpose"
            and query.op_type == "Mul"
            and any(name in self.constants for name in query.input)
        )
