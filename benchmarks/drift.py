"""The monitor on simulated streams: false alarms, and the delay of alarms at a shift.

python -m benchmarks.drift

Normal scores, alpha 0.05, streams side by side in NumPy with `monitor.bets`: 2,000
exchangeable streams of 2,000 parts, and 400 whose scores shift by half a standard
deviation after 0, 200 or 1,000 parts and go on for 1,000 more.
"""

import numpy as np
from absl import app, flags
from jaxtyping import Int

from ast_jax.inference.monitor import ALARM, BETS, bets

ALPHA, SIZES, SHIFT, AFTER = 0.05, (20, 50, 100, 200), 0.5, 1000


def alarms(
    n: int, streams: int, parts: int, shifted_from: int | None, seed: int
) -> Int[np.ndarray, " streams"]:
    """The part at which each stream raises the alarm; `parts` if it raises none.

    Args:
      n: calibration parts.
      streams: their number, side by side.
      parts: of each.
      shifted_from: the part from which on scores are shifted; None for never.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    calibration = np.sort(rng.standard_normal((streams, n)), 1)
    exceeding = max(1, int(ALPHA * (n + 1) + 1e-9))
    limit, edges = calibration[:, -exceeding], calibration[:, : n - exceeding]
    weights, gaps = np.ones((streams, n - exceeding + 1)), np.arange(n - exceeding + 1)
    capital, log_value = np.full((streams, len(BETS)), 1 / len(BETS)), np.zeros(streams)
    rows, found = np.arange(streams), np.full(streams, parts)
    for part in range(parts):
        scores = rng.standard_normal(streams)
        if shifted_from is not None and part >= shifted_from:
            scores += SHIFT
        accepted = scores < limit
        gap = np.minimum((scores[:, None] > edges).sum(1), gaps[-1])
        above = np.where(gaps > gap[:, None], weights, 0).sum(1)
        chance = above + rng.random(streams) * weights[rows, gap]
        after = bets(capital, chance / weights.sum(1))
        gain = after.sum(1, keepdims=True)
        capital = np.where(accepted[:, None], after / gain, capital)
        log_value += np.where(accepted, np.log(gain[:, 0]), 0)
        weights[rows, gap] += accepted
        found = np.where((found == parts) & (log_value >= np.log(ALARM)), part, found)
    return found


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    scale = 10 if flags.FLAGS.quick else 1
    shifts = (0, 200, 1000)
    head = ["calibration parts", f"false alarms of {2000 // scale}"]
    head += [f"shift after {shift}: seen, median delay" for shift in shifts]
    print("|", " | ".join(head), "|\n|" + "---|" * len(head))
    for n in SIZES:
        quiet = alarms(n, 2000 // scale, 2000, None, n)
        cells = [str(n), str(int((quiet < 2000).sum()))]
        for shift in shifts:
            parts = shift + AFTER
            found = alarms(n, 400 // scale, parts, shift, n + shift + 1)
            seen = (found >= shift) & (found < parts)
            delay = np.median(np.where(found < parts, found - shift, AFTER))
            told = f"{delay:.0f} parts" if delay < AFTER else f"over {AFTER} parts"
            cells.append(f"{100 * seen.mean():.0f} %, {told}")
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    flags.DEFINE_bool("quick", False, "A tenth of the streams.")
    app.run(main)
