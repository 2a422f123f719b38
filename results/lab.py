"""What the scripts of the lab share: flags, many runs at once, tables, intervals, figures.

A run is trained once, in a folder of its own. A table has a row for each run, whose key is
KEY. A new row replaces the one of the same key and all others stay, so a command with fewer
runs than a table holds does not shorten it. T and S are the success of teacher and student
at the end of a run, or their mean returns where no success is reported.
"""

import argparse
import csv
import functools
import importlib
import io
import itertools
import json
import math
import multiprocessing
import os
import re
import statistics
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tsalign
from tsalign import METHODS, BadInput, Config, checked, fail

TABLE1 = Path("runs/table1")  # Table I's runs; other questions use those that fit
OWN_ENV = Path("runs/own_env")  # and these
CUE = "results.own_env.cue:Cue-v0"
CUE_REACH = "results.own_env.cue_reach:CueReach-v0"
LAVA = "results.own_env.minigrid_lava:LavaTurned-v0"
ROBOT = "results.camera.robot:RobotEye-v0"
STEPS = {CUE: 50_000, CUE_REACH: 200_000, LAVA: 1_000_000, ROBOT: 300_000}
NOT_SETTINGS = ("env", "method", "seed", "out", "overwrite", "device", "threads")
KEY = ["env", "method", "settings", "seed"]
RUN = [*KEY, "kind", "T", "S", "gap", "env_steps", "student_views", "eval_episodes"]
RUN += ["seconds", "device", "torch", "defaults"]
COLOURS = {"ours": "tab:blue", "no-align": "tab:orange", "no-stability": "tab:green"}
COLOURS |= {"policy-gradient": "tab:purple", "bc": "tab:red", "sitt": "tab:brown"}
COLOURS |= {"ours, sparing": "tab:cyan", "dagger": "tab:olive", "asymmetric": "tab:pink"}
COLOURS |= {"ppo": "black", "sb3": "tab:gray"}
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]  # 97.5 %


# --- Command line -------------------------------------------------------------------------


def lab_parser(name: str, text: str, seeds=None) -> argparse.ArgumentParser:
    """The flags that all scripts of the lab have."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"results.{name}", None, text, formatter_class=style)
    parser.error = fail
    parser.add_argument("--jobs", type=int, default=2, help="processes, a core each")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="run folders")
    results = Path("results") / name
    parser.add_argument("--results", type=Path, default=results, help="tables and figures")
    parser.add_argument("--report", action="store_true", help="redraw from the tables")
    return parser


def lab_main(train: Callable, report: Callable, parser, arguments) -> None:
    """train(args) -> {folder: error}, then report(args). Exit codes: 1, 2, 130."""
    args = parser.parse_args(arguments)
    try:
        if args.jobs < 1:
            raise BadInput(f"jobs must be at least 1, not {args.jobs}")
        failed = {} if args.report else train(args)
        for folder, error in failed.items():
            print(f"failed: {folder}: {error}", file=sys.stderr)
        if failed:
            sys.exit(1)  # what has finished is in the tables; --report draws it
        report(args)
    except BadInput as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        fail("interrupted; the same command carries on", code=130)


# --- Runs ---------------------------------------------------------------------------------


def standard(env: str, method: str = "ours", **settings) -> Config:
    """Config's own settings, the environment's number of steps, and what is set."""
    own = {"total_steps": STEPS[env]} if env in STEPS else {}
    return Config(env=env, method=method, **(own | settings))


def chosen(config: Config) -> dict:
    """The settings on which a result depends, besides environment, method and seed."""
    settings = asdict(checked(config))
    return {name: settings[name] for name in settings if name not in NOT_SETTINGS}


def settings_of(config: Config) -> str:
    """What a run sets otherwise than `standard`, for example "lambda_align=3.0"."""
    default = chosen(standard(config.env, config.method))
    changed = []
    for name, value in chosen(config).items():
        if value != default[name]:
            changed.append(f"{name}={type(default[name])(value)}")
    return " ".join(changed)


def defaults_of(env: str, method: str) -> str:
    """A number that changes with the settings from which `settings_of` counts."""
    return str(zlib.crc32(json.dumps(chosen(standard(env, method))).encode()))


def is_finished(config: Config) -> bool:
    """Raises BadInput where the run's folder holds one with other settings."""
    wanted = chosen(config)
    if not (config.folder / "result.json").exists():
        return False
    saved = json.loads((config.folder / "config.json").read_text())
    for name, value in wanted.items():
        if saved.get(name) != value:
            there = f"{config.folder} is finished with {name} {saved.get(name)}"
            raise BadInput(f"{there}, not {value}: choose another --out")
    return True


def read_run(folder: Path) -> dict:
    """A finished run as a row of a table."""
    config = Config(**json.loads((folder / "config.json").read_text()))
    row = json.loads((folder / "result.json").read_text())
    row["settings"] = settings_of(config)
    row["defaults"] = defaults_of(config.env, config.method)
    row["kind"] = tsalign.kind_of_score(row)
    row["T"] = row[f"{row['kind']}_teacher"]
    row["S"] = row[f"{row['kind']}_student"]
    return row


def train_all(
    configs: list[Config], jobs: int, path: Path, columns=RUN, read: Callable = read_run
) -> dict[Path, str]:
    """Train what is missing and put a row for each finished run into a table.

    `read` makes the row of a run. Returns {folder: error} of the runs that failed. Raises
    BadInput, before anything is trained, for a table that was made with other defaults.
    """
    check_csv(path)
    waiting = {config.folder: config for config in configs if not is_finished(config)}
    for env in {config.env for config in waiting.values()}:
        tsalign.make_envs(env, 1).close()  # says now what is missing
    print(f"{len(configs)} runs, {len(waiting)} of them to be trained", flush=True)
    failed = run_many(tsalign.train, waiting, jobs)
    merge_csv(path, columns, [read(c.folder) for c in configs if is_finished(c)])
    return failed


def run_many(task: Callable, arguments: dict[Path, object], jobs: int) -> dict[Path, str]:
    """task(argument) for each folder, in processes, `jobs` at once -> {folder: error}.

    What a process says goes to a file in its folder. All end with this process.
    """
    # A server that imports torch once and forks saves each run some seconds.
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
    context.set_forkserver_preload(["tsalign", "torch._dynamo"])  # the latter for Adam
    waiting = list(arguments)
    running = {}
    failed = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            folder = waiting.pop(0)
            folder.mkdir(parents=True, exist_ok=True)
            output = folder / f"{task.__name__}.txt"
            output.write_text("")  # a process may die before it says anything
            own = (task, arguments[folder], output)
            process = context.Process(target=run_one, args=own, daemon=True)
            process.start()
            running[process.sentinel] = (process, folder, output)
        for sentinel in wait(running):
            process, folder, output = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                last_line = output.read_text().strip().rpartition("\n")[2]
                failed[folder] = f"exit {process.exitcode}: {last_line}"
            left = len(waiting) + len(running)
            print(f"{folder}: {failed.get(folder, 'done')} ({left} to go)", flush=True)
    return failed


def run_one(task: Callable, argument: object, output: Path) -> None:
    """One task, in this process; what it prints goes to a file, a line at a time."""
    file = open(output, "w", buffering=1)
    sys.stdout = file
    sys.stderr = file
    task(argument)


@functools.cache
def play_scripted(env: str, episodes: int = 256) -> float | str:
    """What a student without memory can reach: the mean score of a player that is written.

    That is its success, or its return where none is reported; "" if there is no player.
    The player is `scripted_student(view) -> action` in the module that registers `env`.
    """
    envs = tsalign.make_envs(env, 1)  # imports the module, or says what is missing
    module = importlib.import_module(re.split("[,:]", env)[0])
    player = getattr(module, "scripted_student", None)
    if player is None:
        return ""
    obs = tsalign.reset_envs(envs, seed=0)
    scores = []
    total = 0.0
    while len(scores) < episodes:
        action = np.array([player(obs["student"][0])])
        obs, reward, terminated, truncated, info = envs.step(action)
        total += float(reward[0])
        if (terminated | truncated)[0]:
            scores.append(float(info["is_success"][0]) if "is_success" in info else total)
            total = 0.0
            obs = tsalign.reset_envs(envs, ended=np.array([True]))
    return statistics.mean(scores)


# --- Tables -------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table, as text. Raises BadInput if there is none."""
    if not path.exists():
        raise BadInput(f"there is no {path}; the same command without --report makes it")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_csv(path: Path) -> None:
    """Raises BadInput for a table whose rows were made with other defaults than today's."""
    for row in read_csv(path) if path.exists() else []:
        if row.get("defaults") != defaults_of(row["env"], row["method"]):
            what = f"{path} has runs of other defaults ({row['env']} {row['method']})"
            raise BadInput(f"{what}: delete it, or name other --results")


def merge_csv(path: Path, columns: list[str], rows: list[dict], key=KEY) -> None:
    """Put rows into a table: each replaces the one of the same key, all others stay."""
    merged = {}
    for row in [*(read_csv(path) if path.exists() else []), *rows]:
        merged[tuple(str(row[name]) for name in key)] = row
    if not merged:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for which in sorted(merged, key=lambda words: natural(" ".join(words))):
        writer.writerow(merged[which])
    path.parent.mkdir(parents=True, exist_ok=True)
    tsalign.write_at_once(path, text.getvalue())


def natural(text: str) -> list:
    """What to sort by so that "lambda_align=3.0" comes before "lambda_align=10.0"."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)  # word, number, word, number, ...
    return [float(part) if k % 2 else part for k, part in enumerate(parts)]


def score_of(row: dict, agent: str) -> float:
    """An agent's success in a row of log.csv, or its return; nan where it has none."""
    for kind in ("success", "return"):
        if f"{kind}_{agent}" in row:
            return float(row[f"{kind}_{agent}"])
    return math.nan


def reached(log: list[dict], goal: float) -> dict:
    """The first of two evaluations in a row with a student good enough, or nothing."""
    for row, following in itertools.pairwise(log):
        if min(score_of(row, "student"), score_of(following, "student")) >= goal:
            return row
    return {}


def group(rows: list[dict], name: str) -> dict[str, list[dict]]:
    """Rows by the value of a column, in the order in which they come."""
    groups = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def by_method(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by their variant, in the order of Table I's methods, then of the numbers in it.

    The variant of a row that names none is its method and settings.
    """
    order = [*METHODS, *sorted(row["method"] for row in rows)]
    groups = {}
    for row in rows:
        label = row.get("variant") or f"{row['method']} {row['settings']}".strip()
        groups.setdefault(label, []).append(row)

    def place(label: str) -> tuple:
        return order.index(groups[label][0]["method"]), natural(label)

    return {label: groups[label] for label in sorted(groups, key=place)}


def numbers(rows: list[dict], name: str) -> list[float]:
    """A column, without the rows that have nothing there."""
    return [float(row[name]) for row in rows if row.get(name, "") != ""]


# --- What n runs can tell -----------------------------------------------------------------


def interval(values: list[float]) -> float:
    """Half the width of the 95 % t-interval of the mean; infinite for one value."""
    n = len(values)
    if n < 2:
        return float("inf")
    quantile = T_QUANTILES[n - 2] if n <= 10 else 1.96 + 2.4 / (n - 1)
    return quantile * statistics.stdev(values) / n**0.5


# --- Figures ------------------------------------------------------------------------------


def make_figure(n_columns: int, n_rows: int = 1, height: float = 3.2):
    """A figure that can be read at a README's width -> figure, axes (rows, columns)."""
    figure = Figure(figsize=(9, height * n_rows + 0.9), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def save_figure(figure: Figure, path: Path, note: str) -> None:
    """One legend below all axes, each label once; above them what dots and bands are."""
    handles = {}
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        where = {"loc": "outside lower center", "ncols": min(4, len(handles))}
        figure.legend(handles.values(), handles, **where)
    figure.suptitle(note, fontsize=10)
    figure.savefig(path, dpi=110)
