"""What makes programs compile faster, where a test looks at something else."""

import contextlib
from collections.abc import Iterator

import jax
import pytest


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Programs are hardly optimised; their rounding is another one."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Code sees one of the eight simulated devices."""
    one = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: one)
        patch.setattr(jax, "local_devices", lambda: one)
        yield


@contextlib.contextmanager
def library_convolutions() -> Iterator[None]:
    """A network's convolutions are the library's, as on an accelerator.

    A CPU's own are faster to run and take three times as long to compile. They have
    tests of their own, and the tests of parity run them.
    """
    from ast_jax.models.ops import convolution

    choose = convolution.run_by_platform

    def library(*arguments, cpu, default):
        return choose(*arguments, cpu=default, default=default)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "run_by_platform", library)
        yield
