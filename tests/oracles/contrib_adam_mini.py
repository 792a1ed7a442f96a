"""The oracle of Adam-mini."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .adagrad import quotient
from .common import LearningRate, Params, Trajectory, copies, elements, lr_at, zeros

Index = tuple[int, ...]


def block_of(i: Index, shape: Index, kind: str, outputs: int, heads: int) -> Index | int:
    """Return the block that an element is in."""
    if kind == "each":
        return i
    if kind == "tokens":
        return i[0]
    if kind == "neurons":
        return i[outputs]
    if kind == "heads":
        return i[outputs] // (shape[outputs] // heads)
    return 0


def oracle_adam_mini(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    heads: int | None = None,
    kv_heads: int | None = None,
    layout: str = "in_out",
    kinds: Mapping[str, str] | None = None,
) -> Trajectory:
    """Adam-mini.

    Source: Zhang et al. 2024, Adam-mini, Algorithms 1 (the step) and 3 (the blocks), arXiv:2406.16793.
    Symbols: p parameters, g gradient, b block, m v moments, ε, λ = weight_decay, η learning rate.

        g_b = the elements of the gradient in block b
        m = (1 - β1) g_b + β1 m,                 m̂ = m / (1 - β1^t)
        v_b = (1 - β2) mean(g_b ⊙ g_b) + β2 v_b,  v̂ = v_b / (1 - β2^t)
        p = p - η λ p - η m̂ / (√v̂ + ε)

    ``kinds`` are those of the parameters: by default "neurons" for two axes and more, "whole" for less. Deviations:
    eps_root is not in the paper; heads stand for kv_heads where ``kinds`` says "kv_heads".
    """
    w, m = copies(params), zeros(params)
    v: dict[str, dict[Index | int, float]] = {n: {} for n in w}
    outputs = -1 if layout == "in_out" else 0
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name, x in w.items():
            kind = (kinds or {}).get(name, "neurons" if x.ndim > 1 else "each" if name == "bias" else "whole")
            parts = (kv_heads or heads) if kind == "kv_heads" else heads
            if kind in ("heads", "kv_heads"):
                kind = "heads" if parts else "neurons"
            squares: dict[Index | int, list[float]] = {}
            for i in elements(x):
                squares.setdefault(block_of(i, x.shape, kind, outputs, parts or 1), []).append(g[name][i] ** 2)
            for b, values in squares.items():
                v[name][b] = beta2 * v[name].get(b, 0.0) + (1 - beta2) * sum(values) / len(values)
            for i in elements(x):
                m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                v_hat = v[name][block_of(i, x.shape, kind, outputs, parts or 1)] / (1 - beta2**t)
                step = quotient(m[name][i] / (1 - beta1**t), math.sqrt(v_hat + eps_root) + eps)
                x[i] = x[i] - eta * (step + weight_decay * x[i])
        trajectory.append(copies(w))
    return trajectory


