"""AU-PRO against a curve drawn at every threshold, and its edge cases."""

import numpy as np
import pytest

from ast_jax.data.datasets.mvtec_loco import saturation_area
from ast_jax.evaluation.region_overlap import (
    area_under_pro,
    area_under_pro_sampled,
    scores_by_component,
    scores_by_defect,
)

_LIMITS = (1.0, 0.3, 0.05, 0.01)


def _random_defects(seed, levels):
    """Three tied maps with two overlapping defects each, and a good one."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for image in range(4):
        boxes = [np.zeros((16, 20), bool) for _ in range(2 * (image > 0))]
        for box in boxes:
            row, column = rng.integers(0, 10, 2)
            box[row : row + rng.integers(2, 6), column : column + 5] = True
        noise = rng.random((16, 20)) + 0.4 * sum(boxes, np.zeros((16, 20)))
        maps.append(np.round(noise * levels).astype(np.float32))
        masks.append(boxes)
    return maps, masks


def _area_by_drawing(maps, masks, saturations, limit):
    """The sPRO curve at every distinct score, integrated by the trapezoidal rule."""
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    good = np.concatenate(
        [
            m[~np.any(k, axis=0)] if k else m.ravel()
            for m, k in zip(maps, masks, strict=True)
        ]
    )
    fpr, spro = [0.0], [0.0]
    for t in thresholds:
        fpr.append((good >= t).mean())
        overlaps = [
            min(1.0, (score_map[mask] >= t).sum() / area)
            for score_map, defects, areas in zip(maps, masks, saturations, strict=True)
            for mask, area in zip(defects, areas, strict=True)
        ]
        spro.append(np.mean(overlaps))
    x, y = np.array(fpr), np.array(spro)
    inside = x <= limit
    x_end, y_end = np.append(x[inside], limit), y[inside]
    return np.trapezoid(np.append(y_end, np.interp(limit, x, y)), x_end) / limit


@pytest.mark.parametrize("levels", [3, 30, 10**6])
@pytest.mark.parametrize("share", [0.25, 0.7, 1.0])
def test_area_equals_the_drawn_curve(levels, share):
    maps, masks = _random_defects(levels, levels)
    saturations = [[share * mask.sum() for mask in defects] for defects in masks]
    areas = area_under_pro(scores_by_defect(maps, masks, saturations), _LIMITS)
    drawn = [_area_by_drawing(maps, masks, saturations, limit) for limit in _LIMITS]
    np.testing.assert_allclose(areas, drawn, atol=1e-12)


def test_a_constant_map_draws_the_diagonal():
    maps, masks = [np.ones((9, 9), np.float32)], [np.eye(9, dtype=bool)]
    areas = area_under_pro(scores_by_component(maps, masks), _LIMITS)
    np.testing.assert_allclose(areas, np.array(_LIMITS) / 2)


def test_diagonal_neighbours_are_one_region():
    mask = np.zeros((6, 8), bool)
    mask[[0, 1, 2, 5], [0, 1, 2, 7]] = True
    scores = scores_by_component(
        [np.arange(48, dtype=np.float32).reshape(6, 8)], [mask]
    )
    assert [r.tolist() for r in scores.regions] == [[0, 9, 18], [47]]
    assert scores.saturations == (3, 1)


def test_small_and_large_regions_count_equally():
    """One of two regions found, whatever their sizes, is a PRO of one half."""
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = mask[5:15, 5:15] = True
    score_map = np.zeros((20, 20), np.float32)
    score_map[0, 0] = 9
    score_map[5:15, 5:15] = -1
    areas = area_under_pro(scores_by_component([score_map], [mask]), (0.3,))
    np.testing.assert_allclose(areas, [0.5])


def test_a_defect_is_found_at_its_saturation_area():
    mask = np.zeros((10, 10), bool)
    mask[:4] = True
    score_map = np.zeros((10, 10), np.float32)
    score_map[0, :5] = 1
    score_map[1:4] = -1
    full = area_under_pro(scores_by_defect([score_map], [[mask]], [[40.0]]), (0.3,))
    quick = area_under_pro(scores_by_defect([score_map], [[mask]], [[5.0]]), (0.3,))
    np.testing.assert_allclose(quick, [1.0])
    assert full[0] < 0.5


def test_components_of_one_mask_equal_defects_given_apart():
    maps, masks = [np.random.default_rng(0).random((8, 9), np.float32)], []
    for column in (0, 6):
        masks.append(np.zeros((8, 9), bool))
        masks[-1][2:5, column : column + 2] = True
    together = scores_by_component(maps, [masks[0] | masks[1]])
    apart = scores_by_defect(maps, [masks], [[6.0, 6.0]])
    np.testing.assert_array_equal(
        area_under_pro(together, _LIMITS), area_under_pro(apart, _LIMITS)
    )


def test_sampling_every_good_pixel_approaches_the_exact_area():
    maps, defects = _random_defects(0, 10**6)
    scores = scores_by_component(maps[1:], [np.any(k, axis=0) for k in defects[1:]])
    exact = area_under_pro(scores, (0.3,))[0]
    error = [
        abs(area_under_pro_sampled(scores, 0.3, thresholds=n) - exact)
        for n in (10, scores.good.size)
    ]
    assert error[1] < 2e-3 < error[0]


def test_sampled_area_is_that_of_mvtec_3d_ads_ranks():
    """Four good pixels, three thresholds, worked out by hand: ranks 0, 1, 3."""
    score_map = np.array([[1, 2, 3, 4, 2.5, 3.5]], np.float32)
    mask = np.array([[False] * 4 + [True] * 2])
    scores = scores_by_component([score_map], [mask])
    # Points (FPR, PRO): (0, 0) at 4, (0.5, 1) at 2, (0.75, 1) at 1, (1, 1).
    assert area_under_pro_sampled(scores, 0.25, thresholds=3) == pytest.approx(0.25)
    assert area_under_pro_sampled(scores, 1.0, thresholds=3) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("size", "threshold", "relative", "expected"),
    [(99, 60, False, 60), (40, 60, False, 40), (99, 0.5, True, 49), (2, 0.4, True, 1)],
)
def test_saturation_area_follows_mvtec_loco(size, threshold, relative, expected):
    mask = np.arange(100).reshape(10, 10) < size
    assert saturation_area(mask, threshold, relative=relative) == expected


def test_a_mask_without_a_pixel_is_no_region():
    empty = np.zeros((3, 4), bool)
    maps = [np.ones((3, 4), np.float32)]
    assert not scores_by_defect(maps, [[empty]], [[1.0]]).comparable
    assert not scores_by_component(maps, [empty]).comparable


def test_wrong_input_is_refused():
    score_map, mask = np.ones((3, 4), np.float32), np.ones((3, 4), bool)
    with pytest.raises(ValueError, match=r"\(3, 4\) for a mask of \(4, 3\)"):
        scores_by_component([score_map], [mask.T])
    with pytest.raises(ValueError, match="not finite"):
        scores_by_component([score_map * np.float32(np.nan)], [mask])
    with pytest.raises(ValueError, match="saturation area of 0"):
        scores_by_defect([score_map], [[mask]], [[0.0]])
    with pytest.raises(ValueError, match="longer"):
        scores_by_component([score_map], [mask, mask])
