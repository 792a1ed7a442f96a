"""Complex parameters, as their real and imaginary parts."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.hyper import hyper
from optimkit.rules.base import Step, Tree, Wrapper


class SplitComplex(Wrapper):
    """Lets any rule optimize complex parameters: it sees the real and the imaginary part of each, as two parameters.

    ::

        z = x + i y   is   (x, y) to the inner rule, and its gradient (∂L/∂x, ∂L/∂y)

    A complex number is optimized as a point of the plane is. Real parameters pass as they are. The two parts of "w" are
    called "w.real" and "w.imag" inside. Elementwise rules treat them apart; for rules that divide by the norm of a
    parameter (LAMB, NovoGrad) each part has a norm of its own, and to those that clip by a global norm nothing changes.
    It is the outermost rule: ``SplitComplex(Chain(...))``. Memory: none.

    State: that of the inner rule, for the parts.

    Deviations: for a real loss ``jax.grad`` returns ∂L/∂x − i ∂L/∂y, the conjugate of the direction in which the loss
    rises; it is conjugated here. For gradients that already are, as optax's transformation expects them, take
    ``conjugate=False``.

    Reference: Kreutz-Delgado 2009, The Complex Gradient Operator and the CR-Calculus, section 4. arXiv:0906.4835.

    Example:
        >>> from optimkit import rules
        >>> from optimkit.rules import Step
        >>> params = {"z": jnp.array([3 + 4j])}
        >>> grads = jax.grad(lambda p: jnp.sum(jnp.abs(p["z"]) ** 2) / 2)(params)
        >>> rule = SplitComplex(rules.SGD())
        >>> delta, state = rule.update(Step(grads, params, 0.5), rule.init(params))
        >>> delta["z"]
        Array([-1.5-2.j], dtype=complex64)
    """

    reference = "Kreutz-Delgado 2009, section 4. arXiv:0906.4835"
    complex_params: ClassVar[bool] = True  # the shell may hand it complex parameters
    conjugate: bool = hyper(True, bool, "whether complex gradients are those of jax.grad, and are conjugated")

    def init(self, params: Tree) -> Tree:
        """Return the inner rule's state for the parts."""
        return self.inner.init(parts_of(params, params))

    def update(self, step: Step, state: Tree) -> tuple[Tree, Tree]:
        """Update the parts as the inner rule does, and put them together."""
        params = step.params
        grad_fn, both = step.grad_fn, step.value_and_grad_fn

        def gradients(grads: Tree) -> Tree:
            return parts_of(grads, params, self.conjugate)

        def value_and_grad_fn(parts: Tree) -> tuple[Any, Tree]:
            value, grads = both(whole_of(parts, params))  # type: ignore[misc]
            return value, gradients(grads)

        delta, state = self.inner.update(
            step.replace(
                grads=gradients(step.grads),
                params=parts_of(params, params),
                grad_fn=grad_fn and (lambda parts: gradients(grad_fn(whole_of(parts, params)))),
                value_and_grad_fn=both and value_and_grad_fn,
            ),
            state,
        )
        return whole_of(delta, params), state

    def eval_params(self, state: Tree, params: Tree) -> Tree:
        """Return what the inner rule evaluates at, put together."""
        evaluated = whole_of(self.inner.eval_params(state, parts_of(params, params)), params)
        return jax.tree.map(lambda x, p: numerics.cast(x, p.dtype), evaluated, params)


def parts_of(tree: Tree, params: Tree, conjugate: bool = False) -> Tree:
    """Return a tree with ``{"real": ..., "imag": ...}`` where parameters are complex; of the conjugates if asked."""

    def split(p: Any, x: Any) -> Any:
        if not jnp.iscomplexobj(p):
            return x
        return {"real": jnp.real(x), "imag": -jnp.imag(x) if conjugate else jnp.imag(x)}

    return jax.tree.map(split, params, tree)


def whole_of(parts: Tree, params: Tree) -> Tree:
    """Return a tree of complex arrays where parameters are complex; the inverse of :func:`parts_of`."""

    def join(p: Any, x: Any) -> Any:
        return jax.lax.complex(x["real"], x["imag"]) if jnp.iscomplexobj(p) else x

    return jax.tree.map(join, params, parts)
