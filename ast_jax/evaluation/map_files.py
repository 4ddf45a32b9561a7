"""Score maps as files, in the layout that MVTec's evaluation scripts read."""

from pathlib import Path

import tifffile

from ast_jax.evaluation.results import Evaluation
from ast_jax.files import UniqueNames, open_whole


def write_maps(folder: Path, evaluation: Evaluation) -> None:
    """Writes FOLDER/<category>/test/<defect>/<id>.tiff for every test image.

    Each map is float32 and has the size of its image.

    Raises:
      UserError: the folder cannot be written.
    """
    folder, unique = folder / evaluation.name, UniqueNames(".tiff")
    for index, part in enumerate(evaluation.parts):
        score_map = evaluation.scores["student"].map_at(index, part.size)
        with open_whole(folder / f"{unique(part.id)}.tiff") as file:
            tifffile.imwrite(file, score_map)
