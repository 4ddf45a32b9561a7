"""The precision of a device's float32 products (`train.precision`).

A CPU always multiplies in float32. An accelerator is faster with fewer bits: a GPU with
TensorFloat-32 (10 bits of mantissa), a TPU with bfloat16 (7 bits).
"""

import contextlib

import jax

CHOICES = ("default", "high", "highest")


def multiply_at(precision: str) -> contextlib.AbstractContextManager[None]:
    """Sets the precision of products in functions that are traced in the block.

    Args:
      precision: "default", as the device or the user's JAX options choose; "high",
        TensorFloat-32 on a GPU, three bfloat16 products on a TPU; "highest", float32.
    """
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def multiply_at_least_high() -> contextlib.AbstractContextManager[None]:
    """Returns `multiply_at("high")`, or "highest" in a block that asks for it."""
    highest = jax.config.jax_default_matmul_precision in ("highest", "float32")
    return jax.default_matmul_precision("highest" if highest else "high")
