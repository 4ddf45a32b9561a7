"""Layers make the same parameters without computing maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.config import default
from ast_jax.models import create_student, create_teacher, layers

SIZE = {"side": 3, "channels": 10}


@pytest.mark.parametrize("create", [create_teacher, create_student])
def test_parameters_are_made_without_a_convolution(
    create, monkeypatch, quick_compilation
):
    config = default()
    config.teacher.update(blocks=1, hidden=4)
    config.student.update(blocks=1, width=6)
    module, x = create(config, **SIZE), jnp.zeros((1, 3, 3, 10))

    def made():
        def init(key):
            return module.init(key, x, mutable=["params", "batch_stats"])

        return jax.jit(init)(jax.random.key(0))

    with monkeypatch.context() as patch:
        patch.setattr(layers.Conv, "is_initializing", lambda conv: False)
        expected = made()
    monkeypatch.setattr(layers, "convolve", None)
    jax.tree.map(np.testing.assert_array_equal, made(), expected)
