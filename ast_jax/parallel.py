"""Devices and processes: the mesh, what lies on it, and who writes.

The mesh has a `task` axis over trainings and a `data` axis over a batch. Several
processes, each with its own devices, see one mesh and run the same program on the same
arguments. What is placed on the mesh must be the same array in every process; each then
holds its devices' part. What has one copy, files, log lines and reports, is the main
process's.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ast_jax.errors import UserError

TASK_AXIS = "task"
DATA_AXIS = "data"
Result = TypeVar("Result")


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices, or of those given, along the data axis."""
    return _mesh(1, devices or jax.devices())


def task_mesh(
    tasks: int, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Spreads trainings over the devices first, and each one's batch over the rest.

    Raises:
      UserError: no batch divides over the devices that it gets; the line proposes one.
    """
    devices = devices or jax.devices()
    count = len(devices)
    for size in range(min(tasks, count), 0, -1):
        if count % size == 0 and batch_size % (count // size) == 0:
            return _mesh(size, devices)
    size = max(n for n in range(1, min(tasks, count) + 1) if count % n == 0)
    check_batch(batch_size, _mesh(size, devices))
    raise AssertionError("unreachable")


def _mesh(tasks: int, devices: Sequence[jax.Device]) -> Mesh:
    # Explicit axes, the default of jax.make_mesh, forbid operations that Auto allows.
    return Mesh(
        np.asarray(devices).reshape(tasks, -1),
        (TASK_AXIS, DATA_AXIS),
        axis_types=(AxisType.Auto,) * 2,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def split_tasks(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the task axis."""
    return NamedSharding(mesh, PartitionSpec(TASK_AXIS))


def split_tasks_and_batch(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the task axis, the second over the data axis."""
    return NamedSharding(mesh, PartitionSpec(TASK_AXIS, DATA_AXIS))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays on the mesh; every process gives the same and keeps its part."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            np.shape(array), sharding, lambda index: np.asarray(array)[index]
        ),
        tree,
    )


def to_host(tree: Any) -> Any:
    """Arrays on the host, whole, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets an equal share of a batch.

    Raises:
      UserError: it does not; the line proposes a batch size, or more trainings at once.
    """
    count = mesh.shape[DATA_AXIS]
    if batch_size % count:
        proposal = max(count, batch_size - batch_size % count)
        raise UserError(
            f"train.batch_size {batch_size} does not divide by the {count} devices "
            f"that share it; take --config.train.batch_size={proposal}, or train more "
            "seeds or categories at once."
        )


def connect(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
) -> None:
    """Joins the other processes; before any device is touched.

    Args:
      coordinator: host:port of process 0; like the others not needed where JAX finds
        them out by itself: Cloud TPU, Slurm, Kubernetes, Open MPI.
      count: of processes.
      index: this one's, from 0.

    Raises:
      UserError: there is no cluster, the coordinator does not answer, or only some of
        the three are given.
    """
    process = (coordinator, count, index)
    if any(value is not None for value in process) and None in process:
        raise UserError(
            "--coordinator, --process_count and --process_index go together."
        )
    try:
        # Without a limit a process that failed waits five minutes for the others.
        jax.distributed.initialize(
            coordinator, count, index, shutdown_timeout_seconds=30
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--multihost: no connection to the other processes ({reason[:200]}); give "
            "--coordinator=HOST:PORT --process_count=N --process_index=I."
        ) from error
    logging.info(
        "Process %d of %d, %d of %d devices.",
        *(jax.process_index(), jax.process_count()),
        *(jax.local_device_count(), jax.device_count()),
    )
    if not is_main():
        logging.set_verbosity(logging.WARNING)


def is_main() -> bool:
    """Whether this process writes files, results and reports."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: int) -> int:
    """The main process's value, in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def main_first(action: Callable[[], Result]) -> Result:
    """Runs an action in the main process and then in the others; returns its result.

    What the main process writes into a folder that all share, the others find there.

    Raises:
      UserError: the action's; in the other processes, that the main one failed.
    """
    if jax.process_count() == 1:
        return action()
    result = failure = None
    if is_main():
        try:
            result = action()
        except UserError as error:
            failure = error
    if agreed(failure is not None):
        raise failure or UserError("The main process has stopped; its line says why.")
    return result if is_main() else action()
