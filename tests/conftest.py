"""Eight simulated devices, and the jaxtyping signatures checked while tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Each test worker is one of several processes on the same cores.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_threefry_partitionable", True)

install_import_hook("ast_jax", "beartype.beartype")
