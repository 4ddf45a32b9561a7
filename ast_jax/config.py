"""Every configuration key with its default, and the checks on their values.

The defaults are the authors' code on MVTec 3D-AD (METHOD.md "Optimiser and schedule");
a file in `configs/` changes what its benchmark needs.
"""

import math

from ml_collections import ConfigDict

from ast_jax.errors import UserError
from ast_jax.mode import Mode

STRIDE = 32  # image pixels a position of the map, where no backbone says so

_CHOICES = {
    "mode": tuple(Mode),
    "student.kind": ("conv", "flow"),
    "evaluation.image_score": ("protocol", "max", "mean"),
    "train.dtype": ("float32", "bfloat16"),
    "train.mask": ("soft", "binary"),
    "train.loss_average": ("all", "foreground"),
    "dataset.feature_dtype": ("float32", "float16"),
    "depth.unit": ("auto", "m", "mm"),
}
_AT_LEAST_ONE = (
    "teacher.blocks",
    "teacher.hidden",
    "teacher.epochs",
    "student.width",
    "student.epochs",
    "train.batch_size",
    "train.checkpoint_epochs",
    "train.tasks_per_device",
    "depth.dilation",
)


def default() -> ConfigDict:
    """Returns the configuration of the authors' code; `dataset.root` is empty."""
    return ConfigDict(
        {
            "mode": "rgb3d",  # rgb, 3d or rgb3d
            "dataset": {
                "name": "mvtec_3d_ad",
                "root": "",  # the folder as the publisher ships it
                "categories": (),  # empty: all
                "data_dir": "~/.cache/ast_jax",  # prepared data and features
                "image_size": 768,  # pixels, a multiple of 32
                "feature_dtype": "float32",  # of the feature cache; float16 halves it
                "seed": 0,  # of the synthetic data set
            },
            "depth": {
                "unit": "auto",  # or m, mm; auto: integers are mm, floats m
                "missing": 0.0,  # what means "no depth" beside 0 and NaN, in files
                "foreground_distance": 7e-3,  # metres off the background plane
                "fill_rounds": 3,  # pixels by which gaps are filled
                "dilation": 8,  # pixels, of the foreground; 8 are a map's position
            },
            "backbone": {
                "name": "tf_efficientnet_b5.aa_in1k",  # timm's with tag, or scattering
                "weights": "",  # .safetensors or .pth; empty: through the hub
                "stage": 5,  # timm's blocks[stage] is the output
                "padding": "same",  # or efficientnet_pytorch_0.7.1
                "mean": (),  # of the input normalisation; empty: the backbone's own
                "std": (),
            },
            "teacher": {
                "blocks": 4,
                "hidden": 64,
                "clamp": 1.9,
                "positional_encoding": True,  # of the student's input too
                "gamma": True,  # conditioners start at zero
                "epochs": 72,
            },
            "student": {
                "kind": "conv",  # or flow: a symmetric pair
                "width": 1024,
                "blocks": 4,
                "negative_slope": 0.01,  # the paper: 0.2
                "epochs": 72,
            },
            "train": {
                "batch_size": 8,
                "learning_rate": 2e-4,
                "weight_decay": 1e-5,  # L2, in the gradient
                "seeds": (0,),
                "dtype": "float32",  # or bfloat16: what convolutions multiply
                "mask": "soft",  # foreground weight at map resolution; or binary
                "loss_average": "all",  # over positions; or foreground
                "checkpoint_epochs": 10,  # a checkpoint every so many epochs
                "tensorboard": False,  # event files beside metrics.jsonl
                "tasks_per_device": 1,  # categories and seeds side by side on one
            },
            "evaluation": {
                "image_score": "protocol",  # max with a foreground mask, else mean
            },
            "calibration": {
                "alpha": 0.01,  # false-alarm rate asked for
                "fraction": 0.0,  # good training images held out, if no validation
            },
        }
    )


def validate(config: ConfigDict) -> None:
    """Checks the values that no later step would name clearly.

    Raises:
      UserError: a value is out of range; the line names key, value and choices.
    """
    flat = flatten(config.to_dict())
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            raise UserError(
                f"{key} must be one of {', '.join(choices)}. Got {flat[key]!r}."
            )
    for key in _AT_LEAST_ONE:
        if flat[key] < 1:
            raise UserError(f"{key} must be at least 1. Got {flat[key]}.")
    size = config.dataset.image_size
    if size < STRIDE or size % STRIDE:
        raise UserError(
            f"dataset.image_size must be a multiple of {STRIDE}. Got {size}."
        )
    _validate_depth(config.depth)
    for seed in (config.dataset.seed, *config.train.seeds):
        if not 0 <= seed < 2**31:
            raise UserError(
                "dataset.seed and train.seeds must be from 0 to 2147483647. "
                f"Got {seed}."
            )
    if not 0 <= config.calibration.fraction < 1:
        fraction = config.calibration.fraction
        raise UserError(f"calibration.fraction must be in [0, 1). Got {fraction}.")
    if not 0 < config.calibration.alpha < 1:
        raise UserError(
            f"calibration.alpha must be in (0, 1). Got {config.calibration.alpha}."
        )
    if config.train.learning_rate <= 0 or config.teacher.clamp <= 0:
        raise UserError("train.learning_rate and teacher.clamp must be positive.")
    seeds = config.train.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"train.seeds must be distinct and not negative. Got {seeds}.")


def _validate_depth(depth: ConfigDict) -> None:
    if not 0 <= depth.foreground_distance < math.inf:
        raise UserError(
            "depth.foreground_distance must be a distance in metres, not negative. "
            f"Got {depth.foreground_distance}."
        )
    if depth.fill_rounds < 0:
        raise UserError(
            f"depth.fill_rounds must not be negative. Got {depth.fill_rounds}."
        )


def flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    """Returns {"section.key": value} of a nested dictionary."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
