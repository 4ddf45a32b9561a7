"""How exactly a device multiplies float32 (`train.precision`).

On a CPU every choice is float32. An accelerator multiplies faster with fewer bits: a
GPU in TensorFloat-32 (10 bits of mantissa), a TPU in bfloat16 (7 bits).
"""

import contextlib

import jax

CHOICES = ("default", "high", "highest")


def multiplied_at(precision: str) -> contextlib.AbstractContextManager[None]:
    """Traces what is called inside with products of a precision.

    Args:
      precision: "default", the device's own choice or the user's of JAX; "high",
        TensorFloat-32 on a GPU, three bfloat16 products on a TPU; "highest", float32.
    """
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def at_least_high() -> contextlib.AbstractContextManager[None]:
    """As `multiplied_at("high")`, but inside "highest" it stays the highest."""
    highest = jax.config.jax_default_matmul_precision in ("highest", "float32")
    return jax.default_matmul_precision("highest" if highest else "high")
