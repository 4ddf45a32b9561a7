"""Cross calibration from pictures to decisions: folds train, and their pairs decide."""

import json
import shutil
from pathlib import Path

import jax
import layouts
import numpy as np
import pytest
from tiny_runs import tiny

from ast_jax import Detector
from ast_jax.errors import UserError
from ast_jax.inference import monitor_file
from ast_jax.interop.export import model_card, whole_function
from ast_jax.pipeline import evaluate_category, open_categories, train
from ast_jax.run import Run

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory, quick_compilation, one_device, library_convolutions):
    """A run of three folds of 13 images, and what evaluation found."""
    folder = tmp_path_factory.mktemp("cross")
    root = layouts.mvtec_3d_ad(folder / "data", "bagel", train=13, validation=0)
    config = tiny(folder, "mvtec_3d_ad", root, mode="3d")  # no backbone: quick
    config.calibration.update(method="cross", folds=3)
    config.train.tasks_per_device = 3
    run = train(config, folder / "run")
    (category,) = open_categories(config)
    return run, evaluate_category(run, category)


def test_every_good_image_is_left_out_by_one_fold(crossed):
    run, evaluation = crossed
    names = run.members("bagel")
    assert names == ("0/fold_0", "0/fold_1", "0/fold_2")
    records = [run.read_record("bagel", name) for name in names]
    left_out = [part for record in records for part in record["held_out"]]
    assert len(left_out) == len(set(left_out)) == 13
    for record in records:
        assert not set(record["train"]) & set(record["held_out"])
        assert len(record["train"]) + len(record["held_out"]) == 13
    assert evaluation.left_out.parts.ids == tuple(left_out)
    calibration = evaluation.calibration
    assert (len(calibration.scores), calibration.folds) == (13, 3)
    tree = json.loads((run.directory / "bagel" / "calibration.json").read_text())
    assert sorted(tree["scales"]) == list(names)


@pytest.fixture(scope="module")
def detector(crossed):
    return Detector.load(crossed[0].directory)


@pytest.fixture(scope="module")
def predictions(crossed, detector):
    folder = Path(crossed[0].config.dataset.root, "bagel")

    def files(part_id):
        kind, stem = Path(part_id).parent, part_id[-3:]
        return None, folder / kind / f"xyz/{stem}.tiff"

    ids = crossed[1].parts.ids
    return list(detector.predict_many(files(part_id) for part_id in ids))


def test_the_detector_decides_as_evaluation_does(crossed, predictions):
    _, evaluation = crossed
    scores, calibration = evaluation.scores["student"], evaluation.calibration
    np.testing.assert_allclose(
        [p.score_by_fold for p in predictions], scores.by_fold, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose([p.score for p in predictions], scores.image, rtol=1e-4)
    assert [p.anomalous for p in predictions] == list(calibration.anomalous(scores.own))
    for p in predictions:
        assert p.anomalous == (p.score > p.threshold)
        assert bool(p.regions) == bool((p.map > p.pixel_threshold).any())


def test_an_exported_detector_decides_as_predict_does(detector, predictions):
    parts = [detector.preprocess(p.part) for p in predictions[:3]]
    outputs = jax.jit(whole_function(detector))(
        {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    )
    for row, p in enumerate(predictions[:3]):
        assert outputs["p_value"][row] == pytest.approx(p.p_value)
        assert bool(outputs["anomalous"][row]) == p.anomalous


def test_the_card_tells_what_decides_from_what_is_guaranteed(detector):
    card, calibration = model_card(detector), detector.calibration
    assert (card["alpha"], card["guaranteed"]) == (0.5, calibration.guaranteed)
    assert 0.5 < card["guaranteed"] < 1


def test_the_monitor_goes_on_where_an_earlier_process_stopped(detector, predictions):
    for watched in (3, 6):
        with monitor_file.open_monitor(detector) as monitor:
            rows = [monitor.watch(p) for p in predictions[:3]]
            assert monitor.watch(UserError("broken")) == {}
            assert monitor.monitor.parts == watched
            assert rows[-1]["monitor"]["value"] == monitor.monitor.value
            with (
                pytest.raises(UserError, match="another prediction watches"),
                monitor_file.open_monitor(detector),
            ):
                pass


def test_another_alpha_needs_no_training(detector, predictions):
    strict = detector.with_alpha(0.1)
    assert strict.calibration.attainable == pytest.approx(1 / 14)
    assert strict.calibration.threshold >= detector.calibration.threshold
    assert detector.with_alpha(0.5).calibration == detector.calibration


def test_training_again_changes_nothing(crossed):
    run, _ = crossed
    paths = sorted(run.directory.rglob("metrics.jsonl"))
    before = [path.read_text() for path in paths]
    train(run.config, run.directory)
    assert len(paths) == 3 and before == [path.read_text() for path in paths]


def test_a_lost_fold_is_told(crossed, tmp_path):
    copied = Path(shutil.copytree(crossed[0].directory, tmp_path / "run"))
    shutil.rmtree(copied / "bagel" / "seed_0" / "fold_1" / "student")
    with pytest.raises(UserError, match="student"):
        Detector.load(Run.open(copied).directory)
