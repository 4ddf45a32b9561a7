"""Other images with the same names do not change a run's threshold by themselves."""

import logging

import pytest

from ast_jax.config import default
from ast_jax.data.part import Entry, Parts
from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.inference import category as rooms
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.calibration_file import write_calibration
from ast_jax.inference.category import calibrate_category, find_changed_image
from ast_jax.inference.ensemble import Ensemble
from ast_jax.run import Run

TRAIN = {"train/good/0": "a", "train/good/1": "b"}
VALIDATION = {"validation/good/0": "c"}


def parts(digests):
    entries = [Entry(i, "good", {"image": d}) for i, d in digests.items()]
    return Parts(entries, lambda index: None)


def opened(train=TRAIN, validation=VALIDATION):
    splits = {"train": train, "validation": validation, "test": {}}
    config = default()
    config.dataset.root = "/other"
    return Category(
        "bagel", {s: parts(names) for s, names in splits.items()}, None, config
    )


@pytest.fixture
def run(tmp_path):
    """A run that was trained on `TRAIN` and calibrated on `VALIDATION`."""
    run = Run.create(tmp_path, default())
    category = opened()
    content = category.parts["train"].content | category.parts["validation"].content
    record = {"side": 8, "train": [*TRAIN], "held_out": [], "content": content}
    run.write_record("bagel", 0, record)
    return run


@pytest.mark.parametrize(
    ("train", "validation", "other"),
    [
        (TRAIN, VALIDATION, None),
        (TRAIN | {"train/good/1": "x"}, VALIDATION, "train/good/1"),
        ({"train/good/0": "a"}, VALIDATION, "train/good/1"),
        (TRAIN, {"validation/good/0": "x"}, "validation/good/0"),
        (TRAIN, VALIDATION | {"validation/good/1": "d"}, "validation/good/1"),
    ],
)
def test_the_first_other_image_is_found(run, train, validation, other):
    assert find_changed_image(run, opened(train, validation)) == other


def test_a_run_of_an_earlier_version_knows_the_names_alone(run):
    run.write_record("bagel", 0, {"train": [*TRAIN], "held_out": []})
    assert find_changed_image(run, opened(TRAIN | {"train/good/1": "x"})) is None
    assert find_changed_image(run, opened({"train/good/1": "b"})) == "train/good/0"


def test_the_runs_threshold_stays_and_that_is_said(run, monkeypatch, caplog):
    calibration = Calibration(0.1, (1.0, 2.0), (3.0, 4.0))
    write_calibration(run, "bagel", calibration, {})
    before = (run.directory / "bagel" / "calibration.json").read_bytes()
    ensemble = Ensemble({}, "protocol")
    monkeypatch.setattr(rooms.Ensemble, "load", lambda *_: ensemble)
    category = opened(TRAIN | {"train/good/1": "x"})
    with caplog.at_level(logging.WARNING, logger="absl"):
        kept = calibrate_category(run, category, keep=True)
    assert kept[:2] == (ensemble, calibration)
    assert "train/good/1" in caplog.text and "--recalibrate" in caplog.text
    assert (run.directory / "bagel" / "calibration.json").read_bytes() == before


def test_without_a_calibration_other_images_are_refused(run):
    category = opened(TRAIN | {"train/good/1": "x"})
    with pytest.raises(UserError, match=r"train/good/1 .*/other"):
        calibrate_category(run, category, keep=True)


def test_training_goes_on_with_the_same_images_only(run):
    content = opened(TRAIN | {"train/good/0": "x"}).parts["train"].content
    run.check_record("bagel", 0, {"content": opened().parts["train"].content})
    with pytest.raises(UserError, match=r"train/good/0 .*--workdir"):
        run.check_record("bagel", 0, {"content": content})
