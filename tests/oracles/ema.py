"""Oracle of the exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Sequence

from .common import Params, Trajectory, elements, zeros


def oracle_ema(
    weights: Sequence[Params],
    *,
    momentum: float = 0.999,
    debias: bool = False,
    eps: float = 1e-6,
    warmup: bool = False,
) -> Trajectory:
    """Return the averaged weights after each update; ``weights[t - 1]`` are the weights that update t sees.

    Source: the objax documentation of ExponentialMovingAverage (objax 1.8.0), after Polyak & Juditsky 1992; the bias
    correction is that of Kingma & Ba 2015, Section 3; the warmup is that of TensorFlow's ExponentialMovingAverage
    with ``num_updates`` = t.
    Symbols: w weights, m average, μ momentum, t = 1, 2, ... the number of updates, this one included.

        μ_t = μ,  or with warmup  min(μ, (1 + t) / (10 + t))
        m_t = μ_t m_{t-1} + (1 - μ_t) w_t,  m_0 = 0
        ŵ_t = m_t,  or with debias  m_t / (1 - (1 - eps) μ_1 μ_2 ... μ_t)

    Without warmup the product is μ^t, which is objax's formula. At eps = 0 the denominator is the weight that the
    average has gathered, Σ_s (1 - μ_s) Π_{r > s} μ_r, so that constant weights are returned unchanged.
    For an average that is updated every k steps pass ``weights[k - 1::k]``.
    """
    m = zeros(weights[0]) if weights else {}
    product = 1.0
    averages = []
    for t, w in enumerate(weights, start=1):
        mu = min(momentum, (1 + t) / (10 + t)) if warmup else momentum
        product = product * mu
        average = zeros(m)
        for name in m:
            for i in elements(m[name]):
                m[name][i] = mu * m[name][i] + (1 - mu) * float(w[name][i])
                average[name][i] = m[name][i] / (1 - (1 - eps) * product) if debias else m[name][i]
        averages.append(average)
    return averages
