"""An ablation's table: the baselines and the variants.

DIR/ablation.json    the table's content, and each row's figures
DIR/ablation.md      the table, and a line for every loss of a variant to a baseline
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ast_jax.files import write_json, write_text
from ast_jax.report.provenance import facts, settings
from ast_jax.report.tables import DASH, LABELS, Cell, Table, cell, percent
from ast_jax.run import Run

TEACHER_ALONE = "teacher alone"
ROUNDS = 11
_TIMES = f"""\
Times: from features to score maps of teacher and student, on one device, compiled;
median of {ROUNDS} rounds in which the rows take turns.
"""
_FIGURES = ("image_auroc", "pixel_auroc_192", "au_pro_0.3", "au_pro_0.01")
_NO_LOSS = "No variant loses to a baseline in these figures."


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: the variant's or the baseline's, or TEACHER_ALONE.
      changes: what the variant changes, by key.
      figures: their means over the categories, as in `results.json`.
      parameters: of the networks that the score needs; None for a baseline.
      milliseconds: batch size → time per image; empty until it is measured.
      categories: each category's figures, as in `results.json`.
    """

    name: str
    changes: dict[str, Any]
    figures: dict[str, Any]
    parameters: int | None
    milliseconds: dict[int, float] = dataclasses.field(default_factory=dict)
    categories: dict[str, dict] = dataclasses.field(default_factory=dict)


def table(rows: Sequence[Row]) -> Table:
    """Returns the table that is printed: figures in per cent, parameters, times."""
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
    size = row.parameters
    return (
        Cell(changed or DASH),
        *(cell(row.figures, key) for key in _FIGURES),
        Cell(DASH if size is None else f"{size / 1e6:.3g}"),
        *(Cell(f"{row.milliseconds[batch]:.3g}") for batch in batch_sizes),
    )


def losses(rows: Sequence[Row]) -> list[str]:
    """Returns a line for every category in which a variant is worse than a baseline.

    It compares figures as the table shows them, so that none loses to its equal.
    """
    baselines = [row for row in rows if row.parameters is None]
    variants = [row for row in rows if row.parameters is not None]
    lines = []
    for row, other in itertools.product(variants, baselines):
        for category, figures in row.categories.items():
            better = other.categories[category]
            worse = [
                f"{LABELS[key]} {percent(figures[key])} < {percent(better[key])}"
                for key in _FIGURES
                if _round(figures, key) < _round(better, key)
            ]
            if worse and row.name != TEACHER_ALONE:
                what = f"{row.name} loses to the {other.name} on {category}"
                lines.append(f"{what}: {', '.join(worse)}.")
    return lines


def _round(figures: dict[str, Any], key: str) -> float:
    """Rounds a figure as the table does; 0 if it is missing (then for both rows)."""
    return round(100 * (figures.get(key) or 0.0), 1)


def write_table(directory: Path, rows: Sequence[Row], config: ConfigDict) -> None:
    """Writes DIR/ablation.json and DIR/ablation.md.

    Raises:
      UserError: the folder cannot be written.
    """
    categories = ", ".join(config.dataset.categories) or "all categories"
    dataset = f"{config.dataset.name} ({categories}), {config.mode}"
    lost = losses(rows)
    tree = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "loses": lost,
        "settings": f"{dataset}; {settings(config)}",
        "facts": facts(Run(directory, config)),
    }
    write_json(directory / "ablation.json", tree)
    paragraphs = [
        f"{tree['settings']}; figures in per cent.\n",
        table(rows).markdown(),
        "\n".join(f"* {line}" for line in lost or [_NO_LOSS]) + "\n",
        _TIMES if any(row.milliseconds for row in rows) else "",
        "; ".join(f"{name}: {value}" for name, value in tree["facts"].items()) + "\n",
    ]
    write_text(directory / "ablation.md", "\n".join(filter(None, paragraphs)))
