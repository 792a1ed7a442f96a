"""The oracle of Muon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .adagrad import quotient
from .adam import oracle_adam
from .common import (
    LearningRate,
    Params,
    Trajectory,
    copies,
    elements,
    lr_at,
    norm,
    zeros,
)

Matrix = list[list[float]]


def product(x: Matrix, y: Matrix) -> Matrix:
    """Return the matrix product, element by element."""
    return [[sum(x[i][k] * y[k][j] for k in range(len(y))) for j in range(len(y[0]))] for i in range(len(x))]


def transposed(x: Matrix) -> Matrix:
    """Return the transpose."""
    return [[row[j] for row in x] for j in range(len(x[0]))]


def coefficients_of(name: str, steps: int) -> list[tuple[float, float, float]]:
    """Return a, b and c of each step.

    Source: Jordan et al. 2024 for "jordan" and "quintic"; Amsel et al. 2025, Algorithm 1, arXiv:2505.16932, for
    "polar_express", whose first matrix is divided by 1.01 ‖G‖_F; the report on DeepSeek-V4 for "deepseek", "jordan" and
    two last steps of "quintic"; optax.contrib.muon for "dion".
    """
    polar = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    ]
    dion = [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046)]
    jordan, quintic = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
    each: dict[str, list[tuple[float, float, float]]] = {
        "jordan": [jordan] * steps,
        "quintic": [quintic] * steps,
        "cubic": [(1.5, -0.5, 0.0)] * steps,
        "polar_express": [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in polar] + [(1.875, -1.25, 0.375)] * steps,
        "dion": dion + [(2.8366, -3.0525, 1.2012)] * steps,
        "deepseek": [jordan] * (steps - 2) + [quintic] * min(steps, 2),
    }
    return each[name][:steps]


def newton_schulz(g: Matrix, name: str, steps: int, eps: float) -> Matrix:
    """Newton-Schulz: X_0 = G / (‖G‖_F + ε),  X_k = a X + b X Xᵀ X + c (X Xᵀ)² X."""
    length = (norm(np.array(g)) + eps) * (1.01 if name == "polar_express" else 1.0)
    x = [[quotient(e, length) for e in row] for row in g]
    for a, b, c in coefficients_of(name, steps):
        cubic = product(product(x, transposed(x)), x)
        quintic = product(product(x, transposed(x)), cubic)
        x = [
            [a * x[i][j] + b * cubic[i][j] + c * quintic[i][j] for j in range(len(x[0]))] for i in range(len(x))
        ]
    return x


def is_matrix(shape: tuple[int, ...], layout: str) -> bool:
    """Tell whether a kernel, flattened but for its outputs, has two rows and two columns or more."""
    if len(shape) < 2 or 0 in shape:
        return False
    outputs = shape[-1] if layout == "in_out" else shape[0]
    return outputs > 1 and math.prod(shape) // outputs > 1


def oracle_muon(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    coefficients: str = "jordan",
    ns_eps: float = 1e-7,
    ns_dtype: str = "float32",
    scale: str = "jordan",
    layout: str = "in_out",
    weight_decay: float = 0.0,
    other_lr_scale: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-10,
    eps_root: float = 0.0,
    stacked: frozenset[str] = frozenset(),
) -> Trajectory:
    """Muon for matrices, Adam for the rest.

    Source: Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon, and KellerJordan/Muon for the mean and
    for convolutions; Liu et al. 2025, Muon is Scalable for LLM Training, equation (4), arXiv:2502.16982, for the decay
    and the scale "moonshot".
    Symbols: W parameter, G gradient, B momentum, μ = momentum, η learning rate, λ decay, A x B the shape.

        B_t = μ B_{t-1} + (1 - μ) G_t
        O_t = NewtonSchulz(μ B_t + (1 - μ) G_t)
        W_t = W_{t-1} - η (s O_t + λ W_{t-1}),   s = √max(1, outputs / inputs)   or   0.2 √max(A, B)

    Deviations: a kernel is flattened to inputs x outputs; names in ``stacked`` are stacks of those. Newton and Schulz
    work in float64, whatever ns_dtype is.
    """
    inside = {n for n, p in params.items() if is_matrix(np.shape(p)[1:] if n in stacked else np.shape(p), layout)}
    if other_lr_scale is None:
        other_lr_scale = 0.015 if scale == "jordan" else 1.0
    rates = [other_lr_scale * lr_at(lr, t) for t in range(1, len(grads) + 1)]
    outside = set(params) - inside
    adam = oracle_adam({n: params[n] for n in outside}, [{n: g[n] for n in outside} for g in grads], rates,
                       beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root)  # fmt: skip
    w, m = copies({n: params[n] for n in inside}), zeros({n: params[n] for n in inside})
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        eta = lr_at(lr, t)
        for name in inside:
            g, moved = np.array(grad[name], np.float64), np.zeros_like(w[name])
            for i in elements(g):
                m[name][i] = momentum * m[name][i] + (1 - momentum) * g[i]
                moved[i] = momentum * m[name][i] + (1 - momentum) * g[i] if nesterov else m[name][i]
            layers = list(range(len(moved))) if name in stacked else [...]
            for layer in layers:
                kernel = moved[layer]
                first, last = kernel.shape[0], kernel.shape[-1]
                flat = kernel.reshape(-1, last) if layout == "in_out" else kernel.reshape(first, -1)
                inputs, outputs = flat.shape if layout == "in_out" else flat.shape[::-1]
                o = np.array(newton_schulz(flat.tolist(), coefficients, ns_steps, ns_eps)).reshape(kernel.shape)
                s = {"jordan": math.sqrt(max(1.0, outputs / inputs)), "none": 1.0,
                     "moonshot": 0.2 * math.sqrt(max(inputs, outputs))}[scale]  # fmt: skip
                w[name][layer] = w[name][layer] - eta * (s * o + weight_decay * w[name][layer])
        trajectory.append({n: (w[n] if n in inside else adam[t - 1][n]).copy() for n in params})
    return trajectory
