"""Features of inspected parts, extracted once and kept on disk.

Decoding, resizing and the depth preprocessing run in threads beside the device. Image
features and depth are cached apart, so that the modes share them.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped, UInt8
from tqdm import tqdm

from ast_jax.backbones import Backbone
from ast_jax.data import depth
from ast_jax.data.decode import DEFAULT_DEPTH, FULL_DEPTH, resize_image
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.part import Part, Parts
from ast_jax.errors import UserError
from ast_jax.features import cache
from ast_jax.parallel import agreed, barrier, is_main

MODES = ("rgb", "3d", "rgb3d")
STORAGE_DTYPES = ("float32", "float16")
STRIDE = 32  # image pixels a position of the map, where no backbone says so
_BATCHES_AHEAD = 2  # prepared while the device is busy
_DEPTH_CHANNELS = depth.UNSHUFFLE**2
Item = TypeVar("Item")
Result = TypeVar("Result")
# One batch in, one batch out; what comes out may still be under way on a device.
Network = Callable[[Shaped[np.ndarray, "b ..."]], Shaped[Array | np.ndarray, "b ..."]]


@dataclasses.dataclass(frozen=True)
class Features:
    """Memory-mapped features of n parts, None where the mode has none.

    Attributes:
      rgb: the backbone's feature map.
      depth: depth channels on the same map, see `ast_jax.data.depth`.
      foreground: the weight of each position, in 0..1.
    """

    rgb: Float[np.ndarray, "n h w c"] | None
    depth: Float[np.ndarray, "n h w 64"] | None
    foreground: Float[np.ndarray, "n h w"] | None


def extract(
    parts: Parts,
    *,
    mode: str,
    image_size: int,
    backbone: Backbone | None,
    cache_dir: Path,
    depth_options: DepthOptions = DEFAULT_DEPTH,
    batch_size: int = 8,
    storage_dtype: str = "float32",
    devices: Sequence[jax.Device] | None = None,
) -> Features:
    """The parts' features, from the cache or computed into it.

    Args:
      parts: of one split.
      mode: rgb, 3d or rgb3d.
      image_size: side in pixels to which images are resized.
      backbone: not needed in mode 3d.
      cache_dir: where features are kept; made if need be.
      depth_options: how depth is preprocessed.
      batch_size: parts at a time; more if `devices` do not divide it.
      storage_dtype: float32, or float16 for half the room.
      devices: among which a batch is divided; default one device.

    Raises:
      UserError: an image size that does not fit the stride, a part that lacks what the
        mode needs, features that are not finite, a cache that cannot be written.
    """
    _check(mode, storage_dtype, backbone)
    side = _map_side(image_size, backbone.stride if backbone else STRIDE)
    store = functools.partial(_cached, parts, Path(cache_dir))
    rgb = channels = weight = None
    if "rgb" in mode:
        devices = devices or jax.local_devices()[:1]
        rgb = store(
            _image_entry(parts, backbone, image_size, storage_dtype),
            functools.partial(_network_input, size=image_size),
            _on_devices(backbone, devices),
            -(-batch_size // len(devices)) * len(devices),
        )
    if "3d" in mode:
        both = store(
            _depth_entry(parts, side, storage_dtype, depth_options),
            functools.partial(
                _depth_and_foreground, side=side, depth_options=depth_options
            ),
            lambda batch: batch,
            batch_size,
        )
        channels, weight = both[..., :_DEPTH_CHANNELS], both[..., _DEPTH_CHANNELS]
    return Features(rgb, channels, weight)


def _check(mode: str, storage_dtype: str, backbone: Backbone | None) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is one of {MODES}. Got {mode!r}.")
    if storage_dtype not in STORAGE_DTYPES:
        raise ValueError(f"storage_dtype: {STORAGE_DTYPES}. Got {storage_dtype!r}.")
    if "rgb" in mode and backbone is None:
        raise ValueError(f"Mode {mode} needs a backbone.")


def _map_side(image_size: int, stride: int) -> int:
    if image_size % stride:
        raise UserError(
            f"dataset.image_size: {image_size} is not a multiple of {stride}; take"
            f" {image_size // stride * stride or stride}"
        )
    return image_size // stride


def _image_entry(
    parts: Parts, backbone: Backbone, image_size: int, dtype: str
) -> cache.Entry:
    side = image_size // backbone.stride
    sources = {
        "parts": parts.fingerprint_of("image"),
        "backbone": backbone.fingerprint,
        "image_size": image_size,
    }
    if parts.bit_depth != FULL_DEPTH:
        sources["bit_depth"] = parts.bit_depth
    return cache.Entry(
        "rgb", (len(parts), side, side, backbone.channels), dtype, sources
    )


def _depth_entry(
    parts: Parts, side: int, dtype: str, depth_options: DepthOptions
) -> cache.Entry:
    shape = (len(parts), side, side, _DEPTH_CHANNELS + 1)
    sources = {"parts": parts.fingerprint_of("z")} | depth_options.processing
    return cache.Entry("depth", shape, dtype, sources)


def _network_input(part: Part, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    if part.image is None:
        raise UserError(f"{part.id}: has no image; take mode=3d or another data set")
    return resize_image(part.image, size)


def _depth_and_foreground(
    part: Part, side: int, depth_options: DepthOptions
) -> Float[np.ndarray, "{side} {side} 65"]:
    if part.z is None:
        raise UserError(
            f"{part.id}: has no point cloud; take mode=rgb or another data set"
        )
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


def _cached(
    parts: Parts,
    directory: Path,
    entry: cache.Entry,
    prepare: Callable[[Part], np.ndarray],
    network: Network,
    batch_size: int,
) -> Float[np.ndarray, "n h w c"]:
    """What `network` makes of batches of prepared parts, from the cache or into it."""
    if not parts:
        return np.empty(entry.shape, entry.dtype)

    def compute(rows: range, entry: cache.Entry) -> cache.ComputeFrom:
        of_rows = parts.subset(rows)
        return functools.partial(_blocks, of_rows, prepare, network, batch_size, entry)

    whole = compute(range(len(parts)), entry)
    if jax.process_count() > 1 and not agreed(
        is_main() and cache.holds(directory, entry)
    ):
        _share_out(directory, entry, compute)
    return cache.fetch(directory, entry, whole)


def _share_out(
    directory: Path,
    entry: cache.Entry,
    compute: Callable[[range, cache.Entry], cache.ComputeFrom],
) -> None:
    """Every process computes a share of the rows; the main one puts them together.

    Shares that the main process does not find, because the folder is not one that all
    see, it computes itself.
    """
    bounds = np.linspace(0, entry.shape[0], jax.process_count() + 1).astype(int)
    shares = [range(*ends) for ends in itertools.pairwise(bounds.tolist())]

    def fetch(rows: range) -> Float[np.ndarray, "rows h w c"]:
        share = entry.share(rows)
        return cache.fetch(directory, share, compute(rows, share))

    def joined(start: int) -> Iterator[Float[np.ndarray, "rows h w c"]]:
        for rows in shares:
            if max(start, rows.start) < rows.stop:
                yield fetch(rows)[max(0, start - rows.start) :]

    if shares[jax.process_index()]:
        fetch(shares[jax.process_index()])
    barrier("shares of the features")
    if is_main():
        cache.fetch(directory, entry, joined)
        for rows in filter(None, shares):
            cache.discard(directory, entry.share(rows))
    barrier("features")


def _blocks(
    parts: Parts,
    prepare: Callable[[Part], np.ndarray],
    network: Network,
    batch_size: int,
    entry: cache.Entry,
    start: int,
) -> Iterator[Float[np.ndarray, "b h w c"]]:
    """The features from `start` on; the network sees one shape of batch only."""
    indices = range(start, len(parts))
    logging.info("Extracting %s features of %d images.", entry.kind, len(indices))
    ahead = (1 + _BATCHES_AHEAD) * batch_size
    with (
        contextlib.closing(
            _prefetched(lambda index: prepare(parts[index]), indices, ahead)
        ) as inputs,
        tqdm(
            desc=f"{entry.kind} features",
            initial=start,
            total=len(parts),
            unit=" images",
            disable=None,
        ) as progress,
    ):
        batches = (_padded(rows, batch_size) for rows in _batched(inputs, batch_size))
        # The device gets the next batch before the host waits for this one.
        outputs = itertools.pairwise(itertools.chain(map(network, batches), [None]))
        ids = _batched(parts.ids[start:], batch_size)
        for of_batch, (output, _) in zip(ids, outputs, strict=True):
            block = jax.device_get(output)[: len(of_batch)]
            yield _stored(block, of_batch, entry.dtype)
            progress.update(len(block))


def _prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`map` in threads that never has more than `ahead` results in store."""
    items = iter(items)
    pool = ThreadPoolExecutor(cache.WORKERS)
    try:
        started = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, ahead)
        )
        while started:
            result = started.popleft().result()
            started.extend(
                pool.submit(function, item) for item in itertools.islice(items, 1)
            )
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Tuples of `size` items, the last maybe shorter."""
    items = iter(items)
    while batch := tuple(itertools.islice(items, size)):
        yield batch


def _padded(
    rows: tuple[np.ndarray, ...], size: int
) -> Shaped[np.ndarray, "{size} ..."]:
    """One array of `size` rows, zeros behind what there is."""
    return np.stack([*rows, *[np.zeros_like(rows[0])] * (size - len(rows))])


def _stored(
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
