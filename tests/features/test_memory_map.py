"""Arrays in files without a name, on systems that lack some calls."""

import errno
import mmap
import os
import re

import numpy as np
import pytest

from ast_jax.errors import UserError
from ast_jax.features import memory_map


def refuse(code):
    def call(*_):
        raise OSError(code, os.strerror(code))

    return call


@pytest.fixture(params=["all calls", "none of them", "refused by the file system"])
def system(request, monkeypatch):
    """Linux, a system that lacks what only Linux has, and a network file system."""
    monkeypatch.setattr(memory_map, "_BLOCK", 1000)
    if request.param == "none of them":
        monkeypatch.delattr(os, "posix_fallocate")
        monkeypatch.delattr(mmap, "MADV_DONTNEED")
    elif request.param == "refused by the file system":
        monkeypatch.setattr(os, "posix_fallocate", refuse(errno.EOPNOTSUPP))


@pytest.mark.usefixtures("system")
def test_an_array_holds_what_was_written_and_leaves_no_file(tmp_path):
    array = memory_map.scratch(tmp_path, (7, 11, 13))
    np.testing.assert_array_equal(array, 0)
    array[3:] = 5
    memory_map.release(array)
    np.testing.assert_array_equal(array[:3], 0)
    np.testing.assert_array_equal(array[3:], 5)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}: no room"):
        memory_map.scratch(tmp_path, (3,))
