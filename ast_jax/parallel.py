"""Devices and processes: the mesh, the placement of arrays, the main process.

The mesh has a `task` axis over trainings and a `data` axis over a batch. Several
processes, each with its own devices, share one mesh and run the same program with the
same arguments. `place` needs the same array in every process; each keeps the part of
its devices. The main process alone writes files, log lines and reports.
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
    """Returns a mesh along the data axis, of all devices by default."""
    return _mesh(1, devices or jax.devices())


def task_mesh(
    tasks: int, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Divides the devices among trainings first, then among each training's batch.

    Raises:
      UserError: the batch is not a multiple of its devices; the line proposes another.
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
    # The explicit axes of jax.make_mesh forbid operations that Auto allows.
    return Mesh(
        np.asarray(devices).reshape(tasks, -1),
        (TASK_AXIS, DATA_AXIS),
        axis_types=(AxisType.Auto,) * 2,
    )


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def task_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the task axis."""
    return NamedSharding(mesh, PartitionSpec(TASK_AXIS))


def task_and_batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the task axis, the second over the data axis."""
    return NamedSharding(mesh, PartitionSpec(TASK_AXIS, DATA_AXIS))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays on the mesh; every process passes the same and keeps its part."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            np.shape(array), sharding, lambda index: np.asarray(array)[index]
        ),
        tree,
    )


def to_host(tree: Any) -> Any:
    """Copies whole arrays to the host, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets an equal share of a batch.

    Raises:
      UserError: the shares differ; the line proposes a batch size, or more trainings.
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
    """Connects to the other processes; call it before any use of a device.

    JAX finds the three arguments itself on Cloud TPU, Slurm, Kubernetes and Open MPI.

    Args:
      coordinator: host:port of process 0.
      count: of processes.
      index: of this process, from 0.

    Raises:
      UserError: there is no cluster, the coordinator does not answer, or only some of
        the arguments are set.
    """
    process = (coordinator, count, index)
    if any(value is not None for value in process) and None in process:
        raise UserError(
            "--coordinator, --process_count and --process_index go together."
        )
    try:
        # By default a process that failed waits five minutes for the others.
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
    """Waits until every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(value: int) -> int:
    """Returns the main process's value in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def run_main_first(action: Callable[[], Result]) -> Result:
    """Runs an action in the main process, then in the others; returns its result.

    So the other processes find the files that the main one writes to a shared folder.

    Raises:
      UserError: of the action; in the other processes if the main one has failed.
    """
    if jax.process_count() == 1:
        return action()
    result = failure = None
    if is_main():
        try:
            result = action()
        except UserError as error:
            failure = error
    if agree(failure is not None):
        raise failure or UserError("The main process has stopped; its line says why.")
    return result if is_main() else action()
