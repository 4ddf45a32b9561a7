"""Reads the authors' PyTorch state dicts into our parameters.

Their teacher is a list of modules: permutation k is module 2k + 2, which is not in the
state dict, and coupling k module 2k + 3. Their student carries an unused `gamma`.
"""

from collections.abc import Mapping

import numpy as np
from flax.traverse_util import unflatten_dict

from ast_jax.errors import UserError

StateDict = Mapping[str, np.ndarray]
_FIRST_COUPLING = 3
_UNUSED = ("gamma", "num_batches_tracked")


def _conv(state: StateDict, name: str) -> dict[str, np.ndarray]:
    """A convolution's parameters: PyTorch's OIHW kernel as HWIO."""
    kernel = np.transpose(state[f"{name}.weight"], (2, 3, 1, 0))
    return {"kernel": kernel, "bias": state[f"{name}.bias"]}


class _Reader(Mapping):
    """A state dict that remembers which keys were read, so that none is forgotten."""

    def __init__(self, state: StateDict, what: str):
        self._state, self._what, self._read = state, what, set()

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._state:
            raise UserError(f"{self._what}: the state dict has no {key!r}.")
        self._read.add(key)
        return np.asarray(self._state[key])

    def __iter__(self):
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)

    def check_all_read(self) -> None:
        rest = [k for k in self if k not in self._read and not k.endswith(_UNUSED)]
        if rest:
            raise UserError(
                f"{self._what}: {len(rest)} tensors have no place in this network "
                f"({', '.join(rest[:3])}, …); check the configuration's blocks."
            )


def teacher_params(state: StateDict, blocks: int = 4) -> dict:
    """Returns our teacher's parameters from the authors' state dict.

    Args:
      state: PyTorch names to arrays, kernels OIHW.
      blocks: number of coupling blocks.

    Raises:
      UserError: a tensor is missing or has no place.
    """
    reader = _Reader(state, "teacher")
    params = {}
    for k in range(blocks):
        for ours, theirs in (("f1", "s1"), ("f2", "s2")):
            prefix = f"module_list.{_FIRST_COUPLING + 2 * k}.{theirs}"
            params[f"{ours}_{k}"] = {
                "conv1": _conv(reader, f"{prefix}.conv1"),
                "conv2": _conv(reader, f"{prefix}.conv2"),
                "gamma": reader[f"{prefix}.gamma"],
            }
    reader.check_all_read()
    return params


def student_variables(state: StateDict, blocks: int = 4) -> dict[str, dict]:
    """Returns our student's `params` and `batch_stats` from the authors' state dict.

    Raises:
      UserError: a tensor is missing or has no place.
    """
    reader = _Reader(state, "student")
    params = {("conv1",): _conv(reader, "conv1"), ("conv2",): _conv(reader, "conv2")}
    stats = {}
    for block in range(blocks):
        for k in (1, 2):
            name, bn = f"block{block}", f"res.{block}.bn{k}"
            params[name, f"conv{k}"] = _conv(reader, f"res.{block}.l{k}")
            params[name, f"bn{k}"] = {
                "scale": reader[f"{bn}.weight"],
                "bias": reader[f"{bn}.bias"],
            }
            stats[name, f"bn{k}"] = {
                "mean": reader[f"{bn}.running_mean"],
                "var": reader[f"{bn}.running_var"],
            }
    reader.check_all_read()
    return {"params": unflatten_dict(params), "batch_stats": unflatten_dict(stats)}
