"""Planted defects among good parts are listed, and few of the good ones."""

import json

import numpy as np
import pytest

from ast_jax.config import ast_plus, default
from ast_jax.data.datasets.synthetic import render
from ast_jax.data.write_parts import write_parts
from ast_jax.inference.odd_parts import discoveries, odd_parts, tail_p_values
from ast_jax.pipeline import train_and_evaluate

DRAWS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "gamma": lambda rng, n: rng.gamma(4.0, size=n),
    "lognormal": lambda rng, n: np.exp(0.4 * rng.standard_normal(n)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_of_3_planted_among_100_at_least_2_are_listed_and_at_most_2_good_ones(draw):
    rng = np.random.default_rng(0)
    median, high = np.quantile(draw(rng, 100_000), [0.5, 0.95])
    planted = median + (high - median) * np.array([3, 3.5, 4])
    hits, false = [], []
    for _ in range(60):
        listed = odd_parts(np.concatenate([draw(rng, 97), planted]))
        hits.append(sum(part >= 97 for part in listed))
        false.append(sum(part < 97 for part in listed))
    assert np.mean(np.array(hits) >= 2) > 0.85
    assert np.mean(np.array(false) <= 2) > 0.97


def test_ordinary_parts_are_seldom_listed():
    rng = np.random.default_rng(1)
    listed = [bool(odd_parts(rng.gamma(4.0, size=100))) for _ in range(100)]
    assert np.mean(listed) < 0.15


def test_the_oddest_comes_first():
    scores = np.append(np.linspace(0, 1, 98), [9.0, 20.0])
    assert odd_parts(scores) == [99, 98]


def test_p_values_of_exponential_parts_are_those_of_their_tail():
    rng = np.random.default_rng(2)
    scores = rng.exponential(size=1000)
    p_values = tail_p_values(scores)
    upper = scores > np.quantile(scores, 0.8)
    np.testing.assert_allclose(p_values[upper], np.exp(-scores[upper]), rtol=0.8)
    assert (p_values[scores < np.quantile(scores, 0.7)] == 1).all()


def test_scores_in_other_units_list_the_same():
    scores = np.random.default_rng(3).gamma(1.0, size=80) ** 2
    assert odd_parts(scores) == odd_parts(1000 * scores - 7)


@pytest.mark.parametrize("scores", [np.arange(19.0) ** 9, np.ones(40), np.zeros(0)])
def test_without_a_tail_nothing_is_listed(scores):
    assert odd_parts(scores) == []


def test_one_that_differs_from_equal_ones_is_listed():
    assert odd_parts(np.append(np.ones(40), 2.0)) == [40]


def test_discoveries_by_hand():
    p_values = np.array([0.9, 0.02, 0.04, 0.005, 0.5])
    # rate · i / n: 0.02, 0.04, 0.06, 0.08, 0.1 against 0.005, 0.02, 0.04, 0.5, 0.9
    assert discoveries(p_values, 0.1).tolist() == [False, True, True, True, False]
    assert not discoveries(np.array([0.3, 0.2])).any()


def listed_by_a_run(folder, seed):
    """The numbers of the odd parts in results.json; 97 to 99 are defective.

    AST+ with small networks learns from a folder in which all 100 are called good.
    """
    kinds = ["good"] * 97 + ["contamination", "cut", "hole"]
    ids = [f"train/{kind}/{number:03d}" for number, kind in enumerate(kinds)]
    images = [render("flange", seed, part_id, size=128).image for part_id in ids]
    write_parts(folder / "parts", images, None)
    config = ast_plus(default())
    config.mode, config.backbone.name = "rgb", "scattering"
    config.dataset.update(name="folder", root=str(folder / "parts"), image_size=128)
    config.dataset.data_dir = str(folder / "cache")
    config.teacher.update(blocks=1, hidden=8, epochs=2)
    config.student.update(blocks=1, width=16, epochs=4)
    config.calibration.update(method="cross", folds=3, alpha=0.05)
    train_and_evaluate(config, folder / "run")
    results = json.loads((folder / "run" / "results.json").read_text())
    return [int(part_id[-3:]) for part_id in results["odd_parts"]["parts"]]


@pytest.mark.slow
def test_trained_networks_list_planted_defects(tmp_path, quick_compilation, one_device):
    listed = listed_by_a_run(tmp_path, seed=0)
    assert sum(part >= 97 for part in listed) >= 2
    assert sum(part < 97 for part in listed) <= 2
