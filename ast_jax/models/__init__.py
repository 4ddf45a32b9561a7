"""The two networks, built from a configuration."""

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from ast_jax.models.student import FlowStudent, Student
from ast_jax.models.teacher import Teacher

ENCODING_CHANNELS = 32


def create_teacher(config: ConfigDict, *, side: int, channels: int) -> Teacher:
    """The teacher for feature maps of `side` × `side` × `channels`."""
    options = config.teacher
    return Teacher(
        height=side,
        width=side,
        channels=channels,
        blocks=options.blocks,
        hidden=options.hidden,
        clamp=options.clamp,
        encoding_channels=ENCODING_CHANNELS * options.positional_encoding,
        gamma=options.gamma,
        dtype=jnp.dtype(config.train.dtype),
    )


def create_student(
    config: ConfigDict, *, side: int, channels: int, axis_name: str | None = None
) -> nn.Module:
    """The student for the same maps; called as `student(x, train=…)`.

    `student.kind` "conv" is the paper's, "flow" a flow of the teacher's kind: the
    symmetric pair of the paper's ablation. `axis_name` is the mapped axis over which
    batch statistics are shared.
    """
    if config.student.kind == "flow":
        return FlowStudent(create_teacher(config, side=side, channels=channels))
    return Student(
        width=config.student.width,
        blocks=config.student.blocks,
        negative_slope=config.student.negative_slope,
        encoding_channels=ENCODING_CHANNELS * config.teacher.positional_encoding,
        axis_name=axis_name,
        dtype=jnp.dtype(config.train.dtype),
    )
