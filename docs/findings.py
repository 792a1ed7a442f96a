"""What the conformance kit finds in optax: ``measure`` runs it, ``page`` writes what it found.

``python docs/generate.py --findings`` does both, which takes some minutes and needs optax and hypothesis.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docstrings import table

ROOT = Path(__file__).resolve().parent.parent
PAGE, DATA = "docs/reference/findings-in-optax.md", "docs/reference/findings-in-optax.json"

# Twice that of our rules: optax corrects the bias of moments in float32, where 1 - beta**t loses a digit.
TOLERANCE = 1e-5

BETA, POSITIVE, RATE = "[0, 1)", "(0, inf)", "[0, inf)"
LR = {"learning_rate": (0.05, RATE)}
ADAM = {"b1": (0.9, BETA), "b2": (0.999, BETA), "eps": (1e-8, RATE)}

# By name in optax: the arguments that are checked, each with a value and what its paper allows.
SUBJECTS: dict[str, dict[str, tuple[Any, Any]]] = {
    "sgd": {**LR, "momentum": (0.9, BETA)},
    "adam": {**LR, **ADAM},
    "adamw": {**LR, **ADAM, "weight_decay": (0.01, RATE)},
    "rmsprop": {**LR, "decay": (0.9, BETA), "eps": (1e-8, RATE)},
    "adagrad": {**LR, "eps": (1e-7, RATE)},
    "lion": {**LR, "b1": (0.9, BETA), "b2": (0.99, BETA), "weight_decay": (0.01, RATE)},
    "lamb": {**LR, **ADAM, "weight_decay": (0.01, RATE)},
    "adafactor": {**LR, "decay_rate": (0.8, BETA), "min_dim_size_to_factor": (2, "int [1, inf)")},
    "yogi": {**LR, "b1": (0.9, BETA), "b2": (0.999, BETA), "eps": (1e-3, RATE)},
    "nadam": {**LR, **ADAM},
    "radam": {**LR, **ADAM},
    "adabelief": {**LR, **ADAM},
    "lars": {**LR, "weight_decay": (0.01, RATE), "momentum": (0.9, BETA)},
    "novograd": {**LR, "b1": (0.9, BETA), "b2": (0.25, BETA)},
    "contrib.prodigy": {"betas": ((0.9, 0.999), ((0.9, 0.999), (0.8, 0.999))), "estim_lr0": (1e-6, POSITIVE)},
    "contrib.dadapt_adamw": {"estim_lr0": (1e-6, POSITIVE), "weight_decay": (0.01, RATE)},
    "contrib.dog": {"eps": (1e-8, POSITIVE)},
    "contrib.dowg": {"eps": (1e-4, POSITIVE)},
    "contrib.cocob": {"alpha": (100.0, RATE), "eps": (1e-8, POSITIVE)},
    "contrib.madgrad": {**LR, "momentum": (0.9, BETA), "eps": (1e-6, POSITIVE)},
    "contrib.sam": {"sync_period": (2, "int [2, inf)")},
    "contrib.schedule_free_adamw": {"learning_rate": (0.05, RATE), "b1": (0.9, BETA)},
    "contrib.muon": {**LR, "beta": (0.95, BETA), "eps": (1e-8, POSITIVE)},
}

# What a check that fails means to the person whose training it is.
MEANING = {
    "check_form_is_kept": "The state takes another dtype after a step: a second compile, and an error in `lax.scan`.",
    "check_slots_are_wide": "The memory of bfloat16 and float16 parameters is kept in their dtype: small updates are "
    "lost in it.",
    "check_misshaped_gradients_are_refused": "A gradient of another shape is broadcast. Training goes on, wrongly; a "
    "parameter may grow.",
    "check_missing_gradients_are_refused": "A gradient that is None passes, and its parameter stays where it is.",
    "check_integer_parameters_are_refused": "Steps on integer parameters are rounded to integers.",
    "check_hyperparameters_are_validated": "Values that the paper excludes are accepted.",
    "check_hyperparameters_matter": "An argument makes no difference, or makes NaN, on gradients of all sizes.",
    "check_finite_on_zero_gradients": "Gradients of zero make NaN.",
    "check_finite_on_tiny_gradients": "Gradients near the smallest numbers of the dtype make NaN.",
    "check_finite_on_huge_gradients": "Gradients near the largest numbers of the dtype make infinity or NaN.",
    "check_finite_at_the_ends_of_domains": "With arguments at the ends of what the paper allows there is NaN.",
    "check_finite_at_other_hyperparameters": "With another value that the paper allows there is NaN.",
    "check_state_has_memory_of_its_own": "State shares memory with the parameters: donating both fails.",
    "check_donation_is_safe": "A step that donates its inputs fails, or does something else.",
    "check_counters_saturate": "A counter overflows.",
    "check_any_parameters_and_gradients": "Some parameters and gradients make NaN, in float32.",
    "check_any_hyperparameters": "Some values that the paper allows make NaN, in float32.",
    "check_low_precision_follows_float32": "In bfloat16 or float16, steps are not those of float32.",
    "check_explicit_sharding_equals_unsharded": "It fails on meshes with explicit axes.",
    "check_sharded_equals_unsharded": "Sharded steps fail, compile again, or are others.",
}

INTRODUCTION = """\
What [the conformance kit](../how-to/prove-an-optimizer.md) reports of optax {optax}, with jax {jax}. No line below is
written by hand: `make findings` runs every check that applies to an object with `init` and `update`, and writes it.
Arguments are those that the column names; their domains are the papers'. optax says of itself that it does not check
shapes or hyperparameters, for the sake of speed and freedom; a finding is a fact about what users meet, no reproach."""


def named(name: str) -> Callable[..., Any]:
    """Return a function of optax with whatever else it needs to be called."""
    import optax

    f: Any = optax
    for part in name.split("."):
        f = getattr(f, part)
    if name == "contrib.sam":
        f = functools.partial(f, optax.sgd(0.05), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)))
    return f


def oracle_finding(name: str) -> Any:
    """Return what check_oracle finds where a transformation at each learning rate is compared with our oracle."""
    import optax

    from optimkit.testing import subject
    from optimkit.testing.suite import run_check
    from tests import oracles

    makes = {
        "adam": (optax.adam, oracles.oracle_adam),
        "sgd": (optax.sgd, oracles.oracle_sgd),
        "contrib.sam(sync_period=1)": (
            lambda lr: optax.contrib.sam(optax.sgd(lr), optax.sgd(0.05), sync_period=1), oracles.oracle_sgd),
    }  # fmt: skip
    make, oracle = makes[name]

    def apply(grads: Any, state: Any, params: Any, *, lr: Any) -> Any:
        updates, state = make(lr).update(grads, state, params)
        return state, optax.apply_updates(params, updates)

    return run_check(subject((make(0.1).init, apply), name=name), "check_oracle", oracle=oracle, tolerance=TOLERANCE)


def measure() -> None:
    """Run the kit on each subject, and store what failed."""
    from tqdm import tqdm

    from optimkit.testing import check_optimizer

    found: dict[str, Any] = {"versions": {name: version(name) for name in ("optax", "jax")}, "subjects": {}}
    for name, hyper in tqdm(SUBJECTS.items(), file=sys.stderr):
        report = check_optimizer(named(name), hyperparameters=hyper, report=lambda result: None)
        found["subjects"][name] = {
            "passed": sorted(r.check for r in report if r.verdict == "passed"),
            "failed": {r.check: r.message for r in report.failures},
        }
    for name in ("adam", "sgd", "contrib.sam(sync_period=1)"):
        result = oracle_finding(name)
        entry = found["subjects"].setdefault(name, {"passed": [], "failed": {}})
        if result.ok:
            entry["passed"].append(result.check)
        else:
            entry["failed"][result.check] = result.message
    (ROOT / DATA).write_text(json.dumps(found, indent=1) + "\n", "utf8")


def page(made: str) -> str:
    """Return the page: for each check that something fails, what that means, and what was found."""
    found = json.loads((ROOT / DATA).read_text("utf8"))
    parts = [made.format(DATA.rsplit("/", 1)[-1]) + "# What the kit finds in optax",
             INTRODUCTION.format(**found["versions"])]  # fmt: skip
    subjects = found["subjects"]
    counts = [(f"`{name}`", str(len(entry["passed"])), str(len(entry["failed"]))) for name, entry in subjects.items()]
    parts.append(table(("optimizer", "checks passed", "failed"), counts, 2))
    failing = dict.fromkeys(check for entry in subjects.values() for check in entry["failed"])
    order = [*(check for check in MEANING if check in failing), *(check for check in failing if check not in MEANING)]
    for check in order:
        same: dict[str, list[str]] = {}
        for name, entry in subjects.items():
            if check in entry["failed"]:
                same.setdefault(_finding(entry["failed"][check]), []).append(f"`{name}`")
        rows = [(text, ", ".join(names)) for text, names in same.items()]
        parts += [f"## {check}", MEANING.get(check, ""), table(("finding", "optimizers"), rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _finding(message: str) -> str:
    lines = message.splitlines()
    text = lines[0].split("): ", 1)[-1]
    got = next((line.split("got", 1)[1].strip() for line in lines if line.startswith("  got ")), "")
    text += f" Got {got[:160]}." if got and got not in ("None", "none", "no error") else ""
    text = re.sub(r"(?<=at )\S*site-packages/", "", text).replace(f"{ROOT}/", "")
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
