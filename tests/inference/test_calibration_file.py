"""What evaluation writes of a category is what a detector reads."""

import pytest

from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.inference import calibration_file
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.ensemble import Scale
from ast_jax.run import Run

CALIBRATION = Calibration(0.05, (0.1, 0.30000001192092896), (0.2, 0.4))
SCALE = Scale(0.1, 0.2, 0.3, 0.4)
SCALES = {7: {"student": SCALE, "teacher": Scale(1.0, 2.0, 3.0, 4.0)}}


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", default())


@pytest.mark.parametrize("calibration", [None, CALIBRATION])
@pytest.mark.parametrize("scales", [{}, SCALES])
def test_what_is_written_is_read(run, calibration, scales):
    calibration_file.write(run, "bagel", calibration, scales)
    assert calibration_file.read(run, "bagel") == (calibration, scales)


def test_a_category_that_was_not_evaluated_names_the_command(run):
    with pytest.raises(UserError, match=f"evaluate.py --workdir={run.directory}"):
        calibration_file.read(run, "bagel")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"calibration": {}}', '{"calibration": {"alpha": 1}}']
)
def test_a_damaged_file_is_named(run, text):
    calibration_file.write(run, "bagel", None, {})
    (run.directory / "bagel" / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=r"calibration.json: damaged"):
        calibration_file.read(run, "bagel")
