"""One Adam step over many small parameters, written four ways (and flax's documented faster way to call it).

Every variant starts from the same parameters and takes the same list of gradients, so that all that differs is the
way from the training loop to the compiled program and back. `loop` is the code that a training loop of that kind has,
with local variables where such a loop has local variables: attribute look-ups of the benchmark are not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import optimkit

try:
    import optax
except ImportError:
    optax = None
try:
    from flax import nnx
except ImportError:
    nnx = None

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
SHAPE = (8, 8)


def initial(n: int) -> list[jax.Array]:
    """Return the parameters before the first step."""
    return [jnp.full(SHAPE, 1 + i / n, jnp.float32) for i in range(n)]


def gradients(n: int) -> list[jax.Array]:
    """Return the gradients that every variant takes in every step."""
    return [jnp.full(SHAPE, (-1) ** i * (1 + i / n), jnp.float32) for i in range(n)]


def zeros(n: int) -> list[jax.Array]:
    return [jnp.zeros(SHAPE) for _ in range(n)]


class Variant:
    """A way to write the step."""

    label = ""
    missing: str | None = None  # the package to install, where it is not there

    def __init__(self, n: int):
        raise NotImplementedError

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        """Take steps, waiting for each one if `blocking`, and for the last one always.

        One array is waited for: all outputs of a compiled program become ready together.
        """
        raise NotImplementedError

    def params(self) -> list[jax.Array]:
        """Return the parameters."""
        raise NotImplementedError

    def lower(self, grads: list[jax.Array]) -> Any:
        """Trace and lower the step, without compiling."""
        raise NotImplementedError


class HandWritten(Variant):
    label = "hand-written jax.jit"

    def __init__(self, n: int):
        def step(params: list, mu: list, nu: list, t: Any, grads: list, lr: Any) -> tuple:
            t = t + 1
            power = t.astype(jnp.float32)
            mu_scale, nu_scale = 1 - BETA1**power, 1 - BETA2**power
            new_params, new_mu, new_nu = [], [], []
            for p, m, v, g in zip(params, mu, nu, grads, strict=True):
                m = BETA1 * m + (1 - BETA1) * g
                v = BETA2 * v + (1 - BETA2) * g * g
                new_params.append(p - lr * (m / mu_scale) / (jnp.sqrt(v / nu_scale) + EPS))
                new_mu.append(m)
                new_nu.append(v)
            return new_params, new_mu, new_nu, t

        self.step = jax.jit(step, donate_argnums=(0, 1, 2, 3))
        self.state = (initial(n), zeros(n), zeros(n), jnp.int32(0))

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        step = self.step
        params, mu, nu, t = self.state
        for _ in range(steps):
            params, mu, nu, t = step(params, mu, nu, t, grads, LR)
            if blocking:
                params[0].block_until_ready()
        params[0].block_until_ready()
        self.state = params, mu, nu, t

    def params(self) -> list[jax.Array]:
        return self.state[0]

    def lower(self, grads: list[jax.Array]) -> Any:
        return self.step.lower(*self.state, grads, LR)


class HandWrittenAgain(HandWritten):
    """The same program in another process: how far its ratio is from 1 is what the measurement cannot tell."""

    label = "the same, again"


class Optimkit(Variant):
    label = "optimkit.Jit, optimizer.Adam"

    def __init__(self, n: int):
        model = optimkit.VarCollection((f"w{i}", optimkit.TrainVar(p)) for i, p in enumerate(initial(n)))
        opt = optimkit.optimizer.Adam(model, BETA1, BETA2, EPS)

        def step(lr: Any, grads: list) -> None:
            opt(lr, grads)

        self.step = optimkit.Jit(step, model + opt.vars(), donate=True)
        self.model = model

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        step, w = self.step, self.model["w0"]
        for _ in range(steps):
            step(LR, grads)
            if blocking:
                w.value.block_until_ready()
        w.value.block_until_ready()

    def params(self) -> list[jax.Array]:
        return self.model.tensors()

    def lower(self, grads: list[jax.Array]) -> Any:
        return self.step.lower(LR, grads)


class Optax(Variant):
    """`scale_by_adam` with the learning rate as an argument.

    `optax.adam(lr)` makes the rate a constant, and `inject_hyperparams(optax.adam)` keeps it and the other
    hyperparameters as arrays in the state. This form passes the rate as the other variants do and has the least to
    pass, so it is the fastest fair one.
    """

    label = "optax.scale_by_adam, jax.jit"
    missing = "optax" if optax is None else None

    def __init__(self, n: int):
        tx = optax.scale_by_adam(BETA1, BETA2, EPS)

        def step(params: list, state: Any, grads: list, lr: Any) -> tuple:
            direction, state = tx.update(grads, state, params)
            return jax.tree.map(lambda p, d: p - lr * d, params, direction), state

        params = initial(n)
        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.state = (params, tx.init(params))

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        step = self.step
        params, state = self.state
        for _ in range(steps):
            params, state = step(params, state, grads, LR)
            if blocking:
                params[0].block_until_ready()
        params[0].block_until_ready()
        self.state = params, state

    def params(self) -> list[jax.Array]:
        return self.state[0]

    def lower(self, grads: list[jax.Array]) -> Any:
        return self.step.lower(*self.state, grads, LR)


class Nnx(Variant):
    """`nnx.Optimizer` around `optax.adam`, as flax documents it; its learning rate is a constant: less work."""

    label = "nnx.jit, nnx.Optimizer"
    missing = "flax" if nnx is None else "optax" if optax is None else None

    def __init__(self, n: int):
        class Net(nnx.Module):
            def __init__(self) -> None:
                for i, p in enumerate(initial(n)):
                    setattr(self, f"w{i}", nnx.Param(p))

        def step(model: Any, opt: Any, grads: list) -> None:
            opt.update(model, nnx.State({f"w{i}": nnx.Param(g) for i, g in enumerate(grads)}))

        self.n, self.model = n, Net()
        self.opt = nnx.Optimizer(self.model, optax.adam(LR, BETA1, BETA2, EPS), wrt=nnx.Param)
        self.step = nnx.jit(step, donate_argnums=(0, 1))

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        step, model, opt, w = self.step, self.model, self.opt, self.model.w0
        for _ in range(steps):
            step(model, opt, grads)
            if blocking:
                w.get_value().block_until_ready()
        w.get_value().block_until_ready()

    def params(self) -> list[jax.Array]:
        return [getattr(self.model, f"w{i}").get_value() for i in range(self.n)]


class NnxCached(Nnx):
    """The same with `nnx.cached_partial`, flax's documented way to save most of the cost of a call."""

    label = "nnx.jit, nnx.cached_partial"

    def __init__(self, n: int):
        super().__init__(n)
        self.partial = nnx.cached_partial(self.step, self.model, self.opt)

    def loop(self, grads: list[jax.Array], steps: int, blocking: bool) -> None:
        step, w = self.partial, self.model.w0
        for _ in range(steps):
            step(grads)
            if blocking:
                w.get_value().block_until_ready()
        w.get_value().block_until_ready()


VARIANTS: tuple[type[Variant], ...] = (HandWritten, HandWrittenAgain, Optimkit, Optax, Nnx, NnxCached)


def available() -> Iterator[type[Variant]]:
    """Yield the variants whose packages are installed; the hand-written one, to which all are compared, is first."""
    return (v for v in VARIANTS if v.missing is None)
