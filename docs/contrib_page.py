"""The page of what each rule of contrib is held to: paper, oracle, traces, deviations, and what the kit finds.

``page`` writes it, from the rules, the table of rules in tests, the traces and the figures in contrib.json, which
``measure`` makes anew: ``python docs/generate.py --optax``, which needs optax.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from docstrings import Doc, cell, table

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA = "docs/reference/contrib.md", "docs/reference/contrib.json"
TRACES = ROOT / "tests" / "golden" / "traces"

# Oracles that no row of the table has, by the tests that compare with them.
ORACLES = {"LookSAM": "oracle_looksam", "DPAggregate": "oracle_dpsgd", "DPSGD": "oracle_dpsgd"}
# Rules that no trace was made of.
WITHOUT_TRACE = {
    "AdaptiveNormalize": "a part of ASAM, whose trace goes through it",
    "DPAggregate": "noise of another generator cannot be followed; without noise it is compared with optax",
    "DPSGD": "as DPAggregate",
    "Normalize": "a part of SAM, whose trace goes through it; compared with optax",
    "ReduceOnPlateau": "compared with optax",
    "SplitComplex": "compared with optax",
}
# What rules must do besides, and the tests that say so, by file.
REQUIREMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "gradients that are zero, at first and later, leave no NaN, and what should stay stays": {
        "optimkit/testing/finite.py": ("check_finite_on_zero_gradients",),
        "tests/contrib/test_every_rule.py": ("test_gradients_that_are_zero_for_a_while_leave_no_nan",),
        "tests/contrib/test_learning_rate_free.py": (
            "test_zero_gradients_at_first_move_nothing_and_spoil_nothing",
            "test_without_a_gradient_d_stays_as_it_is",
        ),
        "tests/contrib/test_sam.py": ("test_zero_gradients_move_nothing_and_leave_no_nan",),
        "tests/contrib/test_shampoo.py": ("test_gradients_of_any_rank_leave_no_nan",),
    },
    "one infinite or NaN example in a private batch counts as zero": {
        "tests/contrib/test_private.py": ("test_an_example_that_is_not_finite_counts_as_zero",),
    },
    "`sync_period=1` is the inner rule, in both modes of SAM": {
        "tests/contrib/test_sam.py": ("test_without_ascents_it_is_the_inner_rule_to_the_last_bit",),
    },
    "bfloat16 parameters make the progress of float32, with state in float32": {
        "optimkit/testing/precision.py": ("check_low_precision_follows_float32",),
        "tests/contrib/test_learning_rate_free.py": ("test_low_precision_makes_the_progress_of_float32",),
    },
    "weights that are loaded after construction are where training starts": {
        "tests/contrib/test_every_rule.py": ("test_weights_loaded_after_construction_are_where_training_starts",),
        "tests/contrib/test_learning_rate_free.py": (
            "test_weights_loaded_after_construction_are_where_training_starts",
        ),
    },
    "SAM's two modes give the same parameters": {
        "tests/contrib/test_sam.py": (
            "test_the_two_modes_give_the_same_parameters",
            "test_the_two_modes_agree_in_the_stateful_face",
        ),
    },
    "opaque mode updates batch statistics once a step": {
        "tests/contrib/test_sam.py": ("test_batch_statistics_and_random_states_advance_once_a_step",),
    },
}

INTRODUCTION = """\
Each rule of `optimkit.contrib` has an *oracle*, a float64 program written from its paper, which it follows within
5e-6 over 100 steps in float32, at hyperparameters that are drawn; *traces*, the parameters that other people's code
came to, which it follows within 1e-5 over 100 steps in float32; and the conformance kit
([prove an optimizer](../how-to/prove-an-optimizer.md)). Where a rule departs from its paper or from its authors' code
stands under *Deviations* on its page."""

PRIVATE = """\
Traces are made by the code of the authors, or where it is on no index by that of others; `make_*.py` in
[tests/golden/traces](../../tests/golden/traces) say how."""

KIT = "A row of the table of rules that fails a check of the kit says why. No row fails more than two."

OPTAX = """\
Both take 30 steps in float64 from the same start with the same gradients. The distance is that from the paper's
oracle at the end, relative to the size of a parameter and the length of its way. Measured with optax {optax} and jax
{jax}; [test_every_rule.py](../../tests/contrib/test_every_rule.py) measures it again. What else both have does the
same, within the tolerances of [test_compat.py](../../tests/contrib/test_compat.py)."""


def traces() -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Return the traces of each rule: their names, and what they say about themselves."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(TRACES.glob("*.npz")):
        with np.load(path) as trace:
            meta = json.loads(str(trace["meta"]))
        found.setdefault(path.stem.partition("_")[0], []).append((path.stem, meta))
    return found


def contrib_rules() -> dict[str, Any]:
    """Return the public rules of contrib, by name."""
    from optimkit import rules
    from optimkit.contrib import rules as module

    return {n: x for n, x in vars(module).items() if inspect.isclass(x) and issubclass(x, rules.Rule)}


def rows_of(name: str) -> dict[str, Any]:
    """Return the rows of the table of rules that are about a rule, itself or in a wrapper of the row's."""
    from tests.rule_table import CONTRIB

    def about(rule: Any) -> str:
        own = type(rule)
        return own.__name__ if own.__module__.startswith("optimkit.") else about(rule.inner)

    return {row: case for row, case in CONTRIB.items() if about(case.rule) == name}


def oracles_of(name: str) -> list[str]:
    """Return the names of the oracles that a rule is compared with."""
    found = {case.oracle.__name__ for case in rows_of(name).values() if case.oracle is not None}
    return sorted({x for x in found if x != "oracle_of_one"} | ({ORACLES[name]} if name in ORACLES else set()))


def made_by(meta: dict[str, Any]) -> str:
    """Return which code made a trace, in a few words."""
    package, *_ = (p for p in meta["versions"] if p not in ("numpy",))
    return f"{package} {meta['versions'][package]}"


def deviations(cls: Any) -> str:
    """Return whether a rule departs from its paper."""
    return "none" if re.match(r"\s*none\b", Doc.of(cls).sections.get("Deviations", "")) else "some"


def page(made: str) -> str:
    """Return the page."""
    names, found = contrib_rules(), traces()
    rules = []
    for name in sorted(names, key=str.lower):
        shown = ", ".join(f"`{stem}` ({made_by(meta)})" for stem, meta in found.get(name, []))
        link = f"rules/{name}.md"
        has = deviations(names[name])
        rules.append((
            f"[{name}]({link})", cell(names[name].reference), ", ".join(f"`{x}`" for x in oracles_of(name)),
            shown or WITHOUT_TRACE[name], f"[{has}]({link}#deviations)",
        ))  # fmt: skip
    failures = [
        (f"`{row}`", f"`{check}`", cell(reason))
        for name in sorted(names, key=str.lower)
        for row, case in rows_of(name).items()
        for check, reason in case.expected_failures.items()
    ]
    parts = [made.format("the rules, tests/rule_table.py, tests/golden/traces and contrib.json") + "# Contrib, proven",
             INTRODUCTION, "## Rules", PRIVATE, table(("rule", "paper", "oracle", "traces", "deviations"), rules)]
    parts += ["## What the kit does not find", KIT, table(("row", "check", "why it fails"), failures)]
    required = ["- " + text + ": " + "; ".join(
        f"[{Path(path).name}](../../{path}) " + ", ".join(f"`{test}`" for test in tests)
        for path, tests in files.items()) for text, files in REQUIREMENTS.items()]  # fmt: skip
    parts += ["## What is tested besides", "\n".join(required)]
    known = json.loads((ROOT / DATA).read_text("utf8"))
    from tests.contrib.departures import DEPARTURES

    figures = [(f"`{row.ours}`", *(f"{known['rows'][row.ours][who]:.1e}" for who in ("optimkit", "optax")))
               for row in DEPARTURES]  # fmt: skip
    parts += ["## Where optax.contrib does something else", OPTAX.format(**known["versions"]),
              table(("`compat.` and `optax.contrib.`", "optimkit to paper", "optax to paper"), figures, 2),
              "\n".join(f"- `{row.ours.partition('(')[0]}`: {row.why}" for row in DEPARTURES)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def measure() -> None:
    """Measure where optax departs, and write the figures."""
    import optax

    from tests.contrib import departures

    (ROOT / DATA).write_text(json.dumps(departures.measured(optax), indent=2, ensure_ascii=False) + "\n", "utf8")
