"""Batches whose items threads compute, in order and ahead of the device."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

WORKERS = min(8, os.cpu_count() or 1)  # threads that read, hash or decode
_BATCHES_AHEAD = 2  # computed while the device is busy
Item = TypeVar("Item")
Result = TypeVar("Result")


def batches(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    size: int,
    *,
    live: bool = False,
) -> Iterator[list[Result]]:
    """Yields `function(item)` of all items in their order, up to `size` at a time.

    Args:
      function: called in threads.
      items: a thread of its own consumes them, and may wait for the next one.
      size: of a batch.
      live: yield the items that have arrived, at least one; otherwise every batch but
        the last is full.

    Raises:
      Exception: any error of `function` or `items`, in place of its batch.
    """
    arrived: queue.Queue[Future | None] = queue.Queue(_BATCHES_AHEAD * size)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(WORKERS)

    def feed() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                arrived.put(pool.submit(function, item))
            arrived.put(None)
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            arrived.put(failed)

    # A daemon, because it may wait for its next item for ever while the process ends.
    threading.Thread(target=feed, daemon=True).start()
    try:
        while batch := _next_batch(arrived, size, live):
            yield batch
    finally:
        stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:  # makes room, so that a waiting feeder continues and stops
                arrived.get_nowait()
        pool.shutdown(cancel_futures=True)


def _next_batch(arrived: queue.Queue, size: int, live: bool) -> list:
    """The results of the next `size` futures, or of fewer before the closing None."""
    batch: list = []
    while len(batch) < size:
        try:
            future = arrived.get(block=not (live and batch))
        except queue.Empty:
            break
        if future is None:
            arrived.put(None)  # for the next call
            break
        batch.append(future.result())
    return batch
