"""The detector agrees with the evaluation, for every form of a part."""

import dataclasses
import json
import logging
import os
import pickle
import queue
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import layouts
import numpy as np
import pytest
import tifffile
import tiny_runs
from jax import export
from PIL import Image

from ast_jax import Detector
from ast_jax.errors import UserError
from ast_jax.inference.program import Program
from ast_jax.inference.score_map import map_at
from ast_jax.pipeline import evaluate_category, open_categories

pytestmark = pytest.mark.usefixtures("quick_compilation", "library_convolutions")


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compilation, library_convolutions):
    return tiny_runs.bagel(tmp_path_factory)


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run.directory, category="bagel")


@pytest.fixture(scope="module")
def rgb(tmp_path_factory, quick_compilation, library_convolutions):
    return tiny_runs.screw(tmp_path_factory)


def files(run, part_id):
    """The image and the cloud of a part of the stand-in of MVTec 3D-AD."""
    folder, stem = Path(run.config.dataset.root, "bagel", part_id).parent, part_id[-3:]
    return folder / "rgb" / f"{stem}.png", folder / "xyz" / f"{stem}.tiff"


@pytest.fixture(scope="module")
def evaluated(run):
    (category,) = open_categories(run.config)
    return evaluate_category(run, category)


def test_a_stream_of_files_scores_as_evaluation_does(run, detector, evaluated):
    ids = evaluated.parts.ids
    parts = (files(run, part_id) for part_id in ids)
    predictions = list(detector.predict_many(parts))
    assert [p.part.id for p in predictions] == [str(files(run, i)[0]) for i in ids]
    scores = evaluated.scores["student"]
    np.testing.assert_allclose([p.score for p in predictions], scores.image, rtol=2e-5)
    for prediction, score_map in zip(predictions, scores.maps, strict=True):
        expected = map_at(score_map, layouts.SIZE)
        np.testing.assert_allclose(prediction.map, expected, rtol=1e-4, atol=1e-4)
    assert [p.anomalous for p in predictions] == list(
        evaluated.calibration.anomalous(scores.image)
    )
    assert predictions[0].threshold == evaluated.calibration.threshold
    p_values = evaluated.calibration.p_values(scores.image)
    np.testing.assert_allclose([p.p_value for p in predictions], p_values)


def test_rgb_without_a_category_or_held_out_images(rgb, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        detector = Detector.load(rgb.directory)
        (category,) = open_categories(rgb.config)
        evaluated = evaluate_category(rgb, category)
        root = Path(rgb.config.dataset.root, "screw")
        parts = [(root / f"{part_id}.png", None) for part_id in evaluated.parts.ids]
        predictions = list(detector.predict_many(parts))
    np.testing.assert_allclose(
        [p.score for p in predictions],
        evaluated.scores["student"].image,
        rtol=2e-5,
    )
    for p in predictions:
        nothing = (p.threshold, p.pixel_threshold, p.p_value, p.anomalous, p.regions)
        assert nothing == (None,) * 5
    told = [r for r in caplog.records if "threshold, p_value" in r.getMessage()]
    assert len(told) == 1


def test_every_form_of_a_part_scores_the_same(run, detector, tmp_path):
    image, cloud = files(run, "test/hole/000")
    pixels = np.asarray(Image.open(image))
    points = tifffile.imread(cloud)
    np.save(tmp_path / "z.npy", points[..., 2])
    expected = detector.predict(image=image, xyz=cloud)
    assert expected.map.shape == layouts.SIZE
    for image_given, xyz_given in (
        (str(image), str(cloud)),
        (Image.open(image), points),
        (pixels, points[..., 2]),
        (pixels.astype(np.uint16) << 8, tmp_path / "z.npy"),
    ):
        prediction = detector.predict(image=image_given, xyz=xyz_given)
        assert prediction.score == expected.score
        np.testing.assert_array_equal(prediction.map, expected.map)


def test_parts_of_any_size_are_scored_at_their_own_resolution(detector):
    size = (100, 37)
    prediction = detector.predict(
        layouts.picture(1, size=size), layouts.cloud(1, size=size)
    )
    assert prediction.map.shape == size


def test_a_marked_region_lies_in_the_map_above_the_pixel_threshold(run, detector):
    prediction = detector.predict(*files(run, "test/hole/000"))
    above = prediction.map > prediction.pixel_threshold
    assert sum(region.area for region in prediction.regions) == above.sum()
    assert (prediction.regions != ()) == above.any()


def test_a_broken_part_gets_an_error_in_its_place(run, detector, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    good = files(run, "test/good/000")
    other = files(run, "test/hole/001")
    parts = [(broken, good[1]), good, other, (broken, good[1]), good]
    results = list(detector.predict_many(parts, batch_size=1))
    kinds = [isinstance(result, UserError) for result in results]
    assert kinds == [True, False, False, True, False]
    assert "broken.png" in str(results[0])
    assert results[1].score == results[4].score != results[2].score
    only_broken = list(detector.predict_many([(broken, good[1])] * 9, batch_size=1))
    assert all(isinstance(result, UserError) for result in only_broken)


def test_a_live_stream_answers_before_the_next_part_is_there(run, detector):
    arriving: queue.Queue = queue.Queue()
    part = files(run, "test/good/001")
    arriving.put(part)
    results = detector.predict_many(iter(arriving.get, None), live=True)
    first = next(results)  # would wait for ever if it needed a second part
    for _ in range(3):
        arriving.put(part)
    arriving.put(None)
    assert [result.score for result in results] == [first.score] * 3


def test_a_stream_that_is_left_early_ends_its_threads(run, detector):
    before = threading.active_count()
    results = detector.predict_many([files(run, "test/good/000")] * 200)
    next(results)
    results.close()
    assert threading.active_count() <= before + 1  # the feeder may need a moment


def test_a_stream_compiles_once(run, monkeypatch):
    traces = []
    function = Detector.function

    def counting(self, variables, inputs):
        traces.append(inputs["depth"].shape)
        return function(self, variables, inputs)

    monkeypatch.setattr(Detector, "function", counting)
    detector = Detector.load(run.directory)
    detector.warm_up(8)
    assert len(list(detector.predict_many([files(run, "test/good/000")] * 11))) == 11
    assert len(traces) == 1


def test_transformed_kernels_exist_once_a_tile(run):
    detector = Detector.load(run.directory)
    program = Program(detector)
    batches = [program.variables_for(batch) for batch in (1, 2, 3, 200, 300)]
    assert batches[0] is batches[1] is batches[2]
    assert batches[3] is batches[4] is not batches[0]
    arrays = {}
    for variables in batches:
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
            arrays.setdefault((str(path), leaf.shape), set()).add(id(leaf))
    assert {len(found) for found in arrays.values()} == {1}


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(detector, batch_size):
    with pytest.raises(UserError, match=f"batch_size .*{batch_size}"):
        detector.predict_many([], batch_size=batch_size)


def test_an_error_in_a_stream_stands_for_itself(detector):
    error = UserError("the camera was off")
    assert list(detector.predict_many([error, error])) == [error, error]


def test_a_pickled_detector_is_loaded_from_its_run_with_its_calibration(run, detector):
    other = dataclasses.replace(detector.calibration, alpha=0.5)
    pickled = pickle.dumps(dataclasses.replace(detector, calibration=other))
    assert len(pickled) < 10_000  # no weights
    again = pickle.loads(pickled)
    assert (again.category, again.calibration) == ("bagel", other)
    assert again.config == detector.config
    jax.tree.map(np.testing.assert_array_equal, again.variables, detector.variables)


def test_a_forked_worker_is_refused(run, detector, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as the child would answer
    for use in (
        lambda: Detector.load(run.directory),
        lambda: detector.predict(layouts.picture(0), layouts.cloud(0)),
        detector.warm_up,
    ):
        with pytest.raises(UserError, match="spawn"):
            use()


def test_threads_share_a_detector(run, detector):
    part = files(run, "test/hole/000")
    with ThreadPoolExecutor(4) as pool:
        scores = [p.score for p in pool.map(lambda _: detector.predict(*part), "abcd")]
    assert len(set(scores)) == 1


def test_one_function_of_any_batch_from_pixels_to_scores(run, detector):
    (b,) = export.symbolic_shape("b")
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), detector.variables
    )
    exported = export.export(jax.jit(detector.function))(
        shapes, detector.input_shapes(b)
    )
    predictions = [detector.predict(*files(run, f"test/hole/00{i}")) for i in range(2)]
    parts = [detector.preprocess(p.part) for p in predictions]
    variables = jax.device_get(detector.variables)
    for count in (1, 2):
        inputs = {k: np.stack([p[k] for p in parts[:count]]) for k in parts[0]}
        outputs = exported.call(variables, inputs)
        for row in range(count):
            score, fine = predictions[row].score, predictions[row].fine
            np.testing.assert_allclose(outputs["score"][row], score, rtol=1e-5)
            np.testing.assert_allclose(outputs["map"][row], fine, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(outputs["maximum"][row], fine.max(), rtol=1e-4)


def test_a_run_of_eight_devices_loads_on_one(run, detector, monkeypatch):
    assert len(jax.devices()) == 8
    part = files(run, "test/hole/000")
    before = detector.predict(*part)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    again = Detector.load(run.directory).predict(*part)
    assert again.score == pytest.approx(before.score, rel=1e-5)
    assert again.anomalous == before.anomalous


@pytest.mark.parametrize(
    ("missing", "message"),
    [("image", "needs image and xyz; got no image"), ("xyz", "got no xyz")],
)
def test_what_the_mode_needs_is_asked_for(run, detector, missing, message):
    image, cloud = files(run, "test/good/000")
    part = {"image": image, "xyz": cloud, missing: None}
    with pytest.raises(UserError, match=message):
        detector.predict(**part)


def test_rgb_needs_an_image(rgb):
    with pytest.raises(UserError, match="mode rgb needs image; got no image"):
        Detector.load(rgb.directory).predict(xyz=layouts.cloud(0))


def test_a_cloud_of_nan_is_refused(detector):
    cloud = np.full((*layouts.SIZE, 3), np.nan, np.float32)
    with pytest.raises(UserError, match=r"xyz: no depth is present"):
        detector.predict(layouts.picture(0), cloud)


def test_sizes_that_differ_are_told(detector):
    with pytest.raises(UserError, match="image is 64 by 48 pixels, but xyz is 9 by 7"):
        detector.predict(layouts.picture(0), layouts.cloud(0, size=(7, 9)))


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run.directory, tmp_path / "run"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_checkpoint_is_one_line(copied, damage):
    student = copied / "bagel" / "seed_1" / "student"
    if damage == "missing":
        shutil.rmtree(student)
    elif damage == "truncated":
        for path in student.rglob("*"):
            if path.is_file() and path.stat().st_size > 200:
                path.write_bytes(path.read_bytes()[:100])
    else:
        shutil.rmtree(student)
        shutil.copytree(student.parent / "teacher", student)
    with pytest.raises(UserError, match="student") as error:
        Detector.load(copied)
    assert "\n" not in str(error.value)


def test_a_run_that_was_not_evaluated_names_the_command(copied):
    (copied / "bagel" / "calibration.json").unlink()
    with pytest.raises(UserError, match=f"evaluate.py --workdir={copied}"):
        Detector.load(copied)


@pytest.mark.parametrize("text", ["", "[]", '{"calibration": {}, "scales": {}}'])
def test_a_damaged_calibration_is_named(copied, text):
    (copied / "bagel" / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=r"calibration.json: damaged"):
        Detector.load(copied)


def test_the_category_is_asked_for_where_there_are_several(copied):
    with pytest.raises(UserError, match=r"no trained 'rope'.*bagel"):
        Detector.load(copied, category="rope")
    shutil.copytree(copied / "bagel", copied / "rope")
    with pytest.raises(UserError, match="name one of its categories: bagel, rope"):
        Detector.load(copied)
    assert Detector.load(copied, category="rope").category == "rope"


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        Detector.load(tmp_path)


def test_colours_are_the_categorys_and_meet_at_the_pixel_threshold(run, rgb, detector):
    scale = detector.colour_scale
    assert scale.middle == detector.calibration.pixel_threshold
    path = run.directory / "bagel" / "calibration.json"
    scales = json.loads(path.read_text())["scales"]
    students = [seed["student"] for seed in scales.values()]
    lowest = np.mean([-s["map_mean"] / s["map_std"] for s in students])
    assert scale.low == pytest.approx(lowest)
    uncalibrated = Detector.load(rgb.directory).colour_scale
    assert (uncalibrated.low, uncalibrated.middle) == (0.0, 2.0)
