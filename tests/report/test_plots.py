import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ast_jax.evaluation.metrics import image_ap, image_auroc
from ast_jax.report import plots
from ast_jax.report.svg import COLOURS, apply_theme

LABELS = np.array([False] * 6 + [True] * 6)
ODD = ("good", "<b>&amp;", "$x_1^$", "_hidden", "a" * 60)


def scores(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.gamma(2, 1, 12) + LABELS for name in ("student", "teacher")}


def text_of(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_curves_name_the_areas_that_the_metrics_compute():
    values = scores()
    roc = text_of(plots.roc(LABELS, values))
    precision = text_of(plots.precision_recall(LABELS, values))
    for name, score in values.items():
        assert f"{name}, area {100 * image_auroc(LABELS, score):.1f} %" in roc
        assert f"{name}, average {100 * image_ap(LABELS, score):.1f} %" in precision


@pytest.mark.parametrize("labels", [np.zeros(12, bool), np.ones(12, bool)])
def test_one_kind_of_images_has_no_curves(labels):
    assert plots.roc(labels, scores()) is None
    assert plots.precision_recall(labels, scores()) is None


@pytest.mark.parametrize("draw", [plots.roc, plots.precision_recall])
def test_the_operating_point_is_marked_where_there_is_a_threshold(draw):
    assert "at the threshold" in text_of(draw(LABELS, scores(), 2.0))
    assert "at the threshold" not in text_of(draw(LABELS, scores()))


def test_a_threshold_above_all_scores_has_recall_but_no_precision():
    assert "at the threshold" in text_of(plots.roc(LABELS, scores(), 1e9))
    svg = plots.precision_recall(LABELS, scores(), 1e9)
    assert "at the threshold" not in text_of(svg)


def test_histogram_shows_odd_names_of_defect_types_as_they_are():
    text = text_of(plots.histogram([*ODD, "good"], np.arange(6.0), 2.5))
    assert all(name in text for name in ODD[:4])
    assert "aaaa…" in text and ODD[4] not in text
    assert "good (2)" in text and "defective (4)" in text and "threshold" in text


def test_histogram_of_widely_spread_scores_is_logarithmic():
    defects = ["good"] * 4
    wide = plots.histogram(defects, np.array([1.0, 10.0, 100.0, 1000.0]))
    narrow = plots.histogram(defects, np.array([-1.0, 10.0, 100.0, 1000.0]))
    assert "logarithmic" in text_of(wide)
    assert "logarithmic" not in text_of(narrow)


def test_without_left_out_images_they_have_no_plot():
    """With other images than a run's its threshold stays, and none of them set it."""
    none = np.zeros(0, np.float32)
    assert plots.left_out_scores(none, none > 0, 1.0) is None
    assert "<svg" in plots.left_out_scores(
        np.ones(2, np.float32), np.zeros(2, bool), 1.0
    )


def test_histogram_of_equal_scores_exists():
    assert "good (3)" in text_of(plots.histogram(["good"] * 3, np.ones(3)))


def test_training_shows_each_network_that_was_logged():
    one = {"teacher": {0: ([1, 2, 3], [3.0, -1.0, -9.0])}, "student": {}}
    text = text_of(plots.training(one))
    assert "loss of the teacher" in text and "student" not in text
    assert plots.training({"teacher": {}, "student": {}}) is None


def test_the_same_numbers_give_the_same_file():
    first, second = (plots.roc(LABELS, scores(), 2.0) for _ in range(2))
    assert first == second


def test_themed_figures_have_no_fixed_colours_and_share_no_ids():
    svg = plots.roc(LABELS, scores(), 2.0)
    one, two = apply_theme(svg, "one"), apply_theme(svg, "two")
    assert not any(colour in one for colour in COLOURS.values())
    assert "var(--student)" in one
    ids = [re.findall(r' id="([^"]+)"', page) for page in (one, two)]
    assert ids[0] and not set(ids[0]) & set(ids[1])
    assert set(re.findall(r"url\(#([^)]+)\)", one)) <= set(ids[0])
