"""An observed share of parts, with its exact confidence interval."""

import dataclasses

import numpy as np
from jaxtyping import Bool


@dataclasses.dataclass(frozen=True)
class Proportion:
    """An observed share with its exact 95 % confidence interval.

    Attributes:
      count: the number of parts with a property.
      total: the number of all parts, at least one.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The observed share."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's interval (Biometrika 26, 1934); it includes 0 and 1."""
        from scipy import stats  # slow to import

        interval = stats.binomtest(self.count, self.total).proportion_ci(
            confidence_level=0.95, method="exact"
        )
        return float(interval.low), float(interval.high)


def share_of_alarms(alarms: Bool[np.ndarray, " n"]) -> Proportion | None:
    """The false-alarm rate of good parts, or recall of defects; None without parts."""
    return Proportion(int(alarms.sum()), alarms.size) if alarms.size else None
