"""Oracles of the rules that divide by accumulated squares: AdaGrad, AdaDelta, RMSProp, SM3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros


def quotient(numerator: float, denominator: float) -> float:
    """Return the quotient, and 0 for a denominator of 0: the convention 0/0 = 0 of the SM3 paper."""
    return numerator / denominator if denominator > 0 else 0.0


def oracle_adagrad(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    initial_accumulator: float = 0.0,
    eps: float = 1e-10,
    eps_root: float = 0.0,
) -> Trajectory:
    """AdaGrad with a diagonal matrix.

    Source: Duchi, Hazan & Singer 2011, Figure 1 (ADAGRAD with diagonal matrices), composite mirror descent update with
    φ = 0 and no constraint. JMLR 12, pp. 2121-2159.
    Symbols: x parameters, g gradient, η step size, s norm of the gradients so far, δ = eps.

        s_{t,i} = ‖g_{1:t,i}‖₂
        x_{t+1,i} = x_{t,i} - η g_{t,i} / (δ + s_{t,i})

    Deviations: the sum of squares starts at initial_accumulator, 0 in the paper; eps_root, 0 in the paper, is added to
    it inside the root. 0/0 is 0.
    """
    x = copies(params)
    total = {name: np.full(p.shape, float(initial_accumulator)) for name, p in x.items()}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in x:
            for i in elements(x[name]):
                total[name][i] = total[name][i] + g[name][i] ** 2
                s = math.sqrt(total[name][i] + eps_root)
                x[name][i] = x[name][i] - eta * quotient(g[name][i], eps + s)
        trajectory.append(copies(x))
    return trajectory


def oracle_adadelta(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay: float = 0.95,
    eps: float = 1e-6,
) -> Trajectory:
    """AdaDelta.

    Source: Zeiler 2012, ADADELTA, Algorithm 1. arXiv:1212.5701.
    Symbols: x parameters, g gradient, ρ = decay, ε = eps, RMS[y] = √(E[y²] + ε).

        E[g²]_t = ρ E[g²]_{t-1} + (1 - ρ) g_t²
        Δx_t = - RMS[Δx]_{t-1} / RMS[g]_t g_t
        E[Δx²]_t = ρ E[Δx²]_{t-1} + (1 - ρ) Δx_t²
        x_{t+1} = x_t + Δx_t

    Deviation: the step is lr Δx_t, and the paper's is lr = 1. E[Δx²] gathers Δx without lr.
    """
    x, g2, dx2 = copies(params), zeros(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in x:
            for i in elements(x[name]):
                g2[name][i] = decay * g2[name][i] + (1 - decay) * g[name][i] ** 2
                dx = -math.sqrt(dx2[name][i] + eps) / math.sqrt(g2[name][i] + eps) * g[name][i]
                dx2[name][i] = decay * dx2[name][i] + (1 - decay) * dx**2
                x[name][i] = x[name][i] + eta * dx
        trajectory.append(copies(x))
    return trajectory


def oracle_rmsprop(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    initial_scale: float = 0.0,
    bias_correction: bool = False,
) -> Trajectory:
    """RMSProp: Hinton's, or Graves' with the centered second moment and momentum.

    Source: Hinton 2012, Neural Networks for Machine Learning, lecture 6e; Graves 2013, Generating Sequences With
    Recurrent Neural Networks, eqs. 38-41. arXiv:1308.0850.
    Symbols (Graves): w parameters, e gradient, n mean of its square, m mean of it, a = decay, b = momentum, c = lr,
    d = eps_root, v = -Δ / c the velocity without its learning rate.

        n_t = a n_{t-1} + (1 - a) e²
        m_t = a m_{t-1} + (1 - a) e
        v_t = b v_{t-1} + e / (√(n_t - m_t² + d) + eps)             centered; without m_t² otherwise
        w_t = w_{t-1} - c_t v_t                                     heavy ball
        w_t = w_{t-1} - c_t (e / (...) + b v_t)                     Nesterov, see ``oracle_momentum``

    Deviations: eps, outside the root, is PyTorch's; Graves has d, inside, and Hinton neither. n_0 = initial_scale is 0
    in both. Graves holds c inside the velocity: the same while c is constant. With bias_correction, n_t, or n_t - m_t²
    where centered, is divided by 1 - a^t. 0/0 is 0.
    """
    w, m, v = copies(params), zeros(params), zeros(params)
    n = {name: np.full(p.shape, float(initial_scale)) for name, p in w.items()}
    b = 0.0 if momentum is None else momentum
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        e, c = copies(grad), lr_at(lr, t)
        for name in w:
            for i in elements(w[name]):
                n[name][i] = decay * n[name][i] + (1 - decay) * e[name][i] ** 2
                m[name][i] = decay * m[name][i] + (1 - decay) * e[name][i]
                spread = n[name][i] - m[name][i] ** 2 if centered else n[name][i]
                if bias_correction:
                    spread = spread / (1 - decay**t)
                step = quotient(e[name][i], math.sqrt(max(spread, 0.0) + eps_root) + eps)
                v[name][i] = b * v[name][i] + step
                w[name][i] = w[name][i] - c * (step + b * v[name][i] if nesterov else v[name][i])
        trajectory.append(copies(w))
    return trajectory


def oracle_sm3(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float | None = None,
    eps_root: float = 0.0,
) -> Trajectory:
    """SM3-II, with the slices of a tensor along each axis as its cover.

    Source: Anil, Gupta, Koren & Singer 2019, Memory-Efficient Adaptive Optimization, Algorithm SM3-II and Section 4.
    arXiv:1901.11150. Momentum: the authors' code, google-research/sm3/sm3.py.
    Symbols: w parameters, g gradient, η learning rate, S_r sets of the cover, μ' their accumulators, ν' those of the
    entries, which are not kept; β = momentum, u the average of directions.

        ν'_t(i) = min over r with S_r ∋ i of μ'_{t-1}(r), + g_t²(i)
        μ'_t(r) = max over i in S_r of ν'_t(i)
        u_t(i) = β u_{t-1}(i) + (1 - β) g_t(i) / √ν'_t(i),   0/0 = 0
        w_{t+1}(i) = w_t(i) - η u_t(i)

    Deviation: eps_root, 0 in the paper, is added to ν' inside the root.
    """
    w, u = copies(params), zeros(params)
    beta = 0.0 if momentum is None else momentum
    mu: dict = {name: {} for name in w}  # a set of the cover is (axis, index along it); a scalar is its own set
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in w:
            new: dict = {}
            for i in elements(w[name]):
                sets = list(enumerate(i)) or ["scalar"]
                nu = min(mu[name].get(r, 0.0) for r in sets) + g[name][i] ** 2
                for r in sets:
                    new[r] = max(new.get(r, 0.0), nu)
                direction = quotient(g[name][i], math.sqrt(nu + eps_root))
                u[name][i] = beta * u[name][i] + (1 - beta) * direction
                w[name][i] = w[name][i] - eta * u[name][i]
            mu[name] = new
        trajectory.append(copies(w))
    return trajectory
