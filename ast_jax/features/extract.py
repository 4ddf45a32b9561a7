"""Features of inspected parts, extracted once and kept on disk.

Decoding, resizing and the depth preprocessing run in threads beside the device. Each
kind of features is kept apart, so that the modes share them.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped
from tqdm import tqdm

from ast_jax.backbones import Backbone
from ast_jax.config import STRIDE
from ast_jax.data import depth, normals
from ast_jax.data.decode import DEFAULT_DEPTH, FULL_DEPTH, resize_image
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
# One batch in, one batch out; what comes out may still be under way on a device.
Network = Callable[[Shaped[np.ndarray, "b ..."]], Shaped[Array | np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of n parts, read row by row; None where the mode has none.

    Attributes:
      rgb: the backbone's feature map.
      depth: depth channels on the same map, see `ast_jax.data.depth`, or the backbone's
        feature map of `ast_jax.data.normals`.
      foreground: the weight of each position, in 0..1.
    """

    rgb: Float[Rows, "n h w c"] | None
    depth: Float[Rows, "n h w d"] | None
    foreground: Float[Rows, "n h w"] | None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one kind of features is made.

    Attributes:
      kind: what it is, and all that it depends on beside the part.
      prepare: makes the network's input of one part; called in threads.
      network: makes the features of a batch of these.
      batch_size: the one size that the network sees.
    """

    kind: Kind
    prepare: Callable[[Part], np.ndarray]
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
    """The parts' features, from the cache or computed into it.

    Args:
      parts: of one split.
      mode: rgb, 3d or rgb3d.
      image_size: side in pixels to which images are resized.
      backbone: not needed in mode 3d, unless depth is drawn for it.
      cache_dir: where features are kept; made if need be.
      depth_options: how depth is preprocessed.
      exaggeration: of slopes, where depth goes through the backbone as a picture of
        normals; None where it is unshuffled.
      batch_size: parts at a time; more if `devices` do not divide it.
      storage_dtype: float32, or float16 for half the room.
      devices: among which a batch is divided; default one device.

    Raises:
      UserError: an image size that does not fit the stride, a part that lacks what the
        mode needs, features that are not finite, a cache that cannot be written.
    """
    mode = Mode(mode)
    _check(mode, storage_dtype, backbone)
    side = _map_side(image_size, backbone.stride if backbone else STRIDE)
    rgb = channels = weight = None
    if mode.has_colour:
        devices = devices or jax.local_devices()[:1]
        how = (image_size, parts.bit_depth, storage_dtype, batch_size, devices)
        recipe = _rgb(backbone, *how)
        rgb = _stored(parts, Path(cache_dir), recipe)
    if mode.has_depth:
        recipe = _depth(side, storage_dtype, batch_size, depth_options)
        both = _stored(parts, Path(cache_dir), recipe)
        channels = dataclasses.replace(both, channels=slice(_DEPTH_CHANNELS))
        weight = dataclasses.replace(both, channels=_DEPTH_CHANNELS)
    if mode.has_depth and exaggeration is not None:
        devices = devices or jax.local_devices()[:1]
        how = (image_size, exaggeration, storage_dtype, batch_size, devices)
        recipe = _normals(backbone, depth_options, *how)
        channels = _stored(parts, Path(cache_dir), recipe)
    return Features(rgb, channels, weight)


def median_slopes(
    parts: Parts, *, cache_dir: Path, depth_options: DepthOptions = DEFAULT_DEPTH
) -> Float[np.ndarray, " n"]:
    """Every part's `normals.median_slope`, from the cache or computed into it.

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
    rows = _stored(parts, Path(cache_dir), recipe)
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


def _rgb(
    backbone: Backbone,
    image_size: int,
    bit_depth: int,
    dtype: str,
    batch_size: int,
    devices: Sequence[jax.Device],
) -> Recipe:
    """The backbone's features of the resized image."""
    side = image_size // backbone.stride
    sources = {"backbone": backbone.fingerprint, "image_size": image_size}
    if bit_depth != FULL_DEPTH:
        sources["bit_depth"] = bit_depth
    return Recipe(
        Kind("rgb", "image", (side, side, backbone.channels), dtype, sources),
        lambda part: resize_image(part.image, image_size),
        _on_devices(backbone, devices),
        -(-batch_size // len(devices)) * len(devices),
    )


def _normals(
    backbone: Backbone,
    depth_options: DepthOptions,
    image_size: int,
    exaggeration: float,
    dtype: str,
    batch_size: int,
    devices: Sequence[jax.Device],
) -> Recipe:
    """The backbone's features of depth, drawn as a picture of normals."""
    side = image_size // backbone.stride
    sources = {
        "backbone": backbone.fingerprint,
        "image_size": image_size,
        "exaggeration": exaggeration,
        **depth_options.processing,
    }
    return Recipe(
        Kind("normals", "z", (side, side, backbone.channels), dtype, sources),
        lambda part: normals.normals_picture(
            part.z, image_size, exaggeration, depth_options, name=part.id
        ),
        _on_devices(backbone, devices),
        -(-batch_size // len(devices)) * len(devices),
    )


def _depth(
    side: int, dtype: str, batch_size: int, depth_options: DepthOptions
) -> Recipe:
    """Depth channels, and behind them the foreground; no network is needed."""
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


def _on_devices(backbone: Backbone, devices: Sequence[jax.Device]) -> Network:
    """The backbone, each batch divided among the devices."""
    mesh = jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )
    divided = NamedSharding(mesh, PartitionSpec("data"))
    apply = jax.jit(backbone.apply)
    whole = NamedSharding(mesh, PartitionSpec())
    # Only when called: a complete cache needs no weights on the device.
    variables = functools.cache(lambda: jax.device_put(backbone.variables, whole))
    return lambda images: apply(variables(), jax.device_put(images, divided))


def _stored(parts: Parts, directory: Path, recipe: Recipe) -> StoredRows:
    """The parts' features of one kind, once all of them are in the cache.

    Of several processes each computes every n-th part, and finds the others' where they
    share the folder; where they do not, it computes the rest as well.
    """
    digests, content = parts.digests(recipe.kind.content), recipe.kind.content
    if None in digests:
        raise UserError(f"{parts.ids[digests.index(None)]}: {_LACKS[content]}")
    store = Store(directory, recipe.kind)
    missing = store.missing(digests)
    if (count := jax.process_count()) > 1:
        mine = [at for at in missing if at % count == jax.process_index()]
        _compute(parts.subset(mine), store, recipe)
        barrier(f"{recipe.kind.name} features")
        left = store.missing([digests[at] for at in missing])
        missing = [missing[at] for at in left]
    _compute(parts.subset(missing), store, recipe)
    return StoredRows(store, digests)


def _compute(parts: Parts, store: Store, recipe: Recipe) -> None:
    """Writes the parts' features; what another process wrote meanwhile it leaves."""
    if not parts:
        return
    digests = parts.digests(recipe.kind.content)
    with store.locked(digests):
        parts = parts.subset(store.missing(digests))
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
    """The features, and whose they are; the network sees one shape of batch only."""
    size = recipe.batch_size
    prepared = batches(
        lambda index: recipe.prepare(parts[index]), range(len(parts)), size
    )
    with contextlib.closing(prepared):
        inputs = (_padded(rows, size) for rows in prepared)
        outputs = map(recipe.network, inputs)
        # The device gets the next batch before the host waits for this one.
        pairs = itertools.pairwise(itertools.chain(outputs, [None]))
        for first, (output, _) in zip(range(0, len(parts), size), pairs, strict=True):
            rows = slice(first, min(first + size, len(parts)))
            block = jax.device_get(output)[: rows.stop - first]
            yield rows, _finite(block, parts.ids[rows], recipe.kind.dtype)


def _padded(rows: Sequence[np.ndarray], size: int) -> Shaped[np.ndarray, "{size} ..."]:
    """One array of `size` rows, zeros behind what there is."""
    return np.stack([*rows, *[np.zeros_like(rows[0])] * (size - len(rows))])


def _finite(
    block: Float[np.ndarray, "b h w c"], ids: Sequence[str], dtype: str
) -> Float[np.ndarray, "b h w c"]:
    """The features as they are kept, certainly finite."""
    with np.errstate(over="ignore"):  # float16 overflows to infinity, caught here
        stored = block.astype(dtype, copy=False)
    finite = np.isfinite(stored).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(
            f"{ids[int(finite.argmin())]}: its features are not finite in {dtype};"
            " check this part's data and the backbone's weights"
            + (", or store float32" if dtype == "float16" else "")
        )
    return stored
