"""The oracle of MARS with AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .adam import oracle_adamw
from .common import LearningRate, Params, Trajectory, copies, elements, norm, zeros


def oracle_mars(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.95,
    beta2: float = 0.99,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    gamma: float = 0.025,
    max_norm: float = 1.0,
    exact: bool = False,
    weight_decay: float = 0.01,
    gradient: Callable[[int, Params, Params], Params] | None = None,
) -> Trajectory:
    """MARS-AdamW.

    Source: Yuan et al. 2024, MARS, Algorithm 2, with the approximation of section 3.1 unless ``exact``.
    arXiv:2411.10438. Symbols: x parameters, g_t = ∇f(x_t, ξ_t), c corrected gradient, m v moments.

        c_t = ∇f(x_t, ξ_t) + γ β1 / (1 - β1) (∇f(x_t, ξ_t) - ∇f(x_{t-1}, ξ_t))
        c̃_t = c_t / ‖c_t‖ where ‖c_t‖ > 1, c_t elsewhere
        x_{t+1} = x_t - η (Adam's direction for c̃_t + λ x_t)

    The approximation has ∇f(x_{t-1}, ξ_{t-1}), the last gradient, 0 at first. ``gradient(t, x, at)`` is ∇f(at, ξ_t)
    where ∇f(x, ξ_t) is the given gradient; without it that of a loss with curvature 1, g + (at - x).

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
            for i in elements(g[name]):
                c[name][i] = g[name][i] + gamma * beta1 / (1 - beta1) * (g[name][i] - old[name][i])
            length = norm(c[name])
            if length > max_norm:
                for i in elements(g[name]):
                    c[name][i] = max_norm * c[name][i] / length
        corrected.append(c)
        trajectory = oracle_adamw(params, corrected, lr, beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root,
                                  weight_decay=weight_decay) if exact else trajectory  # fmt: skip
        before, last = x, g
        x = trajectory[-1] if exact else x
    if exact:
        return trajectory
    return oracle_adamw(params, corrected, lr, beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root,
                        weight_decay=weight_decay)  # fmt: skip
