"""Line searches: how far to go along a direction that is given. Immutable values, for rules such as ``LBFGS``.

A search sees the loss along a ray, φ(α) = f(p + α r), and its slope φ'(α), one evaluation at a time. Only numbers are
carried from one evaluation to the next, and the loop has one place where the loss is evaluated: compiled, the loss and
its gradient stand in the program once, however many evaluations there may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.errors import HyperparameterError, message
from optimkit.hyper import check_hyperparameters, hyper, with_section

Phi = Callable[[Any], tuple[Any, Any]]
ROUNDINGS = 8  # a loss is off by about so many units of rounding at least


class Point(NamedTuple):
    """A point of the ray: where it is, the loss there, and the slope of the loss."""

    alpha: Any
    value: Any
    slope: Any


class Found(NamedTuple):
    """What a search found: the step, 0 for none; how often it evaluated the loss; whether it missed its conditions."""

    alpha: Any
    evaluations: Any
    failed: Any


class Bracket(NamedTuple):
    """Where a search is: the best point that satisfies its conditions, the other end, and where to look next.

    ``hi.alpha`` is infinite while there is no other end.
    """

    lo: Point
    hi: Point
    trial: Any


class _Progress(NamedTuple):
    bracket: Bracket
    best: tuple[Any, Any]  # α and φ of the lowest point so far
    accepted: Any
    evaluations: Any


@dataclasses.dataclass(frozen=True)
class LineSearch:
    """What line searches share: the first step, 1, the bound on evaluations, and what is done when it is reached.

    A subclass defines ``judge``, or ``search`` itself, and may have further hyperparameters, declared as in rules.
    Where no point satisfies the conditions, the lowest one found is taken if it is below the start, and otherwise no
    step. A loss or a slope that is not finite counts as too far: such a point is never taken. ``noise=0`` takes losses
    at their word; otherwise ``noise`` counts as 8 eps of the loss's dtype at least.
    """

    max_evaluations: int = hyper(20, "int [1, inf)", "how often the loss is evaluated at most", kw_only=True)
    noise: float = hyper(
        1e-6, "[0, inf)", "differences of the loss that count as rounding, relative to its size", kw_only=True
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: f for name, f in vars(cls).items() if isinstance(f, dataclasses.Field)}
        fields = own | {f.name: f for f in dataclasses.fields(cls)}  # of the base, for this is not yet a dataclass
        if cls.__doc__ and fields and "Hyperparameters:" not in cls.__doc__:
            lines = [f"{n}: {f.metadata['doc']}; in {f.metadata['domain']}, default {f.default!r}."
                     for n, f in fields.items() if "domain" in f.metadata]  # fmt: skip
            cls.__doc__ = with_section(cls.__doc__, "Hyperparameters", lines)

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def replace(self, **changes: Any) -> Self:
        """Return the search with some hyperparameters changed, checked as in the constructor."""
        return dataclasses.replace(self, **changes)

    @property
    def uses_slopes(self) -> bool:
        """Whether slopes away from the start are looked at; a program without them computes no gradients there."""
        return True

    def judge(self, at: Point, start: Point, bracket: Bracket, noise: Any) -> tuple[Any, Bracket]:
        """Return whether a point is accepted, and if it is not, the next bracket.

        Args:
            at: the point evaluated last, at ``bracket.trial``; its value is infinite where something was not finite.
            start: the point at 0.
            bracket: what is known.
            noise: differences of the loss up to this one are rounding.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define judge.")

    def search(self, phi: Phi, value: Any, slope: Any, eps: float) -> Found:
        """Return how far to go.

        Args:
            phi: a function of α that returns φ(α) and φ'(α), scalars of the dtype of ``value``.
            value: φ(0).
            slope: φ'(0). Unless it is negative there is no step, which is a failure unless it is 0.
            eps: the unit of rounding of the loss, relative to it.
        """
        zero, one = jnp.zeros_like(value), jnp.ones_like(value)
        start, no = Point(zero, value, slope), jnp.zeros((), bool)
        bracket = Bracket(start, Point(jnp.full_like(value, jnp.inf), value, slope), one)
        noise = (max(self.noise, ROUNDINGS * eps) if self.noise else 0.0) * jnp.abs(value)
        ready = jnp.isfinite(value) & (slope < 0)

        def body(now: _Progress) -> _Progress:
            value, slope = phi(now.bracket.trial)
            finite = jnp.isfinite(value) & jnp.isfinite(slope) if self.uses_slopes else jnp.isfinite(value)
            at = Point(now.bracket.trial, jnp.where(finite, value, jnp.inf), slope)
            accepted, bracket = self.judge(at, start, now.bracket, noise)
            best = select(accepted | (at.value < now.best[1]), (at.alpha, at.value), now.best)
            return _Progress(bracket, best, accepted, now.evaluations + 1)

        begin = _Progress(bracket, (zero, value), no, jnp.zeros((), jnp.int32))
        end = loop(lambda now: ready & ~now.accepted & (now.evaluations < self.max_evaluations), body, begin)
        failed = ~end.accepted & ~(jnp.isfinite(value) & (slope == 0))
        return Found(jnp.where(ready, end.best[0], zero), end.evaluations, failed)


@dataclasses.dataclass(frozen=True)
class Backtracking(LineSearch):
    """Shortens the step until the loss falls by a fair share of what its slope promises: the Armijo condition.

    ::

        α = 1, decrease, decrease², ...   until   φ(α) ≤ φ(0) + c1 α φ'(0)

    The cheapest search: only values are compared, so that compiled it needs no gradients, and the step is never longer
    than the first. It does not see whether the step could have been longer; LBFGS then leaves out the pairs that show
    negative curvature. Where steps may be too short, use :class:`Zoom`.

    Deviations: a loss that is above the bound by no more than ``noise`` · |φ(0)| is accepted, too. Without that no
    search ends well near a minimum, where the loss changes by less than it is rounded. After ``max_evaluations`` the
    lowest point is taken.

    Reference: Nocedal & Wright 2006, Numerical Optimization, Algorithm 3.1.

    Example:
        >>> square = lambda alpha: ((1 - 3 * alpha) ** 2, -6 * (1 - 3 * alpha))
        >>> found = Backtracking().search(square, jnp.float32(1.0), jnp.float32(-6.0), 1e-7)
        >>> float(found.alpha), int(found.evaluations)
        (0.5, 2)
    """

    c1: float = hyper(1e-4, "(0, 0.5)", "share of the promised decrease that is enough")
    decrease: float = hyper(0.5, "(0, 1)", "what a step that is too long is multiplied by")

    @property
    def uses_slopes(self) -> bool:
        """No."""
        return False

    def judge(self, at: Point, start: Point, bracket: Bracket, noise: Any) -> tuple[Any, Bracket]:
        """Accept a sufficient decrease, and shorten the step otherwise."""
        enough = at.value <= start.value + self.c1 * at.alpha * start.slope + noise
        return enough, bracket._replace(trial=self.decrease * at.alpha)


@dataclasses.dataclass(frozen=True)
class Zoom(LineSearch):
    """Finds a step that satisfies the strong Wolfe conditions, by bracketing and interpolation by cubics.

    ::

        φ(α) ≤ φ(0) + c1 α φ'(0)   and   |φ'(α)| ≤ c2 |φ'(0)|

    The second condition makes a step long enough, and the curvature along it positive, so that every pair of LBFGS is
    good. Steps start at 1 and are multiplied by ``growth`` until an interval is known that has such a point in it; the
    interval shrinks around the minimizer of the cubic through the values and slopes at its ends.

    Deviations: the book leaves the choice of trial steps open. Here a minimizer nearer to an end than a tenth of the
    interval is moved there, and where there is none the interval is halved. Values that differ by no more than
    ``noise`` · |φ(0)| count as equal, and slopes decide: the first condition becomes φ'(α) ≤ (2 c1 − 1) φ'(0), the
    approximate Wolfe condition, and the cubic becomes the secant of the slopes. So a search converges as far as
    gradients are right, and not only to where the loss stops changing. After ``max_evaluations`` the lowest point is
    taken.

    Reference: Nocedal & Wright 2006, Numerical Optimization, Algorithms 3.5 and 3.6, eq. 3.59; for the approximate
    condition, and 1e-6 as its noise, Hager & Zhang 2005, A New Conjugate Gradient Method with Guaranteed Descent and an
    Efficient Line Search, SIAM Journal on Optimization 16, section 4.

    Example:
        >>> square = lambda alpha: ((1 - 3 * alpha) ** 2, -6 * (1 - 3 * alpha))
        >>> found = Zoom().search(square, jnp.float32(1.0), jnp.float32(-6.0), 1e-7)
        >>> f"{found.alpha:.4f}", int(found.evaluations)
        ('0.3333', 2)
    """

    c1: float = hyper(1e-4, "(0, 0.5)", "share of the promised decrease that is enough")
    c2: float = hyper(0.9, "(0, 1)", "share of the slope that may remain")
    growth: float = hyper(2.0, "(1, inf)", "what a step that is too short is multiplied by")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.c1 < self.c2:
            raise HyperparameterError(message(
                "Zoom", "hyperparameter 'c1' is not below 'c2', so that there may be no step at all.", "c1 < c2",
                f"c1 = {self.c1!r}, c2 = {self.c2!r}"))  # fmt: skip

    def judge(self, at: Point, start: Point, bracket: Bracket, noise: Any) -> tuple[Any, Bracket]:
        """Accept a point with both conditions; otherwise bracket (Algorithm 3.5) or shrink the bracket (3.6)."""
        lo, hi, _ = bracket
        falls = at.value <= start.value + self.c1 * at.alpha * start.slope
        falls |= (at.value <= start.value + noise) & (at.slope <= (2 * self.c1 - 1) * start.slope)
        good = falls & ((at.value < lo.value) | (at.value - lo.value < noise))
        accepted = good & (jnp.abs(at.slope) <= -self.c2 * start.slope)
        # While there is no other end, hi.alpha is inf, and the two algorithms take the same decisions.
        beyond = jnp.where(hi.alpha > lo.alpha, at.slope >= 0, at.slope <= 0)
        lo, hi = select(good, at, lo), select(good, select(beyond, lo, hi), at)
        inside = lo.alpha + (hi.alpha - lo.alpha) * self.minimizer(lo, hi, noise)
        return accepted, Bracket(lo, hi, jnp.where(jnp.isfinite(hi.alpha), inside, self.growth * at.alpha))

    @staticmethod
    def minimizer(lo: Point, hi: Point, noise: Any) -> Any:
        """Return where between two points the loss should be least: 0 at the first and 1 at the second."""
        width = hi.alpha - lo.alpha
        a, b, rise = lo.slope * width, hi.slope * width, hi.value - lo.value
        size = jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.abs(rise))
        a, b, rise = (numerics.safe_divide(x, size) for x in (a, b, rise))  # so that no square overflows
        d1 = a + b - 3 * rise
        d2 = jnp.sqrt(d1**2 - a * b)  # NaN where the cubic has no minimizer
        cubic = 1 - (b + d2 - d1) / (b - a + 2 * d2)
        x = jnp.where(jnp.abs(hi.value - lo.value) <= noise, a / (a - b), cubic)
        return jnp.where((x > 0) & (x < 1), jnp.clip(x, 0.1, 0.9), 0.5)


def select(condition: Any, one: Any, other: Any) -> Any:
    """Return one tuple of scalars or the other."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), one, other)


def loop(going: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any) -> Any:
    """Return ``carry`` after ``body`` was applied as long as ``going`` says so.

    Outside of transformations it is a Python loop: ``lax.while_loop`` would compile anew at each call, since each call
    has another loss.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(carry)):
        return jax.lax.while_loop(going, body, carry)
    while going(carry):
        carry = body(carry)
    return carry
