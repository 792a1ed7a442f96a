"""Mutation testing of the kit: what the operators do, what the sample holds, and that the kit rejects all but a few.

``make test`` looks at operators and sample; ``make test-all`` tries every mutant, a class or function at a time.
"""

from __future__ import annotations

import ast

import pytest

from optimkit import rules
from optimkit.testing import streams
from optimkit.testing.runner import eager, run

from .mutants.catalogue import all_mutants, catalogue, chosen, targets
from .mutants.known import EQUIVALENT, SURVIVORS
from .mutants.operators import OPERATORS, Context
from .mutants.run import AIM, Verdict, document, main, summary, table
from .mutants.transplant import source_tree, transplanted
from .mutants.trial import rejection, trials, try_mutant
from .rule_table import RULES

BY_TARGET = pytest.mark.parametrize("target", targets(), ids=lambda t: t.place)

STEP = Context(
    function="update_leaf", arguments=("self", "g", "slot", "p"), slots=("mu",),
    fields=(("beta1", "0.9"), ("beta2", "0.999"), ("eps", "1e-08"), ("eps_root", "0.0"), ("weight_decay", "0.01")),
)  # fmt: skip
STORED = Context(function="update", arguments=("self", "step", "state"), stored=True)
INIT = Context(function="init_leaf", arguments=("self", "p"))
LEAF = "def update_leaf(self, g, slot, p, *, lr, t):\n    'Doc.'\n    "

# operator, where, a source, and what it becomes
SAID = [
    ("drop_term", STEP, "a + b", ["a", "b"]),
    ("drop_term", STEP, "a - b", ["a", "-b"]),
    ("swap_sign", STEP, "a + b", ["a - b"]),
    ("swap_sign", STEP, "-a", ["a"]),
    ("drop_factor", STEP, "a * b", ["a", "b"]),
    ("drop_factor", STEP, "lr * b", []),
    ("drop_factor", STEP, "a / b", ["a"]),
    ("product_for_quotient", STEP, "a / b", ["a * b"]),
    ("square_to_abs", STEP, "g ** 2", ["jnp.abs(g)"]),
    ("drop_function", STEP, "jnp.sqrt(nu)", ["nu"]),
    ("constant_off", STEP, "0.5", ["0.55"]),
    ("swap_operands", STEP, "safe_divide(a, b)", ["safe_divide(b, a)"]),
    ("swap_operands", STEP, "jnp.where(c, a, b)", ["jnp.where(c, b, a)"]),
    ("max_for_min", STEP, "jnp.maximum(a, b)", ["jnp.minimum(a, b)"]),
    ("max_for_min", STEP, "jnp.max(x, rest, initial=0.0)", ["jnp.min(x, rest, initial=jnp.inf)"]),
    ("drop_bound", STEP, "jnp.maximum(a, b)", ["a", "b"]),
    ("drop_bound", STEP, "jnp.clip(g, -c, c)", ["g"]),
    ("lr_missing", STEP, "lr", ["jnp.float32(1.0)"]),
    ("lr_squared", STEP, "step.lr", ["step.lr * step.lr"]),
    ("step_off_by_one", STEP, "t", ["t + 1", "jnp.maximum(t - 1, 1)"]),
    ("decay_power", STEP, "self.beta1", ["self.beta1 ** 2"]),
    ("no_bias_correction", STEP, "mu / one_minus_pow(b, t)", ["mu"]),
    ("no_bias_correction", STEP, "debiased(mu, b, t)", ["mu"]),
    ("correction_of_first_step", STEP, "debiased(mu, b, t)", ["debiased(mu, b, 1.0)"]),
    ("swap_hyperparameters", STEP, "self.beta1", ["self.beta2"]),
    ("hyperparameter_ignored", STEP, "self.eps", ["1e-08"]),
    ("eps_into_root", STEP, "jnp.sqrt(nu) + self.eps", ["jnp.sqrt(nu + self.eps)"]),
    ("eps_out_of_root", STEP, "jnp.sqrt(nu + self.eps_root)", ["jnp.sqrt(nu) + self.eps_root"]),
    ("eps_as_bound", STEP, "root + self.eps", ["jnp.maximum(root, self.eps)"]),
    ("guard_removed", STEP, "safe_divide(a, b)", ["a / b"]),
    ("case_dropped", STEP, "jnp.where(c, a, b)", ["a", "b"]),
    ("comparison_off", STEP, "a < b", ["a <= b"]),
    ("comparison_turned", STEP, "a == b", ["a != b"]),
    ("wrong_logic", STEP, "a & b", ["a | b"]),
    ("wrong_logic", STEP, "a and b", ["a or b"]),
    ("wrong_logic", STEP, "not a", ["a"]),
    ("option_turned", STEP, "a if c else b", ["b if c else a"]),
    ("option_ignored", STEP, "a if c else b", ["a", "b"]),
    ("option_ignored", STEP, "if c:\n    a = 1", ["pass"]),
    ("stale_state", STORED, "{'t': t, 'key': k}", ["{'t': state['t'], 'key': k}", "{'t': t, 'key': state['key']}"]),
    ("one_step_late", STEP, "mu", ["slot['mu']"]),
    ("starts_as_parameter", INIT, "jnp.zeros_like(p)", ["p"]),
    ("starts_elsewhere", INIT, "jnp.zeros_like(p)", ["jnp.ones_like(p)"]),
    ("starts_elsewhere", INIT, "jnp.zeros((), jnp.int32)", ["jnp.ones((), jnp.int32)"]),
    ("copy_dropped", INIT, "jnp.array(p, d, copy=True)", ["jnp.asarray(p, d)"]),
    ("copy_dropped", INIT, "_own(x, p)", ["x"]),
    ("writes_in_place", STORED, "{'t': t}", ["(state.update({'t': t}), state)[1]"]),
    ("kept_on_the_class", STEP, f"{LEAF}return g",
     ["def update_leaf(self, g, slot, p, *, lr, t):\n    type(self).last = g\n    return g"]),
    ("counter_overflows", STEP, "numerics.count_up(t)", ["t + 1"]),
    ("counter_stands_still", STEP, "numerics.count_up(t)", ["t"]),
    ("counter_dtype", INIT, "jnp.int32", ["jnp.float32", "jnp.bfloat16"]),
    ("not_cast", STEP, "numerics.cast(x, d)", ["x"]),
    ("not_cast", STEP, "x.astype(d)", ["x"]),
    ("wrong_axis", STEP, "second", ["largest"]),
    ("wrong_axis", STEP, "range(g.ndim - 1)", ["range(1, g.ndim)"]),
    ("wrong_axis", STEP, "unit_norms(g, n)", ["unit_norms(g, 0)"]),
    ("norm_of_each", STEP, "numerics.norm(g)", ["jnp.abs(g)"]),
    ("key_reused", STEP, "jax.random.fold_in(key, i)", ["key"]),
    ("key_reused", STEP, "jax.random.split(key)", ["(key, key)"]),
    ("coupled_decay", STEP, f"{LEAF}return g + self.weight_decay * p",
     ["def update_leaf(self, g, slot, p, *, lr, t):\n    g = g + self.weight_decay * p\n    return g"]),
    ("coupled_decay", STEP, "Chain(a, b)", ["Chain(b, a)"]),
    ("chainable_lie", Context(cls="A"), "chainable = False", ["chainable = True"]),
    ("domain_closed", Context(cls="A"), "hyper(0.9, '[0, 1)', 'd')", ["hyper(0.9, '[0, 1]', 'd')"]),
    ("domain_closed", Context(cls="A"), "hyper(0.9, '(0, inf)', 'd')", ["hyper(0.9, '[0, inf)', 'd')"]),
    ("domain_closed", Context(cls="A"), "hyper(0.9, '(-inf, inf)', 'd')", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "context", "source", "expected"), SAID, ids=[f"{x[0]} {x[2][:30]}" for x in SAID])
def test_an_operator_does_what_it_says(name, context, source, expected):
    (node,) = ast.parse(source).body
    node = node.value if isinstance(node, ast.Expr) else node
    found = [ast.unparse(ast.parse(text)) for text in OPERATORS[name].variants(node, context)]
    assert found[: len(expected)] == [ast.unparse(ast.parse(text)) for text in expected]
    assert bool(found) == bool(expected)


def test_every_operator_is_tested_and_has_mutants():
    assert {name for name, *_ in SAID} == set(OPERATORS)
    assert {m.operator for target in targets() for m in all_mutants(target)} == set(OPERATORS)


@BY_TARGET
def test_mutants_of_a_target_are_told_apart_and_differ_from_the_source(target):
    """``chosen`` takes those that run only; that their source is another one is shown here."""
    mutants = chosen(target)
    sources = {ast.unparse(m.tree) for m in mutants}
    assert len({m.name for m in all_mutants(target)}) == len(all_mutants(target))
    assert len(sources) == len(mutants)
    assert ast.unparse(source_tree(target.module)) not in sources


def test_the_sample_is_large_the_same_again_and_nearly_all_of_it_is_killed():
    """Together with the slow test below, this is the rate: what is not listed as known is killed there."""
    mutants = [m.name for m in catalogue()]
    assert len(mutants) == len(set(mutants)) >= 120
    assert set(EQUIVALENT) | set(SURVIVORS) <= set(mutants), "known mutants that are in the sample no more"
    assert len(EQUIVALENT) <= 0.1 * len(mutants)
    assert len(SURVIVORS) <= (1 - AIM) * (len(mutants) - len(EQUIVALENT))


def test_a_reason_is_a_reason():
    for reason in [*EQUIVALENT.values(), *SURVIVORS.values()]:
        assert len(reason.split()) >= 8


# --- the method itself: what kills is the mistake, not the transplant -------------------------------------------------

UNCHANGED = {
    "optimkit.numerics": ("Adam", "Adafactor", "LARS"),
    "optimkit.rules.base": ("Momentum", "AMSGrad", "Averaged"),
    "optimkit.rules.compose": ("AdamW", "LAMB", "Partition"),
    "optimkit.rules.wrappers": ("Cautious", "Accumulated"),
}
PAIRS = [(module, row) for module, rows in UNCHANGED.items() for row in rows]


@pytest.mark.parametrize(("module", "row"), PAIRS)
def test_a_rule_of_copied_but_unchanged_source_does_the_same_to_the_last_bit(module, row):
    params = streams.parameters()
    grads = streams.gradients(params, 3)
    with transplanted(module, source_tree(module), {row: RULES[row].rule}) as copies:
        copy = copies[row]
        assert repr(copy) == repr(RULES[row].rule)
        assert copy != RULES[row].rule or type(RULES[row].rule) in (rules.Chain, rules.Partition)
        got, expected = run(copy, params, grads, update=eager), run(RULES[row].rule, params, grads, update=eager)
    for name, x in expected.params[-1].items():
        assert got.params[-1][name].tobytes() == x.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(("module", "row"), PAIRS)
def test_the_kit_accepts_a_rule_of_copied_but_unchanged_source(module, row):
    target = next(t for t in targets() if row in t.rows)
    with transplanted(module, source_tree(module), {row: RULES[row].rule}) as copies:
        for check in dict.fromkeys(check for check, _ in trials(chosen(target)[0])):
            assert rejection(copies[row], check, row) == ""


# --- the kit ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@BY_TARGET
def test_the_kit_rejects_the_mutants_of(target):
    """All but those that are known. One that is listed and rejected is listed no more: the kit has learned."""
    survivors = [m.name for m in chosen(target) if not try_mutant(m).killed]
    known = {*EQUIVALENT, *SURVIVORS}
    assert survivors == [m.name for m in chosen(target) if m.name in known]


def test_the_table_and_the_page_say_who_killed_and_who_survived():
    killed, alive = (Verdict(m, check, "SGD", check, 0.5) for m, check in
                     zip(all_mutants(targets()[0])[:2], ["check_oracle", ""], strict=True))  # fmt: skip
    assert summary([killed, alive]) == (2, 1, 0)
    assert f"{killed.mutant.name}" in table([killed, alive])
    assert "check_oracle" in table([killed, alive])
    assert f"- `{alive.mutant.name}`: NOT EXPLAINED YET" in document([killed, alive])


@pytest.mark.slow
def test_the_script_tries_the_mutants_of_a_target(capsys):
    assert main(["sgd.Momentum"]) == 0
    out = capsys.readouterr().out
    assert "check_oracle" in out
    assert "killed" in out.splitlines()[-1]
