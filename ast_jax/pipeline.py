"""The story of a run: from a folder of pictures to networks, decisions and a report.

Read `train_and_evaluate` first. What it opens is passed on from room to room, so that
the data set is opened, and the backbone's weights are read, once.
"""

from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from ast_jax import backbones, data
from ast_jax.backbones.choice import with_backbone
from ast_jax.backbones.run_weights import with_weights
from ast_jax.config import uses_backbone, validate
from ast_jax.data.depth_options import DepthOptions
from ast_jax.evaluation.map_files import write_maps
from ast_jax.evaluation.results import Evaluation, evaluate_scores, results_tree
from ast_jax.features.category import Category
from ast_jax.files import write_json
from ast_jax.inference.category import calibrate_category, score_test_images
from ast_jax.inference.oddest import oddest_good_parts, oddest_of
from ast_jax.parallel import DATA_AXIS, barrier, is_main, main_first, task_mesh
from ast_jax.precision import multiplied_at
from ast_jax.report.report import write_report
from ast_jax.run import Run, locked
from ast_jax.training.folds import members
from ast_jax.training.pairs import begin_pair, train_pairs
from ast_jax.training.progress import check_tensorboard


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, profile: bool = False
) -> dict[str, Any]:
    """Trains a run and evaluates it; a run that stands already is continued.

    Args:
      config: of the run.
      workdir: its folder.
      profile: whether to write a trace of some steps to its subfolder `profile`.

    Returns:
      The tree of `results.json`.

    Raises:
      UserError: anything that the user can put right.
      SystemExit: the process was asked to stop, and has saved.
    """
    if config.train.tensorboard:
        check_tensorboard()
    before = _begun(workdir)
    config = with_backbone(config, before)
    with multiplied_at(config.train.precision):
        categories = open_categories(config, before)
        run = _train(config, workdir, categories, profile)
        return _evaluate(run, config, categories, recalibrate=True)


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> Run:
    """Trains every category and seed of a run, see `train_and_evaluate`."""
    if config.train.tensorboard:
        check_tensorboard()
    before = _begun(workdir)
    config = with_backbone(config, before)
    with multiplied_at(config.train.precision):
        categories = open_categories(config, before)
        return _train(config, workdir, categories, profile)


def evaluate(
    run: Run,
    config: ConfigDict | None = None,
    *,
    save_maps: bool = False,
    recalibrate: bool = False,
) -> dict[str, Any]:
    """Evaluates a trained run; returns the tree of `results.json`.

    A calibration that the run has stays, also where the images are others now.

    Args:
      run: a trained run.
      config: the run's own by default; another one may say where the data lie now.
      save_maps: whether to write every test image's score map below DIR/maps.
      recalibrate: whether to take a new threshold, from the images as they are now.

    Raises:
      UserError: a category is not trained, its data or checkpoints are damaged, or
        another process works in the run's folder.
    """
    config = config or run.config
    with multiplied_at(config.train.precision):
        categories = open_categories(config, run)
        return _evaluate(
            run, config, categories, save_maps=save_maps, recalibrate=recalibrate
        )


def open_categories(config: ConfigDict, run: Run | None = None) -> list[Category]:
    """Opens the configured data and the backbone; nothing is written to a run.

    Args:
      config: the configuration.
      run: the run whose training has begun, which recorded how pictures are read.

    Raises:
      UserError: whatever is wrong with the configuration, the data set or the
        backbone's weights.
    """
    validate(config)
    # Before the backbone, whose weights may have to be fetched.
    names = _names(config, run)
    backbone = None
    if uses_backbone(config):
        size = config.dataset.image_size
        section = with_weights(config.backbone, run) if run else config.backbone
        taps = config.features.taps
        backbone = backbones.create(section, image_size=size, taps=taps)
    options = {"mode": config.mode, "depth_options": DepthOptions.from_config(config)}

    def opened(name: str) -> Category:
        recorded = run.reading(name) if run else {}
        parts = data.load(config.dataset, name, **recorded, **options)
        return Category(name, parts, backbone, config)

    # What one process prepares in a shared folder, the others find there.
    return main_first(lambda: [opened(name) for name in names])


def _names(config: ConfigDict, run: Run | None) -> tuple[str, ...]:
    """The categories; a run keeps its own name of a folder that was renamed."""
    names = data.categories(config.dataset)
    trained = run.categories() if run else ()
    free = data.builder_class(config.dataset.name).ANY_NAME
    if free and not config.dataset.categories and len(trained) == 1:
        if trained != names:
            logging.info("The parts in %s are the run's %r.", names[0], trained[0])
        return trained
    return names


def _begun(workdir: str | Path) -> Run | None:
    """The run that stands in a folder already."""
    stands = Path(workdir, "config.json").exists()
    return Run.open(workdir) if stands else None


def _train(
    config: ConfigDict, workdir: str | Path, categories: list[Category], profile: bool
) -> Run:
    """Features, then every category's, seed's and fold's teacher and student."""
    names = [(category, name) for category in categories for name in members(category)]
    mesh = task_mesh(len(names), config.train.batch_size)
    with locked(workdir):
        run = Run.create(workdir, config)
        pairs = [
            begin_pair(run, category, name, mesh.shape[DATA_AXIS])
            for category, name in names
        ]
        traces = run.directory / "profile" if profile else None
        train_pairs(pairs, config, mesh, traces)
    barrier("trained")
    return run


def _evaluate(
    run: Run,
    config: ConfigDict,
    categories: list[Category],
    *,
    recalibrate: bool,
    save_maps: bool = False,
) -> dict[str, Any]:
    """Every category's threshold and figures, then results and report."""
    evaluations = []
    with run.locked():
        for category in categories:
            logging.info("%s: evaluating.", category.name)
            evaluation = evaluate_category(run, category, recalibrate=recalibrate)
            evaluations.append(evaluation)
            if save_maps and is_main():
                write_maps(run.directory / "maps", evaluations[-1])
        results = results_tree(config, evaluations)
        if is_main():
            write_json(run.directory / "results.json", results)
            write_report(run, evaluations, results)
    logging.info("Done: %s.", run.directory / "report" / "index.html")
    return results


def evaluate_category(
    run: Run, category: Category, *, recalibrate: bool = False
) -> Evaluation:
    """Calibrates a category and computes its figures, over the run's seeds.

    Without test images there are no figures, only a calibration; the one that the run
    has stays, unless `recalibrate`.

    Raises:
      UserError: there is no trained pair.
    """
    ensemble, calibration, left_out = calibrate_category(
        run, category, keep=not recalibrate
    )
    scores = score_test_images(ensemble, category)
    parts = category.parts["test"]
    kinds = data.builder_class(category.config.dataset.name).KINDS
    figures = evaluate_scores(parts, scores, kinds)
    splits = {
        split: parts.summary
        for split, parts in category.parts.items()
        if len(parts) or parts.notes
    }
    if left_out.parts and calibration is not None:
        oddest = oddest_of(left_out, calibration)
    else:
        oddest = oddest_good_parts(run, category, ensemble)
    evaluation = Evaluation(
        *(category.name, parts, scores.combined, figures, calibration),
        oddest=oddest,
        splits=splits,
        left_out=left_out,
    )
    if odd := evaluation.odd_parts:
        logging.warning(
            "%s: %d good images stand out; look at them before you trust the threshold "
            "(dataset.exclude leaves images out): %s",
            *(category.name, len(odd), ", ".join(odd)),
        )
    return evaluation
