"""Too little memory on a device, as a line for the user."""

import contextlib
from collections.abc import Iterator

import jax

from ast_jax.errors import UserError


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
