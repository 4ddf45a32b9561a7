"""Too little memory names a batch that fits; SIGTERM is noted and never lost."""

import os
import signal
import threading

import jax
import pytest

from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError
from ast_jax.training.faults import STOPPED, stop, stop_asked

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


@pytest.fixture
def heard():
    """Counts SIGTERMs that reach the handler from before."""
    signals = []
    before = signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
    yield signals
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_noted_and_not_obeyed_at_once(heard):
    with pytest.raises(SystemExit) as end, stop_asked() as asked:
        assert not asked(range(1))
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(range(1, 2))
        stop("bagel")
    assert end.value.code == STOPPED == 143
    assert not heard


def test_a_sigterm_that_nobody_asked_about_is_handed_on(heard):
    with stop_asked():
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 1


def test_the_handler_from_before_is_back_afterwards(heard):
    with stop_asked():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 1


def test_a_thread_may_train_too():
    answers = []

    def train():
        with stop_asked() as asked:
            answers.append(asked(range(1)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False]
