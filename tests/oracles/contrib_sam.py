"""Oracles of sharpness-aware minimization, around momentum.

Gradients elsewhere are those of ``optimkit.testing``: of a loss that bends by 1 in each direction, so that the gradient
at q is g + (q - p); or those of a function ``gradient(q)`` where one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, norm, zeros

Adversary = Callable[[Params, Params], dict[str, np.ndarray]]


def normalized(w: Params, g: Params) -> dict[str, np.ndarray]:
    """Return g / ‖g‖, the direction of Foret et al. 2021, equation 2 with p = 2; zeros where ‖g‖ = 0."""
    size = norm(*g.values())
    return copies({name: np.zeros_like(x) if size == 0 else x / size for name, x in g.items()})


def adaptively_normalized(eta: float) -> Adversary:
    """Return T² g / ‖T g‖ with T = |w| + η, the direction of Kwon et al. 2021, equation 9 and section 4; or zeros."""

    def direction(w: Params, g: Params) -> dict[str, np.ndarray]:
        scaled = {name: np.zeros_like(x) for name, x in g.items()}
        for name, x in scaled.items():
            for i in elements(x):
                x[i] = (abs(w[name][i]) + eta) * g[name][i]
        size = norm(*scaled.values())
        if size > 0:
            for name, x in scaled.items():
                for i in elements(x):
                    x[i] = (abs(w[name][i]) + eta) * x[i] / size
        return scaled

    return direction


def elsewhere(g: Params, p: Params, q: Params) -> dict[str, np.ndarray]:
    """Return the gradient at q of a loss whose gradient at p is g, and which bends by 1."""
    return copies({name: g[name] + (q[name] - p[name]) for name in g})


def moved(q: Params, step: Params) -> dict[str, np.ndarray]:
    """Return q + step."""
    return copies({name: q[name] + step[name] for name in q})


class Heavy:
    """The inner rule: momentum."""

    def __init__(self, params: Params, momentum: float, nesterov: bool):
        self.m, self.momentum, self.nesterov = zeros(params), momentum, nesterov

    def step(self, w: dict[str, np.ndarray], g: Params, lr: float) -> None:
        """Advance w in place."""
        for name, x in w.items():
            for i in elements(x):
                self.m[name][i] = self.momentum * self.m[name][i] + g[name][i]
                ahead = g[name][i] + self.momentum * self.m[name][i]
                x[i] = x[i] - lr * (ahead if self.nesterov else self.m[name][i])


def oracle_sam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    rho: float = 0.05,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = True,
    decay: float = 0.0,
    debias: bool = False,
    momentum: float = 0.9,
    nesterov: bool = False,
    direction: Adversary = normalized,
    gradient: Callable[[Params], Params] | None = None,
) -> Trajectory:
    """SAM around momentum; the adversary averages its normalised gradients with ``decay`` (0: the paper's).

    Source: Foret et al. 2021, Algorithm 1. arXiv:2010.01412. Symbols: w weights, ρ neighbourhood, η step size.

        ε̂(w) = ρ ∇L(w) / ‖∇L(w)‖
        g = ∇L(w + ε̂(w))
        w = w - η g

    With ``sync_period`` = n there are n - 1 such ε̂, one after the other. Transparent, each gradient of the stream is
    one evaluation, and what is returned after it are the weights: w + ε̂ between.
    """
    w, outer = copies(params), Heavy(params, momentum, nesterov)
    mu, count, trajectory = zeros(params), 0, []

    def epsilon(q: Params, g: Params) -> dict[str, np.ndarray]:
        nonlocal count
        count += 1
        step = {}
        for name, d in direction(q, g).items():
            mu[name] = decay * mu[name] + (1 - decay) * d
            step[name] = rho * mu[name] / (1 - decay**count if debias else 1.0)
        return step

    def reset() -> None:
        nonlocal count
        if reset_state:
            count = 0
            mu.update(zeros(params))

    q, ascents = copies(w), 0
    for t, grad in enumerate(grads, start=1):
        g = copies(gradient(q) if gradient else grad)
        if opaque_mode:
            q = copies(w)
            for _ in range(sync_period - 1):
                q = moved(q, epsilon(q, g))
                g = copies(gradient(q) if gradient else elsewhere(grad, w, q))
            ascents = sync_period - 1
        if ascents == sync_period - 1:
            outer.step(w, g, lr_at(lr, t))
            q, ascents = copies(w), 0
            reset()
        else:
            q = moved(q, epsilon(q, g))
            ascents += 1
        trajectory.append(copies(q))
    return trajectory


def oracle_asam(
    params: Params, grads: Sequence[Params], lr: LearningRate, *, eta: float = 0.01, rho: float = 0.5, **hyper: float
) -> Trajectory:
    """ASAM around momentum.

    Source: Kwon et al. 2021, Algorithm 1. arXiv:2102.11600: ε = ρ T_w² ∇L(w) / ‖T_w ∇L(w)‖, T_w = diag(|w|) + η.
    """
    return oracle_sam(params, grads, lr, rho=rho, direction=adaptively_normalized(eta), **hyper)


def oracle_looksam(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    period: int = 5,
    rho: float = 0.05,
    alpha: float = 0.7,
    momentum: float = 0.9,
    nesterov: bool = False,
    direction: Adversary = normalized,
    gradient: Callable[[Params, Params], Params] | None = None,
) -> Trajectory:
    """LookSAM around momentum; ``gradient(g, q)`` is the gradient at q.

    Source: Liu et al. 2022, Algorithm 1. arXiv:2203.02714. Symbols: g gradient, g_s SAM's, g_v its part normal to g.

        t % k = 0:  g_s = ∇L(w + ρ g / ‖g‖)
                    g_v = g_s - ‖g_s‖ cos θ g / ‖g‖,  cos θ = g · g_s / (‖g‖ ‖g_s‖)
        otherwise:  g_s = g + α ‖g‖ / ‖g_v‖ g_v
        w = w - η g_s
    """
    w, outer, trajectory = copies(params), Heavy(params, momentum, nesterov), []
    g_v = zeros(params)
    for t, grad in enumerate(grads):
        g = copies(grad)
        size = norm(*g.values())
        if t % period == 0:
            q = moved(w, {name: rho * d for name, d in direction(w, g).items()})
            g_s = copies(gradient(g, q)) if gradient else elsewhere(g, w, q)
            length = norm(*g_s.values())
            dot = sum(float(g[name][i]) * float(g_s[name][i]) for name in g for i in elements(g[name]))
            cos = dot / (size * length) if size > 0 and length > 0 else 0.0
            for name in g:
                for i in elements(g[name]):
                    along = length * cos * g[name][i] / size if size > 0 else 0.0
                    g_v[name][i] = g_s[name][i] - along
            if norm(*g_v.values()) <= 1e-12 * length:  # parallel, but for the rounding of float64
                g_v = zeros(params)
        else:
            normal = norm(*g_v.values())
            factor = alpha * size / normal if normal > 0 else 0.0
            g_s = {name: g[name] + factor * g_v[name] for name in g}
        outer.step(w, g_s, lr_at(lr, t + 1))
        trajectory.append(copies(w))
    return trajectory
