"""Time of the teacher's train step, ours and PyTorch's, at the paper's sizes.

    python -m benchmarks.teacher_step [--quick] [--dtype=bfloat16] [--steps=50]

Forward, backward and Adam on a batch of 8 random feature maps (24×24, 368 channels)
that lie on the device. The first two losses must agree. On a GPU take --steps=50, so
that the call itself does not count. Seconds are a step's; the last line is JSON.
"""

from absl import app

from benchmarks import train_step


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratio."""
    train_step.compare("teacher")


if __name__ == "__main__":
    app.run(main)
