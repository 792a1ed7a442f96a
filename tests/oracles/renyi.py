"""Oracles of what Poisson-sampled Gaussian noise costs: by brute-force integration, and by the series of the paper."""

from __future__ import annotations

import math

import numpy as np


def rdp_by_integration(sigma: float, q: float, order: float, points: int = 200_001) -> float:
    """Return the Rényi divergence of (1 − q) N(0, σ²) + q N(1, σ²) from N(0, σ²), as its definition says.

    Source: Mironov, Talwar & Zhang 2019, sections 2 and 3. arXiv:1908.10530.

        D_α(P ‖ Q) = log ∫ P(z)ᵅ Q(z)¹⁻ᵅ dz / (α − 1)

    By the trapezoidal rule in float64, right to some 1e-14 / (α − 1), absolute.
    """
    z, spacing = np.linspace(-15 * sigma, order + 15 * sigma, points, retstep=True)
    log_q = -(z**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    log_p = np.logaddexp(math.log(1 - q) + log_q, math.log(q) + log_q + (2 * z - 1) / (2 * sigma**2))
    logs = order * log_p + (1 - order) * log_q
    largest = float(np.max(logs))
    return (largest + math.log(np.sum(np.exp(logs - largest)) * spacing)) / (order - 1)


def rdp_by_series(sigma: float, q: float, order: float, *, absolute: bool = False, terms: int = 400) -> float:
    """Return the same by the two series of section 3.3, for a fractional order.

        A = Σᵢ C(α, i) (1 − q)ᵅ⁻ⁱ qⁱ exp((i² − i) / (2σ²)) · erfc((i − z₀) / (√2 σ)) / 2
          + Σᵢ C(α, i) (1 − q)ⁱ qᵅ⁻ⁱ exp((j² − j) / (2σ²)) · erfc((z₀ − j) / (√2 σ)) / 2,   j = α − i
        z₀ = σ² log(1 / q − 1) + 1/2

    C(α, i) alternates in sign for i > α. ``absolute`` adds its absolute values in place of it.
    """
    z0 = sigma**2 * math.log(1 / q - 1) + 0.5
    total, coefficient = 0.0, 1.0
    for i in range(terms):
        j = order - i
        for k, log_weight, tail in (
            (i, i * math.log(q) + j * math.log1p(-q), (i - z0) / (math.sqrt(2) * sigma)),
            (j, j * math.log(q) + i * math.log1p(-q), (z0 - j) / (math.sqrt(2) * sigma)),
        ):
            erfc = math.erfc(tail)
            if erfc > 1e-300:
                log_term = log_weight + (k * k - k) / (2 * sigma**2) + math.log(erfc / 2)
                total += (abs(coefficient) if absolute else coefficient) * math.exp(log_term)
        coefficient *= (order - i) / (i + 1)
    return math.log(total) / (order - 1)
