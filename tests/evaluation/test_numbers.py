"""Figures of a category, means over categories and seeds, and reasons for nulls."""

import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax import scoring
from ast_jax.data.datasets.mvtec_loco import MVTecLOCO
from ast_jax.data.part import Entry, Part, Parts
from ast_jax.evaluation import numbers
from ast_jax.evaluation.metrics import spro_metrics
from ast_jax.evaluation.published_results import published_results
from ast_jax.evaluation.results import mean_over_categories, summary
from ast_jax.inference.ensemble import Ensemble, Scale, Scores, decision
from ast_jax.inference.score_map import map_at, upsample_map

SIZE = (40, 60)


def parts_of(defects: list[str], *, without: tuple[str, ...] = ()) -> Parts:
    """Parts with a 12×12 defect in the upper left corner, found in full at 50 px.

    Args:
      defects: "good" or a defect type each.
      without: the defect types that have no ground truth.
    """
    mask = np.zeros(SIZE, bool)
    mask[:12, :12] = True
    image = np.zeros((*SIZE, 3), np.uint8)

    def read(index: int) -> Part:
        defect = defects[index]
        masks = () if defect == "good" else None if defect in without else (mask,)
        areas = (50.0,) * len(masks or ())
        return Part(f"test/{index}", defect, image, None, masks, areas)

    digests = ({} if defect in without else {"masks": ""} for defect in defects)
    entries = map(Entry, (f"test/{i}" for i in range(len(defects))), defects, digests)
    return Parts(entries, read)


def scores_of(values: list[float]) -> Scores:
    """Maps that are high in the corner by the given values."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 0.1, (len(values), 5, 5)).astype(np.float32)
    maps[:, 0, 0] += np.array(values, np.float32)
    high, mean = maps.max((1, 2), initial=0), maps.mean((1, 2))
    return Scores(maps, high, mean, high)


def test_perfect_scores_give_perfect_figures():
    parts = parts_of(["good", "good", "cut", "cut"])
    figures = numbers.figures(parts, scores_of([0, 0, 5, 6]))
    for name in ("image_auroc", "image_auroc_max", "image_auroc_mean", "image_ap"):
        assert figures[name] == 1.0
    assert figures["pixel_auroc"] > 0.98
    assert figures["pixel_auroc_192"] > 0.98
    assert figures.keys().isdisjoint(("reasons", "notes"))


@pytest.mark.parametrize(
    ("defects", "without", "reasons"),
    [
        ([], (), {"image_auroc": "no test images", "au_pro_0.3": "no test images"}),
        (["good"] * 2, (), {"image_ap": "no defective", "pixel_ap": "no defective"}),
        (["cut"] * 2, (), {"image_auroc": "no good image"}),
        (["good", "cut"], ("cut",), {"pixel_auroc": "have no ground truth"}),
        (
            ["cut", "cut"],
            ("cut",),
            {"image_auroc": "no good image", "pixel_auroc": "have no ground truth"},
        ),
    ],
)
def test_a_metric_that_does_not_exist_is_null_with_its_reason(
    defects, without, reasons
):
    parts = parts_of(defects, without=without)
    figures = numbers.figures(parts, scores_of([0, 5][: len(defects)]))
    null = {name for name, value in figures.items() if value is None}
    assert figures["reasons"].keys() == null
    for name, reason in reasons.items():
        assert reason in figures["reasons"][name]


def test_a_defect_type_without_ground_truth_is_left_out_and_named():
    defects = ["good", "cut", "dent", "dent"]
    figures = numbers.figures(
        parts_of(defects, without=("dent",)), scores_of([1, 5, 0, 0])
    )
    assert figures["image_auroc"] < 1 and figures["pixel_auroc"] > 0.9
    (note,) = figures["notes"]
    assert "'dent' (test images: 2), which has no ground truth" in note


LOCO = MVTecLOCO.KINDS


def test_loco_measures_logical_and_structural_apart_and_then_their_mean():
    """Good images score 1 and 3, logical ones 2 and 4, structural ones 5."""
    defects = ["good", "logical_anomalies", "good", "logical_anomalies"]
    defects.append("structural_anomalies")
    parts, scores = parts_of(defects), scores_of([1, 2, 3, 4, 5])
    figures = numbers.figures(parts, scores, LOCO)
    assert figures["image_auroc_logical"] == 0.75
    assert figures["image_auroc_structural"] == 1.0
    assert figures["image_auroc"] == figures["image_auroc_max"] == 0.875
    for kind, rows in (("logical", [0, 1, 2, 3]), ("structural", [0, 2, 4])):
        maps = [map_at(scores.maps[row], SIZE) for row in rows]
        masks = [parts[row].masks for row in rows]
        areas = [parts[row].saturations for row in rows]
        alone = spro_metrics(maps, masks, areas)
        assert {k: figures[f"{k}_{kind}"] for k in alone} == alone
    each = [figures[f"au_spro_0.05_{kind}"] for kind in LOCO]
    assert each[0] != each[1]
    assert figures["au_spro_0.05"] == pytest.approx(np.mean(each))


def test_loco_without_one_kind_has_the_other_and_no_mean():
    parts = parts_of(["good", "logical_anomalies"])
    figures = numbers.figures(parts, scores_of([0, 5]), LOCO)
    assert figures["image_auroc_logical"] == 1.0
    assert figures["pixel_auroc"] > 0.98
    for name in ("image_auroc", "image_auroc_structural", "au_spro_0.05"):
        assert figures[name] is None
        assert "no image of 'structural_anomalies'" in figures["reasons"][name]
    assert "image_ap" not in figures["reasons"]


def test_maps_reach_the_images_own_resolution():
    score_map = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    fine = map_at(score_map)
    np.testing.assert_allclose(
        fine, scoring.upsample(jnp.asarray(score_map)[None])[0], atol=1e-5
    )
    assert map_at(score_map, SIZE).shape == SIZE


@pytest.mark.parametrize(
    ("image_score", "masked", "expected"),
    [
        ("protocol", True, "max"),
        ("protocol", False, "mean"),
        ("max", False, "max"),
        ("mean", True, "mean"),
    ],
)
def test_the_protocol_decides_by_the_mask(image_score, masked, expected):
    assert decision(image_score, masked=masked) == expected


def test_an_ensemble_is_the_mean_of_standardised_maps():
    one, two = scores_of([0, 3]), scores_of([1, 5])
    scales = {
        "0": dict.fromkeys(("student", "teacher"), Scale(1.0, 2.0, 3.0, 4.0)),
        "1": dict.fromkeys(("student", "teacher"), Scale(0.0, 1.0, 0.0, 1.0)),
    }
    by_seed = {
        "0": {"student": one, "teacher": one},
        "1": {"student": two, "teacher": two},
    }
    combined = Ensemble({}, "protocol", scales).combine(by_seed, masked=True)
    maps = ((one.maps - 1) / 2 + two.maps) / 2
    np.testing.assert_allclose(combined["student"].maps, maps, rtol=1e-6)
    np.testing.assert_allclose(
        combined["student"].image, [upsample_map(m).max() for m in maps], rtol=1e-6
    )
    np.testing.assert_allclose(combined["teacher"].image, maps.max((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        combined["student"].mean, ((one.mean - 3) / 4 + two.mean) / 2, rtol=1e-6
    )


def test_means_leave_out_what_is_null():
    mean = numbers.mean_figures([{"a": 1.0, "b": None}, {"a": 0.5, "b": None}])
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
        table = published_results("mvtec_3d_ad", mode)
        rows = [row["image_auroc"] for row in table["categories"].values()]
        assert np.mean(rows) == pytest.approx(table["mean"]["image_auroc"], abs=6e-4)
    assert published_results("folder", "rgb") == {"categories": {}, "mean": {}}
