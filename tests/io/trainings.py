"""Trainings with every kind of memory there is: what a checkpoint has to bring back, for any rule of the table.

Two trainings of one name and different seeds are built alike and hold other numbers in every variable, so what a
restore forgets shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optimkit
from optimkit import Jit, Module, RandomState, StateVar, TrainVar, optimizer, projections, rules, schedule
from optimkit.ema import ExponentialMovingAverage
from optimkit.optimizer import Group, Optimizer
from tests.rule_table import RULES

Bits = dict[str, list[Any]]


class Net(Module):
    """Parameters of two dtypes, a batch statistic, a counter and a random state, all of which a call uses."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.weight = TrainVar(rng.normal(size=(2, 3)).astype(np.float32))
        self.bias = TrainVar(jnp.asarray(rng.normal(size=2), jnp.bfloat16))
        self.scale = TrainVar(np.float32(rng.uniform(0.5, 1.5)))
        self.mean = StateVar(rng.normal(size=3).astype(np.float32))
        self.count = StateVar(np.int32(seed))
        self.random = RandomState(seed)

    def __call__(self, x: Any) -> jax.Array:
        self.mean.value = 0.75 * self.mean + 0.25 * x.mean(0)
        self.count.value += 1
        keep = jax.random.bernoulli(self.random.split(1)[0], 0.75, x.shape)
        return self.scale * ((x - self.mean) * keep @ self.weight.T) + self.bias.astype(jnp.float32)


LR = schedule.WarmupCosine(0.02, 3, 40)

# What an optimizer remembers beside the state of its rule.
SHELLS: dict[str, Callable[[Any], Optimizer]] = {
    "a number for a learning rate": lambda vc: optimizer.Adam(vc, lr=0.05),
    "dynamic hyperparameters": lambda vc: optimizer.Adam(vc, lr=LR, dynamic=("beta1", "eps")),
    "schedules of hyperparameters": lambda vc: optimizer.Adam(vc, beta1=schedule.Linear(0.5, 0.95, 20), lr=LR),
    "groups": lambda vc: optimizer.AdamW(
        vc, lr=LR, groups=[Group("slow", "bias", lr_scale=schedule.Linear(0.1, 1.0, 20)),
                           Group("own", "weight", rule=rules.Momentum(slot_dtype="bfloat16")),
                           Group("still", "scale", frozen=True)]),
    "constraints": lambda vc: optimizer.Momentum(vc, lr=LR, constraints=projections.NonNegative()),
    "many wrappers": lambda vc: Optimizer(vc, rules.SkipNonFinite(rules.Accumulated(rules.Lookahead(
        rules.Averaged(rules.Chain(rules.ClipByGlobalNorm(), rules.Adam()), 0.9), period=2), 3), 5), lr=LR),
}  # fmt: skip


class Training:
    """A model, its optimizer, the average of its weights, and a generator of random numbers.

    Args:
        name: of a rule in the table, or of one of ``SHELLS``.
        seed: makes all variables start elsewhere.
    """

    def __init__(self, name: str, seed: int):
        self.net = Net(seed)
        made = SHELLS.get(name)
        self.opt = made(self.net.vars()) if made else Optimizer(self.net.vars(), RULES[name].rule, lr=LR)
        self.ema = ExponentialMovingAverage(self.net.vars(), 0.9, debias=True, warmup=True, every=2)
        self.noise = optimkit.random.Generator(seed)
        self.vc = self.net.vars("net") + self.opt.vars("opt") + self.ema.vars("ema") + self.noise.vars("noise")
        self._scatter(seed)
        self.jit = Jit(self._step, self.vc)

    def _scatter(self, seed: int) -> None:
        """Take state away from where it starts, so that a restore which leaves some of it shows."""
        for v in self.vc:
            if seed and jnp.issubdtype(v.dtype, jnp.floating):
                v.assign((v.value + jnp.asarray(seed / 128, v.dtype)).astype(v.dtype))

    def _loss(self, x: Any, y: Any) -> jax.Array:
        return jnp.mean((self.net(x) - y) ** 2)

    def _step(self, x: Any, y: Any) -> jax.Array:
        key = {"key": self.noise()} if "key" in self.opt.rule.needs else {}
        loss = self.opt.minimize(self._loss, x + 0.01 * optimkit.random.normal(x.shape, generator=self.noise), y, **key)
        self.ema()
        return loss

    def run(self, start: int, stop: int) -> None:
        """Take the steps from ``start`` to ``stop``; each has a batch of its own."""
        for t in range(start, stop):
            rng = np.random.default_rng(t)
            x = rng.normal(size=(4, 3)).astype(np.float32)
            self.jit(x, (x[:, :2] - x[:, 1:]).astype(np.float32))

    def bits(self) -> Bits:
        """Return dtype, shape and bytes of each variable, by name, as JSON has them."""
        return {name: [str(v.dtype), list(v.shape), np.asarray(v.value).tobytes().hex()]
                for name, v in self.vc.items()}  # fmt: skip
