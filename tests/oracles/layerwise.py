"""Oracles of the rules that scale the step of a whole layer: trust ratio, LARS, LAMB, Fromage. A layer is one array."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .adam import adam_direction
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros


def trust_ratio(weight_norm: float, direction_norm: float, coefficient: float = 1.0, eps: float = 0.0) -> float:
    """Return φ(‖w‖) / ‖u‖ with φ the identity, and 1 when either norm is 0.

    Source: You et al. 2020 (LAMB), Algorithm 2, last line. The value 1 is not in the paper: without it a layer that
    starts at zero could never move, and a direction of zero would give 0/0. Nor are ``coefficient``, which multiplies
    the ratio, and ``eps``, which is added to ‖u‖.
    """
    return coefficient * weight_norm / (direction_norm + eps) if weight_norm > 0 and direction_norm > 0 else 1.0


def oracle_trust_ratio(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    coefficient: float = 1.0,
    eps: float = 0.0,
) -> Trajectory:
    """Gradient descent whose step in each layer has the length of the layer's weights, times the learning rate.

    Source: You et al. 2020, Large Batch Optimization for Deep Learning, Section 3, φ the identity. arXiv:1904.00962.
    Symbols: x weights of layer i, g gradient, η learning rate.

        x_{t+1} = x_t - η_t (‖x_t‖ / ‖g_t‖) g_t

    Deviations: the ratio is coefficient ‖x‖ / (‖g‖ + eps), and 1 when either norm is 0.
    """
    x = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in x:
            ratio = trust_ratio(norm(x[name]), norm(g[name]), coefficient, eps)
            for i in elements(x[name]):
                x[name][i] = x[name][i] - eta * ratio * g[name][i]
        trajectory.append(copies(x))
    return trajectory


def oracle_lars(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    tc: float = 1e-3,
    eps: float = 1e-5,
) -> Trajectory:
    """Layer-wise adaptive rate scaling.

    Source: You, Gitman & Ginsburg 2017, Algorithm 1, with the trust coefficient η of eq. 6. arXiv:1708.03888.
    Symbols: w weights of a layer, g gradient, γ learning rate, m = momentum, β = weight_decay, η = tc, v velocity.

        λ_t = η ‖w_t‖ / (‖g_t‖ + β ‖w_t‖ + eps)
        v_{t+1} = m v_t + γ_t λ_t (g_t + β w_t)
        w_{t+1} = w_t - v_{t+1}

    The learning rate is inside the velocity, as in the paper.

    Deviations: eps is not in the paper (objax has it). λ = 1 for a layer at zero, which by the paper could never move,
    and where the denominator is 0. The paper's schedule γ_t = γ_0 (1 - t / T)² is the caller's, through ``lr``.
    """
    w, v = copies(params), zeros(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, gamma = copies(grad), lr_at(lr, t)
        for name in w:
            w_norm, g_norm = norm(w[name]), norm(g[name])
            denominator = g_norm + weight_decay * w_norm + eps
            local_lr = tc * w_norm / denominator if w_norm > 0 and denominator > 0 else 1.0
            for i in elements(w[name]):
                v[name][i] = momentum * v[name][i] + gamma * local_lr * (g[name][i] + weight_decay * w[name][i])
                w[name][i] = w[name][i] - v[name][i]
        trajectory.append(copies(w))
    return trajectory


def oracle_lamb(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
) -> Trajectory:
    """Layer-wise adaptive moments for batch training.

    Source: You et al. 2020, Algorithm 2, φ the identity. arXiv:1904.00962.
    Symbols: x weights of a layer, g gradient, η learning rate, λ = weight_decay, m v moments as in Adam.

        r_t = m̂_t / (√(v̂_t + eps_root) + ε)
        x_{t+1} = x_t - η_t (‖x_t‖ / ‖r_t + λ x_t‖) (r_t + λ x_t)

    Deviations: eps_root, 0 by default, is not in the paper. The ratio is 1 when either norm is 0.
    """
    x, m, v = copies(params), zeros(params), zeros(params)
    hyper = {"beta1": beta1, "beta2": beta2, "eps": eps, "eps_root": eps_root}
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in x:
            update = adam_direction(g[name], m[name], v[name], t, **hyper)
            for i in elements(x[name]):
                update[i] = update[i] + weight_decay * x[name][i]
            ratio = trust_ratio(norm(x[name]), norm(update))
            for i in elements(x[name]):
                x[name][i] = x[name][i] - eta * ratio * update[i]
        trajectory.append(copies(x))
    return trajectory


def oracle_fromage(params: Params, grads: Sequence[Params], lr: LearningRate) -> Trajectory:
    """Frobenius matched gradient descent.

    Source: Bernstein, Vahdat, Yue & Liu 2020, On the distance between two neural networks and the stability of
    learning, Algorithm 1, arXiv:2002.03432; at norms of 0 the authors' code, jxbz/fromage.
    Symbols: W weights of a layer, g gradient, η learning rate.

        W ← (W - η (‖W‖ / ‖g‖) g) / √(1 + η²)

    Where a norm is 0, the ratio is 1.
    """
    w = copies(params)
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in w:
            ratio = trust_ratio(norm(w[name]), norm(g[name]))
            for i in elements(w[name]):
                w[name][i] = (w[name][i] - eta * ratio * g[name][i]) / math.sqrt(1 + eta**2)
        trajectory.append(copies(w))
    return trajectory
