"""Figures of a category, means over categories and seeds, and what is null and why."""

import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax import scoring
from ast_jax.data.parts import Entry, Part, Parts
from ast_jax.ensemble import Ensemble, Scale, Scores, decision, upsampled
from ast_jax.evaluation import protocol
from ast_jax.evaluation.evaluate import mean_over_categories, summary
from ast_jax.evaluation.published import published

SIZE = (40, 60)


def parts_of(defects: list[str], *, ground_truth: bool = True) -> Parts:
    """Parts with a 12×12 defect in the upper left corner."""
    mask = np.zeros(SIZE, bool)
    mask[:12, :12] = True
    image = np.zeros((*SIZE, 3), np.uint8)

    def read(index: int) -> Part:
        defective = (mask,) if ground_truth else None
        masks = () if defects[index] == "good" else defective
        return Part(f"test/{index}", defects[index], image, None, masks)

    return Parts([Entry(f"test/{i}", d, {}) for i, d in enumerate(defects)], read)


def scores_of(values: list[float]) -> Scores:
    """Maps that are high in the corner by the given values."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 0.1, (len(values), 5, 5)).astype(np.float32)
    maps[:, 0, 0] += np.array(values, np.float32)
    high, mean = maps.max((1, 2)), maps.mean((1, 2))
    return Scores(maps, high, mean, high)


def test_perfect_scores_give_perfect_figures():
    parts = parts_of(["good", "good", "cut", "cut"])
    figures = protocol.figures(parts, scores_of([0, 0, 5, 6]))
    for name in ("image_auroc", "image_auroc_max", "image_auroc_mean", "image_ap"):
        assert figures[name] == 1.0
    assert figures["pixel_auroc"] > 0.98
    assert figures["pixel_auroc_192"] > 0.98
    assert "reasons" not in figures


@pytest.mark.parametrize(
    ("defects", "ground_truth", "null", "reason"),
    [
        (["good", "good"], True, "image_auroc", "no defective image"),
        (["cut", "cut"], True, "image_auroc", "no good image"),
        (["good", "cut"], False, "pixel_auroc", "no ground truth"),
    ],
)
def test_a_metric_that_does_not_exist_is_null_with_its_reason(
    defects, ground_truth, null, reason
):
    parts = parts_of(defects, ground_truth=ground_truth)
    figures = protocol.figures(parts, scores_of([0, 5]))
    assert figures[null] is None
    assert reason in figures["reasons"][null]


def test_maps_reach_the_images_own_resolution():
    score_map = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    fine = protocol.map_at(score_map)
    np.testing.assert_allclose(
        fine, scoring.upsample(jnp.asarray(score_map)[None])[0], atol=1e-5
    )
    assert protocol.map_at(score_map, SIZE).shape == SIZE


@pytest.mark.parametrize(
    ("image_score", "masked", "expected"),
    [
        ("protocol", True, "maximum"),
        ("protocol", False, "mean"),
        ("max", False, "maximum"),
        ("mean", True, "mean"),
    ],
)
def test_the_protocol_decides_by_the_mask(image_score, masked, expected):
    assert decision(image_score, masked=masked) == expected


def test_an_ensemble_is_the_mean_of_standardised_maps():
    one, two = scores_of([0, 3]), scores_of([1, 5])
    scales = {
        0: dict.fromkeys(("student", "teacher"), Scale(1.0, 2.0, 3.0, 4.0)),
        1: dict.fromkeys(("student", "teacher"), Scale(0.0, 1.0, 0.0, 1.0)),
    }
    by_seed = {
        0: {"student": one, "teacher": one},
        1: {"student": two, "teacher": two},
    }
    combined = Ensemble({}, "protocol", scales).combine(by_seed, masked=True)
    maps = ((one.maps - 1) / 2 + two.maps) / 2
    np.testing.assert_allclose(combined["student"].maps, maps, rtol=1e-6)
    np.testing.assert_allclose(
        combined["student"].image, [upsampled(m).max() for m in maps], rtol=1e-6
    )
    np.testing.assert_allclose(combined["teacher"].image, maps.max((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        combined["student"].mean, ((one.mean - 3) / 4 + two.mean) / 2, rtol=1e-6
    )


def test_means_leave_out_what_is_null():
    mean = protocol.mean_figures([{"a": 1.0, "b": None}, {"a": 0.5, "b": None}])
    assert mean == {"a": 0.75, "b": None}


def test_seeds_are_summed_up_by_mean_and_deviation():
    seeds = {"0": {"a": 0.4, "b": None}, "1": {"a": 0.6, "b": None}}
    figures = summary(seeds)
    assert figures["a"] == pytest.approx(0.5)
    assert figures["std"] == {"a": pytest.approx(np.sqrt(0.02))}
    category = {**figures, "ensemble": {"a": 0.9}}
    mean = mean_over_categories({"x": category, "y": category})
    assert mean["ensemble"] == {"a": 0.9}
    assert mean["seeds"]["1"]["a"] == pytest.approx(0.6)


def test_the_papers_rows_average_to_the_mean_it_prints():
    for mode in ("rgb", "3d", "rgb3d"):
        table = published("mvtec_3d_ad", mode)
        rows = [row["image_auroc"] for row in table["categories"].values()]
        assert np.mean(rows) == pytest.approx(table["mean"]["image_auroc"], abs=6e-4)
    assert published("folder", "rgb") == {"categories": {}, "mean": {}}
