"""Table I and Fig. 5: all methods, both environments, seeds 0-4; about 13 minutes on two cores.

    python -m results.table1 --jobs 2       # carries on where it was interrupted
    python -m results.table1 --report       # redraws from run folders, or else from the CSVs
"""

import argparse
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from results.sweep import lab_main, lab_parser, legend_below, mean_sd_interval, run_many
from results.sweep import runs_or_csv, write_csv
from tsalign import ENVS, METHODS, Config

WHICH = ["env", "method", "settings", "seed"]
RUN_COLUMNS = [*WHICH, "success_teacher", "success_student", "gap", "return_teacher"]
RUN_COLUMNS += ["return_student", "eval_episodes", "env_steps", "seconds", "device", "torch"]
CURVE_COLUMNS = [*WHICH, "env_steps", "success_teacher", "success_student"]


def group(rows: list[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """Rows by environment, method and settings, in the order of `ENVS` and `METHODS`."""
    groups = {}
    for row in rows:
        groups.setdefault((row["env"], row["method"], row["settings"]), []).append(row)
    envs = [*ENVS, *sorted({env for env, _, _ in groups} - {*ENVS})]
    order = sorted(groups, key=lambda k: (envs.index(k[0]), [*METHODS].index(k[1]), k[2]))
    return {key: groups[key] for key in order}


def make_table(runs: list[dict]) -> list[dict]:
    """A row per environment, method and settings, the paper's figures beside ours."""
    table = []
    for (env, method, settings), rows in group(runs).items():
        line = dict(env=env, method=method, settings=settings, n=len(rows))
        for name, key in (("T", "success_teacher"), ("S", "success_student"), ("gap", "gap")):
            numbers = mean_sd_interval([float(row[key]) for row in rows])
            line |= {f"{name}_{k}": round(v, 6) for k, v in zip(("mean", "sd", "ci95"), numbers)}
        line["S_min"] = f"{min(float(row['success_student']) for row in rows):.3f}"
        paper = dict(zip(ENVS, METHODS[method].paper)).get(env)
        line["paper"] = f"{paper[0]:.2f}/{paper[1]:.2f}" if paper else "-"
        table.append(line)
    return table


def markdown(table: list[dict]) -> str:
    """The same to read, to two decimals: a row per method and settings, environments beside."""
    envs = list(dict.fromkeys(row["env"] for row in table))
    titles = [f"{env} {name} |" for env in envs for name in ("T", "S", "T - S", "paper T/S")]
    lines = [" ".join(["| method | n |", *titles]), "|---" * (2 + len(titles)) + "|"]
    for which in dict.fromkeys((row["method"], row["settings"]) for row in table):
        of = {row["env"]: row for row in table if (row["method"], row["settings"]) == which}
        counts = "/".join(dict.fromkeys(str(row["n"]) for row in of.values()))
        cells = [" ".join(["`" + which[0] + "`", which[1]]).strip(), counts]
        for env in envs:
            for name in ("T", "S", "gap") if env in of else ():
                mean, sd = (float(of[env][f"{name}_{k}"]) for k in ("mean", "sd"))
                cells.append(f"{mean:.2f}±{sd:.2f}".replace("-0.00", "0.00"))
            cells += [of[env]["paper"]] if env in of else ["-"] * 4
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(curves: list[dict], path: Path) -> None:
    """Fig. 5: student success over environment steps, mean and min-max band over seeds."""
    groups = group(curves)
    envs = list(dict.fromkeys(env for env, _, _ in groups))
    figure = Figure(figsize=(4.5 * len(envs), 3.8), layout="constrained")
    for env, axis in zip(envs, figure.subplots(1, len(envs), squeeze=False, sharey=True)[0]):
        for (_, method, settings), rows in ((k, g) for k, g in groups.items() if k[0] == env):
            steps = {}
            for row in rows:
                thousands, score = int(row["env_steps"]) / 1000, float(row["success_student"])
                steps.setdefault(thousands, []).append(score)
            x, colour = sorted(steps), f"C{[*METHODS].index(method)}"
            mean = [statistics.mean(steps[s]) for s in x]
            axis.plot(x, mean, color=colour, label=f"{method} {settings}".strip())
            low, high = [min(steps[s]) for s in x], [max(steps[s]) for s in x]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=env, xlabel="thousand environment steps", ylim=(-0.02, 1.02))
        axis.set_ylabel("success of the student")
        axis.grid(alpha=0.3)
    legend_below(figure)
    figure.savefig(path, dpi=130)


def report(out: Path, folder: Path) -> str:
    """Write runs.csv, curves.csv, table1.csv, table1.md and fig5.png; returns the table."""
    runs, curves = runs_or_csv(out, folder / "runs.csv", folder / "curves.csv")
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "runs.csv", RUN_COLUMNS, runs)
    write_csv(folder / "curves.csv", CURVE_COLUMNS, curves)
    table = make_table(runs)
    write_csv(folder / "table1.csv", list(table[0]), table)
    (folder / "table1.md").write_text(markdown(table), encoding="utf-8")
    plot(curves, folder / "fig5.png")
    return markdown(table)


def work(args: argparse.Namespace) -> dict[str, str]:
    """Train what is missing and report -> {run folder: error}."""
    configs = [
        Config(env=env, method=method, seed=seed, out=args.out)
        for seed in args.seeds for env in args.envs for method in args.methods
    ]  # fmt: skip
    failed = {} if args.report else run_many(configs, args.jobs)
    print(report(args.out, args.results))
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.table1`."""
    parser = lab_parser("table1", __doc__)
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    lab_main(work, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
