"""Extracts features of inspected parts once, and keeps them on disk.

Threads decode, resize and preprocess depth while the device computes. Each kind of
features has its own files, so that the modes share them.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped
from tqdm import tqdm

from ast_jax.backbones import Backbone
from ast_jax.config import FULL_DEPTH, STRIDE
from ast_jax.data import depth, normals
from ast_jax.data.decode import DEFAULT_DEPTH, resize_image
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.part import Part, Parts
from ast_jax.errors import UserError
from ast_jax.features.cache import Kind, Store, StoredRows
from ast_jax.features.prefetch import WORKERS, batches
from ast_jax.mode import Mode
from ast_jax.parallel import barrier

STORAGE_DTYPES = ("float32", "float16")
_DEPTH_CHANNELS = depth.UNSHUFFLE**2
_LACKS = {
    "image": "has no image; take mode=3d or another data set",
    "z": "has no point cloud; take mode=rgb or another data set",
}
Rows = np.ndarray | StoredRows
# Takes and returns a batch; a device may still be computing the result.
Network = Callable[[Shaped[np.ndarray, "b ..."]], Shaped[Array | np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of n parts, read row by row; None for those that the mode lacks.

    Attributes:
      rgb: the backbone's feature map of the image.
      depth: depth channels on the same map (`ast_jax.data.depth`), or the backbone's
        feature map of the picture of normals (`ast_jax.data.normals`).
      foreground: the weight of each position, in 0..1.
    """

    rgb: Float[Rows, "n h w c"] | None
    depth: Float[Rows, "n h w d"] | None
    foreground: Float[Rows, "n h w"] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The computation of one kind of features.

    Attributes:
      kind: the kind, with all its sources except the part.
      preprocess: makes the network's input from one part; called in threads.
      network: makes the features from a batch of inputs.
      batch_size: of all batches.
    """

    kind: Kind
    preprocess: Callable[[Part], np.ndarray]
    network: Network
    batch_size: int


def extract(
    parts: Parts,
    *,
    mode: str,
    image_size: int,
    backbone: Backbone | None,
    cache_dir: Path,
    depth_options: DepthOptions = DEFAULT_DEPTH,
    exaggeration: float | None = None,
    batch_size: int = 8,
    storage_dtype: str = "float32",
    devices: Sequence[jax.Device] | None = None,
) -> Features:
    """Returns the parts' features; computes those that the cache lacks.

    Args:
      parts: of one split.
      mode: rgb, 3d or rgb3d.
      image_size: side in pixels of the resized images.
      backbone: not needed in mode 3d, unless depth is drawn for it.
      cache_dir: folder of the features; created if it does not exist.
      depth_options: of the depth preprocessing.
      exaggeration: of slopes, if depth goes through the backbone as a picture of
        normals; None if it is unshuffled.
      batch_size: parts at a time; rounded up to a multiple of `devices`.
      storage_dtype: float32, or float16 for half the disk space.
      devices: share each batch; default one device.

    Raises:
      UserError: the image size does not fit the stride, a part lacks an input that the
        mode needs, features are not finite, or the cache cannot be written.
    """
    mode, cache_dir = Mode(mode), Path(cache_dir)
    _check(mode, storage_dtype, backbone)
    side = _map_side(image_size, backbone.stride if backbone else STRIDE)
    options = (image_size, storage_dtype, batch_size, devices)
    rgb = channels = weight = None
    if mode.has_colour:
        recipe = _rgb(backbone, parts.bit_depth, *options)
        rgb = _find_or_compute(parts, cache_dir, recipe)
    if mode.has_depth:
        recipe = _depth(side, storage_dtype, batch_size, depth_options)
        both = _find_or_compute(parts, cache_dir, recipe)
        channels = dataclasses.replace(both, channels=slice(_DEPTH_CHANNELS))
        weight = dataclasses.replace(both, channels=_DEPTH_CHANNELS)
    if mode.has_depth and exaggeration is not None:
        recipe = _normals(backbone, depth_options, exaggeration, *options)
        channels = _find_or_compute(parts, cache_dir, recipe)
    return Features(rgb, channels, weight)


def median_slopes(
    parts: Parts, *, cache_dir: Path, depth_options: DepthOptions = DEFAULT_DEPTH
) -> Float[np.ndarray, " n"]:
    """Returns every part's `normals.median_slope`; computes those not in the cache.

    Raises:
      UserError: a part has no point cloud, or the cache cannot be written.
    """
    recipe = Recipe(
        Kind("slope", "z", (1, 1, 1), "float32", depth_options.processing),
        lambda part: np.full(
            (1, 1, 1), normals.median_slope(part.z, depth_options), np.float32
        ),
        lambda batch: batch,
        WORKERS,
    )
    rows = _find_or_compute(parts, Path(cache_dir), recipe)
    return rows[np.arange(len(parts))].ravel() if len(parts) else np.zeros(0)


def _check(mode: Mode, storage_dtype: str, backbone: Backbone | None) -> None:
    if storage_dtype not in STORAGE_DTYPES:
        raise ValueError(f"storage_dtype: {STORAGE_DTYPES}. Got {storage_dtype!r}.")
    if mode.has_colour and backbone is None:
        raise ValueError(f"Mode {mode} needs a backbone.")


def _map_side(image_size: int, stride: int) -> int:
    if image_size % stride:
        raise UserError(
            f"dataset.image_size: {image_size} is not a multiple of {stride}; take"
            f" {image_size // stride * stride or stride}"
        )
    return image_size // stride


def _rgb(backbone: Backbone, bit_depth: int, image_size: int, *options: Any) -> Recipe:
    """The backbone's features of the resized image."""
    sources = {} if bit_depth == FULL_DEPTH else {"bit_depth": bit_depth}

    def picture(part: Part) -> np.ndarray:
        return resize_image(part.image, image_size)

    return _backbone_recipe(
        backbone, "rgb", "image", sources, picture, image_size, *options
    )


def _normals(
    backbone: Backbone,
    depth_options: DepthOptions,
    exaggeration: float,
    image_size: int,
    *options: Any,
) -> Recipe:
    """The backbone's features of depth, drawn as a picture of normals."""
    sources = {"exaggeration": exaggeration, **depth_options.processing}

    def picture(part: Part) -> np.ndarray:
        return normals.normals_picture(
            part.z, image_size, exaggeration, depth_options, name=part.id
        )

    return _backbone_recipe(
        backbone, "normals", "z", sources, picture, image_size, *options
    )


def _backbone_recipe(
    backbone: Backbone,
    name: str,
    content: str,
    sources: dict[str, str | int | float],
    picture: Callable[[Part], np.ndarray],
    image_size: int,
    dtype: str,
    batch_size: int,
    devices: Sequence[jax.Device] | None,
) -> Recipe:
    """The backbone's features of the picture that a function makes of each part."""
    side = image_size // backbone.stride
    sources = {"backbone": backbone.fingerprint, "image_size": image_size, **sources}
    devices = devices or jax.local_devices()[:1]
    return Recipe(
        Kind(name, content, (side, side, backbone.channels), dtype, sources),
        picture,
        _share_batches(backbone, devices),
        -(-batch_size // len(devices)) * len(devices),
    )


def _depth(
    side: int, dtype: str, batch_size: int, depth_options: DepthOptions
) -> Recipe:
    """Depth channels, followed by the foreground; needs no network."""
    shape = (side, side, _DEPTH_CHANNELS + 1)
    return Recipe(
        Kind("depth", "z", shape, dtype, depth_options.processing),
        functools.partial(
            _depth_and_foreground, side=side, depth_options=depth_options
        ),
        lambda batch: batch,
        batch_size,
    )


def _depth_and_foreground(
    part: Part, side: int, depth_options: DepthOptions
) -> Float[np.ndarray, "{side} {side} 65"]:
    channels, weight = depth.preprocess_depth(part.z, side, depth_options, name=part.id)
    return np.concatenate([channels, weight[..., None]], axis=-1)


def _share_batches(backbone: Backbone, devices: Sequence[jax.Device]) -> Network:
    """The backbone; the devices share each batch."""
    mesh = jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )
    divided = NamedSharding(mesh, PartitionSpec("data"))
    apply = jax.jit(backbone.apply)
    whole = NamedSharding(mesh, PartitionSpec())
    # In the first call only, because a complete cache needs no weights on the device.
    variables = functools.cache(lambda: jax.device_put(backbone.variables, whole))
    return lambda images: apply(variables(), jax.device_put(images, divided))


def _find_or_compute(parts: Parts, directory: Path, recipe: Recipe) -> StoredRows:
    """Returns the parts' features of one kind; computes those that the cache lacks.

    Each of n processes computes every n-th part. If the processes share the folder,
    each finds the parts of the others there; otherwise it computes them too.
    """
    digests, content = parts.digests(recipe.kind.content), recipe.kind.content
    if None in digests:
        raise UserError(f"{parts.ids[digests.index(None)]}: {_LACKS[content]}")
    store = Store(directory, recipe.kind)
    missing = store.find_missing(digests)
    if (count := jax.process_count()) > 1:
        mine = [at for at in missing if at % count == jax.process_index()]
        _compute(parts.subset(mine), store, recipe)
        barrier(f"{recipe.kind.name} features")
        left = store.find_missing([digests[at] for at in missing])
        missing = [missing[at] for at in left]
    _compute(parts.subset(missing), store, recipe)
    return StoredRows(store, digests)


def _compute(parts: Parts, store: Store, recipe: Recipe) -> None:
    """Writes the parts' features, except those that another process has written."""
    if not parts:
        return
    digests = parts.digests(recipe.kind.content)
    with store.lock(digests):
        parts = parts.subset(store.find_missing(digests))
        store.require_room(len(parts))
        name, digests = recipe.kind.name, parts.digests(recipe.kind.content)
        logging.info("Extracting %s features of %d images.", name, len(parts))
        with (
            tqdm(
                desc=f"{name} features", total=len(parts), unit=" images", disable=None
            ) as progress,
            ThreadPoolExecutor(WORKERS) as writers,
        ):
            for rows, block in _blocks(parts, recipe):
                list(writers.map(store.write, digests[rows], block))
                progress.update(len(block))


def _blocks(
    parts: Parts, recipe: Recipe
) -> Iterator[tuple[slice, Float[np.ndarray, "b h w c"]]]:
    """Yields the rows and features of each batch; all batches have one shape."""
    size = recipe.batch_size
    preprocessed = batches(
        lambda index: recipe.preprocess(parts[index]), range(len(parts)), size
    )
    with contextlib.closing(preprocessed):
        inputs = (_pad(rows, size) for rows in preprocessed)
        outputs = map(recipe.network, inputs)
        # The device gets the next batch before the host waits for this one.
        pairs = itertools.pairwise(itertools.chain(outputs, [None]))
        for first, (output, _) in zip(range(0, len(parts), size), pairs, strict=True):
            rows = slice(first, min(first + size, len(parts)))
            block = jax.device_get(output)[: rows.stop - first]
            yield rows, _convert(block, parts.ids[rows], recipe.kind.dtype)


def _pad(rows: Sequence[np.ndarray], size: int) -> Shaped[np.ndarray, "{size} ..."]:
    """Stacks rows, and fills up with zeros to `size` rows."""
    return np.stack([*rows, *[np.zeros_like(rows[0])] * (size - len(rows))])


def _convert(
    block: Float[np.ndarray, "b h w c"], ids: Sequence[str], dtype: str
) -> Float[np.ndarray, "b h w c"]:
    """Converts features to the stored type, and checks that they are finite."""
    with np.errstate(over="ignore"):  # an overflow of float16 becomes infinity
        stored = block.astype(dtype, copy=False)
    finite = np.isfinite(stored).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(
            f"{ids[int(finite.argmin())]}: its features are not finite in {dtype};"
            " check this part's data and the backbone's weights"
            + (", or store float32" if dtype == "float16" else "")
        )
    return stored
