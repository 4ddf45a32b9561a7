"""predict.py: rows in order, heat maps, and the exit status."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
import tifffile
import tiny_runs
from PIL import Image

from ast_jax import Detector
from ast_jax.errors import UserError
from ast_jax.inference.predict_files import predict_files, predict_stream
from ast_jax.run import lock

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compilation, library_convolutions):
    return tiny_runs.bagel(tmp_path_factory)


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run.directory, category="bagel")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three good and three defective parts, one of them broken, in two folders."""
    root = tmp_path_factory.mktemp("parts")
    for kind in ("hole", "good"):
        for n in range(3):
            at, bad = root / kind, kind == "hole"
            layouts.save(at / "rgb" / f"{n}.png", layouts.picture(90 + n, defect=bad))
            layouts.save(at / "xyz" / f"{n}.tiff", layouts.cloud(90 + n, defect=bad))
    (root / "hole" / "rgb" / "1.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def predicted(detector, parts, tmp_path_factory):
    output = tmp_path_factory.mktemp("predicted")
    summary = predict_files(detector, parts, None, output)
    return summary, output, read_rows(output)


def read_rows(output):
    text = (output / "predictions.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_rows_stand_in_the_order_of_the_files(predicted, parts):
    _, _, rows = predicted
    expected = [parts / k / "rgb" / f"{n}.png" for k in ("good", "hole") for n in "012"]
    assert [row["path"] for row in rows] == [str(path) for path in expected]


def test_a_row_says_what_the_detector_says(predicted, detector):
    for row in predicted[2]:
        if "error" in row:
            continue
        image = Path(row["path"])
        cloud = image.parents[1] / "xyz" / f"{image.stem}.tiff"
        prediction = detector.predict(image, cloud)
        assert row["score"] == pytest.approx(prediction.score, rel=1e-6)
        assert row["threshold"] == prediction.threshold
        assert row["p_value"] == prediction.p_value
        assert row["anomalous"] == prediction.anomalous
        assert len(row["regions"]) == len(prediction.regions)
        for region, expected in zip(row["regions"], prediction.regions, strict=True):
            assert tuple(region["box"]) == expected.box
            assert region["depth_difference"] == expected.depth_difference


def test_a_broken_image_has_a_row_with_its_error_and_the_rest_goes_on(predicted, parts):
    summary, _, rows = predicted
    broken = parts / "hole" / "rgb" / "1.png"
    (row,) = [row for row in rows if "error" in row]
    assert row.keys() == {"path", "error"}
    assert row["path"] == str(broken)
    assert "not a PNG" in row["error"]
    assert (summary.scored, summary.failed) == (5, 1)
    assert summary.anomalous == sum(row.get("anomalous", False) for row in rows)


def test_every_scored_image_has_a_heat_map_and_the_raw_map(predicted, detector):
    _, output, rows = predicted
    for row in rows:
        if "error" not in row:
            with Image.open(output / row["heat_map"]) as heat_map:
                assert heat_map.size == layouts.SIZE[::-1]
            score_map = tifffile.imread(output / row["map"])
            assert score_map.dtype == np.float32
            assert score_map.shape == layouts.SIZE
            above = score_map > detector.calibration.pixel_threshold
            assert above.sum() == sum(region["area"] for region in row["regions"])
    names = [path.name for path in output.rglob("*") if path.is_file()]
    assert len(names) - names.count(".lock") == 2 * 5 + 1  # and nothing temporary


def test_a_second_call_replaces_the_rows(detector, parts, tmp_path):
    for kind in ("good", "hole"):
        predict_files(detector, parts / kind, None, tmp_path)
    assert len(read_rows(tmp_path)) == 3


def test_its_own_output_is_never_scored(detector, parts, tmp_path):
    folder = tmp_path / "parts"
    shutil.copytree(parts / "good", folder)
    for output in (folder / "out", folder):  # twice each: what is there stays unscored
        for _ in range(2):
            assert predict_files(detector, folder, None, output).scored == 3
    with pytest.raises(UserError, match=r"--input=.*heat_maps.*another --output"):
        predict_files(detector, folder / "out" / "heat_maps", None, folder / "out")


def test_a_second_prediction_into_the_same_output_is_refused(detector, parts, tmp_path):
    started = predict_files(detector, parts / "good", None, tmp_path)
    rows = (tmp_path / "predictions.jsonl").read_bytes()
    with (
        lock(tmp_path),
        pytest.raises(UserError, match=re.escape(f"{tmp_path}: another prediction")),
    ):
        predict_files(detector, parts / "good", None, tmp_path)
    assert (tmp_path / "predictions.jsonl").read_bytes() == rows
    assert started.scored == 3


def test_a_bad_line_is_a_row_and_the_rest_goes_on(detector, parts, tmp_path):
    good = parts / "good" / "rgb" / "0.png"
    long = tmp_path / f"{'x' * 248}.png"
    (tmp_path / "xyz").mkdir()
    shutil.copy(parts / "good" / "xyz" / "0.tiff", tmp_path / "xyz")
    lines = ["a\0b", str(long), str(tmp_path), "~", str(good)]
    pipe = Pipe(9)
    summary = predict_stream(detector, lines, None, tmp_path / "out", pipe)
    rows = read_rows(tmp_path / "out")
    assert [row["path"] for row in rows] == lines
    assert ["error" in row for row in rows] == [True] * 4 + [False]
    assert (summary.failed, summary.scored) == (4, 1)


def test_a_name_as_long_as_the_system_takes_it_is_scored(detector, parts, tmp_path):
    folder = tmp_path / "long"
    shutil.copytree(parts / "good", folder)
    for kind, suffix in (("rgb", ".png"), ("xyz", ".tiff")):
        path = folder / kind / f"0{suffix}"
        path.rename(folder / kind / f"{'0' * 249}{suffix}")
    assert predict_files(detector, folder, None, tmp_path / "out").scored == 3


def test_one_part_is_a_batch_of_one(detector, parts, tmp_path, monkeypatch):
    sizes = []
    predict_many = type(detector).predict_many

    def counted(self, sources, *, batch_size, live):
        sizes.append(batch_size)
        return predict_many(self, sources, batch_size=batch_size, live=live)

    monkeypatch.setattr(type(detector), "predict_many", counted)
    image = parts / "good" / "rgb" / "0.png"
    for path in (image, parts / "good"):
        predict_files(detector, path, None, tmp_path)
    assert sizes == [1, 8]


def test_without_a_threshold_its_fields_are_null(tmp_path_factory, tmp_path):
    run = tiny_runs.screw(tmp_path_factory)
    image = layouts.save(tmp_path / "x.png", layouts.picture(1))
    predict_files(Detector.load(run.directory), image, None, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out")
    names = ("threshold", "p_value", "anomalous", "regions")
    assert [row[name] for name in names] == [None] * 4
    assert row["score"] > 0


class Pipe(io.RawIOBase):
    """A pipe whose reader closes it after some rows."""

    def __init__(self, rows: int):
        self.lines, self._rows = [], rows

    def write(self, line) -> int:
        if len(self.lines) == self._rows:
            raise BrokenPipeError
        self.lines.append(bytes(line))
        return len(line)


def test_a_reader_that_goes_away_ends_the_stream(detector, parts, tmp_path):
    path, pipe = str(parts / "good" / "rgb" / "0.png"), Pipe(2)
    with pytest.raises(BrokenPipeError):
        predict_stream(detector, [path] * 30, None, tmp_path, pipe)
    assert [json.loads(line) for line in pipe.lines] == read_rows(tmp_path)[:2]
    assert len(read_rows(tmp_path)) == 3  # the third was written, and not answered


def test_an_output_that_cannot_be_written_is_told(detector, parts, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        predict_files(detector, parts, None, tmp_path / "file" / "out")
    (tmp_path / "heat_maps").touch()
    with pytest.raises(UserError, match=r"heat_maps.*: cannot be written"):
        predict_files(detector, parts, None, tmp_path)


def test_a_stream_pairs_with_a_folder_of_clouds_only(detector, parts, tmp_path):
    with pytest.raises(UserError, match="give a folder"):
        predict_stream(detector, [], parts / "good/xyz/0.tiff", tmp_path, Pipe(0))


def start(run, *flags):
    """predict.py in its own process, with quick compilation."""
    # A shell's background job, as the tests may be, makes its children ignore Ctrl-C.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "predict.py", f"--workdir={run.directory}", *flags],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, ours)


@pytest.mark.slow
def test_a_line_process_is_answered_at_once(run, parts, tmp_path):
    output = tmp_path / "out"
    process = start(run, "--input=-", f"--output={output}")
    rows = []
    for name in ("good/rgb/0.png", "hole/rgb/1.png", "good/rgb/0.png"):
        process.stdin.write(f"{parts / name}\n")
        process.stdin.flush()
        rows.append(json.loads(process.stdout.readline()))
    assert rows == read_rows(output)  # and not only after the end of the input
    assert rows[0]["score"] == rows[2]["score"]
    assert rows[0]["heat_map"] != rows[2]["heat_map"]
    assert "error" in rows[1]
    rest, log = process.communicate()
    assert rest == ""
    assert process.returncode == 3
    assert "2 scored" in log and "images/s after" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_an_interrupt_leaves_whole_lines(run, parts, tmp_path):
    output = tmp_path / "out"
    process = start(run, "--category=bagel", "--input=-", f"--output={output}")
    process.stdin.write(f"{parts / 'good/rgb/0.png'}\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, log = process.communicate()
    assert process.returncode == 130
    assert len(read_rows(output)) == 1
    assert f"interrupted; {output} holds what was scored" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exits_with_1(run, tmp_path):
    output = tmp_path / "out"
    process = start(run, "--input=.", "--category=rope", f"--output={output}")
    _, log = process.communicate()
    assert process.returncode == 1
    (line,) = log.splitlines()
    assert "no trained 'rope'" in line
    assert not output.exists()
