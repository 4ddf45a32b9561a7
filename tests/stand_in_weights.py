"""Deterministic stand-ins for timm's weights, as the recorded activations had them.

`state_dict(name)` rebuilds the tensors behind `reference/backbone_<name>.npz`; each one
listed in the `.json` beside it is drawn in the file's order from one generator.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

REFERENCE = Path(__file__).parent / "reference"


def state_dict(name: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """timm's keys and stand-in tensors; convolution kernels are OIHW."""
    shapes = json.loads((REFERENCE / f"backbone_{name}.json").read_text())
    rng = np.random.default_rng(0)
    return {key: _draw(rng, key, shape) for key, shape in shapes.items()}


def _draw(
    rng: np.random.Generator, key: str, shape: list[int]
) -> Shaped[np.ndarray, "..."]:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 and key.endswith(".weight"):  # a batch norm's
        values = rng.uniform(0.7, 1.3, shape)
    elif len(shape) == 1:  # a bias or a running mean
        values = 0.1 * rng.normal(size=shape)
    else:
        values = rng.normal(size=shape) * np.sqrt(1.5 / np.prod(shape[1:]))
    return values.astype(np.float32)
