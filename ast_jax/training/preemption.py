"""Ends a training after a save when the process is asked to stop."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from absl import logging
from orbax.checkpoint import multihost

STOPPED = 128 + signal.SIGTERM  # the exit status that shells show for SIGTERM


@contextlib.contextmanager
def watch_for_stop() -> Iterator[Callable[[range], bool]]:
    """Yields a function that takes the last steps and returns whether to save and exit.

    A single process listens to SIGTERM. Several processes agree, through JAX's
    preemption service, on a step after which all of them stop; each must ask for every
    step. On Cloud TPU the service listens to SIGTERM too.
    """
    if jax.distributed.is_initialized():
        yield lambda steps: any(multihost.reached_preemption(step) for step in steps)
        return
    noted = []
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: noted.append(True))
    except ValueError:  # Python delivers signals only to the main thread
        yield lambda steps: False
        return
    try:
        yield lambda steps: bool(noted)
    except SystemExit:
        noted.clear()  # the process already stops
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if noted:  # the training ended first: the handler before gets the signal
            os.kill(os.getpid(), signal.SIGTERM)


def stop(where: str) -> None:
    """Ends the process with exit status 143; call it after a save."""
    logging.warning("%s: saved; run the same command to continue.", where)
    raise SystemExit(STOPPED)
