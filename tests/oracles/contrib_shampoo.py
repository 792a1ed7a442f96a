"""Oracles of Shampoo and SOAP. Eigenvectors and QR decompositions are NumPy's; all else is written out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .adagrad import quotient
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

Matrices = list[np.ndarray | None]  # one for each axis; None for an axis that has none


def matrices_of(shape: tuple[int, ...], longest: int) -> Matrices:
    """Return a zero matrix for each axis up to a length."""
    return [np.zeros((n, n)) if n <= longest and 0 not in shape else None for n in shape]


def merged_shape(shape: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """Return a shape with axes merged from the first on (nikhilvyas/SOAP, merge_dims)."""
    new: list[int] = []
    current = 1
    for n in shape:
        if current * n > longest:
            if current > 1:
                new.append(current)
                current = n
            else:
                new.append(n)
                current = 1
        else:
            current = current * n
    if current != 1 or not new:
        new.append(current)
    return tuple(new)


def add_products(h: Matrices, g: np.ndarray, decay: float, weight: float) -> None:
    """H^i ← decay H^i + weight G_(i) G_(i)ᵀ, where G_(i) has axis i as rows (Gupta et al. 2018, Definition 6)."""
    for axis, matrix in enumerate(h):
        if matrix is None:
            continue
        products = np.zeros_like(matrix)
        for i in elements(g):
            for j in range(len(matrix)):
                products[i[axis], j] += g[i] * g[(*i[:axis], j, *i[axis + 1 :])]
        for i in elements(matrix):
            matrix[i] = decay * matrix[i] + weight * products[i]


def times(x: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Return the product ``x ×_i M``: y[..., a, ...] = Σ_b M[a, b] x[..., b, ...]."""
    y = np.zeros_like(x)
    for i in elements(x):
        for b in range(x.shape[axis]):
            y[i] += matrix[i[axis], b] * x[(*i[:axis], b, *i[axis + 1 :])]
    return y


def root_of(h: np.ndarray, order: int, eps: float) -> np.ndarray:
    """Return (H + ε λ_max I)^(-1/order); I for H = 0."""
    values, vectors = np.linalg.eigh(h)
    values = np.maximum(values, 0.0)
    if values.max() == 0:
        return np.eye(len(h))
    values = values + eps * values.max()
    root = np.zeros_like(h)
    for i, j in elements(h):
        root[i, j] = sum(vectors[i, k] * vectors[j, k] * (v ** (-1 / order) if v > 0 else 0.0)
                         for k, v in enumerate(values))  # fmt: skip
    return root


def oracle_shampoo(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta2: float = 0.999,
    graft: str = "rmsprop",
    frequency: int = 10,
    start: int = 1,
    max_dim: int = 8192,
    eps: float = 1e-6,
    graft_eps: float = 1e-10,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
) -> Trajectory:
    """Shampoo.

    Source: Gupta, Koren & Singer 2018, Algorithm 2, arXiv:1802.09568; for decay β2, grafting, the steps between roots
    and momentum Anil et al. 2020, arXiv:2002.09018, sections 3 and 4, and Agarwal et al. 2020, arXiv:2002.11803, for
    grafting. Symbols: W parameter of order k, G gradient, H^i the matrix of axis i.

        H^i_t = H^i_{t-1} + G_(i) G_(i)ᵀ                  (or the mean of these at β2 < 1)
        G̃ = G ×_1 (H^1)^(-1/2k) ... ×_k (H^k)^(-1/2k)
        W_{t+1} = W_t - η G̃

    Deviations: H^i starts at 0, and ε λ_max I is added when the root is taken. G̃ gets the norm of the grafted
    direction: G, G / (√Σ G² + ε'), or G / (√mean of G² + ε'); momentum m_t = μ m_{t-1} + G̃, W - η (G̃ + μ m) or W - η m;
    decay W - η λ W. Roots are taken every ``frequency`` steps, and at ``start``; before, steps are the grafted ones.
    """
    w, m, v = copies(params), zeros(params), zeros(params)
    h = {n: matrices_of(np.atleast_1d(p).shape, max_dim) for n, p in w.items()}
    roots = {n: [None if x is None else np.eye(len(x)) for x in hs] for n, hs in h.items()}
    weight = 1.0 if beta2 == 1 else 1 - beta2
    trajectory = []
    for t, grad in enumerate(grads, start=1):
        g, eta = copies(grad), lr_at(lr, t)
        for name in w:
            flat = np.atleast_1d(g[name])
            add_products(h[name], flat, beta2, weight)
            if t >= start and (t % frequency == 0 or t == start):
                roots[name] = [None if x is None else root_of(x, 2 * flat.ndim, eps) for x in h[name]]
            grafted = np.zeros_like(g[name])
            for i in elements(grafted):
                if graft == "adagrad":
                    v[name][i] += g[name][i] ** 2
                    grafted[i] = quotient(g[name][i], math.sqrt(v[name][i]) + graft_eps)
                elif graft == "rmsprop":
                    v[name][i] = beta2 * v[name][i] + weight * g[name][i] ** 2
                    mean = v[name][i] / (t if beta2 == 1 else 1 - beta2**t)
                    grafted[i] = quotient(g[name][i], math.sqrt(mean) + graft_eps)
                else:
                    grafted[i] = g[name][i]
            steep = flat
            for axis, root in enumerate(roots[name]):
                steep = steep if root is None else times(steep, root, axis)
            steep = steep.reshape(g[name].shape)
            if graft != "none":
                length = norm(steep)
                steep = grafted if length == 0 else norm(grafted) * (steep / length)
            if t < start:
                steep = grafted
            for i in elements(w[name]):
                m[name][i] = momentum * m[name][i] + steep[i]
                direction = steep[i] + momentum * m[name][i] if nesterov else m[name][i]
                w[name][i] = w[name][i] - eta * (direction + weight_decay * w[name][i])
        trajectory.append(copies(w))
    return trajectory


def oracle_soap(
    params: Params,
    grads: Sequence[Params],
    lr: LearningRate,
    *,
    beta1: float = 0.95,
    beta2: float = 0.95,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    shampoo_beta: float | None = None,
    frequency: int = 10,
    max_dim: int = 10000,
    precondition_1d: bool = False,
    merge_dims: bool = False,
    normalize_grads: bool = False,
    weight_decay: float = 0.01,
) -> Trajectory:
    """SOAP.

    Source: Vyas et al. 2024, SOAP, Algorithms 3 (the step) and 4 (the eigenvectors), arXiv:2409.11321.
    Symbols: W parameter, G gradient, L R (here H) matrices, Q their eigenvectors, M V moments, f = frequency.

        G' = Q_Lᵀ G Q_R
        M = β1 M + (1 - β1) G,  M' = Q_Lᵀ M Q_R
        V = β2 V + (1 - β2) G'²
        N' = M̂' / (√V̂ + ε),  N = Q_L N' Q_Rᵀ
        W = W - η N
        L = β2 L + (1 - β2) G Gᵀ,  R = β2 R + (1 - β2) Gᵀ G
        if t % f == 0:  Q_L = Eigenvectors(L, Q_L): S = L Q, Q = QR(S)

    Deviations, those of the authors' code: the first gradient sets L, R and their eigenvectors, and there is no step;
    t counts from the second one. Columns are sorted by diag(Qᵀ L Q), V with them. Decay subtracts η λ W. shampoo_beta
    stands for β2 in L and R. Vectors have no matrices without ``precondition_1d``. With ``merge_dims`` parameters of
    two axes and more are reshaped: an axis joins the one before it where that is then no longer than max_dim. With
    ``normalize_grads`` N is divided by its RMS, and multiplied by √(1 - β2^t) / (1 - β1^t). eps_root is not in the
    paper.
    """
    if merge_dims:
        shapes = {n: np.shape(p) for n, p in params.items()}
        merged = {n: merged_shape(s, max_dim) for n, s in shapes.items()}
        params, *grads = ({n: np.reshape(x, merged[n]) for n, x in tree.items()} for tree in (params, *grads))
        if not precondition_1d:  # of what is merged to one axis the original number of axes counts
            flat = {n for n, s in merged.items() if len(s) == 1 < len(shapes[n])}
            ways = [
                oracle_soap({n: p for n, p in params.items() if (n in flat) == one},
                            [{n: g[n] for n in g if (n in flat) == one} for g in grads], lr, beta1=beta1, beta2=beta2,
                            eps=eps, eps_root=eps_root, shampoo_beta=shampoo_beta, frequency=frequency, max_dim=max_dim,
                            precondition_1d=one, normalize_grads=normalize_grads, weight_decay=weight_decay)
                for one in (True, False)
            ]  # fmt: skip
        else:
            ways = [oracle_soap(params, grads, lr, beta1=beta1, beta2=beta2, eps=eps, eps_root=eps_root,
                                shampoo_beta=shampoo_beta, frequency=frequency, max_dim=max_dim, precondition_1d=True,
                                normalize_grads=normalize_grads, weight_decay=weight_decay)]  # fmt: skip
        return [{n: x.reshape(shapes[n]) for way in steps for n, x in way.items()} for steps in zip(*ways, strict=True)]
    w, m, v = copies(params), zeros(params), zeros(params)
    decay = beta2 if shampoo_beta is None else shampoo_beta
    h: dict[str, Matrices] = {}
    for n, p in w.items():
        h[n] = matrices_of(p.shape, max_dim if p.ndim > 1 or precondition_1d else -1)
    q = {n: [None if x is None else np.eye(len(x)) for x in hs] for n, hs in h.items()}
    trajectory = []
    for step, grad in enumerate(grads, start=1):
        g, eta, t = copies(grad), lr_at(lr, step), step - 1
        for name in w:
            if t > 0:
                rotated, mean = g[name], np.zeros_like(g[name])
                for i in elements(mean):
                    m[name][i] = beta1 * m[name][i] + (1 - beta1) * g[name][i]
                    mean[i] = m[name][i] / (1 - beta1**t)
                for axis, basis in enumerate(q[name]):
                    if basis is not None:
                        rotated, mean = times(rotated, basis.T, axis), times(mean, basis.T, axis)
                n = np.zeros_like(mean)
                for i in elements(n):
                    v[name][i] = beta2 * v[name][i] + (1 - beta2) * rotated[i] ** 2
                    n[i] = quotient(mean[i], math.sqrt(v[name][i] / (1 - beta2**t) + eps_root) + eps)
                for axis, basis in enumerate(q[name]):
                    n = n if basis is None else times(n, basis, axis)
                if normalize_grads:
                    rms = norm(n) / math.sqrt(max(n.size, 1))
                    n = np.zeros_like(n) if rms == 0 else n / rms * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                for i in elements(n):
                    w[name][i] = w[name][i] - eta * (n[i] + weight_decay * w[name][i])
            add_products(h[name], g[name], decay, 1 - decay)
            for axis, matrix in enumerate(h[name]):
                if matrix is None or not matrix.any():
                    continue
                if t == 0:
                    q[name][axis] = np.linalg.eigh(matrix)[1][:, ::-1]
                elif t % frequency == 0:
                    s = matrix @ q[name][axis]
                    places = np.argsort(-np.sum(q[name][axis] * s, axis=0), kind="stable")
                    v[name] = np.take(v[name], places, axis=axis)
                    q[name][axis] = np.linalg.qr(s[:, places])[0]
        trajectory.append(copies(w))
    return trajectory
