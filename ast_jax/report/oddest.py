"""Pictures of the good parts with the highest scores, for the report."""

from typing import NamedTuple

from ast_jax.evaluation.results import Evaluation
from ast_jax.inference.colours import ColourScale
from ast_jax.report import pictures


class OddPart(NamedTuple):
    """One good part on the page.

    Attributes:
      id: of the part.
      score: its image score.
      size: height and width of the pictures.
      views: view → data URI.
      note: whether it stands out, and whether it sets the threshold.
    """

    id: str
    score: float
    size: tuple[int, int]
    views: dict[str, str]
    note: str = ""


def odd_parts(evaluation: Evaluation, scale: ColourScale | None) -> list[OddPart]:
    """The oddest good parts of a category, the oddest first; [] if it has none.

    Args:
      evaluation: of the category.
      scale: of the student's maps of test images; None without test images.
    """
    if evaluation.oddest is None:
        return []
    parts, scores, _ = evaluation.oddest
    if scale is None:
        scale = ColourScale.of(scores.maps, scores.maximum, None)
    shown = []
    for index, part_id in enumerate(parts.ids):
        part = parts[index]
        size = pictures.thumbnail_size(part.size)
        position = scale.position(scores.map_at(index, size))
        views = pictures.pictures(part, {"student": position})
        views.pop("truth", None)  # empty for a good part
        uris = pictures.data_uris(part, views)
        score = float(scores.image[index])
        note = _note(evaluation, part_id, score)
        shown.append(OddPart(part_id, score, size, uris, note))
    return shown


def _note(evaluation: Evaluation, part_id: str, score: float) -> str:
    notes = ["stands out"] if part_id in evaluation.odd_parts else []
    calibration = evaluation.calibration
    if calibration is not None and score == calibration.threshold:
        notes.append("sets the threshold")
    return ", ".join(notes)
