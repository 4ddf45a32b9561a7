"""Eight simulated devices, and the jaxtyping signatures checked while tests run.

JAX's compiled programs are kept in .pytest_cache, because tests, their workers and the
commands that they start compile many equal programs.
"""

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
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_threefry_partitionable", True)

install_import_hook("ast_jax", "beartype.beartype")


@pytest.fixture(scope="module")
def quick_compilation():
    """For small networks, whose compilation takes ten times as long as their use.

    Do not use it for comparisons with recorded arrays, because it changes rounding.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
