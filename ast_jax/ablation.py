"""The ablation: trains variants of one configuration and compares them in a table.

DIR/<variant>/       an ordinary run
DIR/ablation.md      the table, in ablation.json too (`report/ablation.py`)

The first rows are two baselines on the configuration's own features. Training pays if a
variant beats both (`evaluation/baselines.py`). The paper's Table 5 compares the two
kinds of pair, and its Table 6 the inference times.
"""

import dataclasses
import re
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from ast_jax import scoring
from ast_jax.backbones.choice import with_backbone
from ast_jax.config import flatten, validate
from ast_jax.errors import UserError
from ast_jax.evaluation.baselines import Baseline, baseline_figures, fit_baselines
from ast_jax.evaluation.results import mean_over_categories
from ast_jax.features.category import open_categories
from ast_jax.files import expand_home, write_errors
from ast_jax.inference.pair import NETWORKS, Pair, Scorer, load_pair
from ast_jax.pipeline import train_and_evaluate
from ast_jax.precision import multiply_at
from ast_jax.report.ablation import ROUNDS, TEACHER_ALONE, Row, table, write_table
from ast_jax.run import Run
from ast_jax.training.progress import read_rows, write_rows

_OTHER_KEYS = {  # network → sections that its training does not depend on
    "teacher": ("student.", "evaluation."),
    "student": ("evaluation.",),
}
_CURVES = "metrics.jsonl"


def ablate(config: ConfigDict, workdir: str | Path) -> list[Row]:
    """Trains, evaluates and times every variant; continues an unfinished ablation.

    It writes the table after every variant. It measures the times after all trainings.

    Raises:
      UserError: the user can correct the cause.
    """
    if jax.process_count() > 1:
        raise UserError("variants are trained by a single process; omit --multihost.")
    directory = expand_home(workdir).absolute()
    configs = variants(config)
    rows, fitted = _baselines(config, directory)
    runs: dict[str, Run] = {}
    for name, changes in config.variants:
        logging.info("Variant %s.", name)
        share_networks(configs[name], directory / name, runs.values())
        results = train_and_evaluate(configs[name], directory / name)
        sizes = _parameters(_first_pair(Run.open(directory / name)))
        if not runs:
            teacher, size = results["teacher"], sizes["teacher"]
            rows.append(_row(TEACHER_ALONE, teacher, parameters=size))
        rows.append(_row(name, results, changes, sum(sizes.values())))
        runs[name] = Run.open(directory / name)
        write_table(directory, rows, config)
    logging.info("Measuring inference times.")
    times = milliseconds(runs, fitted, (1, config.train.batch_size))
    rows = [dataclasses.replace(row, milliseconds=times[row.name]) for row in rows]
    write_table(directory, rows, config)
    print(table(rows).markdown())
    return rows


def _row(
    name: str,
    results: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    parameters: int | None = None,
) -> Row:
    """Returns a row, from the tree of `results.json` or from the teacher's part."""
    figures = {"figures": results["mean"], "categories": results["categories"]}
    return Row(name, dict(changes or {}), parameters=parameters, **figures)


def _baselines(config: ConfigDict, directory: Path) -> tuple[list[Row], list[Baseline]]:
    """Returns the baselines' rows, and the first category's baselines for the times.

    They use the features of the configuration without a variant's changes.
    """
    plain = ConfigDict({k: v for k, v in config.to_dict().items() if k != "variants"})
    run = Run.find(directory / config.variants[0][0])
    plain = with_backbone(plain, run)
    with multiply_at(plain.train.precision):
        figures: dict[str, dict[str, dict]] = {}
        first: list[Baseline] = []  # of one category, because baselines are large
        for category in open_categories(plain, run):
            fitted = fit_baselines(category)
            first = first or list(fitted)
            for baseline in fitted:
                logging.info("%s: %s.", category.name, baseline.name)
                mine = figures.setdefault(baseline.name, {})
                mine[category.name] = baseline_figures(baseline, category)
    rows = [
        _row(name, {"categories": each, "mean": mean_over_categories(each)})
        for name, each in figures.items()
    ]
    return rows, first


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the ordinary configuration of each variant of an ablation, by name.

    `config.variants` holds (name, {"section.key": value}) pairs beside the usual keys.

    Raises:
      UserError: a name cannot be a folder's or occurs twice, a key does not exist, or a
        value has another type or is out of range.
    """
    tree = config.to_dict()
    pairs = tree.pop("variants")
    found: dict[str, ConfigDict] = {}
    for pair in pairs:
        try:
            name, changes = pair
            variant = ConfigDict(tree).lock()
            variant.update_from_flattened_dict(changes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error.args[0]).split())
            raise UserError(f"variants: {pair!r}: {reason}") from error
        if not re.fullmatch(r"\w[\w.-]*", str(name)) or name in found:
            raise UserError(
                f"variants: {name!r} must be a folder's name (letters, digits, _, -) "
                "and occur once."
            )
        validate(variant)
        found[name] = variant
    if not found:
        raise UserError("variants: there must be at least one.")
    return found


def share_networks(
    config: ConfigDict, directory: Path, earlier: Collection[Run]
) -> None:
    """Copies the networks of earlier runs whose training would not differ.

    Another training with the same seed and order of images would give the same
    parameters. It keeps a network that is already in `directory`.

    Raises:
      UserError: `directory` has a run with another configuration, or it cannot be
        written.
    """
    for network in _OTHER_KEYS:
        mine = _settings(config, network)
        twins = (run for run in earlier if _settings(run.config, network) == mine)
        if twin := next(twins, None):
            _share(network, twin, Run.create(directory, config))


def _share(network: str, twin: Run, run: Run) -> None:
    """Copies a network of all of a run's pairs to another run."""
    with run.lock():
        for category in twin.categories():
            for member in twin.members(category):
                target = run.seed_directory(category, member)
                with write_errors(target):
                    _copy_network(
                        network, twin.seed_directory(category, member), target
                    )


def _settings(config: ConfigDict, network: str) -> dict[str, Any]:
    """Returns the keys that a network's training depends on, by name."""
    flat = flatten(config.to_dict())
    others = _OTHER_KEYS[network]
    return {key: flat[key] for key in flat if not key.startswith(others)}


def _copy_network(network: str, source: Path, target: Path) -> None:
    """Copies a network's checkpoints, whole or not at all, and its training curve."""
    if (target / network).exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read_rows(target / _CURVES) if row["stage"] != network]
    curve = [row for row in read_rows(source / _CURVES) if row["stage"] == network]
    write_rows(target / _CURVES, kept + curve)
    temporary = target / f".{network}"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source / network, temporary)
    temporary.replace(target / network)


def milliseconds(
    runs: Mapping[str, Run], fitted: Sequence[Baseline], batch_sizes: Iterable[int]
) -> dict[str, dict[int, float]]:
    """Returns each row's time per image from features to score maps, on one device.

    The functions are compiled and warm. The time is the median of `ROUNDS` rounds in
    which the rows take turns, so that other work on the machine slows all of them.
    """
    pairs = {name: _first_pair(run) for name, run in runs.items()}
    first = next(iter(pairs.values()))
    # name → function, its pair or baseline, the shape of a part's features
    rows = {one.name: (one.compiled, one, one.shape) for one in fitted}
    rows[TEACHER_ALONE] = (_likelihood(first), first, _shape(first))
    rows |= {name: (pair.compiled, pair, _shape(pair)) for name, pair in pairs.items()}
    times: dict[str, dict[int, float]] = {}
    for batch_size in batch_sizes:
        calls = {name: _call(*row, batch_size) for name, row in rows.items()}
        for name, seconds in median_seconds(calls, ROUNDS).items():
            times.setdefault(name, {})[batch_size] = 1e3 * seconds / batch_size
    return times


def _likelihood(pair: Pair) -> Callable:
    """Compiles the teacher's own scores; `pair.compiled` has those of both networks."""

    def scores(variables: dict, x: jax.Array, foreground: jax.Array) -> dict:
        z, log_det = pair.teacher.apply(variables["teacher"], x)
        return scoring.teacher_scores(z, log_det, foreground)

    return jax.jit(scores)


def _shape(pair: Pair) -> tuple[int, int, int]:
    """Returns the shape of a part's features."""
    return pair.teacher.height, pair.teacher.width, pair.teacher.channels


def _call(
    function: Callable, scorer: Scorer, part: tuple[int, int, int], batch_size: int
) -> Callable[[], Any]:
    """Returns a call that scores one batch of random features."""
    shape = (batch_size, *part)
    x, foreground = jax.random.normal(jax.random.key(0), shape), jnp.ones(shape[:3])
    arguments = jax.device_put((scorer.variables, x, foreground), jax.devices()[0])
    return lambda: jax.block_until_ready(function(*arguments))


def median_seconds(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """Returns the median time of each call over rounds in which they take turns."""
    for call in calls.values():
        call()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _first_pair(run: Run) -> Pair:
    return load_pair(run, run.categories()[0], run.config.train.seeds[0])


def _parameters(pair: Pair) -> dict[str, int]:
    """Returns each network's number of parameters."""
    return {
        network: sum(
            leaf.size for leaf in jax.tree.leaves(pair.variables[network]["params"])
        )
        for network in NETWORKS
    }
