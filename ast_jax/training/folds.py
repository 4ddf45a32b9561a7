"""Decides which good images each pair of a category learns, and which it leaves out."""

import numpy as np
from absl import logging
from jaxtyping import Int

from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.run import fold_member

Rows = Int[np.ndarray, "_"]
_FEW = 5.0
"""With fewer than _FEW / alpha images, a fifth of them is less than 1 / alpha."""


def fold_count(category: Category) -> int:
    """The number of folds that are left out in turn; 1 with split calibration.

    Raises:
      UserError: there are fewer images than folds.
    """
    chosen, images = category.config.calibration, len(category.parts["train"].ids)
    method = chosen.method
    if method == "auto":
        few = images < _FEW / chosen.alpha and images >= 2 * chosen.folds
        shipped = len(category.parts["validation"]) > 0
        method = "cross" if few and not shipped else "split"
        logging.info(
            "%s: %s calibration of %d good images.", category.name, method, images
        )
    if method == "split":
        return 1
    if images < 2 * chosen.folds:
        raise UserError(
            f"{category.name}: calibration.folds = {chosen.folds} takes at least "
            f"{2 * chosen.folds} good images and there are {images}; add images or "
            "take fewer folds."
        )
    return chosen.folds


def members(category: Category) -> list[str]:
    """The names of the pairs to train; `Run.members` finds the same names later."""
    count, seeds = fold_count(category), category.config.train.seeds
    if count == 1:
        return [str(seed) for seed in seeds]
    return [fold_member(seed, fold) for seed in seeds for fold in range(count)]


def split_fold(category: Category, fold: str) -> tuple[Rows, Rows]:
    """Splits the good images at random into (trained on, left out), each ascending.

    All seeds share one split, because their ensemble is calibrated on images that no
    pair has seen.

    Args:
      category: its data.
      fold: of `run.seed_and_fold`.

    Raises:
      UserError: no image is left to train on.
    """
    config, images = category.config, len(category.parts["train"].ids)
    seed = config.train.seeds[0]
    if fold:
        order = np.random.default_rng([seed, 2]).permutation(images)
        mine = order[int(fold.removeprefix("fold_")) :: config.calibration.folds]
        return np.setdiff1d(np.arange(images), mine), np.sort(mine)
    # If the publisher ships a validation split, that is the held-out set.
    shipped = len(category.parts["validation"])
    return hold_out(images, 0.0 if shipped else config.calibration.fraction, seed)


def hold_out(n: int, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Splits n good images at random into (trained on, held out), each ascending.

    Raises:
      UserError: no image is left to train on.
    """
    held_out = round(n * fraction)
    if held_out >= n:
        raise UserError(
            f"calibration.fraction {fraction} leaves none of {n} good images to train."
        )
    order = np.random.default_rng([seed, 1]).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
