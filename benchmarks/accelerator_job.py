"""The sizes of the work that `benchmarks.accelerator` measures: the paper's, or small.

--quick makes everything small, with one block in each network, because in small
compiling is most of the time.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from ast_jax.config import ast_plus, default
from ast_jax.features.blocks import Block
from benchmarks.side_by_side import QUICK, Job

DTYPE = "bfloat16"
_TAPS = (176, 304)  # channels of B5's stages 4 and 5
_QUICK_TAPS = (16, 32)


def job(task: str, **fields: Any) -> Job:
    """A job of the paper's sizes in bfloat16; a small one with --quick."""
    if QUICK.value:
        small = {"side": 8, "channels": 48, "depth_channels": 16}
        fields = {**fields, **small, "hidden": 8, "width": 16, "blocks": 1}
    return Job(task, dtype=DTYPE, torch_dtype=DTYPE, **fields)


def steps_job(network: str) -> Job:
    """A call of many train steps, so that the cost of the call is small."""
    return job(f"{network}_step", samples=8, steps=2 if QUICK.value else 50)


def category_job() -> Job:
    """A category of the paper's configuration, on random features."""
    if QUICK.value:
        return job("training", samples=16, epochs=2)
    return job("training", samples=256, epochs=72)


def scoring_job() -> Job:
    """Calls that score an image alone and larger batches, from features."""
    batches = (1, 4) if QUICK.value else (1, 16, 64)
    return job("scoring", samples=max(batches), batches=batches)


def pixels_job() -> Job:
    """The same from images through EfficientNet-B5, in mode rgb; small: B0's start."""
    if not QUICK.value:
        fields = {"backbone": "tf_efficientnet_b5", "channels": _TAPS[-1]}
        return dataclasses.replace(scoring_job(), task="pixels", **fields)
    fields = {"backbone": "tf_efficientnet_b0", "stage": 2, "image_size": 64}
    return dataclasses.replace(scoring_job(), task="pixels", channels=40, **fields)


def plus_config() -> ConfigDict:
    """The configuration of AST+ in bfloat16; one checkpoint, at a stage's end."""
    config = ast_plus(default())
    config.train.dtype = DTYPE
    if QUICK.value:
        config.teacher.update(blocks=1, hidden=8, epochs=2)
        config.student.update(blocks=1, width=16, epochs=2)
    config.train.checkpoint_epochs = max(config.teacher.epochs, config.student.epochs)
    return config


def plus_blocks() -> tuple[Block, ...]:
    """The channels of AST+ on RGB and depth: two taps of B5 for each; small: of RGB."""
    if QUICK.value:
        return tuple(Block("rgb", size) for size in _QUICK_TAPS)
    return tuple(Block(name, size) for name in ("rgb", "depth") for size in _TAPS)
