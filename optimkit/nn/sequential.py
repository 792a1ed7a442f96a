"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from optimkit.core.module import ModuleList
from optimkit.util import local_kwargs


class Sequential(ModuleList):
    """A list of layers (modules and plain functions), each called with what the one before returned.

    Keyword arguments go to all layers that take them, and only to those: ``model(x, training=True)`` reaches BatchNorm
    and Dropout, and no Linear. A layer that returns a tuple gives the next one several arguments.

    Args:
        layers: the layers. Without any, the output is the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimkit import functional, nn
        >>> model = nn.Sequential([nn.Linear(4, 8), nn.BatchNorm0D(8), functional.relu, nn.Linear(8, 2)])
        >>> model(jnp.ones((3, 4)), training=True).shape
        (3, 2)
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layers; an exception says in which of them it was raised."""
        for i, layer in enumerate(self):
            outputs = self._run(i, layer, args, kwargs)
            args = outputs if isinstance(outputs, tuple) else (outputs,)
        return outputs if self else args if len(args) != 1 else args[0]

    def _run(self, i: int, layer: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return layer(*args, **local_kwargs(kwargs, layer))
        except Exception as error:
            error.add_note(f"in layer [{i}] of {type(self).__name__}: {layer!r}")
            raise

    def _of(self, items: Iterable[Any]) -> Any:
        return Sequential(items)  # part of a subclass, whose constructor may take anything, is a plain Sequential
