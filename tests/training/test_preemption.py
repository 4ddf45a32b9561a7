"""SIGTERM is noticed and never lost."""

import os
import signal
import threading

import pytest

from ast_jax.training.preemption import STOPPED, stop, watch_for_stop


@pytest.fixture
def heard():
    """Counts SIGTERMs that reach the previous handler."""
    signals = []
    before = signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
    yield signals
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_noted_and_not_obeyed_at_once(heard):
    with pytest.raises(SystemExit) as end, watch_for_stop() as asked:
        assert not asked(range(1))
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(range(1, 2))
        stop("bagel")
    assert end.value.code == STOPPED == 143
    assert not heard


def test_a_sigterm_that_nobody_asked_about_is_handed_on(heard):
    with watch_for_stop():
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 1


def test_the_handler_from_before_is_back_afterwards(heard):
    with watch_for_stop():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 1


def test_a_thread_may_train_too():
    answers = []

    def train():
        with watch_for_stop() as asked:
            answers.append(asked(range(1)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert answers == [False]
