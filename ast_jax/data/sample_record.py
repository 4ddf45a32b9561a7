"""Records with a publisher's encoded bytes unchanged; of a point cloud only z."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ast_jax.data.content import Content
from ast_jax.data.listing import Sample


def record(sample: Sample, content: Content, *, depth: bool) -> dict[str, Any]:
    """Returns the record of a sample, of the types in `features`."""
    values = {
        "id": sample.id,
        "defect": sample.defect,
        "image": content.image or b"",
        "masks": list(content.masks or ()),
        "saturations": list(content.saturations),
        "has_masks": content.masks is not None,
    }
    if depth:  # a sample without z is a problem, and its record is dropped
        empty = np.zeros((0, 0), np.float32)
        values["z"] = empty if content.z is None else content.z
    return values


def content(values: dict[str, Any]) -> Content:
    """Returns the content of a record; the inverse of `record`."""
    masks = tuple(bytes(mask) for mask in values["masks"])
    return Content(
        image=bytes(values["image"]) or None,
        z=values.get("z"),
        masks=masks if values["has_masks"] else None,
        saturations=tuple(float(area) for area in values["saturations"]),
    )


def features(*, depth: bool) -> dict[str, Any]:
    """The tfds features of a record."""
    types = tfds.features
    # Raw, because array_record compresses as well as zlib in an eighth of the time.
    z = types.Tensor(shape=(None, None), dtype=np.float32, encoding="bytes")
    return {
        "id": types.Text(),
        "defect": types.Text(),
        "image": types.Image(),
        "masks": types.Sequence(types.Tensor(shape=(), dtype=np.object_)),
        "saturations": types.Sequence(np.float32),
        "has_masks": np.bool_,
    } | ({"z": z} if depth else {})
