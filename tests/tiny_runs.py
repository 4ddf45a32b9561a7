"""Runs that train in seconds, made once a session, for tests that only read them."""

import layouts
from test_end_to_end import tiny

from ast_jax.evaluation.evaluate import evaluate
from ast_jax.run import Run
from ast_jax.training.train import train

_made: dict[str, Run] = {}


def bagel(tmp_path_factory) -> Run:
    """RGB and 3D, two seeds, calibrated; with everything that changes the input."""
    if "bagel" not in _made:
        folder = tmp_path_factory.mktemp("bagel")
        root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=12, validation=0)
        config = tiny(folder, "mvtec_3d_ad", root)
        config.dataset.feature_dtype = "float16"
        config.train.update(seeds=(0, 1), mask="binary")
        run = train(config, folder / "run")
        evaluate(run)
        _made["bagel"] = run
    return _made["bagel"]


def screw(tmp_path_factory) -> Run:
    """RGB alone, one seed, without held-out images."""
    if "screw" not in _made:
        folder = tmp_path_factory.mktemp("screw")
        root = layouts.mvtec_ad(folder / "data", "screw", train=8)
        config = tiny(folder, "mvtec_ad", root, mode="rgb")
        config.calibration.fraction = 0.0
        run = train(config, folder / "run")
        evaluate(run)
        _made["screw"] = run
    return _made["screw"]
