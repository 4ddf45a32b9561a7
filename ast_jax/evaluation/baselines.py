"""Two detectors without training, on the features that the networks see.

An ablation's table compares the networks with them: training pays if it beats both.

whitened Gaussian  The squared Mahalanobis distance of each block of channels from the
                   good positions. Each block is measured in units of its quantiles on
                   good parts, as AST+ measures its groups; then all are added.
nearest patch      The squared distance to the nearest good position, as in PatchCore
                   (Roth et al., 2022), over all blocks together. Each channel is
                   standardised, and each block has the same weight. The detector keeps
                   at most `PATCHES` positions, as many from each image, and draws them
                   with a fixed seed.

Maps and image scores follow from the distances as from a student's: foreground,
upsampling, smoothing, image score.
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
from ast_jax.inference.category import no_scores
from ast_jax.inference.ensemble import Scores, decision, units_of
from ast_jax.inference.pair import score
from ast_jax.training.folds import fold_count, left_out

PATCHES = 131_072
"""The largest number of positions that the nearest patch keeps."""

_CHUNK = 1024  # positions at once, which bounds the memory
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A detector without training.

    Attributes:
      name: for people.
      shape: of a part's features.
      variables: its arrays, fitted on good parts.
      losses: (variables, x, foreground) → the blocks' distances [b,h,w,g], m once.
      units: of each block's distances.
      reading: of image scores.
      normaliser: of the input; none, since the distances have their own.
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
    """Fits both on the good images that the category's pairs learn.

    Raises:
      UserError: a part is damaged, or no image remains to learn.
    """
    config, good = category.config, category.inputs("train")
    if fold_count(category) == 1:  # else some fold's pair learns each
        good = good.select(left_out(category, "")[0])
    options = config.evaluation
    reading = scoring.Reading(options.smoothing, options.image_score == "top")
    gaussian = fit_gaussian(good, reading, config.train.batch_size)
    return gaussian, fit_nearest(good, reading)


def baseline_figures(baseline: Baseline, category: Category) -> dict[str, Any]:
    """The figures of a category's test images, as `results.json` has them."""
    config, inputs = category.config, category.inputs("test")
    scores = no_scores(inputs.side)
    if len(inputs):
        arrays = score(baseline, inputs, batch_size=config.train.batch_size)
        arrays = arrays[baseline.name]
        how = decision(config.evaluation.image_score, masked=inputs.masked)
        main = (arrays[name] for name in ("map", "max", "mean", how))
        scores = Scores(*main, smoothing=baseline.reading.smoothing)
    kinds = data.builder_class(config.dataset.name).KINDS
    return numbers.figures(category.parts["test"], scores, kinds)


def fit_gaussian(good: Inputs, reading: scoring.Reading, batch_size: int) -> Baseline:
    """The whitened Gaussian of good images."""
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
    units = units_of(arrays["groups"], good, batch_size)
    return dataclasses.replace(plain, units=units)


def _mahalanobis(
    whitening: BlockWhitening,
    x: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> Float[Array, "b h w g"]:
    """The mean square of each whitened block: its distance from a student of zeros."""
    bounds = np.cumsum([len(block.mean) for block in whitening.blocks])[:-1].tolist()
    blocks = jnp.split(whitening.forward(x), bounds, axis=-1)
    losses = [scoring.distance(y, jnp.zeros_like(y), foreground) for y in blocks]
    return jnp.stack(losses, axis=-1)


class Bank(NamedTuple):
    """Positions of good images, in chunks of one size; some may be there twice."""

    mean: Float[np.ndarray, " c"]
    scale: Float[np.ndarray, " c"]
    patches: Float[np.ndarray, "k p c"]


def fit_nearest(good: Inputs, reading: scoring.Reading) -> Baseline:
    """The nearest patch, among positions of good images' foreground."""
    rng = np.random.default_rng(_SEED)
    images = rng.permutation(len(good))[:PATCHES]
    each, kept = PATCHES // len(images), []
    for image in images:
        part = good.normalised(None).take(np.array([image]))
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
    """Rows in equal chunks, the last one filled up with rows that are there."""
    count = -(-len(rows) // _CHUNK)
    size = -(-len(rows) // count)
    return np.resize(rows, (count, size, rows.shape[1]))


def _nearest(
    bank: Bank, x: Float[Array, "b h w c"], foreground: Float[Array, "b h w"]
) -> Float[Array, "b h w 1"]:
    """|y − p|² = |y|² + |p|² − 2·y·p of the nearest p, chunk by chunk."""
    y = (x - bank.mean) * bank.scale

    def nearer(least: jax.Array, patches: jax.Array) -> tuple[jax.Array, None]:
        # HIGHEST: the small difference of large numbers.
        product = jnp.einsum("bhwc,pc->bhwp", y, patches, precision="highest")
        distances = jnp.square(patches).sum(-1) - 2 * product
        return jnp.minimum(least, distances.min(-1)), None

    least, _ = lax.scan(nearer, jnp.full(x.shape[:3], jnp.inf), bank.patches)
    distance = jnp.maximum(least + jnp.square(y).sum(-1), 0)
    return (foreground * distance)[..., None]
