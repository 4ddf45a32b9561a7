"""The two networks, built from a configuration."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from ast_jax.features.blocks import Block
from ast_jax.models.groups import Group, arrange, count
from ast_jax.models.student import FlowStudent, ParallelStudent, Student
from ast_jax.models.teacher import ParallelTeacher, Teacher

ENCODING_CHANNELS = 32


def create_groups(
    config: ConfigDict, channels: int, blocks: Sequence[Block] = ()
) -> tuple[Group, ...]:
    """The channels of each teacher and student; the paper's method has one group."""
    return arrange(
        blocks or [Block("all", channels)],
        fusion=config.fusion,
        student_input=config.student.input,
    )


def create_teacher(
    config: ConfigDict, *, side: int, channels: int, blocks: Sequence[Block] = ()
) -> Teacher | ParallelTeacher:
    """The teacher for feature maps of `side` × `side` × `channels`.

    `blocks` are the blocks of these channels, if there are several. Groups of blocks
    may have a teacher each.
    """
    options = config.teacher

    def teacher(group: Group) -> Teacher:
        return Teacher(
            height=side,
            width=side,
            channels=group.size,
            blocks=options.blocks,
            hidden=options.hidden,
            clamp=options.clamp,
            encoding_channels=ENCODING_CHANNELS * options.positional_encoding,
            gamma=options.gamma,
            coupling=options.coupling,
            last_kernel_size=options.last_kernel_size,
            dtype=jnp.dtype(config.train.dtype),
        )

    groups = create_groups(config, channels, blocks)
    teachers = tuple(teacher(group) for group in groups)
    return teachers[0] if len(groups) == 1 else ParallelTeacher(teachers, groups)


def create_student(
    config: ConfigDict,
    *,
    side: int,
    channels: int,
    blocks: Sequence[Block] = (),
    axis_name: str | None = None,
) -> nn.Module:
    """The student for the same maps; call it as `student(x, train=…)`.

    `student.kind` is "conv" in the paper. "flow" is a flow like the teacher, for the
    symmetric pair of the paper's ablation. `axis_name` is the mapped axis over which
    batch statistics are shared.
    """
    if config.student.kind == "flow":
        size = {"side": side, "channels": channels, "blocks": blocks}
        return FlowStudent(create_teacher(config, **size))

    def student(group: Group) -> Student:
        inputs = count(group.inputs)
        return Student(
            width=config.student.width,
            blocks=config.student.blocks,
            negative_slope=config.student.negative_slope,
            encoding_channels=ENCODING_CHANNELS * config.teacher.positional_encoding,
            axis_name=axis_name,
            outputs=None if inputs == group.size else group.size,
            dtype=jnp.dtype(config.train.dtype),
        )

    groups = create_groups(config, channels, blocks)
    students = tuple(student(group) for group in groups)
    return students[0] if len(groups) == 1 else ParallelStudent(students, groups)
