"""Mistakes in what is around a formula: state, counters, dtypes, axes, keys, and what a class says of itself."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

from tests.mutants.mutation import FORM, Context, called, operator, src

# --- state ------------------------------------------------------------------------------------------------------------


@operator("a part of the old state is returned, as if there had been no step")
def stale_state(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Dict) and c.stored and c.state and c.function.startswith("update"):
        pairs = [(k, v) for k, v in zip(n.keys, n.values, strict=True) if isinstance(k, ast.Constant)]
        for key, value in pairs if len(pairs) == len(n.keys) else []:
            if value is not None and (not c.slots or key.value in c.slots):
                stale = dict(pairs) | {key: ast.parse(f"{c.state}[{key.value!r}]").body[0].value}  # type: ignore[attr-defined]
                yield "{" + ", ".join(f"{ast.unparse(k)}: {ast.unparse(v)}" for k, v in stale.items()) + "}"


@operator("the step is taken by the state from before it")
def one_step_late(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in c.slots and not c.stored:
        yield f"{c.state}[{n.id!r}]"


@operator("a slot starts as the parameter itself", ("check_donation_is_safe", "check_oracle"))
def starts_as_parameter(n: ast.AST, c: Context) -> Iterator[str]:
    if (args := called(n, "zeros_like", "full_like")) and c.function.startswith("init"):
        yield src(args[0])


@operator("a slot starts elsewhere")
def starts_elsewhere(n: ast.AST, c: Context) -> Iterator[str]:
    if c.function.startswith("init"):
        if args := called(n, "zeros_like"):
            yield f"jnp.ones_like({src(args[0])})"
        if args := called(n, "full_like"):
            yield f"jnp.zeros_like({src(args[0])})"
        if (args := called(n, "zeros")) and args[1:]:
            yield f"jnp.ones({', '.join(map(ast.unparse, args))})"


@operator("an array is handed on that belongs to somebody else", ("check_donation_is_safe",), form=True)
def copy_dropped(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Call) and any(k.arg == "copy" for k in n.keywords):
        yield f"jnp.asarray({', '.join(map(ast.unparse, n.args))})"
    if args := called(n, "copy", "_own"):
        yield src(args[0])


@operator("update writes into the state that it was given", ("check_inputs_are_left_alone",), form=True)
def writes_in_place(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Dict) and c.stored and c.state == "state" and c.function == "update":
        yield f"(state.update({ast.unparse(n)}), state)[1]"


@operator("the gradient is kept on the class, out of the state", ("check_no_leaked_tracer",), form=True)
def kept_on_the_class(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.FunctionDef(name="update_leaf" | "update", body=[_, *body]):
            last = "g" if n.name == "update_leaf" else "step.grads"
            yield f"{_head(n)}\n    type(self).last = {last}\n" + _body(body)


def _head(f: ast.FunctionDef) -> str:
    return f"def {f.name}({ast.unparse(f.args)}):"


def _body(body: list[ast.stmt]) -> str:
    return "\n".join("    " + line for x in body for line in ast.unparse(x).splitlines())


# --- counters, dtypes, axes, random keys ------------------------------------------------------------------------------


@operator("a counter turns negative at the end", ("check_counters_saturate",), form=True)
def counter_overflows(n: ast.AST, c: Context) -> Iterator[str]:
    if args := called(n, "count_up"):
        yield f"({src(args[0])} + 1)"


@operator("a counter stands still")
def counter_stands_still(n: ast.AST, c: Context) -> Iterator[str]:
    if args := called(n, "count_up"):
        yield src(args[0])


@operator("a counter has a narrow dtype", FORM, form=True)
def counter_dtype(n: ast.AST, c: Context) -> Iterator[str]:
    if ast.unparse(n) == "jnp.int32" and c.function.startswith("init"):
        yield from ("jnp.float32", "jnp.bfloat16")


@operator("a value is not brought to the dtype that it must have", FORM, form=True)
def not_cast(n: ast.AST, c: Context) -> Iterator[str]:
    if args := called(n, "cast", "widened"):
        yield src(args[0])
    if (args := called(n, "compute_dtype")) and isinstance(args[0], ast.Attribute):
        yield src(args[0])
    if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "astype":
        yield src(n.func.value)


@operator("a sum, mean or norm is over other axes")
def wrong_axis(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.Name("second" | "largest", ast.Load()):
            yield "largest" if n.id == "second" else "second"
        case ast.Call(ast.Name("range"), [ast.BinOp(x, ast.Sub(), ast.Constant(1))]):
            yield f"range(1, {ast.unparse(x)})"
    if (args := called(n, "unit_norms")) and len(args) == 2:
        yield f"{ast.unparse(n.func)}({ast.unparse(args[0])}, 0)"  # type: ignore[attr-defined]


@operator("the size of each element for the norm of all")
def norm_of_each(n: ast.AST, c: Context) -> Iterator[str]:
    if (args := called(n, "norm", "rms")) and len(args) == 1:
        yield f"jnp.abs({src(args[0])})"
    if args := called(n, "global_norm"):
        yield f"jnp.max(jnp.stack([numerics.norm(x) for x in jax.tree.leaves({ast.unparse(args[0])})]))"


@operator("random numbers are drawn again by the same key", ("check_oracle", "check_hyperparameters_matter"))
def key_reused(n: ast.AST, c: Context) -> Iterator[str]:
    if args := called(n, "fold_in"):
        yield src(args[0])
    if args := called(n, "split"):
        yield f"({ast.unparse(args[0])}, {ast.unparse(args[0])})"


# --- weight decay, and what a class says of itself --------------------------------------------------------------------


class _WithoutDecay(ast.NodeTransformer):
    term = "self.weight_decay * p"

    def visit_BinOp(self, n: ast.BinOp) -> ast.AST:
        self.generic_visit(n)
        return n.left if isinstance(n.op, ast.Add) and ast.unparse(n.right) == self.term else n


@operator("the decay is added to the gradient instead of the step")
def coupled_decay(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.FunctionDef(name="update_leaf", body=[_, *body]):
            without = [_WithoutDecay().visit(copy.deepcopy(x)) for x in body]
            if _body(without) != _body(body):
                yield f"{_head(n)}\n    g = g + {_WithoutDecay.term}\n{_body(without)}"
        case ast.Call(ast.Name("Chain"), [_, _, *_] as parts):
            yield f"Chain({', '.join(map(ast.unparse, [parts[1], parts[0], *parts[2:]]))})"


@operator("a rule says that it is chainable and is not, or the reverse", ("check_chainable_is_true",), form=True)
def chainable_lie(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.Assign([ast.Name("chainable")], ast.Constant(False)):
            yield "chainable = True"
        case ast.FunctionDef(name="chainable", body=[*_, ast.Return(ast.expr() as value)]):
            yield f"@property\ndef chainable(self):\n    return not {src(value)}"


@operator("a domain has an end in it at which the formula has no value", ("check_finite_at_the_ends_of_domains",
          "check_hyperparameters_are_validated", "check_any_hyperparameters"), form=True)  # fmt: skip
def domain_closed(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.Call(ast.Name("hyper"), [default, ast.Constant(str(domain)), ast.Constant(doc)], []):
            for opened, closed in (("(", "["), (")", "]")):
                end = domain.strip("int []()").split(", ")[opened == ")"]
                if opened in domain and "inf" not in end:
                    yield f"hyper({ast.unparse(default)}, {domain.replace(opened, closed)!r}, {doc!r})"
