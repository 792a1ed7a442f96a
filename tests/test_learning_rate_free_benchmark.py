"""The benchmark of learning-rate-free rules measures what it says, and its pages are what it has measured."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from optimkit import contrib, optimizer, pure, rules
from optimkit.core import TrainVar, VarCollection

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # where its scripts find each other

bench = importlib.import_module("learning_rate_free")
report = importlib.import_module("learning_rate_free_report")

DATA = ("sklearn", "mlxtend")
needs_data = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, DATA)), reason="scikit-learn or mlxtend is not installed (the bench extra)"
)


@pytest.fixture(scope="module")
def results():
    return report.load(report.RESULTS)


@pytest.fixture(scope="module")
def authors():
    return report.load(report.AUTHORS)


def tiny(hidden=0, n=12, features=3):
    """Return a problem of two classes."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(n, features)).astype(np.float32), np.arange(n, dtype=np.int32) % 2
    return bench.Problem("tiny", hidden, (x, y), (x[:4], y[:4]))


# --- what is minimised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 2])
def test_the_objective_is_the_cross_entropy_and_half_the_squared_weights_over_the_number_of_examples(hidden):
    problem, random = tiny(hidden), np.random.default_rng(1)
    p = {name: random.normal(size=a.shape).astype(np.float32) for name, a in problem.initial(0).items()}
    (x, y), total = problem.train, 0.0
    for features, label in zip(np.float64(x), y, strict=True):
        if hidden:
            features = np.maximum(features @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
        else:
            features = features @ p["w"] + p["b"]
        total -= features[label] - np.log(np.exp(features).sum())
    squares = sum((np.float64(a) ** 2).sum() for name, a in p.items() if name[0] == "w")
    np.testing.assert_allclose(problem.objective(p, x, y), (total + squares / 2) / len(y), rtol=1e-6)


@needs_data
@pytest.mark.slow
def test_the_convex_objective_has_the_least_value_that_scikit_learn_finds():
    """From the other side: no step of Newton's direction or of a long training goes below it."""
    problem = bench.problems()[0]
    least = bench.minimum(problem)
    adam = bench.Contestant("Adam", rules.Adam(), "cosine", lrs=(0.1,), others=())
    found = bench.measure(problem, adam, 3000, 25)[0]["objective"]
    assert problem.name == "digits, softmax"
    assert (found > least * (1 - 1e-6)).all() and (found < least * 1.01).all()


def test_each_epoch_has_every_example_once_at_most_and_seeds_differ():
    problem = tiny(n=150)
    batches = problem.batches(0, 5)
    assert batches.shape == (5, bench.BATCH)
    for epoch in (batches[:2], batches[2:4]):  # 22 of 150 are left out of each
        assert len(set(epoch.ravel())) == 128 and set(epoch.ravel()) <= set(range(150))
    assert set(batches[:2].ravel()) != set(batches[2:4].ravel())
    np.testing.assert_array_equal(problem.batches(0, 3), batches[:3])
    assert (problem.batches(1, 5) != batches).any()


# --- how it is measured -----------------------------------------------------------------------------------------------


def test_a_measured_run_is_a_loop_of_the_optimizer():
    """Of the stateful class; of the first and the last seed, both schedules and both learning rates."""
    problem, steps = tiny(2, n=150), 4
    contestant = bench.Contestant("Momentum", rules.Momentum(0.5), "cosine", lrs=(0.1, 0.7), others=("constant",))
    records = bench.measure(problem, contestant, steps, 2)
    assert [(r["schedule"], r["lr"], r["point"]) for r in records] == [
        (s, lr, point) for s in ("cosine", "constant") for lr in (0.1, 0.7) for point in ("last", "average")
    ]
    x, y = problem.train
    gradient = jax.jit(jax.grad(problem.objective))
    waves = {"constant": [1.0] * 4, "cosine": [(1 + np.cos(np.pi * t / 4)) / 2 for t in range(4)]}
    for record, seed in ((records[2], 0), (records[4], 2)):
        variables = VarCollection({name: TrainVar(a) for name, a in problem.initial(seed).items()})
        opt = optimizer.Momentum(variables, 0.5)
        for batch, wave in zip(problem.batches(seed, steps), waves[record["schedule"]], strict=True):
            p = {name: v.value for name, v in variables.items()}
            opt(record["lr"] * wave, gradient(p, x[batch], y[batch]))
        p = {name: v.value for name, v in variables.items()}
        np.testing.assert_allclose(record["objective"][seed], problem.objective(p, x, y), rtol=1e-5)
        np.testing.assert_allclose(record["test_loss"][seed], problem.loss(p, *problem.test), rtol=1e-5)
    assert len({float(r["objective"][0]) for r in records}) == len(records)  # no two settings are one


def test_a_rule_that_averages_is_evaluated_at_its_own_point():
    """The point is that of ``eval_params``: ScheduleFree's average differs from its parameters."""
    problem = tiny()
    free = contrib.rules.ScheduleFree(rules.SGD())
    record = bench.measure(problem, bench.Contestant("free", free, "constant", lrs=(0.5,), others=()), 4, 2)[0]
    init, apply = pure(free, 0.5)
    params = problem.initial(0)
    state, (x, y), gradient = init(params), problem.train, jax.jit(jax.grad(problem.objective))
    for batch in problem.batches(0, 4):
        state, params = apply(gradient(params, x[batch], y[batch]), state, params)
    own = free.eval_params(state, params)
    np.testing.assert_allclose(record["objective"][0], problem.objective(own, x, y), rtol=1e-5)
    assert abs(float(problem.objective(params, x, y)) - record["objective"][0]) > 1e-3


def test_the_contestants_are_those_of_the_issue_at_a_learning_rate_of_one():
    candidates = {type(c.rule).__name__: c for c in bench.contestants() if c.candidate}
    names = {"Prodigy", "DAdaptAdamW", "COCOB", "DoG", "LDoG", "DoWG", "Mechanic", "MoMo", "MoMoAdam"}
    assert candidates.keys() == names
    assert all(c.lrs == (1.0,) for c in candidates.values())
    assert len(bench.GRID) == 7
    np.testing.assert_allclose(bench.GRID, np.logspace(-3, 0, 7))


# --- what is made of it -----------------------------------------------------------------------------------------------


def record(lr, *objective, schedule="cosine", point="last"):
    return {"lr": lr, "objective": list(objective), "schedule": schedule, "point": point}


def small(free, grid=(3.0, 1.0, 2.0)):
    """Return results of a rule and of an Adam with the mean objectives of a grid."""
    adam = [record(lr, f, f) for lr, f in zip((0.1, 1.0, 10.0), grid, strict=True)]
    setting = {"schedule": "cosine", "point": "last"}
    return {
        "settings": {
            "Free": {**setting, "lrs": [1.0], "candidate": True},
            report.BASELINE: {**setting, "lrs": [0.1, 1.0, 10.0], "candidate": False},
        },
        "problems": {"a": {"runs": {"Free": free, report.BASELINE: adam}}},
    }


def test_a_ratio_is_of_means_over_seeds_to_the_best_of_the_grid():
    assert report.ratios(small([record(1.0, 1.0, 2.0)]))["Free"]["a"] == 1.5
    assert report.ratios(small([record(1.0, 1.0, 2.0)], grid=(3.0, 4.0, 2.0)))["Free"]["a"] == 0.75


def test_only_the_setting_that_was_chosen_before_decides():
    better = [record(1.0, 0.5, 0.5, schedule="constant"), record(1.0, 0.5, 0.5, point="average")]
    assert report.ratios(small([*better, record(1.0, 1.5, 1.5)]))["Free"]["a"] == 1.5


@pytest.mark.parametrize(("each", "cell"), [
    ((1.02, 1.02), "| 1.020 | 1 of 1 |"), ((1.03, 1.02), "| **1.025** | 0 of 1 |"),
    ((1.0, None), "| **diverged** | 0 of 1 |"),
])  # fmt: skip
def test_a_miss_is_bold_and_not_counted(each, cell):
    assert cell in report.main_table(small([record(1.0, *each)]))


@pytest.mark.parametrize(("grid", "ends"), [
    ((3.0, 1.0, 2.0), []), ((1.0, 2.0, 3.0), ["Adam, tuned, a"]), ((3.0, 2.0, 1.0), ["Adam, tuned, a"]),
])  # fmt: skip
def test_a_best_learning_rate_at_an_end_of_the_grid_is_told(grid, ends):
    assert report.edges(small([record(1.0, 1.0)], grid)) == ends


def test_the_results_are_complete_and_by_the_protocol(results):
    assert results["steps"] == bench.STEPS and len(results["problems"]) == 4
    assert results["settings"] == {c.name: c.setting() for c in bench.contestants()}
    for problem in results["problems"].values():
        for c in bench.contestants():
            records = problem["runs"][c.name]
            keys = [(r["schedule"], r["lr"], r["point"]) for r in records]
            assert keys == [(*run, point) for run in c.runs() for point in bench.POINTS]
            assert all(len(r["objective"]) == len(r["accuracy"]) == 3 for r in records)


def test_the_best_learning_rates_of_adam_are_inside_the_grid(results):
    assert [name for name in report.edges(results) if name.startswith(report.BASELINE)] == []


def test_no_run_goes_below_the_least_value_of_a_convex_objective(results):
    """What is measured is what scikit-learn minimises; the tuned Adam comes within 2 % of it."""
    convex = {name: p for name, p in results["problems"].items() if p["minimum"] is not None}
    assert list(convex) == ["digits, softmax", "MNIST-5k, softmax"]
    for name, p in convex.items():
        values = [v for records in p["runs"].values() for r in records for v in r["objective"] if v is not None]
        assert min(values) > p["minimum"] * (1 - 1e-5)
        assert report.mean(report.decided(results)[report.BASELINE][name]["objective"]) < 1.02 * p["minimum"]


def test_the_pages_are_what_the_results_say(results, authors):
    """If this fails: python benchmarks/learning_rate_free_report.py."""
    page = report.RESULTS.with_suffix(".md").read_text("utf8")
    assert page == report.page(results, authors, report.RESULTS.stem)
    docs = report.DOCS.read_text("utf8")
    assert docs == report.in_docs(docs, results, authors)
    assert report.main_table(results) in docs and report.authors_table(results, authors) in docs


@needs_data
@pytest.mark.slow
def test_the_script_writes_data_tables_and_a_picture(tmp_path):
    out = tmp_path / "few.json"
    few = ["--data", "digits, softmax", "--only", "Prodigy", "--steps", "25"]
    command = [sys.executable, "benchmarks/learning_rate_free.py", *few, "--json", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr
    result = json.loads(out.read_text())
    assert list(result["settings"]) == ["Prodigy", report.BASELINE]
    assert list(result["problems"]) == ["digits, softmax"]
    assert "learning_rate_free.py --data 'digits, softmax' --only Prodigy" in result["environment"]["command"]
    assert process.stdout.strip() == out.with_suffix(".md").read_text().strip()
    for name in ("few.png", "few_curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
