"""What the detector of a category was given to learn from, in the report's words."""

from collections import Counter
from collections.abc import Sequence

from ast_jax import data
from ast_jax.backbones.choice import licence
from ast_jax.data.part import GOOD
from ast_jax.mode import Mode
from ast_jax.run import Run


def input_facts(run: Run, category: str, test: Sequence[str]) -> dict[str, str]:
    """What was learned from, tested on and seen, by name.

    Args:
      run: the run.
      category: one of its categories.
      test: the defect types of the test images, "good" among them.
    """
    config = run.config
    dataset = data.builder_class(config.dataset.name)
    record = run.read_inputs(category, config.train.seeds[0])
    side, seen = config.dataset.image_size, Mode(config.mode)
    facts = {
        "Learned from": _learned(len(record["train"]), len(record["held_out"])),
        "Tested on": _tested(test),
    }
    if seen.has_colour:
        facts["Image as seen"] = f"{side} by {side} pixels, 8 bits a colour"
        facts["Backbone"] = config.backbone.name
        facts["Its weights"] = licence(config.backbone)
    if seen.has_depth:
        facts["Depth as seen"] = (
            f"distances of the foreground, which stands out by more than "
            f"{1000 * config.depth.foreground_distance:g} mm"
        )
    facts["Data"] = f"{dataset.TITLE}, {dataset.LICENSE}"
    return facts


def _learned(train: int, held_out: int) -> str:
    text = f"{train} good parts"
    return text + (f"; {held_out} more held out for the threshold" if held_out else "")


def _tested(defects: Sequence[str]) -> str:
    counts = Counter(defects)
    good, kinds = counts.pop(GOOD, 0), len(counts)
    if not counts:
        return f"{good} good parts" if good else "nothing"
    types = "1 type" if kinds == 1 else f"{kinds} types"
    return f"{good} good parts, {counts.total()} defective ones of {types}"
