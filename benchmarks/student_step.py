"""Time of a train step of the student beside PyTorch, at the paper's sizes.

    python -m benchmarks.student_step [--quick] [--dtype=bfloat16] [--steps=50]

Forward, backward and Adam on a batch of 8 random feature maps (24×24, 368 channels)
that lie on the device. The first two losses must agree. On a GPU take --steps=50, so
that the call itself does not count. Seconds are a step's; the last line is JSON.
"""

from absl import app, flags

from benchmarks import side_by_side
from benchmarks.common import report

_BATCH = flags.DEFINE_integer("batch", 8, "Feature maps a step.")
_STEPS = flags.DEFINE_integer("steps", 1, "Steps a call.")


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratio."""
    job = side_by_side.Job.of_flags(
        "student_step", _BATCH.value, batch=_BATCH.value, steps=_STEPS.value
    )
    flops = job.batch * job.step_flops()["student"]
    outcome = side_by_side.run(job)
    report(outcome.figures(units=job.steps, flops=flops) | side_by_side.settings(job))


if __name__ == "__main__":
    app.run(main)
