"""Threads decode `.npy` files at the same time."""

import gc
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ast_jax.data.decode import decode_z


@pytest.fixture
def interrupted_often():
    """Garbage is collected, and threads take turns, at nearly every step."""

    def collected(phase, info):
        for _ in range(200):
            pass

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(collected)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.callbacks.remove(collected)


def test_threads_read_numpys_files_at_a_time(interrupted_often):
    """Python 3.11's parser, which reads their headers, fails where threads meet."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).normal(size=(6, 8, 3)).astype(np.float32))
    content = file.getvalue()
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(decode_z, [content] * 4_000))
    assert all(np.array_equal(z, read[0]) for z in read)
