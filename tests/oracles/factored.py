"""Oracles of the rules that keep sums of rows and columns for a matrix of second moments: Adafactor, CAME."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .adagrad import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros

Index = tuple[int, ...]


def matrix_axes(shape: tuple[int, ...], smallest: int) -> tuple[int, int] | None:
    """Return the axes that make the matrices of a tensor: (second largest, largest), of equal ones the last.

    None where the second largest is smaller than ``smallest``, or there is none.
    """
    if len(shape) < 2:
        return None
    *_, second, largest = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    return (second, largest) if shape[second] >= smallest else None


class SecondMoment:
    """The moving average of a nonnegative tensor, kept whole, or as the sums of rows and columns of its matrices.

    Source: Shazeer & Stern 2018, Adafactor, Algorithm 1 and lines 5 to 7 of Algorithm 4. arXiv:1804.04235.

        R_t = β R_{t-1} + (1 - β) X_t 1_m
        C_t = β C_{t-1} + (1 - β) 1_nᵀ X_t
        V̂_t = R_t C_t / (1_nᵀ R_t)
    """

    def __init__(self, shape: tuple[int, ...], axes: tuple[int, int] | None):
        self.axes = axes
        self.whole = np.zeros(shape)
        self.rows: dict[Index, float] = {}
        self.columns: dict[Index, float] = {}

    def without(self, i: Index, axis: int) -> Index:
        return i[:axis] + i[axis + 1 :]

    def average(self, x: np.ndarray, beta: float) -> None:
        if self.axes is None:
            for i in elements(x):
                self.whole[i] = beta * self.whole[i] + (1 - beta) * x[i]
            return
        second, largest = self.axes
        for sums, axis in ((self.rows, largest), (self.columns, second)):
            added: dict[Index, float] = {}
            for i in elements(x):
                key = self.without(i, axis)
                added[key] = added.get(key, 0.0) + x[i]
            for key, total in added.items():
                sums[key] = beta * sums.get(key, 0.0) + (1 - beta) * total

    def at(self, i: Index) -> float:
        if self.axes is None:
            return float(self.whole[i])
        second, largest = self.axes
        total = sum(self.rows[self.without(i[:second] + (k,) + i[second + 1 :], largest)]
                    for k in range(self.whole.shape[second]))  # fmt: skip
        return quotient(self.rows[self.without(i, largest)] * self.columns[self.without(i, second)], total)


def rms(x: np.ndarray) -> float:
    """Return the root of the mean square of the elements, 0 for none."""
    return norm(x) / math.sqrt(x.size) if x.size else 0.0


def clipped_update(g: np.ndarray, v: SecondMoment, threshold: float) -> np.ndarray:
    """Return Û_t = U_t / max(1, RMS(U_t) / d) with U_t = G_t / √V̂_t (Algorithm 4, lines 8 and 9); 0/0 is 0."""
    u = np.zeros_like(g)
    for i in elements(g):
        u[i] = quotient(g[i], math.sqrt(v.at(i)))
    divisor = max(1.0, rms(u) / threshold)
    for i in elements(g):
        u[i] = u[i] / divisor
    return u


def oracle_adafactor(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    clipping_threshold: float = 1.0,
    multiply_by_parameter_scale: bool = True,
    relative_step: bool = False,
    momentum: float | None = None,
    momentum_dtype: str | None = None,
    weight_decay: float = 0.0,
    independent_decay: bool = False,
    factored: bool = True,
    min_dim_size_to_factor: int = 128,
    eps1: float = 1e-30,
    eps2: float = 1e-3,
) -> Trajectory:
    """Adafactor.

    Source: Shazeer & Stern 2018, Algorithms 4 (matrices), 5 (vectors) and 6 (hyperparameters). arXiv:1804.04235.
    Symbols: X parameters, G gradient, ρ relative step size, α step size, ε1 ε2 = eps1 eps2, d = clipping_threshold.

        α_t = max(ε2, RMS(X_{t-1})) ρ_t,   ρ_t = min(10⁻², 1/√t)
        β̂2_t = 1 - t^-0.8
        V̂_t from the averages of G_t² + ε1, see ``SecondMoment``
        U_t = G_t / √V̂_t
        Û_t = U_t / max(1, RMS(U_t) / d)
        X_t = X_{t-1} - α_t Û_t

    Deviations: ρ_t is lr, times the paper's ρ_t with relative_step. Tensors of more than two axes are stacks of
    matrices over their two largest axes; small ones, and all without ``factored``, are treated as vectors. β̂2 counts
    t from step_offset, and is 0 until then. Momentum is not in the paper's algorithm; as in the authors' code
    (tensor2tensor), m_t = β m_{t-1} + (1 - β) α_t Û_t is subtracted, and kept rounded to momentum_dtype. Weight decay
    subtracts lr λ X_{t-1}, or λ X_{t-1} with independent_decay. 0/0 is 0.
    """
    x, m = copies(params), zeros(params)
    smallest = min_dim_size_to_factor if factored else math.inf
    moments = {name: SecondMoment(p.shape, matrix_axes(p.shape, smallest)) for name, p in x.items()}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, rho = copies(grad), lr_at(lr, t)
        decay = weight_decay if independent_decay else rho * weight_decay
        rho = rho * min(1e-2, 1 / math.sqrt(t)) if relative_step else rho
        beta2 = 1 - max(t - step_offset, 1) ** -decay_rate
        for name, v in moments.items():
            alpha = max(eps2, rms(x[name])) * rho if multiply_by_parameter_scale else rho
            v.average(g[name] ** 2 + eps1, beta2)
            u = clipped_update(g[name], v, clipping_threshold)
            for i in elements(x[name]):
                step = alpha * u[i]
                if momentum is not None:
                    step = m[name][i] = momentum * m[name][i] + (1 - momentum) * step
                x[name][i] = x[name][i] - step - decay * x[name][i]
            if momentum_dtype is not None:
                m[name] = np.asarray(m[name].astype(momentum_dtype).astype(np.float64))
        trajectory.append(copies(x))
    return trajectory


def oracle_came(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    beta3: float = 0.9999,
    clipping_threshold: float = 1.0,
    weight_decay: float = 0.0,
    min_dim_size_to_factor: int = 1,
    eps1: float = 1e-30,
    eps2: float = 1e-16,
) -> Trajectory:
    """CAME.

    Source: Luo et al. 2023, CAME: Confidence-guided Adaptive Memory Efficient Optimization, Algorithm 2,
    arXiv:2307.02047; for vectors the authors' code, yangluo7/CAME.
    Symbols: θ parameters, g gradient, η learning rate, d = clipping_threshold, ε1 ε2 = eps1 eps2.

        v_t from the averages (β2) of g_t² + ε1, see ``SecondMoment``
        û_t = u_t / max(1, RMS(u_t) / d),   u_t = g_t / √v_t
        m_t = β1 m_{t-1} + (1 - β1) û_t
        S_t from the averages (β3) of (û_t - m_t)² + ε2, see ``SecondMoment``
        θ_t = θ_{t-1} - η m_t / √S_t

    A vector has no S: θ_t = θ_{t-1} - η m_t.

    Deviations: weight decay subtracts η λ θ_{t-1}, as in the authors' code. Tensors of more than two axes are stacks of
    matrices over their two largest axes, where the code takes the last two. 0/0 is 0.
    """
    theta, m = copies(params), zeros(params)
    axes = {name: matrix_axes(p.shape, min_dim_size_to_factor) for name, p in theta.items()}
    v = {name: SecondMoment(p.shape, axes[name]) for name, p in theta.items()}
    s = {name: SecondMoment(p.shape, axes[name]) for name, p in theta.items()}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in theta:
            v[name].average(g[name] ** 2 + eps1, beta2)
            u = clipped_update(g[name], v[name], clipping_threshold)
            for i in elements(u):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * u[i]
            s[name].average((u - m[name]) ** 2 + eps2, beta3)
            for i in elements(u):
                step = m[name][i] if axes[name] is None else quotient(m[name][i], math.sqrt(s[name].at(i)))
                theta[name][i] = theta[name][i] - eta * step - eta * weight_decay * theta[name][i]
        trajectory.append(copies(theta))
    return trajectory
