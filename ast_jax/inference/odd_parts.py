"""Lists the odd parts among the good ones; look at them before you trust a threshold.

Every part has a score of networks that did not learn from it, and a p-value: how
probable a score as high as its own is among the others. Ranks alone do not show odd
parts, because one of n parts always has the highest score. So the upper tail of the
others is modelled as exponential above its 75 % quantile (peaks over threshold;
Pickands 1975). Its scale is fitted to the scores up to the 95 % quantile, which a few
odd parts do not change. If the tail is exponential, at most a tenth of the listed parts
are ordinary on average (Benjamini, Hochberg 1995). If it is heavier, more parts are
listed.
"""

import numpy as np
from jaxtyping import Bool, Float

FALSE_DISCOVERIES = 0.1
_TAIL, _CENSORED = 0.75, 0.95
_FEWEST = 20
"""With fewer parts the tail is unknown."""


def tail_p_values(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns for each part how probable a score as high is among all others.

    It is 1 for a score below the others' 75 % quantile, and for fewer than 20 parts.
    """
    scores = np.asarray(scores, float)
    n = scores.size
    if n < _FEWEST:
        return np.ones(n)
    p_values = np.empty(n)
    order = np.argsort(scores, kind="stable")
    for rank, part in enumerate(order):
        others = scores[np.delete(order, rank)]
        p_values[part] = _tail(others, scores[part])
    return p_values


def _tail(others: Float[np.ndarray, " m"], score: float) -> float:
    """Returns the p-value of one score; the others ascend."""
    first, last = (int(share * others.size) for share in (_TAIL, _CENSORED))
    start, end = others[first - 1], others[last - 1]
    if score <= start:
        return 1.0
    # Maximum likelihood of an exponential whose observations end at `end`.
    excesses = others[first:last] - start
    beyond = others.size - last
    scale = (excesses.sum() + beyond * (end - start)) / excesses.size
    if scale <= 0:
        return 0.0
    return float((1 - _TAIL) * np.exp(-(score - start) / scale))


def discoveries(
    p_values: Float[np.ndarray, " n"], rate: float = FALSE_DISCOVERIES
) -> Bool[np.ndarray, " n"]:
    """Marks p_(i) up to the last with p_(i) ≤ rate · i / n (Benjamini, Hochberg)."""
    n = p_values.size
    order = np.argsort(p_values, kind="stable")
    below = np.nonzero(p_values[order] <= rate * np.arange(1, n + 1) / n)[0]
    found = np.zeros(n, bool)
    found[order[: below[-1] + 1 if below.size else 0]] = True
    return found


def odd_parts(scores: Float[np.ndarray, " n"]) -> list[int]:
    """Returns the rows of the odd parts, the oddest first.

    Args:
      scores: each from networks that did not learn from the part: held-out or
        out-of-fold.
    """
    found = discoveries(tail_p_values(scores))
    return [int(part) for part in np.argsort(-scores, kind="stable") if found[part]]
