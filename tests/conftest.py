"""Eight simulated devices, and the jaxtyping signatures checked while tests run.

JAX's compiled programs are kept in .pytest_cache, because tests, their workers and the
commands that they start compile many equal programs.
"""

import itertools
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import jax
import pytest
import shortcuts
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_threefry_partitionable", True)

install_import_hook("ast_jax", "beartype.beartype")

_LONGEST = ("test_accelerator.py", "test_kill.py")  # minutes each, of the slow ones


def pytest_collection_modifyitems(items):
    """The longest files first, then in reverse: those that train end the alphabet.

    So no worker begins a long file when the other has none left.
    """
    files = [list(each) for _, each in itertools.groupby(items, lambda i: i.path)]
    files.reverse()
    files.sort(key=lambda each: each[0].path.name not in _LONGEST)
    items[:] = itertools.chain.from_iterable(files)


@pytest.fixture(scope="module")
def one_device():
    """For what does not depend on the number of devices."""
    with shortcuts.one_device():
        yield


@pytest.fixture(scope="module")
def library_convolutions():
    """For what does not depend on how a convolution is computed."""
    with shortcuts.library_convolutions():
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """For small networks, whose compilation takes ten times as long as their use.

    Do not use it for comparisons with recorded arrays, because it changes rounding.
    """
    with shortcuts.quick_compilation():
        yield
