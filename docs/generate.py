"""Write the reference pages, from docstrings and measurements: ``python docs/generate.py [--optax] [--findings]``.

docs/reference/rules/*.md and docs/reference/schedules.md are made from docstrings; the table of memory in
docs/explanation/choosing-an-optimizer.md from the rules' own ``init``; docs/reference/optax.md from the table in
tests/optax_table.py and the figures in docs/reference/optax.json. ``--optax`` measures those figures anew, which takes
a minute and needs optax; ``--findings`` runs the conformance kit on optax, see findings.py. tests/test_docs.py checks
that the pages in the repository are what this script writes.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "docs"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import contrib_page  # noqa: E402
import fault_table  # noqa: E402
import findings  # noqa: E402
from docstrings import Doc, cell, example, first, inline, markdown, memory_of, table  # noqa: E402

from optimkit import contrib, optimizer, rules, schedule  # noqa: E402
from optimkit.contrib import rules as contrib_rules  # noqa: E402
from optimkit.hyper import hyperparameters  # noqa: E402

Pages = dict[str, str]  # by their path, from the root of the repository

MADE = "<!-- Made by docs/generate.py from {}. Do not edit. -->\n"
REFERENCE = "docs/reference"
RULES, SCHEDULES = f"{REFERENCE}/rules", f"{REFERENCE}/schedules.md"
OPTAX, FIGURES = f"{REFERENCE}/optax.md", f"{REFERENCE}/optax.json"
CHOOSING = "docs/explanation/choosing-an-optimizer.md"

# The families of the index, each with the modules whose rules it lists. What is in none of them comes last, under the
# first words of its module's docstring.
FAMILIES = {
    "Gradient descent and momentum": ("sgd", "optimistic"),
    "Signs": ("sign",),
    "Gathered squares": ("adagrad", "factored"),
    "Adam and its relatives": ("adam", "adam_variants", "adam_moments", "adam_quotients"),
    "Layer by layer": ("layerwise",),
    "Second order": ("lbfgs",),
    "Stages": ("stages", "clipping", "gradients"),
    "Wrappers": ("wrappers", "averaged", "gated", "weight_norm"),
    "Composition": ("compose", "variants"),
    "Contrib: learning rates found on the way": ("d_adaptation", "distance", "anchored", "momo", "mechanic"),
    "Contrib: newer relatives of Adam": ("ademamix", "asynchronous", "mars", "adam_mini"),
    "Contrib: matrices": ("muon", "routing", "shampoo", "kron", "galore", "sophia", "matrices"),
    "Contrib: sharpness and averages": ("sam", "schedule_free"),
    "Contrib: privacy, plateaus, complex numbers": ("private", "plateau", "complex_parts"),
}
CONTRIB = {name for name, x in vars(contrib_rules).items() if inspect.isclass(x) and issubclass(x, rules.Rule)}
BASES = ("Rule", "LeafRule", "Wrapper", "Composed")  # for those who write rules; see docs/how-to/write-a-rule.md

# --- rules ------------------------------------------------------------------------------------------------------------


def public_rules() -> dict[str, type[rules.Rule]]:
    """Return the rules that have a page, by name."""
    return {
        name: x
        for name, x in {**vars(rules), **vars(contrib_rules)}.items()
        if inspect.isclass(x) and issubclass(x, rules.Rule) and name not in BASES
    }


def by_family() -> dict[str, list[str]]:
    """Return the names of the rules of each family, in order."""
    found: dict[str, list[str]] = {title: [] for title in FAMILIES}
    title_of = {module: title for title, modules in FAMILIES.items() for module in modules}
    order = {module: i for i, module in enumerate(title_of)}

    def place(name: str) -> tuple[int, str, int]:
        cls = public_rules()[name]
        module = cls.__module__.rpartition(".")[2]
        return order.get(module, len(order)), module, inspect.getsourcelines(cls)[1]

    for name in sorted(public_rules(), key=place):
        module = importlib.import_module(public_rules()[name].__module__)
        words = re.split(r"[:.,]", inspect.getdoc(module) or module.__name__)[0]
        found.setdefault(title_of.get(module.__name__.rpartition(".")[2], words), []).append(name)
    return {title: names for title, names in found.items() if names}


# For fields that have no default.
FILLED = {"inner": rules.SGD(), "factor": 1.0, "every": 2, "match": ".", "max_norm": 1.0,
          "noise_multiplier": 1.0, "seed": 0}  # fmt: skip


def at_defaults(cls: type[rules.Rule]) -> rules.Rule | None:
    """Return a rule at its defaults, around SGD if it is a wrapper; None for those that are made of any number."""
    if cls in (rules.Chain, rules.Partition):
        return None
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]  # type: ignore[arg-type]
    return cls(**{name: FILLED[name] for name in required})


def bytes_per_parameter(rule: rules.Rule, dtype: Any = jnp.float32) -> float:
    """Return how many bytes a rule remembers for each number in a matrix of 1024 rows and columns, from its ``init``.

    Nothing is computed: JAX says of which shapes and dtypes the state would be.
    """
    params = {"w": jax.ShapeDtypeStruct((1024, 1024), dtype)}
    leaves = jax.tree.leaves(jax.eval_shape(rule.init, params))
    return sum(x.size * x.dtype.itemsize for x in leaves) / 1024**2


def shown_bytes(rule: rules.Rule | None, dtype: Any = jnp.float32) -> str:
    """Return the bytes per parameter as the index shows them; those of a wrapper come on top of its inner rule's."""
    if rule is None:
        return "of its rules"
    own = number(bytes_per_parameter(rule, dtype))
    return own if not isinstance(rule, rules.Wrapper) else "+ " + own


def call(name: str, cls: type[rules.Rule]) -> str:
    """Return how a rule is made and called, on the stateful and the functional face."""
    needs = getattr(at_defaults(cls), "needs", ())
    inputs = "".join(f", {need}={need}" for need in needs)
    own = arguments(inspect.signature(cls))
    home, values = ("contrib", "contrib.rules") if name in CONTRIB else ("optimizer", "rules")
    named = getattr(contrib if name in CONTRIB else optimizer, name, None)
    if getattr(named, "rule_type", None) is cls:
        made = wrapped(f"opt = {home}.{name}(", ["model.vars()", *own])
    else:
        made = f"opt = optimizer.Optimizer(model.vars(), {wrapped(f'{values}.{name}(', own, width=60)})"
    lines = [made, f"opt(lr, grads{inputs})"]
    lines += ["opt.minimize(loss_fn, *batch)  # computes them all"] if needs else []
    lines += ["", f"init, apply = pure({values}.{name}(...), lr)"]
    lines.append(f"state, params = apply(grads, state, params{inputs})")
    shell = ", ".join(f"`{name}`" for name in shell_keywords())
    return "```python no-run\n" + "\n".join(lines) + f"\n```\n\nEvery optimizer also takes {shell}."


def shell_keywords() -> list[str]:
    """Return the keywords that every optimizer takes."""
    parameters = inspect.signature(optimizer.Optimizer).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def arguments(signature: inspect.Signature) -> list[str]:
    """Return the arguments of a call that gives every parameter its default."""
    shown = []
    for p in signature.parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            shown.append(f"*{p.name}")
        else:
            shown.append(p.name if p.default is p.empty else f"{p.name}={code(p.default)}")
    return shown


def code(value: Any) -> str:
    """Return a value as it is written in the code of this package."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and value == type(value)():
        return f"{type(value).__name__}()"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def wrapped(before: str, arguments: list[str], width: int = 100) -> str:
    """Return a call on one line, or with its arguments below it where they do not fit."""
    line = f"{before}{', '.join(arguments)})"
    if len(line) <= width:
        return line
    inside = textwrap.fill(", ".join(arguments) + ",", width - 4, break_long_words=False)
    return f"{before}\n{textwrap.indent(inside, '    ')}\n)"


def hyperparameter_table(cls: Any) -> str:
    """Return the table of a class's hyperparameters, those by keyword last."""
    rows = []
    for f in sorted(dataclasses.fields(cls), key=lambda f: f.kw_only):
        default = "required" if f.default is dataclasses.MISSING else f"`{cell(code(f.default))}`"
        domain, doc = f.metadata.get("domain"), f.metadata.get("doc", "")
        known = (
            shown_domain(domain) if domain is not None else "a rule" if f.name == "inner" else f"`{cell(str(f.type))}`"
        )
        rows.append(
            (f"`{f.name}`", default, known, cell(doc) or ("what it wraps" if f.name == "inner" else "see above"))
        )
    return table(("name", "default", "range", "meaning"), rows)


def shown_domain(domain: Any) -> str:
    """Return where a hyperparameter must lie, in words."""
    if domain is bool:
        return "`True`, `False`"
    if isinstance(domain, tuple):
        return ", ".join(f"`{code(x)}`" for x in domain)
    each = "each " if str(domain).startswith("each ") else ""
    return f"{each}`{str(domain).removeprefix('each ')}`"


def rule_page(name: str, cls: type[rules.Rule], links: dict[str, str]) -> str:
    """Return the page of a rule."""
    doc = Doc.of(cls)
    memory, body = memory_of(doc.body)
    source = inspect.getsourcefile(cls) or ""
    path = Path(source).resolve().relative_to(ROOT).as_posix()
    parts = [MADE.format(f"the docstring in {path}") + f"# {name}", inline(doc.summary, links)]
    parts += [markdown(body, links)] if body else []
    parts += [f"**Memory.** {inline(memory, links)}"] if memory else []
    parts += ["## Call", call(name, cls)]
    if hyperparameters(cls) or issubclass(cls, rules.Wrapper):
        parts += ["## Hyperparameters", hyperparameter_table(cls)]
    for section in ("State", "Deviations", *(s for s in doc.sections if s.startswith("Raises")), "Reference"):
        if section in doc.sections:
            text = doc.sections[section]
            text = listed(text, links) if section.startswith("Raises") else markdown(first(text), links)
            parts += [f"## {inline(section, links)}", text]
    if "Example" in doc.sections:
        parts += ["## Example", example(doc.sections["Example"], dict.fromkeys(CONTRIB, "optimkit.contrib.rules"))]
    parts.append(f"[All rules](README.md) · [source](../../../{path})")
    return "\n\n".join(parts) + "\n"


def listed(text: str, links: dict[str, str]) -> str:
    """Return ``name: meaning`` lines as a list."""
    items = re.split(r"\n(?=\S)", text)
    return "\n".join("- " + inline(" ".join(item.split()), links).replace(": ", ": ", 1) for item in items)


def rule_index(links: dict[str, str]) -> str:
    """Return the index of the rules, by family."""
    parts = [
        MADE.format("the docstrings of optimkit.rules") + "# Rules",
        "Each rule has a page. `rules.Adam` is the algorithm, a value; `optimizer.Adam` is the same, bound to "
        "variables. The last column is what a rule remembers for each float32 parameter, in bytes, at its defaults, "
        "measured on a matrix of 1024 × 1024; `+` comes on top of the inner rule's. Which to take when: "
        f"[choosing an optimizer]({up(2)}explanation/choosing-an-optimizer.md). How they compare with optax: "
        "[optax](../optax.md). Which papers, oracles and other people's code the rules of contrib were compared with: "
        "[contrib](../contrib.md). How to write your own: [write a rule](../../how-to/write-a-rule.md).",
    ]
    for title, names in by_family().items():
        rows = [
            (f"[{name}]({name}.md)", cell(inline(Doc.of(cls).summary, links)), shown_bytes(at_defaults(cls)))
            for name, cls in ((name, public_rules()[name]) for name in names)
        ]
        parts += [f"## {title}", table(("rule", "what it does", "bytes"), rows, 1)]
    return "\n\n".join(parts) + "\n"


def up(levels: int) -> str:
    """Return the way out of some folders."""
    return "../" * levels


# --- schedules --------------------------------------------------------------------------------------------------------


def schedules_page() -> str:
    """Return the page of the schedules, in the order of the module's own list."""
    doc = Doc.of(schedule)
    named = [x for x in re.findall(r":class:`(\w+)`", inspect.getdoc(schedule) or "") if x != "Schedule"]
    rest = [x for x in schedule.__all__ if x not in (*named, "Schedule")]
    names = [*dict.fromkeys(named), *rest, "Schedule"]
    links = {name: f"#{name.lower()}" for name in names}
    public = dict.fromkeys(schedule.__all__, "optimkit.schedule")
    body = re.sub(r"\n(?=- )", "\n", doc.body)
    parts = [MADE.format("the docstrings of optimkit.schedule") + "# Schedules", first(doc.summary.partition(": ")[2])]
    parts.append(markdown(body, links))
    for name in names:
        x = getattr(schedule, name)
        own = Doc.of(x)
        parts += [f"## {name}", inline(own.summary, links)] + ([markdown(own.body, links)] if own.body else [])
        if inspect.isclass(x) and hyperparameters_of(x):
            parts.append(hyperparameter_table(x))
        elif "Args" in own.sections:
            parts.append(listed(own.sections["Args"], links))
        if "Deviations" in own.sections:
            parts.append("**Deviations.** " + markdown(first(own.sections["Deviations"]), links))
        parts += [f"**Raises** {listed(own.sections[s], links)[2:]}" for s in own.sections if s.startswith("Raises")]
        if "Example" in own.sections:
            parts.append(example(own.sections["Example"], public))
    return "\n\n".join(parts) + "\n"


def hyperparameters_of(cls: Any) -> dict[str, Any]:
    """Return the fields of a class that ``hyper`` declared; none for one that is no dataclass."""
    return hyperparameters(cls) if dataclasses.is_dataclass(cls) else {}


# --- optax ------------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
Trajectories over 100 steps, with the same gradients for both: normal random numbers of size 1e-6, 1, 1e-3 and 10, 25
steps each, at a learning rate that falls from 0.1 to 0.01, for a zero vector, a scalar and a matrix. The distance is
the largest over all steps and elements, relative to the size of the parameter and the length of its way
([optimkit/testing/compare.py](../../optimkit/testing/compare.py)).

- **float64**: how far the two are apart in float64. Apart from rounding, both compute the same.
- **optimkit 32** and **optax 32**: how far each is in float32 from optax in float64. That is its rounding error.

Measured with optax {optax} and jax {jax} on a CPU by `python docs/generate.py --optax`;
[tests/test_optax.py](../../tests/test_optax.py) holds every row to its bound. `optax.` is left out of optax's names."""

DIFFERENCES = """\
Here both should do the same, and optax does something else. The distances are to the oracle of
[tests/oracles](../../tests/oracles), a float64 program that is written from the paper."""


SCHEDULE_FIGURES = """\
The largest difference over 120 steps, relative to the largest value. optax computes schedules in float32; here they
are float64 for Python's and NumPy's numbers, and float32 for JAX's."""


def optax_page(links: dict[str, str]) -> str:
    """Return the page of the comparison with optax, from the table in tests and the figures in optax.json."""
    from tests import optax_table

    known = json.loads((ROOT / FIGURES).read_text("utf8"))
    links = {name: f"rules/{link}" for name, link in links.items()}
    parts = [MADE.format("tests/optax_table.py and optax.json") + "# optimkit and optax"]
    parts.append(INTRODUCTION.format(**known["versions"]))
    for title, rows in optax_table.SAME_AS_OPTAX.items():
        figures = (known["same"][row.ours] for row in rows)
        shown = [(*calls(row, links), *map(figure, (f["float64"], f["optimkit 32"], f["optax 32"])))
                 for row, f in zip(rows, figures, strict=True)]  # fmt: skip
        head = ("optimkit", "optax", "float64", "optimkit 32", "optax 32")
        parts += [f"## {title}", table(head, shown, 3)]
    rows = [(*calls(row, links), *map(figure, known["differs"][row.ours].values())) for row in optax_table.DIFFERS]
    parts += ["## Where optax does something else", DIFFERENCES]
    parts.append(table(("optimkit", "optax", "optimkit to paper", "optax to paper"), rows, 2))
    parts.append("\n".join(f"- `{row.theirs.replace('optax.', '')}`: {row.why}" for row in optax_table.DIFFERS))
    shown = [
        (
            *calls(peers, {name: f"schedules.md#{name.lower()}" for name in schedule.__all__}),
            figure(known["schedules"][peers.ours]),
        )
        for peers in optax_table.SCHEDULES
    ]
    parts += ["## Schedules", SCHEDULE_FIGURES, table(("optimkit", "optax", "distance"), shown, 1)]
    notes = [f"- {linked(name, links)}: {text}" for name, text in optax_table.NOTES.items()]
    parts += ["## What differs on purpose", "\n".join(notes), "## What optax does not have"]
    parts.append("\n".join(f"- {linked(name, links)}: {text}" for name, text in optax_table.NOT_IN_OPTAX.items()))
    return "\n\n".join(parts) + "\n"


def calls(row: Any, links: dict[str, str]) -> tuple[str, str]:
    """Return the calls of a row, as cells; ours leads to its page."""
    name = row.ours.partition("(")[0]
    return f"[`{cell(row.ours)}`]({links[name]})", f"`{cell(re.sub(r'optax[.]', '', row.theirs))}`"


def linked(names: str, links: dict[str, str]) -> str:
    """Return names, parted by commas, with links to their pages."""
    return ", ".join(f"[{name}]({links[name]})" if name in links else f"**{name}**" for name in names.split(", "))


def figure(x: float) -> str:
    """Return a distance to two digits."""
    return "0" if x == 0 else f"{x:.1e}"


# --- the guide --------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- memory: made by docs/generate.py -->", "<!-- memory: end -->"

# What the guide compares: at the defaults but for options that are about memory.
COMPARED = {
    "SGD": rules.SGD(), "Momentum": rules.Momentum(), "Lion": rules.Lion(), "NovoGrad": rules.NovoGrad(),
    "RMSProp": rules.RMSProp(), "AdaGrad": rules.AdaGrad(), "LARS": rules.LARS(), "AdamW": rules.AdamW(),
    "LAMB": rules.LAMB(), "AMSGrad": rules.AMSGrad(), "Adan": rules.Adan(), "CAME": rules.CAME(),
    "Adafactor": rules.Adafactor(), "SM3": rules.SM3(), "LBFGS": rules.LBFGS(),
}  # fmt: skip


def memory_table() -> str:
    """Return the bytes of state for each parameter, and of everything that a step holds."""

    def row(name: str, rule: rules.Rule) -> tuple[str, ...]:
        half = rule.replace(slot_dtype="bfloat16") if isinstance(rule, rules.LeafRule) else None
        kinds = [bytes_per_parameter(rule), bytes_per_parameter(rule, jnp.bfloat16)]
        narrow = "" if half is None else number(bytes_per_parameter(half, jnp.bfloat16))
        totals = [2 * 4 + kinds[0], 2 * 2 + kinds[1]]  # a parameter, its gradient and its state
        return (f"[{name}](../reference/rules/{name}.md)", *map(number, kinds), narrow, *map(number, totals))

    head = ("rule", "float32", "bfloat16", 'bfloat16, `slot_dtype="bfloat16"`', "all, float32", "all, bfloat16")
    order = sorted(COMPARED.items(), key=lambda item: bytes_per_parameter(item[1]))
    return table(head, [row(name, rule) for name, rule in order], 5)


def number(x: float) -> str:
    """Return a number of bytes with two digits behind the point, or two digits where it is small."""
    if x < 1e-3:
        return "0"  # counters and scalars
    return f"{x:.2g}" if x < 0.1 else f"{x:.2f}".rstrip("0").rstrip(".")


def choosing_page() -> str:
    """Return the guide with its table of memory made anew; the rest of it is written by hand."""
    text = (ROOT / CHOOSING).read_text("utf8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{memory_table()}\n\n{END}{after}"


# --- the whole --------------------------------------------------------------------------------------------------------


def pages() -> Pages:
    """Return all pages that this script writes."""
    links = {name: f"{name}.md" for name in public_rules()}
    made = {f"{RULES}/{name}.md": rule_page(name, cls, links) for name, cls in public_rules().items()}
    made[f"{RULES}/README.md"] = rule_index(links)
    made[SCHEDULES] = schedules_page()
    made[OPTAX] = optax_page(links)
    made[findings.PAGE] = findings.page(MADE)
    made[contrib_page.PAGE] = contrib_page.page(MADE)
    made[fault_table.PAGE] = fault_table.page(MADE)
    made[CHOOSING] = choosing_page()
    return made


def measure() -> None:
    """Measure every row against optax and write the figures."""
    import optax

    from tests import optax_table

    figures = json.dumps(optax_table.measured(optax), indent=2, ensure_ascii=False)
    (ROOT / FIGURES).write_text(figures + "\n", "utf8")


def main(arguments: list[str]) -> None:
    """Write the pages, and take away those of rules that are gone."""
    if "--optax" in arguments:
        measure()
        contrib_page.measure()
    if "--findings" in arguments:
        findings.measure()
    made = pages()
    for path in sorted((ROOT / RULES).glob("*.md")):
        if path.relative_to(ROOT).as_posix() not in made:
            path.unlink()
    for name, text in made.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, "utf8")
    print(f"{len(made)} pages")


if __name__ == "__main__":
    main(sys.argv[1:])
