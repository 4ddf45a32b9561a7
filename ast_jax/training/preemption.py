"""How a training ends when the process is asked to stop: after a save."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
from absl import logging
from orbax.checkpoint import multihost

STOPPED = 128 + signal.SIGTERM  # the exit status, as shells name an end by SIGTERM


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
