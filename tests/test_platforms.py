"""A CPU traces its own implementation alone, unless a file is made for elsewhere."""

import jax
import jax.numpy as jnp

from ast_jax.platforms import run_by_platform, trace_every_platform


def choose(x):
    return run_by_platform(x, cpu=jnp.sin, default=jnp.cos)


def test_a_cpu_runs_its_own_and_traces_no_other():
    assert choose(0.0) == 0.0
    text = str(jax.make_jaxpr(choose)(1.0))
    assert "sin" in text and "cos" not in text


def test_a_function_for_every_platform_chooses_there():
    with trace_every_platform():
        exported = jax.export.export(jax.jit(choose), platforms=("cpu", "cuda"))(1.0)
    assert "stablehlo.sine" in exported.mlir_module()
    assert "stablehlo.cosine" in exported.mlir_module()
    assert exported.call(0.0) == 0.0
