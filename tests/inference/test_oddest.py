"""The oddest good parts are chosen among those that training has left out."""

import numpy as np

from ast_jax.config import default
from ast_jax.data.part import GOOD, Entry, Parts
from ast_jax.features.category import Category
from ast_jax.inference.ensemble import Ensemble, Scores
from ast_jax.inference.oddest import COUNT, oddest_good_parts
from ast_jax.run import Run


class Rows(list):
    """Replaces inputs: a row is its own score."""

    def select(self, rows):
        return Rows(self[row] for row in rows)


class Opened(Category):
    """A category whose parts' inputs are their numbers."""

    def inputs(self, split):
        return Rows(map(float, range(len(self.parts[split]))))


class Trained(Ensemble):
    """The score of each part is its input."""

    def score(self, inputs, batch_size):
        image = np.array(inputs, np.float64)
        return {"student": Scores(np.zeros((image.size, 2, 2)), image, image, image)}


def oddest(tmp_path, *, train, held_out, validation=0):
    config = default()
    run = Run.create(tmp_path, config)
    ids = [f"train/good/{number:03d}" for number in range(20)]
    chosen = {"train": [ids[n] for n in train], "held_out": [ids[n] for n in held_out]}
    run.write_record("bagel", 0, chosen)

    def parts(names):
        return Parts([Entry(name, GOOD, {}) for name in names], lambda index: None)

    splits = {
        "train": parts(ids),
        "validation": parts([f"validation/good/{n}" for n in range(validation)]),
    }
    category = Opened("bagel", splits, None, config)
    return oddest_good_parts(run, category, Trained({}, "max"))


def test_of_the_held_out_parts_the_highest_scores_come_first(tmp_path):
    found = oddest(tmp_path, train=range(10), held_out=range(10, 20))
    assert found.parts.ids == tuple(f"train/good/{n:03d}" for n in range(19, 13, -1))
    assert len(found.parts) == COUNT and found.held_out
    assert found.scores.image.tolist() == [19, 18, 17, 16, 15, 14]


def test_a_validation_split_goes_before(tmp_path):
    found = oddest(tmp_path, train=range(20), held_out=(), validation=3)
    assert found.parts.ids == tuple(f"validation/good/{n}" for n in (2, 1, 0))
    assert found.held_out


def test_without_either_they_are_of_those_learned_from(tmp_path):
    found = oddest(tmp_path, train=range(5), held_out=())
    assert found.parts.ids[0] == "train/good/004" and not found.held_out


def test_without_good_parts_there_are_none(tmp_path):
    assert oddest(tmp_path, train=(), held_out=()) is None
