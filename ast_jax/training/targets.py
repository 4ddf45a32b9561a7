"""Computes the frozen teachers' z of all training images once, as students' targets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from ast_jax.device_memory import memory_errors
from ast_jax.features.inputs import Inputs
from ast_jax.features.memory_map import release, scratch
from ast_jax.parallel import DATA_AXIS, place, task_and_batch_sharding, to_host
from ast_jax.training.state import TrainState
from ast_jax.training.steps import compile_teachers


def teacher_targets(
    teachers: TrainState,
    inputs: Sequence[Inputs],
    directories: Sequence[Path],
    batch_size: int,
    mesh: Mesh,
) -> list[Float[np.ndarray, "n h w c"]]:
    """One array per teacher, in a file, because many images do not fit into memory.

    Args:
      teachers: stacked along the mesh's task axis.
      inputs: of each teacher.
      directories: the folder of each array's file, which has no name and disappears
        with the process.
      batch_size: images of one task at a time.
      mesh: of `parallel.task_mesh`.

    Raises:
      UserError: a disk has no room.
    """
    shape = (inputs[0].side, inputs[0].side, inputs[0].channels)
    targets = [
        scratch(directory, (len(each), *shape))
        for each, directory in zip(inputs, directories, strict=True)
    ]
    apply = compile_teachers(teachers.apply_fn, mesh)
    x = np.zeros((len(teachers.step), batch_size, *shape), np.float32)
    name = "computing the teacher's outputs"
    with memory_errors(name, batch_size, mesh.shape[DATA_AXIS]):
        for first in range(0, max(map(len, inputs)), batch_size):
            for slot, each in enumerate(inputs):
                rows = np.arange(first, first + batch_size)
                x[slot] = each.take(np.minimum(rows, len(each) - 1))["x"]
            z = to_host(apply(teachers.params, place(x, task_and_batch_sharding(mesh))))
            for target, output in zip(targets, z, strict=False):
                rest = max(0, len(target) - first)
                target[first : first + batch_size] = output[:rest]
                release(target)
    return targets
