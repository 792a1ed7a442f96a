"""The oracles of MARS: with AdamW, with Lion, and with what Muon does with matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .adam import oracle_adamw
from .common import LearningRate, Params, Trajectory, copies, elements, norm, zeros
from .contrib_muon import is_matrix, oracle_muon
from .sign import oracle_lion

Gradient = Callable[[int, Params, Params], Params]


def followed(
    oracle: Callable[..., Trajectory],
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    mean: float,
    gamma: float = 0.025,
    max_norm: float = 1.0,
    exact: bool = False,
    gradient: Gradient | None = None,
    leaves: Callable[[str], bool] = lambda name: False,
    **hyper: Any,
) -> Trajectory:
    """Return the way of another oracle on corrected gradients.

    Source: Yuan et al. 2024, MARS, Algorithm 1, with the approximation of section 3.1 unless ``exact``.
    arXiv:2411.10438. Symbols: x parameters, g_t = ∇f(x_t, ξ_t), c corrected gradient, β1 = mean.

        c_t = ∇f(x_t, ξ_t) + γ β1 / (1 - β1) (∇f(x_t, ξ_t) - ∇f(x_{t-1}, ξ_t))
        c̃_t = c_t / ‖c_t‖ where ‖c_t‖ > 1, c_t elsewhere

    The approximation has ∇f(x_{t-1}, ξ_{t-1}), the last gradient, 0 at first. ``gradient(t, x, at)`` is ∇f(at, ξ_t)
    where ∇f(x, ξ_t) is the given gradient; without it that of a loss with curvature 1, g + (at - x). Parameters that
    ``leaves`` says so of keep their gradients.

    Deviations: norms are those of single parameters, as in the code; max_norm stands for 1.
    """
    def near(t: int, x: Params, at: Params) -> Params:
        return {n: grads[t - 1][n] + (at[n] - x[n]) for n in x}

    x, before, last = copies(params), copies(params), zeros(params)
    corrected: list[dict[str, np.ndarray]] = []
    trajectory: Trajectory = []
    for t, grad in enumerate(grads, start=1):
        g = copies(grad)
        old = copies((gradient or near)(t, x, before)) if exact else last
        c = zeros(params)
        for name in x:
            if leaves(name):
                c[name] = g[name]
                continue
            for i in elements(g[name]):
                c[name][i] = g[name][i] + gamma * mean / (1 - mean) * (g[name][i] - old[name][i])
            length = norm(c[name])
            if length > max_norm:
                for i in elements(g[name]):
                    c[name][i] = max_norm * c[name][i] / length
        corrected.append(c)
        if exact:
            trajectory = oracle(params, corrected, lr, **hyper)
        before, last = x, g
        x = trajectory[-1] if exact else x
    return trajectory if exact else oracle(params, corrected, lr, **hyper)


def oracle_mars(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.95,
    beta2: float = 0.99,
    weight_decay: float = 0.01,
    **hyper: Any,
) -> Trajectory:
    """MARS-AdamW.

    Source: Yuan et al. 2024, MARS, Algorithm 2: x_{t+1} = x_t - η (Adam's direction for c̃_t + λ x_t).
    """
    return followed(oracle_adamw, params, grads, lr, mean=beta1, beta1=beta1, beta2=beta2, weight_decay=weight_decay,
                    **hyper)  # fmt: skip


def oracle_mars_lion(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.95,
    weight_decay: float = 0.01,
    **hyper: Any,
) -> Trajectory:
    """MARS-Lion.

    Source: Yuan et al. 2024, MARS, section 3, MARS-Lion: m_t = β1 m_{t-1} + (1 - β1) c̃_t,
    x_{t+1} = x_t - η (sign(m_t) + λ x_t): Lion whose two decays are one.
    """
    return followed(oracle_lion, params, grads, lr, mean=beta1, beta1=beta1, beta2=beta1, weight_decay=weight_decay,
                    **hyper)  # fmt: skip


def oracle_mars_shampoo(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.95,
    nesterov: bool = False,
    layout: str = "in_out",
    weight_decay: float = 0.01,
    **hyper: Any,
) -> Trajectory:
    """MARS-Shampoo for matrices, Adam for the rest.

    Source: Yuan et al. 2024, MARS, section 3, MARS-Shampoo: m_t = β1 m_{t-1} + (1 - β1) c̃_t,
    x_{t+1} = x_t - η (U Vᵀ + λ x_t) for m_t = U Σ Vᵀ; with Newton-Schulz steps for U Vᵀ, as in the authors' code. Liu,
    Yuan & Gu 2025, MARS-M, Algorithm 1, arXiv:2510.21800, for the scale "moonshot".
    """
    return followed(oracle_muon, params, grads, lr, mean=momentum, momentum=momentum, nesterov=nesterov, layout=layout,
                    weight_decay=weight_decay, leaves=lambda name: not is_matrix(np.shape(params[name]), layout),
                    **hyper)  # fmt: skip
