"""Runs that train in seconds, made once per session, for tests that only read them."""

import layouts
from test_end_to_end import tiny

from ast_jax.config import ast_plus
from ast_jax.inference.category import calibrate_category
from ast_jax.pipeline import open_categories, train
from ast_jax.run import Run

_made: dict[str, Run] = {}


def bagel(tmp_path_factory) -> Run:
    """RGB and 3D, two seeds, calibrated; with all options that change the input."""
    if "bagel" not in _made:
        folder = tmp_path_factory.mktemp("bagel")
        root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=12, validation=0)
        config = tiny(folder, "mvtec_3d_ad", root)
        config.dataset.feature_dtype = "float16"
        config.train.update(seeds=(0, 1), mask="binary")
        _made["bagel"] = _trained(config, folder / "run")
    return _made["bagel"]


def screw(tmp_path_factory) -> Run:
    """RGB alone, one seed, without held-out images."""
    if "screw" not in _made:
        folder = tmp_path_factory.mktemp("screw")
        root = layouts.mvtec_ad(folder / "data", "screw", train=8)
        config = tiny(folder, "mvtec_ad", root, mode="rgb")
        config.calibration.fraction = 0.0
        _made["screw"] = _trained(config, folder / "run")
    return _made["screw"]


def plus(tmp_path_factory) -> Run:
    """AST+ on depth as normals: two groups a pair, one seed, calibrated."""
    if "plus" not in _made:
        folder = tmp_path_factory.mktemp("plus")
        root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=12, validation=0)
        config = ast_plus(tiny(folder, "mvtec_3d_ad", root, mode="3d"))
        config.teacher.update(blocks=1, hidden=4, epochs=2)
        config.student.update(blocks=1, width=8, epochs=2)
        config.train.batch_size = 8  # the simulated devices share it
        _made["plus"] = _trained(config, folder / "run")
    return _made["plus"]


def _trained(config, folder) -> Run:
    """A run as train.py makes it, without the figures and the report."""
    run = train(config, folder)
    for category in open_categories(config):
        calibrate_category(run, category)
    return run
