"""Frozen feature extractors, by name: timm's EfficientNets and wavelet scattering."""

from absl import logging
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from ast_jax.backbones.backbone import Backbone, PyTree, Triple, fingerprint
from ast_jax.errors import UserError


def create(
    config: ConfigDict, *, image_size: int, taps: tuple[int, ...] = ()
) -> Backbone:
    """The backbone that the configuration's `backbone` section describes.

    It computes in float32 for every `train.dtype`, because the teacher amplifies
    directions in which good parts hardly differ, and with them rounding errors.

    Args:
      config: name, weights, stage, padding, mean, std (empty = the backbone's own).
      image_size: side of the images in pixels.
      taps: stages, ascending; their outputs are joined on the grid of the last one. ()
        for `config.stage` alone. Scattering has no stages; with taps its channels are
        two taps, the fine octaves and the coarse ones.

    Raises:
      UserError: the name is unknown, the weights are not available or do not fit, or
        the image size is not a multiple of the stride.
    """
    if config.name == "scattering":
        from ast_jax.backbones import scattering

        return scattering.create(config, image_size=image_size, split=bool(taps))
    return _efficientnet(config, image_size, taps)


def _efficientnet(
    config: ConfigDict, image_size: int, taps: tuple[int, ...]
) -> Backbone:
    import jax.numpy as jnp

    from ast_jax.backbones import architecture, efficientnet, timm_weights
    from ast_jax.precision import multiply_at_least_high

    base = config.name.split(".")[0]
    padding = config.padding or "same"
    stage = taps[-1] if taps else config.stage
    net = architecture.architecture(base, stage, padding)
    if image_size % net.stride:
        raise UserError(
            f"dataset.image_size: {image_size} is not a multiple of {config.name}'s "
            f"stride {net.stride}"
        )
    path = timm_weights.locate(config.name, config.weights)
    digest = timm_weights.sha256(path)
    if not config.weights:
        timm_weights.check_sha256(config.name, path, digest)
    logging.info("backbone %s: %s, SHA-256 %s", config.name, path, digest)
    mean, std = _normalisation(config, timm_weights.normalisation(config.name))

    tap_channels = tuple(
        net.stages[tap][-1].project.outputs for tap in taps or (stage,)
    )

    def apply(
        variables: PyTree, images: UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b i j c"]:
        x = (images / 255.0 - jnp.array(mean)) / jnp.array(std)
        # Without this a TPU multiplies float32 in bfloat16.
        with multiply_at_least_high():
            return efficientnet.extract(net, variables, x, taps)

    return Backbone(
        name=config.name,
        channels=sum(tap_channels),
        stride=net.stride,
        fingerprint=fingerprint(
            name=base,
            weights=digest,
            stage=stage,
            padding=padding,
            mean=mean,
            std=std,
            **({"taps": taps} if taps else {}),
        ),
        variables=timm_weights.load(path, net),
        apply=apply,
        standardise=False,
        taps=tap_channels,
        weights_sha256=digest,
    )


def _normalisation(config: ConfigDict, own: tuple[Triple, Triple]) -> list[Triple]:
    """The configured mean and standard deviation, or the backbone's own if empty."""
    chosen = []
    for key, default in zip(("mean", "std"), own, strict=True):
        values = tuple(config[key]) or default
        if len(values) != 3 or (key == "std" and min(values) <= 0):
            raise UserError(
                f"backbone.{key}: {values} should be three numbers, one a colour"
                " (of images in 0 … 1; deviations above 0)"
            )
        chosen.append(values)
    return chosen
