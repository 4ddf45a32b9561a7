"""From a publisher's folder to results.json, and every mistake in one clear line."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import layouts
import numpy as np
import pytest
import tifffile
import tiny_runs
from tiny_runs import tiny

from ast_jax import data
from ast_jax.backbones import run_weights
from ast_jax.errors import UserError
from ast_jax.features import category
from ast_jax.inference.pair import load_pair
from ast_jax.pipeline import evaluate, train, train_and_evaluate
from ast_jax.run import Run

REPOSITORY = Path(__file__).parents[1]
IMAGE_FIGURES = {"image_auroc", "image_auroc_max", "image_auroc_mean"} | {
    "image_ap",
    "image_f1_max",
}
PIXEL_FIGURES = {"pixel_auroc", "pixel_auroc_192", "pixel_ap", "pixel_f1_max"} | {
    f"au_pro_{limit}" for limit in (0.3, 0.1, 0.05, 0.01)
}

pytestmark = pytest.mark.usefixtures("quick_compilation", "library_convolutions")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compilation, library_convolutions):
    """An rgb3d run with two seeds on a stand-in of MVTec 3D-AD, and its results."""
    copied = tmp_path_factory.mktemp("end_to_end") / "run"
    shutil.copytree(tiny_runs.bagel(tmp_path_factory).directory, copied)
    run = Run.open(copied)
    return run, evaluate(run)


def test_a_run_leaves_what_others_read(trained):
    run, results = trained
    written = json.loads((run.directory / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    for tree in (written, written["teacher"]):
        figures = tree["categories"]["bagel"]
        assert figures.keys() >= IMAGE_FIGURES | PIXEL_FIGURES
        assert all(0 <= figures[name] <= 1 for name in IMAGE_FIGURES | PIXEL_FIGURES)
        assert tree["mean"]["image_auroc"] == pytest.approx(figures["image_auroc"])
    assert written["paper"]["categories"]["bagel"]["image_auroc"] == 0.983
    assert (run.directory / "report" / "index.html").exists()
    for seed in (0, 1):
        pair = run.directory / "bagel" / f"seed_{seed}"
        assert (pair / "teacher").is_dir()
        lines = (pair / "metrics.jsonl").read_text().splitlines()
        assert {"step", "stage", "loss", "images/s"} <= json.loads(lines[0]).keys()


def test_seeds_give_mean_deviation_and_ensemble(trained):
    _, results = trained
    figures = results["categories"]["bagel"]
    each = [figures["seeds"][seed]["image_auroc_mean"] for seed in ("0", "1")]
    assert figures["image_auroc_mean"] == pytest.approx(np.mean(each))
    assert figures["std"]["image_auroc_mean"] == pytest.approx(np.std(each, ddof=1))
    assert figures["ensemble"].keys() >= IMAGE_FIGURES | PIXEL_FIGURES


def test_the_protocol_takes_the_maximum_where_there_is_a_mask(trained):
    figures = trained[1]["categories"]["bagel"]
    assert figures["image_auroc"] == figures["image_auroc_max"]


def test_held_out_images_are_not_trained_on_and_calibrate(trained):
    run, _ = trained
    record = run.read_record("bagel", 0)
    assert len(record["train"]) == 9
    assert len(record["held_out"]) == 3
    assert not set(record["train"]) & set(record["held_out"])
    assert run.read_record("bagel", 1)["held_out"] == record["held_out"]
    tree = json.loads((run.directory / "bagel" / "calibration.json").read_text())
    assert len(tree["calibration"]["scores"]) == 3


def test_evaluating_again_on_other_devices_gives_the_same_results(trained, monkeypatch):
    run, results = trained
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    again = evaluate(Run.open(run.directory))
    figures, before = (r["categories"]["bagel"] for r in (again, results))
    for name in PIXEL_FIGURES:
        assert figures[name] == pytest.approx(before[name], abs=1e-3)


def test_saved_maps_have_the_layout_and_size_that_mvtecs_scripts_read(trained):
    run, _ = trained
    evaluate(run, save_maps=True)
    paths = sorted((run.directory / "maps" / "bagel").rglob("*.tiff"))
    assert len(paths) == 7
    assert paths[0].relative_to(run.directory) == Path("maps/bagel/test/bent/000.tiff")
    score_map = tifffile.imread(paths[0])
    assert score_map.dtype == np.float32
    assert score_map.shape == layouts.SIZE


def test_training_again_changes_nothing(trained):
    run, _ = trained
    path = run.directory / "bagel" / "seed_0" / "metrics.jsonl"
    before = path.read_text()
    train(run.config, run.directory)
    assert path.read_text() == before


def test_a_lost_teacher_of_a_finished_run_is_trained_again(trained, tmp_path):
    run, _ = trained
    copied = tmp_path / "run"
    subprocess.run(["cp", "-r", run.directory, copied], check=True)
    shutil.rmtree(copied / "bagel" / "seed_0" / "teacher")
    train(run.config, copied)
    before, after = (
        load_pair(Run.open(folder), "bagel", 0).variables["teacher"]
        for folder in (run.directory, copied)
    )
    # The run may be another worker's, whose programs round otherwise.
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    jax.tree.map(close, before, after)


@pytest.mark.parametrize("changed", ["added", "removed"])
def test_other_training_images_do_not_enter_a_trained_run(
    tmp_path_factory, tmp_path, changed
):
    """The threshold would come from images that the networks have learned."""
    screw = tiny_runs.screw(tmp_path_factory)
    run = Run.open(shutil.copytree(screw.directory, tmp_path / "run"))
    root = Path(shutil.copytree(run.config.dataset.root, tmp_path / "data"))
    run.config.dataset.root = str(root)
    images = sorted((root / "screw" / "train" / "good").iterdir())
    if changed == "added":
        shutil.copy(images[0], images[0].with_name("999.png"))
    else:
        images[0].unlink()
    with pytest.raises(UserError, match=r"training images differ .* another --workdir"):
        train(run.config, run.directory)
    if changed == "removed":
        with pytest.raises(UserError, match="was trained on and is not in"):
            evaluate(run, recalibrate=True)


def test_another_backbone_under_the_same_name_is_noticed(trained, tmp_path):
    run, _ = trained
    copied = tmp_path / "run"
    subprocess.run(["cp", "-r", run.directory, copied], check=True)
    path = copied / "bagel" / "seed_0" / "inputs.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"backbone": "other weights"}))
    with pytest.raises(UserError, match="backbone differ"):
        evaluate(Run.open(copied))


def test_rgb_on_mvtec_ad_runs_unmasked_and_decides_by_the_mean(tmp_path, monkeypatch):
    opened = []
    places = ((data, "load"), (run_weights, "create"), (category, "extract"))
    for module, name in places:
        monkeypatch.setattr(module, name, _noted(opened, getattr(module, name)))
    root = layouts.mvtec_ad(tmp_path / "data", "screw", train=8)
    config = tiny(tmp_path, "mvtec_ad", root, mode="rgb")
    config.calibration.fraction = 0.0
    results = train_and_evaluate(config, tmp_path / "run")
    # Once for both: the data, the backbone, and the features of each split.
    assert sorted(opened) == ["create", "extract", "extract", "load"]
    figures = results["categories"]["screw"]
    assert figures["image_auroc"] == figures["image_auroc_mean"]
    assert figures.keys() >= PIXEL_FIGURES


def _noted(calls, function):
    def noted(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return noted


def test_another_configuration_does_not_enter_an_existing_run(trained):
    run, _ = trained
    config = run.config.copy_and_resolve_references()
    config.teacher.hidden = 5
    with pytest.raises(UserError, match=r"teacher.hidden is 4 there and 5 here"):
        train(config, run.directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset.root": "/nowhere"}, "/nowhere"),
        ({"dataset.categories": ("bagle",)}, "bagel"),
        ({"dataset.image_size": 100}, "multiple of 32"),
        ({"mode": "4d"}, "mode must be one of rgb, 3d, rgb3d"),
        ({"train.seeds": (0, 0)}, "train.seeds must be distinct"),
        ({"backbone.name": "resnet"}, "resnet"),
        ({"train.batch_size": 9}, "does not divide by the 4 devices"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    trained, tmp_path, changes, message
):
    config = trained[0].config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_checkpoint_is_named(trained, tmp_path, damage):
    run, _ = trained
    copied = tmp_path / "run"
    subprocess.run(["cp", "-r", run.directory, copied], check=True)
    teacher = copied / "bagel" / "seed_0" / "teacher"
    if damage == "missing":
        subprocess.run(["rm", "-r", teacher], check=True)
    elif damage == "truncated":
        for path in teacher.rglob("*"):
            if path.is_file() and path.stat().st_size > 200:
                path.write_bytes(path.read_bytes()[:100])
    else:
        tree = json.loads((copied / "config.json").read_text())
        tree["config"]["teacher"]["hidden"] = 6
        (copied / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="teacher"):
        evaluate(Run.open(copied))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.teacher.hiden=3"], "Did you mean"),
        (["--config.dataset.root=/nowhere"], "/nowhere"),
    ],
)
def test_the_command_says_one_line_and_fails(tmp_path, flags, message):
    command = [sys.executable, "train.py", "--config=configs/mvtec_3d_ad.py"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.backbone.name=scattering"]
    done = subprocess.run(
        [*command, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()
