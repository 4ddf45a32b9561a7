"""The figures of a run, by category, seed and network: the tree of `results.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ast_jax.data.part import Parts
from ast_jax.evaluation import numbers
from ast_jax.evaluation.published_results import published_results
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.category import CategoryScores, LeftOut
from ast_jax.inference.ensemble import Scores, ScoresBySeed
from ast_jax.inference.odd_parts import odd_parts
from ast_jax.inference.oddest import OddestParts
from ast_jax.inference.pair import NETWORKS


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One category's scores and figures.

    Attributes:
      name: of the category.
      parts: its test images; may be empty.
      scores: network → the test images' scores; with several seeds the ensemble's.
      figures: network → figures, as in `results.json`.
      calibration: from left-out good images; None without any.
      oddest: the good parts with the highest scores, or None.
      splits: split → a line about its parts and the ignored files.
      left_out: the good images that training left out, and their scores.
    """

    name: str
    parts: Parts
    scores: dict[str, Scores]
    figures: dict[str, dict]
    calibration: Calibration | None
    oddest: OddestParts | None = None
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: LeftOut | None = None

    @property
    def odd_parts(self) -> list[str]:
        """The good images that stand out among the left-out ones, the oddest first."""
        if self.left_out is None:
            return []
        parts, scores = self.left_out
        return [parts.ids[row] for row in odd_parts(scores.image)]


def evaluate_scores(
    parts: Parts, scores: CategoryScores, kinds: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """All figures of one category: network → figures.

    Args:
      parts: the test images; without any there are no figures.
      scores: of the test images.
      kinds: short name → defect type, of types that are measured apart.
    """
    return {
        name: _figures_of_seeds(
            parts, scores.by_seed, scores.combined[name], name, kinds
        )
        for name in NETWORKS
    }


def _figures_of_seeds(
    parts: Parts,
    by_seed: ScoresBySeed,
    combined: Scores,
    network: str,
    kinds: Mapping[str, str] = numbers.NO_KINDS,
) -> dict[str, Any]:
    """One seed's figures; for several seeds the mean, with std, seeds and ensemble."""
    seeds = {
        seed: numbers.figures(parts, scores[network], kinds)
        for seed, scores in by_seed.items()
    }
    if len(seeds) == 1:
        return next(iter(seeds.values()))
    return summary(seeds) | {"ensemble": numbers.figures(parts, combined, kinds)}


def summary(seeds: dict[str, dict]) -> dict[str, Any]:
    """Mean figures of several seeds, their deviation (n − 1), and every seed's own."""
    mean = numbers.mean_figures(list(seeds.values()))
    std = {
        name: float(np.std([figures[name] for figures in seeds.values()], ddof=1))
        for name, value in mean.items()
        if value is not None
    }
    first = next(iter(seeds.values()))  # all seeds have scored the same images
    texts = {key: first[key] for key in ("reasons", "notes") if key in first}
    return {**mean, "std": std, "seeds": seeds, **texts}


def results_tree(config: ConfigDict, evaluations: list[Evaluation]) -> dict[str, Any]:
    """The tree of `results.json`: fractions, and null for metrics that do not exist."""

    def tree(network: str) -> dict[str, Any]:
        categories = {
            category.name: category.figures[network] for category in evaluations
        }
        return {"categories": categories, "mean": mean_over_categories(categories)}

    paper = published_results(config.dataset.name, config.mode)
    splits = {category.name: dict(category.splits) for category in evaluations}
    return {
        **tree("student"),
        "teacher": tree("teacher"),
        "paper": paper,
        "data": splits,
        "odd_parts": {one.name: one.odd_parts for one in evaluations},
    }


def mean_over_categories(categories: dict[str, dict]) -> dict[str, Any]:
    """The mean over categories; with several seeds also of each seed, and their std."""
    rows = list(categories.values())
    mean = numbers.mean_figures(rows)
    if not all("seeds" in row for row in rows):
        return mean
    seeds = {
        seed: numbers.mean_figures([row["seeds"][seed] for row in rows])
        for seed in rows[0]["seeds"]
    }
    ensembles = numbers.mean_figures([row["ensemble"] for row in rows])
    return mean | {
        "std": summary(seeds)["std"],
        "seeds": seeds,
        "ensemble": ensembles,
    }
