"""The common part of `teacher_step` and `student_step`."""

from absl import flags

from benchmarks import side_by_side
from benchmarks.common import report

_BATCH = flags.DEFINE_integer("batch", 8, "Feature maps a step.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps a call; training's is an epoch.")


def compare(network: str) -> None:
    """Runs the rivals on the steps of "teacher" or "student"; prints their ratio."""
    job = side_by_side.Job.from_flags(
        f"{network}_step", _BATCH.value, batch=_BATCH.value, steps=_STEPS.value
    )
    flops = job.batch * job.step_flops()[network]
    outcome = side_by_side.run(job)
    report(outcome.figures(units=job.steps, flops=flops) | side_by_side.settings(job))
