"""A run's folder opens again, refuses another run, and is locked."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ast_jax import config_file
from ast_jax.config import default, validate
from ast_jax.errors import UserError
from ast_jax.features.whitening import BlockWhitening
from ast_jax.files import write_text
from ast_jax.inference.calibration import calibrate
from ast_jax.inference.calibration_file import read_calibration
from ast_jax.inference.monitor import Monitor
from ast_jax.run import Run
from ast_jax.training.progress import read_rows


def test_a_run_opens_with_the_configuration_it_was_made_with(tmp_path):
    config = default()
    config.train.seeds = (0, 1)
    Run.create(tmp_path / "run", config)
    assert Run.open(tmp_path / "run").config == config


def test_moved_data_are_the_same_run(tmp_path):
    config = default()
    Run.create(tmp_path, config)
    config.dataset.root, config.dataset.data_dir = "/moved", "/cache"
    assert Run.create(tmp_path, config).config.dataset.root == "/moved"


def test_a_run_of_the_other_method_says_which_configuration_goes_on_with_it(tmp_path):
    for begun, given, named in (
        ("folder:ast", "folder", "folder:ast or folder:small"),
        ("folder", "folder:ast", "NAME:plus"),
    ):
        folder = tmp_path / begun.replace(":", "_")
        Run.create(folder, config_file.load(begun))
        with pytest.raises(UserError, match=re.escape(named)) as error:
            Run.create(folder, config_file.load(given))
        before = Run.open(folder).config.method
        assert f"(method is {before!r} there and" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_newer_format_is_refused_in_a_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 99, "config": {}}))
    with pytest.raises(UserError, match=r"format 99.*update ast-jax"):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": {}}'])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json: not a run's configuration"):
        Run.open(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        Run.open(tmp_path)


def test_an_untrained_category_names_the_trained_ones(tmp_path):
    run = Run.create(tmp_path, default())
    run.write_record("bagel", 0, {"train": []})
    assert run.read_record("bagel", 0) == {"train": []}
    with pytest.raises(UserError, match=r"no trained 'rope', seed 0.*bagel"):
        run.read_record("rope", 0)


def test_a_second_process_on_the_folder_is_refused(tmp_path):
    run = Run.create(tmp_path, default())
    with (
        run.lock(),
        pytest.raises(UserError, match="another process"),
        Run.open(tmp_path).lock(),
    ):
        pass


def test_the_defaults_are_valid():
    validate(default())


def test_a_key_that_does_not_exist_cannot_be_set():
    config = default()
    with pytest.raises((AttributeError, KeyError), match="epoch"):
        config.teacher.epoch = 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teacher.blocks", -1, r"teacher.blocks must be 0 or positive. Got -1"),
        ("teacher.hidden", 0, r"teacher.hidden must be at least 1. Got 0"),
        ("train.mask", "hard", r"train.mask must be one of soft, binary. Got 'hard'"),
        ("calibration.fraction", 1.0, r"in \[0, 1\). Got 1.0"),
        ("calibration.alpha", 0.0, r"in \(0, 1\). Got 0.0"),
        ("calibration.alpha", float("nan"), "calibration.alpha"),
        ("train.learning_rate", -1.0, "must be positive"),
        ("train.learning_rate", float("nan"), "train.learning_rate"),
        ("train.weight_decay", -1e-5, "train.weight_decay"),
        ("teacher.clamp", float("inf"), "teacher.clamp"),
        ("student.blocks", -1, "student.blocks"),
        ("train.seeds", (), "must be distinct"),
        ("train.seeds", (0, 2**31), "2147483648"),
        ("train.seeds", (0, 1.5), r"1\.5"),
        ("train.seeds", (True,), r"\(True,\)"),
        ("depth.missing", float("nan"), "depth.missing .* nan"),
        ("dataset.seed", -1, "dataset.seed .* -1"),
        ("dataset.seed", 2**40, f"dataset.seed .* {2**40}"),
    ],
)
def test_a_value_out_of_range_is_named(key, value, message):
    config = default()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        validate(config)


CALIBRATION = calibrate(np.arange(20.0), np.arange(20.0), 0.05)


def at(run, name):
    return run.directory / name


# The files of a run, each with its reader.
@pytest.mark.parametrize(
    "name, read",
    [
        ("config.json", lambda run: Run.open(run.directory)),
        ("bolts/seed_0/inputs.json", lambda run: run.read_record("bolts", 0)),
        ("bolts/calibration.json", lambda run: read_calibration(run, "bolts")),
        (
            "monitor.json",
            lambda run: Monitor.load(at(run, "monitor.json"), CALIBRATION),
        ),
        ("white.npz", lambda run: BlockWhitening.load(at(run, "white.npz"))),
        ("metrics.jsonl", lambda run: read_rows(at(run, "metrics.jsonl"))),
    ],
)
def test_a_passing_error_is_not_taken_for_damage(tmp_path, monkeypatch, name, read):
    run = Run.create(tmp_path, default())
    write_text(tmp_path / name, "[]")

    for method in ("read_text", "read_bytes"):
        sound = getattr(Path, method)

        def fail(path, *options, sound=sound, **named):
            if path.is_relative_to(tmp_path):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return sound(path, *options, **named)

        monkeypatch.setattr(Path, method, fail)
    named = re.escape(str(tmp_path / name))
    with pytest.raises(UserError, match=rf"^{named}: .*Stale file handle") as error:
        read(run)
    assert "damaged" not in str(error.value)
