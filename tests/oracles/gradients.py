"""Oracles of gradient descent on filtered gradients. Noise is in ``optimistic``, as NoisySGD."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, zeros
from .sgd import oracle_sgd


def oracle_centralize(params: Params, grads: Sequence[Params], lr: LearningRate) -> Trajectory:
    """Gradient descent with gradient centralization.

    Source: Yong, Huang, Hua & Zhang 2020, eq. 1, arXiv:2004.01461: for the weight vector w_i of output i, of length M,

        Φ_GC(∇w_i) = ∇w_i - μ,   μ = (1 / M) Σ_j ∇w_ij

    applied to matrices and to kernels of convolutions, not to vectors.

    Deviation: the outputs are on the last axis, not on the first.
    """
    centred = [copies(grad) for grad in grads]
    for g in centred:
        for name in g:
            if g[name].ndim < 2:
                continue
            sums: dict[int, float] = {}
            counts: dict[int, int] = {}
            for i in elements(g[name]):
                sums[i[-1]] = sums.get(i[-1], 0.0) + float(g[name][i])
                counts[i[-1]] = counts.get(i[-1], 0) + 1
            for i in elements(g[name]):
                g[name][i] = g[name][i] - sums[i[-1]] / counts[i[-1]]
    return oracle_sgd(params, centred, lr)


def oracle_zero_nans(params: Params, grads: Sequence[Params], lr: LearningRate) -> Trajectory:
    """Gradient descent with 0 for each element of the gradient that is not a number.

    Source: optax 0.2.8, ``zero_nans``, in its documentation.
    """
    clean = [copies(grad) for grad in grads]
    for g in clean:
        for name in g:
            for i in elements(g[name]):
                g[name][i] = 0.0 if math.isnan(g[name][i]) else g[name][i]
    return oracle_sgd(params, clean, lr)


def oracle_ema_of_gradients(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay: float = 0.9,
    debias: bool = True,
) -> Trajectory:
    """Gradient descent along the mean of gradients.

    Source: Kingma & Ba 2015, Algorithm 1, the lines of m_t and m̂_t. arXiv:1412.6980.
    Symbols: g gradient, m mean, β = decay.

        m_t = β m_{t-1} + (1 - β) g_t,  m_0 = 0
        m̂_t = m_t / (1 - β^t)        m_t without debias
    """
    m, means = zeros(params), []
    for t, grad in enumerate(grads, start=1):
        mean = zeros(params)
        for name in m:
            for i in elements(m[name]):
                m[name][i] = decay * m[name][i] + (1 - decay) * float(np.asarray(grad[name])[i])
                mean[name][i] = m[name][i] / (1 - decay**t) if debias else m[name][i]
        means.append(mean)
    return oracle_sgd(params, means, lr)


def oracle_grokfast(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    decay: float = 0.98,
    lamb: float = 2.0,
) -> Trajectory:
    """Gradient descent with the slow part of the gradient amplified.

    Source: Lee, Kang, Kim & Lee 2024, Algorithm 2 (Grokfast-EMA), arXiv:2405.20233.
    Symbols: g gradient, μ its mean, α = decay, λ = lamb.

        μ ← α μ + (1 - α) g_t
        ĝ_t ← g_t + λ μ

    Deviation: the paper starts with μ = θ_0, parameters for gradients; here, as in the authors' code, with μ = g_1.
    """
    mu, filtered = copies(grads[0]), []
    for grad in grads:
        g = copies(grad)
        for name in g:
            for i in elements(g[name]):
                mu[name][i] = decay * mu[name][i] + (1 - decay) * g[name][i]
                g[name][i] = g[name][i] + lamb * mu[name][i]
        filtered.append(g)
    return oracle_sgd(params, filtered, lr)
