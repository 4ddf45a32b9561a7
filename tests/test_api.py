"""The functions for notebooks: fit, use the detector, evaluate moved data."""

import json
import shutil
import subprocess
import sys

import layouts
import numpy as np
import pytest
from tiny_runs import tiny

import ast_jax
from ast_jax import UserError
from ast_jax.run import Run

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)
CLOUDS = np.stack([layouts.cloud(seed) for seed in range(12)])
NEW = (layouts.cloud(50), layouts.cloud(51, defect=True))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("fit") / "run"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("cache"), "folder", "")


@pytest.fixture(scope="module")
def detector(workdir, config, quick_compilation, one_device, library_convolutions):
    """From arrays, two epochs, a quarter held out; without a backbone, to be fast."""
    return ast_jax.fit(xyz=CLOUDS, workdir=workdir, config=config, alpha=0.3)


def test_arrays_become_a_calibrated_detector_of_their_mode(detector, workdir):
    assert detector.config.mode == "3d"
    assert detector.calibration.alpha == 0.3
    assert len(detector.calibration.scores) == 3
    assert (workdir / "report" / "index.html").exists()


def test_score_is_that_of_predict_for_arrays_and_files(detector, tmp_path):
    expected = [detector.predict(xyz=cloud).score for cloud in NEW]
    np.testing.assert_allclose(detector.score(xyz=np.stack(NEW)), expected, rtol=1e-5)
    files = [layouts.save(tmp_path / f"{i}.tiff", one) for i, one in enumerate(NEW)]
    np.testing.assert_allclose(detector.score(xyz=files), expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"part 1: .*absent\.tiff"):
        detector.score(xyz=[files[0], tmp_path / "absent.tiff"])
    with pytest.raises(UserError, match="2 and 3"):
        detector.score([layouts.picture(0)] * 3, files)


def test_a_notebook_shows_score_decision_and_heat_map(detector):
    result = detector.predict(xyz=NEW[1])
    shown = result._repr_html_()
    assert f"{result.score:.4g}" in shown and f"{result.p_value:.3g}" in shown
    assert ("anomalous" if result.anomalous else "good") in shown
    assert 'src="data:image/png;base64,' in shown


def test_export_writes_the_file_and_its_card(detector, tmp_path):
    card = detector.export(tmp_path / "part.stablehlo")
    assert card["threshold"] == detector.calibration.threshold
    assert (tmp_path / "part.stablehlo").stat().st_size > 1000


def test_the_same_parts_again_are_not_trained_again(detector, workdir, config):
    log = workdir / "parts" / "seed_0" / "metrics.jsonl"
    before = log.read_text()
    again = ast_jax.fit(xyz=list(CLOUDS), workdir=workdir, config=config, alpha=0.3)
    assert log.read_text() == before
    assert again.calibration == detector.calibration
    with pytest.raises(UserError, match="another workdir"):
        ast_jax.fit(xyz=CLOUDS[:11], workdir=workdir, config=config, alpha=0.3)


def test_evaluate_finds_the_parts_where_they_are_now(detector, workdir, tmp_path):
    moved = shutil.copytree(workdir / "data" / "parts", tmp_path / "parts")
    before = json.loads((workdir / "results.json").read_text())
    results = ast_jax.evaluate(Run.open(workdir), dataset_root=moved)
    assert results["categories"].keys() == {"parts"}
    assert json.loads(json.dumps(results)) == before


def test_what_cannot_be_learned_from_is_told_before_anything_is_trained(
    config, tmp_path
):
    root = layouts.mvtec_ad(tmp_path / "data", "screw", train=2)
    layouts.mvtec_ad(tmp_path / "data", "bolt", train=2)
    several = tiny(tmp_path, "mvtec_ad", "")
    for wrong, named in (
        ({"source": root, "config": several}, "2 categories"),
        ({"source": tmp_path / "none"}, "none"),
        ({"source": root / "screw", "xyz": [layouts.cloud(0)]}, "xyz/ beside rgb/"),
        ({}, "no images"),
        ({"xyz": CLOUDS, "image_size": 100}, "multiple of 32"),
        ({"xyz": CLOUDS, "config": "foldr"}, "foldr"),
        ({"xyz": CLOUDS, "config": "ablation"}, "variants"),
    ):
        with pytest.raises(UserError, match=named):
            ast_jax.fit(workdir=tmp_path / "run", **({"config": config} | wrong))
        assert not (tmp_path / "run" / "config.json").exists()
    assert config.dataset.root == ""  # the caller's own does not change


def test_names_are_listed_before_they_are_imported_and_stay_light():
    """A command's flags need no JAX, and the class Detector needs no report."""
    script = """
import sys, ast_jax
assert {"Detector", "fit", "train", "evaluate", "UserError"} <= set(dir(ast_jax))
assert callable(ast_jax.default_config) and "jax" not in sys.modules
from ast_jax import Detector
heavy = ("matplotlib", "sklearn", "optax", "orbax", "tensorflow_datasets")
heavy += ("scipy.stats", "distrax", "tensorflow_probability")
assert not (loaded := sys.modules.keys() & set(heavy)), loaded
assert callable(ast_jax.fit) and callable(ast_jax.train)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
