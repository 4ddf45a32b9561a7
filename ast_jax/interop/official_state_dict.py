"""Converts the authors' PyTorch state dicts to our networks' parameters.

Their teacher is a list of modules, which includes inputs and permutations. Permutations
are not in the state dict: number k is drawn with seed k, as in `Teacher`.
"""

import re
from collections.abc import Mapping

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float

from ast_jax.errors import UserError

StateDict = Mapping[str, np.ndarray]
Names = dict[tuple[str, ...], str]  # our parameter's path → the authors' name


def teacher_params(state: StateDict, blocks: int = 4, *, gamma: bool = True) -> dict:
    """Returns our teacher's parameters from the authors' state dict.

    Args:
      state: PyTorch names to arrays, kernels OIHW.
      blocks: number of coupling blocks.
      gamma: whether the conditioners have their factor γ.

    Raises:
      UserError: a tensor is missing, unknown, or not finite.
    """
    found = (re.match(r"module_list\.(\d+)\.", name) for name in state)
    modules = sorted({int(match[1]) for match in found if match})
    if len(modules) < blocks:
        raise UserError(
            f"teacher: the state dict has {len(modules)} coupling blocks, the "
            f"configuration's teacher.blocks is {blocks}."
        )
    names: Names = {}
    for k, module in enumerate(modules[:blocks]):
        for ours, theirs in (("f1", "s1"), ("f2", "s2")):
            prefix = f"module_list.{module}.{theirs}"
            for conv in ("conv1", "conv2"):
                names |= _conv((f"{ours}_{k}", conv), f"{prefix}.{conv}")
            if gamma:
                names[f"{ours}_{k}", "gamma"] = f"{prefix}.gamma"
    return _rename(state, names, "teacher")


def student_variables(state: StateDict, blocks: int = 4) -> dict[str, dict]:
    """Returns our student's `params` and `batch_stats` from the authors' state dict.

    Ignores the unused `gamma` of their student.

    Raises:
      UserError: a tensor is missing, unknown, or not finite.
    """
    names: Names = {}
    for conv in ("conv1", "conv2"):
        names |= _conv(("params", conv), conv)
    for block in range(blocks):
        for k in (1, 2):
            ours, theirs = f"block{block}", f"res.{block}"
            names |= _conv(("params", ours, f"conv{k}"), f"{theirs}.l{k}")
            for collection, parts in (
                ("params", {"scale": "weight", "bias": "bias"}),
                ("batch_stats", {"mean": "running_mean", "var": "running_var"}),
            ):
                for part, name in parts.items():
                    path = (collection, ours, f"bn{k}", part)
                    names[path] = f"{theirs}.bn{k}.{name}"
    return _rename(state, names, "student")


def _conv(path: tuple[str, ...], name: str) -> Names:
    return {(*path, "kernel"): f"{name}.weight", (*path, "bias"): f"{name}.bias"}


def _rename(state: StateDict, names: Names, network: str) -> dict:
    """Renames all tensors, with kernels HWIO; none may be missing or left over."""
    missing = [name for name in names.values() if name not in state]
    if missing:
        raise UserError(
            f"{network}: the state dict has no {missing[0]!r} ({len(missing)} tensors "
            f"are missing; it begins with {next(iter(state), None)!r})."
        )
    known = {*names.values(), "gamma"}
    rest = [
        name
        for name in state
        if name not in known and not name.endswith("num_batches_tracked")
    ]
    if rest:
        raise UserError(
            f"{network}: {len(rest)} tensors have no place in this network "
            f"({', '.join(rest[:3])}, …); check the configuration's blocks."
        )
    broken = [name for name in names.values() if not np.isfinite(state[name]).all()]
    if broken:
        raise UserError(f"{network}: {broken[0]!r} holds numbers that are not finite.")
    return unflatten_dict({path: _convert(state[name]) for path, name in names.items()})


def _convert(tensor: np.ndarray) -> Float[np.ndarray, "..."]:
    """Converts to float32, and a kernel from OIHW to HWIO."""
    tensor = tensor.astype(np.float32)
    return np.transpose(tensor, (2, 3, 1, 0)) if tensor.ndim == 4 else tensor
