"""Two detectors without training, on the features that the networks see.

An ablation's table compares the networks with them. Training pays if it beats both.

whitened Gaussian  The squared Mahalanobis distance of each block of channels from the
                   good positions. Its unit is the block's quantiles on good parts, as
                   for AST+'s groups. The sum of all blocks is the distance.
nearest patch      The squared distance to the nearest good position, as in PatchCore
                   (Roth et al., 2022), over all blocks together. Each channel is
                   standardised, and each block has the same weight. The detector keeps
                   at most `PATCHES` positions, the same number from each image, and
                   draws them with a fixed seed.

Maps and image scores are computed as those of a student: foreground, upsampling,
smoothing, image score.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ast_jax import data, scoring
from ast_jax.evaluation import numbers
from ast_jax.features.category import Category
from ast_jax.features.inputs import Inputs
from ast_jax.features.whitening import BlockWhitening
from ast_jax.inference.category import empty_scores
from ast_jax.inference.ensemble import Scores, decision, distance_units
from ast_jax.inference.pair import score
from ast_jax.training.folds import fold_count, split_fold

PATCHES = 131_072
"""The largest number of positions that the nearest patch keeps."""

_CHUNK = 1024  # positions per step, to limit the memory
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A detector without training.

    Attributes:
      name: for people.
      shape: of a part's features.
      variables: its arrays, fitted on good parts.
      losses: (variables, x, foreground) → the blocks' distances [b,h,w,g], times m.
      units: of each block's distances.
      reading: of image scores.
      normaliser: of the input; none, because the distances normalise.
    """

    name: str
    shape: tuple[int, int, int]
    variables: Any
    losses: Callable[[Any, jax.Array, jax.Array], jax.Array]
    units: scoring.Units
    reading: scoring.Reading
    normaliser: None = None

    @functools.cached_property
    def compiled(self):
        """(variables, x, foreground) → its name → map and image scores, compiled."""

        def scores(variables: Any, x: jax.Array, foreground: jax.Array) -> dict:
            losses = self.losses(variables, x, foreground)
            how = (self.units, self.reading)
            return {self.name: scoring.fused_scores(losses, foreground, *how)}

        return jax.jit(scores)


def fit_baselines(category: Category) -> tuple[Baseline, Baseline]:
    """Fits both baselines on the good images that the category's pairs learn.

    Raises:
      UserError: a part is damaged, or no image remains to learn.
    """
    config, rows = category.config, np.arange(len(category.parts["train"]))
    if fold_count(category) == 1:  # with several folds, some pair learns each image
        rows, _ = split_fold(category, "")
    good = category.inputs_to_learn(rows)
    reading = scoring.Reading.of(config.evaluation)
    gaussian = fit_gaussian(good, reading, config.train.batch_size)
    return gaussian, fit_nearest(good, reading)


def baseline_figures(baseline: Baseline, category: Category) -> dict[str, Any]:
    """Returns the figures of a category's test images, as `results.json` has them."""
    config, inputs = category.config, category.inputs("test")
    scores = empty_scores(inputs.side)
    if len(inputs):
        arrays = score(baseline, inputs, batch_size=config.train.batch_size)
        kind = decision(config.evaluation.image_score, masked=inputs.has_foreground)
        scores = Scores.from_arrays(arrays[baseline.name], kind, baseline.reading)
    kinds = data.builder_class(config.dataset.name).KINDS
    return numbers.figures(category.parts["test"], scores, kinds)


def fit_gaussian(good: Inputs, reading: scoring.Reading, batch_size: int) -> Baseline:
    """Fits the whitened Gaussian of good images."""
    whitening = good.fit_whitening()
    plain = Baseline(
        "whitened Gaussian",
        _shape(good),
        whitening,
        _mahalanobis,
        scoring.Units.none(len(whitening.blocks)),
        reading,
    )
    arrays = score(plain, good, batch_size=batch_size)[plain.name]
    units = distance_units(arrays["groups"], good, batch_size, reading)
    return dataclasses.replace(plain, units=units)


def _mahalanobis(
    whitening: BlockWhitening,
    x: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> Float[Array, "b h w g"]:
    """Returns each whitened block's mean square, its distance from a student of 0."""
    bounds = np.cumsum([len(block.mean) for block in whitening.blocks])[:-1].tolist()
    blocks = jnp.split(whitening.forward(x), bounds, axis=-1)
    losses = [scoring.distance(y, jnp.zeros_like(y), foreground) for y in blocks]
    return jnp.stack(losses, axis=-1)


class Bank(NamedTuple):
    """Positions of good images, in chunks of one size; some may occur twice."""

    mean: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    patches: Float[np.ndarray, "k p c"]


def fit_nearest(good: Inputs, reading: scoring.Reading) -> Baseline:
    """Draws the positions for the nearest patch from good images' foreground."""
    rng = np.random.default_rng(_SEED)
    images = rng.permutation(len(good))[:PATCHES]
    each, kept = PATCHES // len(images), []
    for image in images:
        part = good.with_normaliser(None).take(np.array([image]))
        rows = part["x"][part["foreground"] > 0]
        kept.append(rows[rng.permutation(len(rows))[:each]])
    rows = np.concatenate(kept)
    mean, std = rows.mean(0), rows.std(0)
    std[std < 1e-6] = 1.0
    channels = [block.channels for block in good.blocks]
    weight = np.repeat(1 / np.sqrt(np.multiply(channels, len(channels))), channels)
    bank = Bank(mean, (weight / std).astype(np.float32), _chunks(rows))
    bank = bank._replace(patches=(bank.patches - bank.mean) * bank.scale)
    plain = scoring.Units.none(1)
    return Baseline("nearest patch", _shape(good), bank, _nearest, plain, reading)


def _shape(inputs: Inputs) -> tuple[int, int, int]:
    return inputs.side, inputs.side, inputs.channels


def _chunks(rows: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "k p c"]:
    """Divides rows into equal chunks; repeats rows to fill the last one."""
    count = -(-len(rows) // _CHUNK)
    size = -(-len(rows) // count)
    return np.resize(rows, (count, size, rows.shape[1]))


def _nearest(
    bank: Bank, x: Float[Array, "b h w c"], foreground: Float[Array, "b h w"]
) -> Float[Array, "b h w 1"]:
    """Returns |y − p|² = |y|² + |p|² − 2·y·p of the nearest p, chunk by chunk."""
    y = (x - bank.mean) * bank.scale

    def nearer(least: jax.Array, patches: jax.Array) -> tuple[jax.Array, None]:
        # The highest precision, because the result is a small difference.
        product = jnp.einsum("bhwc,pc->bhwp", y, patches, precision="highest")
        distances = jnp.square(patches).sum(-1) - 2 * product
        return jnp.minimum(least, distances.min(-1)), None

    least, _ = lax.scan(nearer, jnp.full(x.shape[:3], jnp.inf), bank.patches)
    distance = jnp.maximum(least + jnp.square(y).sum(-1), 0)
    return (foreground * distance)[..., None]
