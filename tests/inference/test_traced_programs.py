"""A traced program is found by the next process, and only if it is the same one."""

import json

import jax
import jax.numpy as jnp
import pytest

from ast_jax.config import default
from ast_jax.inference.traced_programs import TracedPrograms
from ast_jax.run import Run

ARGUMENTS = ({"w": jnp.arange(3.0), "none": None}, {"x": jnp.ones((2, 3))})


class Counted:
    """A function that knows how often it was traced."""

    traces = 0

    def __call__(self, variables, inputs):
        self.traces += 1
        return {"y": variables["w"] * inputs["x"]}


@pytest.fixture
def function():
    return Counted()


def answer(folder, function, origin="run", arguments=ARGUMENTS, name="answer"):
    compiled = TracedPrograms(folder, origin).compile(name, function, arguments)
    return compiled(*arguments)["y"].tolist()


def test_a_program_is_traced_once_for_all_processes(tmp_path, function):
    folder = tmp_path / "traced"
    assert answer(folder, function) == answer(folder, function) == [[0, 1, 2]] * 2
    assert function.traces == 1


def test_another_run_name_or_shape_is_another_program(tmp_path, function):
    answer(tmp_path, function)
    answer(tmp_path, function, origin="another run")
    answer(tmp_path, function, name="another name")
    wider = (ARGUMENTS[0], {"x": jnp.ones((4, 3))})
    assert len(answer(tmp_path, function, arguments=wider)) == 4
    assert function.traces == len([*tmp_path.iterdir()]) == 4


def test_a_damaged_file_is_written_again(tmp_path, function):
    answer(tmp_path, function)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        assert answer(tmp_path, function) == [[0, 1, 2]] * 2
    assert function.traces == 2


def test_shapes_are_found_once_and_a_damaged_file_is_written_again(tmp_path):
    tree = {"params": {"w": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)}, "none": {}}
    found = []

    def find():
        found.append(tree)
        return tree

    programs = TracedPrograms(tmp_path, "run")
    for _ in range(2):
        assert programs.shapes("teacher", find) == tree
    assert len(found) == 1
    for content in ("{", '{"params": 1}'):
        (path,) = tmp_path.iterdir()
        path.write_text(content)
        assert programs.shapes("teacher", find) == tree
    assert len(found) == 3
    assert programs.shapes("student", find) == tree
    assert len(found) == 4


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, function):
    (tmp_path / "file").touch()
    for traces in (1, 2):
        assert answer(tmp_path / "file" / "traced", function) == [[0, 1, 2]] * 2
        assert function.traces == traces


def test_whatever_a_runs_networks_are_built_from_is_in_the_digest(tmp_path):
    run = Run.create(tmp_path / "run", default())
    record = {"train": ["a"], "held_out": []}
    run.write_record("bagel", 0, record)

    def origin() -> str:
        return TracedPrograms.of(run, "bagel", tmp_path).origin

    before = origin()
    (run.seed_directory("bagel", 0) / "metrics.jsonl").write_text("{}\n")
    assert origin() == before
    run.write_record("bagel", 0, record | {"train": ["b"]})
    after = origin()
    calibration = tmp_path / "run" / "bagel" / "calibration.json"
    calibration.write_text(json.dumps({"scales": {}}))
    assert len({before, after, origin()}) == 3
