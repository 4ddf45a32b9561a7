"""Random network inputs, small enough that a test trains on them in seconds."""

import numpy as np

from ast_jax.features.blocks import Block
from ast_jax.features.extract import Features
from ast_jax.features.inputs import Inputs

SIDE = 4
# Of mode `rgb3d`, by method; the two taps stand in for one modality's.
BLOCKS = {"ast": (), "ast_plus": (Block("rgb", 6), Block("rgb", 64))}


def make_inputs(mode: str, n: int = 24) -> Inputs:
    """Random inputs of n parts; in mode `3d` and `rgb3d` with a soft foreground."""
    rng = np.random.default_rng(0)

    def normal(channels: int):
        return rng.normal(size=(n, SIDE, SIDE, channels)).astype(np.float32)

    foreground = rng.uniform(size=(n, SIDE, SIDE)).astype(np.float32)
    features = Features(
        rgb=None if mode == "3d" else normal(6),
        depth=None if mode == "rgb" else normal(64),
        foreground=None if mode == "rgb" else foreground,
    )
    return Inputs.of(features, binary_mask=False)
