"""Turns a device's lack of memory into a line for the user."""

import contextlib
from collections.abc import Iterator

import jax

from ast_jax.errors import UserError


@contextlib.contextmanager
def memory_errors(
    action: str, batch_size: int, share: int = 1, *, trained: bool = True
) -> Iterator[None]:
    """Turns a device's lack of memory into a UserError.

    Args:
      action: in the block, such as "training the teacher".
      batch_size: of the action.
      share: a batch must be a multiple of it.
      trained: whether the run's configuration sets the batch size.

    Raises:
      UserError: a device has too little memory; the line proposes a batch of half the
        size, or other ways if there is no smaller one.
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
            f"{action}: a device's memory does not suffice for batches of "
            f"{batch_size}; {advice}."
        ) from error
