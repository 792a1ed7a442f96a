"""Tables and a picture of what learning_rate_free.py has measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

BASELINE, LIMIT = "Adam, tuned", 1.02
FOLDER = Path(__file__).parent / "results"
RESULTS, AUTHORS = FOLDER / "learning_rate_free.json", FOLDER / "learning_rate_free_authors.json"
DOCS = Path(__file__).parent.parent / "docs" / "reference" / "learning-rate-free.md"
BEGIN, END = "<!-- {}: made by benchmarks/learning_rate_free.py -->", "<!-- {}: end -->"
POINTS = {"last": "last iterate", "average": "average", "own": "own average"}
Record = dict[str, Any]


# --- what the records say ---------------------------------------------------------------------------------------------


def mean(numbers: list[float | None]) -> float:
    """Return the mean, infinity where a seed diverged."""
    # Exact: from Python 3.12 on sum() rounds otherwise than before, and the page is compared in both.
    return math.inf if None in numbers else math.fsum(numbers) / len(numbers)  # type: ignore[arg-type]


def chosen(records: list[Record], setting: Record) -> Record:
    """Return the record of a setting: the best of its learning rates."""
    return min(fitting(records, setting), key=lambda r: mean(r["objective"]))


def fitting(records: list[Record], setting: Record) -> list[Record]:
    """Return the records of a schedule and a point, one for each learning rate."""
    return [r for r in records if all(r[key] == setting[key] for key in ("schedule", "point"))]


def ratio(record: Record, base: Record) -> float:
    """Return the mean objective of a record over that of the base."""
    return mean(record["objective"]) / mean(base["objective"])


def decided(result: Record) -> dict[str, dict[str, Record]]:
    """Return by contestant and problem the record of the setting that decides."""
    return {
        name: {problem: chosen(p["runs"][name], setting) for problem, p in result["problems"].items()}
        for name, setting in result["settings"].items()
    }


def ratios(result: Record) -> dict[str, dict[str, float]]:
    """Return by contestant and problem the final objective, relative to the tuned Adam's."""
    records = decided(result)
    return {
        name: {problem: ratio(r, records[BASELINE][problem]) for problem, r in row.items()}
        for name, row in records.items()
    }


def edges(result: Record) -> list[str]:
    """Return the contestants with a grid, and the problems, whose best learning rate is at an end of it."""
    found = []
    for name, row in decided(result).items():
        grid = result["settings"][name]["lrs"]
        ends = (grid[0], grid[-1]) if len(grid) > 1 else ()
        found += [f"{name}, {problem}" for problem, r in row.items() if r["lr"] in ends]
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Return a table of Markdown whose first columns are of text and whose others of numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def times(x: float) -> str:
    """Return a ratio with three digits behind the point; bold where it is too large."""
    return plain(x) if x <= LIMIT else f"**{plain(x)}**"


def plain(x: float) -> str:
    """Return a ratio with three digits behind the point."""
    return "diverged" if math.isinf(x) else f"{x:.3f}" if x < 10 else f"{x:.0f}"


def main_table(result: Record) -> str:
    """Return the table that decides: candidates in order of their worst ratio, then what is there for reference."""
    rows, names = ratios(result), list(result["problems"])
    order = sorted(rows, key=lambda n: (not result["settings"][n]["candidate"], max(rows[n].values())))
    cells = []
    for name in order:
        setting, row = result["settings"][name], rows[name]
        within = f"{sum(x <= LIMIT for x in row.values())} of {len(row)}" if setting["candidate"] else ""
        where = POINTS["own"] if name.startswith("ScheduleFree") else POINTS[setting["point"]]
        cells.append([name, f"{setting['schedule']}, {where}", *(times(row[p]) for p in names), within])
    return table(["rule", "schedule, point", *names, "within 2 %"], cells, 2)


def figures(result: Record, problem: str) -> str:
    """Return a table of what was measured on a problem, in order of the objective."""
    rows = sorted(((n, row[problem]) for n, row in decided(result).items()), key=lambda x: mean(x[1]["objective"]))
    base = decided(result)[BASELINE][problem]
    cells = []
    for name, r in rows:
        each = r["objective"]
        spread = "" if None in each else f"{min(each):.4f} to {max(each):.4f}"
        rate = f"{r['lr']:.2g}" if r["found"][0] is None else f"{mean(r['found']):.2g}, found"
        cells.append([name, f"{mean(each):.4f}", spread, times(ratio(r, base)), f"{mean(r['test_loss']):.4f}",
                      f"{100 * mean(r['accuracy']):.2f}", rate])  # fmt: skip
    return table(["rule", "objective", "by seed", "ratio", "test loss", "test accuracy, %", "learning rate"], cells)


def grid(result: Record, name: str) -> str:
    """Return the table of the learning rates that were tried for a contestant, relative to the tuned Adam."""
    setting, cells = result["settings"][name], []
    for problem, p in result["problems"].items():
        base, best = decided(result)[BASELINE][problem], chosen(p["runs"][name], setting)
        shown = [(r is best, plain(ratio(r, base))) for r in fitting(p["runs"][name], setting)]
        cells.append([problem, *(f"**{x}**" if first else x for first, x in shown)])
    return table(["problem", *(f"{lr:.3g}" for lr in setting["lrs"])], cells)


def grids(result: Record) -> str:
    """Return the tables of all contestants with several learning rates."""
    names = [name for name, setting in result["settings"].items() if len(setting["lrs"]) > 1]
    return "\n\n".join(f"### {name}\n\n{grid(result, name)}" for name in names)


def others(result: Record) -> str:
    """Return the table of the candidates with each schedule, at each point; the setting that decides is marked."""
    cells = []
    for name, setting in result["settings"].items():
        settings = [(s, p) for s in ("cosine", "constant") for p in ("last", "average")]
        if not setting["candidate"]:
            continue
        for problem, p in result["problems"].items():
            base, row = decided(result)[BASELINE][problem], [name, problem]
            for key in settings:
                r = chosen(p["runs"][name], dict(zip(("schedule", "point"), key, strict=True)))
                row.append(times(ratio(r, base)) + (" ←" if key == (setting["schedule"], setting["point"]) else ""))
            cells.append(row)
    head = ["rule", "problem", "cosine, last", "cosine, average", "constant, last", "constant, average"]
    return table(head, cells, 2)


def authors_table(result: Record, authors: Record) -> str:
    """Return a table of ratios to the tuned Adam: by our rule, and by the code of its authors."""
    rows, cells = ratios(result), []
    for name, theirs in ((n, authors["runs"][n]) for n in rows if n in authors["runs"]):
        row = [name, f"{theirs['package']} {authors['versions'][theirs['package']]}"]
        for problem in result["problems"]:
            base = mean(decided(result)[BASELINE][problem]["objective"])
            there = plain(mean(theirs[problem]) / base) if problem in theirs else "not run"
            row.append(f"{plain(rows[name][problem])}, {there}")
        cells.append(row)
    return table(["rule", "package", *(f"{p}: ours, theirs" for p in result["problems"])], cells, 2)


def page(result: Record, authors: Record, stem: str) -> str:
    """Return all tables as a page of Markdown."""
    env = result["environment"]
    versions = ", ".join(f"{name} {v}" for name, v in env["versions"].items() if v)
    minima = ", ".join(f"{p['minimum']:.4f} ({name})" for name, p in result["problems"].items() if p["minimum"])
    parts = [
        "# Learning-rate-free rules against a tuned Adam",
        f"Made by `{env['command']}` on {env['date']}; do not edit. The protocol is in the docstring of that script, "
        "the reading in [docs](../../docs/reference/learning-rate-free.md).",
        f"- {env['cpu']}, {env['cores']} cores; {result['minutes']} minutes on a machine with other work, "
        f"{result['processor_minutes']} minutes of processor time\n- {versions}\n"
        f"- {result['steps']} steps; least values of the convex objectives, by scikit-learn: {minima}",
        "Final objective over the tuned Adam's, means over seeds:",
        main_table(result),
        f"![ratios]({stem}.png)",
        f"![on the way]({stem}_curves.png)",
    ]
    for problem in result["problems"]:
        parts += [f"## {problem}", figures(result, problem)]
    ends = edges(result)
    parts += ["## Learning rates tried", "Ratios to the tuned Adam. At an end of the grid: "
              f"{'; '.join(ends) if ends else 'none'}.", grids(result)]  # fmt: skip
    parts += ["## With the other schedule, and at the other point", "← decides.", others(result)]
    parts += ["## By the code of the authors", "The same problems, batches and settings, by "
              f"learning_rate_free_authors.py with torch {authors['versions']['torch']}. Ratios to the tuned Adam.",
              authors_table(result, authors)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def in_docs(text: str, result: Record, authors: Record) -> str:
    """Return the page of the docs with its tables made anew; the rest of it is written by hand."""
    tables = {"table": main_table(result), "grid": grid(result, BASELINE), "authors": authors_table(result, authors)}
    for name, made in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{made}\n\n{end}{rest.partition(end)[2]}"
    return text


# --- pictures ---------------------------------------------------------------------------------------------------------

LOOK = {"digits": "tab:blue", "MNIST-5k": "tab:orange", "softmax": "o", "network": "D"}
MOST = 1000  # percent
LINES = {
    BASELINE: ("black", "-"), "Adam, lr = 0.001": ("black", ":"), "Prodigy": ("tab:red", "-"),
    "DAdaptAdamW": ("tab:orange", "-"), "Mechanic(Adam)": ("tab:green", "-"), "DoG": ("tab:blue", "-"),
    "COCOB": ("tab:purple", "-"), "MoMo": ("tab:brown", "-"),
}  # fmt: skip


def draw(result: Record, file: Path) -> None:
    """Draw how far each rule is above the tuned Adam, in percent; the middle, up to 2 %, is linear."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter

    rows = {n: row for n, row in ratios(result).items() if n != BASELINE}
    order = sorted(rows, key=lambda n: (result["settings"][n]["candidate"], -max(rows[n].values())))
    figure, axes = plt.subplots(figsize=(8, 5.4), layout="constrained")
    for problem in result["problems"]:
        data, model = problem.split(", ")
        percent = [min(100 * (rows[n][problem] - 1), MOST) for n in order]
        axes.plot(percent, order, LOOK[model], color=LOOK[data], mfc="none", ms=7, mew=1.6, label=problem,
                  clip_on=False)  # fmt: skip
    references = sum(not result["settings"][n]["candidate"] for n in order)
    axes.axhline(references - 0.5, color="tab:gray", lw=0.8)
    axes.text(MOST, references - 0.55, "for reference", ha="right", va="top", color="tab:gray", size="small")
    axes.axvspan(-2, 2, color="tab:green", alpha=0.12, lw=0, label="within 2 %")
    axes.axvline(0, color="tab:green", lw=1)
    axes.set_xscale("symlog", linthresh=2, linscale=0.7)
    axes.xaxis.set_major_locator(FixedLocator([-10, -2, 0, 2, 10, 100, MOST]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.0f} %" if x else "0"))
    axes.set(xlim=(-12, MOST), xlabel=f"final training objective, relative to the tuned Adam's (at {MOST} %: or more)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper center", ncols=5, fontsize="small", handletextpad=0.4)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def draw_curves(result: Record, file: Path) -> None:
    """Draw the objective on the way, over the tuned Adam's last one: means over seeds, at the points of evaluation."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, ScalarFormatter

    figure, panels = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    records = decided(result)
    for axes, problem in zip(panels.flat, result["problems"], strict=False):
        end = mean(records[BASELINE][problem]["objective"])
        for name, (color, style) in LINES.items():
            if name in records:
                curve = [math.inf if f is None else f / end for f in records[name][problem]["curve"]]
                steps = [result["steps"] // len(curve) * (i + 1) for i in range(len(curve))]
                axes.plot(steps, curve, style, color=color, lw=1.4, label=name)
        axes.set(title=problem, yscale="log", ylim=(0.95, 10), xlabel="step", ylabel="relative objective")
        axes.yaxis.set_major_locator(FixedLocator([1, 1.2, 1.5, 2, 3, 5, 10]))
        axes.yaxis.set_minor_locator(FixedLocator([]))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    panels.flat[0].legend(frameon=False, loc="upper right", fontsize="small", ncols=2)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def write(result: Record, file: Path) -> None:
    """Write the tables beside the JSON file, and the picture; those of the docs, if these are the results."""
    import matplotlib

    matplotlib.use("agg")
    authors = load(AUTHORS)
    draw(result, file.with_suffix(".png"))
    draw_curves(result, file.with_name(f"{file.stem}_curves.png"))
    text = page(result, authors, file.stem)
    file.with_suffix(".md").write_text(text, "utf8")
    print(text)
    if file.resolve() == RESULTS.resolve():
        DOCS.write_text(in_docs(DOCS.read_text("utf8"), result, authors), "utf8")


def load(file: Path) -> Record:
    """Return stored results."""
    return json.loads(file.read_text("utf8"))


if __name__ == "__main__":  # after learning_rate_free_authors.py
    write(load(RESULTS), RESULTS)
