"""Evaluates a run: calibrates every category on held-out good images, computes the
figures of `results.json`, and writes the report.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tifffile
from absl import logging
from ml_collections import ConfigDict

from ast_jax import data
from ast_jax.data.part import Parts
from ast_jax.errors import UserError
from ast_jax.evaluation import numbers
from ast_jax.evaluation.published import published
from ast_jax.features.inputs import Inputs
from ast_jax.inference import calibration_file
from ast_jax.inference.calibration import Calibration, calibrate
from ast_jax.inference.ensemble import NETWORKS, Ensemble, Scores, ScoresBySeed
from ast_jax.inference.score_map import map_at
from ast_jax.parallel import is_main
from ast_jax.report.report import write_report
from ast_jax.run import Run, write_json
from ast_jax.training.train import Category, open_categories


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What was found out about one category.

    Attributes:
      name: the category's.
      parts: its test images; maybe none.
      scores: network → the test images' scores; with several seeds the ensemble's.
      figures: network → the figures that stand in `results.json`.
      calibration: from held-out good images; None without any.
    """

    name: str
    parts: Parts
    scores: dict[str, Scores]
    figures: dict[str, dict]
    calibration: Calibration | None


def evaluate(
    run: Run, config: ConfigDict | None = None, *, save_maps: bool = False
) -> dict[str, Any]:
    """Scores the test images of every category; returns what is in `results.json`.

    Args:
      run: a trained run.
      config: the run's own by default; another one may say where the data lie now.
      save_maps: whether to write every test image's score map below DIR/maps.

    Raises:
      UserError: a category is not trained, its data or checkpoints are damaged, or
        another process works in the run's folder.
    """
    config = config or run.config
    categories = open_categories(config)
    evaluated = []
    with run.locked():
        for category in categories:
            logging.info("%s: evaluating.", category.name)
            evaluated.append(evaluate_category(run, category))
            if save_maps and is_main():
                write_maps(run, evaluated[-1])
        results = results_tree(config, evaluated)
        write_json(run.directory / "results.json", results)
        if is_main():
            write_report(run, evaluated, results)
    logging.info("Done: %s.", run.directory / "report" / "index.html")
    return results


def evaluate_category(run: Run, category: Category) -> Evaluated:
    """All figures of one category, over the run's seeds.

    Without test images there are no figures, only a calibration.

    Raises:
      UserError: there is no trained pair.
    """
    parts, config = category.parts["test"], category.config
    ensemble, calibration = calibrate_category(run, category)
    inputs = category.inputs("test")
    if len(inputs):
        by_seed = ensemble.score_by_seed(inputs, config.train.batch_size)
        scores = ensemble.combine(by_seed, masked=inputs.masked)
    else:
        scores = dict.fromkeys(NETWORKS, _no_scores(inputs.side))
        by_seed = dict.fromkeys(config.train.seeds, scores)
    kinds = data.builder_class(config.dataset.name).KINDS
    figures = {
        name: _figures_of_seeds(parts, by_seed, scores[name], name, kinds)
        for name in NETWORKS
    }
    return Evaluated(category.name, parts, scores, figures, calibration)


def calibrate_category(
    run: Run, category: Category
) -> tuple[Ensemble, Calibration | None]:
    """Calibrates on good images that training left out; writes `calibration.json`.

    They are the publisher's validation split, or the fraction that training held out.
    """
    config = category.config
    batch_size, seeds = config.train.batch_size, config.train.seeds
    train = category.inputs("train")
    at = {part_id: row for row, part_id in enumerate(category.parts["train"].ids)}

    def rows(seed: int, key: str) -> Inputs:
        ids = run.read_inputs(category.name, seed)[key]
        if missing := sorted(set(ids) - at.keys()):
            raise UserError(
                f"{category.name}: {missing[0]} was trained on and is not in "
                f"{config.dataset.root} any more; put it back."
            )
        return train.select([at[part_id] for part_id in ids])

    for seed in seeds:
        backbone = category.backbone and category.backbone.fingerprint
        run.check_inputs(category.name, seed, {"backbone": backbone})

    ensemble = Ensemble.load(run, category.name).scaled_by(
        {seed: rows(seed, "train") for seed in seeds}, batch_size
    )
    held_out = rows(seeds[0], "held_out")
    if len(category.parts["validation"]):
        held_out = category.inputs("validation")
    calibration = None
    if len(held_out):
        scores = ensemble.score(held_out, batch_size)["student"]
        calibration = calibrate(scores.image, scores.maximum, config.calibration.alpha)
    calibration_file.write(run, category.name, calibration, ensemble.scales)
    return ensemble, calibration


def write_maps(run: Run, evaluated: Evaluated) -> None:
    """Writes DIR/maps/<category>/test/<defect>/<id>.tiff, as MVTec's scripts read.

    Each is float32 and has its image's own size.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = run.directory / "maps" / evaluated.name
    for part, score_map in zip(
        evaluated.parts, evaluated.scores["student"].maps, strict=True
    ):
        path = folder / f"{part.id}.tiff"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, map_at(score_map, part.size))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}).") from error


def _no_scores(side: int) -> Scores:
    none = np.zeros(0, np.float32)
    return Scores(np.zeros((0, side, side), np.float32), none, none, none)


def _figures_of_seeds(
    parts: Parts,
    by_seed: ScoresBySeed,
    combined: Scores,
    network: str,
    kinds: Mapping[str, str] = numbers.NO_KINDS,
) -> dict[str, Any]:
    """One seed's figures; of several their mean, beside std, seeds and ensemble."""
    seeds = {
        str(seed): numbers.figures(parts, scores[network], kinds)
        for seed, scores in by_seed.items()
    }
    if len(seeds) == 1:
        return next(iter(seeds.values()))
    return summary(seeds) | {"ensemble": numbers.figures(parts, combined, kinds)}


def summary(seeds: dict[str, dict]) -> dict[str, Any]:
    """Mean figures of several seeds, their deviation (n − 1) and every seed's own."""
    mean = numbers.mean_figures(list(seeds.values()))
    std = {
        name: float(np.std([figures[name] for figures in seeds.values()], ddof=1))
        for name, value in mean.items()
        if value is not None
    }
    first = next(iter(seeds.values()))  # they were all scored on the same images
    said = {key: first[key] for key in ("reasons", "notes") if key in first}
    return {**mean, "std": std, "seeds": seeds, **said}


def results_tree(config: ConfigDict, evaluated: list[Evaluated]) -> dict[str, Any]:
    """What `results.json` holds: fractions, and null where a metric does not exist."""

    def of(network: str) -> dict[str, Any]:
        categories = {
            category.name: category.figures[network] for category in evaluated
        }
        return {"categories": categories, "mean": mean_over_categories(categories)}

    paper = published(config.dataset.name, config.mode)
    return {**of("student"), "teacher": of("teacher"), "paper": paper}


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
