"""Small networks; compiling them costs more than running them."""

import jax
import pytest

from ast_jax.config import default


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def config():
    config = default()
    config.teacher.update(blocks=2, hidden=4, epochs=2)
    config.student.update(blocks=1, width=8, epochs=2)
    return config
