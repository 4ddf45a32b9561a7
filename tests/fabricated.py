"""Evaluated runs without training, for the report."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from ast_jax.config import default
from ast_jax.data.part import GOOD, Entry, Part, Parts
from ast_jax.evaluation import results
from ast_jax.inference.calibration import calibrate
from ast_jax.inference.category import LeftOut
from ast_jax.inference.ensemble import Scores
from ast_jax.inference.oddest import OddestParts
from ast_jax.inference.score_map import map_at
from ast_jax.run import Run

SIDE = 8  # of the score maps


@dataclasses.dataclass(frozen=True)
class Made:
    """The arguments of `write_report`."""

    run: Run
    evaluations: list[results.Evaluation]
    results: dict


def made_up_run(
    directory: Path,
    categories: tuple[str, ...] = ("cable_gland",),
    *,
    defects: tuple[str, ...] = (GOOD, "bent", "hole"),
    each: int = 4,
    seeds: tuple[int, ...] = (0,),
    held_out: int = 19,
    **changes: object,
) -> Made:
    """A run whose detector sees most defects.

    Args:
      directory: the run's folder.
      categories: their names.
      defects: the kinds of test images.
      each: how many of each kind.
      seeds: of the pairs.
      held_out: good images to calibrate on.
      changes: of the parts; `image`, `z` or `masks` may be None.
    """
    config = default()
    config.dataset.categories = categories
    config.train.seeds = seeds
    config.calibration.alpha = 0.05
    if "z" in changes:
        config.mode = "rgb"
    run = Run.create(directory, config)
    evaluations = [
        _category(run, name, defects, each, held_out, changes) for name in categories
    ]
    return Made(run, evaluations, results.results_tree(config, evaluations))


def part(part_id: str, defect: str, size: tuple[int, int] = (48, 64)) -> Part:
    """A disc on a dark and more distant ground; a defect is a brighter square."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] / 2, x - size[1] / 2) < 0.4 * size[0]
    mask = np.zeros(size, bool)
    if defect != GOOD:
        mask[20:28, 30:40] = True
    image = np.where(disc, 150, 40) + 60 * mask
    z = np.where(disc, 0.45, 0.5) + 0.01 * mask
    z[0, :3] = 0  # missing
    return Part(
        part_id,
        defect,
        np.repeat(image[..., None], 3, axis=-1).astype(np.uint8),
        z.astype(np.float32),
        (mask,) if defect != GOOD else (),
    )


def _category(
    run: Run,
    name: str,
    defects: tuple[str, ...],
    each: int,
    held_out: int,
    changes: dict,
) -> results.Evaluation:
    kinds = [kind for kind in defects for _ in range(each)]
    digests = {} if "masks" in changes else {"masks": ""}
    entries = [Entry(f"test/{k}/{i:03d}", k, digests) for i, k in enumerate(kinds)]
    parts = Parts(
        entries,
        lambda i: dataclasses.replace(part(entries[i].id, kinds[i]), **changes),
    )
    labels = np.array([kind != GOOD for kind in kinds], bool)
    by_seed = {}
    for seed in run.config.train.seeds:
        rng = np.random.default_rng(seed)
        by_seed[str(seed)] = {n: _scores(rng, labels) for n in ("student", "teacher")}
        _log_training(run, name, seed)
    scores = by_seed[str(run.config.train.seeds[0])]
    figures = {
        network: results._figures_of_seeds(parts, by_seed, scores[network], network)
        for network in scores
    }
    good = _scores(np.random.default_rng(99), np.zeros(held_out, bool))
    calibration = calibrate(good.image, good.maximum, run.config.calibration.alpha)
    few = Parts(
        [Entry(f"train/good/{i:03d}", GOOD, {}) for i in range(3)],
        lambda i: dataclasses.replace(part(f"train/good/{i:03d}", GOOD), **changes),
    )
    odd = None
    if held_out:
        odd = OddestParts(few, good.select(np.arange(3)), held_out=True)
    ids = [f"train/good/{i:03d}" for i in range(held_out)]
    left_out = LeftOut(
        Parts([Entry(i, GOOD, {}) for i in ids], lambda i: part(ids[i], GOOD)), good
    )
    return results.Evaluation(
        name, parts, scores, figures, calibration, odd, left_out=left_out
    )


def _scores(rng: np.random.Generator, labels: np.ndarray) -> Scores:
    maps = rng.gamma(2.0, 0.3, (labels.size, SIDE, SIDE)).astype(np.float32)
    maps[:, 3:5, 4:5] += np.where(labels, rng.gamma(3, 1, labels.size), 0)[
        :, None, None
    ]
    maxima = np.array([map_at(m).max() for m in maps], np.float32)
    return Scores(maps, maxima, maps.mean((1, 2)), maxima)


def _log_training(run: Run, category: str, seed: int) -> None:
    run.write_record(category, seed, {"train": ["train/good/000"] * 20, "held_out": []})
    lines = [
        {"step": 2 * e, "stage": s, "epoch": e, "loss": start / e, "images/s": 40.0}
        for s, start in (("teacher", 300.0), ("student", 2.0))
        for e in range(1, 13)
    ]
    path = run.seed_directory(category, seed) / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
