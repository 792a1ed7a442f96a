"""Shampoo, and SOAP: rules that precondition each axis of a parameter by a matrix of its gradients' products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from optimkit import numerics
from optimkit.contrib.rules.matrices import HIGHEST, placed_as, product, whole, zeros_along
from optimkit.hyper import hyper
from optimkit.rules.adam import Adam
from optimkit.rules.adam_variants import debiased, ema
from optimkit.rules.base import LeafRule, Rule, Slot
from optimkit.rules.compose import Chain, Composed
from optimkit.rules.gated import choose
from optimkit.rules.sgd import Momentum
from optimkit.rules.stages import WeightDecay


class Preconditioned(LeafRule):
    """The direction of :class:`Shampoo`, without momentum and decay.

    State: ``h0``, ``h1``, ... and ``root0``, ``root1``, ..., a matrix for each axis of up to ``max_dim``, from 0 and
    from the identity, and ``nu``, shaped as the parameter, from 0, where grafting needs it; float32; ``t``, int32.
    """

    beta2: float = hyper(0.999, "[0, 1]", "decay of the matrices; at 1 they are sums, as in the paper")
    graft: str = hyper("rmsprop", ("rmsprop", "adagrad", "sgd", "none"), "whose step's length each parameter's has")
    frequency: int = hyper(10, "int [1, 2147483647]", "steps from one computation of the roots to the next")
    start: int = hyper(1, "int [1, 2147483647]", "step of the first one; before it steps are those of graft")
    max_dim: int = hyper(8192, "int [1, inf)", "longest axis that gets a matrix")
    eps: float = hyper(1e-6, "[0, inf)", "added to eigenvalues, relative to the largest")
    graft_eps: float = hyper(1e-10, "[0, inf)", "added to the root of graft's second moment")

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the matrices, their roots, and graft's second moment."""
        flat = jnp.atleast_1d(p)
        eyes = {i: identity_along(flat, i) for i in matrix_axes(flat.shape, self.max_dim)}
        slot = {f"h{i}": jnp.zeros_like(x) for i, x in eyes.items()} | {f"root{i}": x for i, x in eyes.items()}
        return slot | ({"nu": jnp.zeros_like(p)} if self.graft in ("rmsprop", "adagrad") else {})

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return ``-lr`` times the preconditioned gradient, and the matrices."""
        full = jnp.atleast_1d(whole(g))
        axes, order = matrix_axes(full.shape, self.max_dim), 2 * full.ndim
        new = {f"h{i}": self._added(slot[f"h{i}"], outer(full, i)) for i in axes}
        due = (t >= self.start) & ((jnp.mod(t, self.frequency) == 0) | (t == self.start))
        new |= choose(
            due,
            lambda: {f"root{i}": inverse_root(new[f"h{i}"], order, self.eps) for i in axes},
            lambda: {f"root{i}": slot[f"root{i}"] for i in axes},
        )
        steep = full
        for i in axes:
            steep = along(steep, new[f"root{i}"], i)
        graft, steep = whole(self._graft(g, slot, new, t)), steep.reshape(g.shape)
        if self.graft != "none":
            length = numerics.norm(steep)
            steep = jnp.where(length == 0, graft, numerics.norm(graft) * numerics.safe_divide(steep, length))
        return -lr * placed_as(jnp.where(t < self.start, graft, steep), p), new

    def _added(self, total: jax.Array, x: jax.Array) -> jax.Array:
        return self.beta2 * total + jnp.where(self.beta2 == 1, 1.0, 1 - self.beta2).astype(x.dtype) * x

    def _graft(self, g: jax.Array, slot: Slot, new: Slot, t: Any) -> jax.Array:
        """Return the direction of the rule that is grafted; put its second moment among the new slots."""
        if self.graft not in ("rmsprop", "adagrad"):
            return g
        if self.graft == "adagrad":
            nu = new["nu"] = slot["nu"] + g**2
        else:
            new["nu"] = self._added(slot["nu"], g**2)
            nu = new["nu"] / jnp.where(self.beta2 == 1, t, numerics.one_minus_pow(self.beta2, t))
        return numerics.safe_divide(g, jnp.sqrt(nu) + self.graft_eps)


class Shampoo(Composed, Preconditioned):
    """Preconditions each axis by the root of a matrix of its gradients' products: AdaGrad between all of rows, columns.

    ::

        Hᵢ ← β₂ Hᵢ + (1 − β₂) · G₍ᵢ₎ G₍ᵢ₎ᵀ       for each axis i;  Hᵢ ← Hᵢ + G₍ᵢ₎ G₍ᵢ₎ᵀ for β₂ = 1
        D = G, multiplied along each axis i by (Hᵢ + eps · λ_max I)^(−1/2k),  k = number of axes
        D ← ‖graft‖ · D / ‖D‖
        graft = g / (√ν̂ + graft_eps)             "rmsprop": ν̂ the mean of g²;  "adagrad": the sum
        p ← p − lr · (Momentum of D + weight_decay · p)

    G₍ᵢ₎ has axis i as rows and all others as columns. It is ``Chain(direction, Momentum(momentum, nesterov),
    WeightDecay(weight_decay))``. For large batches and matrices of some thousand rows: fewer steps than Adam's, each
    with eigenvalue problems every ``frequency`` steps. Grafting gives each parameter's step the length of another
    rule's, whose learning rates then hold; "none" is the paper's. Before step ``start`` the steps are those of the
    grafted rule. An axis longer than ``max_dim`` is left alone. Memory: two squares for each axis, one float32 per
    element for momentum, and one for "rmsprop" and "adagrad".

    State: that of its parts: ``h0``, ``h1``, ... and ``root0``, ``root1``, ..., a matrix for each axis, from 0 and from
    the identity; ``nu`` for "rmsprop" and "adagrad" and ``m``, shaped as the parameter, from 0; float32; ``t``, int32.

    Deviations: the paper has sums (``beta2=1``), no grafting, and ε I in Hᵢ from the start, where it does not fade and
    its size is absolute; here eps is relative to the largest eigenvalue. Momentum, grafting, decay and ``frequency``
    are those of Anil et al., who keep a second momentum for the grafted rule. The mean of "rmsprop" is corrected for
    its start at 0. A scalar is a vector of one. Eigenvalues are found in float32. 0/0 is 0.

    Reference: Gupta, Koren & Singer 2018, Shampoo: Preconditioned Stochastic Tensor Optimization, Algorithms 1 and 2.
    arXiv:1802.09568. Anil et al. 2020, Scalable Second Order Optimization for Deep Learning. arXiv:2002.09018.

    Example:
        >>> from optimkit import contrib, pure
        >>> rule = contrib.rules.Shampoo(beta2=1.0, graft="none", momentum=0.0, nesterov=False, eps=0.0)
        >>> init, apply = pure(rule, lr=1.0)
        >>> params = {"w": jnp.zeros((2, 2))}
        >>> apply({"w": jnp.array([[0.0, 4.0], [9.0, 0.0]])}, init(params), params)[1]["w"].round(3) + 0.0
        Array([[ 0., -1.],
               [-1.,  0.]], dtype=float32)
    """

    reference = "Gupta, Koren & Singer 2018, Algorithms 1 and 2. arXiv:1802.09568. Anil et al. 2020. arXiv:2002.09018"
    momentum: float = hyper(0.9, "[0, 1)", "decay of the sum of directions")
    nesterov: bool = hyper(True, bool, "whether to look ahead")
    weight_decay: float = hyper(0.0, "[0, inf)", "rate of decoupled decay, times the learning rate")

    def compose(self) -> Rule:
        """Return ``Chain(direction, Momentum(...), WeightDecay(...))``."""
        return Chain(self.part(Preconditioned), self.part(Momentum), WeightDecay(self.weight_decay))


class SOAP(Adam):
    """Adam in the eigenbases of Shampoo's matrices: moments of the gradient where its coordinates are uncorrelated.

    ::

        G' = G, multiplied along each axis i by Qᵢᵀ
        μ ← β₁ μ + (1 − β₁) G,  μ' the same multiple of it
        ν ← β₂ ν + (1 − β₂) G'²
        N = μ̂' / (√(ν̂ + eps_root) + eps), multiplied along each axis i by Qᵢ
        p ← p − lr · (N + weight_decay · p)
        Hᵢ ← β Hᵢ + (1 − β) · G₍ᵢ₎ G₍ᵢ₎ᵀ,  β = shampoo_beta, or β₂
        Qᵢ ← the Q of a QR decomposition of Hᵢ Qᵢ     every ``frequency`` steps

    The first step only sets the bases, to eigenvectors of Hᵢ, and moves nothing. For matrices of some thousand rows,
    such as a transformer's: fewer steps than AdamW's, at its learning rates, and less to tune than :class:`Shampoo`.
    Vectors and scalars (vectors: unless ``precondition_1d``), and axes longer than ``max_dim``, have no basis of their
    own; without any, it is AdamW one step later. With ``merge_dims`` neighbouring axes of a parameter are one, from the
    first on, as long as it is no longer than ``max_dim``: for kernels of convolutions. ``normalize_grads`` makes N as
    long as it would be of ones, before the means in it are corrected for their start at 0; its authors found that it
    helps at a ``frequency`` of some hundred, and does not at ten. Memory: two float32 per element, and two squares for
    each axis.

    State: ``mu``, ``nu``, shaped as the parameter, from 0; ``h0``, ``h1``, ... and ``q0``, ``q1``, ..., a matrix for
    each axis, from 0 and from the identity; float32; ``t``, int32.

    Deviations: the first step is that of the authors' code (nikhilvyas/SOAP); the paper does not say what precedes it.
    Columns of Q are kept in the order of their eigenvalues, and ν with them, as in the code, whose ``merge_dims`` and
    ``normalize_grads`` are not in the paper either. Its ``data_format``, another order of axes, and ``correct_bias``,
    which is on, are left out; its decay is that of p after the step. ``eps_root`` is in neither.
    Decompositions are in float32. Where all gradients so far were 0 the bases are identities. Coordinates in a basis
    that are no more than rounding, 1e-6 of the norm, count as 0: divided by their own size they would be steps.

    Reference: Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, Algorithms 3 and 4.
    arXiv:2409.11321.

    Example:
        >>> from optimkit import contrib, pure
        >>> init, apply = pure(contrib.rules.SOAP(eps=1e-4, weight_decay=0.0), lr=1.0)
        >>> params = {"w": jnp.zeros((2, 2))}; state = init(params)
        >>> g = {"w": jnp.array([[3.0, 3.0], [1.0, -1.0]])}
        >>> for _ in range(2): state, params = apply(g, state, params)
        >>> params["w"].round(2) + 0.0  # the singular vectors of g, and values of 1
        Array([[-0.71, -0.71],
               [-0.71,  0.71]], dtype=float32)
    """

    reference = "Vyas et al. 2024, Algorithms 3 and 4. arXiv:2409.11321"
    beta1: float = hyper(0.95, "[0, 1)", "decay of the mean of gradients")
    beta2: float = hyper(0.95, "[0, 1)", "decay of the mean of squared gradients")
    shampoo_beta: float | None = hyper(None, "[0, 1)", "decay of the matrices; None is beta2")
    frequency: int = hyper(10, "int [1, 2147483647]", "steps from one change of the bases to the next")
    max_dim: int = hyper(10000, "int [1, inf)", "longest axis that gets a basis")
    precondition_1d: bool = hyper(False, bool, "whether vectors get one")
    merge_dims: bool = hyper(False, bool, "whether axes are merged, from the first on, while they are not too long")
    normalize_grads: bool = hyper(False, bool, "whether the RMS of N is made 1 before the means are corrected")
    weight_decay: float = hyper(0.01, "[0, inf)", "rate of decoupled decay, times the learning rate")

    def _merged(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return merged(shape, self.max_dim) if self.merge_dims and len(shape) > 1 else shape

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return matrix_axes(self._merged(shape), self.max_dim) if len(shape) > 1 or self.precondition_1d else ()

    def init_leaf(self, p: jax.Array) -> Slot:
        """Return the moments, the matrices, zero, and the bases, identities."""
        flat = whole(p).reshape(self._merged(p.shape)) if self.merge_dims else p
        eyes = {i: identity_along(flat, i) for i in self._axes(p.shape)}
        slot = super().init_leaf(p) | {f"h{i}": jnp.zeros_like(x) for i, x in eyes.items()}
        return slot | {f"q{i}": x for i, x in eyes.items()}

    def update_leaf(self, g: jax.Array, slot: Slot, p: jax.Array, *, lr: Any, t: Any) -> tuple[jax.Array, Slot]:
        """Return the displacement, 0 at the first step, the moments, the matrices and the bases."""
        axes, first, steps = self._axes(p.shape), t == 1, jnp.maximum(t - 1, 1.0)
        mu = jnp.where(first, slot["mu"], ema(self.beta1, slot["mu"], g))
        shape = self._merged(p.shape)
        flat, mean, nu = (whole(x).reshape(shape) for x in (g, mu, slot["nu"]))
        full = flat
        for i in axes:
            full, mean = (along(x, slot[f"q{i}"], i) for x in (full, mean))
        if axes:
            full, mean = without_rounding(full), without_rounding(mean)
        nu = jnp.where(first, nu, ema(self.beta2, nu, full**2))
        step = self.quotient(debiased(mean, self.beta1, steps), debiased(nu, self.beta2, steps))
        for i in axes:
            step = along(step, slot[f"q{i}"].T, i)
        if self.normalize_grads:
            unit = numerics.safe_divide(step, numerics.norm(step) / max(step.size, 1) ** 0.5)
            rest1, rest2 = (numerics.one_minus_pow(beta, steps) for beta in (self.beta1, self.beta2))
            step = unit * (jnp.sqrt(rest2) / rest1)
        direction = jnp.where(first, 0.0, placed_as(step.reshape(p.shape), p) + self.weight_decay * p)
        decay = self.beta2 if self.shampoo_beta is None else self.shampoo_beta
        h = {f"h{i}": ema(decay, slot[f"h{i}"], outer(flat, i)) for i in axes}
        q = {f"q{i}": slot[f"q{i}"] for i in axes}
        changed = choose(
            first,
            lambda: {"nu": nu} | {f"q{i}": eigenvectors(h[f"h{i}"]) for i in axes},
            lambda: choose(jnp.mod(t - 1, self.frequency) == 0, lambda: turned(nu, h, q, axes), lambda: {"nu": nu} | q),
        )
        return -lr * direction, {"mu": mu, **h, **changed, "nu": placed_as(changed["nu"].reshape(p.shape), p)}


# --- matrices of an axis ----------------------------------------------------------------------------------------------


def merged(shape: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """Return a shape of as many elements whose axes are products of neighbours, as long as these are not too long.

    Example:
        >>> merged((3, 3, 64, 128), 8192), merged((3, 3, 64, 128), 600), merged((50000, 2, 2), 8192)
        ((576, 128), (576, 128), (50000, 4))
    """
    axes, product_of = [], 1
    for n in shape:
        if product_of * n <= longest:
            product_of *= n
        elif product_of > 1:
            axes.append(product_of)
            product_of = n
        else:
            axes.append(n)
    return (*axes, product_of) if product_of != 1 or not axes else tuple(axes)


def matrix_axes(shape: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """Return the axes that have a matrix: those up to a length, of a parameter that is not empty.

    Example:
        >>> matrix_axes((50000, 512), 8192), matrix_axes((0, 3), 8192)
        ((1,), ())
    """
    return () if 0 in shape else tuple(i for i, n in enumerate(shape) if n <= longest)


def identity_along(x: jax.Array, axis: int) -> jax.Array:
    """Return an identity as large as an axis is long, with rows where what :func:`outer` returns will have them."""
    return jnp.eye(x.shape[axis], dtype=x.dtype) + zeros_along(whole(x), axis)[:, None]


def outer(x: jax.Array, axis: int) -> jax.Array:
    """Return ``X Xᵀ`` for the matrix X whose rows are an axis of ``x``, and whose columns are all the others.

    Example:
        >>> outer(jnp.array([[1.0, 2.0], [0.0, 3.0]]), 1).tolist()
        [[1.0, 2.0], [2.0, 13.0]]
    """
    rows = jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return product(rows, rows.T)


def along(x: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    """Return ``x`` multiplied along an axis by the transpose of a matrix.

    Example:
        >>> along(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.0], [5.0, 0.0]]), 1).tolist()
        [[10.0, 1.0]]
    """
    return jnp.moveaxis(jnp.tensordot(x, matrix, axes=([axis], [0]), precision=HIGHEST), -1, axis)


def without_rounding(x: jax.Array) -> jax.Array:
    """Return ``x`` with 0 for what is as small as what rounding leaves of 0 in a product with an orthogonal matrix.

    Example:
        >>> without_rounding(jnp.array([1.0, 1e-5, 1e-7])).tolist()
        [1.0, 9.999999747378752e-06, 0.0]
    """
    return jnp.where(jnp.abs(x) <= 8 * jnp.finfo(x.dtype).eps * numerics.norm(x), 0.0, x)


def inverse_root(h: jax.Array, order: int, eps: Any) -> jax.Array:
    """Return ``(h + eps λ_max I)^(−1/order)`` of a symmetric matrix without negative eigenvalues; the identity at 0.

    Example:
        >>> inverse_root(jnp.diag(jnp.array([16.0, 81.0])), 4, 0.0).round(4)
        Array([[0.5   , 0.    ],
               [0.    , 0.3333]], dtype=float32)
    """
    # Relative to the largest element nothing overflows. What is negative, or 0 without eps, is rounding of 0.
    size = jnp.max(jnp.abs(h))
    values, vectors = jnp.linalg.eigh(numerics.safe_divide(h, size))
    values = jnp.maximum(values, 0.0)
    values = values + eps * jnp.max(values)
    roots = jnp.where(values == 0, 0.0, jnp.where(values == 0, 1.0, values) ** (-1 / order))
    root = product(vectors * roots, vectors.T) * jnp.where(size == 0, 1.0, size) ** (-1 / order)
    return jnp.where(size == 0, jnp.eye(len(h), dtype=h.dtype), root)


def eigenvectors(h: jax.Array) -> jax.Array:
    """Return the eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first.

    Example:
        >>> jnp.abs(eigenvectors(jnp.diag(jnp.array([1.0, 5.0])))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    vectors = jnp.linalg.eigh(numerics.safe_divide(h, jnp.max(jnp.abs(h))))[1]
    return jnp.where(jnp.any(h != 0), vectors[:, ::-1], jnp.eye(len(h), dtype=h.dtype))


def turned(nu: jax.Array, h: Slot, q: Slot, axes: tuple[int, ...]) -> Slot:
    """Return bases a step of orthogonal iteration nearer to eigenvectors, in the order of eigenvalues, and ``nu`` too.

    ``Q ← QR(H Q)``, the columns of Q sorted by ``diag(Qᵀ H Q)``.
    """
    new: Slot = {}
    for i in axes:
        h_i, q_i = h[f"h{i}"], q[f"q{i}"]
        image = product(numerics.safe_divide(h_i, jnp.max(jnp.abs(h_i))), q_i)
        places = jnp.argsort(jnp.sum(q_i * image, axis=0), descending=True)
        nu = jnp.take(nu, places, axis=i)
        vectors = jnp.linalg.qr(jnp.take(image, places, axis=1))[0]
        new[f"q{i}"] = jnp.where(jnp.any(h_i != 0), vectors, q_i)
    return {"nu": nu} | new
