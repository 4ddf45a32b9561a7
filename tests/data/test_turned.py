"""Turned parts: one part in four directions, each with features of its own."""

import numpy as np

from ast_jax.data.part import Entry, Part, Parts
from ast_jax.data.turned import turn, with_turns

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
Z = np.arange(6, dtype=np.float32).reshape(2, 3)


def part(name: str) -> Part:
    return Part(name, "good", IMAGE, Z, (Z > 3,))


def test_a_part_is_turned_as_a_whole():
    once = turn(part("a"), 1)
    assert once.size == (3, 2) and once.id == "a"
    # Counterclockwise: the last column becomes the first row.
    np.testing.assert_array_equal(once.z[0], Z[:, -1])
    np.testing.assert_array_equal(once.image[0], IMAGE[:, -1])
    np.testing.assert_array_equal(once.masks[0], once.z > 3)
    back = turn(turn(part("a"), 3), 1)
    np.testing.assert_array_equal(back.image, IMAGE)
    colour = Part("b", "good", IMAGE, None, None)
    assert turn(colour, 2).z is None and turn(colour, 2).masks is None


def test_turns_follow_the_parts_and_have_digests_of_their_own():
    names = ("a", "b")
    entries = [Entry(name, "good", {"image": f"sha-{name}"}) for name in names]
    parts = with_turns(Parts(entries, lambda index: part(names[index]), bit_depth=12))
    assert parts.ids == names * 4 and parts.bit_depth == 12
    assert parts.digests("image")[:2] == ("sha-a", "sha-b")
    assert len(set(parts.digests("image"))) == 8
    assert parts.digests("z") == (None,) * 8
    np.testing.assert_array_equal(parts[1].z, Z)
    np.testing.assert_array_equal(parts[5].z, np.rot90(Z, 2))
