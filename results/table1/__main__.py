"""Table I and Fig. 5: six methods, two environments, seeds 0-9; half an hour on two cores.

    python -m results.table1 --jobs 2       # carries on where it was interrupted
    python -m results.table1 --report       # redraws from runs.csv and curves.csv
    python -m results.table1 --methods ours --seeds $(seq 400 459) --out runs/unseen \\
        --results results/table1/unseen     # 60 other seeds, 20 minutes
"""

import argparse
import statistics
from pathlib import Path

from results import lab
from tsalign import ENVS, METHODS, find_method

# The best of a sweep on the tuning seeds 100-102, see `results.claims sitt`.
SITT_LAMBDA1 = {"tunnelvision": 0.2, "collecthealth": 0.003}
CURVES = [*lab.KEY, "env_steps", "student_views", "T", "S"]


def read_curve(folder: Path) -> list[dict]:
    """The evaluations of a finished run."""
    run = lab.read_run(folder)
    rows = []
    for row in lab.read_csv(folder / "log.csv"):
        row["T"] = row[f"{run['kind']}_teacher"]
        row["S"] = row[f"{run['kind']}_student"]
        rows.append(row | {name: run[name] for name in lab.KEY})
    return rows


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing, and put it into runs.csv and curves.csv."""
    configs = []
    for seed in args.seeds:
        for env in args.envs:
            for method in args.methods:
                settings = {"seed": seed, "out": str(args.out)}
                if method == "sitt":
                    settings["sitt_lambda1"] = SITT_LAMBDA1[env]
                configs.append(lab.standard(env, method, **settings))
    failed = lab.train_all(configs, args.jobs, args.results / "runs.csv")
    curves = []
    for config in configs:
        if lab.is_finished(config):
            curves += read_curve(config.folder)
    lab.merge_csv(args.results / "curves.csv", CURVES, curves, [*lab.KEY, "env_steps"])
    return failed


def mean_sd(values: list[float]) -> str:
    """Three digits where two would only say 1.00 or 0.00."""
    mean = statistics.mean(values)
    digits = 2 if 0.05 < abs(mean) < 0.95 else 3
    text = f"{mean:.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text.replace("-0.000", "0.000")


def markdown(runs: list[dict]) -> str:
    """A table for each environment; the worst seed and the paper's figures stand beside."""
    lines = []
    for env, of_env in lab.group(runs, "env").items():
        lines += [
            f"**{env}** ({of_env[0]['kind']}; mean ± standard deviation of n seeds)",
            "",
        ]
        lines += [
            "| method | n | T | S | T - S | worst S | paper T / S |",
            "|---" * 7 + "|",
        ]
        for label, rows in lab.by_method(of_env).items():
            cells = [f"`{label}`", str(len(rows))]
            cells += [mean_sd(lab.numbers(rows, name)) for name in ("T", "S", "gap")]
            cells.append(f"{min(lab.numbers(rows, 'S')):.3f}")
            paper = find_method(rows[0]["method"]).paper.get(env)
            cells.append(f"{paper[0]:.2f} / {paper[1]:.2f}" if paper else "-")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(curves: list[dict], path: Path) -> None:
    """Fig. 5: the student's score over environment steps."""
    by_env = lab.group(curves, "env")
    figure, axes = lab.make_figure(len(by_env), height=3.8)
    for axis, (env, of_env) in zip(axes[0], by_env.items()):
        for rows in lab.by_method(of_env).values():
            by_steps = lab.group(rows, "env_steps")
            steps = sorted(by_steps, key=int)
            scores = [lab.numbers(by_steps[s], "S") for s in steps]
            thousands = [int(s) / 1000 for s in steps]
            mean = [statistics.mean(some) for some in scores]
            low = [min(some) for some in scores]
            high = [max(some) for some in scores]
            method = rows[0]["method"]
            colour = lab.COLOURS.get(method, "gray")
            n = len(lab.group(rows, "seed"))
            axis.plot(thousands, mean, color=colour, label=f"{method} (n = {n})")
            axis.fill_between(thousands, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=env, xlabel="thousand environment steps")
    axes[0, 0].set_ylabel("success of the student")
    note = "lines: mean over n seeds; bands: from the worst seed to the best"
    lab.save_figure(figure, path, note)


def report(args: argparse.Namespace) -> None:
    """Print Table I; where there are several methods, save it, and draw Fig. 5."""
    text = markdown(lab.read_csv(args.results / "runs.csv"))
    print(text)
    curves = lab.read_csv(args.results / "curves.csv")
    if len(lab.group(curves, "method")) > 1:  # a single method has nothing beside it
        (args.results / "table1.md").write_text(text, encoding="utf-8")
        draw(curves, args.results / "fig5.png")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.table1`."""
    parser = lab.lab_parser("table1", __doc__, range(10))
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
