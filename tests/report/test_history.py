import json

import pytest

from ast_jax.config import default
from ast_jax.report.history import trainings
from ast_jax.run import Run


def row(stage: str, epoch: int, loss: float, rate: float = 8.0) -> str:
    line = {"step": 2 * epoch, "stage": stage, "epoch": epoch, "loss": loss}
    return json.dumps({**line, "images/s": rate}) + "\n"


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run.create(tmp_path, default())
    run.write_record("cap", 0, {"train": ["train/good/000"] * 19})
    return run


def log(run: Run, text: str) -> None:
    (run.seed_directory("cap", 0) / "metrics.jsonl").write_text(text)


def test_losses_and_time_are_those_of_the_log(run):
    log(
        run,
        row("teacher", 1, 9.0, 4.0) + row("teacher", 2, 8.0) + row("student", 1, 3.0),
    )
    teacher, student = trainings(run, "cap")
    assert (teacher.network, teacher.epochs, teacher.losses) == (
        "teacher",
        (1, 2),
        (9, 8),
    )
    # Batches of 8: of 19 images 16 are seen an epoch.
    assert teacher.seconds == 16 / 4 + 16 / 8
    assert student.rate == 8


def test_an_epoch_that_was_repeated_counts_once(run):
    log(run, row("teacher", 1, 9.0) + row("teacher", 2, 8.0) + row("teacher", 2, 7.0))
    (teacher,) = trainings(run, "cap")
    assert teacher.losses == (9, 7)


def test_a_line_cut_short_is_left_out(run):
    log(run, row("teacher", 1, 9.0) + row("teacher", 2, 8.0)[:20])
    (teacher,) = trainings(run, "cap")
    assert teacher.epochs == (1,)


def test_without_a_log_there_is_no_training(run):
    assert trainings(run, "cap") == []
