"""Converts a traced function to an ONNX graph, primitive by primitive.

It knows the primitives of the detector's networks; an error names any other one. Values
that depend on no input are computed here and become constants.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from onnx import helper

from ast_jax.errors import UserError
from ast_jax.interop.onnx_nodes import Nodes, Value, reshape_sizes
from ast_jax.interop.onnx_rules import RULES
from ast_jax.platforms import trace_every_platform

OPSET, IR_VERSION = 18, 10

_INLINED = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
_ELEMENTWISE = {  # the node that does the same; "" if it takes more than a name
    "add": "Add",
    "atan": "Atan",
    "convert_element_type": "",
    "div": "Div",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "not": "Not",
    "or": "Or",
    "rsqrt": "",
    "select_n": "",
    "square": "",
    "sub": "Sub",
}


def convert(
    function: Callable, shapes: dict[str, jax.ShapeDtypeStruct], name: str
) -> onnx.ModelProto:
    """Returns the ONNX model of a function of named arrays that returns named arrays.

    If the function depends on the platform, the model has its default.

    Args:
      function: {name: array} → {name: array}; may be traced.
      shapes: its inputs. Their first axis is one symbolic batch; no other is symbolic.
      name: of the graph.

    Raises:
      UserError: the function needs a primitive that this module does not know.
    """
    with trace_every_platform():
        traced = jax.jit(function).trace(shapes)
    graph = _Graph(shapes)
    names = sorted(shapes)  # the order of the jaxpr's inputs
    results = graph.run(traced.jaxpr, names)
    outputs = [path[0].key for path, _ in jax.tree.leaves_with_path(traced.out_info)]
    avals = jax.tree.leaves(traced.out_info)
    for result, output, aval in zip(results, outputs, avals, strict=True):
        graph.add("Identity", [graph.expand(result, aval.shape)], output=output)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [_info(key, shapes[key]) for key in names],
            [_info(key, aval) for key, aval in zip(outputs, avals, strict=True)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ast-jax",
    )
    onnx.checker.check_model(model)
    return model


def _info(name: str, aval: Any) -> onnx.ValueInfoProto:
    shape = [dim if isinstance(dim, int) else "batch" for dim in aval.shape]
    return helper.make_tensor_value_info(name, _onnx_type(aval.dtype), shape)


def _onnx_type(dtype: np.dtype) -> int:
    if dtype == jax.numpy.bfloat16:
        raise UserError("ONNX: train.dtype=bfloat16 has no runtime; export StableHLO.")
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Graph(Nodes):
    """The graph of a jaxpr, to which equations add nodes.

    A value may be thin: it has size 1 along axes where JAX's array is larger, because
    most nodes broadcast their inputs.
    """

    def __init__(self, shapes: dict[str, jax.ShapeDtypeStruct]):
        super().__init__()
        self._thin: set[str] = set()
        self._batch = self.add("Shape", [next(iter(shapes))], start=0, end=1)

    def run(self, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Adds the nodes of a jaxpr; returns its outputs."""
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def value(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return np.asarray(atom.val, atom.aval.dtype)
            return values[atom]

        for eqn in jaxpr.eqns:
            outputs = self._equation(eqn, [value(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, outputs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in _INLINED:
            return self.run(_close(params[_INLINED[name]]), inputs)
        if name == "platform_index":
            return [np.array(params["platforms"].index(None))]
        if name == "cond" and not isinstance(inputs[0], str):
            return self.run(params["branches"][int(inputs[0])], inputs[1:])
        if name == "optimization_barrier":
            return inputs
        if not any(isinstance(x, str) for x in inputs) and not _symbolic(eqn):
            results = eqn.primitive.bind(*inputs, **params)
            several = eqn.primitive.multiple_results
            return [
                np.asarray(result) for result in (results if several else [results])
            ]
        if name == "broadcast_in_dim":
            return [self._broadcast(eqn, inputs[0])]
        if name in _ELEMENTWISE:
            return [self._elementwise(eqn, inputs)]
        if name not in RULES:
            raise UserError(
                f"ONNX: no counterpart here of JAX's {name!r}; export StableHLO (an "
                "--output that does not end in .onnx)."
            )
        pairs = zip(inputs, eqn.invars, strict=True)
        whole = (self.expand(x, atom.aval.shape) for x, atom in pairs)
        result = RULES[name](self, eqn, *whole)
        return result if isinstance(result, list) else [result]

    def _broadcast(self, eqn: JaxprEqn, x: Value) -> Value:
        """Inserts the new axes with size 1."""
        places, shape = eqn.params["broadcast_dimensions"], eqn.outvars[0].aval.shape
        source = eqn.invars[0].aval.shape
        x = self.expand(x, source)
        sizes = [1] * len(shape)
        for place, size in zip(places, source, strict=True):
            sizes[place] = size
        if not isinstance(x, str):
            return np.reshape(x, sizes)
        result = self.add("Reshape", [x, reshape_sizes(sizes)])
        if tuple(sizes) != shape:
            self._thin.add(result)
        return result

    def expand(self, x: Value, shape: Sequence[Any]) -> Value:
        """Expands a thin value to JAX's shape."""
        if isinstance(x, str):
            if x not in self._thin:
                return x
        elif np.shape(x) == tuple(shape):
            return x
        parts = [
            np.array([size]) if isinstance(size, int) else self._batch for size in shape
        ]
        return self.add("Expand", [x, self.add("Concat", parts, axis=0)])

    def _is_expanded(self, x: Value, shape: Sequence[Any]) -> bool:
        is_thin = x in self._thin if isinstance(x, str) else np.shape(x) != tuple(shape)
        return bool(shape) and not is_thin

    def _elementwise(self, eqn: JaxprEqn, inputs: list[Value]) -> str:
        name = eqn.primitive.name
        if name == "convert_element_type":
            to = _onnx_type(eqn.params["new_dtype"])
            result = self.add("Cast", inputs, to=to)
        elif name == "square":
            result = self.add("Mul", inputs * 2)
        elif name == "rsqrt":
            result = self.add("Reciprocal", [self.add("Sqrt", inputs)])
        elif name == "select_n":
            which, no, yes = inputs
            result = self.add("Where", [which, yes, no])
        else:
            result = self.add(_ELEMENTWISE[name], inputs)
        shapes = [atom.aval.shape for atom in eqn.invars]
        if not any(map(self._is_expanded, inputs, shapes)):
            self._thin.add(result)
        return result


def _close(jaxpr: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _symbolic(eqn: JaxprEqn) -> bool:
    """Whether a shape depends on the batch."""
    atoms = (*eqn.invars, *eqn.outvars)
    return any(not isinstance(n, int) for atom in atoms for n in atom.aval.shape)
