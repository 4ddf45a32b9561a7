"""The story of a run: from a folder of pictures to networks, decisions and a report.

Read `train_and_evaluate` first. Every room gets the open categories from there, so that
the data set is opened once, and the backbone's weights are read once.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from ast_jax.backbones.choice import with_backbone
from ast_jax.evaluation.category import evaluate_category
from ast_jax.evaluation.map_files import write_maps
from ast_jax.evaluation.results import Evaluation, results_tree
from ast_jax.features.category import Category, open_categories
from ast_jax.files import write_json
from ast_jax.parallel import is_main
from ast_jax.precision import multiply_at
from ast_jax.report.report import write_report
from ast_jax.run import Run
from ast_jax.training.pairs import train_categories
from ast_jax.training.progress import check_tensorboard


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, profile: bool = False
) -> dict[str, Any]:
    """Trains a run and evaluates it; continues a run that exists.

    Args:
      config: of the run.
      workdir: its folder.
      profile: whether to write a trace of some steps to its subfolder `profile`.

    Returns:
      The tree of `results.json`.

    Raises:
      UserError: anything that the user can correct.
      SystemExit: the process was asked to stop; it has saved its state.
    """
    with _open(config, workdir) as (config, categories):
        run = train_categories(config, workdir, categories, profile=profile)
        with run.lock():
            evaluations = _evaluate(run, categories, recalibrate=True)
            return _report(run, config, evaluations)


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> Run:
    """Trains every category and seed of a run, see `train_and_evaluate`."""
    with _open(config, workdir) as (config, categories):
        return train_categories(config, workdir, categories, profile=profile)


def evaluate(
    run: Run,
    config: ConfigDict | None = None,
    *,
    save_maps: bool = False,
    recalibrate: bool = False,
) -> dict[str, Any]:
    """Evaluates a trained run; returns the tree of `results.json`.

    Keeps the run's calibration if it has one, even if the images have changed, unless
    `recalibrate` asks for a new one.

    Args:
      run: a trained run.
      config: the run's own by default; another one may name a new place of the data.
      save_maps: whether to write every test image's score map below DIR/maps.
      recalibrate: whether to take a new threshold, from the images as they are now.

    Raises:
      UserError: a category is not trained, its data or checkpoints are damaged, or
        another process works in the run's folder.
    """
    config = config or run.config
    with multiply_at(config.train.precision):
        categories = open_categories(config, run)
        with run.lock():
            evaluations = _evaluate(run, categories, recalibrate, save_maps)
            return _report(run, config, evaluations)


@contextlib.contextmanager
def _open(
    config: ConfigDict, workdir: str | Path
) -> Iterator[tuple[ConfigDict, list[Category]]]:
    """The complete configuration of a training, and its categories."""
    if config.train.tensorboard:
        check_tensorboard()
    run = Run.find(workdir)
    config = with_backbone(config, run)
    with multiply_at(config.train.precision):
        yield config, open_categories(config, run)


def _evaluate(
    run: Run,
    categories: Sequence[Category],
    recalibrate: bool,
    save_maps: bool = False,
) -> list[Evaluation]:
    """Every category's threshold and figures."""
    evaluations = []
    for category in categories:
        logging.info("%s: evaluating.", category.name)
        evaluation = evaluate_category(run, category, recalibrate=recalibrate)
        evaluations.append(evaluation)
        if save_maps and is_main():
            write_maps(run.directory / "maps", evaluation)
    return evaluations


def _report(
    run: Run, config: ConfigDict, evaluations: list[Evaluation]
) -> dict[str, Any]:
    """Writes `results.json` and the report; returns the results."""
    results = results_tree(config, evaluations)
    if is_main():
        write_json(run.directory / "results.json", results)
        write_report(run, evaluations, results)
    logging.info("Done: %s.", run.directory / "report" / "index.html")
    return results
