"""Parts turned by quarter turns, for parts that lie in any direction."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped

from ast_jax.data.part import Entry, Part, Parts

TURNS = 4  # a part as it is, and turned by 90, 180 and 270 degrees


def with_turns(parts: Parts) -> Parts:
    """Returns the parts, then all of them turned once, then twice, then three times."""

    def entries() -> Iterator[Entry]:
        for turns in range(TURNS):
            for entry in parts.entries:
                digests = {
                    kind: f"{digest}-{turns}" if turns and digest else digest
                    for kind, digest in entry.digests.items()
                }
                yield dataclasses.replace(entry, digests=digests)

    def read(index: int) -> Part:
        turns, place = divmod(index, len(parts))
        return turn(parts[place], turns)

    return Parts(entries(), read, bit_depth=parts.bit_depth)


def turn(part: Part, turns: int) -> Part:
    """Returns a part turned counterclockwise by so many quarter turns."""

    def turned(pixels: Shaped[np.ndarray, "h w ..."]) -> Shaped[np.ndarray, "_ _ ..."]:
        return np.ascontiguousarray(np.rot90(pixels, turns))

    return dataclasses.replace(
        part,
        image=None if part.image is None else turned(part.image),
        z=None if part.z is None else turned(part.z),
        masks=None if part.masks is None else tuple(map(turned, part.masks)),
    )
