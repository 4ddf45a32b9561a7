"""The pairs of a category, scored together: one per seed, with cross one per fold too.

The scores of several pairs are standardised, then averaged. A standardised score is the
distance from the mean of the pair's good training images, in standard deviations. No
held-out and no test image is used for that, so calibration stays exact. With cross each
fold also keeps its own image scores, because a left-out part has only its fold's.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ast_jax import scoring
from ast_jax.features.inputs import Inputs
from ast_jax.inference.pair import NETWORKS, Pair, load_pair, score
from ast_jax.inference.score_map import map_at
from ast_jax.inference.traced_programs import TracedPrograms
from ast_jax.run import Run, seed_and_fold

T = TypeVar("T")
# One network's entry of `pair.PairScores`, and the entries of all networks by name
ScoreArrays = dict[str, Float[Array | np.ndarray, "n ..."]]
ArraysOfNetworks = Mapping[str, ScoreArrays]


@dataclasses.dataclass(frozen=True)
class Scores:
    """One network's scores of n parts.

    Attributes:
      maps: score maps at map resolution.
      maximum: of each map (the student's after upsampling).
      mean: each image's mean score.
      image: the image score, which decides.
      by_fold: with cross each fold's own image score; `image` is their mean.
      maximum_by_fold: with cross each fold's own maximum.
      smoothing: of upsampled maps.
    """

    maps: Float[np.ndarray, "n h w"]
    maximum: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    image: Float[np.ndarray, " n"]
    by_fold: Float[np.ndarray, "n k"] | None = None
    maximum_by_fold: Float[np.ndarray, "n k"] | None = None
    smoothing: float = 0.0

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], kind: str, reading: scoring.Reading
    ) -> "Scores":
        """From the arrays of one network, see `pair.pair_scores`.

        Args:
          arrays: by name.
          kind: the name of the image score that decides.
          reading: its smoothing belongs to the maps.
        """
        main = (arrays[name] for name in ("map", "max", "mean", kind))
        return cls(*main, smoothing=reading.smoothing)

    @property
    def own(self) -> Float[np.ndarray, "n ..."]:
        """The scores that a calibration compares with its own."""
        return self.image if self.by_fold is None else self.by_fold

    def select(self, rows: Int[np.ndarray, " m"] | list[int]) -> "Scores":
        """The scores of some of the parts."""
        arrays = (self.maps, self.maximum, self.mean, self.image)
        chosen = (array[rows] for array in arrays)
        return Scores(*chosen, smoothing=self.smoothing)

    def map_at(
        self, index: int, size: tuple[int, int] | None = None
    ) -> Float[np.ndarray, "h w"]:
        """A part's map at 8 times its resolution, or resized to (height, width)."""
        return map_at(self.maps[index], size, self.smoothing)


# seed → network → scores
ScoresBySeed = dict[str, dict[str, Scores]]


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of good images' map values and mean scores."""

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
    """Returns "max", "mean" or "top": which image score decides.

    Args:
      image_score: the configuration's; "protocol" is the paper's choice (4.2.4).
      masked: whether a foreground mask exists.
    """
    if image_score == "protocol":
        return "max" if masked else "mean"
    return image_score


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """One or more trained pairs of a category.

    Attributes:
      pairs: by the names of `Run.members`: seeds, or each seed's folds.
      image_score: the configuration's `evaluation.image_score`.
      scales: member → network → scale; empty for a single pair.
      reading: options by which image scores are read from maps.
    """

    pairs: Mapping[str, Pair]
    image_score: str
    scales: Mapping[str, Mapping[str, Scale]] = dataclasses.field(default_factory=dict)
    reading: scoring.Reading = scoring.PLAIN

    @classmethod
    def load(
        cls, run: Run, category: str, traced: TracedPrograms | None = None
    ) -> "Ensemble":
        """Opens the pairs of all of the run's seeds and folds.

        Args:
          run: the trained run.
          category: its name.
          traced: what earlier processes traced.

        Raises:
          UserError: one was not trained, or a checkpoint is missing or damaged.
        """
        members = run.members(category)
        pairs = {name: load_pair(run, category, name, traced) for name in members}
        reading = next(iter(pairs.values())).reading
        return cls(pairs, run.config.evaluation.image_score, reading=reading)

    def with_units(self, good: Mapping[str, Inputs], batch_size: int) -> "Ensemble":
        """Fits the units of each pair's groups on its good training images."""
        pairs = {
            member: pair.with_units(fit_units(pair, good[member], batch_size))
            for member, pair in self.pairs.items()
            if pair.groups
        }
        return dataclasses.replace(self, pairs={**self.pairs, **pairs})

    def fit_scales(self, good: Mapping[str, Inputs], batch_size: int) -> "Ensemble":
        """Fits each pair's scales on its good training images."""
        if len(self.pairs) == 1:
            return self
        scales = {}
        for seed, inputs in good.items():
            scores = self._score(seed, inputs, batch_size)
            scales[seed] = {name: Scale.of(scores[name]) for name in NETWORKS}
        return dataclasses.replace(self, scales=scales)

    def score_by_member(self, inputs: Inputs, batch_size: int) -> ScoresBySeed:
        """The scores of every single pair."""
        return {name: self._score(name, inputs, batch_size) for name in self.pairs}

    def combine_by_seed(self, by_member: ScoresBySeed, *, masked: bool) -> ScoresBySeed:
        """The scores of each seed: of its pair, or of its folds together."""
        grouped = _group(by_member, 0)
        return {
            seed: self.combine(scores, masked=masked)
            for seed, scores in grouped.items()
        }

    def fold(self, name: str) -> "Ensemble":
        """The pairs that left out one fold."""
        pairs = _group(self.pairs, 1)[name]
        return dataclasses.replace(self, pairs=pairs)

    def _score(self, seed: str, inputs: Inputs, batch_size: int) -> dict[str, Scores]:
        arrays = score(self.pairs[seed], inputs, batch_size=batch_size)
        kind = decision(self.image_score, masked=inputs.has_foreground)
        return {name: self._scores(entry, kind) for name, entry in arrays.items()}

    def combine(self, by_seed: ScoresBySeed, *, masked: bool) -> dict[str, Scores]:
        """The ensemble's scores, from the scores of every pair."""
        if len(by_seed) == 1 and not _is_cross(by_seed):
            return next(iter(by_seed.values()))
        kind = decision(self.image_score, masked=masked)
        arrays = {
            seed: {
                name: {"map": jnp.asarray(own.maps), "mean": jnp.asarray(own.mean)}
                for name, own in scores.items()
            }
            for seed, scores in by_seed.items()
        }
        combined = {}
        for name in NETWORKS:
            entry = jax.device_get(self.combine_network(arrays, name))
            combined[name] = self._scores(entry, kind)
            if "max_by_fold" in entry:
                combined[name] = dataclasses.replace(
                    combined[name],
                    by_fold=entry[f"{kind}_by_fold"],
                    maximum_by_fold=entry["max_by_fold"],
                )
        return combined

    def combine_network(
        self, by_seed: Mapping[str, ArraysOfNetworks], network: str
    ) -> ScoreArrays:
        """One network's map and image scores, from every pair's; may be traced.

        With several folds each is the mean over folds, and "max_by_fold" and
        "mean_by_fold" [n, k] are added.

        Args:
          by_seed: the results of `pair.pair_scores`, for every seed.
          network: "student" or "teacher".
        """
        folds = _group(by_seed, 1)
        if len(folds) > 1:
            return _average(
                [self.combine_network(fold, network) for fold in folds.values()]
            )
        if not self.scales:
            return next(iter(by_seed.values()))[network]
        maps, means = [], []
        for seed, scores in by_seed.items():
            scale, own = self.scales[seed][network], scores[network]
            maps.append((own["map"] - scale.map_mean) / scale.map_std)
            means.append((own["mean"] - scale.mean_mean) / scale.mean_std)
        mean_map = sum(maps) / len(maps)
        finest = mean_map
        if network == "student":
            finest = scoring.upsample(mean_map, self.reading.smoothing)
        mean = sum(means) / len(means)
        return {"map": mean_map, "mean": mean} | self.reading.read(finest)

    def standardise(self, value: float) -> float:
        """Converts a single pair's map value to the units of the ensemble's map."""
        scales = [scale["student"] for scale in self.scales.values()]
        values = [(value - scale.map_mean) / scale.map_std for scale in scales]
        return float(np.mean(values)) if values else value

    def score(self, inputs: Inputs, batch_size: int) -> dict[str, Scores]:
        """The ensemble's scores of all inputs, by network."""
        by_seed = self.score_by_member(inputs, batch_size)
        return self.combine(by_seed, masked=inputs.has_foreground)

    def _scores(self, arrays: Mapping[str, np.ndarray], kind: str) -> Scores:
        return Scores.from_arrays(arrays, kind, self.reading)


def _group(by_member: Mapping[str, T], which: int) -> dict[str, dict[str, T]]:
    """Groups members' values by seed (0) or by fold (1); with split the fold is ""."""
    groups: dict[str, dict[str, T]] = {}
    for member, value in by_member.items():
        groups.setdefault(seed_and_fold(member)[which], {})[member] = value
    return groups


def _is_cross(by_member: Mapping[str, object]) -> bool:
    return any(seed_and_fold(member)[1] for member in by_member)


def _average(folds: list[ScoreArrays]) -> ScoreArrays:
    """The mean of every array over the folds, and every fold's image scores."""
    mean = {name: sum(one[name] for one in folds) / len(folds) for name in folds[0]}
    each = {
        f"{name}_by_fold": jnp.stack([one[name] for one in folds], -1)
        for name in folds[0]
        if name not in ("map", "groups")
    }
    return mean | each


def fit_units(pair: Pair, good: Inputs, batch_size: int) -> scoring.Units:
    """The units of a pair's groups, over the foreground of good images."""
    groups = score(pair, good, batch_size=batch_size)["student"]["groups"]
    return distance_units(groups, good, batch_size, pair.reading)


def distance_units(
    groups: Float[np.ndarray, "n h w g"],
    good: Inputs,
    batch_size: int,
    reading: scoring.Reading,
) -> scoring.Units:
    """Returns the units of the images' distances, over their foreground."""
    weights = [
        good.take(np.arange(first, min(first + batch_size, len(good))))["foreground"]
        for first in range(0, len(good), batch_size)
    ]
    return scoring.Units.of(groups, np.concatenate(weights), reading.border_units)
