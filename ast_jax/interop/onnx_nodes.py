"""The nodes and constants of an ONNX graph, as they are added."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from jaxtyping import Shaped
from onnx import helper, numpy_helper

Known = np.ndarray
Value = Known | str  # a constant, or the name of a value in the graph


class Nodes:
    """Nodes and constants; `add` names the output of each node."""

    def __init__(self) -> None:
        """Starts without any."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[int, tuple[str, np.ndarray]] = {}
        self._count = 0

    def add(
        self, op: str, inputs: Sequence[Value], output: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output and returns its name."""
        return self.add_many(op, inputs, [output or self.new_name()], **attributes)[0]

    def add_many(
        self, op: str, inputs: Sequence[Value], outputs: list[str], **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs and returns their names."""
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return outputs

    def new_name(self) -> str:
        """A name that no other value has."""
        self._count += 1
        return f"v{self._count}"

    def _constant(self, array: Known) -> str:
        if id(array) not in self._constants:
            name = f"c{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
            # Keep the array, so that no other array gets its id.
            self._constants[id(array)] = name, array
        return self._constants[id(array)][0]


def reshape_sizes(shape: Sequence[Any]) -> Shaped[np.ndarray, " axes"]:
    """A shape for `Reshape`, which infers the one size that depends on the batch."""
    return np.array([n if isinstance(n, int) else -1 for n in shape], np.int64)
