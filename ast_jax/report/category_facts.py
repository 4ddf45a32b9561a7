"""The report's facts about a category: its parts, files, backbone and licence."""

from collections.abc import Mapping
from typing import Any

from ast_jax import data
from ast_jax.backbones.choice import licence
from ast_jax.config import FULL_DEPTH, uses_backbone
from ast_jax.data.part import Parts
from ast_jax.mode import Mode
from ast_jax.run import Run, seed_and_fold


def category_facts(run: Run, category: str, test: Parts) -> dict[str, str]:
    """Returns the facts about a category's training and test, by name.

    Args:
      run: the run.
      category: one of its categories.
      test: its test images.
    """
    config = run.config
    dataset = data.builder_class(config.dataset.name)
    members = run.members(category)
    record = run.read_record(category)
    folds = len({seed_and_fold(member)[1] for member in members})
    side, mode = config.dataset.image_size, Mode(config.mode)
    learned = _counts(record, folds)
    if config.dataset.any_direction:
        learned += "; also learned turned by 90, 180 and 270 degrees"
    facts = {"Learned from": learned, "Training files": _files(record)}
    facts["Tested on"] = test.summary if len(test) else "nothing"
    if mode.has_colour:
        facts["Image as seen"] = f"{side} by {side} pixels, 8 bits a colour"
    if uses_backbone(config):
        facts["Backbone"] = config.backbone.name
        facts["Its weights"] = licence(config.backbone)
    if mode.has_depth:
        foreground = 1000 * config.depth.foreground_distance
        form = "surface normals" if config.depth.input == "normals" else "distances"
        facts["Depth as seen"] = (
            f"{form} on the foreground, which stands out by more than {foreground:g} mm"
        )
    facts["Data"] = f"{dataset.TITLE}, {dataset.LICENSE}"
    return {name: text for name, text in facts.items() if text}


def _counts(record: Mapping[str, Any], folds: int) -> str:
    train, held_out = len(record["train"]), len(record["held_out"])
    if folds > 1:
        return f"{train + held_out} good parts; each of {folds} folds is held out once"
    text = f"{train} good parts"
    return text + (f"; {held_out} more held out for the threshold" if held_out else "")


def _files(record: Mapping[str, Any]) -> str:
    """Count, sizes and bits of the files; "" for a run of an earlier version."""
    sizes = [f"{width} by {height}" for height, width in record.get("sizes", ())]
    bits = record.get("bit_depth", FULL_DEPTH)
    lines = [
        *([" to ".join(sizes) + " pixels"] if sizes else []),
        *([f"16 bits, of which {bits} are filled"] if bits < FULL_DEPTH else []),
        *([record["files"]] if record.get("files") else []),
    ]
    return "; ".join(lines)
