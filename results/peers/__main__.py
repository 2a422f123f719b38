"""What would one use instead? Six methods side by side until the student wins 95 %.

    pip install -r results/peers/requirements.txt   # stable-baselines3
    python -m results.peers --jobs 2                # carries on where it was interrupted
    python -m results.peers --report                # redraws from run folders, or else from the CSV

All see the same views, have networks of the same sizes and one core; `results.peers.race` says how
they are judged. The first four of these train on Config's steps and settings, the others on twice
the steps:

    ours          as in tsalign.py
    actor-critic  the actor sees the student's view, the critic the teacher's
    dagger        an isolated teacher, for half of the steps, then labels the student's own way
    sb3-ours      PPO of stable-baselines3 on the student's view, with our settings
    sb3-images    the same as usual for images: 8 environments x 128 steps, 4 epochs, batch 256
    sb3-default   the same at its defaults
"""

import argparse
import importlib.util
import math
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from results.growth.envs import GRIDS, growth
from results.peers.race import PEERS
from results.sweep import lab_main, lab_parser, run_many, runs_or_csv, write_csv
from tsalign import ENV_SETTINGS, METHODS, BadInput, Config

ENVS = {  # whose settings an environment takes
    "tunnelvision": "tunnelvision",
    "results.growth.envs:TunnelVision9x21-v0": "tunnelvision",
    "collecthealth": "collecthealth",
    "results.growth.envs:CollectHealth32x64-v0": "collecthealth",
    "results.growth.envs:CollectHealth64x128-v0": "collecthealth",
}
NAMES = ["tunnelvision 5 x 9", "tunnelvision 9 x 21"]
NAMES += ["collecthealth 16 x 32", "collecthealth 32 x 64", "collecthealth 64 x 128"]
LONGER = {"sb3-images": 2, "sb3-default": 2}  # times Config's steps: they were made for more
COLUMNS = ["env", "method", "seed", "steps_to_95", "seconds_to_95", "success_student"]
COLUMNS += ["success_teacher", "env_steps", "seconds", "seconds_with_looks", "torch"]


def make_config(env: str, method: str, seed: int, out: Path, total_steps: int | None) -> Config:
    """Settings of the environment that this one is a variant of, steps as in `results.growth`; one
    thread of the CPU.
    """
    given = {k: v for k, v in ENV_SETTINGS.get(ENVS.get(env, env), {}).items()
             if k not in METHODS[method].settings}  # fmt: skip
    given |= dict(env=env, method=method, seed=seed, out=out, device="cpu", threads=1)
    config = Config(**given)
    size = GRIDS.get(env.rpartition(":")[2])
    steps = LONGER.get(method, 1) * (total_steps or config.total_steps)
    steps = round(steps * growth(*size)) if size else steps
    return Config(**given | {"total_steps": steps})


def by_env(rows: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """{environment: {method: rows}}, in the order above; never at .95 is infinitely late."""
    table = {}
    for env in [*ENVS, *sorted({row["env"] for row in rows} - {*ENVS})]:
        for method in PEERS:
            own = [row for row in rows if (row["env"], row["method"]) == (env, method)]
            if own:
                table.setdefault(env, {})[method] = own
    return table


def number(row: dict, key: str) -> float:
    """A figure of one run; infinity where it never got there."""
    return math.inf if row.get(key) in ("", None) else float(row[key])


def spread(values: list[float], digits: int = 1) -> str:
    """Median and range, if there is one; "never" where there is no such time."""
    cells = [statistics.median(values), min(values), max(values)]
    middle, low, high = ("never" if x == math.inf else f"{x:,.{digits}f}" for x in cells)
    return middle if low == high else f"{middle} ({low} - {high})"


def markdown(rows: list[dict]) -> str:
    """A row per environment and method: medians and ranges over seeds."""
    columns = ["environment", "method", "n", "reached .95", "seconds to .95"]
    columns += ["times ours, same seed", "steps to .95", "student at the stop", "its teacher"]
    columns += ["seconds in all"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for env, methods in by_env(rows).items():
        base = {row["seed"]: number(row, "seconds_to_95") for row in methods.get("ours", [])}
        for method, own in methods.items():
            seconds = [number(row, "seconds_to_95") for row in own]
            steps = [number(row, "steps_to_95") for row in own]
            teacher = statistics.median(number(row, "success_teacher") for row in own)
            ratios = [s / base[row["seed"]] for s, row in zip(seconds, own)
                      if base.get(row["seed"], math.inf) < math.inf]  # fmt: skip
            lines.append("| " + " | ".join([
                dict(zip(ENVS, NAMES)).get(env, env), method, str(len(own)),
                str(sum(s < math.inf for s in seconds)), spread(seconds),
                spread(ratios, 2) if ratios else "-", spread(steps, 0),
                spread([number(row, "success_student") for row in own], 3),
                "-" if teacher == math.inf else f"{teacher:.3f}",
                spread([number(row, "seconds") for row in own], 0),
            ]) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """Seconds to .95, a dot per seed; hollow where a run ended without, with its last success."""
    table = by_env(rows)
    figure = Figure(figsize=(9, 1.3 + 1.9 * math.ceil(len(table) / 2)), layout="constrained")
    for place, (env, methods) in enumerate(table.items(), 1):
        axis = figure.add_subplot(math.ceil(len(table) / 2), min(2, len(table)), place)
        for k, method in enumerate(PEERS):
            without = []
            for shift, row in enumerate(methods.get(method, [])):
                reached, y = number(row, "seconds_to_95") < math.inf, k + 0.2 * (shift - 1)
                x = number(row, "seconds_to_95" if reached else "seconds")
                axis.plot(x, y, "o" if reached else ">", color=f"C{k}",
                          fillstyle="full" if reached else "none", markersize=5)  # fmt: skip
                if not reached:
                    without.append((x, number(row, "success_student")))
            if without:
                times, success = zip(*without)
                axis.annotate(spread(success, 2), (min(times), k), (-6, 0), ha="right", va="center",
                              textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set(xscale="log", xlabel="seconds on one core")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(dict(zip(ENVS, NAMES)).get(env, env), fontsize=10)
        axis.set_yticks(range(len(PEERS)), PEERS)
        axis.set_ylim(len(PEERS) - 0.5, -0.5)
        axis.margins(x=0.15)
        axis.grid(alpha=0.3, which="both", axis="x")
    marks = [Line2D([], [], color="grey", marker="o", linestyle="", label="student wins 95 %"),
             Line2D([], [], color="grey", marker=">", linestyle="", fillstyle="none",
                    label="ended without (its success beside it)")]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(path, dpi=130)


def report(out: Path, folder: Path) -> str:
    """Write peers.csv, peers.md and peers.png; returns the table."""
    (rows,) = runs_or_csv(out, folder / "peers.csv")
    rows = [row for methods in by_env(rows).values() for own in methods.values() for row in own]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "peers.csv", COLUMNS, rows)
    (folder / "peers.md").write_text(markdown(rows), encoding="utf-8")
    plot(rows, folder / "peers.png")
    return markdown(rows)


def work(args: argparse.Namespace) -> dict[str, str]:
    """Run what is missing and report -> {run folder: error}."""
    failed = {}
    if not args.report:
        if unknown := {*args.methods} - {*PEERS}:
            raise BadInput(f"unknown method {min(unknown)!r}; methods: {', '.join(PEERS)}")
        needed = any(method.startswith("sb3") for method in args.methods)
        if needed and importlib.util.find_spec("stable_baselines3") is None:
            raise BadInput("stable-baselines3: pip install -r results/peers/requirements.txt")
        configs = [
            make_config(env, method, seed, args.out, args.total_steps)
            for seed in args.seeds for env in args.envs for method in args.methods
        ]  # fmt: skip
        failed = run_many(configs, args.jobs, module="results.peers.race")
    print(report(args.out, args.results))
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.peers`."""
    parser = lab_parser("peers", __doc__, range(3))
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--methods", nargs="+", default=list(PEERS))
    parser.add_argument("--total-steps", type=int, help="instead of Config's, for trials")
    lab_main(work, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
