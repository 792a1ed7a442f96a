"""What a training has cost in privacy, and how much noise a budget needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from optimkit.errors import HyperparameterError, message
from optimkit.hyper import check_hyperparameter
from optimkit.privacy.renyi import (
    DEFAULT_ORDERS,
    NOISE,
    RATE,
    STEPS,
    checked_orders,
    delta_from_rdp,
    epsilon_from_rdp,
    renyi_divergences,
)

POISSON, ADD_OR_REMOVE = "poisson", "add_or_remove_one"
COVERED = (
    "Covered is: each record is in a batch with probability q by itself (privacy.PoissonBatches draws such batches), "
    "and data sets are neighbours if one has one record more (adjacency='add_or_remove_one')."
)


class Phase(NamedTuple):
    """Steps that were taken alike."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


class RDPAccountant:
    """Adds up what steps of DP-SGD cost, as Rényi divergences, and converts to (ε, δ).

    ::

        r(α) = Σ over phases of  steps · r(α; σ, q)          see renyi_divergences
        ε(δ) = min over α of  r(α) + log((α − 1) / α) − log(δ α) / (α − 1)

    It covers Gaussian noise of deviation σ C on a sum over a Poisson-sampled batch to which each record contributes at
    most C in norm, for neighbours that differ by one record that is there or is not. Batches of a fixed size, drawn
    without replacement or cut from a shuffled list, are another mechanism: their ε can be larger, and there is no
    argument that makes them pass. Nor are microbatches of more than one example covered at the same σ; see
    :class:`PrivateGradValues`.

    ε never decreases: not with steps, phases, the sampling rate or 1/δ, nor with less noise (up to rounding, some
    1e-12 of it). It is 0 before the first step, infinite where there was no noise, and never NaN.

    Args:
        orders: the orders α that are tried; the default serves nearly all trainings.
        adjacency: which data sets are neighbours; ``"add_or_remove_one"`` is the one that is covered.
        phases: what was spent before, as :attr:`phases` of another accountant, for example from a checkpoint.

    Raises:
        HyperparameterError: a number is out of range, or what is asked for is not covered.

    Reference: Mironov, Talwar & Zhang 2019. arXiv:1908.10530; Canonne, Kamath & Steinke 2020. arXiv:2004.00010.

    Example:
        >>> accountant = RDPAccountant()
        >>> accountant.step(noise_multiplier=1.1, sampling_rate=256 / 60000, steps=14063)  # 60 epochs
        >>> round(accountant.epsilon(delta=1e-5), 3)
        2.597
    """

    def __init__(
        self,
        orders: Sequence[float] = DEFAULT_ORDERS,
        *,
        adjacency: str = ADD_OR_REMOVE,
        phases: Iterable[Sequence[float]] = (),
    ):
        self.orders = checked_orders("privacy.RDPAccountant", orders)
        refuse_uncovered("privacy.RDPAccountant", "adjacency", adjacency, ADD_OR_REMOVE)
        self._phases: list[Phase] = []
        for noise_multiplier, sampling_rate, steps in phases:
            self.step(noise_multiplier, sampling_rate, steps=steps)  # type: ignore[arg-type]

    def step(
        self, noise_multiplier: float, sampling_rate: float, *, steps: int = 1, sampling: str = POISSON
    ) -> None:
        """Add steps to what was spent.

        Args:
            noise_multiplier: σ, the deviation of the noise over the clipping norm.
            sampling_rate: q, the probability with which each record was in a batch.
            steps: how many.
            sampling: how batches were drawn; ``"poisson"`` is what is covered.

        Raises:
            HyperparameterError: a number is out of range, or the sampling is not covered.
        """
        where = "privacy.RDPAccountant.step"
        refuse_uncovered(where, "sampling", sampling, POISSON)
        check_hyperparameter(where, "noise_multiplier", noise_multiplier, NOISE)
        check_hyperparameter(where, "sampling_rate", sampling_rate, RATE)
        check_hyperparameter(where, "steps", steps, STEPS)
        added = Phase(float(noise_multiplier), float(sampling_rate), int(steps))
        if added.steps and self._phases and self._phases[-1][:2] == added[:2]:
            self._phases[-1] = added._replace(steps=added.steps + self._phases[-1].steps)
        elif added.steps:
            self._phases.append(added)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What was spent: (noise_multiplier, sampling_rate, steps), in order. It is all the state there is."""
        return tuple(self._phases)

    @property
    def rdp(self) -> np.ndarray:
        """The Rényi divergences of all steps together, float64[orders]."""
        spent = (renyi_divergences(p[0], p[1], steps=p.steps, orders=self.orders) for p in self._phases)
        return sum(spent, np.zeros(len(self.orders)))

    def epsilon(self, delta: float) -> float:
        """Return ε such that the training so far is (ε, ``delta``)-DP."""
        return epsilon_from_rdp(self.orders, self.rdp, delta)[0]

    def delta(self, epsilon: float) -> float:
        """Return δ such that the training so far is (``epsilon``, δ)-DP."""
        return delta_from_rdp(self.orders, self.rdp, epsilon)[0]

    def best_order(self, delta: float) -> float:
        """Return the order that gives ε; where it is the first or the last of all, others may give less."""
        return epsilon_from_rdp(self.orders, self.rdp, delta)[1]

    def __repr__(self) -> str:
        phases = (f"{p.steps} steps at σ={p.noise_multiplier:g}, q={p.sampling_rate:.6g}" for p in self._phases)
        return f"RDPAccountant({', '.join(phases) or 'nothing spent'})"


def refuse_uncovered(where: str, name: str, got: str, covered: str) -> None:
    """Raise unless an option is the one that the analysis covers."""
    if got != covered:
        raise HyperparameterError(message(where, f"{name}={got!r} is not covered.", repr(covered), repr(got), COVERED))


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    *,
    orders: Sequence[float] = DEFAULT_ORDERS,
) -> float:
    """Return ε of a training of DP-SGD on Poisson-sampled batches; see :class:`RDPAccountant`.

    Example:
        >>> round(epsilon(noise_multiplier=4.0, sampling_rate=0.01, steps=10_000, delta=1e-5), 3)
        1.035
    """
    rdp = renyi_divergences(noise_multiplier, sampling_rate, steps=steps, orders=orders)
    return epsilon_from_rdp(orders, rdp, delta)[0]


def delta(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    epsilon: float,
    *,
    orders: Sequence[float] = DEFAULT_ORDERS,
) -> float:
    """Return δ of a training of DP-SGD on Poisson-sampled batches; see :class:`RDPAccountant`.

    Example:
        >>> f"{delta(noise_multiplier=4.0, sampling_rate=0.01, steps=10_000, epsilon=1.035):.1e}"
        '1.0e-05'
    """
    rdp = renyi_divergences(noise_multiplier, sampling_rate, steps=steps, orders=orders)
    return delta_from_rdp(orders, rdp, epsilon)[0]


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    *,
    orders: Sequence[float] = DEFAULT_ORDERS,
    tolerance: float = 1e-6,
) -> float:
    """Return the least σ, to a relative ``tolerance``, with which a training is (ε, δ)-DP.

    It errs to the side of more noise: ``privacy.epsilon`` of what it returns is at most ``epsilon``. 0 where no record
    is ever looked at.

    Raises:
        HyperparameterError: a number is out of range; δ is 0, which no Gaussian noise gives.

    Example:
        >>> sigma = noise_multiplier_for(epsilon=3.0, delta=1e-5, sampling_rate=256 / 60000, steps=14063)
        >>> f"{sigma:.4f}"
        '1.0140'
    """
    where = "privacy.noise_multiplier_for"
    check_hyperparameter(where, "epsilon", epsilon, "[0, inf]")
    check_hyperparameter(where, "delta", delta, "(0, 1]")
    check_hyperparameter(where, "tolerance", tolerance, "(0, 1)")

    def enough(sigma: float) -> bool:
        rdp = renyi_divergences(sigma, sampling_rate, steps=steps, orders=orders)
        return epsilon_from_rdp(orders, rdp, delta)[0] <= epsilon

    if enough(0.0):
        return 0.0
    return least(enough, tolerance)


def least(enough: Callable[[float], bool], tolerance: float) -> float:
    """Return the least number that is enough, to a relative tolerance from above; from a power of 2 by bisection."""
    high = 1.0
    while not enough(high):
        high *= 2
    while enough(high / 2):
        high /= 2
    low = high / 2
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
