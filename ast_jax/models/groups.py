"""The wiring of AST+: the channels that each teacher models and its student sees.

With x = rgb of stage 4 | rgb of stage 5 | normals of stage 4 | normals of stage 5:

    fusion   student.input   teacher of            its student sees
    late     cross           each block            the modality's other stages
    late     same            each block            the same block
    joint    cross           a stage's blocks      all blocks of the other stages
    joint    same            a stage's blocks      the same blocks

A student that sees its teacher's own input can imitate it on defects too. A student
that sees another stage of the frozen backbone cannot. With a single stage there is no
other one, and joint fusion is the paper's pair.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ast_jax.features.blocks import Block

Ranges = tuple[tuple[int, int], ...]


class Group(NamedTuple):
    """One teacher and its student.

    Attributes:
      channels: the channels of x that the teacher models, as ranges (start, stop).
      inputs: the channels of x that the student sees.
    """

    channels: Ranges
    inputs: Ranges

    @property
    def size(self) -> int:
        """The number of channels that the teacher models."""
        return count(self.channels)


def arrange(
    blocks: Sequence[Block], *, fusion: str, student_input: str
) -> tuple[Group, ...]:
    """The groups of the table above, in the order of their first channels.

    Args:
      blocks: of x; those of a modality are neighbours, with ascending stages.
      fusion: "late" or "joint".
      student_input: "cross" or "same".
    """
    start, places = 0, []  # (modality, stage's position, range)
    for block in blocks:
        stage = sum(modality == block.modality for modality, *_ in places)
        places.append((block.modality, stage, (start, start + block.channels)))
        start += block.channels

    def key(modality: str, stage: int) -> tuple:
        return (modality, stage) if fusion == "late" else (stage,)

    keys = dict.fromkeys(key(modality, stage) for modality, stage, _ in places)
    groups = []
    for mine in keys:
        own = tuple(at for *place, at in places if key(*place) == mine)
        others = tuple(
            at
            for *place, at in places
            if key(*place) != mine and key(*place)[:-1] == mine[:-1]
        )
        inputs = others if student_input == "cross" and others else own
        groups.append(Group(_merge(own), _merge(inputs)))
    return tuple(groups)


def take(x: Float[Array, "b h w c"], ranges: Ranges) -> Float[Array, "b h w c2"]:
    """Concatenates some ranges of channels."""
    if ranges == ((0, x.shape[-1]),):
        return x
    parts = [x[..., start:stop] for start, stop in ranges]
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def count(ranges: Ranges) -> int:
    """The number of channels in ranges."""
    return sum(stop - start for start, stop in ranges)


def _merge(ranges: Ranges) -> Ranges:
    """The same channels, with neighbouring ranges joined."""
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, stop))
    return tuple(merged)
