"""Answers join the calibration, and only those of parts like the calibrated ones."""

import json
import logging

import numpy as np
import pytest

from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.inference import feedback
from ast_jax.inference.calibration import calibrate
from ast_jax.inference.calibration_file import write_calibration
from ast_jax.run import Run


@pytest.fixture(params=["split", "cross"])
def folds(request):
    return None if request.param == "split" else np.arange(40) % 4


@pytest.fixture
def made(tmp_path, folds):
    """A run with a calibration, and rows of 30 parts of its kind and 5 defects."""
    rng = np.random.default_rng(0)
    run = Run.create(tmp_path / "run", default())
    scores = rng.standard_normal(40)
    calibration = calibrate(scores, scores + 1, 0.1, folds)
    write_calibration(run, "cap", calibration, {})
    values = np.append(rng.standard_normal(30), [5.0, 5, 5, 5, -1])
    return run, calibration, rows_of(tmp_path / "rows.jsonl", values, calibration)


def rows_of(path, values, calibration):
    k = calibration.folds
    rows = []
    for number, value in enumerate(values):
        own = value + np.arange(k) / 100
        row = {"path": f"{number}.png", "score": value, "maximum": value + 1}
        row["anomalous"] = bool(calibration.anomalous(own[None])[0])
        if calibration.is_cross:
            each = {"score_by_fold": own, "maximum_by_fold": own + 1}
            row |= {name: array.tolist() for name, array in each.items()}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")
    return path


GOOD = [f"{number}.png" for number in range(30)]
DEFECTS = [f"{number}.png" for number in range(30, 35)]


def test_confirmed_good_parts_join_and_defects_give_recall(made):
    run, calibration, rows = made
    result = feedback.answer(run, "cap", rows, GOOD, DEFECTS)
    assert (result.good, len(result.calibration.scores)) == (30, 70)
    assert (result.recall.count, result.recall.total) == (4, 5)
    assert result.false_alarms.total == 30
    assert feedback.apply(run, "cap", calibration) == result.calibration
    sizes = np.bincount(result.calibration.score_folds or [0] * 70)
    assert max(sizes) - min(sizes) <= 1


def test_joining_is_calibrating_on_all(made, folds):
    run, calibration, rows = made
    result = feedback.answer(run, "cap", rows, GOOD[:8], [])
    values = [json.loads(line)["score"] for line in rows.read_text().splitlines()]
    new = np.arange(8)
    if folds is None:
        scores, maxima = np.array(values[:8]), np.array(values[:8]) + 1
        all_folds = None
    else:
        new_folds = (40 + new) % 4
        scores = np.array(values[:8]) + new_folds / 100
        maxima = scores + 1
        all_folds = np.append(calibration.score_folds, new_folds)
    together = calibrate(
        np.append(calibration.scores, scores),
        np.append(calibration.map_maxima, maxima),
        0.1,
        all_folds,
    )
    assert result.calibration.scores == together.scores
    assert result.calibration.score_folds == together.score_folds
    assert result.calibration.threshold == together.threshold


def test_the_journal_only_grows_and_the_last_answer_counts(made):
    run, _, rows = made
    feedback.answer(run, "cap", rows, GOOD[:2], [])
    path = run.directory / "cap" / "feedback.jsonl"
    before = path.read_text()
    result = feedback.answer(run, "cap", rows, [], GOOD[:1])
    assert path.read_text().startswith(before)
    assert len(path.read_text().splitlines()) == 3
    assert (result.good, result.recall.total) == (1, 1)


def test_alarms_alone_do_not_join(made, tmp_path):
    run, calibration, _ = made
    rows = rows_of(tmp_path / "alarms.jsonl", np.full(30, 4.0), calibration)
    with pytest.raises(UserError, match="30 confirmed good parts do not look like"):
        feedback.answer(run, "cap", rows, GOOD, [])
    assert not (run.directory / "cap" / "feedback.jsonl").exists()


def test_answers_to_other_networks_do_not_count(made, caplog):
    run, _, rows = made
    feedback.answer(run, "cap", rows, GOOD[:3], [])
    other = calibrate(np.arange(40.0), np.arange(40.0), 0.1)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert feedback.apply(run, "cap", other) == other
    assert "3 answers are to predictions of other networks" in caplog.text


@pytest.mark.parametrize(
    ("good", "defective", "named"),
    [(["7.jpg"], [], "7.jpg"), (["1.png"], ["1.png"], "1.png")],
)
def test_a_path_that_cannot_be_answered_is_named(made, good, defective, named):
    run, _, rows = made
    with pytest.raises(UserError, match=named):
        feedback.answer(run, "cap", rows, good, defective)


def test_rows_with_an_error_cannot_be_answered(made):
    run, _, rows = made
    rows.write_text('{"path": "x.png", "error": "broken"}\n')
    with pytest.raises(UserError, match=r"x\.png"):
        feedback.answer(run, "cap", rows, ["x.png"], [])
    rows.write_text("no rows")
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        feedback.answer(run, "cap", rows, ["x.png"], [])


def test_a_damaged_journal_is_named(made):
    run, calibration, _ = made
    (run.directory / "cap" / "feedback.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"feedback\.jsonl: damaged"):
        feedback.apply(run, "cap", calibration)
