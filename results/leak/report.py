"""Tables and figures of leak.csv and halve.csv."""

from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from results.leak.measure import FIGURES, PRIVATE
from results.leak.probes import LEVEL, NOISE
from results.sweep import read_csv
from tsalign import METHODS, BadInput


def group(rows: list[dict], env: str) -> dict[str, dict[str, np.ndarray]]:
    """{method and settings: {column: its figures over seeds}}, in the order of `METHODS`."""
    methods = [*METHODS, *(row["method"] for row in rows)]
    rows = sorted((r for r in rows if r["env"] == env), key=lambda r: methods.index(r["method"]))
    names = list(dict.fromkeys(f"{row['method']} {row['settings']}".strip() for row in rows))
    of = {name: [r for r in rows if f"{r['method']} {r['settings']}".strip() == name]
          for name in names}  # fmt: skip
    return {name: {k: np.array([float(row[k]) for row in of[name]]) for k in FIGURES}
            for name in names}  # fmt: skip


def span(values: np.ndarray) -> str:
    """Mean, smallest and largest, to read."""
    text = f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"
    return text.replace("-0.00", "0.00")


def dots(axis, groups: dict, column: str, label: str, colour: str) -> None:
    """A line for each group: a bar for the mean, a dot for each seed."""
    for k, figures in enumerate(groups.values()):
        axis.barh(k, figures[column].mean(), color=colour, alpha=0.3)
        axis.plot(figures[column], [k] * len(figures[column]), "o", color=colour, markersize=4)
    axis.set_yticks(range(len(groups)), [fill(name, 24) for name in groups], fontsize=8)
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.set_xlabel(label)
    axis.axvline(0, color="grey", linewidth=0.8)


def report_leak(rows: list[dict], out: Path) -> str:
    """leak.md, and leak.png: every seed a dot; below, how it depends on the noise."""
    titles = ["environment", "method", "n", "leak, mean (min to max)", "control", "private bits",
              "leaked", "leak at noise 0.03, 0.3, 1", "S"]  # fmt: skip
    table = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    envs = [env for env in PRIVATE if any(row["env"] == env for row in rows)]
    figure = Figure(figsize=(4.5 * len(envs), 6.6), layout="constrained")
    axes = figure.subplots(2, len(envs), squeeze=False)
    by_env = {env: group(rows, env) for env in envs}
    all_names = list(dict.fromkeys(name for groups in by_env.values() for name in groups))
    for (env, groups), axis, below in zip(by_env.items(), *axes):
        dots(axis, groups, "leak", f"leak at noise {LEVEL} (ticks: control)", "C0")
        for k, (name, of) in enumerate(groups.items()):
            axis.plot(of["control"], [k] * len(of["control"]), "|", color="black", markersize=9)
            curve = np.array([of[f"leak_{noise}"] for noise in NOISE])  # (noises, seeds)
            colour = f"C{all_names.index(name)}"
            below.plot(NOISE, curve.mean(1), "o-", color=colour, markersize=3, label=name)
            below.fill_between(NOISE, curve.min(1), curve.max(1), color=colour, alpha=0.15)
            n, inside = len(of["leak"]), (abs(of["control"]) <= of["control_interval"]).sum()
            others = ", ".join(f"{of[f'leak_{n}'].mean():.2f}" for n in NOISE if n != LEVEL)
            table.append(f"| {env} | {name} | {n} | {span(of['leak'])} | "
                         f"{of['control'].mean():+.3f}, {inside} of {n} within +- | "
                         f"{of['private_bits'].mean():.2f} | {of['leaked_bits'].mean():.2f} | "
                         f"{others} | {of['success_student'].mean():.2f} |")  # fmt: skip
        if "ours" in groups:
            success = [groups["ours"][f"success_{noise}"].mean() for noise in NOISE]
            below.plot(NOISE, success, "k--", label="success of ours' teacher")
        axis.set_title(env)
        below.set(xscale="log", xlabel="noise in z_T (its entries have size 1)", ylabel="leak")
    names = {name: line for below in axes[1]
             for line, name in zip(*below.get_legend_handles_labels())}  # fmt: skip
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(out / "leak.png", dpi=130)
    return "\n".join(table) + "\n"


def report_halve(rows: list[dict], out: Path) -> str:
    """halve.md, and halve.png: leak and success of the student, every seed a dot."""
    groups = {name.removeprefix("ours").strip() or "as it is": of
              for name, of in group(rows, "collecthealth").items()}  # fmt: skip
    base = groups.get("as it is", next(iter(groups.values())))["leak"].mean()
    table = ["| ours with | n | leak, mean (min to max) | of as it is | S, mean (min to max) |",
             "|---" * 5 + "|"]  # fmt: skip
    for name, of in groups.items():
        table.append(f"| {name} | {len(of['leak'])} | {span(of['leak'])} | "
                     f"{of['leak'].mean() / base:.2f} | {span(of['success_student'])} |")
    figure = Figure(figsize=(9, 0.8 + 0.35 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    dots(left, groups, "leak", f"leak at noise {LEVEL} (line: half of as it is)", "C0")
    left.axvline(base / 2, color="black", linewidth=0.8)
    dots(right, groups, "success_student", "success of the student", "C1")
    right.set_xlim(min(0.9, min(of["success_student"].min() for of in groups.values())), 1.02)
    figure.savefig(out / "halve.png", dpi=130)
    return "\n".join(table) + "\n"


def report(out: Path) -> None:
    """Write and print what the CSVs tell. Raises BadInput if there is none."""
    made = {"leak": report_leak, "halve": report_halve}
    made = {name: make for name, make in made.items() if (out / f"{name}.csv").exists()}
    if not made:
        raise BadInput(f"no leak.csv or halve.csv in {out}")
    for name, make in made.items():
        text = make(read_csv(out / f"{name}.csv"), out)
        (out / f"{name}.md").write_text(text, encoding="utf-8")
        print(text)
