"""Defects of hyperparameters: accepted out of range, ignored, branched on in Python, baked in, or lost on the way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit.hyper import hyper
from optimkit.rules import LeafRule, Rule, Step
from tests import oracles

from .exhibit import BareRule, exhibit, wide


@exhibit(
    origin="optax 0.2.8, adam(b1=1.5)",
    notes=("ecosystem.md", "b1=1.5 accepted"),
    story="Hyperparameters that make no sense are taken without a word, and the run diverges some hours later.",
    rejected_by="check_hyperparameters_are_validated",
    says=r"AcceptsAnything\(beta1=-5e-324\) is accepted",
)
class AcceptsAnything(BareRule):
    beta1: float = hyper(0.9, "[0, 1)", "decay of the mean of gradients")

    def __post_init__(self) -> None:
        if not (self.defect and isinstance(self.beta1, float)):
            super().__post_init__()

    def init_one(self, p: Any) -> Any:
        return {"mu": jnp.zeros_like(p)}

    def update_one(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        mu = self.beta1 * slot["mu"] + (1 - self.beta1) * g
        return -lr * mu, {"mu": mu}


@exhibit(
    origin="flax.optim 0.3.6, Momentum, LAMB and LARS: `if weight_decay != 0`, momentum.py:62, lamb.py:83, lars.py:78",
    notes=("flax_fedjax_declearn.md", "Python branch on a hyper-param"),
    story="Every hyperparameter could be given anew at each step, but a scheduled weight decay raised "
    "TracerBoolConversionError in three of the optimizers and worked in the others.",
    rejected_by="check_hyperparameters_may_be_arrays",
    says=r"TracerBoolConversionError: .*the argument rule\.weight_decay",
)
class DecayBranchesInPython(LeafRule):
    weight_decay: float = hyper(0.01, "[0, inf)", "added to the gradient, times the parameter")

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        if not self.defect or self.weight_decay != 0:
            g = g + self.weight_decay * p
        return -lr * g, slot


@exhibit(
    origin="objax 1.8.0, Dropout(...)(x, True, dropout_keep=0.0), layers.py:296",
    notes=("objax.md", "uses the default keep (`or`"),
    story="The default is put in place of what is false, and 0 is false: 0.0, given on purpose, was silently replaced.",
    rejected_by="check_oracle",
    says=r"ZeroIsNotGiven\(momentum=0\.0\).*differ at step 2",
    oracle=oracles.oracle_momentum,
    steps=10,
    scales=(1.0,),
)
class ZeroIsNotGiven(LeafRule):
    momentum: float = hyper(0.0, "[0, 1)", "decay of the sum of gradients")

    def init_leaf(self, p: Any) -> Any:
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        m = g + ((self.momentum or 0.9) if self.defect else self.momentum) * slot["m"]
        return -lr * m, {"m": m}


@exhibit(
    origin="declearn 2.4.0, gaussian-noise in safe mode, modules/_noise.py:112-171",
    notes=("flax_fedjax_declearn.md", "(seed ignored)"),
    story="A seed is accepted, stored and not used; experiments that set it are not repeatable, and nobody says so.",
    rejected_by="check_hyperparameters_matter",
    says=r"SeedIgnored\.seed: it makes no difference whether it is 7 or 8",
)
class SeedIgnored(Rule):
    std: float = hyper(1.0, "[0, inf)", "standard deviation of the noise")
    seed: int = hyper(7, "int [0, 2147483647]", "seed of the noise")

    def init(self, params: Any) -> Any:
        return {"t": jnp.zeros((), jnp.int32)}

    def update(self, step: Step, state: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0 if self.defect else self.seed), state["t"])
        noise = self.std * jax.random.normal(key)
        return jax.tree.map(lambda g: -step.lr * (g + noise), wide(step.grads)), {"t": state["t"] + 1}


@exhibit(
    origin="optax, the learning rate is a constant of the program; issue #577",
    notes=("optax.md", "lr baked into the HLO: 3 lrs → 3 compiles"),
    story="Each learning rate of a sweep compiles the step anew, and the cache of compiled programs is of no use.",
    rejected_by="check_one_compile",
    says="ConcretizationTypeError: .*the argument lr",
)
class LearningRateBakedIn(LeafRule):
    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -(float(lr) if self.defect else lr) * g, slot


@exhibit(
    origin="flax.optim 0.3.6, OptimizerDef, optim/base.py:41-48",
    notes=("flax_fedjax_declearn.md", "re-creating an identical `optim.Adam(0.1)` retraces a jitted step"),
    story="Two definitions with the same numbers are not equal, so a program that makes its optimizer anew, as "
    "functions do, compiles its step anew.",
    rejected_by="check_rule_is_a_value",
    says=r"the rule is another one after replace\(\)",
)
class EqualByIdentity(LeafRule):
    rate: float = hyper(0.5, "[0, inf)", "rate of decay")

    def __eq__(self, other: object) -> bool:
        return self is other if self.defect else super().__eq__(other)

    def __hash__(self) -> int:
        return id(self) if self.defect else super().__hash__()

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        return -lr * (g + self.rate * p), slot


@exhibit(
    origin="declearn 2.9.1, round_reset of momentum, adam and others",
    notes=("flax_fedjax_declearn.md", "`round_reset` missing from `get_config`"),
    story="One hyperparameter is not among those that a configuration is written with; who saves an optimizer and "
    "makes it again has another one.",
    rejected_by="check_copies_continue",
    says=r"the rule is another one after deepcopy\.\n.*LosesAHyperparameter\(beta=0\.9, nesterov=True\)",
)
class LosesAHyperparameter(LeafRule):
    beta: float = hyper(0.9, "[0, 1)", "decay of the sum of gradients")
    nesterov: bool = hyper(True, bool, "looks ahead")

    def __reduce__(self) -> Any:
        config = {"beta": self.beta} if self.defect else {"beta": self.beta, "nesterov": self.nesterov}
        return _from_config, (type(self), config)

    def init_leaf(self, p: Any) -> Any:
        return {"m": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        m = self.beta * slot["m"] + g
        return -lr * (self.beta * m + g if self.nesterov else m), {"m": m}


def _from_config(rule_type: type[Rule], config: dict[str, Any]) -> Rule:
    return rule_type(**{"nesterov": False, **config})


@exhibit(
    origin="flax.optim 0.3.6, Adafactor(step_offset=...), optim/adafactor.py:109-112",
    notes=("flax_fedjax_declearn.md", "**NaN for s < −1"),
    story="An offset beyond the first step takes a negative number to a broken power: NaN in every parameter.",
    rejected_by="check_finite_at_other_hyperparameters",
    says=r"with OffsetBeyondTheFirstStep\.step_offset = 1: displacements at step 1, .*is not finite",
)
class OffsetBeyondTheFirstStep(LeafRule):
    step_offset: int = hyper(0, "int [0, inf)", "step that the second moment's memory is counted from")

    def init_leaf(self, p: Any) -> Any:
        return {"nu": jnp.zeros_like(p)}

    def update_leaf(self, g: Any, slot: Any, p: Any, *, lr: Any, t: Any) -> Any:
        t = t - self.step_offset
        beta2 = 1 - (t if self.defect else jnp.maximum(t, 1.0)) ** -0.8
        nu = beta2 * slot["nu"] + (1 - beta2) * (g**2 + 1e-30)
        return -lr * (g * jax.lax.rsqrt(nu)), {"nu": nu}


@exhibit(
    origin="optax 0.2.8, noisy_sgd(key=None) and dpsgd(key=None)",
    notes=("optax.md", "`key=None` silently means key 0"),
    story="Every run that names no key draws the same noise, and so does every replica and every restart.",
    rejected_by="check_keys_matter",
    says="3 steps with other keys are the same",
)
class KeyIsZero(Rule):
    needs = ("key",)
    eta: float = hyper(0.01, "[0, inf)", "variance of the noise")

    def init(self, params: Any) -> Any:
        return {}

    def update(self, step: Step, state: Any) -> Any:
        noise = jnp.sqrt(self.eta) * jax.random.normal(jax.random.key(0) if self.defect else step.key)
        return jax.tree.map(lambda g: -step.lr * (g + noise), wide(step.grads)), state
