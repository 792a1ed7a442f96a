"""Oracle of L-BFGS with its line searches: on a function that it calls itself, for there is no stream of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .common import Params, Trajectory, copies

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]
NOWHERE = (math.inf, math.nan)


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Return the inner product as a plain loop."""
    return sum(float(a) * float(b) for a, b in zip(x, y, strict=True))


def direction(g: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return p_k = -H_k ∇f_k by the two-loop recursion.

    Source: Nocedal & Wright 2006, Algorithm 7.4, with H_k^0 = γ_k I, γ_k = s'y / y'y of the last pair (eq. 7.20).
    Without pairs, γ = min(1, 1/‖g‖).
    """
    q = g.copy()
    alphas = []
    for s, y in reversed(pairs):
        alphas.append(dot(s, q) / dot(s, y))
        q = q - alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        gamma = dot(s, y) / dot(y, y)
    else:
        gamma = min(1.0, 1.0 / math.sqrt(dot(g, g)))
    r = gamma * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = dot(y, r) / dot(s, y)
        r = r + s * (alpha - beta)
    return -r


class Ray:
    """φ(α) = f(x + α p), which remembers how often it was evaluated and its lowest point below the start."""

    def __init__(self, f: Function, x: np.ndarray, p: np.ndarray, value: float, slope: float, limit: int):
        self.f, self.x, self.p, self.value, self.slope, self.limit = f, x, p, value, slope, limit
        self.best, self.lowest, self.evaluations = 0.0, value, 0

    def __call__(self, alpha: float) -> tuple[float, float]:
        """Return φ(α) and φ'(α); infinity where one of them is not finite."""
        if self.evaluations == self.limit:
            raise StopIteration
        self.evaluations += 1
        value, g = self.f(self.x + alpha * self.p)
        slope = dot(g, self.p)
        if not (math.isfinite(value) and math.isfinite(slope)):
            return NOWHERE
        if value < self.lowest:
            self.best, self.lowest = alpha, value
        return float(value), slope


def backtracking(phi: Ray, *, c1: float, decrease: float, noise: float) -> float:
    """Algorithm 3.1. Deviation: a loss above the bound by noise |φ(0)| is accepted."""
    alpha = 1.0
    while not phi(alpha)[0] <= phi.value + c1 * alpha * phi.slope + noise * abs(phi.value):
        alpha = decrease * alpha
    return alpha


def cubic(a: float, fa: float, da: float, b: float, fb: float, db: float) -> float:
    """Return the minimizer of the cubic through values and slopes at a and b (eq. 3.59); NaN if there is none."""
    d1 = da + db - 3 * (fa - fb) / (a - b)
    square = d1**2 - da * db
    if not square >= 0:
        return math.nan
    d2 = math.copysign(math.sqrt(square), b - a)
    denominator = db - da + 2 * d2
    return b - (b - a) * (db + d2 - d1) / denominator if denominator else math.nan


def strong_wolfe(phi: Ray, *, c1: float, c2: float, growth: float, noise: float) -> float:
    """Algorithms 3.5 and 3.6.

    Choices that the book leaves open: α_{i+1} = growth α_i; the minimizer of the cubic is kept a tenth of the interval
    away from its ends, and where there is none the interval is halved. Deviation: values that differ by no more than
    noise |φ(0)| count as equal: then slopes decide (Hager & Zhang 2005, section 4), and the minimizer is that of the
    secant of the slopes.
    """
    slack = noise * abs(phi.value)

    def sufficient(alpha: float, value: float, slope: float) -> bool:
        if value <= phi.value + c1 * alpha * phi.slope:
            return True
        return value <= phi.value + slack and slope <= (2 * c1 - 1) * phi.slope

    def no_lower(value: float, other: float) -> bool:
        return value >= other and not value - other < slack

    def interpolated(lo: tuple, hi: tuple) -> float:
        (a, fa, da), (b, fb, db) = lo, hi
        if abs(fa - fb) <= slack:
            x = a - da * (b - a) / (db - da) if db != da else math.nan
        else:
            x = cubic(a, fa, da, b, fb, db)
        fraction = (x - a) / (b - a)
        if not 0 < fraction < 1:
            return a + 0.5 * (b - a)
        return a + min(max(fraction, 0.1), 0.9) * (b - a)

    def zoom(lo: tuple, hi: tuple) -> float:
        while True:
            alpha = interpolated(lo, hi)
            value, slope = phi(alpha)
            if not sufficient(alpha, value, slope) or no_lower(value, lo[1]):
                hi = (alpha, value, slope)
            else:
                if abs(slope) <= -c2 * phi.slope:
                    return alpha
                if slope * (hi[0] - lo[0]) >= 0:
                    hi = lo
                lo = (alpha, value, slope)

    before, alpha, first = (0.0, phi.value, phi.slope), 1.0, True
    while True:
        value, slope = phi(alpha)
        now = (alpha, value, slope)
        if not sufficient(*now) or (no_lower(value, before[1]) and not first):
            return zoom(before, now)
        if abs(slope) <= -c2 * phi.slope:
            return alpha
        if slope >= 0:
            return zoom(now, before)
        before, alpha, first = now, growth * alpha, False


def oracle_lbfgs(
    params: Params,
    f: Callable[[dict[str, np.ndarray]], tuple[float, dict[str, np.ndarray]]],
    steps: int,
    lr: float = 1.0,
    *,
    memory_size: int = 10,
    line_search: str | None = "zoom",
    c1: float = 1e-4,
    c2: float = 0.9,
    growth: float = 2.0,
    decrease: float = 0.5,
    noise: float = 1e-6,
    max_evaluations: int = 20,
) -> tuple[Trajectory, list[int], list[float]]:
    """L-BFGS. Returns parameters, evaluations of the search, and α, after or at each step.

    Source: Nocedal & Wright 2006, Numerical Optimization, Algorithm 7.5; Liu & Nocedal 1989, Algorithm 2.1.
    Symbols: x parameters, p direction, s = x_{k+1} - x_k, y = ∇f_{k+1} - ∇f_k.

    Deviations: the ray is lr p, and α starts at 1. A pair with s'y ≤ eps ‖s‖ ‖y‖ is left out. If the search does not
    end within ``max_evaluations``, its lowest point is taken; if that is the start, all pairs are forgotten.
    """
    shapes = {name: np.shape(p) for name, p in params.items()}

    def joined(tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(tree[name]).astype(np.float64) for name in shapes])

    def split(x: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        parts = np.split(x, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def flat_f(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grads = f(split(x))
        return float(value), joined(grads)

    x = joined(copies(params))
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    value, g = flat_f(x)
    trajectory, evaluations, alphas = [], [], []
    for _ in range(steps):
        p = lr * direction(g, pairs)
        phi = Ray(flat_f, x, p, value, dot(g, p), max_evaluations)
        try:
            if line_search == "zoom":
                alpha = strong_wolfe(phi, c1=c1, c2=c2, growth=growth, noise=noise)
            elif line_search == "backtracking":
                alpha = backtracking(phi, c1=c1, decrease=decrease, noise=noise)
            else:
                alpha = 1.0
        except StopIteration:
            alpha = phi.best
            pairs = pairs if alpha else []
        new = x + alpha * p
        value, new_g = flat_f(new)
        s, y = new - x, new_g - g
        if dot(s, y) > np.finfo(np.float64).eps * math.sqrt(dot(s, s)) * math.sqrt(dot(y, y)):
            pairs = [*pairs, (s, y)][-memory_size:]
        x, g = new, new_g
        trajectory.append(split(x))
        evaluations.append(phi.evaluations)
        alphas.append(alpha)
    return trajectory, evaluations, alphas
