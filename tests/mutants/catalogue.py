"""Which mutants there are: every operator at every place of the rules, and the part of them that is tested.

The part is a sample, drawn by hashes: a mutant's rank is the hash of ``SEED`` and its name, and each class or function
gives the first few in which no operator comes twice. So the sample is the same everywhere and always, and a change in
one rule leaves that of the others alone.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from optimkit import rules
from optimkit.rules import Rule
from optimkit.rules.averaged import wide_copies
from optimkit.testing import runner, streams
from tests import oracles
from tests.mutants.operators import OPERATORS, Context, called
from tests.mutants.transplant import source_tree, transplanted
from tests.oracles import wrappers
from tests.rule_table import RULES, Case

SEED = 0
PER_TARGET = 2  # mutants of each class or function
PER_OPERATOR = 2  # at least as many of each operator, where there are

# Functions that calculate nothing: they refuse, show, or name.
LEFT_OUT = ("__init__", "__post_init__", "__repr__", "replace", "routes_of", "_first", "_has_slots", "_dtype")


def every_two(steps: object) -> int:
    """Return 2 whatever the number of steps is: a schedule of ``Accumulated``."""
    return 2


def oracle_momentum_twice(params: Any, grads: Any, lr: Any, **hyper: Any) -> Any:
    """Momentum on the directions of momentum: displacements at a learning rate of 1 are directions."""
    first = oracles.oracle_momentum(params, grads, [1.0] * len(grads), momentum=hyper["Momentum.momentum"])
    directions = [{n: x[n] - y[n] for n in x} for x, y in zip([params, *first[:-1]], first, strict=True)]
    return oracles.oracle_momentum(params, directions, lr, momentum=hyper["Momentum_2.momentum"])


def oracle_accumulated_by_two(params: Any, grads: Any, lr: Any, *, every: Any, **hyper: Any) -> Any:
    """A step with the mean of every two gradients."""
    return wrappers.oracle_accumulated(params, grads, lr, every=2, **hyper)


def falling(steps: Any) -> Any:
    """Return 1, 1/2, 1/3, ...: a schedule of ``Scaled``."""
    return 1 / (1 + steps)


def oracle_scaled_by_falling(params: Any, grads: Any, lr: Any, *, factor: Any, **hyper: Any) -> Any:
    """Momentum whose learning rate falls."""
    return oracles.oracle_momentum(params, grads, [x / (1 + t) for t, x in enumerate(lr)], **hyper)


class Shown(rules.Wrapper):
    """Holds the parameters where the inner rule evaluates, so that an oracle of trajectories sees its averages."""

    chainable = False

    def init(self, params: Any) -> Any:
        return {"inner": self.inner.init(params), "position": wide_copies(params)}

    def update(self, step: Any, state: Any) -> Any:
        delta, inner = self.inner.update(step.replace(params=state["position"]), state["inner"])
        position = rules.displace(state["position"], delta)
        shown = self.inner.eval_params(inner, position)
        return jax.tree.map(jnp.subtract, shown, step.params), {"inner": inner, "position": position}


def oracle_average(params: Any, grads: Any, lr: Any, **hyper: Any) -> Any:
    """The averages on the way of momentum."""
    options = {name: hyper.pop(name) for name in ("decay", "start", "power") if name in hyper}
    return wrappers.averages(oracles.oracle_momentum(params, grads, lr, **hyper), **options)


FUNCTION = {"check_hyperparameters_matter": "a function is not 10 % more than another"}

# Rows that the table of rules has not: code in them runs nowhere else.
ROWS: dict[str, Case] = RULES | {
    "Momentum twice": Case(rules.Chain(rules.Momentum(0.5), rules.Momentum(0.8)), oracle_momentum_twice),
    "Averaged and shown": Case(Shown(rules.Averaged(rules.Momentum(), 0.9, 2)), oracle_average),
    "PolynomialAveraged and shown": Case(Shown(rules.PolynomialAveraged(rules.Momentum(), 8.0, 2)), oracle_average),
    "Masked for all": Case(rules.Masked(rules.Momentum(), "."), oracles.oracle_momentum),
    "Accumulated by a function": Case(
        rules.Accumulated(rules.Adam(), every_two), oracle_accumulated_by_two, expected_failures=FUNCTION
    ),
    "Scaled by a function": Case(
        rules.Scaled(rules.Momentum(), falling), oracle_scaled_by_falling, expected_failures=FUNCTION
    ),
}

# Functions and classes that several rules have in common: the rows by which their mutants are tested.
SHARED: dict[str, tuple[str, ...]] = {
    "optimkit.numerics:count_up": ("Adam", "ZeroNaNs"),
    "optimkit.numerics:cast": ("Adam", "ClipByGlobalNorm"),
    "optimkit.numerics:compute_dtype": ("Adam", "SGD"),
    "optimkit.numerics:norm": ("PolyakSGD", "TrustRatio", "ClipByGlobalNorm", "NovoGrad"),
    "optimkit.numerics:one_minus_pow": ("Adam", "RAdam"),
    "optimkit.numerics:safe_divide": ("Adam", "AdaGrad"),
    "optimkit.rules.base:LeafRule": ("Adam", "SGD", "ZeroNaNs"),
    "optimkit.rules.base:Wrapper": ("Cautious", "Averaged"),
    "optimkit.rules.base:_update_one": ("Adam", "ZeroNaNs"),
    "optimkit.rules.adagrad:_axes_without": ("SM3",),
    "optimkit.rules.adam_variants:_one_minus_langevin": ("RAdam",),
    "optimkit.rules.adam_variants:debiased": ("LaProp", "AMSGrad"),
    "optimkit.rules.adam_variants:ema": ("LaProp", "GrokFast"),
    "optimkit.rules.adam_variants:sma_length": ("RAdam",),
    "optimkit.rules.averaged:Average": ("Averaged", "Averaged and shown"),
    "optimkit.rules.averaged:Averaged": ("Averaged", "Averaged and shown"),
    "optimkit.rules.averaged:PolynomialAveraged": ("PolynomialAveraged", "PolynomialAveraged and shown"),
    "optimkit.rules.averaged:wide_copies": ("Averaged", "Lookahead"),
    "optimkit.rules.clipping:clipped": ("ClipByBlockRMS", "Adafactor"),
    "optimkit.rules.clipping:rms": ("ClipByBlockRMS", "Adafactor"),
    "optimkit.rules.clipping:shrunk": ("ClipByBlockRMS", "ClipByGlobalNorm", "AdaptiveClip"),
    "optimkit.rules.clipping:unit_norms": ("AdaptiveClip",),
    "optimkit.rules.compose:Chain": ("L2 before Adam", "Momentum twice"),
    "optimkit.rules.compose:Composed": ("AdamW", "LAMB rule"),
    "optimkit.rules.compose:Frozen": ("Frozen", "Partition"),
    "optimkit.rules.compose:Partition": ("Partition",),
    "optimkit.rules.factored:_means_of": ("Adafactor", "CAME"),
    "optimkit.rules.factored:matrix_axes": ("Adafactor", "CAME"),
    "optimkit.rules.factored:means": ("Adafactor", "CAME"),
    "optimkit.rules.factored:normalised": ("Adafactor", "CAME"),
    "optimkit.rules.factored:zero_means": ("Adafactor", "CAME"),
    "optimkit.rules.gated:_added": ("Accumulated",),
    "optimkit.rules.gated:choose": ("Accumulated", "SkipNonFinite"),
    "optimkit.rules.stages:trust_scaled": ("TrustRatio", "LARS"),
    "optimkit.rules.wrappers:still": ("Accumulated", "SkipNonFinite"),
    "optimkit.rules.wrappers:widened": ("Cautious", "Lookahead"),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A class or function whose source is changed, and the rows of the table of rules that run it."""

    module: str
    name: str
    rows: tuple[str, ...]

    @property
    def place(self) -> str:
        """The file's name without its ending, and the name of the class or function."""
        return f"{self.module.rpartition('.')[2]}.{self.name}"

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules that run it."""
        return {name: ROWS[name].rule for name in self.rows}


@dataclasses.dataclass(frozen=True, eq=False)
class Mutant:
    """A target with one mistake.

    Attributes:
        target: what is changed.
        operator: the name of the operator.
        function: the function that the change is in, "" where it is in the body of a class.
        change: source before and after, in one line.
        old: the node that is replaced.
        new: what replaces it.
    """

    target: Target
    operator: str
    function: str
    change: str
    old: ast.AST
    new: ast.AST

    @functools.cached_property
    def name(self) -> str:
        """What tells it from all others, and does not change when lines move."""
        inside = f".{self.function}" if self.function not in ("", self.target.name) else ""
        return f"{self.target.place}{inside} {self.operator}: {self.change}"

    @functools.cached_property
    def rank(self) -> str:
        """A number that has nothing to do with what the mutant is."""
        return hashlib.sha256(f"{SEED} {self.name}".encode()).hexdigest()

    @property
    def line(self) -> int:
        """Where in the module's file."""
        return getattr(self.old, "lineno", 0)

    @property
    def tree(self) -> ast.Module:
        """The module with the change."""
        tree = _swapped(source_tree(self.target.module), self.old, self.new)
        assert isinstance(tree, ast.Module)
        return tree


@functools.cache
def targets() -> tuple[Target, ...]:
    """Return all targets: the classes of the table's rows, and what they have in common."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row, case in ROWS.items():
        cls = type(case.rule)
        if cls.__module__.startswith("optimkit.rules.") and f"{cls.__module__}:{cls.__name__}" not in SHARED:
            rows.setdefault((cls.__module__, cls.__name__), []).append(row)
    own = [Target(module, name, tuple(names)) for (module, name), names in rows.items()]
    shared = [Target(*place.split(":"), names) for place, names in SHARED.items()]
    return tuple(sorted([*own, *shared], key=lambda t: (t.module, t.name)))


@functools.cache
def all_mutants(target: Target) -> tuple[Mutant, ...]:
    """Return the mutants of a target, by all operators at all places, those of the lowest rank first."""
    definition = next(x for x in source_tree(target.module).body if getattr(x, "name", None) == target.name)
    has_oracle = any(ROWS[row].oracle is not None for row in target.rows)
    usable = [x for x in OPERATORS.values() if has_oracle or x.form]
    found: list[Mutant] = []
    for node, context in _places(definition, Context(fields=_fields(target))):
        seen = {_text(node)}
        for operator in usable:
            for source in operator.variants(node, context):
                new = _parsed(source, node)
                if _text(new) not in seen:
                    seen.add(_text(new))
                    change = "the function" if isinstance(node, ast.FunctionDef) else f"{_text(node)} -> {_text(new)}"
                    found.append(Mutant(target, operator.name, context.function, change, node, new))
    return tuple(sorted(_told_apart(found), key=lambda m: m.rank))


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _told_apart(mutants: list[Mutant]) -> list[Mutant]:
    """Number those that do the same to equal sources in different places."""
    seen: Counter[str] = Counter()
    result = []
    for mutant in mutants:
        seen[mutant.name] += 1
        n = seen[mutant.name]
        result.append(mutant if n == 1 else dataclasses.replace(mutant, change=f"{mutant.change} (no. {n})"))
    return result


def _parsed(source: str, like: ast.AST) -> ast.AST:
    if isinstance(like, ast.expr):
        return ast.parse(source, mode="eval").body
    return ast.parse(source).body[0]


def _swapped(node: ast.AST, old: ast.AST, new: ast.AST) -> ast.AST:
    """Return a tree with one node for another; what is not changed is shared."""
    if node is old:
        return ast.copy_location(new, old)
    fields = {}
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value = [_swapped(x, old, new) if isinstance(x, ast.AST) else x for x in value]
        fields[name] = _swapped(value, old, new) if isinstance(value, ast.AST) else value
    return ast.copy_location(type(node)(**fields), node)


def _fields(target: Target) -> tuple[tuple[str, str], ...]:
    """Return the hyperparameters of a class and of its bases in the same package, with the source of their defaults."""
    cls = type(next((r for r in target.rules.values() if type(r).__name__ == target.name), None))
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("optimkit.rules."):
            definition = next(x for x in source_tree(base.__module__).body if getattr(x, "name", "") == base.__name__)
            for node in definition.body:  # type: ignore[attr-defined]
                if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and called(node.value, "hyper"):
                    found[ast.unparse(node.target)] = ast.unparse(node.value.args[0])
    return tuple(found.items())


def _places(node: ast.AST, context: Context) -> Iterator[tuple[ast.AST, Context]]:
    """Yield the nodes that operators may look at: no annotations, docstrings, messages or names of things."""
    match node:
        case ast.FunctionDef(name=name) if name in LEFT_OUT:
            return
        case ast.FunctionDef(name=name) if not context.function:
            arguments = tuple(x.arg for x in [*node.args.args, *node.args.kwonlyargs])
            context = dataclasses.replace(context, function=name, arguments=arguments, slots=_slots(node))
            yield node, context
            yield from _places_in(node.body, context)
            return
        case ast.FunctionDef():
            yield from _places_in(node.body, context)
            return
        case ast.ClassDef(name=name):
            yield from _places_in(node.body, dataclasses.replace(context, cls=name))
            return
        case ast.AnnAssign(value=ast.expr() as value):
            yield from _places(value, context)
            return
        case ast.Raise() | ast.JoinedStr() | ast.Expr(ast.Constant()):
            return
    yield node, context
    for name, value in ast.iter_fields(node):
        below = context
        shapes = called(node, "zeros", "range", "moveaxis", "reshape", "expand_dims")
        if name == "slice" or (name == "keywords" and not called(node, "replace")) or shapes:
            below = dataclasses.replace(context, index=True)
        elif isinstance(node, ast.Return):
            yield from _returned(node, context)
            return
        yield from _places_in(value if isinstance(value, list) else [value], below)


def _returned(node: ast.Return, context: Context) -> Iterator[tuple[ast.AST, Context]]:
    stored = dataclasses.replace(context, stored=True)
    if isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        yield from _places(node.value.elts[0], context)
        yield from _places(node.value.elts[1], stored)
    elif node.value is not None:
        yield from _places(node.value, stored if isinstance(node.value, ast.Dict) else context)


def _places_in(nodes: list[object], context: Context) -> Iterator[tuple[ast.AST, Context]]:
    for node in nodes:
        if isinstance(node, ast.AST):
            yield from _places(node, context)


def _slots(function: ast.FunctionDef) -> tuple[str, ...]:
    found = (x for x in ast.walk(function) if isinstance(x, ast.Subscript) and isinstance(x.slice, ast.Constant))
    return tuple(dict.fromkeys(x.slice.value for x in found if ast.unparse(x.value) in ("slot", "state")))  # type: ignore[attr-defined]


def runs(mutant: Mutant) -> bool:
    """Tell whether a mutant is a program at all: its rules can be made, and take a step."""
    params = jax.tree.map(jnp.asarray, streams.parameters())
    with warnings.catch_warnings():  # whether this session makes errors of warnings must not decide
        warnings.simplefilter("ignore")
        try:
            with transplanted(mutant.target.module, mutant.tree, mutant.target.rules) as rules:
                return any(_steps(rule, params) for rule in rules.values())
        except Exception:  # noqa: BLE001  a mutant may raise anything
            return False


def _steps(rule: Rule, params: object) -> bool:
    try:
        state = jax.eval_shape(rule.init, params)
        jax.eval_shape(lambda g, s, p, lr: runner.stepped(rule, g, s, p, lr), params, state, params, jnp.float32(1))
    except Exception:  # noqa: BLE001  a mutant may raise anything
        return False
    return True


@functools.cache
def first_of_operators() -> frozenset[str]:
    """Return the names of the mutants of the lowest ranks of each operator."""
    everything = sorted((m for target in targets() for m in all_mutants(target)), key=lambda m: m.rank)
    count: Counter[str] = Counter()
    return frozenset(m.name for m in everything if count.update([m.operator]) or count[m.operator] <= PER_OPERATOR)


@functools.cache
def chosen(target: Target) -> tuple[Mutant, ...]:
    """Return the mutants of a target that are tested, in the order of the source."""
    found: list[Mutant] = []
    sources: set[str] = set()  # nested nodes can be changed to one source
    for mutant in all_mutants(target):
        room = len(found) < PER_TARGET and mutant.operator not in {m.operator for m in found}
        if (room or mutant.name in first_of_operators()) and _text(mutant.tree) not in sources and runs(mutant):
            sources.add(_text(mutant.tree))
            found.append(mutant)
    return tuple(sorted(found, key=lambda m: (m.line, m.name)))


def catalogue() -> list[Mutant]:
    """Return all mutants that are tested."""
    return [mutant for target in targets() for mutant in chosen(target)]
