"""Oracles of wrappers, each with an inner algorithm of its own: momentum, or Adam's where the wrapper counts steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .adam import oracle_adam
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros
from .sgd import oracle_momentum, oracle_sgd


def oracle_scaled(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    factor: float | Callable[[int], float],
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Momentum with its learning rate multiplied by a number, or by a function of the step from 0.

    Source: Howard & Ruder 2018, section 3.2: θ^l_t = θ^l_{t-1} - η^l ∇. arXiv:1801.06146.
    """
    rates = [lr_at(lr, t) * (factor(t - 1) if callable(factor) else factor) for t in range(1, len(grads) + 1)]
    return oracle_momentum(params, grads, rates, momentum=momentum, nesterov=nesterov)


def oracle_masked(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    match: Callable[[str], bool] = lambda name: name == "weight",
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Momentum on the parameters whose name matches, plain gradient descent on the others."""

    def part(names: set[str], oracle: Callable[..., Trajectory], **hyper: float) -> Trajectory:
        return oracle({n: params[n] for n in names}, [{n: g[n] for n in names} for g in grads], lr, **hyper)

    inside = {name for name in params if match(name)}
    first = part(inside, oracle_momentum, momentum=momentum, nesterov=nesterov)
    second = part(set(params) - inside, oracle_sgd)
    return [{**a, **b} for a, b in zip(first, second, strict=True)]


def oracle_accumulated(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    every: int | Callable[[int], int],
    **hyper: float,
) -> Trajectory:
    """Adam on the means of k gradients, one step at each k-th call.

    Source: Ott et al. 2018, section 3 (cumul). arXiv:1806.00187.
    Symbols: s sum of gradients, k its length; ``every(n)`` is k after n steps of the inner algorithm.

        s ← s + g;  at the k-th:  θ ← Adam(θ, s / k), at that call's learning rate;  s ← 0
    """
    means: list[dict[str, np.ndarray]] = []
    rates, taken = [], []
    s, k = zeros(params), 0
    for t, grad in enumerate(grads, start=1):
        g, k = copies(grad), k + 1
        for name in s:
            for i in elements(s[name]):
                s[name][i] = s[name][i] + g[name][i]
        if k == (every(len(means)) if callable(every) else every):
            means.append({name: s[name] / k for name in s})
            rates.append(lr_at(lr, t))
            s, k = zeros(params), 0
        taken.append(len(means))
    steps = [copies(params), *oracle_adam(params, means, rates, **hyper)]
    return [steps[n] for n in taken]


def oracle_skip_non_finite(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    max_consecutive: int | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Momentum that leaves out steps whose gradients are not all finite, at most ``max_consecutive`` in a row.

    Source: Micikevicius et al. 2018, section 3.2. arXiv:1710.03740.
    """
    kept, rates, taken, consecutive = [], [], [], 0
    for t, grad in enumerate(grads, start=1):
        finite = all(math.isfinite(g[i]) for g in grad.values() for i in elements(np.asarray(g)))
        consecutive = 0 if finite else consecutive + 1
        if finite or (max_consecutive is not None and consecutive > max_consecutive):
            kept.append(grad)
            rates.append(lr_at(lr, t))
        taken.append(len(kept))
    steps = [copies(params), *oracle_momentum(params, kept, rates, momentum=momentum, nesterov=nesterov)]
    return [steps[n] for n in taken]


def oracle_averaged(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay: float | None = None,
    start: int = 0,
    power: float = 0.0,
    **hyper: float,
) -> Trajectory:
    """Momentum: averaging does not change where it goes. See ``averages``."""
    return oracle_momentum(params, grads, lr, **hyper)


def averages(
    trajectory: Trajectory, *, decay: float | None = None, start: int = 0, power: float = 0.0
) -> Trajectory:
    """Return what an average evaluates at after each step.

    Source: Polyak & Juditsky 1992, eq. 2, for the mean of all; Shamir & Zhang 2013, section 4, for the weighted one;
    Kingma & Ba 2015, section 7.2, for the exponential average with bias correction. Symbols: θ parameters, β = decay,
    η = power, t counted from the step after ``start``.

        θ̄_t = (1/t) Σ θ_s                                     decay=None
        θ̄_t = (1 - (η+1)/(t+η)) θ̄_{t-1} + (η+1)/(t+η) θ_t      decay=None, power=η
        θ̄_t = β θ̄_{t-1} + (1 - β) θ_t,  θ̂_t = θ̄_t / (1 - β^t)      else
    """
    total = zeros(trajectory[0])
    result = []
    for step, theta in enumerate(trajectory, start=1):
        average, t = copies(theta), step - start
        if t > 0:
            for name in total:
                for i in elements(total[name]):
                    if decay is None and power:
                        eta = (power + 1) / (t + power)
                        total[name][i] = (1 - eta) * total[name][i] + eta * theta[name][i]
                        average[name][i] = total[name][i]
                    elif decay is None:
                        total[name][i] = total[name][i] + theta[name][i]
                        average[name][i] = total[name][i] / t
                    else:
                        total[name][i] = decay * total[name][i] + (1 - decay) * theta[name][i]
                        average[name][i] = total[name][i] / (1 - decay**t)
        result.append(average)
    return result


def oracle_lookahead(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    period: int = 6,
    slow_step: float = 0.5,
    reset: bool = False,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Lookahead around momentum, whose velocity is kept at synchronisations, or set to 0 (``reset``).

    Source: Zhang, Lucas, Hinton & Ba 2019, Algorithm 1. arXiv:1907.08610.
    Symbols: φ slow weights, θ fast weights, k = period, α = slow_step, A the inner algorithm.

        for t = 1, 2, ...:  θ_{t,0} = φ_{t-1}
            for i = 1 ... k:  θ_{t,i} = θ_{t,i-1} + A(θ_{t,i-1})
            φ_t = φ_{t-1} + α (θ_{t,k} - φ_{t-1})

    What is returned after each inner step are the parameters: θ_{t,i}, and φ_t in place of θ_{t,k}.
    """
    phi, theta, m = copies(params), copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, epsilon = copies(grad), lr_at(lr, t)
        for name in theta:
            for i in elements(theta[name]):
                m[name][i] = momentum * m[name][i] + g[name][i]
                direction = g[name][i] + momentum * m[name][i] if nesterov else m[name][i]
                theta[name][i] = theta[name][i] - epsilon * direction
                if t % period == 0:
                    phi[name][i] = phi[name][i] + slow_step * (theta[name][i] - phi[name][i])
                    theta[name][i] = phi[name][i]
                    m[name][i] = 0.0 if reset else m[name][i]
        trajectory.append(copies(theta))
    return trajectory


def oracle_weight_norm(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Weight normalization with momentum on v and g.

    Source: Salimans & Kingma 2016, eqs. 2 and 3. arXiv:1602.07868. Symbols: w a column of a weight, over all axes but
    the last; v its direction, of length 1 at first, g its scale.

        w = (g / ‖v‖) v
        ∇g = ∇w · v / ‖v‖
        ∇v = (g / ‖v‖) ∇w - (g ∇g / ‖v‖²) v

    Parameters of one number a column, or less, are stepped as they are. Deviation: where w = 0, v is undefined in the
    paper; here it is -∇w / ‖∇w‖ when there is a gradient.
    """

    def step(x: np.ndarray, m: np.ndarray, g: np.ndarray, epsilon: float) -> None:
        for i in elements(x):
            m[i] = momentum * m[i] + g[i]
            x[i] = x[i] - epsilon * (g[i] + momentum * m[i] if nesterov else m[i])

    def length(x: np.ndarray) -> float:
        return math.sqrt(sum(float(x[i]) ** 2 for i in elements(x)))

    w = copies(params)
    split = {name for name, x in w.items() if x.ndim > 0 and x.size > x.shape[-1]}
    plain = {name: np.zeros_like(x) for name, x in w.items()}
    columns = {}
    for name in split:
        for c in range(w[name].shape[-1]):
            g = length(w[name][..., c])
            v = w[name][..., c] / g if g > 0 else np.zeros(w[name].shape[:-1])
            columns[name, c] = [v, np.zeros_like(v), np.array(g), np.zeros(())]
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        epsilon = lr_at(lr, t)
        for name in set(w) - split:
            step(w[name], plain[name], np.asarray(grad[name]), epsilon)
        for (name, c), (v, m_v, g, m_g) in columns.items():
            nabla_w = np.array(grad[name][..., c])
            if length(v) == 0 and length(nabla_w) > 0:
                v[...] = -nabla_w / length(nabla_w)
            norm = length(v)
            if norm > 0:
                nabla_g = np.array(sum(nabla_w[i] * v[i] for i in elements(v)) / norm)
                nabla_v = (g / norm) * nabla_w - (g * nabla_g / norm**2) * v
                step(v, m_v, nabla_v, epsilon)
                step(g, m_g, nabla_g, epsilon)
                w[name][..., c] = (g / length(v)) * v
        trajectory.append(copies(w))
    return trajectory


def oracle_cautious(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    xi: float = 1.0,
    variant: str = "paper",
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Trajectory:
    """Momentum, of which only the components that agree in sign with the gradient are taken.

    Source: Liang, Chen, Liu & Liu 2024, Algorithm 2. arXiv:2411.16085; the authors' code for "code".
    Symbols: u update, g gradient, φ mask, ξ = xi.

        φ = 1(u g > 0)
        α = dim(φ) / (‖φ‖₀ + ξ)              paper
        α = 1 / max(mean(φ), 10^-3)          code
        θ = θ - ε α φ u
    """
    theta, m = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, epsilon = copies(grad), lr_at(lr, t)
        for name in theta:
            u = np.zeros_like(theta[name])
            for i in elements(u):
                m[name][i] = momentum * m[name][i] + g[name][i]
                u[i] = g[name][i] + momentum * m[name][i] if nesterov else m[name][i]
            phi = {i: 1.0 if u[i] * g[name][i] > 0 else 0.0 for i in elements(u)}
            taken = sum(phi.values())
            if taken:
                alpha = u.size / (taken + xi) if variant == "paper" else 1 / max(taken / u.size, 1e-3)
                for i in elements(u):
                    theta[name][i] = theta[name][i] - epsilon * alpha * phi[i] * u[i]
        trajectory.append(copies(theta))
    return trajectory
