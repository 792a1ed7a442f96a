"""Oracles of Schedule-Free learning: the three sequences of the paper, around several inner algorithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros

Direction = Callable[[str, tuple[int, ...], float, float, int], float]  # of name, element, gradient, y and t


def sequences(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    direction: Direction,
    *,
    beta: float,
    weight_lr_power: float,
    r: float,
) -> tuple[Trajectory, Trajectory]:
    """Return y and x after each step.

    Source: Defazio et al. 2024, equations 3-5, and for c Algorithm 1. arXiv:2405.15682. Symbols: γ step size, β
    interpolation.

        y_t = (1 - β) z_t + β x_t
        z_{t+1} = z_t - γ_t ∇f(y_t)              or another inner step
        x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1},  c_{t+1} = γ_t² / Σ γ_i²

    Deviation: the weight is not γ_t² but t^r times a power of the largest γ so far, as in the authors' code. Where all
    γ are 0, c is 0.
    """
    z, x, y = copies(params), copies(params), copies(params)
    largest, total = 0.0, 0.0
    ys, xs = [], []
    for t, grad in enumerate(grads, start=1):
        g, gamma = copies(grad), lr_at(lr, t)
        largest = max(largest, gamma)
        weight = t**r * largest**weight_lr_power
        total = total + weight
        c = weight / total if total > 0 else 0.0
        for name in y:
            for i in elements(y[name]):
                z[name][i] = z[name][i] - gamma * direction(name, i, g[name][i], y[name][i], t)
                x[name][i] = (1 - c) * x[name][i] + c * z[name][i]
                y[name][i] = (1 - beta) * z[name][i] + beta * x[name][i]
        ys.append(copies(y))
        xs.append(copies(x))
    return ys, xs


def mean_direction(params: Params, decay: float, debias: bool) -> Direction:
    """Return the mean of gradients as the direction; with decay 0 that of SGD."""
    m = zeros(params)

    def direction(name: str, i: tuple[int, ...], g: float, y: float, t: int) -> float:
        m[name][i] = decay * m[name][i] + (1 - decay) * g
        return m[name][i] / (1 - decay**t) if debias else m[name][i]

    return direction


def adam_direction(params: Params, beta2: float, eps: float, weight_decay: float) -> Direction:
    """Return AdamW's direction without a first moment, the decay being that of y (Algorithm 1)."""
    v = zeros(params)

    def direction(name: str, i: tuple[int, ...], g: float, y: float, t: int) -> float:
        v[name][i] = beta2 * v[name][i] + (1 - beta2) * g**2
        root = math.sqrt(v[name][i] / (1 - beta2**t)) + eps
        return (g / root if root > 0 else 0.0) + weight_decay * y

    return direction


def oracle_schedule_free(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta: float = 0.9,
    weight_lr_power: float = 2.0,
    r: float = 0.0,
    decay: float = 0.0,
    debias: bool = True,
) -> Trajectory:
    """Schedule-Free SGD by a mean of gradients: y."""
    direction = mean_direction(params, decay, debias)
    return sequences(params, grads, lr, direction, beta=beta, weight_lr_power=weight_lr_power, r=r)[0]


def oracle_schedule_free_sgd(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta: float = 0.9,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
    r: float = 0.0,
) -> Trajectory:
    """Schedule-Free SGD with decay at y: y."""
    weights = {"beta": beta, "weight_lr_power": weight_lr_power, "r": r}
    return sequences(params, grads, lr, lambda n, i, g, y, t: g + weight_decay * y, **weights)[0]


def oracle_schedule_free_adamw(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
    r: float = 0.0,
) -> Trajectory:
    """Schedule-Free AdamW, Algorithm 1: y."""
    direction = adam_direction(params, beta2, eps, weight_decay)
    return sequences(params, grads, lr, direction, beta=beta1, weight_lr_power=weight_lr_power, r=r)[0]


def oracle_schedule_free_radam(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, beta2: float = 0.999, **hyper: float
) -> Trajectory:
    """Schedule-Free AdamW whose γ_t is multiplied by RAdam's r_t, 0 where ρ_t ≤ 4.

    Source: the authors' code, RAdamScheduleFree; for r_t, Liu et al. 2020, Algorithm 2. arXiv:1908.03265.
    """
    rates, rho_inf = [], 2 / (1 - beta2) - 1
    for t in range(1, len(grads) + 1):
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        rect = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho) if rho > 4 else 0.0
        rates.append(lr_at(lr, t) * math.sqrt(rect))
    return oracle_schedule_free_adamw(params, grads, rates, beta2=beta2, **hyper)
