"""dataset.any_direction: networks learn parts in four directions, and only those."""

import json
import shutil

import layouts
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ast_jax import Detector
from ast_jax.pipeline import open_categories, train_and_evaluate
from ast_jax.run import Run
from ast_jax.training.folds import split_fold

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any_direction")
    root = layouts.mvtec_ad(folder / "data", "screw", train=8)
    config = tiny_runs.tiny(folder, "mvtec_ad", root, mode="rgb")
    config.dataset.any_direction = True
    config.calibration.update(method="cross", folds=4)
    config.train.batch_size = 4
    return config


def test_features_are_those_of_the_turned_pictures(config, tmp_path):
    (category,) = open_categories(config)
    root = tmp_path / "turned"
    shutil.copytree(config.dataset.root, root)
    for path in (root / "screw" / "train" / "good").iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    other = config.copy_and_resolve_references()
    other.dataset.update(root=str(root), data_dir=str(tmp_path), any_direction=False)
    (turned,) = open_categories(other)
    rows = np.array([1, 5, 6])
    found = category.inputs_to_learn(rows)
    assert len(found) == 4 * len(rows)
    for at, inputs in ((0, category.inputs("train")), (3, turned.inputs("train"))):
        for offset, row in enumerate(rows):
            ours = found.take(np.array([at + offset]))["x"]
            np.testing.assert_allclose(ours, inputs.take(np.array([row]))["x"])


def test_a_run_learns_every_turn_of_what_it_does_not_leave_out(
    config, tmp_path, caplog
):
    (category,) = open_categories(config)
    trained, left_out = split_fold(category, "fold_0")
    learned = category.inputs_to_learn(trained)
    assert not set(left_out) & {row % 8 for row in learned.rows}
    train_and_evaluate(config, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    record = run.read_record("screw", "0/fold_0")
    assert len(record["train"]) == 6
    rows = (run.seed_directory("screw", "0/fold_0") / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in rows.splitlines()]
    assert steps[-1] == config.student.epochs * 4 * 6 // 4
    caplog.clear()
    calibration = Detector.load(run.directory).calibration
    assert len(calibration.scores) == 8  # pictures as they are, in no other direction
    assert "train.py finishes it" not in caplog.text
