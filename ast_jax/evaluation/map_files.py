"""Score maps as files, in the layout that MVTec's evaluation scripts read."""

from pathlib import Path

import tifffile

from ast_jax.evaluation.results import Evaluation
from ast_jax.files import UniqueNames, whole
from ast_jax.inference.score_map import map_at


def write_maps(folder: Path, evaluation: Evaluation) -> None:
    """Writes FOLDER/<category>/test/<defect>/<id>.tiff for every test image.

    Each is float32 and has its image's own size.

    Raises:
      UserError: the folder cannot be written.
    """
    folder, unique = folder / evaluation.name, UniqueNames(".tiff")
    for part, score_map in zip(
        evaluation.parts, evaluation.scores["student"].maps, strict=True
    ):
        with whole(folder / f"{unique(part.id)}.tiff") as file:
            tifffile.imwrite(file, map_at(score_map, part.size))
