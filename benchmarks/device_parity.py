"""Errors of this device's arithmetic against the arrays recorded from the authors'
code and from timm (tests/reference), by precision.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ast_jax import backbones
from ast_jax.backbones import timm_weights
from ast_jax.backbones.architecture import architecture
from ast_jax.backbones.efficientnet import EfficientNet
from ast_jax.config import default
from ast_jax.models.ops.convolution import convolve
from ast_jax.models.student import Student
from ast_jax.models.teacher import Teacher
from benchmarks.side_by_side import QUICK

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from reference_arrays import CASES, channels_last, load, relative_error
from stand_in_weights import REFERENCE, state_dict

# The operation, and the factors' type.
PRECISIONS = {
    "float32, highest": ("highest", "float32"),
    "float32, the device's default": (None, "float32"),
    "bfloat16": (None, "bfloat16"),
}
BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_b5")
_STAGES = 7
Row = tuple[str, float, str, str]  # figure, relative error, unit, aim


def errors() -> Iterator[Row]:
    """The largest error of each kind, relative to the largest value."""
    for name, (precision, dtype) in PRECISIONS.items():
        aim = "1e-5" if precision else ""
        with jax.default_matmul_precision(precision):
            chosen = CASES[:1] if QUICK.value else CASES
            cases = [_networks(load(case), dtype) for case in chosen]
            for row, network in enumerate(("teacher z", "log-det", "student")):
                yield f"{network}, {name}", max(c[row] for c in cases), "", aim
            yield f"convolutions, {name}", _convolutions(dtype), "", aim
    with jax.default_matmul_precision("highest"):
        yield "scattering against this CPU's", _scattering(), "", "1e-4"
        for name in BACKBONES[:1] if QUICK.value else BACKBONES:
            yield f"all stages of {name} against timm's", _stages(name), "", "1e-4"


def _networks(case, dtype: str) -> tuple[float, float, float]:
    channels = case["teacher_z"].shape[1]
    teacher = Teacher(8, 8, channels, hidden=16, dtype=jnp.dtype(dtype))
    student = Student(width=32, dtype=jnp.dtype(dtype))
    x = case.x("in")
    z, log_det = jax.jit(teacher.apply)({"params": case.teacher()}, x)
    z_student = jax.jit(student.apply)(case.student(), x)
    return (
        relative_error(z, channels_last(case["teacher_z"])),
        relative_error(log_det, case["teacher_log_det"]),
        relative_error(z_student, channels_last(case["student_eval"])),
    )


def _convolutions(dtype: str) -> float:
    """Values and gradients by kernel size and padding, against a CPU's float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 12, 12, 32), np.float32)
    worst = 0.0
    for k in (3,) if QUICK.value else (1, 3, 5):
        kernel = rng.standard_normal((k, k, 32, 16), np.float32) / k**2
        for padding in ("zero", "replicate"):
            found = jax.device_get(_value_and_gradients(x, kernel, padding, dtype))
            cpu = jax.default_device(jax.devices("cpu")[0])
            with cpu, jax.default_matmul_precision("highest"):
                right = jax.device_get(
                    _value_and_gradients(x, kernel, padding, "float32")
                )
            pairs = zip(found, right, strict=True)
            worst = max(worst, *(relative_error(a, b) for a, b in pairs))
    return worst


@functools.partial(jax.jit, static_argnums=(2, 3))
def _value_and_gradients(x: jax.Array, kernel: jax.Array, padding: str, dtype: str):
    """A convolution's value, and the gradients of the sum of its sines."""
    y, pull = jax.vjp(lambda *both: convolve(*both, padding, dtype), x, kernel)
    return y, *pull(jnp.cos(y))


def _scattering() -> float:
    config = default().backbone
    config.name = "scattering"
    backbone = backbones.create(config, image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    run = jax.jit(backbone.apply)
    found = jax.device_get(run(backbone.variables, images))
    with jax.default_device(jax.devices("cpu")[0]):
        return relative_error(found, jax.device_get(run(backbone.variables, images)))


def _stages(name: str) -> float:
    """The largest error of a backbone's stages, as an accelerator computes them."""
    net = architecture(name, _STAGES - 1)
    variables = timm_weights.fold(net, state_dict(name).get)
    with np.load(REFERENCE / f"backbone_{name}.npz") as arrays:
        images = arrays["96x128/input_nchw"].transpose(0, 2, 3, 1)
        expected = [
            arrays[f"96x128/stage{n}"].transpose(0, 2, 3, 1) for n in range(_STAGES)
        ]
    run = jax.jit(functools.partial(EfficientNet(net).apply, mutable="intermediates"))
    found = run(variables, images)[1]["intermediates"]
    return max(
        relative_error(found[f"stage{n}"][0][..., : each.shape[-1]], each)
        for n, each in enumerate(expected)
    )
