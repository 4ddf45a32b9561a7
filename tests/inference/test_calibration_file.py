"""A calibration is read as it was written."""

import json

import pytest

from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.calibration_file import read_calibration, write_calibration
from ast_jax.inference.ensemble import Scale
from ast_jax.run import Run

SPLIT = Calibration(0.05, (0.1, 0.30000001192092896), (0.2, 0.4))
CROSS = Calibration(0.05, (0.1, 0.2), (0.2, 0.4), (1, 0), (0, 1))
SCALE = Scale(0.1, 0.2, 0.3, 0.4)
SCALES = {"7": {"student": SCALE, "teacher": Scale(1.0, 2.0, 3.0, 4.0)}}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", default())


@pytest.mark.parametrize("calibration", [None, SPLIT, CROSS])
@pytest.mark.parametrize("scales", [{}, SCALES])
def test_what_is_written_is_read(run, calibration, scales):
    write_calibration(run, "bagel", calibration, scales)
    assert read_calibration(run, "bagel") == (calibration, scales)


def test_the_file_of_a_split_is_what_earlier_versions_wrote(run):
    write_calibration(run, "bagel", SPLIT, {})
    text = (run.directory / "bagel" / "calibration.json").read_text()
    values = {"alpha": 0.05, "scores": list(SPLIT.scores), "map_maxima": [0.2, 0.4]}
    assert json.loads(text) == {"calibration": values, "scales": {}}


def test_a_category_that_was_not_evaluated_names_the_command(run):
    with pytest.raises(UserError, match=f"evaluate.py --workdir={run.directory}"):
        read_calibration(run, "bagel")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"calibration": {}}', '{"calibration": {"alpha": 1}}']
)
def test_a_damaged_file_is_named(run, text):
    write_calibration(run, "bagel", None, {})
    (run.directory / "bagel" / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=r"calibration.json: damaged"):
        read_calibration(run, "bagel")
