"""The report's section on one category: decisions, curves and a gallery."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from ast_jax.data.part import GOOD
from ast_jax.evaluation.metrics import image_auroc
from ast_jax.evaluation.results import Evaluation
from ast_jax.files import UniqueNames, open_whole, plain_name, write_text
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.colours import ColourScale
from ast_jax.inference.proportion import Proportion, share_of_alarms
from ast_jax.report import gallery, history, pictures, plots
from ast_jax.report.category_facts import category_facts
from ast_jax.report.oddest import OddPart, odd_parts
from ast_jax.report.tables import DASH, Cell, Table, percent
from ast_jax.run import Run

MAPS = ("student", "teacher", "combined")
_OVERLAYS = {*MAPS, "outline"}  # views that share one place, or cover a picture


@dataclasses.dataclass(frozen=True)
class TypeRow:
    """The results on images of one defect type, or on the good ones.

    Attributes:
      name: "good" or the defect type.
      count: the number of images.
      alarms: the images above the threshold; None without a threshold.
      auroc: against the good images, if there are any.
    """

    name: str
    count: int
    alarms: Proportion | None
    auroc: float | None


@dataclasses.dataclass(frozen=True)
class Section:
    """The page's content for one category.

    Attributes:
      name: of the category.
      category_facts: of its training and test, by name.
      curves: name → SVG, in the order of the page.
      calibration: None without held-out good images.
      false_alarms: on good test images; None without threshold or images.
      recall: on defective test images; None without threshold or images.
      types: one row for good images and one for every defect type.
      oddest: the good parts with the highest scores.
      held_out: whether these were left out of training.
      scales: map → its colour scale.
      cards: of the gallery, worst first.
      images: the number of all test images.
      trainings: of both networks of every pair.
    """

    name: str
    category_facts: dict[str, str]
    curves: dict[str, str]
    calibration: Calibration | None
    false_alarms: Proportion | None
    recall: Proportion | None
    types: list[TypeRow]
    oddest: list[OddPart]
    held_out: bool
    scales: dict[str, ColourScale]
    cards: list[gallery.Card]
    images: int
    trainings: list[history.Training]

    @property
    def columns(self) -> int:
        """Pictures side by side on a card; the score maps share one place."""
        most = max(
            (len(card.views.keys() - _OVERLAYS) for card in self.cards), default=0
        )
        return most + 1

    @property
    def has_outline(self) -> bool:
        """Whether any card has a defect's outline."""
        return any("outline" in card.views for card in self.cards)


def section(run: Run, category: Evaluation, folder: Path, limit: int) -> Section:
    """Writes a category's curves and strips as files; returns the page's content.

    Args:
      run: the run.
      category: the evaluated category.
      folder: for the files.
      limit: largest number of test images in the gallery.
    """
    labels = np.array([defect != GOOD for defect in category.parts.defects], bool)
    scores = category.scores["student"].image
    calibration = category.calibration
    trainings = history.trainings(run, category.name)
    curves = _curves(category, labels, trainings)
    for name, svg in curves.items():
        write_text(folder / f"{name}.svg", svg)
    scales = _scales(category, labels)
    own = category.scores["student"].own
    alarms = None if calibration is None else calibration.anomalous(own)
    return Section(
        name=category.name,
        category_facts=category_facts(run, category.name, category.parts),
        curves=curves,
        calibration=calibration,
        false_alarms=None if alarms is None else share_of_alarms(alarms[~labels]),
        recall=None if alarms is None else share_of_alarms(alarms[labels]),
        types=_types(category.parts.defects, labels, scores, alarms),
        oddest=odd_parts(category, scales.get("student")),
        held_out=category.oddest is not None and category.oddest.held_out,
        scales=scales,
        cards=_cards(category, labels, scales, folder / "images", limit),
        images=len(labels),
        trainings=trainings,
    )


def decisions(sections: Sequence[Section]) -> Table | None:
    """The decisions on test images; None if no category has a threshold."""
    head = (
        *("false alarms asked for", "attainable", "guaranteed", "held-out good images"),
        *("false alarms observed", "recall"),
    )
    rows = []
    for one in sections:
        if (calibration := one.calibration) is not None:
            texts = (
                f"≤ {percent(calibration.alpha)}",
                f"≤ {percent(calibration.attainable)}",
                f"≤ {percent(calibration.guaranteed)}",
                str(len(calibration.scores)),
                _interval_text(one.false_alarms),
                _interval_text(one.recall),
            )
            rows.append((one.name, tuple(Cell(text) for text in texts)))
    return Table(head, tuple(rows), has_mean=False) if rows else None


def _interval_text(share: Proportion | None) -> str:
    if share is None:
        return DASH
    low, high = share.interval
    return f"{percent(share.value)} ({percent(low)} to {percent(high)})"


def _curves(
    category: Evaluation,
    labels: Bool[np.ndarray, " n"],
    trainings: list[history.Training],
) -> dict[str, str]:
    calibration = category.calibration
    threshold = None if calibration is None else calibration.threshold
    scores = {name: scores.image for name, scores in category.scores.items()}
    logged = {
        name: {t.seed: (t.epochs, t.losses) for t in trainings if t.network == name}
        for name in ("teacher", "student")
    }
    curves = {
        "roc": plots.roc(labels, scores, threshold),
        "precision_recall": plots.precision_recall(labels, scores, threshold),
    }
    if labels.size:
        defects = category.parts.defects
        curves["histogram"] = plots.histogram(defects, scores["student"], threshold)
    elif calibration is not None:
        held_out = np.array(calibration.scores)
        good = (GOOD,) * held_out.size
        curves["held_out"] = plots.histogram(good, held_out, threshold)
    if calibration is not None:
        if category.left_out is not None:
            parts, left_out = category.left_out
            listed = category.odd_parts
            odd = np.array([part_id in listed for part_id in parts.ids], bool)
            curves["left_out"] = plots.left_out_scores(left_out.image, odd, threshold)
        curves["alpha"] = plots.alpha(
            labels, category.scores["student"].own, calibration
        )
    curves["training"] = plots.training(logged)
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
    category: Evaluation, labels: Bool[np.ndarray, " n"]
) -> dict[str, ColourScale]:
    """The colour scale of each network's maps; {} without test images."""
    if not labels.size:
        return {}
    good = labels if labels.all() else ~labels
    calibration = category.calibration
    marked = {"student": None if calibration is None else calibration.pixel_threshold}
    return {
        name: ColourScale.of(scores.maps[good], scores.maximum[good], marked.get(name))
        for name, scores in category.scores.items()
    }


def _cards(
    category: Evaluation,
    labels: Bool[np.ndarray, " n"],
    scales: dict[str, ColourScale],
    folder: Path,
    limit: int,
) -> list[gallery.Card]:
    """Writes a strip for every test image; returns the gallery's cards, worst first."""
    if not labels.size:
        return []
    parts, scores = category.parts, category.scores["student"].image
    own = category.scores["student"].own
    cards = gallery.cards(
        parts.ids, parts.defects, labels, scores, category.calibration, own
    )
    order = gallery.order_worst_first(labels, scores, category.calibration, own)
    shown = gallery.choose_images(order, limit).tolist()
    unique = UniqueNames(".jpg")
    files = [unique(plain_name(part_id.removeprefix("test/"))) for part_id in parts.ids]
    colours = f"student map {scales['student'].low:.3g} to {scales['student'].high:.3g}"
    progress = tqdm(files, desc="pictures", unit="image", disable=None)
    for index, file in enumerate(progress):
        part, card = parts[index], cards[index]
        size = pictures.thumbnail_size(part.size)
        views = pictures.pictures(part, _positions(category, scales, index, size))
        title = f"{card.id}   score {card.score:.4g}   {card.verdict}   {colours}"
        with open_whole(folder / f"{file}.jpg") as stream:
            pictures.strip(title, views).save(stream, "JPEG", quality=85)
        if index in shown:
            uris = pictures.data_uris(part, views)
            cards[index] = dataclasses.replace(card, size=size, views=uris)
    return [cards[index] for index in shown]


def _positions(
    category: Evaluation,
    scales: dict[str, ColourScale],
    index: int,
    size: tuple[int, int],
) -> dict[str, Float[np.ndarray, "h w"]]:
    """A test image's maps on their colour scales; "combined" is their mean."""
    positions = {
        name: scale.position(category.scores[name].map_at(index, size))
        for name, scale in scales.items()
    }
    return {**positions, "combined": np.mean(list(positions.values()), axis=0)}
