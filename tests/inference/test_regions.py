"""Marked regions of small maps, worked out by hand."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from ast_jax.inference.regions import Region, marked_regions


def _map(*patches):
    score_map = np.zeros((40, 50), np.float32)
    for rows, columns, value in patches:
        score_map[slice(*rows), slice(*columns)] = value
    return score_map


def test_regions_come_strongest_first_with_box_area_and_peak():
    score_map = _map(((5, 8), (10, 15), 2), ((20, 30), (40, 50), 3))
    score_map[6, 12] = 2.5
    assert marked_regions(score_map, 1.0) == (
        Region((40, 20, 10, 10), 100, 3.0, (40, 20)),
        Region((10, 5, 5, 3), 15, 2.5, (12, 6)),
    )


def test_diagonal_neighbours_are_one_region_and_the_threshold_is_not_marked():
    score_map = np.diag(np.array([2, 2, 1, 2], np.float32))
    assert [r.area for r in marked_regions(score_map, 1.0)] == [2, 1]


def test_no_region_in_a_quiet_map():
    assert marked_regions(_map(), 0.0) == ()


@pytest.mark.parametrize("depth", [0.002, -0.003])
def test_depth_difference_is_the_height_of_the_defect_on_a_tilted_part(depth):
    patch = ((12, 22), (20, 30))
    rows, columns = np.mgrid[:40, :50]
    z = (0.5 + 1e-4 * rows - 2e-4 * columns).astype(np.float32)
    z += depth * (_map((*patch, 1)) > 0)
    (region,) = marked_regions(_map((*patch, 1)), 0.5, z.astype(np.float32))
    assert region.depth_difference == pytest.approx(depth, abs=1e-5)


def test_missing_z_and_other_regions_do_not_count():
    """Half the region and much of its surroundings are missing or marked."""
    score_map = _map(((10, 20), (10, 20), 2), ((10, 20), (21, 31), 1))
    z = np.full((40, 50), 0.4, np.float32)
    z[10:20, 10:20] = 0.41
    z[10:20, 21:31] = 0.9
    z[:15] = 0
    region, _ = marked_regions(score_map, 0.5, z)
    assert region.depth_difference == pytest.approx(0.01, abs=1e-6)


def test_no_depth_difference_without_present_pixels():
    patch = ((10, 20), (10, 20))
    empty = np.zeros((40, 50), np.float32)
    only_inside = np.where(_map((*patch, 1)) > 0, np.float32(0.4), np.float32(0))
    for z in (empty, only_inside, None):
        (region,) = marked_regions(_map((*patch, 1)), 0.5, z)
        assert region.depth_difference is None


def test_a_region_that_fills_the_map_has_no_surroundings():
    ones = np.ones((6, 7), np.float32)
    (region,) = marked_regions(ones, 0.5, ones)
    assert region == Region((0, 0, 7, 6), 42, 1.0, (0, 0), None)


def test_regions_are_json():
    z = np.ones((40, 50), np.float32)
    (region,) = marked_regions(_map(((5, 8), (10, 15), 2)), 1.0, z)
    assert json.loads(json.dumps(asdict(region))) == {
        "box": [10, 5, 5, 3],
        "area": 15,
        "peak": 2.0,
        "peak_at": [10, 5],
        "depth_difference": 0.0,
    }
