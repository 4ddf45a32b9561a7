"""Image and pixel metrics against MVTec's own figures and scikit-learn."""

import itertools
import json
import pathlib
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)

from ast_jax.data.datasets.mvtec_loco import saturation_area
from ast_jax.evaluation import metrics

_REFERENCE = pathlib.Path(__file__).parents[1] / "reference"


def _scene(seed, shapes=((20, 24), (31, 17), (20, 24)), levels=40):
    """Tied score maps of several sizes with masks; the first image is good."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(shape) < 0.1 * (i > 0) for i, shape in enumerate(shapes)]
    maps = [
        np.round(levels * (rng.random(mask.shape) + 0.3 * mask)).astype(np.float32)
        for mask in masks
    ]
    return maps, masks


@pytest.mark.parametrize("index", [0, 1])
def test_pixel_metrics_equal_mvtecs_script(index):
    with np.load(_REFERENCE / f"metrics_{index}.npz") as reference:
        result = metrics.pixel_metrics(
            list(reference["score_maps"]), list(reference["ground_truth"] > 0)
        )
        keys = [key for key in result if key in reference]
        assert len(keys) == 7
        for key in keys:
            assert result[key] == pytest.approx(reference[key], rel=1e-6), key


@pytest.mark.parametrize("index", [0, 1])
def test_image_metrics_equal_the_reference(index):
    with np.load(_REFERENCE / f"metrics_{index}.npz") as reference:
        result = metrics.image_metrics(
            reference["image_labels"] > 0, reference["image_scores"]
        )
        for key, value in result.items():
            assert value == pytest.approx(reference[key], rel=1e-6), key


@pytest.mark.parametrize("index", [0, 1])
def test_spro_metrics_equal_mvtec_locos_script(index):
    with np.load(_REFERENCE / f"loco_metrics_{index}.npz") as file:
        reference = dict(file)
    ends = np.cumsum(reference["num_channels"])[:-1]
    masks = [list(channels) for channels in np.split(reference["channels"], ends)]
    types = {t["pixel_value"]: t for t in json.loads(str(reference["defects_config"]))}

    def saturation(channel):
        kind = types[channel.max()]
        return saturation_area(
            channel > 0,
            kind["saturation_threshold"],
            relative=kind["relative_saturation"],
        )

    result = metrics.spro_metrics(
        list(reference["score_maps"]),
        [[channel > 0 for channel in channels] for channels in masks],
        [[saturation(channel) for channel in channels] for channels in masks],
    )
    recorded = [key for key in result if key in reference]
    assert len(recorded) == 4
    for key in recorded:
        assert result[key] == pytest.approx(reference[key], rel=2e-3), key


@pytest.mark.parametrize("seed", range(3))
def test_pixel_detection_equals_scikit_learn_with_ties(seed):
    maps, masks = _scene(seed)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([score_map.ravel() for score_map in maps])
    result = metrics.pixel_metrics(maps, masks)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = (2 * precision * recall / (precision + recall + 1e-300)).max()
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert result["pixel_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert result["pixel_f1_max"] == pytest.approx(f1)


def test_perfect_maps_score_one_everywhere():
    _, masks = _scene(0)
    result = metrics.pixel_metrics([m.astype(np.float32) for m in masks], masks)
    exact = {k: v for k, v in result.items() if not k.endswith("thresholds")}
    assert exact == pytest.approx(dict.fromkeys(exact, 1.0))


def test_pixel_metrics_read_generators_once_and_in_order():
    maps, masks = _scene(1)
    assert metrics.pixel_metrics(iter(maps), iter(masks)) == metrics.pixel_metrics(
        maps, masks
    )


def test_pixel_metrics_hold_at_most_twelve_bytes_a_pixel():
    """Then 100 images of 1024² take less than 1.3 GB."""
    images, side = 40, 128
    rng = np.random.default_rng(0)
    mask = np.zeros((side, side), bool)
    mask[:30, :30] = True
    maps = (rng.random((side, side), np.float32) for _ in range(images))
    tracemalloc.start()
    metrics.pixel_metrics(maps, itertools.repeat(mask, images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * images * side**2


@pytest.mark.parametrize("defective", [False, True])
def test_metrics_are_none_where_one_kind_is_missing(defective):
    maps, masks = [np.zeros((4, 5), np.float32)], [np.full((4, 5), defective)]
    pixel = metrics.pixel_metrics(maps, masks)
    assert len(pixel) == 8 and set(pixel.values()) == {None}
    spro = metrics.spro_metrics(
        maps, [masks if defective else []], [[5.0] if defective else []]
    )
    assert len(spro) == 5 and set(spro.values()) == {None}
    image = metrics.image_metrics(np.array([defective] * 3), np.arange(3.0))
    assert len(image) == 3 and set(image.values()) == {None}


def test_a_useless_image_score_is_at_chance():
    labels = np.array([True, False, True, False, False])
    result = metrics.image_metrics(labels, np.zeros(5, np.float32))
    assert result == {
        "image_auroc": 0.5,
        "image_ap": pytest.approx(2 / 5),
        "image_f1_max": pytest.approx(2 * 0.4 / 1.4),
    }
