"""A procedural RGB+3D data set: inspected parts that need no files.

Some defects show only in colour, some only in depth, some in both, so that neither
modality alone finds them all. Each part is drawn from its own random generator, seeded
by (seed, category, split, number): the order of rendering does not matter, and
`test/dent/012` is the part `test/good/012` with a dent.
"""

import dataclasses
import zlib

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ast_jax.data.rendering import photograph, scan
from ast_jax.data.shapes import CATEGORIES, DEFECTS

GOOD = "good"


@dataclasses.dataclass(frozen=True)
class Rendering:
    """One part: photograph, depth in metres (0 = missing) and the defect's pixels."""

    image: UInt8[np.ndarray, "s s 3"]
    z: Float32[np.ndarray, "s s"]
    mask: Bool[np.ndarray, "s s"]


def plan(train: int, test_good: int, each_defect: int) -> tuple[str, ...]:
    """The ids "split/defect/number" of a category; numbers are unique in a split."""
    kinds = [GOOD] * test_good + [d for d in DEFECTS for _ in range(each_defect)]
    return (
        *(f"train/{GOOD}/{i:03d}" for i in range(train)),
        *(f"test/{kind}/{i:03d}" for i, kind in enumerate(kinds)),
    )


def render(category: str, seed: int, part: str, size: int) -> Rendering:
    """Draws one part.

    Args:
      category: a key of `CATEGORIES`.
      seed: the data set's seed.
      part: an id as `plan` gives it; its defect is "good" or a key of `DEFECTS`.
      size: side of the image in pixels.
    """
    split, defect, number = part.split("/")
    key = [
        seed,
        *(zlib.crc32(name.encode()) for name in (category, split)),
        int(number),
    ]
    shape, light, camera, scanner, harm = (
        np.random.default_rng([*key, stream]) for stream in range(5)
    )
    surface = CATEGORIES[category](shape, size)
    seen, scanned, mask = surface, surface, np.zeros((size, size), bool)
    if defect != GOOD:
        changed, mask = DEFECTS[defect].apply(harm, surface)
        seen = changed if "rgb" in DEFECTS[defect].shows else surface
        scanned = changed if "3d" in DEFECTS[defect].shows else surface
    return Rendering(photograph(seen, light, camera), scan(scanned, scanner), mask)
