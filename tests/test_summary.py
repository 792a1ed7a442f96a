"""The summary of an optimizer: what it says is so, to the byte."""

from __future__ import annotations

import re

import jax.numpy as jnp
import pytest

from optimkit import TrainRef, TrainVar, VarCollection, contrib, optimizer, projections, rules, schedule
from optimkit.optimizer import Group, Optimizer


def variables():
    return VarCollection({
        "body.w": TrainVar(jnp.ones((30, 20))), "body.bias": TrainVar(jnp.ones(20, jnp.bfloat16)),
        "head.w": TrainVar(jnp.ones((20, 3), jnp.float16)), "embedding": TrainVar(jnp.ones((100, 20), jnp.bfloat16)),
    })  # fmt: skip


GROUPS = [
    Group("no_decay", "bias", weight_decay=0.0),
    Group("head", "head", lr_scale=0.1, slot_dtype="bfloat16"),
    Group("frozen", "embedding", frozen=True),
]
OPTIMIZERS = {
    "Adam": lambda vc: optimizer.Adam(vc),
    "groups": lambda vc: optimizer.AdamW(vc, groups=GROUPS, dynamic=("beta1", "head.lr_scale"), lr=0.1),
    "factored": lambda vc: optimizer.Adafactor(vc, min_dim_size_to_factor=2, lr=schedule.Linear(0.1, 0.0, 9)),
    "own rule": lambda vc: optimizer.Adam(vc, groups=[Group("mom", "head", rule=rules.Momentum())]),
    "no state": lambda vc: optimizer.SGD(vc),
    "one state": lambda vc: Optimizer(vc, rules.NoisySGD()),
    "a wrapper": lambda vc: Optimizer(vc, rules.Lookahead(rules.Adam(), 3)),
}


def lines_of(opt, **options):
    """Return the columns of each line of the table of variables, by its first."""
    table = str(opt.summary(**options)).split("\n\n")[1].splitlines()
    assert table[0].split() == ["variable", "group", "shape", "dtype", "bytes", "state", "bytes"]
    return {(columns := re.split(r" {2,}", line))[0]: columns[1:] for line in table[1:]}


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bytes_are_those_of_the_variables(name):
    vc = variables()
    opt = OPTIMIZERS[name](vc)
    own = opt.vars().subset(is_not=TrainRef)
    lines = lines_of(opt)
    for param, var in vc.items():
        state = sum(v.value.nbytes for key, v in own.items() if f"[{param}]" in key)
        assert [number(x) for x in lines[param][-2:]] == [var.value.nbytes, state]
    rest = sum(v.value.nbytes for key, v in own.items() if "[" not in key)
    assert number(lines.get("counters and hyperparameters", ["0"])[-1]) == rest
    total = [sum(v.value.nbytes for v in vc), sum(v.value.nbytes for v in own)]
    assert [number(x) for x in lines["total"]] == total
    by_group = re.findall(r"([\d,]+) bytes, state ([\d,]+)\]", " ".join(str(opt.summary()).split()))
    assert sum(number(size) for size, _ in by_group) == total[0]
    assert sum(number(state) for _, state in by_group) == total[1] - rest


def test_the_plan_is_in_it():
    opt = OPTIMIZERS["groups"](variables())
    lines = lines_of(opt)
    assert lines["body.bias"][:3] == ["no_decay", "[20]", "bfloat16"]
    assert {name: columns[0] for name, columns in lines.items() if len(columns) == 5} == opt.group_of
    text = " ".join(str(opt.summary()).split())
    assert "AdamW: 4 variables, 2,680 parameters" in text
    assert re.search(r"no_decay AdamW\(.*?weight_decay=0\.0\) \(beta1 dynamic\) \[1 variable, 40 bytes", text)
    assert re.search(r"head lr \* 0\.1, AdamW\(.*?\) \(beta1 dynamic, head\.lr_scale dynamic\)", text)
    assert "frozen frozen [1 variable, 4,000 bytes, state 0]" in text


def test_hyperparameters_are_shown_with_their_present_values():
    opt = optimizer.Momentum(variables(), schedule.Linear(0.5, 0.0, 2), groups=[Group("body", "body", momentum=0.75)])
    zeros = [jnp.zeros_like(v.value) for v in opt.train_vars]
    for momentum in (0.5, 0.25):
        text = str(opt.summary())
        assert f"default  Momentum(momentum={momentum}, nesterov=False) (momentum scheduled)" in text
        assert "body     Momentum(momentum=0.75, nesterov=False) [2 variables" in text
        opt(0.1, zeros)


def test_the_learning_rate_and_the_constraints_are_in_it():
    vc = variables()
    opt = optimizer.SGD(vc, lr=schedule.Linear(0.5, 0.0, 2), constraints={"body|head": projections.LInfBall(2.0)})
    assert "learning rate: 0.5 at step 0, Linear(start=0.5" in opt.summary()
    opt.step([jnp.zeros_like(v.value) for v in opt.train_vars])
    assert "learning rate: 0.25 at step 1, Linear(start=0.5" in opt.summary()
    assert opt.summary().endswith("constraints\nLInfBall(radius=2.0): body.w, body.bias, head.w")
    assert "learning rate: 0.125\n" in optimizer.SGD(vc, lr=0.125).summary()
    assert "learning rate: given to each call\n" in optimizer.SGD(vc).summary()


def test_many_like_variables_share_a_line_and_keep_the_totals():
    layers = {f"net.layers[{i}].{k}": TrainVar(jnp.ones((2, 2) if k == "w" else 2)) for i in range(30) for k in "wb"}
    vc = VarCollection({**layers, "head": TrainVar(jnp.ones(3))})
    opt = optimizer.Adam(vc, groups=[Group("late", r"\[2\d\]", lr_scale=0.5)])
    lines = lines_of(opt)
    assert lines["net.layers[0..19].w (20)"] == ["default", "[2, 2]", "float32", "320", "640"]
    assert lines["net.layers[20..29].b (10)"] == ["late", "[2]", "float32", "80", "160"]
    assert lines["head"] == ["default", "[3]", "float32", "12", "24"]
    assert len(lines) == 5 + 2
    assert [number(x) for x in lines["total"]] == [30 * 24 + 12, 2 * (30 * 24 + 12) + 4]


@pytest.mark.parametrize("width", [60, 100])
def test_it_is_no_wider_than_asked_and_shortens_names_in_the_middle(width):
    layers = "(Model).encoder(Encoder).layers(ModuleList)"
    names = [f"{layers}[{i}](Block).attention(MultiHead).query(Linear).w" for i in "01"]
    vc = VarCollection((name, TrainVar(jnp.ones((3, 4)))) for name in names)
    opt = optimizer.AdamW(vc, groups=[Group("a", "1", eps=1.0)])
    lines = str(opt.summary(width)).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.startswith("(Mod") and "Linear).w" in line for line in lines[4:6])
    assert "…" in lines[4]


def test_it_is_a_text_that_shows_itself():
    opt = optimizer.SGD(VarCollection({"w": TrainVar(jnp.ones(3))}))
    summary = opt.summary()
    assert repr(summary) == str(summary) == f"{summary}"
    assert isinstance(summary, str)
    assert summary.splitlines()[0] == "SGD: 1 variable, 3 parameters"


def test_what_a_rule_does_with_each_variable_is_shown_where_it_routes_by_itself():
    """Muon takes matrices and leaves embeddings to Adam; a group with another rule has routes of its own, or none."""
    model = VarCollection({n: TrainVar(jnp.ones((5, 4))) for n in ("embedding", "body.w", "head.w")})
    groups = [Group("classifier", "head", rule=rules.Momentum())]
    places = [line.split()[:2] for line in str(contrib.Muon(model, groups=groups).summary()).splitlines()]
    assert ["embedding", "default/other"] in places
    assert ["body.w", "default/muon"] in places
    assert ["head.w", "classifier"] in places
