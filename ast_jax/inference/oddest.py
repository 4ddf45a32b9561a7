"""The good parts with the highest scores: look at them before trusting a detector."""

from typing import NamedTuple

import numpy as np

from ast_jax.data.part import Parts
from ast_jax.features.category import Category
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.category import LeftOut
from ast_jax.inference.ensemble import Ensemble, Scores
from ast_jax.run import Run

COUNT, _MOST = 6, 24


class OddestParts(NamedTuple):
    """Good parts with the highest image scores, the oddest first.

    Attributes:
      parts: the parts.
      scores: the student's scores of them.
      held_out: whether they were left out of training.
    """

    parts: Parts
    scores: Scores
    held_out: bool


def oddest_left_out(left_out: LeftOut, calibration: Calibration) -> OddestParts:
    """The oddest left-out parts, down to the one whose score is the threshold."""
    count = max(COUNT, min(_MOST, calibration.exceeding))
    parts, scores = left_out
    order = np.argsort(-scores.image, kind="stable")[:count]
    return OddestParts(parts.subset(order.tolist()), scores.select(order), True)


def oddest_good_parts(
    run: Run, category: Category, ensemble: Ensemble
) -> OddestParts | None:
    """Scores the left-out good parts; if there are none, the training parts.

    Returns:
      The `COUNT` oddest; None if there is no good part.
    """
    split, ids = _good_parts(run, category)
    position = {part_id: row for row, part_id in enumerate(category.parts[split].ids)}
    rows = [position[part_id] for part_id in ids if part_id in position]
    if not rows:
        return None
    inputs = category.inputs(split).select(rows)
    scores = ensemble.score(inputs, category.config.train.batch_size)["student"]
    order = np.argsort(-scores.image, kind="stable")[:COUNT]
    learned = run.read_record(category.name)["train"]
    return OddestParts(
        category.parts[split].subset([rows[place] for place in order]),
        scores.select(order),
        held_out=ids != learned,
    )


def _good_parts(run: Run, category: Category) -> tuple[str, list[str]]:
    """The split and the ids of the good parts to score."""
    if len(category.parts["validation"]):
        return "validation", list(category.parts["validation"].ids)
    record = run.read_record(category.name)
    return "train", record["held_out"] or record["train"]
