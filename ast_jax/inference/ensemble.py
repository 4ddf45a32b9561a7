"""The pairs of a category, one a seed, scored together.

A single pair's scores are its own. Several pairs' are the means of their standardised
scores: each in units of the deviation, from the mean, of the good images that it was
trained on. No held-out and no test image enters, so calibration stays exact.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax import scoring
from ast_jax.features.inputs import Inputs
from ast_jax.inference.pair import Pair, load_pair, score
from ast_jax.run import Run

NETWORKS = ("student", "teacher")
# "map" [n,h,w], "max" [n] and "mean" [n] of one network, and of each by its name
ScoreArrays = dict[str, Float[Array | np.ndarray, "n ..."]]
ArraysOfNetworks = Mapping[str, ScoreArrays]


@dataclasses.dataclass(frozen=True)
class Scores:
    """One network's scores of n parts.

    Attributes:
      maps: score maps at map resolution.
      maximum: of each map (the student's after upsampling).
      mean: each image's mean score.
      image: the one of the two that decides.
    """

    maps: Float[np.ndarray, "n h w"]
    maximum: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    image: Float[np.ndarray, " n"]

    def select(self, rows: Int[np.ndarray, " m"]) -> "Scores":
        """The scores of some of the parts."""
        return Scores(
            self.maps[rows], self.maximum[rows], self.mean[rows], self.image[rows]
        )


# seed → network → scores
ScoresBySeed = dict[str, dict[str, Scores]]


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and deviation of good images' map values, and of their mean scores."""

    map_mean: float
    map_std: float
    mean_mean: float
    mean_std: float

    @classmethod
    def of(cls, good: Scores) -> "Scale":
        """From the scores of good images."""
        return cls(
            float(good.maps.mean()),
            max(float(good.maps.std()), 1e-12),
            float(good.mean.mean()),
            max(float(good.mean.std()), 1e-12),
        )


def decision(image_score: str, *, masked: bool) -> str:
    """Returns "maximum" or "mean": which image score decides.

    Args:
      image_score: the configuration's; "protocol" is the paper's choice (4.2.4).
      masked: whether a foreground mask exists.
    """
    if image_score == "protocol":
        image_score = "max" if masked else "mean"
    return {"max": "maximum", "mean": "mean"}[image_score]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """One or more trained pairs of a category.

    Attributes:
      pairs: by seed.
      image_score: the configuration's `evaluation.image_score`.
      scales: seed → network → scale; empty for a single pair.
    """

    pairs: Mapping[str, Pair]
    image_score: str
    scales: Mapping[str, Mapping[str, Scale]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, run: Run, category: str) -> "Ensemble":
        """Opens the pairs of all of the run's seeds.

        Raises:
          UserError: one was not trained, or a checkpoint is missing or damaged.
        """
        seeds = run.config.train.seeds
        pairs = {str(seed): load_pair(run, category, seed) for seed in seeds}
        return cls(pairs, run.config.evaluation.image_score)

    def scaled_by(self, good: Mapping[str, Inputs], batch_size: int) -> "Ensemble":
        """Fits the scales on the good images that each seed's pair was trained on."""
        if len(self.pairs) == 1:
            return self
        scales = {}
        for seed, inputs in good.items():
            scores = self._score(seed, inputs, batch_size)
            scales[seed] = {name: Scale.of(scores[name]) for name in NETWORKS}
        return dataclasses.replace(self, scales=scales)

    def score_by_seed(self, inputs: Inputs, batch_size: int) -> ScoresBySeed:
        """Every pair's own scores."""
        return {seed: self._score(seed, inputs, batch_size) for seed in self.pairs}

    def _score(self, seed: str, inputs: Inputs, batch_size: int) -> dict[str, Scores]:
        arrays = score(self.pairs[seed], inputs, batch_size=batch_size)
        how = decision(self.image_score, masked=inputs.masked)
        return {
            name: _scores(of["map"], of["max"], of["mean"], how)
            for name, of in arrays.items()
        }

    def combine(self, by_seed: ScoresBySeed, *, masked: bool) -> dict[str, Scores]:
        """The ensemble's scores from every pair's own."""
        if len(by_seed) == 1:
            return next(iter(by_seed.values()))
        how = decision(self.image_score, masked=masked)
        arrays = {
            seed: {
                name: {"map": jnp.asarray(of.maps), "mean": jnp.asarray(of.mean)}
                for name, of in scores.items()
            }
            for seed, scores in by_seed.items()
        }
        combined = {}
        for name in NETWORKS:
            of = jax.device_get(self.combined(arrays, name))
            combined[name] = _scores(of["map"], of["max"], of["mean"], how)
        return combined

    def combined(
        self, by_seed: Mapping[str, ArraysOfNetworks], network: str
    ) -> ScoreArrays:
        """One network's map, max and mean from every pair's own; may be traced.

        Args:
          by_seed: what `pair.pair_scores` returns, for every seed.
          network: "student" or "teacher".
        """
        if len(by_seed) == 1:
            return next(iter(by_seed.values()))[network]
        maps, means = [], []
        for seed, scores in by_seed.items():
            scale, of = self.scales[seed][network], scores[network]
            maps.append((of["map"] - scale.map_mean) / scale.map_std)
            means.append((of["mean"] - scale.mean_mean) / scale.mean_std)
        mean_map = sum(maps) / len(maps)
        finest = mean_map if network == "teacher" else scoring.upsample(mean_map)
        mean = sum(means) / len(means)
        return {"map": mean_map, "max": finest.max((1, 2)), "mean": mean}

    def score(self, inputs: Inputs, batch_size: int) -> dict[str, Scores]:
        """The ensemble's scores of all inputs, by network."""
        by_seed = self.score_by_seed(inputs, batch_size)
        return self.combine(by_seed, masked=inputs.masked)


def _scores(
    maps: np.ndarray, maximum: np.ndarray, mean: np.ndarray, how: str
) -> Scores:
    return Scores(maps, maximum, mean, maximum if how == "maximum" else mean)
