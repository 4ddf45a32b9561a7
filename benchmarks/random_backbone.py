"""An EfficientNet with random weights, in files that both sides read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ast_jax.backbones import architecture, timm_weights


def write(folder: Path, model: str, stage: int) -> architecture.Architecture:
    """Writes weights.safetensors, by timm's keys, and network.json.

    Args:
      folder: where to.
      model: timm's name, without a tag.
      stage: the last one, counted as timm's `blocks`.
    """
    net = architecture.architecture(model, stage)
    rng = np.random.default_rng(0)
    shapes = timm_weights.tensor_shapes(net)
    tensors = {key: draw(rng, key, shape) for key, shape in shapes.items()}
    save_file(tensors, folder / "weights.safetensors")
    mean, std = timm_weights.normalisation(model)
    fields = dataclasses.asdict(net) | {"mean": mean, "std": std}
    (folder / "network.json").write_text(json.dumps(fields))
    return net


def draw(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that keep the activations' size: variances around 1, small biases."""
    if len(shape) == 4:
        values = rng.normal(size=shape) * np.sqrt(1.5 / np.prod(shape[1:]))
    elif key.endswith((".running_var", ".weight")):
        values = rng.uniform(0.7, 1.3, shape)
    else:
        values = 0.1 * rng.normal(size=shape)
    return values.astype(np.float32)
