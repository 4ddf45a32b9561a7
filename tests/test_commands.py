"""The commands as users start them: each with its flags, in its own process."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import layouts
import numpy as np
import pytest
import tifffile

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
SMALL = (
    *("mode=3d", "dataset.image_size=64", "teacher.blocks=2", "teacher.hidden=4"),
    *("teacher.epochs=2", "student.blocks=1", "student.width=8", "student.epochs=2"),
    *("calibration.fraction=0.25", "calibration.alpha=0.4"),
)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs a script of the repository, or with -m a module, from another folder."""
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_an_installed_command_exists_and_its_help_names_it_and_its_flags(name):
    module, function = PROJECT["scripts"][name].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    script = f"from {module} import {function}; {function}()"
    shown = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert f"{name} --" in shown
    assert "  --workdir: " in shown


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run by `train.py --profile`, started in its folder."""
    folder = tmp_path_factory.mktemp("commands")
    layouts.folder(folder / "here" / "bolts", depth=True, train=8)
    changes = (*SMALL, "dataset.root=here/bolts", "dataset.data_dir=cache")
    flags = [f"--config.{change}" for change in changes]
    train = [str(REPOSITORY / "train.py"), "--config=folder:small", "--workdir=run"]
    command(folder, *train, "--profile", *flags)
    return folder


@pytest.mark.slow
def test_train_profile_leaves_a_trace_of_each_network(trained):
    for network in ("teacher", "student"):
        traces = list((trained / "run/profile" / network).rglob("*.xplane.pb"))
        assert traces and traces[0].stat().st_size > 1000


@pytest.mark.slow
def test_evaluate_finds_a_moved_data_set_and_saves_maps(trained):
    before = json.loads((trained / "run" / "results.json").read_text())
    (trained / "run" / "results.json").unlink()
    (trained / "elsewhere").mkdir()
    shutil.move(trained / "here" / "bolts", trained / "elsewhere" / "bolts")
    evaluate = (str(REPOSITORY / "evaluate.py"), "--workdir=run", "--save_maps")
    command(trained, *evaluate, "--dataset_root=elsewhere/bolts")
    assert json.loads((trained / "run" / "results.json").read_text()) == before
    for kind in ("good", "stain"):
        paths = sorted((trained / "run/maps/bolts/test" / kind).glob("*.tiff"))
        assert [path.stem for path in paths] == ["part 0", "part 1"]
        score_map = tifffile.imread(paths[0])
        assert score_map.dtype == np.float32 and score_map.shape == layouts.SIZE


@pytest.mark.slow
def test_export_writes_a_file_and_its_card(trained):
    module = ("-m", "ast_jax.interop.export", "--workdir=run")
    command(trained, *module, "--category=bolts", "--output=out/bolts.stablehlo")
    card = json.loads((trained / "out" / "bolts.stablehlo.json").read_text())
    assert card["category"] == "bolts" and card["threshold"] > 0
    assert (trained / "out" / "bolts.stablehlo").stat().st_size > 1000
