"""The modules and regularizers of declearn, by its names and with its defaults: declarations of rules."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, ClassVar

from optimkit import rules
from optimkit.errors import HyperparameterError, message
from optimkit.federated.noise import Noise
from optimkit.federated.plugins import OptiModule, Regularizer
from optimkit.federated.rules import AMSYogi, ClipByNorm, L1Penalty, Proximal, YogiMean
from optimkit.hyper import hyper
from optimkit.rules import Rule

UNIT, POSITIVE, SEED = "[0, 1)", "(0, inf)", "int [0, 4294967295]"


def _round_reset() -> bool:
    reset: bool = hyper(False, bool, "whether its state starts anew at each round")
    return reset


def _eps() -> float:
    eps: float = hyper(1e-7, "[0, inf)", "added to the root, outside it")
    return eps


# --- momenta ----------------------------------------------------------------------------------------------------------


class MomentumModule(OptiModule):
    """``v ← beta · v + g``, and with ``nesterov`` ``g + beta · v``: see ``rules.Momentum``."""

    name = "momentum"
    beta: float = hyper(0.9, UNIT, "decay of the sum of gradients")
    nesterov: bool = hyper(False, bool, "whether to look ahead")
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        return rules.Momentum(self.beta, self.nesterov)


class EWMAModule(OptiModule):
    """``s ← beta · s + (1 − beta) · g``, from 0 and not corrected for that: see ``rules.EmaOfGradients``."""

    name = "ewma"
    beta: float = hyper(0.9, UNIT, "decay of the mean")
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        return rules.EmaOfGradients(self.beta, debias=False)


class YogiMomentumModule(OptiModule):
    """``s ← s − (1 − beta) sign(s − g) g``: see :class:`YogiMean`."""

    name = "yogi-momentum"
    beta: float = hyper(0.9, UNIT, "one minus the rate at which it changes")
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        return YogiMean(self.beta)


# --- adaptive steps ---------------------------------------------------------------------------------------------------


class AdaGradModule(OptiModule):
    """``s ← s + g²,  g / (√s + eps)``: see ``rules.AdaGrad``."""

    name = "adagrad"
    eps: float = _eps()
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        return rules.AdaGrad(eps=self.eps)


class RMSPropModule(OptiModule):
    """``ν ← beta · ν + (1 − beta) g²,  g / (√ν + eps)``: see ``rules.RMSProp``."""

    name = "rmsprop"
    beta: float = hyper(0.9, UNIT, "decay of the mean of squares")
    eps: float = _eps()
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        return rules.RMSProp(self.beta, self.eps)


class AdamModule(OptiModule):
    """``rules.Adam``; with ``amsgrad`` ``rules.AMSGrad``, whose maximum is of corrected moments.

    ``beta_2`` is 0.99 by default, as in declearn and unlike the paper.
    """

    name = "adam"
    beta_1: float = hyper(0.9, UNIT, "decay of the mean of gradients")
    beta_2: float = hyper(0.99, UNIT, "decay of the mean of squared gradients")
    amsgrad: bool = hyper(False, bool, "whether the divisor never falls")
    eps: float = _eps()
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        if self.amsgrad:
            return rules.AMSGrad(self.beta_1, self.beta_2, self.eps, debias="before")
        return rules.Adam(self.beta_1, self.beta_2, self.eps)


class YogiModule(OptiModule):
    """``rules.Yogi`` from 0, with corrected moments; with ``amsgrad`` :class:`AMSYogi`."""

    name = "yogi"
    beta_1: float = hyper(0.9, UNIT, "decay of the mean of gradients")
    beta_2: float = hyper(0.99, UNIT, "one minus the rate at which the second moment changes")
    amsgrad: bool = hyper(False, bool, "whether the divisor never falls")
    eps: float = _eps()
    round_reset: bool = _round_reset()

    def rule(self) -> Rule:
        """Return it."""
        kind = AMSYogi if self.amsgrad else rules.Yogi
        return kind(beta1=self.beta_1, beta2=self.beta_2, eps=self.eps, initial_nu=0.0, debias=True)


# --- clips ------------------------------------------------------------------------------------------------------------


class L2Clipping(OptiModule):
    """``g · min(1, max_norm / ‖g‖)`` for each array: see :class:`ClipByNorm`."""

    name = "l2-clipping"
    max_norm: float = hyper(1.0, POSITIVE, "largest norm that passes unchanged")

    def rule(self) -> Rule:
        """Return it."""
        return ClipByNorm(self.max_norm)


class L2GlobalClipping(OptiModule):
    """``g · min(1, max_norm / ‖g‖)`` with the norm over all arrays: see ``rules.ClipByGlobalNorm``."""

    name = "l2-global-clipping"
    max_norm: float = hyper(1.0, POSITIVE, "largest norm that passes unchanged")

    def rule(self) -> Rule:
        """Return it."""
        return rules.ClipByGlobalNorm(self.max_norm)


# --- noise ------------------------------------------------------------------------------------------------------------


class _NoiseModule(OptiModule, register=False):
    """What both share: where the random bits come from."""

    _seed: ClassVar[int] = 0
    if TYPE_CHECKING:  # fields of the subclasses, where they come after the size of the noise
        safe_mode: bool
        seed: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.safe_mode and self.seed is not None:
            raise HyperparameterError(message(
                type(self).__name__, "'seed' has no meaning with safe_mode=True: such noise cannot be repeated.",
                "safe_mode=False, or seed=None", f"seed={self.seed}"))  # fmt: skip
        # Drawn here, not in rule(), so that the rule of one instance is always the same.
        drawn = secrets.randbits(32) if self.seed is None and not self.safe_mode else self.seed or 0
        object.__setattr__(self, "_seed", drawn)


class GaussianNoiseModule(_NoiseModule):
    """``g + N(0, std²)``, of the operating system's random bits unless ``safe_mode`` is False: see :class:`Noise`.

    Deviation from declearn: a seed with ``safe_mode`` is an error, and is not ignored.
    """

    name = "gaussian-noise"
    std: float = hyper(1.0, "[0, inf)", "standard deviation")
    safe_mode: bool = hyper(True, bool, "whether noise is made of the operating system's random bits")
    seed: int | None = hyper(None, SEED, "seed without safe_mode; None: one that is drawn at construction")

    def rule(self) -> Rule:
        """Return it."""
        return Noise("normal", self.std, self._seed, self.safe_mode)


class LaplacianNoiseModule(_NoiseModule):
    """``g + Laplace(scale)``, of variance 2 scale², as :class:`GaussianNoiseModule` else: see :class:`Noise`."""

    name = "laplacian-noise"
    scale: float = hyper(1.0, "[0, inf)", "mean magnitude")
    safe_mode: bool = hyper(True, bool, "whether noise is made of the operating system's random bits")
    seed: int | None = hyper(None, SEED, "seed without safe_mode; None: one that is drawn at construction")

    def rule(self) -> Rule:
        """Return it."""
        return Noise("laplace", self.scale, self._seed, self.safe_mode)


# --- regularizers -----------------------------------------------------------------------------------------------------


class FedProxRegularizer(Regularizer):
    """``g + alpha (p − p₀)``, p₀ the parameters at the first step of the round: see :class:`Proximal`."""

    name = "fedprox"
    alpha: float = hyper(0.01, "[0, inf)", "strength")

    def rule(self) -> Rule:
        """Return it."""
        return Proximal(self.alpha)


class LassoRegularizer(Regularizer):
    """``g + alpha · sign(p)``, the gradient of alpha ‖p‖₁: see :class:`L1Penalty`."""

    name = "lasso"
    alpha: float = hyper(0.01, "[0, inf)", "strength")

    def rule(self) -> Rule:
        """Return it."""
        return L1Penalty(self.alpha)


class RidgeRegularizer(Regularizer):
    """``g + 2 alpha · p``, the gradient of alpha ‖p‖²: see ``rules.WeightDecay``."""

    name = "ridge"
    alpha: float = hyper(0.01, "[0, inf)", "strength")

    def rule(self) -> Rule:
        """Return it."""
        return rules.WeightDecay(2 * self.alpha)
