"""Shortcuts of compilation, for tests that do not look at what they change."""

import contextlib
from collections.abc import Iterator

import jax
import pytest


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """XLA optimises programs little in the block; results differ by rounding."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Code in the block sees one of the eight simulated devices."""
    one = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: one)
        patch.setattr(jax, "local_devices", lambda: one)
        yield


@contextlib.contextmanager
def library_convolutions() -> Iterator[None]:
    """Networks in the block use the library's convolutions, as on an accelerator.

    The convolutions for a CPU run faster and take three times as long to compile. Their
    own tests and the tests of parity run them.
    """
    from ast_jax.models.ops import convolution

    choose = convolution.run_by_platform

    def library(*arguments, cpu, default):
        return choose(*arguments, cpu=default, default=default)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "run_by_platform", library)
        yield
