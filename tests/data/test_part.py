import dataclasses

import numpy as np
import pytest

from ast_jax.data.part import Entry, Part, Parts

ENTRIES = [
    Entry(f"test/{defect}/{i:03d}", defect, {"image": f"a{i}", "z": f"b{i}"})
    for i, defect in enumerate(["bent", "good", "hole"])
]


def make_parts(read=None):
    return Parts(ENTRIES, read or (lambda i: part(defect=ENTRIES[i].defect, number=i)))


def part(defect="bent", masks=(), number=0):
    image = np.zeros((4, 6, 3), np.uint8)
    return Part(f"test/{defect}/{number:03d}", defect, image, None, masks)


def test_mask_joins_the_defects():
    first, second = np.zeros((2, 4, 6), bool)
    first[0, 0] = second[3, 5] = True
    joined = part(masks=(first, second)).mask
    np.testing.assert_array_equal(joined, first | second)
    assert not part(defect="good").mask.any()
    assert part(defect="good").mask.shape == (4, 6)
    assert part(masks=None).mask is None
    assert part().anomalous
    assert not part(defect="good").anomalous


def test_size_is_that_of_the_depth_where_there_is_no_image():
    z = np.zeros((3, 9), np.float32)
    assert dataclasses.replace(part(), image=None, z=z).size == (3, 9)


def test_nothing_is_decoded_before_it_is_asked_for():
    decoded = []

    def read(index):
        decoded.append(index)
        return part(number=index)

    parts = make_parts(read)
    assert (len(parts), parts.defects) == (3, ("bent", "good", "hole"))
    assert parts.ids[2] == "test/hole/002"
    assert parts.fingerprint
    chosen = parts.subset([2, 0])
    assert chosen.ids == ("test/hole/002", "test/bent/000")
    assert decoded == []
    assert chosen[0].id.endswith("002")
    assert parts[-1].id.endswith("002")
    assert decoded == [2, 2]
    with pytest.raises(IndexError):
        parts[3]


def test_subset_of_a_subset_counts_from_the_subset():
    chosen = make_parts().subset([2, 1, 0]).subset(np.array([1, 2]))
    assert chosen.ids == ("test/good/001", "test/bent/000")
    assert [part.defect for part in chosen] == ["good", "bent"]


def test_fingerprint_is_of_ids_content_and_order():
    parts = make_parts()
    assert len(parts.fingerprint) == 64
    assert parts.subset([0, 1, 2]).fingerprint == parts.fingerprint
    others = [parts.subset([0, 1]), parts.subset([1, 0, 2]), parts.subset([])]
    changed = [dataclasses.replace(ENTRIES[0], digests={"image": "x"}), *ENTRIES[1:]]
    others.append(Parts(changed, lambda i: part()))
    assert len({other.fingerprint for other in (*others, parts)}) == 5


def test_fingerprint_of_the_images_ignores_the_depth():
    without = [
        dataclasses.replace(e, digests={"image": e.digests["image"]}) for e in ENTRIES
    ]
    parts, flat = make_parts(), Parts(without, lambda i: part())
    assert parts.fingerprint != flat.fingerprint
    assert parts.fingerprint_of("image") == flat.fingerprint_of("image")
    assert parts.fingerprint_of("image") != parts.fingerprint_of("z")
