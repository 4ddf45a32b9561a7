"""A procedural RGB+3D data set: inspected parts that need no files.

Some defects show only in colour, some only in depth, some in both, so that neither
modality alone finds them all. Each part is drawn from its own random generator, seeded
by (seed, category, split, number): the order of rendering does not matter, and
`test/dent/012` is the part `test/good/012` with a dent.
"""

import dataclasses
import hashlib
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ast_jax.data.builder import PartsBuilder
from ast_jax.data.listing import Listing, Sample
from ast_jax.data.part import GOOD, Part
from ast_jax.data.synthetic import defects, rendering, shapes
from ast_jax.data.synthetic.defects import DEFECTS
from ast_jax.data.synthetic.shapes import CATEGORIES

SIZE = 256  # side of image and depth in pixels
# Of 100, the fifth held out is 20; a false-alarm rate of 5 % takes at least 19.
TRAIN_GOOD, TEST_GOOD, TEST_EACH_DEFECT = 100, 32, 8


def plan(
    train_good: int = TRAIN_GOOD,
    test_good: int = TEST_GOOD,
    test_each_defect: int = TEST_EACH_DEFECT,
) -> tuple[str, ...]:
    """The ids "split/defect/number" of a category; numbers are unique in a split."""
    kinds = [GOOD] * test_good + [d for d in DEFECTS for _ in range(test_each_defect)]
    return (
        *(f"train/{GOOD}/{number:03d}" for number in range(train_good)),
        *(f"test/{kind}/{number:03d}" for number, kind in enumerate(kinds)),
    )


def render(category: str, seed: int, part_id: str, size: int = SIZE) -> Part:
    """Draws one part.

    Args:
      category: a key of `CATEGORIES`.
      seed: the data set's seed, at least 0.
      part_id: as `plan` gives it; its defect is "good" or a key of `DEFECTS`.
      size: side of image, depth and mask in pixels.
    """
    split, defect, number = part_id.split("/")
    words = [zlib.crc32(word.encode()) for word in (category, split)]
    shape, light, camera, scanner, harm = (
        np.random.default_rng([seed, *words, int(number), stream])
        for stream in range(5)
    )
    seen = scanned = CATEGORIES[category](shape, size)
    masks = ()
    if defect != GOOD:
        kind = DEFECTS[defect]
        changed, mask = kind.apply(harm, seen)
        seen = changed if "rgb" in kind.shows else seen
        scanned = changed if "3d" in kind.shows else scanned
        masks = (mask,)
    image = rendering.photograph(seen, light, camera)
    return Part(part_id, defect, image, rendering.scan(scanned, scanner), masks)


class Synthetic(PartsBuilder):
    """Builder of the synthetic data set; `root` is not used."""

    name = "synthetic"
    TITLE = "AST-JAX's synthetic parts"
    HOMEPAGE = ""
    TREE = "no files"
    LICENSE = "MIT"
    CITATION = ""
    HAS_DEPTH = True

    def __init__(self, *, seed: int = 0, **kwargs: Any):
        """As `PartsBuilder`; `seed` chooses one of the endless sets of parts."""
        self.seed = seed
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, dataset: Any, category: str, **options: Any) -> "Synthetic":
        """As the base's, with the data set's seed."""
        return super().from_config(dataset, category, seed=dataset.seed, **options)

    @classmethod
    def categories(cls, root: str | os.PathLike = "") -> tuple[str, ...]:
        """The products that `shapes` can draw."""
        del root
        return tuple(CATEGORIES)

    def list_samples(self) -> Listing:
        """The plan's parts, not yet drawn."""
        rows = [(part_id, *part_id.split("/")[:2]) for part_id in plan()]
        return Listing(tuple(Sample(*row, image=None) for row in rows))

    def source_state(self) -> Any:
        """The seed, and the code that draws: changed code makes another data set."""
        modules = [defects.__file__, rendering.__file__, shapes.__file__, __file__]
        code = b"".join(Path(module).read_bytes() for module in modules)
        return [self.seed, hashlib.sha256(code).hexdigest()]

    def fill(self, sample: Sample) -> Sample:
        """Draw the part."""
        part = render(self.category, self.seed, sample.id)
        return dataclasses.replace(
            sample,
            image=_png(part.image),
            xyz=part.z if self.depth else None,
            masks=tuple(_png(mask) for mask in part.masks),
        )


def _png(pixels: UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
