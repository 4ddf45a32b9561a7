"""A category's `calibration.json`: its calibration, and the scales of its pairs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from ast_jax.errors import UserError
from ast_jax.files import read_text, write_json
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.ensemble import Scale
from ast_jax.parallel import is_main
from ast_jax.run import Run

Scales = Mapping[str, Mapping[str, Scale]]  # member → network → scale


def write_calibration(
    run: Run, category: str, calibration: Calibration | None, scales: Scales
) -> None:
    """Writes `calibration.json` in the main process.

    Args:
      run: the run.
      category: of the run.
      calibration: of the category, or None.
      scales: of several pairs, see `ensemble.Ensemble`; empty for a single pair.

    Raises:
      UserError: the folder cannot be written.
    """
    tree = {
        "calibration": calibration and calibration.to_dict(),
        "scales": {
            member: {
                name: dataclasses.asdict(scale) for name, scale in networks.items()
            }
            for member, networks in scales.items()
        },
    }
    if is_main():
        write_json(_path(run, category), tree)


def is_calibrated(run: Run, category: str) -> bool:
    """Whether an evaluation has written the file; it may have no threshold."""
    return _path(run, category).exists()


def read_calibration(run: Run, category: str) -> tuple[Calibration | None, Scales]:
    """Reads `calibration.json`.

    Raises:
      UserError: the run was not evaluated, or the file is damaged.
    """
    path = _path(run, category)
    command = f"python evaluate.py --workdir={run.directory}"
    try:
        tree = json.loads(read_text(path))
        calibration = tree["calibration"]
        if calibration is not None:
            calibration = Calibration.from_dict(calibration)
        scales = {
            member: {name: Scale(**scale) for name, scale in networks.items()}
            for member, networks in tree["scales"].items()
        }
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, the run was not evaluated; run {command}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run {command} again") from error
    return calibration, scales


def _path(run: Run, category: str) -> Path:
    return run.directory / category / "calibration.json"
