"""Every configuration key with its default, and the checks on their values.

The defaults are those of the authors' code on MVTec 3D-AD (docs/method.md "Optimiser
and schedule"). A file in `configs/` changes the keys that its benchmark needs.
"""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ast_jax.errors import UserError
from ast_jax.mode import Mode

STRIDE = 32  # image pixels per position of the map, without a backbone
BIT_DEPTHS = (8, 10, 12, 14, 16)  # that cameras fill of 16
FULL_DEPTH = 16

_CHOICES = {
    "mode": tuple(Mode),
    "student.kind": ("conv", "flow"),
    "calibration.method": ("split", "cross", "auto"),
    "evaluation.image_score": ("protocol", "max", "mean", "top"),
    "method": ("ast", "ast_plus"),
    "teacher.coupling": ("affine", "additive"),
    "student.input": ("same", "cross"),
    "train.schedule": ("constant", "one_cycle"),
    "depth.input": ("unshuffled", "normals"),
    "fusion": ("joint", "late"),
    "train.dtype": ("float32", "bfloat16"),
    "train.precision": ("default", "high", "highest"),
    "train.mask": ("soft", "binary"),
    "train.loss_average": ("all", "foreground"),
    "dataset.feature_dtype": ("float32", "float16"),
    "dataset.bit_depth": (0, *BIT_DEPTHS),
    "depth.unit": ("auto", "m", "mm"),
}
_AT_LEAST_ONE = (
    "teacher.hidden",
    "teacher.epochs",
    "student.width",
    "student.epochs",
    "train.batch_size",
    "train.checkpoint_epochs",
    "train.tasks_per_device",
    "depth.dilation",
)
_LARGEST_SEED = 2**31 - 1
# key → (a test of values, which NaN fails; the text of the valid range)
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "calibration.folds": (lambda value: value >= 2, "at least 2"),
    "calibration.fraction": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "calibration.alpha": (lambda value: 0 < value < 1, "in (0, 1)"),
    "train.learning_rate": (lambda value: 0 < value < math.inf, "positive"),
    "train.weight_decay": (lambda value: 0 <= value < math.inf, "0 or positive"),
    "teacher.clamp": (lambda value: 0 < value < math.inf, "positive"),
    "student.negative_slope": (math.isfinite, "a finite number"),
    "depth.foreground_distance": (
        lambda value: 0 <= value < math.inf,
        "a distance in metres, not negative",
    ),
    "depth.missing": (
        lambda value: not math.isnan(value),
        "a number; NaN always means that depth is missing",
    ),
    "depth.fill_rounds": (lambda value: value >= 0, "0 or positive"),
    "teacher.blocks": (lambda value: value >= 0, "0 or positive"),
    "student.blocks": (lambda value: value >= 0, "0 or positive"),
    "student.hardest": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "features.taps": (
        lambda value: list(value) == sorted(set(value) & set(range(7))),
        "stages from 0 to 6, ascending, each once",
    ),
    "teacher.last_kernel_size": (lambda value: value % 2 == 1, "odd"),
    "train.clip": (lambda value: 0 <= value < math.inf, "0 or positive"),
    "evaluation.smoothing": (lambda value: 0 <= value < math.inf, "0 or positive"),
    "dataset.seed": (
        lambda value: 0 <= value <= _LARGEST_SEED,
        f"from 0 to {_LARGEST_SEED}",
    ),
}


def default() -> ConfigDict:
    """Returns the configuration of the authors' code; `dataset.root` is empty.

    It is locked, so setting an unknown key is an error.
    """
    return ConfigDict(
        {
            "method": "ast",  # or ast_plus: see `ast_plus`
            "mode": "rgb3d",  # rgb, 3d or rgb3d
            "dataset": {
                "name": "mvtec_3d_ad",
                "root": "",  # the folder as the publisher ships it
                "categories": (),  # empty: all
                "data_dir": "~/.cache/ast_jax",  # prepared data and features
                "image_size": 768,  # pixels, a multiple of 32
                "any_direction": False,  # of parts: learn quarter turns of them too
                "exclude": "",  # a file that names training pictures to leave out
                "bit_depth": 0,  # bits in use of 16-bit images; 0: estimated
                "feature_dtype": "float32",  # of the feature cache; float16 halves it
                "seed": 0,  # of the synthetic data set, and of elpv's split
                "elpv": {"uncertain": False},  # test on probabilities 1/3 and 2/3 too
            },
            "depth": {
                "input": "unshuffled",  # or normals, a picture for the backbone
                "unit": "auto",  # or m, mm; auto: integers are mm, floats m
                "missing": 0.0,  # a value in files that means "no depth", beside 0, NaN
                "foreground_distance": 7e-3,  # metres off the background plane
                "fill_rounds": 3,  # pixels by which gaps are filled
                "dilation": 8,  # pixels, of the foreground; 8 per map position
            },
            "backbone": {
                # timm's with its tag, tf_efficientnet_lite0.package (lite1, lite2),
                # scattering, or auto: lite0 from its package on a CPU, else B5
                "name": "tf_efficientnet_b5.aa_in1k",
                "weights": "",  # .safetensors or .pth; empty: from package or hub
                "stage": 5,  # timm's blocks[stage] is the output
                "padding": "same",  # or efficientnet_pytorch_0.7.1
                "mean": (),  # of the input normalisation; empty: the backbone's own
                "std": (),
            },
            "features": {
                "taps": (),  # stages of the backbone; empty: backbone.stage alone
                "whiten": False,  # each tap, over good foreground
            },
            "fusion": "joint",  # of RGB and depth; or late: one pair for each
            "teacher": {
                "coupling": "affine",  # or additive
                "blocks": 4,  # 0, with additive: no flow, one scale a channel
                "last_kernel_size": 5,  # of the last block; 3 before it
                "hidden": 64,
                "clamp": 1.9,
                "positional_encoding": True,  # of the student's input too
                "gamma": True,  # conditioners start at zero
                "epochs": 72,
            },
            "student": {
                "kind": "conv",  # or flow: a symmetric pair
                "input": "same",  # or cross: the teacher's other taps
                "width": 1024,
                "blocks": 4,
                "negative_slope": 0.01,  # the paper: 0.2
                "hardest": 1.0,  # share of an image's positions in the loss
                "epochs": 72,
            },
            "train": {
                "batch_size": 8,
                "learning_rate": 2e-4,
                "schedule": "constant",  # or one_cycle, with that rate as its peak
                "clip": 0.0,  # bound of the gradient's norm; 0: none
                "weight_decay": 1e-5,  # L2, in the gradient
                "seeds": (0,),
                "dtype": "float32",  # or bfloat16: the factors of convolutions
                "precision": "default",  # of products on an accelerator; high, highest
                "mask": "soft",  # foreground weight at map resolution; or binary
                "loss_average": "all",  # over positions; or foreground
                "checkpoint_epochs": 10,  # epochs between two checkpoints
                "tensorboard": False,  # event files beside metrics.jsonl
                "tasks_per_device": 1,  # trainings side by side on one device
            },
            "evaluation": {
                "image_score": "protocol",  # max with a foreground mask, else mean
                "smoothing": 0.0,  # of the upsampled map: a Gaussian's pixels
                "border_units": False,  # own units for the outermost positions
            },
            "calibration": {
                "method": "split",  # cross: each fold left out in turn; auto: few parts
                "folds": 5,  # of cross
                "alpha": 0.01,  # wanted false-alarm rate
                "fraction": 0.0,  # good training images held out, if no validation
            },
        }
    ).lock()


# The keys that AST+ changes, measured in docs/ast_plus.md; `_PARTS` are its new parts.
_PLUS = {
    "method": "ast_plus",
    "features.taps": (4, 5),
    "features.whiten": True,
    "depth.input": "normals",
    "fusion": "late",
    "teacher.coupling": "affine",
    "teacher.clamp": 0.1,  # nearly additive
    "teacher.blocks": 2,
    "teacher.hidden": 64,
    "teacher.last_kernel_size": 3,
    "teacher.epochs": 6,
    "student.input": "cross",
    "student.width": 128,
    "student.blocks": 2,
    "student.negative_slope": 0.2,
    "student.hardest": 0.1,
    "student.epochs": 16,
    "train.batch_size": 4,
    "train.learning_rate": 1e-3,
    "train.weight_decay": 0.0,
    "train.schedule": "one_cycle",
    "train.clip": 1.0,
    "evaluation.image_score": "top",
    "evaluation.border_units": True,
}
_SMALL = {
    "backbone.name": "auto",
    "teacher.hidden": 64,
    "teacher.epochs": 24,
    "student.width": 128,
    "student.epochs": 24,
}
_PARTS = (
    "features.taps",
    "features.whiten",
    "depth.input",
    "fusion",
    "teacher.coupling",
    "student.input",
    "student.hardest",
    "evaluation.border_units",
)


def uses_backbone(config: ConfigDict) -> bool:
    """Whether images, or depth as a picture, go through a backbone."""
    mode = Mode(config.mode)
    return mode.has_colour or (mode.has_depth and config.depth.input == "normals")


def check_variant(variant: str, *known: str) -> None:
    """Checks that a file in `configs/` has a variant; "" is its usual configuration.

    Raises:
      ValueError: the variant is unknown; the line names all of them.
    """
    if variant and variant not in known:
        raise ValueError(f"unknown variant {variant!r}; there are: {', '.join(known)}")


def small(config: ConfigDict) -> ConfigDict:
    """Returns the configuration with narrow networks and few epochs, for a laptop."""
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(_SMALL)
    return config.lock()  # as `default`


def ast_plus(config: ConfigDict) -> ConfigDict:
    """Returns the configuration with AST+ instead of the paper's method."""
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(_PLUS)
    return config


def validate(config: ConfigDict) -> None:
    """Checks the values of all keys.

    Raises:
      UserError: a value is out of range; the line names key, value and choices.
    """
    flat = flatten(config.to_dict())
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            known = ", ".join(map(str, choices))
            raise UserError(f"{key} must be one of {known}. Got {flat[key]!r}.")
    for key in _AT_LEAST_ONE:
        if flat[key] < 1:
            raise UserError(f"{key} must be at least 1. Got {flat[key]}.")
    size = config.dataset.image_size
    if size < STRIDE or size % STRIDE:
        raise UserError(
            f"dataset.image_size must be a multiple of {STRIDE}. Got {size}."
        )
    for key, (fits, meaning) in _RANGES.items():
        if not fits(flat[key]):
            raise UserError(f"{key} must be {meaning}. Got {flat[key]!r}.")
    _validate_method(flat)
    seeds = flat["train.seeds"]
    distinct = len(set(seeds)) == len(seeds) > 0
    if not distinct or not all(_is_seed(seed) for seed in seeds):
        raise UserError(
            "train.seeds must be distinct whole numbers from 0 to "
            f"{_LARGEST_SEED}. Got {seeds}."
        )


def _validate_method(flat: dict[str, Any]) -> None:
    """Checks that the keys fit the method's name."""
    faithful = flatten(default().to_dict())
    changed = [key for key in _PARTS if flat[key] != faithful[key]]
    if flat["method"] == "ast" and changed:
        raise UserError(
            f"{changed[0]}={flat[changed[0]]} is no part of method=ast; take a "
            "configuration's :plus variant, or --config.method=ast_plus with it."
        )
    if flat["method"] == "ast_plus" and not changed:
        raise UserError(
            "method=ast_plus sets several keys together; take the :plus variant, such "
            "as --config=configs/mvtec_ad.py:plus."
        )
    if flat["student.kind"] == "flow" and flat["student.input"] == "cross":
        raise UserError("student.kind=flow needs student.input=same. Got cross.")
    if not flat["teacher.blocks"] and flat["teacher.coupling"] == "affine":
        raise UserError("teacher.blocks=0 needs teacher.coupling=additive. Got affine.")


def _is_seed(value: object) -> bool:
    """Whether JAX and NumPy accept a seed."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 0 <= value <= _LARGEST_SEED


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Returns {"section.key": value} of a nested dictionary."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
