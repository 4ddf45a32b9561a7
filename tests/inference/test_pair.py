"""A pair scores the same with kernels that are transformed ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax import config
from ast_jax.inference.pair import Pair, transform_kernels
from ast_jax.models import create_student, create_teacher
from ast_jax.models.layers import TRANSFORMED
from ast_jax.models.ops import convolution

SIDE, CHANNELS = 8, 6


@pytest.mark.parametrize("kind", ["conv", "flow"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformed_kernels_score_as_the_plain_ones(
    kind, dtype, monkeypatch, quick_compilation
):
    monkeypatch.setattr(
        convolution, "_KERNEL_COST", 0
    )  # otherwise no kernel is transformed for such small maps
    settings = config.default()
    settings.student.update(kind=kind, blocks=1, width=8)
    settings.teacher.update(blocks=1, hidden=4)
    settings.train.dtype = dtype
    x = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE, CHANNELS))
    modules = [
        create(settings, side=SIDE, channels=CHANNELS)
        for create in (create_teacher, create_student)
    ]
    variables = {
        name: jax.jit(module.init)(jax.random.key(1), x)
        for name, module in zip(("teacher", "student"), modules, strict=True)
    }
    pair = Pair(*modules, variables)
    faster = transform_kernels(pair, variables, x.shape)
    assert jax.tree.leaves(faster["student"][TRANSFORMED])
    assert jax.tree.leaves(faster["teacher"][TRANSFORMED])
    for leaf in jax.tree.leaves([faster[network][TRANSFORMED] for network in faster]):
        assert leaf.dtype == dtype
    foreground = jnp.ones(x.shape[:3])
    expected = pair.compiled(variables, x, foreground)
    found = pair.compiled(faster, x, foreground)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )
