"""What a run's `metrics.jsonl` say of its training: losses, speed and time."""

import dataclasses

from ast_jax.run import Member, Run
from ast_jax.training.progress import read_rows


@dataclasses.dataclass(frozen=True)
class Training:
    """One network's training, an entry an epoch.

    Attributes:
      category: which it learned.
      seed: of the pair; with cross calibration seed and fold.
      network: "teacher" or "student".
      epochs: their numbers, from 1.
      losses: the mean of each.
      seconds: how long all of them took, by their logged rates.
      rate: images a second, over all epochs.
    """

    category: str
    seed: Member
    network: str
    epochs: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float
    rate: float


def trainings(run: Run, category: str) -> list[Training]:
    """Both networks of each pair, in that order; without those that logged nothing."""
    found = []
    for member in run.members(category):
        seed: Member = int(member) if member.isdigit() else member
        lines = read_rows(run.seed_directory(category, seed) / "metrics.jsonl")
        if not lines:  # an imported pair
            continue
        images = len(run.read_inputs(category, seed)["train"])
        for network in ("teacher", "student"):
            # An epoch that was interrupted and repeated counts once.
            epochs = {row["epoch"]: row for row in lines if row["stage"] == network}
            if epochs:
                rows = [epochs[number] for number in sorted(epochs)]
                found.append(_training(run, category, seed, network, rows, images))
    return found


def _training(
    run: Run, category: str, seed: Member, network: str, rows: list[dict], images: int
) -> Training:
    batch = min(run.config.train.batch_size, images)
    seen = images - images % batch
    seconds = sum(seen / row["images/s"] for row in rows if row["images/s"])
    return Training(
        category,
        seed,
        network,
        epochs=tuple(row["epoch"] for row in rows),
        losses=tuple(row["loss"] for row in rows),
        seconds=seconds,
        rate=seen * len(rows) / seconds if seconds else 0.0,
    )
