"""What optax has too: our rule, optax's call under the option that matches, and what differs on purpose.

The calls are texts, which the tests run and docs/reference/optax.md shows: what is shown is what was measured.
``docs/generate.py --optax`` measures all rows and writes docs/reference/optax.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimkit import rules, schedule
from optimkit.testing import streams

from .against_optax import (
    FALLING,
    STEPS,
    Loss,
    Make,
    Problem,
    Rates,
    distance,
    optax_trajectory,
    oracle_trajectory,
    trajectory,
)
from .oracles import adagrad, adam_moments, gradients, layerwise, optimistic, sign

PARAMS = streams.parameters()
NONZERO = {"a": np.float32([0.5, -2.0]), "b": np.float32([[0.5, -1.0, 2.0], [-0.25, 0.125, -3.0]])}

# Two float64 programs of the same formula: 16 roundings of 2e-16 in each of 100 steps are 4e-13 (compare.rounding), and
# where squares are taken at 1e-6 and moments cancel, a few digits more are lost.
SAME = 1e-11
# Where optax counts steps or keeps a moment in float32, whatever the parameters are.
SINGLE = 1e-6
# Issue 3 asks for this; no row needs it.
ASKED = 1e-5


@dataclasses.dataclass(frozen=True)
class Same:
    """A rule and the call of optax that does the same.

    Attributes:
        ours: the rule, as text.
        theirs: optax's call, as text; ``lr`` is the learning rate or a schedule of it.
        allowed: the largest distance in float64.
        rates: the learning rate.
        params: where both start.
        loss: a function whose gradients both follow, instead of given ones.
        slow: whether the comparison takes longer than the rest.
    """

    ours: str
    theirs: str
    allowed: float = SAME
    rates: Rates = dataclasses.field(default=FALLING, repr=False)
    params: Mapping[str, Any] = dataclasses.field(default_factory=lambda: PARAMS, repr=False)
    loss: Loss | None = None
    slow: bool = False

    @property
    def rule(self) -> rules.Rule:
        """Our rule."""
        made: rules.Rule = eval(self.ours, dict(vars(rules)))
        return made

    @property
    def problem(self) -> Problem:
        """What both are run on."""
        return Problem(self.params, self.rates, self.loss)

    def make(self, optax: Any) -> Make:
        """Return optax's call as a function of the learning rate."""
        return lambda lr: eval(self.theirs, {"optax": optax, "paired": paired, "lr": lr})

    def figures(self, optax: Any) -> dict[str, float]:
        """Return the distance in float64, and of each in float32 from optax in float64."""
        problem, make = self.problem, self.make(optax)
        wide = optax_trajectory(make, problem, "float64")
        ours = {kind: trajectory(self.rule, problem, kind) for kind in ("float64", "float32")}
        theirs = optax_trajectory(make, problem, "float32")
        found = {"float64": ours["float64"], "optimkit 32": ours["float32"], "optax 32": theirs}
        return {name: two_digits(distance(way, wide, problem)) for name, way in found.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differs(Same):
    """A rule and a call of optax that should do the same and does not: which of them follows the paper.

    Attributes:
        oracle: the paper's algorithm, with the rule's hyperparameters.
        why: what optax does.
    """

    oracle: Any
    why: str

    def figures(self, optax: Any) -> dict[str, float]:
        """Return the distance of each from the oracle, in float64."""
        problem = self.problem
        paper = oracle_trajectory(self.oracle, self.rule, problem)
        found = {
            "optimkit": trajectory(self.rule, problem, "float64"),
            "optax": optax_trajectory(self.make(optax), problem, "float64"),
        }
        return {name: two_digits(distance(way, paper, problem)) for name, way in found.items()}


def two_digits(x: float) -> float:
    """Return a number rounded to two digits, as the page shows it."""
    return float(f"{x:.1e}")


INSIDE = "eps=0.0, eps_root=1e-8"
MOVED = "momentum=0.8, nesterov=True"
FACTOR = "min_dim_size_to_factor=2"
STEP = "optax.scale_by_learning_rate(lr)"


def valley(params: Any) -> Any:
    """Return a convex loss, nine times as steep along some axes as along others, of more than second order."""
    flat = jnp.concatenate([jnp.ravel(x) for _, x in sorted(params.items())])
    away = jnp.linspace(1.0, 3.0, flat.size, dtype=flat.dtype) * (flat - 1)
    return jnp.sum(away**2 / 2 + away**4 / 40)


def paired(tx: Any) -> Any:
    """Return optax's lookahead, which wants pairs of fast and slow weights for parameters, with the slow ones kept."""

    def init(params: Any) -> Any:
        import optax

        return tx.init(optax.LookaheadParams(params, params)), params

    def update(grads: Any, state: Any, params: Any) -> Any:
        import optax

        inner, slow = state
        moves, inner = tx.update(grads, inner, optax.LookaheadParams(params, slow))
        return moves.fast, (inner, jax.tree.map(jnp.add, slow, moves.slow))

    return SimpleNamespace(init=init, update=update)


SAME_AS_OPTAX: dict[str, list[Same]] = {
    "Gradient descent, momentum, signs": [
        Same("SGD()", "optax.sgd(lr)"),
        Same("Momentum(0.9)", "optax.sgd(lr, momentum=0.9)"),
        Same("Momentum(0.9, nesterov=True)", "optax.sgd(lr, momentum=0.9, nesterov=True)"),
        Same("NoisySGD(eta=0.0)", "optax.noisy_sgd(lr, eta=0.0, key=0)", slow=True),
        Same("OptimisticGradient(0.7, 1.3)", "optax.optimistic_gradient_descent(lr, 0.7, 1.3)"),
        Same("PolyakSGD(eps=1e-3)", "optax.polyak_sgd(eps=1e-3)", rates=1.0),
        Same("PolyakSGD(variant='sps+', f_min=0.25)", "optax.polyak_sgd(variant='sps+', f_min=0.25)", rates=1.0),
        Same("SignSGD()", "optax.sign_sgd(lr)"),
        Same("Signum()", "optax.signum(lr)"),
        Same("Lion(weight_decay=1e-3)", "optax.lion(lr)"),
    ],
    "Gathered squares": [
        Same("AdaGrad(0.1, eps=0.0, eps_root=1e-7)", "optax.adagrad(lr)"),
        Same("AdaDelta(0.9)", "optax.adadelta(lr)"),
        Same(f"RMSProp({INSIDE})", "optax.rmsprop(lr)"),
        Same("RMSProp()", "optax.rmsprop(lr, eps_in_sqrt=False)"),
        Same(f"RMSProp(bias_correction=True, {INSIDE})", "optax.rmsprop(lr, bias_correction=True)"),
        Same(
            f"RMSProp(centered=True, initial_scale=0.5, {INSIDE}, {MOVED})",
            f"optax.rmsprop(lr, centered=True, initial_scale=0.5, {MOVED})",
            rates=0.02,
        ),
        Same("SM3(0.9, eps_root=1e-8)", "optax.sm3(0.03125)", rates=0.03125, params=NONZERO),
        Same(f"Adafactor({FACTOR})", f"optax.adafactor(lr, {FACTOR})", SINGLE),
        Same("Adafactor(factored=False)", "optax.adafactor(lr, factored=False)", SINGLE),
        Same(
            f"Adafactor(momentum=0.9, weight_decay=0.01, independent_decay=True, {FACTOR})",
            f"optax.adafactor(lr, momentum=0.9, weight_decay_rate=0.01, {FACTOR})",
            SINGLE,
        ),
    ],
    "Adam and its relatives": [
        Same("Adam()", "optax.adam(lr)"),
        Same("Adam(eps_root=1e-8)", "optax.adam(lr, eps_root=1e-8)"),
        Same("AdamW(weight_decay=1e-4)", "optax.adamw(lr)"),
        Same("NAdam(warmup=0.0)", "optax.nadam(lr)"),
        Same("NAdamW(warmup=0.0, weight_decay=1e-4)", "optax.nadamw(lr)"),
        Same("AMSGrad(debias='before')", "optax.amsgrad(lr)"),
        Same("AMSGrad(debias='never')", "optax.amsgrad(lr, bias_correction_mu=False, bias_correction_nu=False)"),
        Same("AdaMax()", "optax.adamax(lr)"),
        Same("AdaMaxW(weight_decay=1e-4)", "optax.adamaxw(lr)"),
        Same("RAdam(threshold=5.0)", "optax.radam(lr)"),
        Same("AdaBelief()", "optax.adabelief(lr)"),
        Same("Yogi(initial_mu=1e-6, debias=True)", "optax.yogi(lr)"),
        Same("NovoGrad(0.9, 0.25, eps=1e-6, weight_decay=0.01)", "optax.novograd(lr, weight_decay=0.01)"),
        Same(
            "OptimisticAdam(alpha=0.7, beta=1.3)",
            "optax.optimistic_adam_v2(lr, alpha=0.7, beta=1.3, nesterov=False)",
        ),
    ],
    "Layer by layer": [
        Same("LARS(weight_decay=0.0, eps=0.0)", "optax.lars(lr)"),
        Same("LAMB(weight_decay=0.1)", "optax.lamb(lr, weight_decay=0.1)"),
        Same("Fromage()", "optax.fromage(lr, min_norm=0.0)", params=NONZERO),
    ],
    "Second order": [
        Same(
            "LBFGS(line_search=None)",
            "optax.chain(optax.scale_by_lbfgs(), optax.scale_by_learning_rate(lr))",
            rates=0.125,
            loss=valley,
            slow=True,
        ),
    ],
    "Stages": [
        Same("WeightDecay(0.1)", f"optax.chain(optax.add_decayed_weights(0.1), {STEP})"),
        Same(
            "IndependentWeightDecay(0.01)",
            f"optax.chain({STEP}, optax.add_decayed_weights(-0.01))",
        ),
        Same("TrustRatio()", f"optax.chain(optax.scale_by_trust_ratio(), {STEP})"),
        Same("ClipByValue(1.0)", f"optax.chain(optax.clip(1.0), {STEP})"),
        Same("ClipByGlobalNorm(1.0)", f"optax.chain(optax.clip_by_global_norm(1.0), {STEP})"),
        Same("ClipByBlockRMS(1.0)", f"optax.chain(optax.clip_by_block_rms(1.0), {STEP})"),
        Same("AdaptiveClip(0.01)", f"optax.chain(optax.adaptive_grad_clip(0.01), {STEP})"),
        Same("AddNoise(eta=0.0)", f"optax.chain(optax.add_noise(0.0, 0.55, key=0), {STEP})", slow=True),
        Same("ZeroNaNs()", f"optax.chain(optax.zero_nans(), {STEP})"),
        Same("EmaOfGradients(0.9)", f"optax.chain(optax.ema(0.9), {STEP})"),
    ],
    "Wrappers and compositions": [
        Same("Chain(ClipByGlobalNorm(1.0), Adam())", "optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lr))"),
        Same("Chain(WeightDecay(0.1), Adam())", "optax.chain(optax.add_decayed_weights(0.1), optax.adam(lr))"),
        Same(
            "Chain(Masked(WeightDecay(0.1), 'weight'), Adam())",
            "optax.chain(optax.add_decayed_weights(0.1, {'bias': False, 'scale': False, 'weight': True}),"
            " optax.adam(lr))",
        ),
        Same(
            "Partition(('bias', SGD()), ('scale', Frozen()), ('.', Adam()))",
            "optax.partition({'a': optax.sgd(lr), 'b': optax.set_to_zero(), 'c': optax.adam(lr)},"
            " {'bias': 'a', 'scale': 'b', 'weight': 'c'})",
        ),
        Same("Scaled(Adam(), 0.5)", "optax.chain(optax.adam(lr), optax.scale(0.5))"),
        Same("Accumulated(Adam(), 4)", "optax.MultiSteps(optax.adam(0.03125), 4)", SINGLE, 0.03125),
        Same("SkipNonFinite(Adam())", "optax.apply_if_finite(optax.adam(lr), 5)"),
        Same("Lookahead(Adam(), 6, 0.5)", "paired(optax.lookahead(optax.adam(lr), 6, 0.5))"),
    ],
}

DIFFERS: list[Differs] = [
    Differs(
        ours="Adan(eps_root=1e-8)",
        theirs="optax.adan(lr)",
        oracle=adam_moments.oracle_adan,
        why="optax weighs the difference of gradients by `1 - b2` in both places where the paper, whose β₂ is "
        "`1 - b2`, has `1 - β₂`, that is `b2` (optax#1715).",
    ),
    Differs(
        ours="RProp(0.02, variant='irprop-')",
        theirs="optax.rprop(0.02)",
        rates=1.0,
        oracle=sign.oracle_rprop,
        why="optax returns the step of the call before: its first step is 0 (optax#1725). One call later it is where "
        "ours was.",
    ),
    Differs(
        ours="PolyakSGD(scaling=0.5)",
        theirs="optax.polyak_sgd(scaling=0.5)",
        rates=1.0,
        oracle=optimistic.oracle_polyak_sgd,
        why="optax scales the gradient before it takes Polyak's step of it, which divides by its square: the step is "
        "divided by `scaling`, unless `max_learning_rate` limits it.",
    ),
    Differs(
        ours="LARS(weight_decay=0.1, eps=0.0)",
        theirs="optax.lars(lr, weight_decay=0.1)",
        oracle=layerwise.oracle_lars,
        why="optax divides by the norm of the sum, ‖g + λp‖, where the paper has ‖g‖ + λ‖p‖.",
    ),
    Differs(
        ours=f"RMSProp(centered=True, bias_correction=True, {INSIDE})",
        theirs="optax.rmsprop(lr, centered=True, bias_correction=True)",
        oracle=adagrad.oracle_rmsprop,
        why="optax corrects both moments before it takes the variance, ν̂ − μ̂², which is 0 at the first step: the "
        "step is then lr g / √eps. Here the variance is corrected. Graves has no correction.",
    ),
    Differs(
        ours="Centralize()",
        theirs="optax.chain(optax.centralize(), optax.scale_by_learning_rate(lr))",
        oracle=gradients.oracle_centralize,
        why="optax takes the mean over all axes but the first, where PyTorch has the outputs; in JAX's kernels they "
        "are on the last.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Peers:
    """A schedule and the call of optax that has its values."""

    ours: str
    theirs: str

    def figure(self, optax: Any) -> float:
        """Return the largest difference over 120 steps, relative to the largest value."""
        step = np.arange(120)
        mine = eval(self.ours, dict(vars(schedule)))(step)
        theirs = jax.jit(jax.vmap(eval(self.theirs, {"optax": optax})))(step)
        return float(np.max(np.abs(mine - theirs)) / np.max(np.abs(mine)))


# optax computes schedules in float32; ours are float64 for numbers of NumPy, as here.
SCHEDULE = 4e-7
SGDR_PARTS = "[{'init_value': 0.0, 'peak_value': 0.4, 'warmup_steps': 0, 'decay_steps': n} for n in (20, 40, 80)]"
SCALES = "{5: 0.5, 60: 3.0, 90: 0.1}"  # factors from each value to the next

SCHEDULES = [
    Peers("Constant(0.3)", "optax.constant_schedule(0.3)"),
    Peers("Linear(0.3, 0.01, 90, begin=5)", "optax.linear_schedule(0.3, 0.01, 90, 5)"),
    Peers("Polynomial(0.3, 0.01, 90, power=2.0)", "optax.polynomial_schedule(0.3, 0.01, 2.0, 90)"),
    Peers("Cosine(0.3, 90, final=0.03)", "optax.cosine_decay_schedule(0.3, 90, alpha=0.1)"),
    Peers(
        "Exponential(0.3, 0.5, 20, staircase=True, floor=0.01)",
        "optax.exponential_decay(0.3, 20, 0.5, staircase=True, end_value=0.01)",
    ),
    Peers("Piecewise([0.2, 0.1, 0.3, 0.03], [5, 60, 90])", f"optax.piecewise_constant_schedule(0.2, {SCALES})"),
    Peers(
        "Interpolated([0.2, 0.1, 0.3, 0.03], [5, 60, 90])",
        f"optax.piecewise_interpolate_schedule('linear', 0.2, {SCALES})",
    ),
    Peers("OneCycle(0.3, 100)", "optax.cosine_onecycle_schedule(100, 0.3)"),
    Peers(
        "OneCycle(0.3, 100, rise=0.3, fall=0.55, shape='linear')",
        "optax.linear_onecycle_schedule(100, 0.3)",
    ),
    Peers("Warmup(Constant(0.3), 20, start=0.1)", "optax.warmup_constant_schedule(0.1, 0.3, 20)"),
    Peers(
        "WarmupCosine(0.3, 20, 90, final=0.03)",
        "optax.warmup_cosine_decay_schedule(0.0, 0.3, 20, 90, end_value=0.03)",
    ),
    Peers(
        "Warmup(Exponential(0.3, 0.5, 20, floor=0.05), 15)",
        "optax.warmup_exponential_decay_schedule(0.0, 0.3, 15, 20, 0.5, end_value=0.05)",
    ),
    Peers("SGDR(0.4, 20, 2, peak_factor=1.0)", f"optax.sgdr_schedule({SGDR_PARTS})"),
    Peers(
        "Join([Constant(0.1), Linear(0.1, 0.3, 10)], [5])",
        "optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.3, 10)], [5])",
    ),
]

# By the names of rules, parted by commas: the differences that an option or a formula brings about.
NOTES: dict[str, str] = {
    "Adam, NAdam, AMSGrad, AdaBelief, Yogi, LAMB, OptimisticAdam": (
        "in float32 optax subtracts βᵗ from 1, which at the first steps leaves an error of 1e-5 in every parameter. "
        "Here it is −expm1(t log β), with the logarithm in float64."
    ),
    "RAdam": (
        "ρ is a difference of two numbers near 2000 in optax, which float32 cannot tell apart well; here it is a sum "
        "of positive terms. The threshold is the paper's 4; optax has 5."
    ),
    "AdamW, NAdamW, AdaMaxW, Lion": (
        "the default decay is 0.01, for Lion 0, as in PyTorch and the paper's code; optax has 1e-4, for Lion 1e-3. It "
        "is multiplied by the learning rate in both."
    ),
    "NAdam, NAdamW": "by default the momentum rises as Dozat's does; optax keeps it constant, which is `warmup=0`.",
    "AMSGrad": (
        "the paper, PyTorch and the default here take the maximum of raw moments; optax that of corrected ones, which "
        'is `debias="before"`.'
    ),
    "Yogi": "the paper has no correction and starts the mean at 0; optax corrects, and starts both moments at 1e-6.",
    "NovoGrad": "the defaults are the paper's, 0.95 and 0.98; optax has 0.9 and 0.25.",
    "OptimisticAdam": "optax has Nesterov's form of Adam inside, unless told otherwise; the paper has Adam.",
    "AdaGrad": "the sum starts at 0 and `eps` is outside the root, as in the paper and PyTorch; optax starts at 0.1.",
    "AdaDelta": (
        "the default decay is the paper's 0.95; optax has 0.9. Without a learning rate, which is its default, optax "
        "steps uphill."
    ),
    "RMSProp": (
        "`eps` is outside the root, as in PyTorch; `eps_root` is inside, as in optax and Graves. optax has the "
        "learning rate inside the momentum: the two agree while it is constant, as in that row."
    ),
    "SM3": "the paper has neither momentum nor eps. optax takes no schedule, and no scalars (IndexError).",
    "Adafactor": (
        "the decay is multiplied by the learning rate, as in PyTorch; `independent_decay` is optax's. optax takes "
        "the powers of its decay, and keeps the momentum, in float32 also where parameters are float64: that is the "
        "distance. Before `decay_offset` its decay is NaN; here there is no memory until then."
    ),
    "LARS": "`weight_decay` and `eps` are 1e-4 and 1e-5 by default, as in objax; optax has 0 for both.",
    "Fromage": (
        "optax raises both norms to `min_norm`, 1e-6 by default, so that tiny gradients make shorter steps; the "
        "authors' code, and this, does not."
    ),
    "PolyakSGD": (
        "optax stands still where ‖g‖² + eps is below the machine's epsilon; here only where the gradient is 0. Both "
        "get a loss of 1 at each step."
    ),
    "RProp": "PyTorch and optax have the variant of Igel & Hüsken; the default here is the paper's, which steps back.",
    "NoisySGD": "the noise is drawn in another way, parameter by parameter; only what is left without it can agree.",
    "LBFGS": (
        "compared without a line search, at a rate of 1/8, on a convex loss in place of given gradients; the searches "
        "differ in their details. The pairs are stored as unit vectors here."
    ),
    "Lookahead": (
        "optax wants pairs of fast and slow weights in place of the parameters; `paired` keeps the slow ones in the "
        "state, for the comparison. Here they are in the state, and `eval_params` returns them."
    ),
    "Accumulated": "optax adds gradients up in float32 also where they are float64: that is the distance.",
    "SkipNonFinite": "after five steps in a row optax lets NaN through; here that is an option, `max_consecutive`.",
    "ClipByGlobalNorm": "one infinite gradient makes all gradients NaN in optax; here it makes them 0, the limit.",
}

# Public rules that optax 0.2.8 has no counterpart of.
NOT_IN_OPTAX: dict[str, str] = {
    "LaProp, AdamAtan2, StableAdamW, CAME, GrokFast, Cautious": "no form of them.",
    "Averaged, PolynomialAveraged": "`ema` averages updates, not parameters.",
    "WeightNorm": "no form of it.",
}


def measured(optax: Any) -> dict[str, Any]:
    """Return the figures of all rows, for docs/reference/optax.json."""
    same = {row.ours: row.figures(optax) for rows in SAME_AS_OPTAX.values() for row in rows}
    differs = {row.ours: row.figures(optax) for row in DIFFERS}
    schedules = {peers.ours: two_digits(peers.figure(optax)) for peers in SCHEDULES}
    versions = {"optax": optax.__version__, "jax": jax.__version__}
    return {"versions": versions, "steps": STEPS, "same": same, "differs": differs, "schedules": schedules}
