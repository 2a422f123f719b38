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
import json
import math
import os
import statistics
from pathlib import Path

from results import lab
from results.peers.race import EXAMS, TASKS, Start, run_entrant

PATIENCE = 10  # times the seconds of ours
KEY = ["task", "entrant", "seed"]
RUNS = [*KEY, "T", "S", "seconds_to_goal", "views_to_goal"]
RUNS += ["train_seconds", "device", "torch"]
CURVES = [*KEY, "env_steps", "student_views", "train_seconds", "S"]
ENTRANTS = {  # in what their runs differ from the environment's usual ones
    "ours": {"method": "ours"},
    "ours, sparing": {"method": "ours", "pairs_every": 192},
    "bc": {"method": "bc"},
    "dagger": {"method": "results.peers.rivals:dagger"},
    "asymmetric": {"method": "results.peers.rivals:asymmetric"},
    "ppo": {"method": "results.peers.rivals:ppo"},
    "sb3": {"method": "results.peers.sb3:sb3"},
}


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Ours first: its seconds set the limit of the others -> {folder: error}."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["LP_NUM_THREADS"] = "1"  # the software renderer, too, has one core
    failed = {}
    for task in args.tasks:
        failed_ours = run_all(task, ["ours"], math.inf, args)
        failed |= failed_ours
        if failed_ours:
            continue  # without their seconds there is no limit
        seconds = []
        for row in lab.read_csv(args.results / "runs.csv"):
            is_ours = row["task"] == task and row["entrant"] == "ours"
            if is_ours and int(row["seed"]) in args.seeds:
                seconds.append(float(row["seconds_to_goal"] or row["train_seconds"]))
        limit = PATIENCE * statistics.median(seconds)
        failed |= run_all(task, args.entrants, limit, args)
    return failed


def run_all(
    task: str, entrants: list[str], limit: float, args: argparse.Namespace
) -> dict[Path, str]:
    """Train what is missing, put what has finished into the tables -> {folder: error}.

    A run has its environment's usual settings and steps; only it is examined more.
    """
    env, _, episodes = TASKS[task]
    exams = {"log_evals": EXAMS, "log_episodes": episodes, "eval_episodes": 4 * episodes}
    starts = []
    for entrant in entrants:
        own = ENTRANTS[entrant] | {"out": str(args.out / entrant.replace(", ", "-"))}
        for seed in args.seeds:
            config = lab.standard(env, seed=seed, **own, **exams)
            starts.append(Start(task, entrant, config, limit))
    waiting = {s.config.folder: s for s in starts if not lab.is_finished(s.config)}
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


def read_entrant(start: Start) -> tuple[dict, list[dict]]:
    """A finished run as a row of runs.csv, and its exams as rows of curves.csv."""
    result = json.loads((start.config.folder / "result.json").read_text())
    exams = lab.read_csv(start.config.folder / "log.csv")
    goal = lab.reached(exams, TASKS[start.task].goal)
    which = {"task": start.task, "entrant": start.entrant, "seed": start.config.seed}
    run = result | which
    run["T"] = lab.score_of(result, "teacher")
    run["S"] = lab.score_of(result, "student")
    run["seconds_to_goal"] = goal.get("train_seconds", "")
    run["views_to_goal"] = goal.get("student_views", "")
    return run, [row | which | {"S": lab.score_of(row, "student")} for row in exams]


# --- What came out ------------------------------------------------------------------------


def in_order(rows: list[dict], name: str, order: dict) -> dict[str, list[dict]]:
    """Rows by the value of a column, in the order of a dictionary's keys."""
    groups = lab.group(rows, name)
    return {key: groups[key] for key in order if key in groups}


def draw_race(curves: list[dict], path: Path) -> None:
    """The student's score over seconds and views: a row for each task."""
    by_task = in_order(curves, "task", TASKS)
    figure, axes = lab.make_figure(2, len(by_task))
    for (left, right), (task, of_task) in zip(axes, by_task.items()):
        draw_curves(left, of_task, "train_seconds")
        draw_curves(right, of_task, "student_views")
        left.set(ylabel=f"student's score, {task}", xlabel="seconds of one core")
        right.set_xlabel("student's views drawn")
    note = "a line for each seed; rivals stop at the goal (dotted), twice in a row"
    lab.save_figure(figure, path, note)


def draw_curves(axis, of_task: list[dict], column: str) -> None:
    """One panel: a line for each seed, and the goal."""
    for entrant, rows in in_order(of_task, "entrant", ENTRANTS).items():
        for run in lab.group(rows, "seed").values():
            spent = lab.numbers(run, column)
            colour = lab.COLOURS[entrant]
            axis.plot(spent, lab.numbers(run, "S"), color=colour, label=entrant)
    axis.axhline(TASKS[of_task[0]["task"]].goal, color="black", linestyle="dotted")
    axis.set_xscale("log", nonpositive="mask")  # bc has seen nothing at first


def middle(rows: list[dict], name: str) -> float:
    """The median over the seeds; infinite where most did not get there."""
    return statistics.median(float(row[name] or "inf") for row in rows)


def report(args: argparse.Namespace) -> None:
    """Draw both figures from the tables; print medians, and how many times ours."""
    curves = lab.read_csv(args.results / "curves.csv")
    curves = [row for row in curves if row["entrant"] != "ours, sparing"]  # it hides ours
    draw_race(curves, args.results / "peers.png")
    if of_robot := [row for row in curves if row["task"] == "RobotEye"]:
        draw_race(of_robot, args.results / "robot.png")
    runs = lab.read_csv(args.results / "runs.csv")
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
            stopped = middle(rows, "train_seconds")
            scores = " ".join(f"{value:.3f}" for value in lab.numbers(rows, "S"))
            print(f"{text}; ended at {stopped:,.0f} s, S {scores}")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.peers`."""
    parser = lab.lab_parser("peers", __doc__, range(3))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=list(ENTRANTS))
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
