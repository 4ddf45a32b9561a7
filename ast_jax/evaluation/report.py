"""The report of a run: a page that opens without a network, and its pictures as files.

DIR/report/index.html            tables, curves, and a gallery of the test images
DIR/report/results.md            the tables, for pasting
DIR/report/<category>/*.svg      the curves
DIR/report/<category>/images/    a panel for every test image
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from jaxtyping import Bool, Float
from markupsafe import Markup

from ast_jax.data.parts import GOOD
from ast_jax.errors import UserError
from ast_jax.evaluation import figures, gallery, history, panels, provenance, tables
from ast_jax.evaluation.calibration import Calibration, Proportion, share_of_alarms
from ast_jax.evaluation.metrics import image_auroc
from ast_jax.evaluation.protocol import map_at
from ast_jax.run import Run

if TYPE_CHECKING:
    from ast_jax.evaluation.evaluate import Evaluated
else:  # by its name, because that module imports this one
    Evaluated = "ast_jax.evaluation.evaluate.Evaluated"

# Test images in the page, of all categories together and at least of each.
EMBEDDED, EMBEDDED_EACH = 300, 12
CURVES = {
    "roc": "ROC",
    "precision_recall": "Precision and recall",
    "histogram": "Image scores",
    "training": "Training",
}
MAPS = ("student", "teacher", "combined")


@dataclasses.dataclass(frozen=True)
class TypeRow:
    """What became of the images of one defect type, or of the good ones.

    Attributes:
      name: "good" or the defect type.
      count: images.
      alarms: those above the threshold; None without one.
      auroc: against the good images, where there are any.
    """

    name: str
    count: int
    alarms: Proportion | None
    auroc: float | None


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page shows of one category.

    Attributes:
      name: the category's.
      curves: name → SVG, in the order of the page.
      calibration: None without held-out good images.
      false_alarms: observed on good test images; None without threshold or images.
      recall: observed on defective test images; likewise.
      types: the good images and every defect type.
      scales: map → its colour scale.
      cards: those in the gallery, worst first, each with its pictures as data URIs.
      images: all test images there are.
      trainings: what was logged of the networks' training.
    """

    name: str
    curves: dict[str, str]
    calibration: Calibration | None
    false_alarms: Proportion | None
    recall: Proportion | None
    types: list[TypeRow]
    scales: dict[str, panels.ColourScale]
    cards: list[tuple[gallery.Card, dict[str, str]]]
    images: int
    trainings: list[history.Training]


def write_report(run: Run, evaluated: list[Evaluated], results: dict[str, Any]) -> None:
    """Writes the report of a run into its folder.

    Args:
      run: the run.
      evaluated: its categories.
      results: the tree of `results.json`.

    Raises:
      UserError: the folder cannot be written, or a test image is damaged.
    """
    limit = max(EMBEDDED_EACH, EMBEDDED // max(1, len(evaluated)))
    folders = folder_names([category.name for category in evaluated])
    try:
        sections = [
            _section(run, category, run.directory / "report" / folder, limit)
            for category, folder in zip(evaluated, folders, strict=True)
        ]
        known = set(results["paper"]["categories"])
        complete = (
            known <= set(results["categories"])
            if known
            else (not run.config.dataset.categories)
        )
        table = tables.main_table(results, complete=complete)
        page = _page(run, sections, results, table)
        (run.directory / "report" / "index.html").write_text(page, encoding="utf-8")
        text = _markdown(run, sections, results, table)
        (run.directory / "report" / "results.md").write_text(text, encoding="utf-8")
    except OSError as error:
        where = error.filename or run.directory / "report"
        raise UserError(f"{where}: cannot be written ({error.strerror}).") from error


def folder_names(names: list[str]) -> list[str]:
    """A file name for each, the same wherever it has ordinary characters only."""
    found: list[str] = []
    for name in names:
        safe = re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
        taken = sum(safe.lower() == other.lower() for other in found)
        found.append(f"{safe}_{len(found)}" if taken else safe)
    return found


def _section(run: Run, category: Evaluated, folder: Path, limit: int) -> Section:
    labels = np.array([defect != GOOD for defect in category.parts.defects], bool)
    scores = category.scores["student"].image
    calibration = category.calibration
    trainings = history.trainings(run, category.name)
    curves = _curves(category, labels, trainings)
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in curves.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    scales = _scales(category, labels)
    alarms = None if calibration is None else calibration.anomalous(scores)
    return Section(
        name=category.name,
        curves=curves,
        calibration=calibration,
        false_alarms=None if alarms is None else share_of_alarms(alarms[~labels]),
        recall=None if alarms is None else share_of_alarms(alarms[labels]),
        types=_types(category.parts.defects, labels, scores, alarms),
        scales=scales,
        cards=_cards(category, labels, scales, folder / "images", limit),
        images=len(labels),
        trainings=trainings,
    )


def _curves(
    category: Evaluated,
    labels: Bool[np.ndarray, " n"],
    trainings: list[history.Training],
) -> dict[str, str]:
    calibration = category.calibration
    threshold = None if calibration is None else calibration.threshold
    scores = {name: of.image for name, of in category.scores.items()}
    logged = {
        name: {t.seed: (t.epochs, t.losses) for t in trainings if t.network == name}
        for name in ("teacher", "student")
    }
    curves = {
        "roc": figures.roc(labels, scores, threshold),
        "precision_recall": figures.precision_recall(labels, scores, threshold),
        "histogram": figures.histogram(
            category.parts.defects, scores["student"], threshold
        ),
        "training": figures.training(logged),
    }
    return {name: svg for name, svg in curves.items() if svg is not None}


def _types(
    defects: tuple[str, ...],
    labels: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    alarms: Bool[np.ndarray, " n"] | None,
) -> list[TypeRow]:
    rows = []
    for name in sorted(set(defects), key=lambda defect: (defect != GOOD, defect)):
        mine = np.array(defects) == name
        against = mine | ~labels
        rows.append(
            TypeRow(
                name,
                int(mine.sum()),
                None if alarms is None else share_of_alarms(alarms[mine]),
                None if name == GOOD else image_auroc(labels[against], scores[against]),
            )
        )
    return rows


def _scales(
    category: Evaluated, labels: Bool[np.ndarray, " n"]
) -> dict[str, panels.ColourScale]:
    """One colour scale a network, over the whole category."""
    good = labels if labels.all() else ~labels
    calibration = category.calibration
    marked = {"student": None if calibration is None else calibration.pixel_threshold}
    return {
        name: panels.ColourScale.of(
            scores.maps[good], scores.maximum[good], marked.get(name)
        )
        for name, scores in category.scores.items()
    }


def _cards(
    category: Evaluated,
    labels: Bool[np.ndarray, " n"],
    scales: dict[str, panels.ColourScale],
    folder: Path,
    limit: int,
) -> list[tuple[gallery.Card, dict[str, str]]]:
    """Writes a panel for every test image; returns the gallery's cards, worst first."""
    parts, scores = category.parts, category.scores["student"].image
    cards = gallery.cards(
        parts.ids, parts.defects, labels, scores, category.calibration
    )
    order = gallery.worst_first(labels, scores, category.calibration)
    chosen = gallery.chosen(order, limit).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    files = folder_names([part_id.removeprefix("test/") for part_id in parts.ids])
    embedded = {}
    for index, (card, file) in enumerate(zip(cards, files, strict=True)):
        part = parts[index]
        size = panels.thumbnail_size(part.size)
        positions = {
            name: scale.position(map_at(category.scores[name].maps[index], size))
            for name, scale in scales.items()
        }
        positions["combined"] = np.mean(list(positions.values()), axis=0)
        views = panels.pictures(part, positions)
        title = f"{card.id}   score {card.score:.4g}   {card.verdict}"
        panels.panel(title, views).save(folder / f"{file}.jpg", quality=85)
        if index in chosen:
            embedded[index] = {
                name: panels.data_uri(view) for name, view in views.items()
            }
            line = panels.outline(part)
            if line is not None:
                embedded[index]["outline"] = panels.data_uri(line)
    return [(cards[index], embedded[index]) for index in chosen]


def _page(
    run: Run, sections: list[Section], results: dict[str, Any], table: tables.Table
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ast_jax.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": tables.percent,
        "themed": lambda svg, name: Markup(figures.themed(svg, name)),
        "duration": provenance.duration,
    }
    return environment.get_template("report.html").render(
        title=f"{run.config.dataset.name}, {run.config.mode}",
        lede=provenance.settings(run.config),
        run=run,
        sections=sections,
        results=results,
        table=table,
        all_figures={
            "Student": tables.full_table(results),
            "Teacher alone": tables.full_table(results["teacher"]),
        },
        seeds=tables.seeds_table(results),
        reasons=tables.reasons(results),
        facts=provenance.facts(run),
        configuration=provenance.configuration(run.config),
        maps=MAPS,
        view_names=panels.VIEWS,
        curve_names=CURVES,
        colours=panels.colour_stops(),
    )


def _markdown(
    run: Run, sections: list[Section], results: dict[str, Any], table: tables.Table
) -> str:
    heading = f"{run.config.dataset.name}, {run.config.mode}"
    lines = [
        f"{heading}; {provenance.settings(run.config)}; per cent.\n",
        table.markdown(),
        *(f"{reason}\n" for reason in tables.reasons(results)),
    ]
    return "\n".join(lines)
