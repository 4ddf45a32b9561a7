"""Batches whose items are prepared in threads, in order and ahead of the device."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

WORKERS = min(8, os.cpu_count() or 1)  # threads that read, hash or decode
_BATCHES_AHEAD = 2  # prepared while the device is busy
Item = TypeVar("Item")
Result = TypeVar("Result")


def batches(
    prepare: Callable[[Item], Result],
    items: Iterable[Item],
    size: int,
    *,
    live: bool = False,
) -> Iterator[list[Result]]:
    """Yields `prepare(item)` of all items in their order, up to `size` at a time.

    Args:
      prepare: called in threads.
      items: consumed in a thread of its own, which may wait for the next.
      size: of a batch.
      live: whether a batch is what has arrived, at least one; else only the last may be
        smaller.

    Raises:
      Exception: whatever `prepare` or `items` raises, in the place of its batch.
    """
    arrived: queue.Queue[Future | None] = queue.Queue(_BATCHES_AHEAD * size)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(WORKERS)

    def feed() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                arrived.put(pool.submit(prepare, item))
            arrived.put(None)
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            arrived.put(failed)

    # It may wait for its next item for ever, so it must not keep the process.
    threading.Thread(target=feed, daemon=True).start()
    try:
        while batch := _next_batch(arrived, size, live):
            yield batch
    finally:
        stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:  # a feeder that waits for room goes on, and sees `stopped`
                arrived.get_nowait()
        pool.shutdown(cancel_futures=True)


def _next_batch(arrived: queue.Queue, size: int, live: bool) -> list:
    """The results of the next futures; fewer than `size` before the closing None."""
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
