"""A traced function as an ONNX graph, primitive by primitive.

Knows what the detector's networks consist of, and nothing else: anything beyond is told
by name. What depends on no input is computed here and becomes a constant. Convolutions
keep JAX's layout between transpositions, which a runtime cancels out.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Shaped
from onnx import helper, numpy_helper

from ast_jax.errors import UserError

OPSET, IR_VERSION = 18, 10
Known = np.ndarray
Value = Known | str  # a constant, or the name of a value in the graph

_INLINED = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
_ELEMENTWISE = {  # the node that does the same, where it is a single one
    "add": "Add",
    "atan": "Atan",
    "convert_element_type": "",
    "div": "Div",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "not": "Not",
    "rsqrt": "",
    "select_n": "",
    "square": "",
    "sub": "Sub",
}


def convert(
    function: Callable, shapes: dict[str, jax.ShapeDtypeStruct], name: str
) -> onnx.ModelProto:
    """The ONNX model of a function of named arrays that returns named arrays.

    Where the function chooses by platform, the choice for none in particular is taken.

    Args:
      function: {name: array} → {name: array}; may be traced.
      shapes: its inputs. Their first axis is one symbolic batch; no other is symbolic.
      name: of the graph.

    Raises:
      UserError: the function needs a primitive that has no counterpart here.
    """
    traced = jax.jit(function).trace(shapes)
    graph = _Graph(shapes)
    names = sorted(shapes)  # the order of the jaxpr's inputs
    results = graph.run(traced.jaxpr, names)
    outputs = [path[0].key for path, _ in jax.tree.leaves_with_path(traced.out_info)]
    avals = jax.tree.leaves(traced.out_info)
    for result, output, aval in zip(results, outputs, avals, strict=True):
        graph.add("Identity", [graph.whole(result, aval.shape)], output=output)
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


class _Graph:
    """Nodes and constants as they are added while a jaxpr is read.

    A value is a constant or the name of a node's output. Either may be thin: of size 1
    along axes where JAX's array is larger, since most nodes broadcast by themselves.
    """

    def __init__(self, shapes: dict[str, jax.ShapeDtypeStruct]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[int, tuple[str, np.ndarray]] = {}
        self._thin: set[str] = set()
        self._count = 0
        self._batch = self.add("Shape", [next(iter(shapes))], start=0, end=1)

    def add(
        self, op: str, inputs: Sequence[Value], output: str = "", **attributes: Any
    ) -> str:
        """Adds a node with one output and returns its name."""
        return self._add(op, inputs, [output or self._name()], **attributes)[0]

    def _add(
        self, op: str, inputs: Sequence[Value], outputs: list[str], **attributes: Any
    ) -> list[str]:
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return outputs

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def _constant(self, array: Known) -> str:
        if id(array) not in self._constants:
            name = f"c{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
            self._constants[id(array)] = name, array  # held, so that its id stays its
        return self._constants[id(array)][0]

    def run(self, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Adds what a jaxpr computes of the inputs; returns its outputs."""
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
            return self.run(_closed(params[_INLINED[name]]), inputs)
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
        rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise UserError(
                f"ONNX: no counterpart here of JAX's {name!r}; export StableHLO (an "
                "--output that does not end in .onnx)."
            )
        pairs = zip(inputs, eqn.invars, strict=True)
        result = rule(eqn, *(self.whole(x, atom.aval.shape) for x, atom in pairs))
        return result if isinstance(result, list) else [result]

    def _broadcast(self, eqn: JaxprEqn, x: Value) -> Value:
        """Puts axes of size 1 where the new ones are."""
        places, shape = eqn.params["broadcast_dimensions"], eqn.outvars[0].aval.shape
        source = eqn.invars[0].aval.shape
        x = self.whole(x, source)
        sizes = [1] * len(shape)
        for place, size in zip(places, source, strict=True):
            sizes[place] = size
        if not isinstance(x, str):
            return np.reshape(x, sizes)
        result = self.add("Reshape", [x, _sizes(sizes)])
        if tuple(sizes) != shape:
            self._thin.add(result)
        return result

    def whole(self, x: Value, shape: Sequence[Any]) -> Value:
        """The same value, certainly of JAX's shape."""
        if isinstance(x, str):
            if x not in self._thin:
                return x
        elif np.shape(x) == tuple(shape):
            return x
        parts = [
            np.array([size]) if isinstance(size, int) else self._batch for size in shape
        ]
        return self.add("Expand", [x, self.add("Concat", parts, axis=0)])

    def _is_whole(self, x: Value, shape: Sequence[Any]) -> bool:
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
        if not any(map(self._is_whole, inputs, shapes)):
            self._thin.add(result)
        return result

    # What moves values about.

    def _reshape(self, eqn: JaxprEqn, x: Value) -> str:
        return self.add("Reshape", [x, _sizes(eqn.outvars[0].aval.shape)])

    _squeeze = _reshape

    def _transpose(self, eqn: JaxprEqn, x: Value) -> str:
        return self.add("Transpose", [x], perm=eqn.params["permutation"])

    def _concatenate(self, eqn: JaxprEqn, *parts: Value) -> str:
        return self.add("Concat", parts, axis=eqn.params["dimension"])

    def _split(self, eqn: JaxprEqn, x: Value) -> list[str]:
        sizes = np.array(eqn.params["sizes"], np.int64)
        names = [self._name() for _ in sizes]
        return self._add("Split", [x, sizes], names, axis=eqn.params["axis"])

    def _slice(self, eqn: JaxprEqn, x: Value) -> str:
        starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
        steps = eqn.params["strides"] or (1,) * len(starts)
        axes = [axis for axis, stop in enumerate(stops) if isinstance(stop, int)]
        ranges = ([sizes[axis] for axis in axes] for sizes in (starts, stops))
        arrays = [*ranges, axes, [steps[axis] for axis in axes]]
        return self.add("Slice", [x, *(np.array(a, np.int64) for a in arrays)])

    def _pad(self, eqn: JaxprEqn, x: Value, fill: Value) -> str:
        low, high, between = zip(*eqn.params["padding_config"], strict=True)
        _require(not any(between), eqn)
        return self.add("Pad", [x, np.array([*low, *high], np.int64), fill])

    def _gather(self, eqn: JaxprEqn, x: Value, indices: Value) -> str:
        """A window at a constant place, or entries along one axis (a permutation)."""
        numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
        _require(not isinstance(indices, str), eqn)
        places = np.asarray(indices, np.int64)
        axes = np.array(numbers.start_index_map, np.int64)
        if places.ndim == 1:
            stops = places + [sizes[axis] for axis in axes]
            window = self.add("Slice", [x, places, stops, axes])
            return self.add("Reshape", [window, _sizes(eqn.outvars[0].aval.shape)])
        rest = tuple(i for i in range(len(sizes)) if i != axes[0])
        _require(places.shape[1:] == (1,) and numbers.offset_dims == rest, eqn)
        return self.add("Gather", [x, places[:, 0]], axis=int(axes[0]))

    # What computes.

    def _clamp(self, eqn: JaxprEqn, low: Value, x: Value, high: Value) -> str:
        return self.add("Clip", [x, low, high])

    def _reduce(self, op: str, eqn: JaxprEqn, x: Value) -> str:
        axes = np.array(eqn.params["axes"], np.int64)
        return self.add(op, [x, axes], keepdims=0)

    def _reduce_sum(self, eqn: JaxprEqn, x: Value) -> str:
        return self._reduce("ReduceSum", eqn, x)

    def _reduce_max(self, eqn: JaxprEqn, x: Value) -> str:
        return self._reduce("ReduceMax", eqn, x)

    def _top_k(self, eqn: JaxprEqn, x: Value) -> list[str]:
        k, axis = np.array([eqn.params["k"]], np.int64), eqn.params["axis"]
        return self._add("TopK", [x, k], [self._name(), self._name()], axis=axis)

    def _dot_general(self, eqn: JaxprEqn, left: Value, right: Value) -> str:
        (contracted, batched) = eqn.params["dimension_numbers"]
        ranks = [len(atom.aval.shape) for atom in eqn.invars]
        if (ranks[1], contracted, batched) == (2, ((ranks[0] - 1,), (0,)), ((), ())):
            return self.add("MatMul", [left, right])
        letters = string.ascii_lowercase
        first = list(letters[: ranks[0]])
        second = list(letters[ranks[0] : sum(ranks)])
        for of_left, of_right in (contracted, batched):
            for i, j in zip(of_left, of_right, strict=True):
                second[j] = first[i]
        shared = [first[i] for i in batched[0]]
        summed = {first[i] for i in contracted[0]}
        free = [c for c in first + second if c not in summed and c not in shared]
        equation = f"{''.join(first)},{''.join(second)}->{''.join(shared + free)}"
        return self.add("Einsum", [left, right], equation=equation)

    def _conv_general_dilated(self, eqn: JaxprEqn, x: Value, kernel: Value) -> str:
        params, numbers = eqn.params, eqn.params["dimension_numbers"]
        _require(set(params["lhs_dilation"]) == {1}, eqn)
        low, high = zip(*params["padding"], strict=True)
        result = self.add(
            "Conv",
            [
                self._permuted(x, numbers.lhs_spec),
                self._permuted(kernel, numbers.rhs_spec),
            ],
            strides=params["window_strides"],
            dilations=params["rhs_dilation"],
            pads=[*low, *high],
            group=params["feature_group_count"],
        )
        return self._permuted(result, np.argsort(numbers.out_spec).tolist())

    def _permuted(self, x: Value, order: Sequence[int]) -> Value:
        if isinstance(x, str):
            return self.add("Transpose", [x], perm=order)
        return np.ascontiguousarray(np.transpose(x, order))


def _closed(jaxpr: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _symbolic(eqn: JaxprEqn) -> bool:
    """Whether a shape depends on the batch."""
    atoms = (*eqn.invars, *eqn.outvars)
    return any(not isinstance(n, int) for atom in atoms for n in atom.aval.shape)


def _sizes(shape: Sequence[Any]) -> Shaped[np.ndarray, " axes"]:
    """A shape for `Reshape`, which infers the one size that depends on the batch."""
    return np.array([n if isinstance(n, int) else -1 for n in shape], np.int64)


def _require(supported: bool, eqn: JaxprEqn) -> None:
    if not supported:
        raise UserError(
            f"ONNX: {eqn.primitive.name!r} is used in a way that is not known here "
            f"({' '.join(str(eqn.params).split())[:120]}); export StableHLO."
        )
