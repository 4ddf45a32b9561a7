"""Data sets: parts from a publisher's folder, or synthetic ones."""

import importlib
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.exclude import read_names
from ast_jax.data.layout import near_match
from ast_jax.data.listing import SPLITS
from ast_jax.data.part import Part, Parts
from ast_jax.data.walk import one_form
from ast_jax.errors import UserError
from ast_jax.mode import Mode

__all__ = [
    "DATASETS",
    "DepthOptions",
    "Part",
    "Parts",
    "builder_class",
    "categories",
    "load",
]

# The builder of each data set, imported on demand because tfds is slow to import.
DATASETS = {
    "mvtec_3d_ad": "ast_jax.data.datasets.mvtec_3d_ad:MVTec3DAD",
    "mvtec_ad": "ast_jax.data.datasets.mvtec_ad:MVTecAD",
    "mvtec_loco": "ast_jax.data.datasets.mvtec_loco:MVTecLOCO",
    "visa": "ast_jax.data.datasets.visa:VisA",
    "elpv": "ast_jax.data.datasets.elpv:ELPV",
    "folder": "ast_jax.data.datasets.folder:Folder",
    "synthetic": "ast_jax.data.datasets.synthetic:Synthetic",
}
DEFAULT_DEPTH = DepthOptions()


def _names(dataset: ConfigDict, category: str) -> list[str]:
    """The names in `dataset.exclude` that are the category's.

    Raises:
        UserError: there are several categories, and a name does not name one.
    """
    names = read_names(dataset.get("exclude", ""))
    several = categories(dataset) if names else ()
    if len(several) < 2:
        return list(names)
    known = builder_class(dataset.name).categories(dataset.root)
    for name in names:
        if name.split("/")[0] not in known:
            raise UserError(
                f"dataset.exclude: {name!r} does not say of which category; write "
                f"{several[0]}/{name}"
            )
    return [name for name in names if name.split("/")[0] == category]


def builder_class(name: str) -> type:
    """Returns the tfds builder class of a data set.

    Raises:
        UserError: there is none; the line proposes a similar name.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}: {near_match(name, DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def categories(dataset: ConfigDict, trained: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns `dataset.categories`, or all of `dataset.root` if it is empty.

    Args:
        dataset: the `dataset` section of a configuration.
        trained: the categories of a run. A user's folder may have a new name; then the
            single category of the run keeps the name that it has there.

    Raises:
        UserError: the folder does not exist or has no category, or lacks one of them.
    """
    builder = builder_class(dataset.name)
    known = {one_form(name): name for name in builder.categories(dataset.root)}
    chosen = tuple(dataset.categories) or tuple(known.values())
    if builder.ANY_NAME and not dataset.categories and len(trained) == 1:
        if tuple(trained) != chosen:
            logging.info("The parts in %s are the run's %r.", chosen[0], trained[0])
        return tuple(trained)
    if builder.ANY_NAME and len(chosen) == 1:
        return chosen
    for category in chosen:
        if one_form(category) not in known:
            raise UserError(
                f"{dataset.root}: no category {category!r}: "
                f"{near_match(category, known.values())}"
            )
    return tuple(known[one_form(category)] for category in chosen)


def load(
    dataset: ConfigDict,
    category: str,
    *,
    mode: str,
    depth_options: DepthOptions = DEFAULT_DEPTH,
    bit_depth: int | None = None,
    excluded: Sequence[str] | None = None,
) -> dict[str, Parts]:
    """Prepares a category, unless that is done, and returns its parts.

    Args:
        dataset: the `dataset` section of a configuration.
        category: one of `categories(dataset)`.
        mode: "rgb", which opens no point clouds, "3d" or "rgb3d".
        depth_options: unit and missing value of the point clouds.
        bit_depth: how many of 16 bits count, as a run has recorded it. By default
            `dataset.bit_depth`, where 0 means an estimate from the training images.
        excluded: ids of training pictures to leave out, as a run has recorded them. By
            default those that the file `dataset.exclude` names.

    Returns:
        The parts of "train", "validation" and "test"; each may be empty.

    Raises:
        UserError: the data are missing, damaged, or do not fit the mode.
    """
    modes = [known.value for known in Mode]
    if mode not in modes:
        raise UserError(f"unknown mode {mode!r}: {near_match(mode, modes)}")
    mode = Mode(mode)
    builder = builder_class(dataset.name).from_config(
        dataset,
        category,
        depth=mode.has_depth,
        depth_options=depth_options,
        bit_depth=bit_depth or dataset.get("bit_depth", 0),
        excluded=excluded,
        exclude=() if excluded is not None else _names(dataset, category),
    )
    builder.prepare()
    splits = {split: builder.parts(split) for split in SPLITS}
    if mode.has_colour and not all(parts.have("image") for parts in splits.values()):
        raise UserError(
            f"{dataset.root}: {category!r} has no images; set --config.mode=3d"
        )
    return splits
