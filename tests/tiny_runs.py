"""Runs that train in seconds, once a session, for tests that only read them.

The workers of a parallel session share a run: one trains it, the others open it.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
from ml_collections import ConfigDict
from shortcuts import library_convolutions, one_device, quick_compilation

from ast_jax.config import ast_plus, default
from ast_jax.inference.category import calibrate_category
from ast_jax.pipeline import open_categories, train
from ast_jax.run import Run

_made: dict[str, Run] = {}


def tiny(folder: Path, name: str, root: Path | str, **changes) -> ConfigDict:
    """Returns a configuration that trains in seconds on a small stand-in data set."""
    config = default()
    config.dataset.update(name=name, root=str(root), image_size=64)
    config.dataset.data_dir = str(folder / "cache")
    config.backbone.name = "scattering"
    config.teacher.update(blocks=1, hidden=4, epochs=2)
    config.student.update(blocks=1, width=8, epochs=2)
    config.calibration.update(alpha=0.5, fraction=0.25)
    config.update(changes)
    return config


def bagel(tmp_path_factory) -> Run:
    """Returns a run on RGB and 3D: two seeds, float16 features, a binary mask."""
    return _share(tmp_path_factory, _bagel)


def screw(tmp_path_factory) -> Run:
    """Returns a run on RGB alone: one seed, no held-out images."""
    return _share(tmp_path_factory, _screw)


def plus(tmp_path_factory) -> Run:
    """Returns a run of AST+ on depth as normals: two groups a pair, one seed."""
    return _share(tmp_path_factory, _plus)


def _bagel(folder: Path) -> None:
    root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=12, validation=0)
    config = tiny(folder, "mvtec_3d_ad", root)
    config.dataset.feature_dtype = "float16"
    config.train.update(seeds=(0, 1), mask="binary")
    _train(config, folder / "run")  # on eight devices: two seeds, four a batch


def _screw(folder: Path) -> None:
    root = layouts.mvtec_ad(folder / "data", "screw", train=8)
    config = tiny(folder, "mvtec_ad", root, mode="rgb")
    config.calibration.fraction = 0.0
    with one_device():
        _train(config, folder / "run")


def _plus(folder: Path) -> None:
    root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=12, validation=0)
    config = ast_plus(tiny(folder, "mvtec_3d_ad", root, mode="3d"))
    config.teacher.update(blocks=1, hidden=4, epochs=2)
    config.student.update(blocks=1, width=8, epochs=2)
    config.train.batch_size = 8
    with one_device():
        _train(config, folder / "run")


def _train(config: ConfigDict, folder: Path) -> None:
    """Trains and calibrates as train.py does, without figures and report."""
    with library_convolutions(), quick_compilation():
        run = train(config, folder)
        for category in open_categories(config):
            calibrate_category(run, category)


def _share(tmp_path_factory, make: Callable[[Path], None]) -> Run:
    """Returns the run that `make` writes to `run`; the first worker makes it."""
    name = make.__name__
    if name not in _made:
        folder = _session_folder(tmp_path_factory) / f"run{name}"
        finished = folder / "finished"
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                # A worker that failed may have left a part of it.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                finished.touch()
        _made[name] = Run.open(folder / "run")
    return _made[name]


def _session_folder(tmp_path_factory) -> Path:
    """Returns a folder that all workers of the session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
