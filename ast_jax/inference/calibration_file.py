"""`calibration.json`: what evaluation finds out and decisions need, a category each.

Beside the calibration it holds the scales by which several seeds' scores are averaged.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from ast_jax.errors import UserError
from ast_jax.files import write_json
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.ensemble import Scale
from ast_jax.parallel import is_main
from ast_jax.run import Run

Scales = Mapping[int, Mapping[str, Scale]]  # seed → network → scale


def write(
    run: Run, category: str, calibration: Calibration | None, scales: Scales
) -> None:
    """Writes the file whole; `scales` is empty for a single seed.

    Of several processes the main one writes.

    Raises:
      UserError: the folder cannot be written.
    """
    tree = {
        "calibration": calibration and dataclasses.asdict(calibration),
        "scales": {
            seed: {name: dataclasses.asdict(scale) for name, scale in of.items()}
            for seed, of in scales.items()
        },
    }
    if is_main():
        write_json(_path(run, category), tree)


def read(run: Run, category: str) -> tuple[Calibration | None, Scales]:
    """Returns what `write` was given.

    Raises:
      UserError: the run was not evaluated, or the file is damaged.
    """
    path = _path(run, category)
    command = f"python evaluate.py --workdir={run.directory}"
    try:
        tree = json.loads(path.read_text())
        calibration = tree["calibration"]
        if calibration is not None:
            calibration = Calibration.from_dict(calibration)
        scales = {
            int(seed): {name: Scale(**scale) for name, scale in of.items()}
            for seed, of in tree["scales"].items()
        }
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, the run was not evaluated; run {command}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run {command} again") from error
    return calibration, scales


def _path(run: Run, category: str) -> Path:
    return run.directory / category / "calibration.json"
