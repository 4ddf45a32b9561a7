"""Data sets: from the publisher's folder, or from nothing, to parts."""

import importlib
from collections.abc import Sequence

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

# Where each builder is; imported when asked for, because tfds takes time to import.
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
        UserError: of several categories a name does not say which it means.
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
    """Return the tfds builder class of a data set; a UserError names the near match."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}: {near_match(name, DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def categories(dataset: ConfigDict) -> tuple[str, ...]:
    """Return `dataset.categories`, or all that `dataset.root` has where it is empty.

    Raises:
        UserError: the folder isn't there or has none, or a category isn't in it.
    """
    builder = builder_class(dataset.name)
    known = {one_form(name): name for name in builder.categories(dataset.root)}
    chosen = tuple(dataset.categories) or tuple(known.values())
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
    """Prepare a category, unless it has been, and return its parts.

    Args:
        dataset: the `dataset` section of a configuration; `name`, `root` and `data_dir`
            are read here.
        category: one of `categories(dataset)`.
        mode: "rgb", for which point clouds are not even opened; "3d" or "rgb3d".
        depth_options: the unit of the point clouds, and what is missing in them.
        bit_depth: how many bits of 16 count, as a run recorded it; else by
            `dataset.bit_depth`, which is 0 to estimate it from the training images.
        excluded: ids of training pictures left out, as a run recorded them; else by
            the names in the file `dataset.exclude`.

    Returns:
        The parts of "train", "validation" and "test"; empty where there are none.

    Raises:
        UserError: the data are missing, broken or not what the mode needs.
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
