"""The names of ``optax.contrib``, with its arguments, as functions that make optimkit's rules.

::

    tx = optax.contrib.prodigy(0.5, weight_decay=0.1)
    init, apply = pure(compat.prodigy(0.5, weight_decay=0.1), lr=1.0)

In optax the learning rate, a number or a function of the step, is inside a transformation; so it is here: use these
rules with ``lr=1``. What they compute is what the rule of the name in ``optimkit.contrib.rules`` does; where that
departs from optax, mostly where optax departs from a paper, it stands there under *Deviations*. Options that the rules
do not have raise. What optax masks by trees of booleans is masked by :class:`optimkit.rules.Masked`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import rules
from optimkit.contrib import rules as contrib
from optimkit.contrib.options import Rate, after, at, before, newton_schulz_of, only, seed_of, unmasked, warmed
from optimkit.errors import CompositionError, HyperparameterError, message
from optimkit.numerics import cast
from optimkit.rules import Chain, Rule, Scaled
from optimkit.rules.base import Tree

# --- the eight --------------------------------------------------------------------------------------------------------


def cocob(
    learning_rate: Rate = 1.0, alpha: float = 100, eps: float = 1e-8, weight_decay: float = 0, mask: Any = None
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.COCOB`; as in optax, the learning rate multiplies gradients."""
    unmasked("cocob", mask)
    scaled = Chain(Scaled(rules.SGD(), learning_rate), contrib.COCOB(alpha, eps))
    return before(weight_decay, contrib.COCOB(alpha, eps) if learning_rate == 1 else scaled)


def dadapt_adamw(
    learning_rate: Rate = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    estim_lr0: float = 1e-6,
    weight_decay: float = 0.0,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.DAdaptAdamW` with bias correction."""
    rule = contrib.DAdaptAdamW(*betas, eps=eps, weight_decay=weight_decay, d0=estim_lr0, bias_correction=True)
    return at(learning_rate, rule)


def differentially_private_aggregate(
    l2_norm_clip: float, noise_multiplier: float, key: Any = None, *, seed: int | None = None
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.DPAggregate`."""
    seed = seed_of("differentially_private_aggregate", key, seed)
    return contrib.DPAggregate(l2_norm_clip, noise_multiplier, seed)


def dpsgd(
    learning_rate: Rate,
    l2_norm_clip: float,
    noise_multiplier: float,
    key: Any = None,
    momentum: float | None = None,
    nesterov: bool = False,
    *,
    seed: int | None = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.DPSGD`."""
    seed = seed_of("dpsgd", key, seed)
    rule = contrib.DPSGD(l2_norm_clip, noise_multiplier, seed, momentum=momentum, nesterov=nesterov)
    return at(learning_rate, rule)


def mechanize(
    base_optimizer: Rule, weight_decay: float = 1e-2, eps: float = 1e-8, s_init: float = 1e-6, num_betas: int = 6
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.Mechanic` around a rule."""
    return contrib.Mechanic(base_optimizer, s_init=s_init, s_decay=weight_decay, num_betas=num_betas, eps=eps)


def prodigy(
    learning_rate: Rate = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    estim_lr0: float = 1e-6,
    estim_lr_coef: float = 1.0,
    weight_decay: float = 0.0,
    safeguard_warmup: bool = False,
    weight_decay_mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.Prodigy` with bias correction."""
    unmasked("prodigy", weight_decay_mask)
    rule = contrib.Prodigy(
        *betas, eps=eps, weight_decay=weight_decay, d0=estim_lr0, bias_correction=True, beta3=beta3,
        d_coef=estim_lr_coef, safeguard_warmup=safeguard_warmup,
    )  # fmt: skip
    return at(learning_rate, rule)


def normalize() -> Rule:
    """Return :class:`~optimkit.contrib.rules.Normalize`."""
    return contrib.Normalize()


def sam(
    optimizer: Rule,
    adv_optimizer: Rule,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.SAM`; the adversary has its learning rate inside.

    For example ``sam(rules.Momentum(), Chain(normalize(), Scaled(SGD(), 0.05)), opaque_mode=True)``.
    """
    return contrib.SAM(optimizer, 1.0, adv_optimizer, sync_period, reset_state, opaque_mode,
                       batch_axis_name=batch_axis_name)  # fmt: skip


def split_real_and_imaginary(inner: Rule) -> Rule:
    """Return :class:`~optimkit.contrib.rules.SplitComplex`, for gradients that are conjugated already."""
    return contrib.SplitComplex(inner, conjugate=False)


# --- variants of Adam -------------------------------------------------------------------------------------------------


def acprop(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ACProp`, which has nothing added inside the root."""
    unmasked("acprop", mask)
    only("acprop", eps_root=(eps_root, 1e-16))
    return at(learning_rate, after(weight_decay, contrib.ACProp(b1, b2, eps)))


def ademamix(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float = 0.9999,
    alpha: float = 5.0,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.AdEMAMix`; for b3 and alpha that rise, give that rule a ``warmup``."""
    unmasked("ademamix", mask)
    only("ademamix", eps_root=(eps_root, 0.0), mu_dtype=(mu_dtype, None))
    for name, x in (("b3", b3), ("alpha", alpha)):
        if callable(x):
            raise HyperparameterError(message("compat.ademamix", f"{name} is a function.", "a number", repr(x),
                                              "contrib.rules.AdEMAMix(warmup=...) has the paper's schedules."
                                              ))  # fmt: skip
    return at(learning_rate, contrib.AdEMAMix(b1, b2, b3, alpha, eps, weight_decay))


def simplified_ademamix(
    learning_rate: Rate,
    b1: float = 0.99,
    b2: float = 0.95,
    alpha: float = 0.0,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.SimplifiedAdEMAMix`."""
    unmasked("simplified_ademamix", mask)
    only("simplified_ademamix", eps_root=(eps_root, 0.0))
    return at(learning_rate, contrib.SimplifiedAdEMAMix(b1, b2, alpha, eps, weight_decay))


def adopt(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.9999,
    eps: float = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ADOPT`, clipped at t^(1/4)."""
    only("adopt", mu_dtype=(mu_dtype, None), nesterov=(nesterov, False), clip_value_fn=(clip_value_fn, None))
    return at(learning_rate, contrib.ADOPT(b1, b2, eps, use_clipping))


def sophia(
    learning_rate: Rate,
    b1: float = 0.965,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    weight_decay_mask: Any = None,
    gamma: float = 0.01,
    clip_threshold: float | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = None,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.Sophia` with random signs, and ``grad_fn`` in place of ``obj_fn``."""
    unmasked("sophia", weight_decay_mask)
    only("sophia", clip_threshold=(clip_threshold, 1.0), hessian_diagonal_fn=(hessian_diagonal_fn, None),
         mu_dtype=(mu_dtype, None), verbose=(verbose, False),
         print_win_rate_every_n_steps=(print_win_rate_every_n_steps, 0))  # fmt: skip
    return at(learning_rate, contrib.Sophia(
        beta1=b1, beta2=b2, eps=eps, gamma=gamma, frequency=update_interval, noise="rademacher",
        weight_decay=weight_decay))  # fmt: skip


# --- distances, models of the loss, averages --------------------------------------------------------------------------


def dog(
    learning_rate: Rate = 1.0,
    init_step: tuple[str, float] = ("heuristic", 1e-6),
    eps: float = 1e-8,
    weight_decay: float | None = None,
    mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.DoG`; of the ways to take the first step it has the heuristic one."""
    unmasked("dog", mask)
    only("dog", "Give ('heuristic', r).", init_step=(init_step[0], "heuristic"))
    return at(learning_rate, before(weight_decay, contrib.DoG(init_step[1], eps)))


def dowg(
    learning_rate: Rate = 1.0,
    init_estim_sq_dist: float | None = None,
    eps: float = 1e-4,
    weight_decay: float | None = None,
    mask: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.DoWG`."""
    unmasked("dowg", mask)
    first = math.sqrt(eps if init_estim_sq_dist is None else init_estim_sq_dist)
    return at(learning_rate, before(weight_decay, contrib.DoWG(first, eps)))


def madgrad(learning_rate: Rate, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-6) -> Rule:
    """Return :class:`~optimkit.contrib.rules.MADGRAD`."""
    return at(learning_rate, before(weight_decay, contrib.MADGRAD(momentum, eps)))


def momo(
    learning_rate: Rate = 1.0,
    beta: float = 0.9,
    lower_bound: float = 0.0,
    weight_decay: float = 0.0,
    adapt_lower_bound: bool = False,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.MoMo`."""
    return at(learning_rate, contrib.MoMo(beta, lower_bound, weight_decay, adapt_lower_bound=adapt_lower_bound))


def momo_adam(
    learning_rate: Rate = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    lower_bound: float = 0.0,
    weight_decay: float = 0.0,
    adapt_lower_bound: bool = False,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.MoMoAdam`."""
    return at(learning_rate, contrib.MoMoAdam(b1, b2, eps, lower_bound, weight_decay, adapt_lower_bound))


def schedule_free(
    base_optimizer: Rule, learning_rate: Rate, b1: float = 0.9, weight_lr_power: float = 2.0, state_dtype: Any = None
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ScheduleFree` around a rule, which has no learning rate of its own."""
    only("schedule_free", state_dtype=(state_dtype, None))
    if isinstance(base_optimizer, Scaled):
        raise CompositionError(message("compat.schedule_free", "the rule has a learning rate inside.", "a rule without",
                                       repr(base_optimizer), "It gets the learning_rate given here."))  # fmt: skip
    return at(learning_rate, contrib.ScheduleFree(base_optimizer, b1, weight_lr_power))


def schedule_free_sgd(
    learning_rate: float = 1.0,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    weight_decay: float | None = None,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ScheduleFreeSGD`."""
    only("schedule_free_sgd", state_dtype=(state_dtype, None))
    rule = contrib.ScheduleFreeSGD(b1, weight_decay or 0.0, weight_lr_power)
    return at(warmed(learning_rate, warmup_steps), rule)


def schedule_free_adamw(
    learning_rate: float = 0.0025,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ScheduleFreeAdamW`."""
    only("schedule_free_adamw", state_dtype=(state_dtype, None))
    rule = contrib.ScheduleFreeAdamW(b1, b2, eps, weight_decay, weight_lr_power)
    return at(warmed(learning_rate, warmup_steps), rule)


def schedule_free_eval_params(state: Tree, params: Tree) -> Tree:
    """Return the average from the state of one of these three; ``rule.eval_params(state, params)`` is for any rule."""
    while "x" not in state:
        if "inner" not in state:
            raise CompositionError(message("compat.schedule_free_eval_params", "this is no state of schedule_free.",
                                           "the state of schedule_free(...)", f"{sorted(state)}"))  # fmt: skip
        state = state["inner"]
    return jax.tree.map(lambda x, p: jnp.where(state["t"] == 0, p, cast(x, p.dtype)), state["x"], params)


# --- matrices, plateaus -----------------------------------------------------------------------------------------------


def galore(
    learning_rate: Rate,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: float = 1.0,
    base_optimizer: Rule | None = None,
    weight_decay: float = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.GaLore`, by default around Adam."""
    unmasked("galore", mask)
    only("galore", weight_dimension_numbers=(weight_dimension_numbers, None))
    base = rules.Adam() if base_optimizer is None else base_optimizer
    rule = contrib.GaLore(base, rank=rank, frequency=update_proj_gap, scale=scale)
    return at(learning_rate, after(weight_decay, rule))


def muon(
    learning_rate: Rate,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    adam_eps_root: float = 0.0,
    adam_weight_decay: float = 0.0,
    adam_learning_rate: float | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: float | None = None,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.Muon`, routed as in optax: parameters of two axes, and no others.

    optax corrects the mean for its start at 0, which with ``nesterov`` makes the first steps others.
    """
    unmasked("muon", weight_decay_mask)
    only("muon", mu_dtype=(mu_dtype, None), adaptive=(adaptive, False), preconditioning=(preconditioning, "frobenius"),
         muon_weight_dimension_numbers=(muon_weight_dimension_numbers, None))  # fmt: skip
    if consistent_rms is not None:
        only("muon", "Its 0.2 is Moonshot's.", consistent_rms=(consistent_rms, 0.2))
    coefficients, ns_steps = newton_schulz_of(ns_coeffs, ns_steps)
    if adam_learning_rate is not None and (callable(learning_rate) or callable(adam_learning_rate)):
        raise HyperparameterError(message(
            "compat.muon", "a learning rate is a function, and there are two.", "numbers, or one for both",
            f"{learning_rate!r}, {adam_learning_rate!r}", "Use groups of optimizer.Optimizer."))  # fmt: skip
    moments = {"beta1": adam_b1, "beta2": adam_b2, "eps": eps, "eps_root": adam_eps_root}
    adam = rules.NAdam(**moments, warmup=0.0) if nesterov else rules.Adam(**moments)
    return at(learning_rate, contrib.Muon(
        momentum=beta, nesterov=nesterov, ns_steps=ns_steps, coefficients=coefficients, ns_eps=eps,
        weight_decay=weight_decay, scale="jordan" if consistent_rms is None else "moonshot",
        other=after(adam_weight_decay, adam),
        other_lr_scale=1.0 if adam_learning_rate is None else adam_learning_rate / learning_rate,  # type: ignore[operator]
        elsewhere=is_no_matrix))  # fmt: skip


def is_no_matrix(name: str, x: Any) -> bool:
    """Tell whether a parameter has other than two axes."""
    return x.ndim != 2


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: float = 0.0,
) -> Rule:
    """Return :class:`~optimkit.contrib.rules.ReduceOnPlateau` as a stage: the last of a chain, as in optax."""
    return contrib.ReduceOnPlateau(rules.SGD(), factor, patience, rtol, atol, cooldown, accumulation_size, min_scale)
