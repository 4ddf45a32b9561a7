"""Losses, score maps and image scores, shared by training and evaluation.

z is the teacher's output, ẑ the student's, m the foreground weight of each position
(1 everywhere when there is no mask). docs/method.md "Teacher", "Student" and "Score and
metrics"; paper, equations 4 to 7.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

LossAverage = Literal["all", "foreground"]

TOP_SHARE = 0.005  # of a map's positions, in the image score "top"
UNIT_QUANTILES = (0.9, 0.995)
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


def hard_distance(
    z: Float[Array, "b h w c"],
    z_student: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
    share: float,
) -> Float[Array, "b h w"]:
    """Returns `distance` over each channel's hardest positions, divided by their share.

    A student that continues to learn easy positions also learns to imitate its teacher
    on defects (Batzner et al., EfficientAD, 2024, section 3.2). EfficientAD takes the
    hardest positions of a batch. This takes those of each image, so that devices need
    not exchange anything.

    Args:
      z: the teacher's output.
      z_student: the student's output.
      foreground: the weight m.
      share: the share of an image's positions, above 0 and at most 1.
    """
    squares = foreground[..., None] * jnp.square(z - z_student)
    count = max(1, round(share * squares[0, ..., 0].size))
    hard = squares >= _kth_largest(lax.stop_gradient(squares), count)
    return jnp.where(hard, squares, 0).mean(-1) / share


def _kth_largest(
    values: Float[Array, "b h w c"], count: int
) -> Float[Array, "b 1 1 c"]:
    """The value that `count` positions of an image reach, to 2⁻¹⁶ of the largest.

    Halving an interval takes a CPU 1.4 ms where a sort takes 70 (4×24×24×304).
    """

    def halve(_: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        reached = (values >= middle).sum((1, 2), keepdims=True) >= count
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    high = values.max((1, 2), keepdims=True)
    return lax.fori_loop(0, 16, halve, (jnp.zeros_like(high), high))[0]


def loss_terms(
    per_position: Float[Array, "b h w"],
    foreground: Float[Array, "b h w"],
    average: LossAverage,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numerator and denominator of the loss; devices sum each of them.

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


@lru_cache(maxsize=32)
def gaussian_matrix(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """Weights of a Gaussian blur that repeats the last value beyond the border."""
    radius = math.ceil(4 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * np.square(offsets / sigma))
    matrix, rows = np.zeros((size, size)), np.arange(size)
    for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, size - 1)), weight)
    return matrix


def upsampling_matrix(
    size: int, smoothing: float, factor: int = 8
) -> Float[np.ndarray, "out in"]:
    """`upsample` along one side: bicubic weights, then the Gaussian's."""
    matrix = bicubic_matrix(size, size * factor)
    if not smoothing:
        return matrix
    blur = gaussian_matrix(size * factor, smoothing)
    return (blur @ matrix.astype(np.float64)).astype(np.float32)


def upsample(
    score_map: Float[Array, "b h w"], smoothing: float = 0.0, factor: int = 8
) -> Float[Array, "b h2 w2"]:
    """Bicubic upsampling as in torch, with its overshoot; 24×24 becomes 192×192.

    `smoothing` is the σ of a Gaussian blur after it, in pixels of the result, or 0.
    """
    h, w = score_map.shape[1:]
    rows = upsampling_matrix(h, smoothing, factor)
    columns = upsampling_matrix(w, smoothing, factor)
    # Highest, because an accelerator's matrix products have 8 to 11 bits by default.
    return jnp.einsum("ih,bhw,jw->bij", rows, score_map, columns, precision="highest")


def top(score_map: Float[Array, "b h w"]) -> Float[Array, " b"]:
    """The mean of the highest 0.5 % of a map's values, at least of one.

    It varies less than the maximum, and good positions do not dilute it like the mean.
    """
    b, h, w = score_map.shape
    values = score_map.reshape(b, h * w)
    count = max(1, round(TOP_SHARE * h * w))
    return lax.top_k(values, count)[0].mean(1)


class Reading(NamedTuple):
    """The options by which maps and image scores are read from distances.

    Attributes:
      smoothing: σ of the upsampled map's Gaussian blur, or 0.
      top: whether to read `top` too.
      border_units: whether a map's outermost positions have units of their own.
    """

    smoothing: float = 0.0
    top: bool = False
    border_units: bool = False

    @classmethod
    def of(cls, options: ConfigDict) -> "Reading":
        """The reading of a configuration's section `evaluation`."""
        top = options.image_score == "top"
        return cls(options.smoothing, top, options.border_units)

    def read(self, fine: Float[Array, "b h w"]) -> dict[str, Float[Array, " b"]]:
        """The image scores of a map, which has its final resolution."""
        scores = {"max": fine.max((1, 2))}
        return scores | {"top": top(fine)} if self.top else scores


PLAIN = Reading()


class Units(NamedTuple):
    """The units of each group's distances: two quantiles on good parts.

    The first row is for positions inside a map, the second for the outermost ones.
    The backbone pads with zeros, so at the border good parts have larger distances.
    """

    low: Float[Array | np.ndarray, "2 g"]
    high: Float[Array | np.ndarray, "2 g"]

    @classmethod
    def of(
        cls,
        good: Float[np.ndarray, "n h w g"],
        foreground: Float[np.ndarray, "n h w"],
        border_units: bool = False,
    ) -> "Units":
        """Fits the units to distances at the foreground positions of good parts.

        Args:
          good: the distances of n good parts.
          foreground: m; positions of weight 0 do not count.
          border_units: whether to fit the outermost positions apart. It needs a
            position per part at the border, and one inside; else all count together.
        """
        where = foreground > 0
        outermost = border(*where.shape[1:])
        rows = [where & ~outermost, where & outermost]
        if not border_units or min(row.sum() for row in rows) < len(good):
            rows = [where, where]
        quantiles = [np.quantile(good[row], UNIT_QUANTILES, axis=0) for row in rows]
        low, high = np.swapaxes(quantiles, 0, 1).astype(np.float32)
        return cls(low, np.maximum(high, low + 1e-12))

    @classmethod
    def none(cls, groups: int) -> "Units":
        """Units that change nothing."""
        return cls(np.zeros((2, groups), np.float32), np.ones((2, groups), np.float32))

    def fuse(self, distances: Float[Array, "*n h w g"]) -> Float[Array, "*n h w"]:
        """The mean over groups of distances in their units."""
        outermost = border(*distances.shape[-3:-1])[..., None]
        low, high = (
            jnp.where(outermost, outside, inside)
            for inside, outside in (self.low, self.high)
        )
        return ((distances - low) / (high - low)).mean(-1)


def border(h: int, w: int) -> Bool[np.ndarray, "h w"]:
    """Whether a position of a map is an outermost one."""
    outermost = np.ones((h, w), bool)
    outermost[1:-1, 1:-1] = False
    return outermost


def group_scores(
    z: Float[Array, "b h w c"],
    z_student: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
    sizes: tuple[int, ...],
    units: Units,
    reading: Reading = PLAIN,
) -> dict[str, Float[Array, "b ..."]]:
    """Returns `student_scores` of groups of channels; fuses the groups' distances.

    Args:
      z: the teachers' outputs side by side.
      z_student: the students' outputs side by side.
      foreground: m.
      sizes: channels of each group.
      units: of the groups' distances.
      reading: of image scores.

    Returns:
      The entries of `student_scores`, and "groups" [b,h,w,g], the maps before fusion.
    """
    bounds = np.cumsum(sizes)[:-1].tolist()
    pairs = zip(jnp.split(z, bounds, -1), jnp.split(z_student, bounds, -1), strict=True)
    losses = [distance(*both, foreground)[..., None] for both in pairs]
    losses = jnp.concatenate(losses, axis=-1)  # ONNX has no stack
    return fused_scores(losses, foreground, units, reading)


def fused_scores(
    losses: Float[Array, "b h w g"],
    foreground: Float[Array, "b h w"],
    units: Units,
    reading: Reading = PLAIN,
) -> dict[str, Float[Array, "b ..."]]:
    """Returns the entries of `group_scores`, from the groups' distances, times m."""
    maps = foreground[..., None] * losses
    score_map, mean = units.fuse(maps), units.fuse(losses).mean((1, 2))
    scores = reading.read(upsample(score_map, reading.smoothing))
    return {"map": score_map, "mean": mean, "groups": maps} | scores


def student_scores(
    z: Float[Array, "b h w c"],
    z_student: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
    reading: Reading = PLAIN,
) -> dict[str, Float[Array, "b ..."]]:
    """The score map of teacher's and student's distance, its maximum and its mean.

    The map has m twice, m · mean_c m·(z − ẑ)², and is at map resolution. The maximum is
    taken after upsampling. The mean has m once; it is the image's loss.
    """
    loss = distance(z, z_student, foreground)
    score_map = foreground * loss
    scores = reading.read(upsample(score_map, reading.smoothing))
    return {"map": score_map, "mean": loss.mean((1, 2))} | scores


def teacher_scores(
    z: Float[Array, "b h w c"],
    log_det: Float[Array, "b h w"],
    foreground: Float[Array, "b h w"],
    reading: Reading = PLAIN,
) -> dict[str, Float[Array, "b ..."]]:
    """The score map of the likelihood at map resolution, its maximum and its mean."""
    nll = negative_log_likelihood(z, log_det, foreground)
    return {"map": nll, "mean": nll.mean((1, 2))} | reading.read(nll)
