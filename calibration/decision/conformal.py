"""Split-conformal order statistics: which of n good scores is the threshold, and what it promises.

A part is rejected when its score is larger than the threshold (strictly), and the threshold is the
k-th smallest of n scores that the model was not trained on. If the n parts and the next one are
exchangeable, two things are known whatever the scores' distribution:

- on average over calibration sets the next good part is rejected with a probability of at most
  1 - k / (n + 1) (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, "Distribution-free predictive
  inference for regression");
- for independent parts, the share that this very threshold will reject is Beta(n + 1 - k, k)
  distributed over calibration sets (Vovk 2012, "Conditional validity of inductive conformal
  predictors"; Angelopoulos and Bates 2023).

Both are equalities where no two scores are equal. Equal scores only lower the rejected share, since
a score that equals the threshold passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from agp_edge.dependencies import require
from agp_edge.errors import DataError

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Promise", "best_promise", "parts_needed", "promise_for", "rejected_share"]

# Of a probability: what rounding may do to one that is exactly the bound.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The order statistic that is the threshold, and what it promises."""

    n: int
    """Independent good parts that were scored."""

    rank: int
    """The threshold is the rank-th smallest of their scores, counted from 1."""

    target: float
    """Share of good parts that may be rejected, as asked for."""

    confidence: float | None
    """Probability, over calibration sets, that the rejected share is at most `target`.

    None: the promise is on average only.
    """

    @property
    def false_reject(self) -> float:
        """The bound on average, 1 - rank / (n + 1); above `target` only where n is too small."""
        return (self.n + 1 - self.rank) / (self.n + 1)

    def limit(self, confidence: float = 0.95) -> float:
        """Share that at most is rejected by this very threshold, with that confidence."""
        return float(rejected_share(self.n, self.rank).ppf(confidence))


def rejected_share(n: int, rank: int) -> Any:
    """The law of the share of good parts above the rank-th smallest of n: a frozen SciPy Beta.

    Raises:
        DependencyError: SciPy is not installed.
    """
    return require("scipy.stats").beta(n + 1 - rank, rank)


def parts_needed(rate: float, confidence: float | None = None) -> int:
    """The fewest good parts that can bear a promise.

    On average n >= 1 / rate - 1; with a confidence also (1 - rate)^n <= 1 - confidence, which is
    the Beta law of the largest score. For 0.001: 999, and 2,995 with 0.95.

    Args:
        rate: share of good parts that may be rejected, in (0, 1).
        confidence: None, or in (0, 1).

    Raises:
        ValueError: a value out of range.
    """
    exact = _checked(rate, confidence)
    on_average = math.ceil(1 / exact - 1)
    if confidence is None:
        return max(on_average, 1)
    bound = math.log1p(-confidence) / math.log1p(-rate)
    return max(on_average, math.ceil(bound * (1 - _ROUNDING)), 1)


def promise_for(n: int, rate: float, confidence: float | None = None) -> Promise:
    """The smallest order statistic that keeps the promise.

    Without a confidence that is the ceil((n + 1)(1 - rate))-th smallest. With one it is the
    smallest k for which P(Beta(n + 1 - k, k) > rate) <= 1 - confidence as well; by the duality of
    Beta and binomial, n - k is the largest r with P(Binomial(n, rate) <= r) <= 1 - confidence.

    Args:
        n: independent good parts.
        rate: share of good parts that may be rejected, in (0, 1).
        confidence: None, or in (0, 1).

    Raises:
        DataError: n is too small; the message names the number needed.
        DependencyError: a confidence needs SciPy.
        ValueError: a value out of range.
    """
    exact = _checked(rate, confidence)
    needed = parts_needed(rate, confidence)
    if n < needed:
        sure = "on average" if confidence is None else f"with a confidence of {confidence:g}"
        raise DataError(
            f"{n} independent good parts cannot promise a false-reject rate of {rate:g} {sure}: "
            f"{needed} are needed; photograph {needed - n} more, or ask for a larger rate"
        )
    rank = math.ceil((n + 1) * (1 - exact))
    if confidence is not None:
        stats = require("scipy.stats")
        risk = (1 - confidence) * (1 + _ROUNDING)
        above = min(int(stats.binom.ppf(1 - confidence, n, rate)), n - 1)
        if above > 0 and rejected_share(n, n - above).sf(rate) > risk:
            above -= 1
        rank = max(rank, n - above)
    return Promise(n=n, rank=max(rank, 1), target=rate, confidence=confidence)


def best_promise(n: int, rate: float) -> Promise:
    """As `promise_for` without confidence; where n is too small, what n can bear.

    That is the largest score, and a rate of 1 / (n + 1) on average.
    """
    if n < parts_needed(rate):
        return Promise(n=n, rank=n, target=rate, confidence=None)
    return promise_for(n, rate)


def _checked(rate: float, confidence: float | None) -> Fraction:
    """The rate as the decimal that it was written as: 0.05 and not the nearest binary number.

    (n + 1)(1 - rate) is often whole, and must not be lifted to the next number by rounding.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"false_reject must lie in (0, 1), got {rate}")
    if confidence is not None and not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return Fraction(repr(float(rate)))
