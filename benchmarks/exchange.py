"""Our variables with PyTorch's names: both sides start from the same weights."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_state(variables: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """Converts Flax's collections to a state dict of `torch_ast`, with kernels OIHW."""
    state = {}
    for (_, *path, leaf), value in flatten_dict(variables).items():
        modules = [re.sub(r"^(f1|f2|block)_?(\d+)$", r"\1.\2", name) for name in path]
        array = np.asarray(value)
        if leaf == "kernel":
            array = np.ascontiguousarray(array.transpose(3, 2, 0, 1))
        state[".".join([*modules, _LEAVES.get(leaf, leaf)])] = array
    return state


def save_weights(folder: Path, variables: Mapping[str, Mapping]) -> None:
    """Writes FOLDER/weights.safetensors; names start with the network's."""
    tensors = {
        f"{network}.{key}": value
        for network, collections in variables.items()
        for key, value in torch_state(collections).items()
    }
    save_file(tensors, folder / "weights.safetensors")
