"""Oracles of declearn's plug-ins: each turns a list of gradients of one parameter into the directions it makes of them.

In float64 NumPy, one array at a time, in the order in which declearn 2.9.1 computes. An oracle, called as
``oracle(grads, params, **config)``, gets gradients and parameters of each step, float64, by name, and returns
directions by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

Vector = dict[str, np.ndarray]


def by_array(one: Callable[..., Iterator[np.ndarray]]) -> Callable[..., list[Vector]]:
    """Return the oracle of all arrays, of one for the gradients of one array."""

    def every(grads: list[Vector], params: list[Vector], **config: object) -> list[Vector]:
        found = {k: list(one([g[k] for g in grads], [p[k] for p in params], **config)) for k in grads[0]}
        return [{k: found[k][t] for k in found} for t in range(len(grads))]

    return every


@by_array
def oracle_momentum(grads, params, *, beta=0.9, nesterov=False):
    v = 0.0
    for g in grads:
        v = beta * v + g
        yield beta * v + g if nesterov else v


@by_array
def oracle_ewma(grads, params, *, beta=0.9):
    s = 0.0
    for g in grads:
        s = beta * s + (1 - beta) * g
        yield s


def yogi(s, x, beta):
    return s - np.sign(s - x) * (1 - beta) * x


@by_array
def oracle_yogi_momentum(grads, params, *, beta=0.9):
    s = np.zeros_like(grads[0])
    for g in grads:
        s = yogi(s, g, beta)
        yield s


@by_array
def oracle_adagrad(grads, params, *, eps=1e-7):
    s = 0.0
    for g in grads:
        s = s + g**2
        yield g / (np.sqrt(s) + eps)


@by_array
def oracle_rmsprop(grads, params, *, beta=0.9, eps=1e-7):
    v = 0.0
    for g in grads:
        v = beta * v + (1 - beta) * g**2
        yield g / (np.sqrt(v) + eps)


def adaptive(grads, second, beta_1, beta_2, amsgrad, eps):
    """Yield the directions of Adam, with a second moment of one's own."""
    m, v, largest = 0.0, np.zeros_like(grads[0]), 0.0
    for t, g in enumerate(grads, 1):
        m, v = beta_1 * m + (1 - beta_1) * g, second(v, g**2, beta_2)
        m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
        if amsgrad:
            v_hat = largest = np.maximum(largest, v_hat)
        yield m_hat / (np.sqrt(v_hat) + eps)


@by_array
def oracle_adam(grads, params, *, beta_1=0.9, beta_2=0.99, amsgrad=False, eps=1e-7):
    yield from adaptive(grads, lambda v, x, beta: beta * v + (1 - beta) * x, beta_1, beta_2, amsgrad, eps)


@by_array
def oracle_yogi(grads, params, *, beta_1=0.9, beta_2=0.99, amsgrad=False, eps=1e-7):
    yield from adaptive(grads, yogi, beta_1, beta_2, amsgrad, eps)


@by_array
def oracle_l2_clipping(grads, params, *, max_norm=1.0):
    for g in grads:
        length = math.sqrt(float(np.sum(g**2)))
        yield g * min(max_norm / length, 1.0) if length > 0 else g


def oracle_l2_global_clipping(grads, params, *, max_norm=1.0):
    found = []
    for g in grads:
        length = math.sqrt(sum(float(np.sum(x**2)) for x in g.values()))
        found.append({k: x * min(max_norm / length, 1.0) if length > 0 else x for k, x in g.items()})
    return found


@by_array
def oracle_fedprox(grads, params, *, alpha=0.01):
    for g, p in zip(grads, params, strict=True):
        yield g + alpha * (p - params[0])


@by_array
def oracle_lasso(grads, params, *, alpha=0.01):
    for g, p in zip(grads, params, strict=True):
        yield g + alpha * np.sign(p)


@by_array
def oracle_ridge(grads, params, *, alpha=0.01):
    for g, p in zip(grads, params, strict=True):
        yield g + 2 * alpha * p


def oracle_scaffold(gradients: list[list[list[np.ndarray]]], start: np.ndarray, lr: float) -> tuple[np.ndarray, list]:
    """Run Scaffold, option II, as in Karimireddy et al. 2020, Algorithm 1, with the server's rate 1.

    Deviation: the paper counts all clients, as c ← c + |S|/N · mean of (cᵢ⁺ − cᵢ), which is the mean of all cᵢ. Here it
    is the mean of those that have been in a round, which differs until all have.

    Args:
        gradients: functions from parameters to the gradient, by round, client and step; None for a client that is not
            in the round.
        start: the parameters.
        lr: the clients' rate.

    Returns:
        The parameters at the end, and c after each round.
    """
    count = len(gradients[0])
    x, c = start.astype(np.float64), np.zeros_like(start, np.float64)
    own = [np.zeros_like(c) for _ in range(count)]
    seen: set[int] = set()
    history = []
    for clients in gradients:
        ends = []
        for i, steps in enumerate(clients):
            if steps is None:
                continue
            seen.add(i)
            y = x.copy()
            for gradient in steps:
                y = y - lr * (gradient(y) - own[i] + c)
            new = own[i] - c + (x - y) / (len(steps) * lr)
            ends.append(y)
            own[i] = new
        x = x + np.mean([y - x for y in ends], axis=0)
        c = np.mean([own[i] for i in seen], axis=0)
        history.append(c.copy())
    return x, history
