"""What can befall a training from outside: too little memory, and being asked to stop.

Everything else is caught where it enters; docs/faults.md lists all of it.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from absl import logging
from orbax.checkpoint import multihost

from ast_jax.errors import UserError

STOPPED = 128 + signal.SIGTERM  # the exit status, as shells name an end by SIGTERM


@contextlib.contextmanager
def memory_errors(
    what: str, batch_size: int, share: int = 1, *, trained: bool = True
) -> Iterator[None]:
    """Turns a device's want of memory into the user's error.

    Args:
      what: was being done: "training the teacher".
      batch_size: the one that was too large.
      share: by what a batch has to divide.
      trained: whether the batch is a run's; else it is the caller's own.

    Raises:
      UserError: a device's memory does not suffice; the line names a batch that halves
        the need, or other ways where none is smaller.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = batch_size // 2 - batch_size // 2 % share
        batch = f"--config.train.batch_size={smaller} and another --workdir"
        advice = (
            f"try {batch if trained else f'batches of {smaller}'}"
            if smaller
            else "take a smaller dataset.image_size or student.width, or more devices"
        )
        raise UserError(
            f"{what}: a device's memory does not suffice for batches of {batch_size}; "
            f"{advice}."
        ) from error


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[range], bool]]:
    """Yields a function of the steps just made that tells whether to save and exit.

    A single process notes SIGTERM. Several agree through JAX's preemption service,
    whose notice on Cloud TPU is SIGTERM too, on a step after which all of them stop:
    each has to ask for every step.
    """
    if jax.distributed.is_initialized():
        yield lambda steps: any(multihost.reached_preemption(step) for step in steps)
        return
    noted = []
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: noted.append(True))
    except ValueError:  # not in the main thread, which alone hears signals
        yield lambda steps: False
        return
    try:
        yield lambda steps: bool(noted)
    except SystemExit:
        noted.clear()  # it was heard
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if noted:
            os.kill(os.getpid(), signal.SIGTERM)


def stop(where: str) -> None:
    """Ends the process after a save, with the exit status 143."""
    logging.warning("%s: saved; run the same command to continue.", where)
    raise SystemExit(STOPPED)
