"""Batches keep their order, are full or do not wait, and leave no thread behind."""

import itertools
import queue
import threading
import time

import pytest

from ast_jax.features.prefetch import batches


def slow_for_even(n):
    time.sleep(0.01 * (n % 2 == 0))
    return n


def test_batches_are_full_and_in_order_whatever_takes_longer():
    assert list(batches(slow_for_even, range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches(slow_for_even, range(6), 3)) == [[0, 1, 2], [3, 4, 5]]
    assert list(batches(slow_for_even, [], 3)) == []


def test_live_batches_hold_what_has_arrived():
    arriving: queue.Queue = queue.Queue()
    stream = batches(slow_for_even, iter(arriving.get, None), 3, live=True)
    arriving.put(5)
    assert next(stream) == [5]  # without waiting for two more
    for n in (6, 7, 8, 9, None):
        arriving.put(n)
    assert list(itertools.chain(*stream)) == [6, 7, 8, 9]


def test_items_are_taken_no_further_ahead_than_a_few_batches():
    taken = []
    endless = (taken.append(n) or n for n in itertools.count())
    stream = batches(slow_for_even, endless, 2)
    next(stream)
    time.sleep(0.2)
    assert len(taken) < 12
    stream.close()


@pytest.mark.parametrize("where", ["item", "stream"])
def test_an_error_is_raised_in_its_place(where):
    def prepare(n):
        if where == "item" and n == 2:
            raise ValueError(where)
        return n

    def items():
        yield from (0, 1)
        if where == "stream":
            raise ValueError(where)
        yield 2

    stream = batches(prepare, items(), 2)
    assert next(stream) == [0, 1]
    with pytest.raises(ValueError, match=where):
        next(stream)


def test_closing_a_stream_ends_its_threads():
    before = set(threading.enumerate())
    stream = batches(slow_for_even, itertools.count(), 2)
    next(stream)
    stream.close()
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(5)
    assert not any(thread.is_alive() for thread in started)
