"""Training examples, their order, and how they get to the devices."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from ast_jax.features.inputs import Inputs
from ast_jax.features.memory_map import release
from ast_jax.parallel import DATA_AXIS, TASK_AXIS, place, split_tasks

# Above this, a device's examples are sent to it in chunks instead of all at once.
RESIDENT_BYTES = 1 << 30
_CHUNK_BYTES = 64 << 20
_BLOCK = 64  # examples read at once


@dataclasses.dataclass(frozen=True)
class Examples:
    """Training examples on the host: inputs, and for the student the teacher's z."""

    inputs: Inputs
    target: Float[np.ndarray, "n h w c"] | None = None

    def __len__(self) -> int:
        """Returns n."""
        return len(self.inputs)

    def take(self, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """Returns a batch, or all that the rows name."""
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
    """What one call of the compiled steps gets beside the states."""

    examples: dict[str, jax.Array]  # [t, n, …]
    rows: jax.Array  # [t, s, b]
    counts: jax.Array  # [t]


def epoch_order(
    seed: int, stage: str, epoch: int, n: int, batch: int
) -> Int[np.ndarray, "s b"]:
    """The rows of each batch of an epoch; an incomplete one is dropped.

    Depends on nothing but its arguments, so that a resumed run is the same run.
    """
    rng = np.random.default_rng([seed, epoch, *stage.encode()])
    steps = n // batch
    return rng.permutation(n)[: steps * batch].reshape(steps, batch).astype(np.int32)


class Feed:
    """Hands examples to the devices: all once where they fit, else chunk by chunk.

    All chunks of a feed have one shape, so that nothing is compiled twice.
    """

    def __init__(
        self, examples: Sequence[Examples], shape: tuple[int, int, int], mesh: Mesh
    ):
        """Makes a feed for `shape` = (places for tasks, images a task, batch)."""
        self._examples, self._mesh = examples, mesh
        self._slots, images, self._batch = shape
        self._steps = images // self._batch
        self._resident = None
        size = max(each.image_bytes for each in examples)
        size *= self._slots // mesh.shape[TASK_AXIS]
        if images * size <= RESIDENT_BYTES:
            everything = [np.arange(len(each)) for each in examples]
            self._resident = self._stacked(everything, images)
        else:
            fitting = max(1, _CHUNK_BYTES // (self._batch * size))
            self._steps = min(self._steps, fitting)

    @property
    def steps(self) -> int:
        """The most steps that a chunk can hold."""
        return self._steps

    def put(self, orders: Sequence[Int[np.ndarray, "_ b"]]) -> Chunk:
        """Sends what each task needs for its next steps; an order may be empty."""
        counts = np.zeros(self._slots, np.int32)
        counts[: len(orders)] = [len(order) for order in orders]
        rows = np.zeros((self._slots, self._steps, self._batch), np.int32)
        if self._resident is not None:
            examples = self._resident
            for slot, order in enumerate(orders):
                rows[slot, : len(order)] = order
        else:
            examples = self._stacked([order.ravel() for order in orders], rows[0].size)
            rows[:] = np.arange(rows[0].size).reshape(rows[0].shape)
        divided = PartitionSpec(TASK_AXIS, None, DATA_AXIS)
        return Chunk(
            examples,
            place(rows, NamedSharding(self._mesh, divided)),
            place(counts, split_tasks(self._mesh)),
        )

    def _stacked(self, rows: Sequence[np.ndarray], n: int) -> dict[str, jax.Array]:
        """These examples of each task, [t, n, …], filled up with zeros."""
        kinds = self._examples[0].take(np.arange(0))
        stacked = {
            name: np.zeros((self._slots, n, *array.shape[1:]), array.dtype)
            for name, array in kinds.items()
        }
        for slot in self._slots_here(len(rows)):
            for first in range(0, len(rows[slot]), _BLOCK):
                block = rows[slot][first : first + _BLOCK]
                for name, array in self._examples[slot].take(block).items():
                    stacked[name][slot, first : first + len(block)] = array
        return place(stacked, split_tasks(self._mesh))

    def _slots_here(self, tasks: int) -> list[int]:
        """The tasks that this process's devices train."""
        each = self._slots // self._mesh.shape[TASK_AXIS]
        here = {
            slot
            for device in self._mesh.local_devices
            for slot in range(self._slots)
            if device in self._mesh.devices[slot // each]
        }
        return sorted(slot for slot in here if slot < tasks)
