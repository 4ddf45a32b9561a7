"""Time of training a whole category, ours and PyTorch's: teacher, then student.

    python -m benchmarks.training [--quick] [--samples=N] [--epochs=N] [--width=N]

On random feature maps of the paper's size. Ours is what `train.py` runs once features
are cached, the teacher's targets computed once, the checkpoints and logs written.
PyTorch works as the authors do, with the teacher's forward pass inside each step of the
student, and saves both networks at the end. Both start from the same weights and take
the samples in the same order; the losses of the first epoch must agree. Compilation is
apart (`compile_s`; `cold_ratio` counts it). The last line is JSON.

The defaults are the paper's configuration, hours on a CPU; there, take for example
--samples=32 --epochs=1. On a CUDA GPU, ours in bfloat16 beside autocast:

    python -m benchmarks.training --dtype=bfloat16 --rounds=1 --layout=channels_last
"""

from absl import app, flags

from benchmarks import side_by_side
from benchmarks.common import report

_SAMPLES = flags.DEFINE_integer("samples", 256, "Images; with --quick 16, smaller.")
_EPOCHS = flags.DEFINE_integer("epochs", 72, "Of each network; 2 with --quick.")


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratio."""
    quick = side_by_side.QUICK.value
    job = side_by_side.Job.from_flags(
        "training",
        16 if quick else _SAMPLES.value,
        epochs=2 if quick else _EPOCHS.value,
        side=12 if quick else 24,
    )
    steps = job.epochs * (job.samples // job.batch)
    flops = steps * job.batch * sum(job.step_flops().values())
    flops += job.samples * job.forward_flops()["teacher"]
    figures = side_by_side.run(job).figures(units=1, flops=flops)
    cold = figures["torch_s"] / (figures["ours_s"] + figures["compile_s"])
    size = {"samples": job.samples, "epochs": job.epochs, "side": job.side}
    report(figures | {"cold_ratio": cold} | size | side_by_side.settings(job))


if __name__ == "__main__":
    app.run(main)
