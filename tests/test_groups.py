"""Groups of variables: what differs for them differs, what looks at all goes on seeing all, and nothing is renamed."""

from __future__ import annotations

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimkit import Jit, StateVar, TrainRef, TrainVar, VarCollection, nn, optimizer, pure, rules
from optimkit.errors import CompositionError, HyperparameterError, OptimkitError, StructureError
from optimkit.optimizer import Group, Optimizer, crossed, layerwise_lr_decay, no_decay, train_only
from optimkit.rules import lookup

from .rule_table import RULES
from .shell import Counted, bits, close, unchanged


class Norm(TrainVar):
    """A variable of a type of its own."""


START = {"body.w": [1.0, -2.0, 0.5], "body.bias": [0.25, 4.0], "head.w": [-1.5], "scale": [2.0, 3.0]}
NAMES = list(START)


def variables(dtype=jnp.float32):
    return VarCollection((n, (Norm if n == "scale" else TrainVar)(jnp.array(x, dtype))) for n, x in START.items())


def stream(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return [{k: jnp.asarray(rng.normal(size=len(x)), jnp.float32) for k, x in START.items()} for _ in range(n)]


def own(opt):
    return [name for name in opt.vars().subset(is_not=TrainRef).keys()]  # noqa: C416, SIM118 - iteration gives variables


def trained(make, n=4, lr=0.1):
    """Take n steps; return the parameters."""
    vc = variables()
    opt = make(vc)
    for grads in stream(n):
        opt(lr, grads)
    return {name: np.asarray(v) for name, v in vc.items()}


def reference(rule, names=NAMES, n=4, lr=0.1, clip=None):
    """Take n steps with the functional face, for some of the parameters; gradients clipped over ``clip`` first."""
    params = {k: jnp.array(START[k]) for k in names}
    init, apply = pure(rule, lr)
    state = init(params)
    for grads in stream(n):
        if clip is not None:
            norm = np.sqrt(sum(np.sum(np.asarray(grads[k], np.float64) ** 2) for k in clip))
            grads = {k: g * min(1.0, 1.0 / norm) for k, g in grads.items()}
        state, params = apply({k: grads[k] for k in names}, state, params)
    return {k: np.asarray(p) for k, p in params.items()}


def same(got, *wanted, ulps=16):
    for name, x in {k: x for part in wanted for k, x in part.items()}.items():
        close(got[name], x, ulps)


# --- what differs -----------------------------------------------------------------------------------------------------


def test_a_hyperparameter_of_a_group_holds_for_its_variables_and_no_others():
    groups = [Group("none", "bias", weight_decay=0.0), Group("strong", r"^head", weight_decay=0.5, beta1=0.5)]
    got = trained(lambda vc: optimizer.AdamW(vc, weight_decay=0.1, groups=groups))
    same(
        got,
        reference(rules.AdamW(weight_decay=0.1), ["body.w", "scale"]),
        reference(rules.AdamW(weight_decay=0.0), ["body.bias"]),
        reference(rules.AdamW(weight_decay=0.5, beta1=0.5), ["head.w"]),
    )


@pytest.mark.parametrize(
    "rule",
    [
        rules.Adam(),
        rules.AdamW(weight_decay=0.1),
        rules.LARS(tc=0.1),
        rules.LAMB(weight_decay=0.1),
        rules.Chain(rules.Adam(), rules.NoisySGD()),
        rules.Cautious(rules.Momentum()),
        rules.Lookahead(rules.Momentum(), 2),
        rules.Masked(rules.Momentum(), "w"),
        rules.WeightNorm(rules.Momentum()),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_lr_scale_is_another_learning_rate_for_the_group(rule):
    got = trained(lambda vc: Optimizer(vc, rule, groups=[Group("head", ("head", "scale"), lr_scale=0.1)]))
    same(got, {n: reference(rule)[n] for n in NAMES[:2]}, {n: reference(rule, lr=0.01)[n] for n in NAMES[2:]}, ulps=32)


def test_lr_scale_acts_on_the_step_and_not_on_the_stages_before_it():
    rule = rules.Chain(rules.Momentum(), rules.WeightDecay(0.1), rules.LARS(tc=0.1))
    got = trained(lambda vc: Optimizer(vc, rule, groups=[Group("head", "head", lr_scale=0.1)]))
    same(got, reference(rule, NAMES[:2]), reference(rule, ["head.w"], lr=0.01))


def test_a_norm_over_all_parameters_goes_on_seeing_all_groups():
    rule = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.AdamW(weight_decay=0.1))
    groups = [*no_decay("bias"), Group("head", "head", lr_scale=0.1)]
    got = trained(lambda vc: Optimizer(vc, rule, groups=groups))
    same(got, reference(rules.AdamW(weight_decay=0.1), ["body.w", "scale"], clip=NAMES),
         reference(rules.AdamW(weight_decay=0.0), ["body.bias"], clip=NAMES),
         reference(rules.AdamW(weight_decay=0.1), ["head.w"], lr=0.01, clip=NAMES))  # fmt: skip


def test_frozen_variables_count_in_no_norm():
    rule = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Adam(eps=0.1))
    rest = NAMES[:3]
    got = trained(lambda vc: Optimizer(vc, rule, groups=[Group("frozen", "scale", frozen=True)]))
    same(got, reference(rules.Adam(eps=0.1), rest, clip=rest), {"scale": np.float32([2.0, 3.0])}, ulps=0)


def test_a_rule_of_a_groups_own_sees_the_group_alone():
    main = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Adam(eps=0.1))
    theirs = rules.Chain(rules.ClipByGlobalNorm(1.0), rules.Momentum())
    parts = NAMES[:2], NAMES[2:]
    groups = [Group("sgd", ("head", Norm), rule=theirs, lr_scale=0.5)]
    got = trained(lambda vc: Optimizer(vc, main, groups=groups))
    same(got, reference(rules.Adam(eps=0.1), parts[0], clip=parts[0]),
         reference(rules.Momentum(), parts[1], clip=parts[1], lr=0.05))  # fmt: skip


def test_a_slot_dtype_of_a_group_is_that_of_its_slots_alone():
    vc = variables()
    opt = optimizer.AdamW(vc, groups=[Group("small", "body", slot_dtype="bfloat16")])
    for grads in stream(2):
        opt(0.1, grads)
    assert {n: str(s.mu.dtype) for n, s in opt.state.items()} == {
        "body.w": "bfloat16", "body.bias": "bfloat16", "head.w": "float32", "scale": "float32"}  # fmt: skip
    assert opt.group("small").slot_dtype == "bfloat16"


def test_groups_without_a_difference_change_no_bit_and_no_rule():
    def run(**options):
        vc = variables()
        opt = optimizer.AdamW(vc, **options)
        for grads in stream():
            opt(0.1, grads)
        return bits(vc, opt.vars()), opt.rule

    plain, grouped = run(), run(groups=[Group("a", "body"), Group("b", "head", lr_scale=1.0)])
    assert grouped[0] == plain[0]
    assert grouped[1] == plain[1]


# --- frozen -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float8_e4m3fn"])
@pytest.mark.parametrize("compiled", [False, True])
def test_frozen_variables_keep_every_bit_and_have_no_state(dtype, compiled):
    values = jnp.array([-0.0, 0.0, 1e-3, -1.5, float("nan")], dtype)
    vc = VarCollection({"w": TrainVar(jnp.ones(2, dtype)), "f": TrainVar(values)})
    opt = optimizer.AdamW(vc, weight_decay=0.5, groups=[Group("frozen", "f", frozen=True)])
    assert [name for name in own(opt) if "[f]" in name] == []
    step = Jit(lambda g: opt(0.1, g), vc + opt.vars(), donate=True) if compiled else lambda g: opt(0.1, g)
    with unchanged(VarCollection({"f": vc["f"]})):
        step([jnp.ones(2), jnp.full(5, 7.0)])
        step({"w": jnp.ones(2), "f": jnp.full(5, float("inf"))})
    assert float(vc["w"].value[0]) < 1


def test_gradients_of_frozen_variables_may_be_missing():
    vc = VarCollection({"w": TrainVar(jnp.ones(2)), "f": TrainVar(jnp.ones(1))})
    opt = optimizer.SGD(vc, groups=train_only("w"))
    for grads in ([jnp.ones(2), None], {"w": jnp.ones(2)}, {"w": jnp.ones(2), "f": None}):
        opt(0.125, grads)
    close(vc["w"].value, [0.625, 0.625])
    with pytest.raises(StructureError, match=r"Missing: \['w'\]"):
        opt(0.1, {"f": None})


def test_minimize_gives_functions_of_the_trained_parameters_alone():
    class Gradients(rules.Rule):
        """Takes the gradient at twice the parameters."""

        needs = ("grad_fn", "value_and_grad_fn")

        def init(self, params):
            return {}

        def update(self, step, state):
            twice = {name: 2 * p for name, p in step.params.items()}
            value, grads = step.value_and_grad_fn(twice)
            assert grads.keys() == step.params.keys()
            close(grads["w"], step.grad_fn(twice)["w"])
            return {name: -step.lr * value * g for name, g in grads.items()}, state

    vc = VarCollection({"w": TrainVar(jnp.float32(1.0)), "f": TrainVar(jnp.float32(3.0))})
    opt = Optimizer(vc, Gradients(), groups=train_only("w"))
    opt.minimize(lambda: vc["w"].value ** 2 * vc["f"].value, lr=0.5)
    close(vc["w"].value, 1.0 - 0.5 * (4 * 3) * (2 * 2 * 3))
    assert vc["f"].value == 3.0


def test_minimize_gives_a_groups_own_rule_what_it_needs():
    vc = VarCollection({"w": TrainVar(jnp.array([3.0, 4.0])), "b": TrainVar(jnp.float32(0.0))})
    opt = optimizer.SGD(vc, groups=[Group("polyak", "w", rule=rules.PolyakSGD())])
    opt.minimize(lambda: jnp.sum(vc["w"].value ** 2) + vc["b"].value, lr=1.0)
    close(vc["w"].value, [1.5, 2.0])
    assert vc["b"].value == -1.0


# --- which variables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ("body", NAMES[:2]),
        (re.compile("^b"), NAMES[:2]),
        (Norm, ["scale"]),
        (lambda name, x: x.shape == (2,), ["body.bias", "scale"]),
        (("head", Norm), NAMES[2:]),
        (None, NAMES),
    ],
    ids=["regex", "pattern", "type", "predicate", "any of", "all"],
)
def test_a_match_is_a_regex_a_type_a_predicate_or_any_of_them(match, taken):
    opt = optimizer.SGD(variables(), groups=[Group("g", match, lr_scale=0.5)])
    assert [name for name, group in opt.group_of.items() if group == "g"] == taken
    assert set(opt.group_of.values()) <= {"g", "default"}


def test_the_first_match_wins_where_a_later_group_yields():
    groups = [Group("bias", "bias", lr_scale=0.5), Group("body", "body", fallback=True), Group("rest", frozen=True)]
    opt = optimizer.SGD(variables(), groups=groups)
    assert opt.group_of == {"body.w": "body", "body.bias": "bias", "head.w": "rest", "scale": "rest"}


def adamw(*groups, **options):
    return lambda: optimizer.AdamW(variables(), groups=groups, **options)


FAULTS = {
    "no variable": (adamw(Group("g", "decoder")), StructureError, ["'g' gets no variable", "'body.w'", "'decoder'"]),
    "nothing left": (
        adamw(Group("a", "body"), Group("b", "bias", fallback=True)), StructureError,
        ["'b' gets no variable", "after"]),
    "two groups": (
        adamw(Group("a", "body"), Group("b", "bias")), StructureError,
        ["'a' and 'b' both match 'body.bias'", r"fallback=True"]),
    "one name": (adamw(Group("a", "body"), Group("a", "head")), HyperparameterError, ["two groups are called 'a'"]),
    "a rule's name": (adamw(Group("AdamW", "body")), HyperparameterError, ["a group and a rule are called 'AdamW'"]),
    "unknown": (
        adamw(Group("a", "body", beta3=0.5)), HyperparameterError,
        ["group 'a'", "no hyperparameter 'beta3'", "'beta1'"]),
    "out of range": (adamw(Group("a", "body", beta1=1.5)), HyperparameterError, ["'beta1' is out of range"]),
    "scale out of range": (lambda: Group("a", "b", lr_scale=-1.0), HyperparameterError, ["'lr_scale' is out of range"]),
    "lr": (lambda: Group("a", "b", lr=0.1), HyperparameterError, ["lr_scale=0.1"]),
    "frozen and more": (
        lambda: Group("a", "b", frozen=True, lr_scale=0.5), HyperparameterError, ["frozen group", "'lr_scale'"]),
    "rule and more": (
        lambda: Group("a", "b", rule=rules.SGD(), beta1=0.5), HyperparameterError, [r"rule=rules.SGD\(beta1=...\)"]),
    "a class for a rule": (lambda: Group("a", "b", rule=rules.SGD), CompositionError, [r"SGD\(\)"]),
    "a name with a dot": (lambda: Group("a.b", "b"), HyperparameterError, ["no name for a group"]),
    "the name of the rest": (lambda: Group("default", "b"), HyperparameterError, ["no name for a group"]),
    "no match": (lambda: Group("a", 3), StructureError, ["matches no variable", "3"]),
    "another class": (lambda: Group("a", int), StructureError, ["matches no variable", "int"]),
    "no group": (adamw("body"), StructureError, ["not a group", "'body'"]),
    "all frozen": (adamw(Group("a", frozen=True)), StructureError, ["all variables are frozen"]),
    "no slots": (
        lambda: optimizer.SGD(variables(), groups=[Group("a", "b", slot_dtype="bfloat16")]), HyperparameterError,
        ["no slots"]),
    "a norm that differs": (
        lambda: Optimizer(variables(), rules.Chain(rules.ClipByGlobalNorm(), rules.SGD()),
                          groups=[Group("a", "body", max_norm=0.5)]), CompositionError,
        ["ClipByGlobalNorm", "one set of hyperparameters", "rule="]),
    "a wrapper that differs": (
        lambda: Optimizer(variables(), rules.Cautious(rules.SGD()), groups=[Group("a", "body", xi=0.5)]),
        CompositionError, ["Cautious", "rule="]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_meant_is_an_error_at_construction(fault):
    act, error, says = FAULTS[fault]
    with pytest.raises(error) as caught:
        act()
    for pattern in says:
        assert re.search(pattern, str(caught.value)), f"{pattern!r} is not in\n{caught.value}"
    assert isinstance(caught.value, OptimkitError)


# --- names, values, copies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        rules.Adam(),
        rules.AdamW(),
        rules.Chain(rules.ClipByGlobalNorm(), rules.Adam(), rules.Momentum()),
        rules.Chain(rules.Adam(), rules.AdamW(), rules.LAMB()),
        rules.Averaged(rules.Chain(rules.Lookahead(rules.NAdamW(), 3)), 0.9),
    ],
)
def test_groups_rename_no_state(rule):
    plain = own(Optimizer(variables(), rule))
    holder = next(part for _, part in lookup.walk(rule) if isinstance(part, rules.Adam))
    groups = [Group("a", "bias", **{f"{type(holder).__name__}.beta1": 0.5}), Group("b", "head", lr_scale=0.5)]
    assert own(Optimizer(variables(), rule, groups=groups)) == plain
    assert own(Optimizer(variables(), rule, groups=groups[1:])) == plain


# Rules that measure one learning rate for all parameters, or follow one in their state, refuse another one for some.
ONE_RATE = ("DAdaptAdamW", "Prodigy", "DoG", "LDoG", "DoWG", "MoMo", "MoMoAdam", "LBFGS")
TABLE = {name: case.rule for name, case in RULES.items() if type(case.rule).__name__ not in ONE_RATE}
TABLE_START = {"weight": np.linspace(-1, 1, 6).reshape(3, 2), "bias": np.ones(2), "scale": np.linspace(0.5, 1, 3)}


def table_run(rule, lr, steps, **options):
    """Return the parameters and the names of the state after some steps of a rule of the table."""
    vc = VarCollection((name, TrainVar(jnp.asarray(x, jnp.float32))) for name, x in TABLE_START.items())
    opt = Optimizer(vc, rule, **options)
    known = {"value": jnp.float32(1.5), "grad_fn": lambda q: q, "key": jax.random.key(0)}
    inputs = {name: known[name] for name in rule.needs}
    step = Jit(lambda g: opt(lr, g, **inputs), vc + opt.vars())
    rng = np.random.default_rng(0)
    for _ in range(steps):
        step({name: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for name, x in TABLE_START.items()})
    return {name: np.asarray(v) for name, v in vc.items()}, [name for name in own(opt) if "lr_scale" not in name]


@pytest.mark.parametrize("name", TABLE)
def test_groups_rename_no_state_of_any_rule(name):
    group = {"groups": [Group("half", "weight|bias", lr_scale=0.5)]}
    assert table_run(TABLE[name], 0.1, 0, **group)[1] == table_run(TABLE[name], 0.1, 0)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_lr_scale_is_another_learning_rate_for_every_rule(name):
    rule = TABLE[name]
    plain, same = table_run(rule, 0.1, 5)[0], table_run(
        rule, 0.1, 5, groups=[Group("g", "weight|bias", lr_scale=1.0)], dynamic="g.lr_scale")[0]  # fmt: skip
    half, scaled = table_run(rule, 0.05, 5)[0], table_run(rule, 0.1, 5, groups=[Group("all", lr_scale=0.5)])[0]
    for name in plain:
        np.testing.assert_allclose(same[name], plain[name], rtol=0, atol=16 * 2.0**-23)
        np.testing.assert_allclose(scaled[name], half[name], rtol=0, atol=16 * 2.0**-23)


@pytest.mark.parametrize("name", [n for n, case in RULES.items() if type(case.rule).__name__ in ONE_RATE])
def test_a_rule_of_one_learning_rate_refuses_another_for_some(name):
    with pytest.raises(CompositionError, match="groups cannot differ in it"):
        Optimizer(variables(), RULES[name].rule, groups=[Group("half", "body", lr_scale=0.5)])


def test_a_rule_that_moves_all_parameters_at_once_has_one_learning_rate_and_can_be_frozen_in_part():
    with pytest.raises(CompositionError, match=r"LBFGS .* has one learning rate"):
        optimizer.LBFGS(variables(), groups=[Group("a", "body", lr_scale=0.5)])
    vc = variables()
    opt = optimizer.LBFGS(vc, groups=train_only("body"))
    loss = lambda: sum(jnp.sum(v.value**2) for v in vc)  # noqa: E731
    minimize = Jit(lambda: opt.minimize(loss, lr=1.0), vc + opt.vars())
    with unchanged(VarCollection({"scale": vc["scale"]})):
        before, after = minimize(), minimize()
    close(before, 36.5625)
    assert after < before


def test_a_rule_of_a_groups_own_names_its_state_after_the_group_and_leaves_the_others():
    plain, vc = own(optimizer.Adam(variables())), variables()
    names = own(optimizer.Adam(vc, groups=[Group("mom", "head", rule=rules.Momentum())]))
    assert set(names) - set(plain) == {"(Adam).mom[head.w].m", "(Adam).mom.t"}
    assert set(plain) - set(names) == {"(Adam)[head.w].mu", "(Adam)[head.w].nu"}


def test_hyperparameters_of_groups_are_read_and_assigned():
    vc = variables()
    groups = [Group("head", "head", lr_scale=0.5, beta1=0.5), Group("mom", "scale", rule=rules.Momentum(0.25))]
    opt = optimizer.AdamW(vc, beta1=0.8, groups=groups)
    assert (opt.beta1, opt.group("head").beta1, opt.group("default").beta1) == (0.8, 0.5, 0.8)
    assert (opt.group("head").lr_scale, opt.group("head").beta2, opt.group("mom").momentum) == (0.5, 0.999, 0.25)
    opt.group("head").lr_scale, opt.group("mom").momentum, opt.beta2 = 0.25, 0.5, 0.9
    assert (opt.group("head").lr_scale, opt.group("mom").momentum, opt.group("head").beta2) == (0.25, 0.5, 0.9)
    assert groups[0].lr_scale == 0.5
    assert "lr_scale=0.25" in repr(opt.group("head"))
    with pytest.raises(HyperparameterError, match=r"'lr_scale' is out of range|'head.lr_scale' is out of range"):
        opt.group("head").lr_scale = -1.0
    with pytest.raises(AttributeError, match="no hyperparameter 'betta'"):
        opt.group("head").betta  # noqa: B018
    with pytest.raises(AttributeError, match="no hyperparameter 'betta'"):
        opt.group("head").betta = 1.0
    with pytest.raises(HyperparameterError, match="there is no hyperparameter 'head'"):
        opt(0.1, stream(1)[0], head=1.0)
    with pytest.raises(HyperparameterError, match=r"the group 'f' is frozen, it has no 'beta1'"):
        optimizer.Adam(variables(), groups=[Group("f", "body", frozen=True)], dynamic="f.beta1")
    with pytest.raises(HyperparameterError, match=r"no group 'tail'.*\n.*'default', 'head', 'mom'"):
        opt.group("tail")


def test_an_override_reaches_the_groups_that_have_no_value_of_their_own():
    def run(override, **options):
        vc = variables()
        opt = optimizer.AdamW(vc, **options)
        opt(0.1, stream(1)[0], **override)
        return {n: np.asarray(v) for n, v in vc.items()}

    groups = [Group("none", "bias", weight_decay=0.0), Group("slow", "head", lr_scale=0.5)]
    got = run({"weight_decay": 0.5, "slow.lr_scale": 0.25}, groups=groups)
    wanted = run({}, groups=[groups[0], Group("slow", "head", lr_scale=0.25)], weight_decay=0.5)
    assert all((got[n] == wanted[n]).all() for n in NAMES)
    assert (got["head.w"] != run({}, groups=groups)["head.w"]).all()


def test_a_hyperparameter_of_a_group_is_dynamic_or_follows_a_schedule_without_a_new_compile():
    vc, twin = variables(), variables()
    groups = [Group("head", "head", lr_scale=0.5), Group("body", "body", beta1=lambda t: 0.1 * t)]
    opt = optimizer.Adam(vc, groups=groups, dynamic=("head.lr_scale",))
    assert {"(Adam).head.lr_scale", "(Adam).clock"} < set(own(opt))
    counted = Counted(lambda g: opt(0.1, g))
    step = Jit(counted, vc + opt.vars())
    reference = optimizer.Adam(twin, groups=[Group("head", "head", lr_scale=0.5), Group("body", "body", beta1=0.0)])
    for i, grads in enumerate(stream()):
        opt.group("head").lr_scale = 0.5 * i
        close(opt.group("body").beta1, 0.1 * i)
        step(grads)
        reference(0.1, grads, **{"head.lr_scale": 0.5 * i, "body.beta1": np.float32(0.1) * i})
    assert counted.traces == 1
    for name in NAMES:
        close(vc[name].value, twin[name].value, ulps=16)


def test_optimizers_with_groups_are_copied_and_pickled():
    vc = variables()
    opt = optimizer.AdamW(vc, groups=[*no_decay("bias"), Group("mom", "head", rule=rules.Momentum())])
    opt(0.1, stream(1)[0])
    for duplicate in (copy.deepcopy((vc, opt)), pickle.loads(pickle.dumps((vc, opt)))):
        theirs, other = duplicate
        assert other.group_of == opt.group_of
        other(0.1, stream(2)[1])
        twin_vc, twin = copy.deepcopy((vc, opt))
        twin(0.1, stream(2)[1])
        assert bits(theirs, other.vars()) == bits(twin_vc, twin.vars())


def test_a_wrapper_that_hides_the_names_of_parameters_is_refused_rather_than_mistaken():
    class Anonymous(rules.Wrapper):
        def init(self, params):
            return self.inner.init(list(params.values()))

        def update(self, step, state):
            params, grads = list(step.params.values()), list(step.grads.values())
            delta, state = self.inner.update(step.replace(grads=grads, params=params), state)
            return dict(zip(step.params, delta, strict=True)), state

    with pytest.raises(StructureError, match=r"parameter '0' is in no group.*\n.*\n.*\n.*under their names"):
        Optimizer(variables(), Anonymous(rules.Adam()), groups=[Group("a", "body", beta1=0.5)])


def test_a_partition_restricts_the_functions_of_the_loss_to_each_route():
    class Uses(rules.Rule):
        needs = ("value_and_grad_fn",)

        def init(self, params):
            return {}

        def update(self, step, state):
            value, grads = step.value_and_grad_fn(step.params)
            assert grads.keys() == step.params.keys()
            return {n: -step.lr * value * g for n, g in grads.items()}, state

    vc = VarCollection({"a": TrainVar(jnp.float32(1.0)), "b": TrainVar(jnp.float32(2.0))})
    Optimizer(vc, rules.Partition(("a", Uses()), ("b", Uses()))).minimize(
        lambda: vc["a"].value * vc["b"].value, lr=0.25)  # fmt: skip
    close(vc["a"].value, 1.0 - 0.25 * 2 * 2)
    close(vc["b"].value, 2.0 - 0.25 * 2 * 1)


def test_labels_of_a_partition_name_its_state():
    rule = rules.Partition(("b", rules.Momentum()), (".", rules.Adam()), labels=("heavy", ""))
    vc = VarCollection({"w": TrainVar(jnp.ones(1)), "b": TrainVar(jnp.ones(1))})
    assert own(Optimizer(vc, rule)) == [
        "(Optimizer)[w].mu", "(Optimizer)[w].nu", "(Optimizer).t", "(Optimizer).heavy[b].m", "(Optimizer).heavy.t",
    ]  # fmt: skip
    assert rule.replace(rules=rule.rules) == rule
    assert "labels=('heavy', '')" in repr(rule)
    for labels in (("a",), ("a", "a"), (1, 2)):
        with pytest.raises(CompositionError, match="labels do not fit"):
            rules.Partition(("b", rules.SGD()), (".", rules.SGD()), labels=labels)


# --- recipes ----------------------------------------------------------------------------------------------------------


def model():
    return nn.Sequential(
        [nn.Linear(2, 3), nn.BatchNorm0D(3), nn.Linear(3, 3, use_bias=False), nn.LayerNorm((2, 3)), nn.Conv2D(1, 2, 3)]
    )


def test_biases_and_norms_do_not_decay():
    opt = optimizer.AdamW(model().vars(), weight_decay=0.5, groups=no_decay())
    decaying = [name for name, group in opt.group_of.items() if group == "default"]
    assert decaying == ["(Sequential)[0](Linear).w", "(Sequential)[2](Linear).w", "(Sequential)[4](Conv2D).w"]
    assert len(opt.group_of) == 9
    assert (opt.group("no_decay").weight_decay, opt.weight_decay) == (0.0, 0.5)


def test_vectors_do_not_decay_whatever_they_are_called():
    vc = variables() + {"table": TrainVar(jnp.ones((2, 2)))}
    assert optimizer.AdamW(vc, groups=no_decay()).group_of == dict.fromkeys(START, "no_decay") | {"table": "default"}


def test_the_rate_of_a_stage_is_left_out_too():
    vc = VarCollection({"w": TrainVar(jnp.ones((1, 1))), "bias": TrainVar(jnp.ones(1))})
    opt = Optimizer(vc, rules.Chain(rules.WeightDecay(0.5), rules.SGD()), groups=no_decay(hyperparameter="rate"))
    opt(0.1, [jnp.zeros((1, 1)), jnp.zeros(1)])
    close(vc["w"].value, [[0.95]])
    assert vc["bias"].value == 1.0


def test_layers_nearer_to_the_input_learn_slower():
    vc = VarCollection((name, TrainVar(jnp.zeros(1))) for name in ("embed", "block0", "block1", "head"))
    opt = optimizer.SGD(vc, groups=layerwise_lr_decay(["embed", "block0", "block1"], 0.5))
    opt(1.0, [jnp.ones(1)] * 4)
    assert [float(v.value[0]) for v in vc] == [-0.125, -0.25, -0.5, -1.0]
    for layers, decay in (([], 0.5), ("embed", 0.5), (["embed"], 1.5)):
        with pytest.raises(HyperparameterError):
            layerwise_lr_decay(layers, decay)


def test_two_divisions_are_crossed():
    groups = crossed(layerwise_lr_decay(["body", "head"], 0.5), no_decay("bias|scale"))
    vc = variables()
    opt = optimizer.AdamW(vc, weight_decay=0.5, groups=groups)
    assert opt.group_of == {
        "body.w": "layer0", "body.bias": "layer0_no_decay", "head.w": "layer1", "scale": "no_decay"}  # fmt: skip
    opt(0.1, {name: jnp.zeros_like(v.value) for name, v in vc.items()})
    close(vc["body.w"].value, np.array(START["body.w"]) * (1 - 0.1 * 0.25 * 0.5))
    close(vc["body.bias"].value, START["body.bias"])
    close(vc["head.w"].value, np.array(START["head.w"]) * (1 - 0.1 * 0.5 * 0.5))


def test_crossed_groups_put_options_together_or_say_why_not():
    both = crossed([Group("a", "x", lr_scale=0.5)], [Group("b", "y", lr_scale=0.5, beta1=0.5)])[0]
    assert (both.name, both.lr_scale, both.hyperparameters) == ("a_b", 0.25, {"beta1": 0.5})
    assert crossed([Group("a", "x", lr_scale=0.5)], [Group("b", "y", frozen=True)])[0].frozen
    for a, b in (({"beta1": 0.5}, {"beta1": 0.6}), ({"rule": rules.SGD()}, {"beta1": 0.6}),
                 ({"lr_scale": lambda t: 1.0}, {"lr_scale": 0.5})):  # fmt: skip
        with pytest.raises(HyperparameterError, match="crossed: "):
            crossed([Group("a", "x", **a)], [Group("b", "y", **b)])


def test_only_the_adapters_are_trained():
    net = model()
    net.append(nn.Linear(3, 1))
    opt = optimizer.AdamW(net.vars(), weight_decay=0.5, groups=train_only(r"\[5\]"))
    frozen = VarCollection((n, v) for n, v in net.vars().subset(TrainVar).items() if "[5]" not in n)
    with unchanged(frozen):
        opt(0.1, [jnp.ones_like(v.value) for v in opt.train_vars])
    assert sorted(name for name in own(opt) if "[5]" not in name) == ["(AdamW).Adam.t"]
    assert not isinstance(opt.state["(Sequential)[0](Linear).w"], StateVar)
    assert vars(opt.state["(Sequential)[0](Linear).w"]) == {}
