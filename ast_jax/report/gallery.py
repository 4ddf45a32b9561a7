"""The report's gallery: its test images, their order, and the facts about each."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ast_jax.inference.calibration import Calibration

# (defective, alarm) → verdict on a part
VERDICTS = {
    (True, False): "missed",
    (False, True): "false alarm",
    (True, True): "found",
    (False, False): "passed",
}


@dataclasses.dataclass(frozen=True)
class Card:
    """The facts about one test image.

    Attributes:
      index: among the category's test images.
      id: of the part.
      defect: "good" or the defect type.
      score: the image score, which decides.
      wrong_ranking: the fraction of images of the other kind (good for a defective
        one) on the wrong side of its score; the mean over images is 1 − AUROC.
      verdict: one of `VERDICTS`; "" without a threshold.
      p_value: None without a calibration.
      size: height and width of the pictures.
      views: view → data URI, if the image is in the gallery.
    """

    index: int
    id: str
    defect: str
    score: float
    wrong_ranking: float
    verdict: str
    p_value: float | None
    size: tuple[int, int] = (1, 1)
    views: Mapping[str, str] = dataclasses.field(default_factory=dict)


def wrong_ranking(
    labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The fraction of images of the other kind on the wrong side of each image's score.

    A tie counts half. It is 0 for all images if there is only one kind.
    """
    shares = np.zeros(labels.shape)
    for kind in (True, False):
        others = np.sort(scores[labels != kind])
        if not others.size:
            continue
        mine = scores[labels == kind]
        below = np.searchsorted(others, mine, "left") + np.searchsorted(
            others, mine, "right"
        )
        share = below / (2 * others.size)
        shares[labels == kind] = 1 - share if kind else share
    return shares


def order_worst_first(
    labels: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    calibration: Calibration | None,
    own: Float[np.ndarray, "n ..."] | None = None,
) -> Int[np.ndarray, " n"]:
    """The order of the gallery: wrong decisions first, then by wrong ranking.

    Of equally wrong images, defects with the lowest and good ones with the highest
    score come first.

    Args:
      labels: True for defective images.
      scores: image scores.
      calibration: None without a threshold.
      own: the scores that the calibration compares; the image scores by default.
    """
    mistakes = np.zeros_like(labels)
    if calibration is not None:
        mistakes = calibration.anomalous(scores if own is None else own) != labels
    towards_wrong = np.where(labels, -scores, scores)
    return np.lexsort((-towards_wrong, -wrong_ranking(labels, scores), ~mistakes))


def choose_images(order: Int[np.ndarray, " n"], limit: int) -> Int[np.ndarray, " m"]:
    """The images to show: all, or 3/4 of `limit` from the front and an even sample."""
    if order.size <= limit:
        return order
    worst = limit - limit // 4
    sample = np.linspace(worst, order.size - 1, limit // 4).round().astype(int)
    return np.concatenate([order[:worst], order[sample]])


def cards(
    ids: Sequence[str],
    defects: Sequence[str],
    labels: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    calibration: Calibration | None,
    own: Float[np.ndarray, "n ..."] | None = None,
) -> list[Card]:
    """A card for every test image, in the data set's order; see `order_worst_first`."""
    own = scores if own is None else own
    shares = wrong_ranking(labels, scores)
    verdicts, p_values = [""] * labels.size, [None] * labels.size
    if calibration is not None:
        alarms = calibration.anomalous(own)
        kinds = zip(labels.tolist(), alarms.tolist(), strict=True)
        verdicts = [VERDICTS[kind] for kind in kinds]
        p_values = calibration.p_values(own).tolist()
    columns = zip(
        ids, defects, scores.tolist(), shares.tolist(), verdicts, p_values, strict=True
    )
    return [Card(index, *row) for index, row in enumerate(columns)]
