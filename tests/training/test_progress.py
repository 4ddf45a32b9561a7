"""The output of a run: lines that survive a kill, curves, tables, traces."""

import json
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from ast_jax.errors import UserError
from ast_jax.training.overview import log_compiled, parameter_table, write_trace
from ast_jax.training.progress import Progress, read_rows


def progress(directory, stage="teacher", **options) -> Progress:
    return Progress(directory, stage, steps=40, batch_size=8, **options)


def log_epochs(directory, first: int, last: int, stage="teacher", **options):
    """Logs epochs of ten steps; the loss is 1 / step."""
    log = progress(directory, stage, **options)
    log.start(10 * (first - 1))
    for epoch in range(first, last + 1):
        log.advance(10 * epoch, 0.1 / epoch)
        log.log(epoch, 10 * epoch, 0.1 / epoch)
    log.close()


def without_times(directory) -> list[dict]:
    rows = read_rows(directory / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "images/s"} for row in rows]


def test_an_epoch_is_a_line(tmp_path):
    log_epochs(tmp_path, 1, 2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    assert row.pop("images/s") > 0
    assert row == {"step": 20, "stage": "teacher", "epoch": 2, "loss": 0.05}


def test_the_speed_counts_the_images_since_the_line_before(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0, 102.0, 106.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    log = progress(tmp_path)
    clock = iter([100.0, 102.0, 106.0])
    log.start(20)
    log.log(3, 30, 1.0)
    log.log(4, 40, 1.0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["images/s"] for row in rows] == [40.0, 20.0]


@pytest.mark.parametrize("checkpoint", [0, 2, 4])
def test_a_resumed_run_leaves_the_lines_of_an_undisturbed_one(tmp_path, checkpoint):
    for folder in ("whole", "killed"):
        log_epochs(tmp_path / folder, 1, 4)
        if folder == "killed":
            log_epochs(tmp_path / folder, checkpoint + 1, 4)
        log_epochs(tmp_path / folder, 1, 3, "student")
        if folder == "killed":
            log_epochs(tmp_path / folder, 3, 3, "student")
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


def test_a_teacher_that_fell_back_writes_before_the_student(tmp_path):
    log_epochs(tmp_path, 1, 4)
    log_epochs(tmp_path, 1, 2, "student")
    before = without_times(tmp_path)
    log_epochs(tmp_path, 3, 4)  # its last checkpoint was damaged
    assert without_times(tmp_path) == before


def test_a_torn_line_of_an_earlier_version_is_left_out(tmp_path):
    log_epochs(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    log_epochs(tmp_path, 2, 3)
    assert [row["epoch"] for row in without_times(tmp_path)] == [1, 2, 3]


def test_a_refused_write_is_one_line_and_the_file_stays(tmp_path, monkeypatch):
    log_epochs(tmp_path, 1, 2)
    before = without_times(tmp_path)

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(UserError, match=r"metrics.jsonl: .*No space left on device"):
        log_epochs(tmp_path, 3, 3)
    assert without_times(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_only_the_process_that_writes_writes(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        log_epochs(tmp_path, 1, 4, write=False, tensorboard=True)
    assert not list(tmp_path.iterdir())
    assert not caplog.text


def test_without_a_terminal_a_line_says_loss_speed_and_time_left(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("ast_jax.training.progress._SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level(logging.INFO):
        log_epochs(tmp_path / "bagel" / "seed_0", 1, 4)
    assert "bagel seed_0 teacher: step 10 of 40, loss 0.1, " in caplog.text
    assert " images/s, 00:0" in caplog.text


def test_lines_without_a_terminal_keep_their_distance(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        log_epochs(tmp_path, 1, 4)
    assert len(caplog.records) == 1  # the stage's end


def scalars(directory) -> list[tuple[str, int, float]]:
    """The points in the event files, read as TensorBoard does."""
    points = []
    for path in sorted(directory.rglob("events.out.*")):
        data = path.read_bytes()
        while data:
            (size,) = np.frombuffer(data[:8], "<u8")
            (check,) = np.frombuffer(data[8:12], "<u4")
            assert masked_crc32c(data[:8]) == check
            event = Event.FromString(data[12 : 12 + int(size)])
            data = data[16 + int(size) :]
            for value in event.summary.value:
                points.append((value.tag, event.step, value.simple_value))
    return points


def test_tensorboard_gets_loss_and_speed(tmp_path):
    log_epochs(tmp_path, 1, 2, tensorboard=True)
    points = scalars(tmp_path / "events" / "teacher")
    assert [p[:2] for p in points if p[0] == "teacher/loss"] == [
        ("teacher/loss", 10),
        ("teacher/loss", 20),
    ]
    assert points[0][2] == pytest.approx(0.1)
    assert any(tag == "teacher/images/s" for tag, _, _ in points)


def test_a_missing_tensorboardx_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        progress(tmp_path, tensorboard=True)


def test_the_overview_counts_every_parameter():
    variables = {"params": {"conv": {"kernel": np.zeros((3, 3, 2, 5)), "bias": 5}}}
    variables["params"]["conv"]["bias"] = jax.ShapeDtypeStruct((5,), jnp.float32)
    lines = parameter_table(variables).splitlines()
    assert lines[0].split() == ["params/conv/bias", "5", "5"]
    assert " ".join(lines[1].split()) == "params/conv/kernel 3 x 3 x 2 x 5 90"
    assert lines[2].split() == ["total", "95"]
    assert len({len(line) for line in lines}) == 1


def test_compiling_is_told_with_its_time_and_memory(caplog):
    x = jnp.ones((500, 500))
    program = jax.jit(lambda x: x @ x).lower(x).compile()
    with caplog.at_level(logging.INFO):
        log_compiled("teacher", program, 1.25)
    assert "teacher: compiled in 1.2 s; a call needs 0.002 GB" in caplog.text


def test_a_trace_is_written_where_it_is_wanted(tmp_path):
    with write_trace(None):
        pass
    with write_trace(tmp_path / "profile"):
        jnp.ones(3).block_until_ready()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
