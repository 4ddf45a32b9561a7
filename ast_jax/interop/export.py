"""Writes a detector and its threshold as one portable file, and a model card.

ast-export --workdir=DIR --category=NAME --output=FILE

The file is StableHLO of `jax.export`, for CPU, CUDA and TPU and any batch. To run, it
needs only jax and flatbuffers. A FILE.onnx is ONNX instead. FILE.json is the model
card, with inputs, outputs and their meaning. docs/interop.md shows both in use.
"""

if __name__ == "__main__":  # before the imports, so that Ctrl-C works during them
    import sys

    from ast_jax.commands.start import export

    sys.exit(export())

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

import ast_jax
from ast_jax import files
from ast_jax.data import builder_class, depth
from ast_jax.errors import UserError
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.detector import Detector
from ast_jax.platforms import trace_every_platform

FORMAT = 1  # of the model card and of the names in it
PLATFORMS = ("cpu", "cuda", "tpu")
Arrays = dict[str, Shaped[Array, "b ..."]]
_BACKBONE_LICENCE = (
    "Apache-2.0 (timm); trained on ImageNet, whose images are for non-commercial "
    "research"
)


def export(detector: Detector, output: Path) -> dict[str, Any]:
    """Writes the file and its model card; returns the card.

    Args:
      detector: the detector.
      output: the file; ONNX if it ends in `.onnx`, else StableHLO.

    Raises:
      UserError: the folder cannot be written, or ONNX cannot hold the detector or is
        not installed.
    """
    output = Path(output).absolute()
    if output.is_dir():
        raise UserError(f"--output={output}: a folder; name a file in it.")
    kind = "onnx" if output.suffix.lower() == ".onnx" else "stablehlo"
    files.check_writable(output)
    (batch,) = jax.export.symbolic_shape("batch")
    serialised = {"onnx": _onnx, "stablehlo": _stablehlo}[kind]
    content = serialised(whole_function(detector), detector.input_shapes(batch))
    tree = {
        "format": FORMAT,
        "kind": kind,
        **({"opset": 18} if kind == "onnx" else {"platforms": PLATFORMS}),
        "file": output.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        **model_card(detector),
    }
    files.write_bytes(output, content)
    text = json.dumps(tree, indent=2, allow_nan=False) + "\n"
    files.write_text(output.with_name(f"{output.name}.json"), text)
    return tree


def whole_function(detector: Detector) -> Callable[[Arrays], Arrays]:
    """`Detector.function` with its arrays and the calibration inside.

    If the detector is calibrated, the function also returns "p_value" [b] and
    "anomalous" [b], as `Calibration` defines them.
    """
    # On one device; the detector's own arrays may be on several.
    variables = jax.tree.map(jnp.asarray, jax.device_get(detector.variables))
    calibration = detector.calibration

    def function(inputs: Arrays) -> Arrays:
        outputs = detector.function(variables, inputs)
        if calibration is None:
            return outputs
        return outputs | _verdict(calibration, outputs)

    return function


def _verdict(calibration: Calibration, outputs: Arrays) -> Arrays:
    """P-value and decision, as `Calibration` defines them.

    They are exact, because the scores of the calibration were float32 too.
    """
    score, n = outputs["score"], len(calibration.scores)
    if not calibration.is_cross:
        held_out = jnp.asarray(calibration.scores, "float32")
        at_least = (held_out >= score[:, None]).sum(1)
        anomalous = ~(score <= jnp.float32(calibration.threshold))
        return {"p_value": (1 + at_least) / (1 + n), "anomalous": anomalous}
    own, at_least = outputs["score_by_fold"], 0
    scores, folds = np.float32(calibration.scores), np.array(calibration.score_folds)
    for fold in range(calibration.folds):
        mine = jnp.asarray(scores[folds == fold])
        at_least += (mine >= own[:, fold : fold + 1]).sum(1)
    few = at_least < calibration.exceeding
    not_a_number = ~(score <= jnp.inf)
    return {"p_value": (1 + at_least) / (1 + n), "anomalous": few | not_a_number}


def _stablehlo(
    function: Callable[[Arrays], Arrays], shapes: dict[str, jax.ShapeDtypeStruct]
) -> bytes:
    with trace_every_platform():
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes)
    return bytes(exported.serialize())


def _onnx(
    function: Callable[[Arrays], Arrays], shapes: dict[str, jax.ShapeDtypeStruct]
) -> bytes:
    try:
        from ast_jax.interop import onnx_graph
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, and writes .onnx: pip install onnx"
        ) from error
    return onnx_graph.convert(function, shapes, "detector").SerializeToString()


def model_card(detector: Detector) -> dict[str, Any]:
    """The facts that the file's user needs, as a tree for JSON."""
    config, calibration = detector.config, detector.calibration
    scale = detector.colour_scale
    return {
        "category": detector.category,
        "mode": config.mode,
        "inputs": _inputs(detector),
        "outputs": _outputs(detector),
        "threshold": calibration and calibration.threshold,
        "pixel_threshold": calibration and calibration.pixel_threshold,
        "alpha": calibration and calibration.attainable,
        "guaranteed": calibration and calibration.guaranteed,
        "calibration": calibration and calibration.to_dict(),
        "colour_scale": {
            "low": scale.low,
            "middle": scale.middle,
            "high": scale.high,
            "calibrated": scale.calibrated,
        },
        "licences": _licences(detector),
        "versions": {
            "ast_jax": ast_jax.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "flax")},
        },
    }


def _inputs(detector: Detector) -> dict[str, Any]:
    size, side = detector.config.dataset.image_size, detector.side
    fine = depth.UNSHUFFLE * side
    options = detector.depth_options
    meanings = {
        "image": f"RGB, 0 to 255, of a picture of any size resized to {size}x{size}: "
        "bilinear with antialiasing, Pillow's Image.resize(..., BILINEAR); of files "
        f"of 16 bits, of which {detector.bit_depth} are filled, the upper 8 of these",
        "depth": f"ast_jax.data.depth.preprocess_depth(z, {side}, {options}), first "
        "result, DepthOptions being that of ast_jax.data: z in "
        "metres, 0 = missing, filled, in centimetres off the foreground's mean, 0 in "
        f"the background, resized to {fine}x{fine}, bilinear without antialiasing; "
        "channel = row in the 8x8 block * 8 + column",
        "normals": f"ast_jax.data.normals.normals_picture(z, {size}, "
        f"{detector.exaggeration}, {options}): z in metres, 0 = missing; the surface's "
        "normals as colours",
        "foreground": f"ast_jax.data.depth.preprocess_depth(z, {side}, {options}), "
        "second result: share of foreground around each position, 0 to 1",
    }
    return {
        name: {
            "shape": ["batch", *array.shape[1:]],
            "dtype": str(array.dtype),
            "meaning": meanings[name],
        }
        for name, array in detector.input_shapes(1).items()
    }


def _outputs(detector: Detector) -> dict[str, str]:
    fine = depth.UNSHUFFLE * detector.side
    meanings = {
        "score": "float32 [batch]; anomalous above the threshold",
        "map": f"float32 [batch, {fine}, {fine}]; resize bilinearly to the picture's "
        "size; pixels above the pixel threshold are marked",
        "maximum": "float32 [batch]; the map's largest value",
    }
    if detector.calibration is not None and detector.calibration.is_cross:
        each = "float32 [batch, folds]; of each fold's own pair:"
        meanings |= {
            "score_by_fold": f"{each} the score that decides",
            "maximum_by_fold": f"{each} its map's largest value",
        }
    if detector.calibration is not None:
        meanings |= {
            "p_value": "float32 [batch]; (1 + calibration scores >= score) / (n + 1)",
            "anomalous": "bool [batch]; whether the score is above the threshold",
        }
    return meanings


def _licences(detector: Detector) -> dict[str, str | None]:
    """The licences of the code, the weights and their training data."""
    config = detector.config
    data = builder_class(config.dataset.name)
    name = config.backbone.name
    own = name == "scattering" or detector.backbone is None
    return {
        "code": "MIT",
        "backbone": None if own else f"{name}: {_BACKBONE_LICENCE}",
        "training_data": f"{data.TITLE}: {data.LICENSE}",
    }
