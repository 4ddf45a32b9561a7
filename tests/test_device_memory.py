"""Too little memory on a device names a batch that fits."""

import jax
import pytest

from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError

TOO_LARGE = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9876543210"


@pytest.mark.parametrize(
    ("batch_size", "share", "advice"),
    [
        (8, 1, "try --config.train.batch_size=4"),
        (12, 4, "try --config.train.batch_size=4"),
        (6, 2, "try --config.train.batch_size=2"),
        (4, 4, "smaller dataset.image_size or student.width, or more devices"),
        (1, 1, "smaller dataset.image_size"),
    ],
)
def test_too_little_memory_names_the_batch_size_to_try(batch_size, share, advice):
    with (
        pytest.raises(UserError, match=advice) as error,
        memory_errors("training the teacher", batch_size, share),
    ):
        raise jax.errors.JaxRuntimeError(TOO_LARGE)
    assert str(error.value).startswith("training the teacher: a device's memory")
    assert "\n" not in str(error.value)


def test_another_error_of_a_device_passes():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory_errors("training", 8),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_an_array_that_fits_no_device_is_such_an_error():
    """What JAX really raises, on the CPU: four exabytes."""
    with pytest.raises(UserError, match="batch_size=4"), memory_errors("here", 8):
        shape = jax.ShapeDtypeStruct((1 << 20, 1 << 20, 1 << 20), "float32")
        program = jax.jit(lambda: jax.numpy.zeros(shape.shape, shape.dtype) + 1)
        program().block_until_ready()
