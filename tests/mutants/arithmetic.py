"""Mistakes in formulas: sums, products, the learning rate, the step count, decays, eps, conditions."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.mutants.mutation import MATTER, Context, called, is_lr, number, of_self, operator, src

# --- sums, products, powers -------------------------------------------------------------------------------------------


@operator("a term of a sum is forgotten")
def drop_term(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.Add(), b) if not c.index:
            yield from (src(a), src(b))
        case ast.BinOp(a, ast.Sub(), b) if not c.index:
            yield from (src(a), "-" + src(b))


@operator("a sign is the wrong way round")
def swap_sign(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.Add(), b) if not c.index:
            yield f"{src(a)} - {src(b)}"
        case ast.BinOp(a, ast.Sub(), b) if not c.index:
            yield f"{src(a)} + {src(b)}"
        case ast.UnaryOp(ast.USub(), x) if not c.index and number(x) != 0:  # -0.0 means a zero that changes no bit
            yield src(x)


@operator("a factor or a divisor is forgotten")
def drop_factor(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.Mult(), b) if not (c.index or is_lr(a) or is_lr(b)):
            yield from (src(a), src(b))
        case ast.BinOp(a, ast.Div(), _) if not c.index:
            yield src(a)


@operator("a product for a quotient, or the reverse")
def product_for_quotient(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.Mult(), b) if not c.index:
            yield f"{src(a)} / {src(b)}"
        case ast.BinOp(a, ast.Div(), b) if not c.index:
            yield f"{src(a)} * {src(b)}"


@operator("the absolute value for the square")
def square_to_abs(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.Pow(), ast.Constant(2)):
            yield f"jnp.abs({src(a)})"


@operator("a function of an element is forgotten")
def drop_function(n: ast.AST, c: Context) -> Iterator[str]:
    if (args := called(n, "sqrt", "safe_sqrt", "sign", "abs", "expm1", "log1p", "square")) and len(args) == 1:
        yield src(args[0])


@operator("a constant is off by a tenth")
def constant_off(n: ast.AST, c: Context) -> Iterator[str]:
    value = number(n)
    if value is not None and not c.index and c.function and value not in (0, -1):
        yield repr(round(value * 1.1, 12))


@operator("the operands of a function stand in the wrong order")
def swap_operands(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Call) and (args := called(n, "safe_divide", "where", "arctan2", "ema")):
        a, b = args[-2:] if len(args) == 3 and not called(n, "safe_divide") else args[:2]
        order = [b if x is a else a if x is b else x for x in args]
        yield f"{ast.unparse(n.func)}({', '.join(map(ast.unparse, order))})"


@operator("the larger for the smaller, or the reverse")
def max_for_min(n: ast.AST, c: Context) -> Iterator[str]:
    other = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max"}
    if isinstance(n, ast.Call) and isinstance(f := n.func, ast.Attribute) and f.attr in other:
        kept = [x for x in n.keywords if x.arg != "initial"]
        arguments = ", ".join([*map(ast.unparse, n.args), *map(ast.unparse, kept)])
        initial = ", initial=jnp.inf" if len(kept) < len(n.keywords) else ""
        yield f"{ast.unparse(f.value)}.{other[f.attr]}({arguments}{initial})"


@operator("a bound is forgotten")
def drop_bound(n: ast.AST, c: Context) -> Iterator[str]:
    args = called(n, "maximum", "minimum", "clip")
    if args and not c.index:
        yield from map(src, args[:1] if called(n, "clip") else args[:2])


# --- the learning rate, the step count, the decays --------------------------------------------------------------------


@operator("the learning rate is forgotten")
def lr_missing(n: ast.AST, c: Context) -> Iterator[str]:
    if is_lr(n):
        yield "jnp.float32(1.0)"


@operator("the learning rate is multiplied twice")
def lr_squared(n: ast.AST, c: Context) -> Iterator[str]:
    if is_lr(n):
        yield f"({ast.unparse(n)} * {ast.unparse(n)})"


@operator("steps are counted from another number")
def step_off_by_one(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Name) and n.id == "t" and isinstance(n.ctx, ast.Load) and not c.stored:
        yield from ("(t + 1)", "jnp.maximum(t - 1, 1)")


@operator("a decay has another power")
def decay_power(n: ast.AST, c: Context) -> Iterator[str]:
    name = of_self(n)
    if name.startswith(("beta", "decay", "momentum")) and name not in ("momentum_decay", "momentum_dtype"):
        yield f"(self.{name} ** 2)"


@operator("the correction of a mean for its start at 0 is forgotten")
def no_bias_correction(n: ast.AST, c: Context) -> Iterator[str]:
    if args := called(n, "debiased"):
        yield src(args[0])
    match n:
        case ast.BinOp(a, ast.Div(), b) if called(b, "one_minus_pow"):
            yield src(a)


@operator("the correction is that of a geometric series of its own: decays once, whatever the step")
def correction_of_first_step(n: ast.AST, c: Context) -> Iterator[str]:
    if isinstance(n, ast.Call) and (args := called(n, "debiased", "one_minus_pow")):
        yield f"{ast.unparse(n.func)}({', '.join(map(ast.unparse, args[:-1]))}, 1.0)"


PAIRS = ("beta1 beta2", "beta2 beta3", "eps eps_root", "eta_plus eta_minus", "min_step max_step", "eps1 eps2",
         "alpha beta", "initial_mu initial_nu")  # fmt: skip


@operator("one hyperparameter for another", MATTER)
def swap_hyperparameters(n: ast.AST, c: Context) -> Iterator[str]:
    name, known = of_self(n), dict(c.fields)
    for a, b in map(str.split, PAIRS):
        if name in (a, b) and a in known and b in known:
            yield f"self.{b if name == a else a}"


@operator("a hyperparameter is ignored, in favour of its default", MATTER, form=True)
def hyperparameter_ignored(n: ast.AST, c: Context) -> Iterator[str]:
    default = dict(c.fields).get(of_self(n))
    if default:
        yield {"dataclasses.MISSING": "2"}.get(default, f"({default})")


# --- eps --------------------------------------------------------------------------------------------------------------


@operator("eps is added inside the root instead of outside")
def eps_into_root(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(ast.Call() as root, ast.Add(), eps) if called(root, "sqrt") and "eps" in of_self(eps):
            yield f"jnp.sqrt({src(root.args[0])} + {src(eps)})"


@operator("eps is added outside the root instead of inside")
def eps_out_of_root(n: ast.AST, c: Context) -> Iterator[str]:
    match called(n, "sqrt"):
        case [ast.BinOp(x, ast.Add(), eps)] if "eps" in of_self(eps):
            yield f"(jnp.sqrt({src(x)}) + {src(eps)})"


@operator("eps is a least value instead of a term")
def eps_as_bound(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(x, ast.Add(), eps) if "eps" in of_self(eps):
            yield f"jnp.maximum({src(x)}, {src(eps)})"


@operator("what guards a division by 0 is removed", ("check_oracle", "check_finite_on_zero_gradients"))
def guard_removed(n: ast.AST, c: Context) -> Iterator[str]:
    if (args := called(n, "safe_divide")) and len(args) >= 2:
        yield f"({src(args[0])} / {src(args[1])})"


@operator("a case is not told apart")
def case_dropped(n: ast.AST, c: Context) -> Iterator[str]:
    if (args := called(n, "where")) and len(args) == 3:
        yield from (src(args[1]), src(args[2]))


# --- conditions -------------------------------------------------------------------------------------------------------

NEARLY = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
OPPOSITE = {ast.Lt: ">", ast.LtE: ">=", ast.Gt: "<", ast.GtE: "<=", ast.Eq: "!=", ast.NotEq: "=="}


@operator("a limit belongs to the other side")
def comparison_off(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.Compare(a, [op], [b]) if type(op) in NEARLY:
            yield f"{src(a)} {NEARLY[type(op)]} {src(b)}"


@operator("a comparison is the wrong way round")
def comparison_turned(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.Compare(a, [op], [b]) if type(op) in OPPOSITE:
            yield f"{src(a)} {OPPOSITE[type(op)]} {src(b)}"


@operator("one of two conditions for both, or the reverse")
def wrong_logic(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.BinOp(a, ast.BitAnd(), b):
            yield f"{src(a)} | {src(b)}"
        case ast.BinOp(a, ast.BitOr(), b) if not isinstance(a, ast.Dict) and "slot" not in ast.unparse(n):
            yield f"{src(a)} & {src(b)}"
        case ast.BoolOp(ast.And(), values):
            yield " or ".join(map(src, values))
        case ast.UnaryOp(ast.Not() | ast.Invert(), x):
            yield src(x)


@operator("an option does the opposite")
def option_turned(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.IfExp(test, a, b):
            yield f"{src(b)} if {src(test)} else {src(a)}"


@operator("an option is not looked at", MATTER)
def option_ignored(n: ast.AST, c: Context) -> Iterator[str]:
    match n:
        case ast.IfExp(_, a, b):
            yield from (src(a), src(b))
        case ast.If(orelse=[]):
            yield "pass"
