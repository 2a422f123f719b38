"""The race: who is first to a goal, in seconds of one core and in student's views drawn?

    apt-get install -y libegl1 libgl1                 # Debian: draws without a display
    pip install -r results/camera/requirements.txt -r results/peers/requirements.txt
    python -m results.peers                           # all tasks, hours on two cores
    python -m results.peers --tasks RobotEye --jobs 2 # carries on where it was stopped
    python -m results.peers --report                  # redraws from runs.csv, curves.csv

The clock has everything that training does, the drawing of views, too. Examinations are
outside of it: fresh episodes of the student, 25 times in a run. The goal is reached at the
first of two in a row that are good enough; a rival then stops. A rival also stops at ten
times the seconds that ours took to the goal (median of the seeds). Rivals are described in
rivals.py and sb3.py.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

import tsalign
from results import lab
from tsalign import Config, checked

EXAMS = 25
PATIENCE = 10  # times the seconds of ours
KEY = ["task", "entrant", "seed"]
RUNS = [*KEY, "T", "S", "seconds_to_goal", "views_to_goal", "steps_to_goal"]
RUNS += ["seconds", "views", "env_steps", "kind", "device", "torch"]
CURVES = [*KEY, "env_steps", "student_views", "train_seconds", "S"]


class Task(NamedTuple):
    """An environment, and the student's success or return that is good enough."""

    env: str
    goal: float
    episodes: int = 64  # of an exam


TASKS = {
    "RobotEye": Task("results.camera.robot:RobotEye-v0", 0.95),
    "Reacher": Task("results.camera.camera_view:ReacherCamera-v0", -10.0, episodes=32),
    "CollectHealth 64x128": Task("collecthealth,view_height=64,view_width=128", 0.95),
    "CollectHealth": Task("collecthealth", 0.95),
    "TunnelVision": Task("tunnelvision", 0.95),
}


class Entrant(NamedTuple):
    """A method, and in what its runs differ from the environment's usual ones."""

    method: str
    settings: dict = {}


ENTRANTS = {
    "ours": Entrant("ours"),
    "ours, sparing": Entrant("ours", {"pairs_every": 192}),
    "bc": Entrant("bc"),
    "dagger": Entrant("results.peers.rivals:dagger"),
    "asymmetric": Entrant("results.peers.rivals:asymmetric"),
    "ppo": Entrant("results.peers.rivals:ppo"),
    "sb3": Entrant("results.peers.sb3:sb3"),
}


class Start(NamedTuple):
    """One run of one entrant."""

    task: str
    entrant: str
    config: Config
    limit: float  # seconds, of a rival


def plan(task: str, entrant: str, seed: int, out: Path, limit: float = math.inf) -> Start:
    """The run has its environment's usual settings and steps; only it is examined more."""
    method, settings = ENTRANTS[entrant]
    folder = out / entrant.replace(", ", "-").replace(" ", "-")
    episodes = TASKS[task].episodes
    exams = {"log_evals": EXAMS, "log_episodes": episodes, "eval_episodes": 4 * episodes}
    config = checked(lab.standard(TASKS[task].env, method, seed=seed, **settings, **exams))
    return Start(task, entrant, replace(config, out=str(folder)), limit)


def run_entrant(start: Start) -> None:
    """Train in this process; `log.csv` of the run's folder has a row for each exam."""
    if start.config.method in tsalign.METHODS:
        tsalign.train(start.config)
    else:
        run_rival(start)


def run_rival(start: Start) -> None:
    """Train a rival, the clock stopped for exams. Writes what `tsalign.train` writes."""
    config = checked(start.config)
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    tsalign.open_folder(config)
    exam_envs = tsalign.make_envs(config.env, config.log_episodes)
    train = find_rival(config.method)
    rows = []
    seconds = 0.0
    cycles = train(config)
    while True:
        began = time.perf_counter()
        cycle = next(cycles, None)
        seconds += time.perf_counter() - began
        if cycle is None:
            break
        env_steps, views, player = cycle
        is_stopped = seconds > start.limit
        if env_steps >= (len(rows) + 1) * config.total_steps / EXAMS or is_stopped:
            row = examine(exam_envs, player, seed=env_steps)
            row |= {"env_steps": env_steps, "student_views": views}
            rows.append(row | {"train_seconds": seconds})
            tsalign.save_log(config, rows)
            if is_stopped or lab.reached(rows, TASKS[start.task].goal):
                break
    result = {**rows[-1], "device": "cpu", "torch": torch.__version__}
    tsalign.write_at_once(config.folder / "result.json", json.dumps(result))


def find_rival(method: str):
    """The generator of a rival's name. Imported here: only sb3 needs its library."""
    name = method.rpartition(":")[2]
    module = importlib.import_module(method.partition(":")[0])
    return getattr(module, f"train_{name}")


def examine(envs, player, seed: int) -> dict[str, float]:
    """The student's success, or its return where none is reported, in fresh episodes."""
    returns, success = tsalign.play_episodes(envs, player, "student", 1, seed, 10_000)
    if not np.isnan(success).any():
        return {"success_student": float(success.mean())}
    return {"return_student": float(returns.mean())}


def read_entrant(start: Start) -> tuple[dict, list[dict]]:
    """A finished run as a row of runs.csv, and its exams as rows of curves.csv."""
    folder = start.config.folder
    result = json.loads((folder / "result.json").read_text())
    exams = lab.read_csv(folder / "log.csv")
    which = {"task": start.task, "entrant": start.entrant, "seed": start.config.seed}
    goal = lab.reached(exams, TASKS[start.task].goal)
    run = {
        **which,
        "kind": "success" if "success_student" in result else "return",
        "T": lab.score_of(result, "teacher"),
        "S": lab.score_of(result, "student"),
        "seconds_to_goal": goal.get("train_seconds", ""),
        "views_to_goal": goal.get("student_views", ""),
        "steps_to_goal": goal.get("env_steps", ""),
        "seconds": exams[-1]["train_seconds"],
        "views": exams[-1]["student_views"],
        "env_steps": exams[-1]["env_steps"],
        "device": result["device"],
        "torch": result["torch"],
    }
    return run, [row | which | {"S": lab.score_of(row, "student")} for row in exams]


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Ours first: its seconds set the limit of the others. Fill runs.csv and curves.csv."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["LP_NUM_THREADS"] = "1"  # the software renderer, too, has one core
    failed = {}
    for task in args.tasks:
        of_ours = [plan(task, "ours", seed, args.out) for seed in args.seeds]
        failed |= run_all(of_ours, args)
        times = []
        for start in of_ours:
            if start.config.folder not in failed:
                run, _ = read_entrant(start)
                times.append(float(run["seconds_to_goal"] or run["seconds"]))
        limit = PATIENCE * statistics.median(times)
        others = []
        for entrant in args.entrants:
            others += [plan(task, entrant, seed, args.out, limit) for seed in args.seeds]
        failed |= run_all(others, args)
    return failed


def run_all(starts: list[Start], args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing, put what has finished into the tables -> {folder: error}."""
    waiting = {}
    for start in starts:
        if not lab.is_finished(start.config):
            waiting[start.config.folder] = start
    failed = lab.run_many(run_entrant, waiting, args.jobs)
    runs = []
    curves = []
    for start in starts:
        if lab.is_finished(start.config):
            run, curve = read_entrant(start)
            runs.append(run)
            curves += curve
    lab.merge_csv(args.results / "runs.csv", RUNS, runs, KEY)
    lab.merge_csv(args.results / "curves.csv", CURVES, curves, [*KEY, "env_steps"])
    return failed


# --- What came out ------------------------------------------------------------------------


def in_order(rows: list[dict], name: str, order: dict) -> dict[str, list[dict]]:
    """Rows by the value of a column, in the order of a dictionary's keys."""
    groups = lab.group(rows, name)
    return {key: groups[key] for key in order if key in groups}


def draw_race(curves: list[dict], path: Path) -> None:
    """The robot: success of the student over seconds and views, a line for each seed."""
    of_robot = [row for row in curves if row["task"] == "RobotEye"]
    of_robot = [row for row in of_robot if not row["entrant"].startswith("ours,")]
    figure, axes = lab.make_figure(2, height=3.4)
    columns = {"train_seconds": "seconds of one core", "student_views": "pictures drawn"}
    for axis, (column, label) in zip(axes[0], columns.items()):
        for entrant, rows in in_order(of_robot, "entrant", ENTRANTS).items():
            by_seed = lab.group(rows, "seed")
            for of_seed in by_seed.values():
                shown = [row for row in of_seed if float(row[column]) > 0]
                axis.plot(
                    lab.numbers(shown, column),
                    lab.numbers(shown, "S"),
                    color=lab.COLOURS[entrant],
                    label=f"{entrant} (n = {len(by_seed)})",
                )
        axis.set(xscale="log", xlabel=label)
    axes[0, 0].set_ylabel("success of the student")
    note = "the robot with an eye: a line for each seed; rivals stop at the goal, .95 twice"
    lab.save_figure(figure, path, note)


def draw_goals(runs: list[dict], path: Path) -> None:
    """Seconds and views to the goal of each task: a dot for each seed that reached it."""
    by_task = in_order(runs, "task", TASKS)
    figure, axes = lab.make_figure(2, len(by_task), height=2.0)
    for row, (task, of_task) in zip(axes, by_task.items()):
        by_entrant = in_order(of_task, "entrant", ENTRANTS)
        for axis, unit in zip(row, ("seconds", "views")):
            names = []
            for y, (entrant, rows) in enumerate(by_entrant.items()):
                times = lab.numbers(rows, f"{unit}_to_goal")
                axis.plot(times, [y] * len(times), "o", color=lab.COLOURS[entrant])
                names.append(f"{entrant} ({len(times)} of {len(rows)})")
            axis.set_yticks(range(len(names)), names, fontsize=8)
            axis.set(xscale="log", ylim=(len(names) - 0.5, -0.5), title=f"{task}: {unit}")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k for 20,000
            axis.xaxis.set_minor_locator(NullLocator())
    note = "a dot for each seed that reached the goal (so many of n)"
    lab.save_figure(figure, path, note)


def middle(rows: list[dict], name: str) -> float:
    """The median over the seeds; infinite where most did not get there."""
    return statistics.median(float(row[name] or "inf") for row in rows)


def report(args: argparse.Namespace) -> None:
    """Draw both figures from the tables; print medians, and how many times ours."""
    runs = lab.read_csv(args.results / "runs.csv")
    draw_race(lab.read_csv(args.results / "curves.csv"), args.results / "robot.png")
    draw_goals(runs, args.results / "peers.png")
    for task, of_task in in_order(runs, "task", TASKS).items():
        by_entrant = in_order(of_task, "entrant", ENTRANTS)
        print(f"{task}, goal {TASKS[task].goal}; medians, and how many times those of ours")
        for entrant, rows in by_entrant.items():
            there = lab.numbers(rows, "seconds_to_goal")
            text = f"  {entrant:14} {len(there)} of {len(rows)} got there"
            for unit in ("seconds", "views"):
                value = middle(rows, f"{unit}_to_goal")
                ratio = value / middle(by_entrant["ours"], f"{unit}_to_goal")
                text += f"; {unit} {value:,.0f} ({ratio:.1f})"
            stopped = statistics.median(lab.numbers(rows, "seconds"))
            scores = " ".join(f"{value:.3f}" for value in lab.numbers(rows, "S"))
            print(f"{text}; ended at {stopped:,.0f} s, S {scores}")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.peers`."""
    parser = lab.lab_parser("peers", __doc__, range(3))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    others = {"choices": list(ENTRANTS), "default": list(ENTRANTS)}
    parser.add_argument("--entrants", nargs="+", **others)
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
