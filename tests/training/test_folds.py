"""Which images are left out, and when calibration is cross."""

import numpy as np
import pytest

from ast_jax.config import default
from ast_jax.data.part import Entry, Parts
from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.training.folds import fold_count, members, split_fold


def _unread(position):
    raise AssertionError(position)


def category(images, *, validation=0, **calibration):
    config = default()
    config.calibration.update(alpha=0.05, fraction=0.2, **calibration)
    counts = {"train": images, "validation": validation}
    parts = {
        name: Parts([Entry(str(i), "good", {}) for i in range(count)], _unread)
        for name, count in counts.items()
    }
    return Category("cap", parts, None, config)


@pytest.mark.parametrize(
    ("images", "validation", "folds"),
    [(99, 0, 5), (100, 0, 1), (40, 0, 5), (9, 0, 1), (50, 20, 1)],
)
def test_few_images_without_a_validation_split_are_calibrated_by_cross(
    images, validation, folds
):
    assert fold_count(category(images, validation=validation, method="auto")) == folds


def test_the_default_is_split_and_its_pairs_are_the_seeds():
    split = category(10)
    split.config.train.seeds = (0, 7)
    assert (fold_count(split), members(split)) == (1, ["0", "7"])
    trained, held_out = split_fold(split, "")
    assert (len(trained), len(held_out)) == (8, 2)


@pytest.mark.parametrize("images", [40, 43])
def test_folds_divide_the_images_evenly_and_the_same_for_all_seeds(images):
    cross = category(images, method="cross", folds=4)
    cross.config.train.seeds = (3, 0)
    assert members(cross)[:5] == [*(f"3/fold_{k}" for k in range(4)), "0/fold_0"]
    splits = [split_fold(cross, f"fold_{fold}") for fold in range(4)]
    rows = np.concatenate([mine for _, mine in splits])
    assert sorted(rows) == list(range(images))
    sizes = [len(mine) for _, mine in splits]
    assert max(sizes) - min(sizes) <= 1
    for trained, mine in splits:
        assert sorted([*trained, *mine]) == list(range(images))


def test_fewer_images_than_folds_take_are_refused():
    with pytest.raises(UserError, match=r"folds = 5 takes at least 10 .* there are 9"):
        fold_count(category(9, method="cross"))
