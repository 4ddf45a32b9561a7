"""Time of scoring features, ours and PyTorch's: teacher, student, upsampling.

    python -m benchmarks.scoring [--quick] [--dtype=bfloat16]

An image's latency (batch 1) and throughput (batch 16), features on the host, score maps
of 192×192 back there. Both must compute the same scores. The last line is JSON, seconds
an image; the names of the throughput's figures end in `_16`.
"""

from absl import app

from benchmarks import side_by_side
from benchmarks.common import report

BATCHES = (1, 16)
_OF_BOTH = ("peak_mb", "torch_peak_mb", "roof_gflops")


def main(_: list[str]) -> None:
    """Runs the rivals and prints their ratios."""
    job = side_by_side.Job.from_flags("scoring", max(BATCHES), batches=BATCHES)
    flops = sum(job.forward_flops().values())
    outcome = side_by_side.run(job)
    latency, throughput = (
        outcome.figures(str(batch), units=batch, flops=flops) for batch in BATCHES
    )
    for key, value in throughput.items():
        if key not in _OF_BOTH:
            latency[f"{key}_{BATCHES[1]}"] = value
    report(latency | side_by_side.settings(job))


if __name__ == "__main__":
    app.run(main)
