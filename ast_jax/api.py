"""The functions for programs and notebooks: `fit`, `train` and `evaluate`.

They are the commands without flags: each makes a configuration and calls the pipeline.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ast_jax import config_file, data, pipeline
from ast_jax.data.part import Sequences
from ast_jax.data.write_parts import write_parts
from ast_jax.errors import UserError
from ast_jax.files import expand_home
from ast_jax.inference.detector import Detector
from ast_jax.run import Run

Configuration = ConfigDict | str | os.PathLike


def fit(
    source: str | os.PathLike | Sequences | None = None,
    *,
    xyz: Sequences | None = None,
    workdir: str | os.PathLike | None = None,
    mode: str | None = None,
    alpha: float | None = None,
    calibration: str | None = None,
    any_direction: bool | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] | None = None,
    image_size: int | None = None,
    backbone: str | None = None,
    weights: str | os.PathLike | None = None,
    config: Configuration = "folder",
) -> Detector:
    """Learns from good parts: trains, calibrates on held-out ones, loads the detector.

    Continues a run in `workdir`; a finished one is evaluated again and loaded.

    Args:
      source: a folder in the layout of docs/data.md (at least `good/`) or a manifest;
        or good parts: a sequence of files, of Pillow images, or of arrays [h,w],
        [h,w,3] or [h,w,4] of 8 or 16 bits, such as one array [n,h,w,3].
      xyz: the point cloud of each part, with a sequence or instead of it: files, or
        arrays [h,w,3] or [h,w] in metres (floats) or millimetres (integers).
      workdir: the run's folder, with the report. By default a temporary folder, which
        is deleted at the end of the program.
      mode: rgb, 3d or rgb3d. By default it follows a sequence's content, or is the
        configuration's for a folder.
      alpha: `calibration.alpha`, the wanted false-alarm rate.
      calibration: `calibration.method`, split, cross or auto.
      any_direction: `dataset.any_direction`, whether parts lie in any direction.
      epochs: of each network.
      seeds: `train.seeds`; several make an ensemble.
      image_size: `dataset.image_size`, a multiple of 32.
      backbone: `backbone.name`; "scattering" needs no weights.
      weights: `backbone.weights`, a file.
      config: everything else: a configuration, a shipped name, or the path of a
        configuration file. "folder" is AST+, "folder:ast" the paper's method.

    Raises:
      UserError: the parts, the configuration or the run's folder cannot be used.
    """
    if workdir is None:
        workdir = tempfile.mkdtemp(prefix="ast_jax.")
        atexit.register(shutil.rmtree, workdir, ignore_errors=True)
    workdir = expand_home(workdir)
    config = _configuration(config)
    root, found = _root(source, xyz, workdir)
    changes = {
        "dataset.root": str(root),
        "mode": mode or found or config.mode,
        "calibration.alpha": alpha,
        "calibration.method": calibration,
        "dataset.any_direction": any_direction,
        "teacher.epochs": epochs,
        "student.epochs": epochs,
        "train.seeds": seeds and tuple(seeds),
        "dataset.image_size": image_size,
        "backbone.name": backbone,
        "backbone.weights": weights and str(weights),
    }
    config.update_from_flattened_dict(
        {key: value for key, value in changes.items() if value is not None}
    )
    categories = data.categories(config.dataset)
    if len(categories) > 1:
        raise UserError(
            f"{root} has {len(categories)} categories; choose one by "
            "config.dataset.categories, or train them all with ast_jax.train."
        )
    pipeline.train_and_evaluate(config, workdir)
    return Detector.load(workdir)


def train(
    config: Configuration, workdir: str | os.PathLike, *, profile: bool = False
) -> Run:
    """Trains every category and seed of a configuration; call `evaluate` after it.

    Args:
      config: a configuration, a shipped name, or the path of a configuration file.
      workdir: the run's folder; a run there is continued.
      profile: whether to write a trace of some steps to its subfolder `profile`.

    Raises:
      UserError: the configuration, the data or the folder cannot be used.
    """
    return pipeline.train(_configuration(config), workdir, profile=profile)


def evaluate(
    run: Run | str | os.PathLike,
    *,
    dataset_root: str | os.PathLike | None = None,
    save_maps: bool = False,
    recalibrate: bool = False,
    backbone_weights: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Evaluates a trained run: figures, report, and a threshold if it has none yet.

    Args:
      run: a run, or its folder.
      dataset_root: the data set's new folder, if it was moved.
      save_maps: whether to write every test image's score map below DIR/maps.
      recalibrate: whether to take a new threshold, from the images as they are now.
      backbone_weights: the new path of the backbone's file, if it was moved.

    Returns:
      The tree of `results.json`.

    Raises:
      UserError: there is no such run, or its data or checkpoints are damaged.
    """
    if not isinstance(run, Run):
        run = Run.open(run)
    config = run.config.copy_and_resolve_references()
    if dataset_root is not None:
        config.dataset.root = str(dataset_root)
    if backbone_weights is not None:
        config.backbone.weights = str(backbone_weights)
    return pipeline.evaluate(run, config, save_maps=save_maps, recalibrate=recalibrate)


def _configuration(config: Configuration) -> ConfigDict:
    """A copy of a configuration, which may be given by its name or path."""
    if not isinstance(config, ConfigDict):
        config = config_file.load(str(config))
    if "variants" in config:
        raise UserError("a configuration with variants is for ast-train alone.")
    return config.copy_and_resolve_references()


def _root(
    source: str | os.PathLike | Sequences | None,
    xyz: Sequences | None,
    workdir: Path,
) -> tuple[Path, str | None]:
    """The folder to learn from, and the mode of parts; writes parts to a folder."""
    if isinstance(source, str | os.PathLike):
        if xyz is not None:
            raise UserError(
                f"{source}: a folder has its point clouds in xyz/ beside rgb/; give "
                "xyz with a sequence of images."
            )
        return Path(source), None
    root = workdir / "data" / "parts"
    write_parts(root, source, xyz)
    names = {"rgb": source, "3d": xyz}
    return root, "".join(name for name, parts in names.items() if parts is not None)
