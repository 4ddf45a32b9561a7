"""AST+ goes the whole way that AST goes: trained, calibrated, loaded, exported."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs

from ast_jax import Detector, parameter, scoring
from ast_jax.errors import UserError
from ast_jax.features.whitening import BlockWhitening
from ast_jax.inference import read_part
from ast_jax.inference.ensemble import fit_units
from ast_jax.inference.pair import load_pair
from ast_jax.interop.export import export
from ast_jax.models.teacher import ParallelTeacher
from ast_jax.pipeline import evaluate_category, open_categories, train
from ast_jax.run import Run

pytestmark = pytest.mark.usefixtures(
    "quick_compilation", "one_device", "library_convolutions"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compilation, one_device, library_convolutions):
    return tiny_runs.plus(tmp_path_factory)


@pytest.fixture(scope="module")
def crossed(run, tmp_path_factory):
    """Two seeds with two folds each, side by side on eight devices, in bfloat16."""
    config = run.config.copy_and_resolve_references()
    config.calibration.update(method="cross", folds=2)
    config.train.update(seeds=(0, 1), dtype="bfloat16", batch_size=4)
    return train(config, tmp_path_factory.mktemp("crossed") / "run")


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run.directory)


@pytest.fixture(scope="module")
def category(run):
    (category,) = open_categories(run.config)
    return category


def parts(run, count):
    """Image and cloud of the first test parts."""
    images = sorted(Path(run.config.dataset.root).glob("bagel/test/*/rgb/*.png"))
    xyz = (path.parents[1] / "xyz" / f"{path.stem}.tiff" for path in images[:count])
    return [(None, path) for path in xyz]


def test_a_run_records_what_the_detector_needs(run, category):
    record = run.read_record("bagel", 0)
    assert record["exaggeration"] == category.exaggeration > 0
    assert [modality for modality, _ in record["blocks"]] == ["depth"] * 2
    assert record["normaliser"] is None
    pair = load_pair(run, "bagel", 0)
    assert isinstance(pair.teacher, ParallelTeacher)
    assert len(pair.groups) == 2
    assert pair.teacher.channels == record["channels"]


def test_training_sees_whitened_features(run, category):
    record = run.read_record("bagel", 0)
    rows = [category.parts["train"].ids.index(name) for name in record["train"]]
    whitening = BlockWhitening.load(run.whitening_file("bagel", 0))
    inputs = category.inputs("train").select(rows).with_normaliser(whitening)
    batch = inputs.take(np.arange(len(rows)))
    x = batch["x"][batch["foreground"] > 0]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-2)
    assert x.var(0).max() == pytest.approx(1, abs=0.2)


def test_units_are_the_groups_quantiles_on_what_the_pair_learnt(run, category):
    record = run.read_record("bagel", 0)
    rows = [category.parts["train"].ids.index(name) for name in record["train"]]
    pair = load_pair(run, "bagel", 0)
    units = fit_units(pair, category.inputs("train").select(rows), 4)
    written = json.loads(run.units_file("bagel", 0).read_text())
    np.testing.assert_allclose(written["low"], units.low, rtol=1e-5)
    np.testing.assert_allclose(written["high"], units.high, rtol=1e-5)
    assert (units.high > units.low).all()


def test_the_detector_scores_as_evaluation_does(run, detector, category):
    evaluated = evaluate_category(run, category)
    scores = evaluated.scores["student"]
    predictions = list(detector.predict_many(parts(run, len(scores.image))))
    by_id = {p.part.id: p for p in predictions}
    for index, (_, path) in enumerate(parts(run, len(scores.image))):
        prediction = by_id[str(path)]
        np.testing.assert_allclose(prediction.score, scores.image[index], rtol=1e-3)
        fine = scores.map_at(index)
        np.testing.assert_allclose(prediction.fine, fine, atol=2e-3)
        np.testing.assert_allclose(
            scoring.top(jax.numpy.asarray(fine)[None]), scores.image[index], rtol=1e-3
        )


def test_a_program_that_another_process_traced_scores_alike(
    run, detector, tmp_path, monkeypatch
):
    """Ours and one that was kept; the second process does not call the networks."""
    (part,) = parts(run, 1)
    expected = detector.predict(*part)
    called = []
    for module, name in ((Detector, "_score"), (ParallelTeacher, "bijector")):
        method = getattr(module, name)
        count = functools.partialmethod(_counted, method, called)
        monkeypatch.setattr(module, name, count)
    for expect_calls in (True, False):
        called.clear()
        parameter.variable_shapes.cache_clear()  # as in a new process
        again = Detector.load(run.directory, traced_in=tmp_path / "traced")
        found = again.predict(*part)
        assert bool(called) == expect_calls
        assert found.score == expected.score
        np.testing.assert_array_equal(found.map, expected.map)


def _counted(self, method, called, *arguments):
    called.append(method)
    return method(self, *arguments)


def test_an_exported_file_answers_as_the_detector(run, detector, tmp_path):
    given = parts(run, 3)
    each = [detector.preprocess(read_part.decode("3d", *one)) for one in given]
    inputs = {name: np.stack([one[name] for one in each]) for name in each[0]}
    assert inputs.keys() == {"normals", "foreground"}
    card = export(detector, tmp_path / "plus.stablehlo")
    assert "normals_picture" in card["inputs"]["normals"]["meaning"]
    exported = jax.export.deserialize(
        bytearray((tmp_path / "plus.stablehlo").read_bytes())
    )
    outputs = jax.device_get(exported.call(inputs))
    expected = [prediction.score for prediction in detector.predict_many(given)]
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4)


def test_seeds_and_folds_have_whitenings_units_and_decisions_of_their_own(
    crossed, category
):
    evaluated = evaluate_category(crossed, category)
    names = crossed.members("bagel")
    assert names == ("0/fold_0", "0/fold_1", "1/fold_0", "1/fold_1")
    files = (crossed.whitening_file, crossed.units_file)
    for file in files:
        first, other, again, _ = (file("bagel", name).read_bytes() for name in names)
        assert first != other
        # The seeds learn the same images of a fold, by networks of their own.
        assert (first == again) == (file == crossed.whitening_file)
    assert evaluated.calibration.folds == 2
    assert len(evaluated.calibration.scores) == 12
    by_fold = evaluated.scores["student"].by_fold
    assert by_fold.shape == (len(evaluated.parts), 2)
    assert np.isfinite(by_fold).all() and (by_fold[:, 0] != by_fold[:, 1]).all()


def test_a_killed_run_continues_to_the_same_parameters(crossed, tmp_path):
    """One pair lost its student, another both networks."""
    copied = shutil.copytree(crossed.directory, tmp_path / "run")
    again = Run(Path(copied), crossed.config)
    lost = {"0/fold_1": ["student"], "1/fold_0": ["student", "teacher"]}
    for member, networks in lost.items():
        for network in networks:
            shutil.rmtree(again.seed_directory("bagel", member) / network)
    train(again.config, again.directory)
    for member in lost:
        one, other = (
            jax.tree.leaves(load_pair(run, "bagel", member).variables)
            for run in (crossed, again)
        )
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_damaged_units_and_whitenings_are_named(run):
    for path in (run.units_file("bagel", 0), run.whitening_file("bagel", 0)):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=path.name):
            load_pair(run, "bagel", 0)
        path.write_bytes(content)


def test_units_of_an_earlier_version_are_those_of_every_position(run):
    path = run.units_file("bagel", 0)
    content = path.read_bytes()
    path.write_text(json.dumps({"low": [0.5, 1.0], "high": [1.5, 3.0]}))
    low, high = load_pair(run, "bagel", 0).variables["units"]
    np.testing.assert_array_equal(low, [[0.5, 1.0]] * 2)
    np.testing.assert_array_equal(high, [[1.5, 3.0]] * 2)
    path.write_bytes(content)
