"""Chooses the backbone of a configuration with "auto", and names its licence."""

from absl import logging
from ml_collections import ConfigDict

from ast_jax.backbones.packaged_weights import LITE0, PACKAGES
from ast_jax.config import default, uses_backbone
from ast_jax.run import Run

AUTO = "auto"
B5 = default().backbone.name  # as in the paper
_IMAGENET = "trained on ImageNet, whose images are for non-commercial research"


def with_backbone(config: ConfigDict, run: Run | None) -> ConfigDict:
    """Returns the configuration with a backbone instead of "auto".

    Args:
      config: of a run.
      run: the same run, if it has begun; it keeps its backbone. A new run gets the
        backbone for this machine.
    """
    if config.backbone.name != AUTO:
        return config
    config = ConfigDict(config.to_dict())
    if run is not None:
        config.backbone.name = run.config.backbone.name
    elif config.backbone.weights:
        # A file of weights belongs to the paper's backbone, unless another is named.
        config.backbone.name = B5
    else:
        config.backbone.name = name_for_this_machine()
    if uses_backbone(config):
        name, terms = config.backbone.name, licence(config.backbone)
        logging.info("backbone.name=auto takes %s (%s).", name, terms)
    return config


def name_for_this_machine() -> str:
    """EfficientNet-Lite0 from its package on a CPU, the paper's B5 elsewhere."""
    # Here, because JAX starts the devices, and several processes must connect first.
    import jax

    return LITE0 if jax.default_backend() == "cpu" else B5


def licence(backbone: ConfigDict) -> str:
    """The source and licence of the configured backbone's weights, in a line.

    Args:
      backbone: the `backbone` section of a configuration.
    """
    if backbone.name == "scattering":
        return "no weights, MIT licence as AST-JAX"
    if backbone.weights:
        return "weights from a file of yours, under its own licence"
    source = "timm's release"
    if backbone.name in PACKAGES:
        source = f"from the package {PACKAGES[backbone.name].distribution}"
    return f"{source}, Apache-2.0, {_IMAGENET}"
