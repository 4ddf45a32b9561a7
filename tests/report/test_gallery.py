import numpy as np
import pytest

from ast_jax.evaluation.metrics import image_auroc
from ast_jax.inference.calibration import calibrate
from ast_jax.report import gallery

LABELS = np.array([False, False, False, True, True, True])
SCORES = np.array([1.0, 2.0, 6.0, 0.5, 3.0, 9.0])


def calibration(threshold: float):
    held_out = np.array([0.1, threshold])
    return calibrate(held_out, held_out, 0.4)


def test_wrong_ranking_averages_to_what_auroc_lacks():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(50) < 0.3, rng.integers(0, 9, 50).astype(float)
    wrong = gallery.wrong_ranking(labels, scores)
    for kind in (labels, ~labels):
        assert wrong[kind].mean() == pytest.approx(1 - image_auroc(labels, scores))


def test_one_kind_alone_is_never_ranked_wrongly():
    assert not gallery.wrong_ranking(np.ones(3, bool), np.arange(3.0)).any()


def test_mistakes_at_the_threshold_come_first():
    order = gallery.order_worst_first(LABELS, SCORES, calibration(4.0))
    # Missed: 3, 4; false alarm: 2. Of the others the worse ranked comes first.
    assert set(order[:3].tolist()) == {2, 3, 4}
    assert order[0] == 3
    assert order[3:].tolist() == [1, 0, 5]


def test_without_a_threshold_the_worst_ranked_come_first():
    order = gallery.order_worst_first(LABELS, SCORES, None)
    wrong = gallery.wrong_ranking(LABELS, SCORES)
    assert order[0] == 3 and (np.diff(wrong[order]) <= 0).all()


def test_verdicts_and_p_values_are_the_calibrations():
    cards = gallery.cards("abcdef", ["x"] * 6, LABELS, SCORES, calibration(4.0))
    assert [card.verdict for card in cards] == [
        *("passed", "passed", "false alarm", "missed", "missed", "found")
    ]
    assert cards[5].p_value == pytest.approx(1 / 3)


def test_without_calibration_there_is_no_verdict():
    cards = gallery.cards("abcdef", ["x"] * 6, LABELS, SCORES, None)
    assert {(card.verdict, card.p_value) for card in cards} == {("", None)}


def test_a_large_gallery_keeps_the_worst_and_samples_the_rest():
    order = np.arange(1000)[::-1].copy()
    shown = gallery.choose_images(order, 40)
    assert shown.size == 40 == np.unique(shown).size
    assert shown[:30].tolist() == order[:30].tolist()
    assert shown[-1] == order[-1]


@pytest.mark.parametrize("size", [0, 1, 40])
def test_a_small_gallery_shows_all(size):
    assert gallery.choose_images(np.arange(size), 40).size == size
