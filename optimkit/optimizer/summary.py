"""The plan of an optimizer as a table: what happens to each variable, and what it costs."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from optimkit.core import TrainRef
from optimkit.optimizer.groups import REST
from optimkit.rules import lookup
from optimkit.rules.base import Rule

MANY = 40  # rows above which like variables share one
NUMBER = re.compile(r"\d+")


class Summary(str):
    """A text that shows itself as it is, in a notebook or at a prompt."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Row(NamedTuple):
    """A line of the table of variables; ``names`` are more than one where like variables share it."""

    names: tuple[str, ...]
    group: str
    shape: str
    dtype: str
    size: int
    state: int
    route: str = ""  # what the rule does with it, where a rule routes by itself

    @property
    def place(self) -> str:
        """The group, and within it the route: ``default/muon``."""
        return f"{self.group}/{self.route}" if self.route else self.group


def summarize(opt: Any, width: int) -> Summary:
    """Return an optimizer's variables and groups as tables of at most ``width`` columns."""
    own = opt.vars().subset(is_not=TrainRef)
    total = sum(v.value.nbytes for v in own)
    slots: dict[str, int] = defaultdict(int)
    for name, var in zip(opt._names, opt._state.values(), strict=True):
        if name.param is not None:
            slots[name.param] += var.value.nbytes
    routes = _routes(opt)
    rows = [
        Row((name,), opt._plan.group_of[name], f"{list(ref.shape)}", str(ref.dtype), ref.value.nbytes, slots[name],
            routes.get(name, ""))
        for name, ref in opt.train_vars.items()
    ]  # fmt: skip
    shared = total - sum(row.state for row in rows)
    parts = [
        f"{type(opt).__name__}: {_count(rows)}, {sum(ref.size for ref in opt.train_vars):,} parameters",
        f"learning rate: {_learning_rate(opt)}",
        "",
        *_variables(rows, shared, width),
        "",
        *_groups(opt, rows, width),
        *_constraints(opt, width),
    ]
    return Summary("\n".join(parts))


def _routes(opt: Any) -> dict[str, str]:
    """Return what becomes of each parameter by its name, in the first rule of its group that routes by itself."""
    found: dict[str, str] = {}
    for group in sorted(set(opt._plan.group_of.values())):
        rule = opt._plan.rule_of("" if group == REST else group, opt._rule)
        params = {name: ref.value for name, ref in opt.train_vars.items() if opt._plan.group_of[name] == group}
        routing: Any = next((part for _, part in lookup.walk(rule) if callable(getattr(part, "routes", None))), None)
        found |= {} if routing is None else routing.routes(params)
    return found


# --- the table of variables -------------------------------------------------------------------------------------------


def _variables(rows: list[Row], shared: int, width: int) -> list[str]:
    shown = rows if len(rows) <= MANY else _collapsed(rows)
    lines = [("variable", "group", "shape", "dtype", "bytes", "state bytes")]
    lines += [(_span(row.names), row.place, row.shape, row.dtype, f"{row.size:,}", f"{row.state:,}") for row in shown]
    if shared:
        lines.append(("counters and hyperparameters", "", "", "", "", f"{shared:,}"))
    lines.append(("total", "", "", "", f"{sum(row.size for row in rows):,}",
                  f"{sum(row.state for row in rows) + shared:,}"))  # fmt: skip
    return _table(lines, "<<<<>>", width)


def _collapsed(rows: Iterable[Row]) -> list[Row]:
    """Return rows in which variables that differ only by numbers in their names are one, with their sums."""
    like: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        like.setdefault((NUMBER.sub("#", row.names[0]), *row[1:]), []).append(row)
    return [
        Row(tuple(r.names[0] for r in same), *same[0][1:4], sum(r.size for r in same), sum(r.state for r in same),
            same[0].route)
        for same in like.values()
    ]


def _span(names: tuple[str, ...]) -> str:
    """Return several names as one, ``layers[0..11].w (12)``: where they differ, the least and the greatest number."""
    if len(names) == 1:
        return names[0]
    columns = [sorted(map(int, column)) for column in zip(*map(NUMBER.findall, names), strict=True)]
    spans = iter(f"{c[0]}..{c[-1]}" if c[0] != c[-1] else str(c[0]) for c in columns)
    return f"{NUMBER.sub(lambda _: next(spans), names[0])} ({len(names)})"


def _table(lines: Sequence[tuple[str, ...]], ways: str, width: int) -> list[str]:
    """Return lines of columns; the first is shortened in the middle where they are too wide together."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    room = max(width - sum(widths[1:]) - 2 * (len(widths) - 1), 12)
    widths[0] = min(widths[0], room)
    form = "  ".join(f"{{:{way}{max(n, 1)}}}" for way, n in zip(ways, widths, strict=True))
    return [form.format(_short(first, widths[0]), *rest).rstrip() for first, *rest in lines]


def _short(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


# --- the table of groups ----------------------------------------------------------------------------------------------


def _groups(opt: Any, rows: list[Row], width: int) -> list[str]:
    """Return a line for each group: how much is in it, its rule and what is different."""
    by_group: dict[str, list[Row]] = {name: [] for name in (REST, *opt._plan.groups)}
    for row in rows:
        by_group[row.group].append(row)
    by_group = {name: found for name, found in by_group.items() if found}
    names = max(map(len, by_group))
    lines = [f"{'group':{names}}  rule and hyperparameters"]
    for name, found in by_group.items():
        size = sum(row.size for row in found)
        counts = f" [{_count(found)}, {size:,} bytes, state {sum(row.state for row in found):,}]"
        text = _rule_of(opt, name) + counts
        lines += textwrap.wrap(text, max(width, 40), initial_indent=f"{name:{names}}  ",
                               subsequent_indent=" " * (names + 4), break_on_hyphens=False)  # fmt: skip
    return lines


def _rule_of(opt: Any, name: str) -> str:
    """Return the rule of a group as a text, with the values that its hyperparameters have now."""
    plan, values = opt._plan, opt._present()
    group = plan.groups.get(name)
    if group is not None and group.frozen:
        return "frozen"
    rule, scale = plan.of_group("", opt._rule, values)
    if group is not None:
        rule, scale = plan.of_group(name, rule, values)
    own = "" if group is None else name
    how = [f"{n} {'scheduled' if n in opt._schedules else 'dynamic'}" for n in _changing(opt, own)]
    times = "" if group is None or group.lr_scale is None else f"lr * {_number(scale)}, "
    return times + _shown(rule) + f" ({', '.join(how)})" * bool(how)


def _changing(opt: Any, group: str) -> Iterable[str]:
    """Yield the names of the hyperparameters of a group that are not constants."""
    plan = opt._plan
    shared = not group or plan.groups[group].rule is None
    for target, name in opt._changing.items():
        own = target._replace(group=group)
        if target == own or (shared and not target.group and own not in plan.constants.keys() | opt._changing.keys()):
            yield name


def _learning_rate(opt: Any) -> str:
    """Return where the learning rate comes from, and what it is now."""
    lr = opt.lr
    if "lr" in opt._schedules:
        return f"{_number(lr)} at step {int(opt.clock.value)}, {opt._schedules['lr']!r}"
    return "given to each call" if lr is None else _number(lr)


def _constraints(opt: Any, width: int) -> list[str]:
    """Return a line for each constraint, and the variables that it holds for."""
    names: dict[int, tuple[Any, list[str]]] = {}
    for name, constraint in opt._constraints.items():
        names.setdefault(id(constraint), (constraint, []))[1].append(name)
    lines = []
    for constraint, found in names.values():
        text = f"{constraint!r}: {', '.join(found[:4])}" + f" and {len(found) - 4} more" * (len(found) > 4)
        lines += textwrap.wrap(text, max(width, 40), subsequent_indent="  ", break_on_hyphens=False)
    return ["", "constraints", *lines] if lines else []


def _shown(rule: Rule) -> str:
    """Return the repr of a rule, arrays among its hyperparameters as numbers."""
    return re.sub(r"Array\(([^,()]+), dtype=\w+\)", lambda m: _number(m[1]), repr(rule))


def _count(rows: list[Row]) -> str:
    return f"{len(rows)} variable{'s' * (len(rows) != 1)}"


def _number(x: Any) -> str:
    return f"{float(x):.6g}"
