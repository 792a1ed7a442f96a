"""A model with its loss, which gives gradients for a batch: what ``run_train_step`` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from optimkit.core import GradValues, Module, TrainVar, VarCollection
from optimkit.core.random import Generator
from optimkit.hyper import check_hyperparameter
from optimkit.privacy import PrivateGradValues


class LossModel(Module):
    """A model and its loss as one: ``opt.run_train_step(LossModel(net, loss), (x, y))``.

    Args:
        model: a module, or its variables. Parameters keep their names.
        loss: a function that returns the mean loss of a batch, alone or first in a tuple, as for ``GradValues``.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit.federated import PluginOptimizer
        >>> w = TrainVar(jnp.zeros(1))
        >>> model = LossModel(VarCollection({"w": w}), lambda x, y: ((w.value * x - y) ** 2).mean())
        >>> PluginOptimizer(0.25).run_train_step(model, (jnp.ones(4), jnp.ones(4)))
        >>> w.value
        Array([0.5], dtype=float32)
    """

    def __init__(self, model: Module | VarCollection, loss: Callable[..., Any]):
        self.model, self.loss = model, loss
        self._own = VarCollection(model.vars() if isinstance(model, Module) else model)
        self._keygen = Generator(0)  # what PrivateGradValues draws from also where its noise is 0
        self._gradients: dict[float | None, GradValues] = {}

    def vars(self, scope: str = "") -> VarCollection:
        """Return the model's variables, by its names, and a random key that clipping needs."""
        own = self.model.vars(scope) if isinstance(self.model, Module) else VarCollection(self.model)
        return own + self._keygen.vars(f"{scope}({type(self).__name__}).keygen")

    def compute_batch_gradients(self, batch: Any, max_norm: float | None = None) -> dict[str, jax.Array]:
        """Return the gradients of the mean loss by name.

        Args:
            batch: the arguments of the loss, a tuple or list, or the only one.
            max_norm: what the gradient of each example is clipped to before the mean is taken, its norm being over all
                parameters together; None: no clip. An example whose gradient is not finite then counts as 0. The loss
                is called with one example at a time, on axis 0 of each argument.

        Deviation from declearn: it clips each array of an example's gradient by itself, so that the whole may be as
        long as max_norm times the root of the number of arrays.

        Raises:
            HyperparameterError: ``max_norm`` is no positive number.
        """
        check_hyperparameter("LossModel.compute_batch_gradients", "max_norm", max_norm, "(0, inf)", optional=True)
        args = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if max_norm not in self._gradients:
            self._gradients[max_norm] = GradValues(self.loss, self._own) if max_norm is None else PrivateGradValues(
                self.loss, self._own, 0.0, max_norm, 1, keygen=self._keygen)  # fmt: skip
        grads, _ = self._gradients[max_norm](*args)
        names = self._own.subset(TrainVar).unique().keys()
        return dict(zip(names, grads, strict=True))
