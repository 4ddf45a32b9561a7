"""The paper's ablation: variants of one configuration, trained and set side by side.

DIR/<variant>/       an ordinary run
DIR/ablation.json    what the table shows, and each variant's mean figures
DIR/ablation.md      the table

The paper compares the two kinds of pair in its Table 5, inference times in its Table 6.
"""

import dataclasses
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from ast_jax import scoring
from ast_jax.config import flatten, validate
from ast_jax.errors import UserError
from ast_jax.files import expanded, write_errors, write_json, write_text
from ast_jax.inference.pair import Pair, load_pair
from ast_jax.pipeline import train_and_evaluate
from ast_jax.report.provenance import facts, settings
from ast_jax.report.tables import DASH, LABELS, Cell, Table, cell
from ast_jax.run import Run

TEACHER_ALONE = "teacher alone"
ROUNDS = 11
_TIMES = f"""\
Times: from features to score maps of teacher and student, on one device, compiled;
median of {ROUNDS} rounds in which the variants take turns.
"""
_FIGURES = ("image_auroc", "pixel_auroc_192", "au_pro_0.3")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: the variant's, or TEACHER_ALONE.
      changes: what the variant changes, by key.
      figures: their means over the categories, as in `results.json`.
      parameters: of the networks that the score needs.
      milliseconds: batch size → time an image; empty until it is measured.
    """

    name: str
    changes: dict[str, Any]
    figures: dict[str, Any]
    parameters: int
    milliseconds: dict[int, float] = dataclasses.field(default_factory=dict)


def ablate(config: ConfigDict, workdir: str | Path) -> list[Row]:
    """Trains, evaluates and times every variant; continues what is begun.

    The table is written after every variant; the times come last, when all are trained.

    Raises:
      UserError: anything that the user can put right.
    """
    if jax.process_count() > 1:
        raise UserError("variants are trained by a single process; omit --multihost.")
    directory = expanded(workdir).absolute()
    runs: dict[str, Run] = {}
    rows: list[Row] = []
    configs = variants(config)
    for name, changes in config.variants:
        logging.info("Variant %s.", name)
        share_teachers(configs[name], directory / name, runs.values())
        results = train_and_evaluate(configs[name], directory / name)
        runs[name] = Run.open(directory / name)
        sizes = _parameters(_first_pair(runs[name]))
        if not rows:
            figures = results["teacher"]["mean"]
            rows.append(Row(TEACHER_ALONE, {}, figures, sizes["teacher"]))
        rows.append(Row(name, changes, results["mean"], sum(sizes.values())))
        write_table(directory, rows, config)
    logging.info("Measuring inference times.")
    times = milliseconds(runs, (1, config.train.batch_size))
    rows = [dataclasses.replace(row, milliseconds=times[row.name]) for row in rows]
    write_table(directory, rows, config)
    print(table(rows).markdown())
    return rows


def variants(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the ordinary configuration of each variant of an ablation, by name.

    `config.variants` holds (name, {"section.key": value}) pairs beside the usual keys.

    Raises:
      UserError: a name that is no folder's or is there twice, a key that does not
        exist, a value of another type or out of range.
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
                "and be there once."
            )
        validate(variant)
        found[name] = variant
    if not found:
        raise UserError("variants: there must be at least one.")
    return found


def share_teachers(config: ConfigDict, directory: Path, earlier: Iterable[Run]) -> None:
    """Copies the teachers of a run that differs in its student alone.

    With the same seed and the same order of samples, training one again would give the
    same parameters. A teacher that stands in `directory` already is left.

    Raises:
      UserError: `directory` holds a run with another configuration, or it cannot be
        written.
    """
    mine = _teacher_settings(config)
    twins = (run for run in earlier if _teacher_settings(run.config) == mine)
    if (twin := next(twins, None)) is None:
        return
    run = Run.create(directory, config)
    with run.locked():
        for category in twin.categories():
            for seed in config.train.seeds:
                target = run.seed_directory(category, seed)
                with write_errors(target):
                    _copy_teacher(twin.seed_directory(category, seed), target)


def _teacher_settings(config: ConfigDict) -> dict[str, Any]:
    """All that a teacher depends on, and more: every key but the student's."""
    flat = flatten(config.to_dict())
    return {key: flat[key] for key in flat if not key.startswith("student.")}


def _copy_teacher(source: Path, target: Path) -> None:
    """Its checkpoints, whole or not at all, and the lines of its training curve."""
    if (target / "teacher").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    lines = (source / "metrics.jsonl").read_text().splitlines(keepends=True)
    curve = [line for line in lines if '"stage": "teacher"' in line]
    write_text(target / "metrics.jsonl", "".join(curve))
    temporary = target / ".teacher"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source / "teacher", temporary)
    temporary.replace(target / "teacher")


def milliseconds(
    runs: Mapping[str, Run], batch_sizes: Iterable[int]
) -> dict[str, dict[int, float]]:
    """The time an image of each row from features to score maps, on one device.

    Compiled and warmed up; the median of `ROUNDS` rounds in which the rows take turns,
    so that whatever else the machine does falls on all of them.
    """
    pairs = {name: _first_pair(run) for name, run in runs.items()}
    times: dict[str, dict[int, float]] = {name: {} for name in (TEACHER_ALONE, *pairs)}
    for batch_size in batch_sizes:
        first = next(iter(pairs.values()))
        calls = {TEACHER_ALONE: _call(_likelihood(first), first, batch_size)}
        for name, pair in pairs.items():
            calls[name] = _call(pair.compiled, pair, batch_size)
        for name, seconds in median_seconds(calls, ROUNDS).items():
            times[name][batch_size] = 1e3 * seconds / batch_size
    return times


def _likelihood(pair: Pair) -> Callable:
    """The teacher's own scores, compiled, as `pair.compiled` has those of both."""

    def scores(variables: dict, x: jax.Array, foreground: jax.Array) -> dict:
        z, log_det = pair.teacher.apply(variables["teacher"], x)
        return scoring.teacher_scores(z, log_det, foreground)

    return jax.jit(scores)


def _call(function: Callable, pair: Pair, batch_size: int) -> Callable[[], Any]:
    """A call that scores one batch of random features."""
    flow = pair.teacher
    shape = (batch_size, flow.height, flow.width, flow.channels)
    x, foreground = jax.random.normal(jax.random.key(0), shape), jnp.ones(shape[:3])
    arguments = jax.device_put((pair.variables, x, foreground), jax.devices()[0])
    return lambda: jax.block_until_ready(function(*arguments))


def median_seconds(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, float]:
    """The median time of each call over rounds in which they take turns."""
    for call in calls.values():
        call()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def table(rows: list[Row]) -> Table:
    """What is printed: figures in per cent, parameters, times."""
    batch_sizes = list(dict.fromkeys(size for row in rows for size in row.milliseconds))
    head = (
        "Changed",
        *(LABELS[key] for key in _FIGURES),
        "Parameters, million",
        *(f"ms an image, batch {size}" for size in batch_sizes),
    )
    return Table(
        head,
        tuple((row.name, _cells(row, batch_sizes)) for row in rows),
        has_mean=False,
    )


def _cells(row: Row, batch_sizes: list[int]) -> tuple[Cell, ...]:
    changed = ", ".join(f"{key}={value}" for key, value in row.changes.items())
    return (
        Cell(changed or DASH),
        *(cell(row.figures, key) for key in _FIGURES),
        Cell(f"{row.parameters / 1e6:.3g}"),
        *(Cell(f"{row.milliseconds[size]:.3g}") for size in batch_sizes),
    )


def write_table(directory: Path, rows: list[Row], config: ConfigDict) -> None:
    """Writes DIR/ablation.json and DIR/ablation.md.

    Raises:
      UserError: the folder cannot be written.
    """
    categories = ", ".join(config.dataset.categories) or "all categories"
    dataset = f"{config.dataset.name} ({categories}), {config.mode}"
    tree = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "settings": f"{dataset}; {settings(config)}",
        "facts": facts(Run(directory, config)),
    }
    write_json(directory / "ablation.json", tree)
    paragraphs = [
        f"{tree['settings']}; figures in per cent.\n",
        table(rows).markdown(),
        _TIMES if any(row.milliseconds for row in rows) else "",
        "; ".join(f"{name}: {value}" for name, value in tree["facts"].items()) + "\n",
    ]
    write_text(directory / "ablation.md", "\n".join(filter(None, paragraphs)))


def _first_pair(run: Run) -> Pair:
    return load_pair(run, run.categories()[0], run.config.train.seeds[0])


def _parameters(pair: Pair) -> dict[str, int]:
    """How many each network has."""
    return {
        network: sum(leaf.size for leaf in jax.tree.leaves(collections["params"]))
        for network, collections in pair.variables.items()
    }
