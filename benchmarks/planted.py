"""Measures whether a detector lists three defective pictures among 100 good ones.

python -m benchmarks.planted --dataset=elpv --workdir=runs/planted
python -m benchmarks.planted --dataset=mvtec_ad --root=../shared/data/mvtec_ad \\
    --workdir=runs/planted

It trains AST+ with cross calibration, as configs/folder.py does, on a folder in which
all pictures are labelled good. Each of --draws draws is a run in
DIR/<category>_<draw>.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from ast_jax.config import ast_plus
from ast_jax.data.part import GOOD, Parts
from ast_jax.data.write_parts import write_parts
from ast_jax.evaluation.category import evaluate_category
from ast_jax.features.category import open_categories
from ast_jax.pipeline import train
from benchmarks import real_sets

GOOD_ONES, PLANTED = 100, 3


def draw_images(train_parts: Parts, test_parts: Parts, draw: int) -> list[np.ndarray]:
    """Draws 100 good pictures, then 3 defective ones."""
    rng = np.random.default_rng([draw, 3])
    kinds = np.array(test_parts.defects)
    good = rng.permutation(len(train_parts))[:GOOD_ONES]
    defective = rng.permutation(np.flatnonzero(kinds != GOOD))[:PLANTED]
    images = [train_parts[row].image for row in good]
    return images + [test_parts[row].image for row in defective]


def list_odd(images: list[np.ndarray], folder: Path) -> list[int]:
    """Trains on all images as good ones; returns the odd rows, the oddest first."""
    write_parts(folder / "parts", images, None)
    config = ast_plus(real_sets.configuration())
    config.dataset.update(name="folder", root=str(folder / "parts"), categories=())
    config.calibration.update(method="cross", alpha=0.05)
    config.train.tasks_per_device = config.calibration.folds
    run = train(config, folder / "run")
    evaluation = evaluate_category(run, *open_categories(config, run))
    return [int(part_id[-6:]) for part_id in evaluation.odd_parts]


def main(argv: list[str]) -> None:
    """Prints a row for each draw."""
    del argv
    values = flags.FLAGS
    print("| pictures | draw | planted that are listed | good ones that are listed |")
    print("|---|---|---|---|")
    for category in open_categories(real_sets.configuration()):
        parts = category.parts
        for draw in range(values.draws):
            folder = Path(values.workdir) / f"{category.name}_{draw}"
            rows = list_odd(draw_images(parts["train"], parts["test"], draw), folder)
            hits = sum(row >= GOOD_ONES for row in rows)
            cells = (category.name, draw, f"{hits} of {PLANTED}", len(rows) - hits)
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    real_sets.define_flags()
    flags.DEFINE_string("workdir", "runs/planted", "Where the runs go.")
    flags.DEFINE_integer("draws", 1, "Of pictures, a run each.")
    sys.exit(app.run(main))
