"""An exported file answers as its detector, alone, and its card tells how to use it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from exported_detectors import folded, parts, recorded, untrained

from ast_jax.config import default
from ast_jax.errors import UserError
from ast_jax.inference import read_part
from ast_jax.interop.compare import compare, load_function
from ast_jax.interop.export import PLATFORMS, export

DOCUMENTED = Path(__file__).parents[2] / "docs" / "interop.md"
# What AST-JAX needs beyond what jax itself brings and flatbuffers.
ABSENT = ("ast_jax", "flax", "orbax", "optax", "distrax", "absl", "jaxtyping", "tqdm")
WITHOUT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ImportError(name + " is not to be imported")
sys.meta_path.insert(0, Absent())
"""

pytestmark = pytest.mark.usefixtures("quick_compilation", "one_device")


@pytest.fixture(scope="module")
def detector(tmp_path_factory, quick_compilation, one_device):
    """RGB+3D, EfficientNet, a recorded pair, a threshold."""
    return recorded(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def stablehlo(tmp_path_factory, detector):
    path = tmp_path_factory.mktemp("export") / "detector.stablehlo"
    return path, export(detector, path)


def batch_of(detector, pairs) -> dict[str, np.ndarray]:
    """The inputs of a file, of some parts."""
    mode = detector.config.mode
    each = [detector.preprocess(read_part.decode(mode, *pair)) for pair in pairs]
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


def documented(needle: str) -> str:
    """The Python of docs/interop.md that has `needle` in it."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if needle in block]
    return block


def assert_answers_as(detector, pairs, outputs):
    predictions = list(detector.predict_many(pairs))
    for row, prediction in enumerate(predictions):
        np.testing.assert_allclose(outputs["score"][row], prediction.score, rtol=1e-5)
        tolerance = 1e-5 * np.abs(prediction.fine).max()
        fine = outputs["map"][row]
        np.testing.assert_allclose(fine, prediction.fine, atol=tolerance, rtol=0)
        assert outputs["anomalous"][row] == prediction.anomalous
        np.testing.assert_allclose(outputs["p_value"][row], prediction.p_value, 1e-6)
    assert len({prediction.anomalous for prediction in predictions}) == 2


def test_jax_and_flatbuffers_alone_run_the_file(stablehlo, detector, tmp_path):
    """By the lines in the documentation, a batch of three; `compare` takes one each."""
    path, _ = stablehlo
    pairs = parts(range(3))
    inputs = batch_of(detector, pairs)
    np.savez(tmp_path / "inputs.npz", **inputs)
    for name in (path.name, f"{path.name}.json"):
        (tmp_path / name).symlink_to(path.with_name(name))
    script = WITHOUT + documented("deserialize") + "np.savez('out.npz', **outputs)\n"
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, check=True
    )
    assert_answers_as(detector, pairs, np.load(tmp_path / "out.npz"))


def test_the_file_is_for_every_platform_and_chooses_there(stablehlo):
    exported = jax.export.deserialize(bytearray(stablehlo[0].read_bytes()))
    assert exported.platforms == PLATFORMS
    assert str(exported.in_avals[0].shape[0]) == "batch"
    # On a CPU shifted sums and matrix products, elsewhere the library's convolution.
    assert "stablehlo.case" in exported.mlir_module()


def test_the_card_says_what_the_file_takes_and_means(stablehlo, detector):
    path, returned = stablehlo
    card = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert card == json.loads(json.dumps(returned))
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["threshold"] == detector.calibration.threshold
    assert card["pixel_threshold"] == detector.calibration.pixel_threshold
    assert card["alpha"] == detector.calibration.attainable
    assert card["guaranteed"] == detector.calibration.guaranteed
    assert card["inputs"]["image"]["shape"] == ["batch", 64, 64, 3]
    assert card["inputs"]["depth"]["dtype"] == "float32"
    assert card["outputs"].keys() == {"score", "map", "maximum", "p_value", "anomalous"}
    assert "Apache-2.0" in card["licences"]["backbone"]
    assert "CC BY-NC-SA" in card["licences"]["training_data"]


def small_config(mode: str):
    config = default()
    config.mode = mode
    config.dataset.image_size = 64
    config.backbone.name = "scattering"
    config.teacher.update(blocks=1, hidden=4)
    config.student.update(blocks=1, width=8)
    return config


def test_an_ensemble_without_a_threshold(tmp_path):
    detector = untrained(small_config("3d"), seeds=(0, 1))
    card = export(detector, tmp_path / "two.stablehlo")
    assert card["threshold"] is None and "anomalous" not in card["outputs"]
    assert card["licences"]["backbone"] is None
    pairs = parts(range(2))
    outputs = load_function(tmp_path / "two.stablehlo")(batch_of(detector, pairs))
    expected = [prediction.score for prediction in detector.predict_many(pairs)]
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-5)
    assert {p.name for p in tmp_path.iterdir()} == {
        "two.stablehlo",
        "two.stablehlo.json",
    }


def test_a_bfloat16_pair_goes_as_stablehlo_alone(tmp_path):
    config, path = small_config("3d"), tmp_path / "detector.stablehlo"
    config.train.dtype = "bfloat16"
    detector = untrained(config)
    export(detector, path)
    decoded = [read_part.decode("3d", *pair) for pair in parts(range(2))]
    comparison = compare(detector, load_function(path), decoded)
    assert comparison.agrees and comparison.score < 5e-3
    pytest.importorskip("onnx", reason="onnx is not installed")
    with pytest.raises(UserError, match="bfloat16 has no runtime; export StableHLO"):
        export(detector, path.with_suffix(".onnx"))


@pytest.mark.slow
def test_scattering_features_standardised(tmp_path):
    detector = untrained(small_config("rgb"))
    export(detector, tmp_path / "detector.stablehlo")
    pairs = parts(range(2))
    outputs = load_function(tmp_path / "detector.stablehlo")(batch_of(detector, pairs))
    expected = [prediction.score for prediction in detector.predict_many(pairs)]
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-5)


def test_what_onnx_cannot_hold_is_one_line():
    pytest.importorskip("onnx", reason="onnx is not installed")
    from ast_jax.interop import onnx_graph

    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {"x": jax.ShapeDtypeStruct((batch, 4), np.float32)}
    with pytest.raises(UserError, match="no counterpart here of JAX's 'sort'"):
        onnx_graph.convert(lambda x: {"y": jax.numpy.sort(x["x"])}, shapes, "none")


def test_onnxruntime_answers_as_the_detector(detector, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path, pairs = tmp_path / "detector.onnx", parts(range(3))
    assert export(detector, path)["kind"] == "onnx"
    inputs = batch_of(detector, pairs)
    assert_answers_as(detector, pairs, load_function(path)(inputs))
    block = documented("onnxruntime").replace("detector.onnx", str(path))
    names = {"inputs": {name: of[:1] for name, of in inputs.items()}}
    exec(block, names)
    assert_answers_as_first(detector, pairs, names["outputs"])


@pytest.mark.parametrize("suffix", [".stablehlo", ".onnx"])
def test_a_file_of_folds_answers_as_the_detector(detector, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path, some = tmp_path / f"folds{suffix}", parts(range(4))
    crossed = folded(detector, some)
    assert crossed.calibration.is_cross
    export(crossed, path)
    outputs = load_function(path)(batch_of(crossed, some))
    assert_answers_as(crossed, some, outputs)
    assert outputs["score_by_fold"].shape == (4, 2)
    assert (outputs["score_by_fold"][:, 0] != outputs["score_by_fold"][:, 1]).all()


def assert_answers_as_first(detector, pairs, outputs):
    (prediction,) = detector.predict_many(pairs[:1])
    np.testing.assert_allclose(outputs["score"], [prediction.score], rtol=1e-5)


def test_a_file_that_answers_differently_is_noticed(stablehlo, detector):
    right, pairs = load_function(stablehlo[0]), parts(range(2))
    decoded = [read_part.decode(detector.config.mode, *pair) for pair in pairs]
    assert compare(detector, right, decoded).agrees

    def off(inputs):
        outputs = right(inputs)
        return outputs | {"score": outputs["score"] * 1.001}

    def flipped(inputs):
        outputs = right(inputs)
        return outputs | {"anomalous": ~outputs["anomalous"]}

    assert not compare(detector, off, decoded).agrees
    assert "0 of 2 decisions equal" in str(compare(detector, flipped, decoded))


def test_what_cannot_be_written_or_read_is_one_line(detector, tmp_path):
    with pytest.raises(UserError, match="a folder; name a file in it"):
        export(detector, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export(detector, tmp_path / "file" / "detector.stablehlo")
    (tmp_path / "file").write_text("no detector")
    with pytest.raises(UserError, match="no exported detector"):
        load_function(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be read"):
        load_function(tmp_path / "none")
