"""The ONNX nodes of JAX's primitives, except element-wise ones.

A rule takes the nodes so far, JAX's equation and its inputs; it adds nodes and returns
the name of its output, or a list of names. Convolutions keep JAX's layout between
transpositions, which cancel out in a runtime.
"""

import string
from collections.abc import Callable, Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ast_jax.errors import UserError
from ast_jax.interop.onnx_nodes import Nodes, Value, reshape_sizes

# These primitives move values.


def _reshape(nodes: Nodes, eqn: JaxprEqn, x: Value) -> str:
    return nodes.add("Reshape", [x, reshape_sizes(eqn.outvars[0].aval.shape)])


def _transpose(nodes: Nodes, eqn: JaxprEqn, x: Value) -> str:
    return nodes.add("Transpose", [x], perm=eqn.params["permutation"])


def _concatenate(nodes: Nodes, eqn: JaxprEqn, *parts: Value) -> str:
    return nodes.add("Concat", parts, axis=eqn.params["dimension"])


def _stack(nodes: Nodes, eqn: JaxprEqn, *parts: Value) -> str:
    axis = eqn.params["axis"]
    axes = np.array([axis], np.int64)
    slices = [nodes.add("Unsqueeze", [part, axes]) for part in parts]
    return nodes.add("Concat", slices, axis=axis)


def _split(nodes: Nodes, eqn: JaxprEqn, x: Value) -> list[str]:
    sizes = np.array(eqn.params["sizes"], np.int64)
    names = [nodes.new_name() for _ in sizes]
    return nodes.add_many("Split", [x, sizes], names, axis=eqn.params["axis"])


def _slice(nodes: Nodes, eqn: JaxprEqn, x: Value) -> str:
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    axes = [axis for axis, stop in enumerate(stops) if isinstance(stop, int)]
    ranges = ([sizes[axis] for axis in axes] for sizes in (starts, stops))
    arrays = [*ranges, axes, [steps[axis] for axis in axes]]
    return nodes.add("Slice", [x, *(np.array(a, np.int64) for a in arrays)])


def _pad(nodes: Nodes, eqn: JaxprEqn, x: Value, fill: Value) -> str:
    low, high, between = zip(*eqn.params["padding_config"], strict=True)
    _require(not any(between), eqn)
    return nodes.add("Pad", [x, np.array([*low, *high], np.int64), fill])


def _gather(nodes: Nodes, eqn: JaxprEqn, x: Value, indices: Value) -> str:
    """A window at a constant position, or entries along one axis (a permutation)."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    _require(not isinstance(indices, str), eqn)
    places = np.asarray(indices, np.int64)
    axes = np.array(numbers.start_index_map, np.int64)
    if places.ndim == 1:
        stops = places + [sizes[axis] for axis in axes]
        window = nodes.add("Slice", [x, places, stops, axes])
        return nodes.add("Reshape", [window, reshape_sizes(eqn.outvars[0].aval.shape)])
    rest = tuple(i for i in range(len(sizes)) if i != axes[0])
    _require(places.shape[1:] == (1,) and numbers.offset_dims == rest, eqn)
    return nodes.add("Gather", [x, places[:, 0]], axis=int(axes[0]))


# These primitives compute.


def _clamp(nodes: Nodes, eqn: JaxprEqn, low: Value, x: Value, high: Value) -> str:
    return nodes.add("Clip", [x, low, high])


def _reduce(nodes: Nodes, op: str, eqn: JaxprEqn, x: Value) -> str:
    axes = np.array(eqn.params["axes"], np.int64)
    return nodes.add(op, [x, axes], keepdims=0)


def _reduce_sum(nodes: Nodes, eqn: JaxprEqn, x: Value) -> str:
    return _reduce(nodes, "ReduceSum", eqn, x)


def _reduce_max(nodes: Nodes, eqn: JaxprEqn, x: Value) -> str:
    return _reduce(nodes, "ReduceMax", eqn, x)


def _top_k(nodes: Nodes, eqn: JaxprEqn, x: Value) -> list[str]:
    k, axis = np.array([eqn.params["k"]], np.int64), eqn.params["axis"]
    return nodes.add_many(
        "TopK", [x, k], [nodes.new_name(), nodes.new_name()], axis=axis
    )


def _dot_general(nodes: Nodes, eqn: JaxprEqn, left: Value, right: Value) -> str:
    (contracted, batched) = eqn.params["dimension_numbers"]
    ranks = [len(atom.aval.shape) for atom in eqn.invars]
    if (ranks[1], contracted, batched) == (2, ((ranks[0] - 1,), (0,)), ((), ())):
        return nodes.add("MatMul", [left, right])
    letters = string.ascii_lowercase
    first = list(letters[: ranks[0]])
    second = list(letters[ranks[0] : sum(ranks)])
    for left_axes, right_axes in (contracted, batched):
        for i, j in zip(left_axes, right_axes, strict=True):
            second[j] = first[i]
    shared = [first[i] for i in batched[0]]
    summed = {first[i] for i in contracted[0]}
    free = [c for c in first + second if c not in summed and c not in shared]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(shared + free)}"
    return nodes.add("Einsum", [left, right], equation=equation)


def _conv_general_dilated(nodes: Nodes, eqn: JaxprEqn, x: Value, kernel: Value) -> str:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    _require(set(params["lhs_dilation"]) == {1}, eqn)
    low, high = zip(*params["padding"], strict=True)
    result = nodes.add(
        "Conv",
        [
            _permute(nodes, x, numbers.lhs_spec),
            _permute(nodes, kernel, numbers.rhs_spec),
        ],
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        pads=[*low, *high],
        group=params["feature_group_count"],
    )
    return _permute(nodes, result, np.argsort(numbers.out_spec).tolist())


def _permute(nodes: Nodes, x: Value, order: Sequence[int]) -> Value:
    if isinstance(x, str):
        return nodes.add("Transpose", [x], perm=order)
    return np.ascontiguousarray(np.transpose(x, order))


def _require(supported: bool, eqn: JaxprEqn) -> None:
    if not supported:
        raise UserError(
            f"ONNX: {eqn.primitive.name!r} is used in a way that is not known here "
            f"({' '.join(str(eqn.params).split())[:120]}); export StableHLO."
        )


RULES: dict[str, Callable[..., Value | list[str]]] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "clamp": _clamp,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "top_k": _top_k,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv_general_dilated,
}
