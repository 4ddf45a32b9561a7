"""Training examples, their order, and the way from the host's memory to the devices.

Examples that fit on a device are sent once, and a call of the compiled steps gets only
row numbers. More examples are sent chunk by chunk, each with the examples of its steps:

    fits:       examples [t, n, …] once       rows: numbers within all n examples
    too large:  examples [t, s·b, …] a chunk  rows: 0, 1, 2, … within the chunk
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from ast_jax.features.inputs import Inputs
from ast_jax.features.memory_map import release
from ast_jax.parallel import DATA_AXIS, TASK_AXIS, place, task_sharding

# A device's examples beyond this size are sent to it in chunks instead of all at once.
RESIDENT_BYTES = 1 << 30
_CHUNK_BYTES = 64 << 20
_BLOCK = 64  # examples that are read at a time


@dataclasses.dataclass(frozen=True)
class Examples:
    """Training examples on the host: inputs, and for a student the teacher's z."""

    inputs: Inputs
    target: Float[np.ndarray, "n h w c"] | None = None

    def __len__(self) -> int:
        """Returns n."""
        return len(self.inputs)

    def take(self, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """Returns the examples of some rows, as the arrays of a batch."""
        batch = self.inputs.take(rows)
        if self.target is not None:
            batch["target"] = self.target[rows]
            release(self.target)
        return batch

    @property
    def image_bytes(self) -> int:
        """Size of one example on a device."""
        target = 0 if self.target is None else self.target[0].nbytes
        return self.inputs.nbytes // len(self) + target


class Chunk(NamedTuple):
    """The arguments of one call of the compiled steps, except the states.

    t is the number of tasks, s of steps, b of images in a batch.
    """

    examples: dict[str, jax.Array]  # [t, n, …]
    rows: jax.Array  # [t, s, b]: the examples of each step's batch
    counts: jax.Array  # [t]: how many of the s steps a task makes


def epoch_order(
    seed: int, stage: str, epoch: int, n: int, batch: int
) -> Int[np.ndarray, "s b"]:
    """The rows of each batch of an epoch; an incomplete batch is dropped.

    Depends only on its arguments, so that a resumed run sees the same batches.
    """
    rng = np.random.default_rng([seed, epoch, *stage.encode()])
    steps = n // batch
    return rng.permutation(n)[: steps * batch].reshape(steps, batch).astype(np.int32)


class Feed:
    """Sends examples to the devices: all at once if they fit, else chunk by chunk.

    All chunks of a feed have the same shape, so that the steps are compiled once.
    """

    def __init__(
        self, examples: Sequence[Examples], shape: tuple[int, int, int], mesh: Mesh
    ):
        """Makes a feed.

        Args:
          examples: of each task; there may be fewer tasks than slots.
          shape: (slots for tasks, images of a task, images of a batch).
          mesh: the devices.
        """
        self._examples, self._mesh = examples, mesh
        self._slots, images, self._batch = shape
        self._steps = images // self._batch
        self._resident = None
        size = max(each.image_bytes for each in examples)
        size *= self._slots // mesh.shape[TASK_AXIS]
        if images * size <= RESIDENT_BYTES:
            everything = [np.arange(len(each)) for each in examples]
            self._resident = self._stack(everything, images)
        else:
            fitting = max(1, _CHUNK_BYTES // (self._batch * size))
            self._steps = min(self._steps, fitting)

    @property
    def steps(self) -> int:
        """The largest number of steps that a chunk can hold."""
        return self._steps

    def put(self, orders: Sequence[Int[np.ndarray, "_ b"]]) -> Chunk:
        """Sends each task's next steps; a task without steps has an empty order."""
        counts = np.zeros(self._slots, np.int32)
        counts[: len(orders)] = [len(order) for order in orders]
        rows = np.zeros((self._slots, self._steps, self._batch), np.int32)
        if self._resident is not None:
            examples = self._resident
            for slot, order in enumerate(orders):
                rows[slot, : len(order)] = order
        else:
            # A chunk holds its examples in the order of its steps.
            examples = self._stack([order.ravel() for order in orders], rows[0].size)
            rows[:] = np.arange(rows[0].size).reshape(rows[0].shape)
        divided = PartitionSpec(TASK_AXIS, None, DATA_AXIS)
        return Chunk(
            examples,
            place(rows, NamedSharding(self._mesh, divided)),
            place(counts, task_sharding(self._mesh)),
        )

    def _stack(self, rows: Sequence[np.ndarray], n: int) -> dict[str, jax.Array]:
        """Some examples of each task, [t, n, …], filled up with zeros.

        Each process reads only the examples of its own devices, block by block, because
        they come from files that may be larger than its memory.
        """
        empty = self._examples[0].take(np.arange(0))
        stacked = {
            name: np.zeros((self._slots, n, *array.shape[1:]), array.dtype)
            for name, array in empty.items()
        }
        for slot in self._slots_here(len(rows)):
            for first in range(0, len(rows[slot]), _BLOCK):
                block = rows[slot][first : first + _BLOCK]
                for name, array in self._examples[slot].take(block).items():
                    stacked[name][slot, first : first + len(block)] = array
        return place(stacked, task_sharding(self._mesh))

    def _slots_here(self, tasks: int) -> list[int]:
        """The slots whose tasks this process's devices train."""
        each = self._slots // self._mesh.shape[TASK_AXIS]
        here = {
            slot
            for device in self._mesh.local_devices
            for slot in range(self._slots)
            if device in self._mesh.devices[slot // each]
        }
        return sorted(slot for slot in here if slot < tasks)
