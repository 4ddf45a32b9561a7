"""A configuration of networks small enough that a test trains them in seconds."""

import pytest

from ast_jax.config import ast_plus, default


@pytest.fixture(scope="module", autouse=True)
def quick(quick_compilation, library_convolutions):
    """For every test here."""


@pytest.fixture
def config():
    config = default()
    config.teacher.update(blocks=1, hidden=4, epochs=2)
    config.student.update(blocks=1, width=8, epochs=2)
    return config


@pytest.fixture
def configs(config):
    """Those networks by method; `BLOCKS` has the channels' blocks."""
    plus = ast_plus(config)
    plus.teacher.update(blocks=1, hidden=4, epochs=2)
    plus.student.update(blocks=1, width=8, epochs=2)
    plus.train.learning_rate = config.train.learning_rate
    return {"ast": config, "ast_plus": plus}
