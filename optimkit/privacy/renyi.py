"""Rényi differential privacy of the Gaussian mechanism on Poisson-sampled batches, in float64, as pure functions.

A mechanism M is (α, r)-RDP if the Rényi divergence of order α between M(D) and M(D') is at most r, for all data sets D
and D' of which one has one record more. RDP adds up over steps, and converts to (ε, δ). Everything here is NumPy and
``math`` on the host: nothing is traced, and JAX's float32 has no part in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from optimkit.errors import StructureError, message
from optimkit.hyper import check_hyperparameter

Array = np.ndarray

# Those of dp-accounting: dense where short and noisy trainings have their best order, sparse where long and safe ones.
DEFAULT_ORDERS = (*(1 + i / 10 for i in range(1, 100)), *map(float, range(11, 64)), 128.0, 256.0, 512.0, 1024.0)

ORDER, RATE, NOISE, STEPS = "(1, 65536]", "[0, 1]", "[0, inf]", f"int [0, {2**53}]"
MOST_POINTS = 20000  # of one integral; it takes more where σ < 0.035 at order 11


def renyi_divergences(
    noise_multiplier: float, sampling_rate: float, *, steps: int = 1, orders: Sequence[float] = DEFAULT_ORDERS
) -> Array:
    """Return the RDP of a number of steps with Poisson sampling and Gaussian noise, for each order.

    ::

        r(α) = steps · log(A) / (α − 1),   A = E[((1 − q) + q L(z))ᵅ],  z ~ N(0, σ²),  L(z) = exp((2z − 1) / (2σ²))
        r(α) = steps · α / (2σ²)           for q = 1

    q is ``sampling_rate``, σ ``noise_multiplier``. For integer orders A − 1 is a sum of positive terms (paper, section
    3.3, with the terms that add up to 1 taken off); for others it is the integral of a positive function, by the
    trapezoidal rule, whose error falls exponentially. So log(A) keeps 12 digits also where A is 1 + 1e-20, there is
    nothing to converge, and rounding cannot make r negative. Below σ = 0.035, where that integral would take too many
    points, r at an order between two integers is bounded through log(A) of both, which is convex in α.

    Args:
        noise_multiplier: σ, the deviation of the noise over the clipping norm. 0 gives infinity.
        sampling_rate: q, the probability with which each record is in a batch, by itself. 0 gives 0.
        steps: how many steps.
        orders: the orders α, above 1.

    Returns:
        float64[orders]; not NaN, never negative, at most infinite.

    Raises:
        HyperparameterError: a number is out of range.

    Reference: Mironov, Talwar & Zhang 2019, Rényi Differential Privacy of the Sampled Gaussian Mechanism.
    arXiv:1908.10530.

    Example:
        >>> renyi_divergences(2.0, 0.1, steps=100, orders=(2, 3.5)).round(4)
        array([0.2836, 0.5176])
    """
    where = "privacy.renyi_divergences"
    check_hyperparameter(where, "noise_multiplier", noise_multiplier, NOISE)
    check_hyperparameter(where, "sampling_rate", sampling_rate, RATE)
    check_hyperparameter(where, "steps", steps, STEPS)
    orders = checked_orders(where, orders)
    if steps == 0:
        return np.zeros(len(orders))
    return float(steps) * one_step(float(noise_multiplier), float(sampling_rate), orders)


def checked_orders(where: str, orders: Sequence[float]) -> tuple[float, ...]:
    """Return orders as floats, or raise where there are none, or one is not above 1."""
    found = tuple(np.atleast_1d(np.asarray(orders)).tolist())
    if not found:
        raise StructureError(message(where, "there are no orders.", "at least one order > 1", repr(orders),
                                     "Leave them out: the default serves nearly all."))  # fmt: skip
    for order in found:
        check_hyperparameter(where, "orders", order, ORDER)
    return tuple(map(float, found))


@functools.lru_cache(maxsize=256)
def one_step(sigma: float, q: float, orders: tuple[float, ...]) -> Array:
    """Return the RDP of one step for each order, read-only."""
    alpha = np.array(orders)
    if q == 0 or math.isinf(sigma):
        result = np.zeros(len(alpha))
    elif sigma == 0:
        result = np.full(len(alpha), math.inf)
    elif q == 1:
        with np.errstate(over="ignore"):
            result = alpha / 2 / sigma / sigma
    else:
        result = log_moments(sigma, q, alpha) / (alpha - 1)
    result.flags.writeable = False
    return result


def log_moments(sigma: float, q: float, orders: Array) -> Array:
    """Return log(A) for each order, 0 < q < 1."""
    whole = orders == np.floor(orders)
    result = np.zeros(len(orders))
    result[whole] = [log_moment_integer(sigma, q, int(a)) for a in orders[whole]]
    between = orders[~whole]
    if between.size:
        points = grid(sigma, float(between.max()))
        found = log_moments_integral(sigma, q, between, points) if points is not None else None
        result[~whole] = log_moments_bound(sigma, q, between) if found is None else found
    return result


def log_moment_integer(sigma: float, q: float, order: int) -> float:
    """Return log(A) for an integer order: log(1 + Σₖ C(α, k) (1 − q)ᵅ⁻ᵏ qᵏ (exp((k² − k) / (2σ²)) − 1)), k = 2 ... α.

    Example:
        >>> round(log_moment_integer(1.0, 0.5, 2), 12) == round(math.log1p(0.25 * math.expm1(1.0)), 12)
        True
    """
    k = np.arange(2.0, order + 1)
    with np.errstate(divide="ignore", over="ignore"):
        power = k * (k - 1) / 2 / sigma / sigma
        small = np.minimum(power, 1.0)
        grown = np.where(power < 1, np.log(np.expm1(small)), power + np.log1p(-np.exp(-np.maximum(power, 1.0))))
    return log1p_sum(log_binomials(order) + k * math.log(q) + (order - k) * math.log1p(-q) + grown)


@functools.lru_cache(maxsize=256)
def log_binomials(order: int) -> Array:
    """Return the logarithms of C(order, k) for k = 2 ... order."""
    log_factorials = np.array([math.lgamma(i + 1) for i in range(order + 1)])
    result: Array = (log_factorials[-1] - log_factorials - log_factorials[::-1])[2:]
    return result


def log1p_sum(logs: Array, step: float = 1.0) -> float:
    """Return log(1 + step · Σ exp(logs)), without overflow, and to full precision where the sum is tiny."""
    largest = float(np.max(logs, initial=-math.inf))
    if math.isinf(largest):
        return max(largest, 0.0)
    return float(np.logaddexp(0.0, largest + math.log(step * np.sum(np.exp(logs - largest)))))


def grid(sigma: float, largest_order: float) -> Array | None:
    """Return the points of the trapezoidal rule, in units of σ, or None where they would be too many.

    The integrand has one Gaussian of unit width at 0 and one at α/σ, and, as a complex function, singularities at a
    distance of πσ from the real line: with spacing σ/2 the rule is right to exp(−4π²), with 1/2 to exp(−8π²).
    """
    spacing, end = min(0.5, sigma / 2), largest_order / sigma + 12
    if not end + 12 <= MOST_POINTS * spacing:
        return None
    return np.arange(-12.0, end, spacing)


def log_moments_integral(sigma: float, q: float, orders: Array, x: Array) -> Array:
    """Return log(A) by integration: A − 1 = E[(1 + u)ᵅ − 1 − α u], u = q (L − 1), since u has mean 0."""
    log_ratio = (x - 1 / (2 * sigma)) / sigma
    with np.errstate(over="ignore"):
        # Where L is near 1 or below, through u itself; where it may overflow, through logarithms.
        u = q * np.expm1(log_ratio)
        log_mix = np.where(log_ratio < 30, np.log1p(u), np.logaddexp(math.log1p(-q), math.log(q) + log_ratio))
    logs = log_excess(orders[:, None], u, log_mix) - x**2 / 2
    step = (x[1] - x[0]) / math.sqrt(2 * math.pi)
    return np.array([log1p_sum(row, step) for row in logs])


def log_excess(order: Array, u: Array, log_mix: Array) -> Array:
    """Return log((1 + u)ᵅ − 1 − α u), where ``log_mix`` is log(1 + u): what a power has above its tangent at 1.

    By the binomial series where α|u| is small, for the difference cancels there; in logarithms where it is large.
    """
    u, log_mix = np.broadcast_arrays(u, log_mix)
    with np.errstate(all="ignore"):
        power = order * log_mix
        near = np.where(order * np.abs(u) < 0.1, u, 0.0)
        series = np.zeros(power.shape)
        for k in range(20, 1, -1):  # Horner: Σₖ C(α, k) uᵏ, k = 2 ... 20
            series = (order - k + 1) / k * near * (1 + series) if k > 2 else (order - 1) / 2 * (1 + series)
        by_series = np.log(series * order) + 2 * np.log(np.abs(near))
        middle = np.log(np.expm1(np.minimum(power, 60.0)) - order * u)
        log_u = log_mix + np.log1p(-np.exp(-log_mix))
        far = power + np.log1p(-np.exp(-power) - order * np.exp(log_u - power))
        return np.where(order * np.abs(u) < 0.1, by_series, np.where(power < 50, middle, far))


def log_moments_bound(sigma: float, q: float, orders: Array) -> Array:
    """Return bounds of log(A) from those of the integers around each order: log(A) is convex in α."""
    low, part = np.floor(orders), orders - np.floor(orders)
    below, above = (np.array([log_moment_integer(sigma, q, int(a)) for a in ends]) for ends in (low, low + 1))
    return (1 - part) * below + part * above


# --- from RDP to (ε, δ) -----------------------------------------------------------------------------------------------


def epsilon_from_rdp(orders: Sequence[float], rdp: Sequence[float] | Array, delta: float) -> tuple[float, float]:
    """Return the smallest ε that RDP gives for a δ, and the order that gives it.

    ::

        ε = min over α of  r(α) + log((α − 1) / α) − log(δ α) / (α − 1)
        ε = 0              if δ² ≥ 1 − exp(−r(α)) for some α

    The first is proposition 12 of Canonne, Kamath & Steinke; it is below the older ``r − log(δ) / (α − 1)`` at all
    orders. The second is the inequality of Bretagnolle & Huber: the total variation is at most √(1 − exp(−KL)).

    Raises:
        StructureError: not as many divergences as orders.
        HyperparameterError: an order, a divergence or δ is out of range.

    Reference: Canonne, Kamath & Steinke 2020, The Discrete Gaussian for Differential Privacy. arXiv:2004.00010.

    Example:
        >>> epsilon, order = epsilon_from_rdp([2.0, 8.0, 32.0], [0.1, 0.4, 1.6], delta=1e-5)
        >>> round(epsilon, 4), order
        (1.6141, 8.0)
    """
    alpha, r = checked_rdp("privacy.epsilon_from_rdp", orders, rdp)
    check_hyperparameter("privacy.epsilon_from_rdp", "delta", delta, "[0, 1]")
    log_delta = math.log(delta) if delta > 0 else -math.inf
    bounds = r + np.log1p(-1 / alpha) - (log_delta + np.log(alpha)) / (alpha - 1)
    bounds = np.where(delta**2 >= -np.expm1(-r), 0.0, np.maximum(bounds, 0.0))
    best = int(np.argmin(bounds))
    return float(bounds[best]), float(alpha[best])


def delta_from_rdp(orders: Sequence[float], rdp: Sequence[float] | Array, epsilon: float) -> tuple[float, float]:
    """Return the smallest δ that RDP gives for an ε, and the order that gives it; see :func:`epsilon_from_rdp`.

    ::

        δ = min over α of  exp((α − 1) (r(α) − ε)) / α · (1 − 1/α)ᵅ⁻¹   and   √(1 − exp(−r(α)))

    Raises:
        StructureError: not as many divergences as orders.
        HyperparameterError: an order, a divergence or ε is out of range.

    Example:
        >>> f"{delta_from_rdp([2.0, 8.0, 32.0], [0.1, 0.4, 1.6], epsilon=1.6141)[0]:.1e}"
        '1.0e-05'
    """
    alpha, r = checked_rdp("privacy.delta_from_rdp", orders, rdp)
    check_hyperparameter("privacy.delta_from_rdp", "epsilon", epsilon, "[0, inf]")
    if math.isinf(epsilon):
        return 0.0, float(alpha[0])
    with np.errstate(divide="ignore"):
        variation = np.log(-np.expm1(-r)) / 2
    logs = np.minimum((alpha - 1) * (r - epsilon + np.log1p(-1 / alpha)) - np.log(alpha), variation)
    best = int(np.argmin(logs))
    return math.exp(min(float(logs[best]), 0.0)), float(alpha[best])


def checked_rdp(where: str, orders: Sequence[float], rdp: Sequence[float] | Array) -> tuple[Array, Array]:
    """Return orders and divergences as arrays, or raise where they do not fit."""
    alpha, r = np.array(checked_orders(where, orders)), np.atleast_1d(np.asarray(rdp, np.float64))
    if r.shape != alpha.shape:
        raise StructureError(message(where, "there are not as many divergences as orders.", f"{len(alpha)}",
                                     f"{list(r.shape)}"))  # fmt: skip
    check_hyperparameter(where, "rdp", r, "[0, inf]")
    return alpha, r
