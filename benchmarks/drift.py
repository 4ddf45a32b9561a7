"""Measures the monitor on streams: false alarms, and the delay of alarms at a change.

python -m benchmarks.drift
python -m benchmarks.drift --dataset=elpv
python -m benchmarks.drift --run=runs/solar_plus

With --dataset or --run a stream has real good pictures, each once, in 200 random
orders. They come as they are, and under another lamp: grey values times --lamp, 1.1.
With --dataset the cheap detector of `real_sets` learns 40 % of the pictures, 30 %
calibrate it and 30 % are the stream. With --run a run's networks and calibration see
the good test pictures.

Without flags the scores are normal and alpha is 0.05; NumPy computes the streams side
by side with `monitor.bets`. 2,000 exchangeable streams have 2,000 parts. In 400 others
the scores shift by half a standard deviation after 0, 200 or 1,000 parts, and 1,000
parts follow.
"""

from collections.abc import Iterator

import numpy as np
from absl import app, flags
from jaxtyping import Int

from ast_jax.features.category import Category, open_categories
from ast_jax.inference.calibration import Calibration, OwnScores, calibrate
from ast_jax.inference.monitor import ALARM, BETS, Monitor, bets
from benchmarks import real_sets
from benchmarks.real_sets import TrainedCategory, fit_gaussian

ALPHA, SIZES, SHIFT, AFTER = 0.05, (20, 50, 100, 200), 0.5, 1000
LEARNED, CALIBRATED = 0.4, 0.3
Stream = tuple[Calibration, OwnScores]


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


def simulate(scale: int) -> None:
    """Prints the table of simulated streams, a `scale`-th of them."""
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
            cells.append(_detection_text(found[seen] - shift, seen.size, AFTER))
        print("|", " | ".join(cells), "|", flush=True)


def _detection_text(delays: Int[np.ndarray, " s"], streams: int, parts: int) -> str:
    """How many streams raised the alarm, and the median delay of all."""
    missed = np.full(streams - delays.size, parts)
    median = np.median(np.concatenate([delays, missed]))
    told = f"{median:.0f} parts" if median < parts else f"over {parts} parts"
    return f"{100 * delays.size / streams:.0f} %, {told}"


def picture_streams(
    category: Category, lamp: float, streams: int
) -> Iterator[tuple[Stream, Stream]]:
    """Streams as they are and under the lamp, of the detector that is fitted anew."""
    plain, _ = real_sets.picture_vectors(category)
    lit, _ = real_sets.picture_vectors(category, lambda p: real_sets.brighten(p, lamp))
    learned, calibrated = round(LEARNED * len(plain)), round(CALIBRATED * len(plain))
    rng = np.random.default_rng(0)
    for _ in range(streams):
        order = rng.permutation(len(plain))
        score = fit_gaussian(plain[order[:learned]])
        scores = score(plain[order[learned : learned + calibrated]])
        calibration = calibrate(scores, scores, ALPHA)
        after = order[learned + calibrated :]
        yield (calibration, score(plain[after])), (calibration, score(lit[after]))


def run_streams(
    one: TrainedCategory, lamp: float, streams: int
) -> Iterator[tuple[Stream, Stream]]:
    """Likewise of a run's networks, in random orders."""
    parts = one.test_parts(good=True)
    plain = one.own_scores(parts)
    lit = one.own_scores(real_sets.brighten(parts, lamp))
    rng = np.random.default_rng(0)
    for _ in range(streams):
        order = rng.permutation(len(parts))
        yield (one.calibration, plain[order]), (one.calibration, lit[order])


def _delay(stream: Stream) -> int | None:
    """After how many parts the monitor raises the alarm; None where it does not."""
    calibration, scores = stream
    monitor = Monitor(calibration)
    for own in scores:
        monitor.add(own)
    return monitor.alarm_at


def print_real(name: str, streams: Iterator[tuple[Stream, Stream]]) -> None:
    """Prints a row of the table of real pictures."""
    pairs = list(streams)
    calibration, scores = pairs[0][0]
    sizes = [str(len(calibration.scores)), str(len(scores))]
    cells, rejected = [], []
    for kind in (0, 1):
        delays = [delay for pair in pairs if (delay := _delay(pair[kind])) is not None]
        cells.append(_detection_text(np.array(delays, int), len(pairs), len(scores)))
        rates = [pair[kind][0].anomalous(pair[kind][1]).mean() for pair in pairs]
        rejected.append(f"{100 * np.mean(rates):.0f} %")
    print("|", " | ".join([name, *sizes, *cells, *rejected]), "|", flush=True)


def main(argv: list[str]) -> None:
    """Prints the tables."""
    del argv
    values = flags.FLAGS
    scale = 10 if values.quick else 1
    if not values.dataset and not values.run:
        simulate(scale)
        return
    head = ["pictures", "calibration parts", "parts that follow"]
    head += [
        "as they are: alarm, median delay",
        f"lamp times {values.lamp:g}: likewise",
    ]
    head += ["rejected as they are", "under the lamp"]
    print("|", " | ".join(head), "|\n|" + "---|" * len(head))
    for folder in values.run:
        for one in real_sets.open_trained(folder):
            print_real(one.name, run_streams(one, values.lamp, 200 // scale))
    for category in (
        open_categories(real_sets.configuration()) if values.dataset else ()
    ):
        print_real(category.name, picture_streams(category, values.lamp, 200 // scale))


if __name__ == "__main__":
    real_sets.define_flags()
    flags.DEFINE_float("lamp", 1.1, "What grey values are multiplied by.")
    flags.DEFINE_bool("quick", False, "A tenth of the streams.")
    app.run(main)
