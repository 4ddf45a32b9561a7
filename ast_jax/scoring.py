"""Losses, score maps and image scores, shared by training and evaluation.

z is the teacher's output, ẑ the student's, m the foreground weight of each position
(1 everywhere when there is no mask). docs/method.md "Teacher", "Student" and "Score and
metrics"; paper, equations 4 to 7.
"""

from functools import lru_cache
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LossAverage = Literal["all", "foreground"]

# Torch's bicubic kernel; jax.image.resize has Keys' −0.5 (docs/method.md "Score").
_BICUBIC_A = -0.75


def negative_log_likelihood(
    z: Float[Array, "b h w c"],
    log_det: Float[Array, "b h w"],
    foreground: Float[Array, "b h w"],
) -> Float[Array, "b h w"]:
    """The teacher's score and loss, 0.5·Σ_c m·z² − m·log_det, up to a constant."""
    return foreground * (0.5 * jnp.square(z).sum(-1) - log_det)


def distance(
    z: Float[Array, "b h w c"],
    z_student: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> Float[Array, "b h w"]:
    """The student's loss at each position, mean_c m·(z − ẑ)²."""
    return foreground * jnp.square(z - z_student).mean(-1)


def loss_terms(
    per_position: Float[Array, "b h w"],
    foreground: Float[Array, "b h w"],
    average: LossAverage,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numerator and denominator of the loss, apart so that devices can add theirs.

    Args:
      per_position: masked loss.
      foreground: m.
      average: "all" divides by the number of positions (the authors' code),
        "foreground" by Σ m (the paper).
    """
    if average == "foreground":
        return per_position.sum(), foreground.sum()
    return per_position.sum(), jnp.asarray(float(per_position.size))


@lru_cache(maxsize=32)
def bicubic_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "out in"]:
    """Interpolation weights of torch's bicubic: half-pixel centres, border clamped."""
    a = _BICUBIC_A
    centre = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((size_out, size_in))
    for tap in range(4):
        d = np.abs(centre - (first + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        index = np.clip(first + tap, 0, size_in - 1)
        np.add.at(matrix, (np.arange(size_out), index), np.where(d <= 1, near, far))
    return matrix.astype(np.float32)


def upsample(
    score_map: Float[Array, "b h w"], factor: int = 8
) -> Float[Array, "b h2 w2"]:
    """Bicubic upsampling as torch's, overshoot kept; 24×24 becomes 192×192."""
    h, w = score_map.shape[1:]
    rows, columns = bicubic_matrix(h, h * factor), bicubic_matrix(w, w * factor)
    # HIGHEST: an accelerator's default for matrix products has 8 to 11 bits.
    return jnp.einsum("ih,bhw,jw->bij", rows, score_map, columns, precision="highest")


def student_scores(
    z: Float[Array, "b h w c"],
    z_student: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> dict[str, Float[Array, "b ..."]]:
    """The disagreement's score map at map resolution, its maximum and its mean.

    The map holds m twice, m · mean_c m·(z − ẑ)²; its maximum is taken after upsampling;
    the mean, which is the image's loss, holds m once.
    """
    loss = distance(z, z_student, foreground)
    score_map = foreground * loss
    maximum = upsample(score_map).max((1, 2))
    return {"map": score_map, "max": maximum, "mean": loss.mean((1, 2))}


def teacher_scores(
    z: Float[Array, "b h w c"],
    log_det: Float[Array, "b h w"],
    foreground: Float[Array, "b h w"],
) -> dict[str, Float[Array, "b ..."]]:
    """The likelihood's score map at map resolution, its maximum and its mean."""
    nll = negative_log_likelihood(z, log_det, foreground)
    return {"map": nll, "max": nll.max((1, 2)), "mean": nll.mean((1, 2))}
