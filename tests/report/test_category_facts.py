"""The report's facts about a category."""

import pytest

from ast_jax.config import default
from ast_jax.data.part import Entry, Parts
from ast_jax.report.category_facts import category_facts
from ast_jax.run import Run, fold_member


def facts(
    tmp_path,
    test=("good", "bent"),
    mode="rgb",
    depth="unshuffled",
    any_direction=False,
    **record,
):
    config = default()
    config.mode, config.depth.input = mode, depth
    config.dataset.any_direction = any_direction
    run = Run.create(tmp_path, config)
    told = {"train": ["train/good/0"] * 8, "held_out": ["train/good/1"] * 2} | record
    run.write_record("bagel", 0, told)
    entries = [Entry(f"test/{kind}/{n}", kind, {}) for n, kind in enumerate(test)]
    return category_facts(run, "bagel", Parts(entries, lambda index: None))


@pytest.mark.parametrize(
    ("record", "files"),
    [
        ({"sizes": [[480, 640]]}, "640 by 480 pixels"),
        (
            {"sizes": [[4, 6], [8, 9]], "files": "10 good; ignored: 2 files"},
            "6 by 4 to 9 by 8 pixels; 10 good; ignored: 2 files",
        ),
        (
            {"sizes": [[4, 6]], "bit_depth": 12},
            "6 by 4 pixels; 16 bits, of which 12 are filled",
        ),
        ({"sizes": [[4, 6]], "bit_depth": 16}, "6 by 4 pixels"),
        ({}, None),  # a run of an earlier version
    ],
)
def test_files_are_told_by_size_and_bits(tmp_path, record, files):
    assert facts(tmp_path, **record).get("Training files") == files


def test_parts_are_counted(tmp_path):
    told = facts(tmp_path, test=("good", "bent", "bent", "cut"))
    assert told["Learned from"] == "8 good parts; 2 more held out for the threshold"
    assert told["Tested on"] == "1 good, 3 defective in 2 types"


def test_learned_directions_are_told(tmp_path):
    told = facts(tmp_path, any_direction=True)
    assert told["Learned from"] == (
        "8 good parts; 2 more held out for the threshold; "
        "also learned turned by 90, 180 and 270 degrees"
    )


def test_without_test_images_that_is_said(tmp_path):
    assert facts(tmp_path, test=())["Tested on"] == "nothing"


def test_depth_alone_has_no_backbone(tmp_path):
    told = facts(tmp_path, mode="3d")
    assert "Backbone" not in told and "7 mm" in told["Depth as seen"]


def test_depth_as_normals_has_a_backbone(tmp_path):
    told = facts(tmp_path, mode="3d", depth="normals")
    assert "Backbone" in told and told["Depth as seen"].startswith("surface normals")


def test_with_folds_all_parts_are_learned_from(tmp_path):
    run = Run.create(tmp_path, default())
    for fold in range(2):
        ids = {"train": ["train/good/0"] * 4, "held_out": ["train/good/1"] * 4}
        run.write_record("bagel", fold_member(0, fold), ids)
    told = category_facts(run, "bagel", Parts([], lambda index: None))
    assert told["Learned from"] == "8 good parts; each of 2 folds is held out once"
