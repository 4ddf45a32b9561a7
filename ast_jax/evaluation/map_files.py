"""Score maps as files, in the layout that MVTec's evaluation scripts read."""

from pathlib import Path

import tifffile

from ast_jax.errors import UserError
from ast_jax.evaluation.results import Evaluation
from ast_jax.inference.score_map import map_at


def write_maps(folder: Path, evaluation: Evaluation) -> None:
    """Writes FOLDER/<category>/test/<defect>/<id>.tiff for every test image.

    Each is float32 and has its image's own size.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = folder / evaluation.name
    for part, score_map in zip(
        evaluation.parts, evaluation.scores["student"].maps, strict=True
    ):
        path = folder / f"{part.id}.tiff"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, map_at(score_map, part.size))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
