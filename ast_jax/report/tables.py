"""Tables of results, with published figures and their difference to ours.

The report's page and `results.md` show the same tables. Figures are per cent.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

DASH = "\N{EN DASH}"
LABELS = {
    "image_auroc": "Image AUROC",
    "image_auroc_max": "Image AUROC by maximum",
    "image_auroc_mean": "Image AUROC by mean",
    "image_ap": "Image AP",
    "image_f1_max": "Image best F1",
    "pixel_auroc_192": "Pixel AUROC at 192",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "pixel_f1_max": "Pixel best F1",
    "au_pro_0.3": "AU-PRO 30 %",
    "au_pro_0.1": "AU-PRO 10 %",
    "au_pro_0.05": "AU-PRO 5 %",
    "au_pro_0.01": "AU-PRO 1 %",
    "au_pro_0.01_100_thresholds": "AU-PRO 1 % (100 thresholds)",
    "au_spro_1.0": "AU-sPRO 100 %",
    "au_spro_0.3": "AU-sPRO 30 %",
    "au_spro_0.1": "AU-sPRO 10 %",
    "au_spro_0.05": "AU-sPRO 5 %",
    "au_spro_0.01": "AU-sPRO 1 %",
}
_MAIN = (
    *("image_auroc", "image_auroc_logical", "image_auroc_structural"),
    *("pixel_auroc_192", "pixel_auroc", "au_pro_0.3", "au_pro_0.01"),
    *("au_spro_0.05", "au_spro_0.05_logical", "au_spro_0.05_structural"),
)
_BESIDE = ("std", "seeds", "ensemble", "reasons", "notes")  # no figures


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure as text; the `tone` of a difference is "better" or "worse"."""

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of cells.

    Attributes:
      head: of the columns.
      rows: (name, cells).
      has_mean: whether the last row is the mean of the others.
      compares: whether it has published figures.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    has_mean: bool
    compares: bool = False

    def markdown(self) -> str:
        """The table in Markdown, with the mean in bold."""
        lines = ["", *self.head], ["---", *["---:"] * len(self.head)]
        rows = [[_escape(name), *(c.text for c in cells)] for name, cells in self.rows]
        if self.has_mean:
            rows[-1] = [f"**{text}**" for text in rows[-1]]
        return "".join(f"| {' | '.join(row)} |\n" for row in (*lines, *rows))


def main_table(results: Mapping[str, Any], *, complete: bool) -> Table:
    """The figures that papers print: ours, the published ones, and the teacher's.

    Args:
      results: the tree of `results.json`.
      complete: whether all categories of the data set are there, so that the published
        mean is comparable.
    """
    rows, published = _rows(results), _paper_rows(results, complete)
    keys = [key for key in _MAIN if any(key in figures for _, figures in rows)]
    compared = {key for figures in published for key in figures}
    head: list[str] = []
    for key in keys:
        head += [label(key), *(("Paper", "Difference") if key in compared else ())]
    lines = []
    teachers = _rows(results["teacher"])
    for (name, ours), theirs, (_, teacher) in zip(
        rows, published, teachers, strict=True
    ):
        cells: list[Cell] = []
        for key in keys:
            cells.append(cell(ours, key))
            cells += _comparison(ours, theirs, key) if key in compared else ()
        lines.append((name, (*cells, cell(teacher, "image_auroc"))))
    head.append("Image AUROC of the teacher alone")
    return Table(tuple(head), tuple(lines), len(rows) > 1, compares=bool(compared))


def full_table(tree: Mapping[str, Any]) -> Table:
    """All figures of one network, one per row, with categories as columns.

    Args:
      tree: of `results.json`, or its subtree "teacher".
    """
    rows = _rows(tree)
    found = dict.fromkeys(key for _, figures in rows for key in figures)
    lines = tuple(
        (label(key), tuple(cell(figures, key) for _, figures in rows))
        for key in sorted(found, key=_place)
        if key not in _BESIDE
    )
    return Table(tuple(name for name, _ in rows), lines, has_mean=False)


def seeds_table(results: Mapping[str, Any]) -> Table | None:
    """Image AUROC of each seed and of their ensemble; None for a single seed."""
    rows = [(name, figures) for name, figures in _rows(results) if "seeds" in figures]
    if not rows:
        return None
    seeds = list(rows[0][1]["seeds"])
    lines = tuple(
        (
            name,
            (
                *(cell(figures["seeds"][seed], "image_auroc") for seed in seeds),
                cell(figures["ensemble"], "image_auroc"),
            ),
        )
        for name, figures in rows
    )
    head = (*(f"seed {seed}" for seed in seeds), "ensemble")
    return Table(head, lines, has_mean=len(rows) > 1)


def reasons(results: Mapping[str, Any]) -> list[str]:
    """Sentences about absent figures, with the reason, and notes."""
    lines = []
    for category, figures in results["categories"].items():
        concerned: dict[str, list[str]] = {}
        for key, reason in figures.get("reasons", {}).items():
            concerned.setdefault(reason, []).append(label(key))
        for reason, names in concerned.items():
            absent = f"is no {_join_names(names)}"
            if len(names) == len(figures.keys() - set(_BESIDE)):
                absent = "are no metrics"
            lines.append(f"{category}: {reason}, so there {absent}.")
        lines += [f"{category}: {note}." for note in figures.get("notes", ())]
    partial = any("reasons" in figures for figures in results["categories"].values())
    if partial and len(results["categories"]) > 1:
        lines.append("The mean is over the categories that have the figure.")
    return lines


def label(key: str) -> str:
    """The name of a figure in tables; a figure of one kind ends in the kind's name."""
    name, _, kind = key.rpartition("_")
    return LABELS.get(key) or (f"{LABELS[name]} {kind}" if name in LABELS else key)


def cell(figures: Mapping[str, Any], key: str) -> Cell:
    """A figure in per cent, with its deviation over seeds, if there is one."""
    text = percent(figures.get(key))
    deviation = figures.get("std", {}).get(key)
    return Cell(text if deviation is None else f"{text} ± {percent(deviation)}")


def percent(value: float | None) -> str:
    """A fraction in per cent with one decimal; a dash for None."""
    return DASH if value is None else f"{100 * value:.1f}"


def _rows(tree: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The categories, and their mean if there are several."""
    rows = list(tree["categories"].items())
    return [*rows, ("Mean", tree["mean"])] if len(rows) > 1 else rows


def _paper_rows(
    results: Mapping[str, Any], complete: bool
) -> list[Mapping[str, float]]:
    """The published figures of each of `_rows`."""
    paper = results["paper"]
    rows = [paper["categories"].get(name, {}) for name in results["categories"]]
    if len(rows) < 2:
        return rows
    keys = set.intersection(*(set(row) for row in rows))
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
    return [*rows, paper["mean"] if complete else mean]


def _place(key: str) -> tuple[int, bool]:
    """The sort key of a figure; the figures of kinds follow their mean."""
    base = key if key in LABELS else key.rpartition("_")[0]
    order = list(LABELS)
    return order.index(base) if base in LABELS else len(order), key != base


def _join_names(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _comparison(
    ours: Mapping[str, Any], theirs: Mapping[str, float], key: str
) -> tuple[Cell, Cell]:
    if ours.get(key) is None or key not in theirs:
        return Cell(percent(theirs.get(key))), Cell(DASH)
    difference = 100 * (ours[key] - theirs[key])
    tone = "better" if difference >= 0 else "worse"
    text = f"{difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    return Cell(percent(theirs[key])), Cell(text, tone)


def _escape(name: str) -> str:
    """A name that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", name).replace("\n", " ")
