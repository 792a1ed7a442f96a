"""The signature and the docstring of an optimizer class, derived from its rule."""

from __future__ import annotations

import dataclasses
import inspect

from optimkit.rules.base import Rule


def named_signature(rule_type: type[Rule]) -> inspect.Signature:
    """Return ``(vc, <hyperparameters>, *, lr=None, dynamic=(), groups=(), schedules=None, constraints=None)``."""
    parameter, kinds = inspect.Parameter, inspect.Parameter
    fields = [
        parameter(f.name, kinds.KEYWORD_ONLY if f.kw_only else kinds.POSITIONAL_OR_KEYWORD,
                  default=parameter.empty if f.default is dataclasses.MISSING else f.default, annotation=f.type)
        for f in dataclasses.fields(rule_type)  # type: ignore[arg-type]
    ]  # fmt: skip
    options = {"lr": None, "dynamic": (), "groups": (), "schedules": None, "constraints": None}
    own = [parameter(name, kinds.KEYWORD_ONLY, default=default) for name, default in options.items()]
    ordered = sorted(fields, key=lambda p: p.kind)
    return inspect.Signature([parameter("vc", kinds.POSITIONAL_OR_KEYWORD), *ordered, *own])


def named_doc(own: str | None, rule_type: type[Rule]) -> str:
    """Return a class's own docstring, and below it its rule's, without the example of the functional face."""
    doc = inspect.getdoc(rule_type) or ""
    before, _, after = doc.partition("\nExample:\n")
    hyperparameters_of = after[after.index("Hyperparameters:") :] if "Hyperparameters:" in after else ""
    summary = inspect.cleandoc(own) if own else f"{rule_type.__name__}, bound to variables."
    return f"{summary}\n\n{before.strip()}\n\n{hyperparameters_of}".rstrip() + "\n"
