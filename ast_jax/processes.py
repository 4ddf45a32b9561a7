"""Several processes that are one run: JAX's multi-controller runtime, and who writes.

All run the same program on the same arguments. What has one copy, files, log lines and
reports, is the main process's.
"""

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from ast_jax.errors import UserError


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
    given = (coordinator, count, index)
    if any(value is not None for value in given) and None in given:
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
