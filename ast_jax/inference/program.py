"""A score function, compiled for all devices of this process."""

import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from ast_jax.errors import UserError
from ast_jax.inference.pair import tiles, transform_kernels
from ast_jax.inference.score_function import ScoreFunction
from ast_jax.inference.traced_programs import TracedPrograms
from ast_jax.parallel import DATA_AXIS, batch_sharding, data_mesh, replicated_sharding


class Program:
    """Runs batches of a score function; compiles when a batch has a new size.

    Threads may share one.
    """

    def __init__(self, scorer: ScoreFunction, traced: TracedPrograms | None = None):
        """Touches no device yet; `traced` spares one device the tracing."""
        self._scorer, self._traced = scorer, traced
        self._compiled_by_batch: dict[int, Callable] = {}
        self._lock = threading.Lock()
        # Variables by the tiles in which a CPU computes a batch.
        self._variables_by_tiles: dict[tuple, dict[str, Any]] = {}
        # Every transformed kernel by its path and shape.
        self._transformed: dict[tuple[str, tuple[int, ...]], Array] = {}

    @property
    def devices(self) -> int:
        """The number of devices, which divides every batch."""
        return self._mesh.size

    def round_up(self, batch_size: int) -> int:
        """The next multiple of the devices.

        Raises:
          UserError: the size is below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1. Got {batch_size}.")
        return -(-batch_size // self.devices) * self.devices

    def zeros(self, count: int) -> dict[str, np.ndarray]:
        """Inputs of a batch, to be filled."""
        shapes = self._scorer.input_shapes(count).items()
        return {name: np.zeros(array.shape, array.dtype) for name, array in shapes}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Starts scoring a batch; the outputs are on the devices."""
        on_devices = jax.device_put(inputs, batch_sharding(self._mesh))
        batch = len(next(iter(inputs.values()))) // self.devices
        with self._lock:  # so that threads transform and compile once
            variables = self.variables_for(batch)
            compiled = self._compile_for(variables, on_devices, batch)
        return compiled(variables, on_devices)

    def variables_for(self, batch: int) -> dict[str, Any]:
        """The variables, with kernels transformed for a batch on each device.

        Batch sizes with the same tiles share their transformed kernels.
        """
        pairs = self._scorer.ensemble.pairs
        side = self._scorer.side
        shapes = {
            seed: (batch, side, side, pair.teacher.channels)
            for seed, pair in pairs.items()
        }
        key = tuple(tiles(pairs[seed], shape) for seed, shape in shapes.items())
        if key not in self._variables_by_tiles:
            variables = {
                seed: transform_kernels(
                    pairs[seed],
                    self._variables["pairs"][seed],
                    shape,
                    self._traced_on_one_device,
                )
                for seed, shape in shapes.items()
            }
            self._variables_by_tiles[key] = self._variables | {
                "pairs": self._share_kernels(variables)
            }
        return self._variables_by_tiles[key]

    def _share_kernels(self, pairs: dict[str, Any]) -> dict[str, Any]:
        """Replaces kernels by equal ones that were transformed before."""
        return jax.tree_util.tree_map_with_path(
            lambda path, array: self._transformed.setdefault(
                (jax.tree_util.keystr(path), array.shape), array
            ),
            pairs,
        )

    def _compile_for(
        self, variables: dict[str, Any], inputs: dict[str, Array], batch: int
    ) -> Callable:
        traced = self._traced_on_one_device
        if traced is None:
            return self._compiled
        if batch not in self._compiled_by_batch:
            function = self._scorer.function
            compiled = traced.compile("score", function, (variables, inputs))
            self._compiled_by_batch[batch] = compiled
        return self._compiled_by_batch[batch]

    @property
    def _traced_on_one_device(self) -> TracedPrograms | None:
        return self._traced if self.devices == 1 else None

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return data_mesh()

    @functools.cached_property
    def _variables(self) -> dict[str, Any]:
        return jax.device_put(self._scorer.variables, replicated_sharding(self._mesh))

    @functools.cached_property
    def _compiled(self) -> Callable:
        split = PartitionSpec(DATA_AXIS)
        sharded = jax.shard_map(
            self._scorer.function,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), split),
            out_specs=split,
        )
        return jax.jit(sharded)


@functools.cache
def _first_process() -> int:
    """The process of the first call; a fork of it inherits this cached number."""
    return os.getpid()


def refuse_fork() -> None:
    """Raises a UserError in a forked process, where JAX's threads do not exist."""
    if _first_process() != os.getpid():
        raise UserError(
            "a Detector was loaded before this process was forked, and JAX does not "
            "survive a fork; start workers with multiprocessing.get_context('spawn'), "
            "or load the first Detector in the workers"
        )
