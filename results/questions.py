"""What claims, growth, own_env and leak have in common: questions of variants over seeds.

A script declares its questions. `train` trains the runs that are missing and puts a row for
each run into QUESTION.csv. `report` draws QUESTION.png from that table alone, and prints a
sentence for each variant, with what n seeds can tell of it.
"""

import argparse
import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from results import lab
from results.leak.probes import measure_missing, read_leak
from tsalign import BadInput, Config

COLUMNS = [*lab.RUN, "variant", "scripted", "steps_to_95", "views_to_95", "worst_later"]
COLUMNS += ["leak", "leak_interval", "control", "control_interval"]
COLUMNS += ["private_bits", "checkpoint"]
TOLD = ["S", "T", "gap", "scripted", "leak", "control", "private_bits"]
TOLD += ["worst_later", "seconds"]  # means
MEDIANS = ["steps_to_95", "views_to_95"]
FAILED = 0.98  # a run has failed where S is below it
AXES = {
    "views_to_95": "student's views until S .95",
    "worst_later": "lowest S after the first at .99",
}


class Question(NamedTuple):
    """What is varied, and what the variants are compared with."""

    variants: list[tuple[str, Config]]  # a label and a run, whatever its seed
    seeds: range = range(5)
    measures: tuple = ("S",)  # a row of axes each
    below: str = ""  # the axis of the variants in the figure
    base: str = ""  # the label of the variant that others are compared with, seed by seed
    title: str = ""  # of the only column of axes; without it each environment has one


# --- Runs ---------------------------------------------------------------------------------


def plan(question: Question, seeds, out: Path) -> list[tuple[str, Config]]:
    """The runs of a question, each with the label of its variant.

    A variant with an `out` of its own is a run of another script and stays where it says;
    the folder of all others is named after their settings.
    """
    runs = []
    for seed in seeds:
        for label, config in question.variants:
            folder = config.out
            if folder == Config.out:
                folder = out / lab.settings_of(config).replace(" ", ",")
            runs.append((label, replace(config, seed=seed, out=str(folder))))
    return runs


def looks_of(folder: Path) -> dict:
    """When S was .95 twice in a row, and the lowest S after the first at .99; "": never."""
    log = lab.read_csv(folder / "log.csv")
    good = lab.reached(log, 0.95)
    scores = [lab.score_of(row, "student") for row in log]
    later = itertools.dropwhile(lambda score: score < 0.99, scores)
    return {
        "steps_to_95": good.get("env_steps", ""),
        "views_to_95": good.get("student_views", ""),
        "worst_later": min(later, default=""),
    }


def answer(name: str, question: Question, args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing, and fill the table. Returns {run folder: error}.

    The leak is measured of the question's first seed alone: it takes as long as a run.
    """
    runs = plan(question, args.seeds or question.seeds, args.out)
    labels = {config.folder: label for label, config in runs}
    to_measure = []
    for _, config in runs:
        if "leak" in question.measures and config.seed == question.seeds[0]:
            to_measure.append(config.folder)

    def read(folder: Path) -> dict:
        row = lab.read_run(folder) | looks_of(folder)
        row |= {"variant": labels[folder], "scripted": lab.play_scripted(row["env"])}
        return row | read_leak(folder) if folder in to_measure else row

    path = args.results / f"{name}.csv"
    configs = [config for _, config in runs]
    failed = lab.train_all(configs, args.jobs, path, COLUMNS, read)
    finished = [folder for folder in to_measure if folder not in failed]
    if finished:
        failed |= measure_missing(finished, args.jobs)
        lab.merge_csv(path, COLUMNS, [read(folder) for folder in finished])
    return failed


# --- What came out ------------------------------------------------------------------------


def fisher_exact(bad_a: int, bad_b: int, n: int) -> float:
    """Two-sided p of Fisher's exact test of bad_a and bad_b among n each."""
    bad = bad_a + bad_b
    ways = [math.comb(n, k) * math.comb(n, bad - k) for k in range(bad + 1)]
    return sum(way for way in ways if way <= ways[bad_a]) / sum(ways)


def verdict(rows: list[dict], others: list[dict]) -> str:
    """Is S higher or lower than in others, seed by seed, or can these seeds not tell?

    Of how many seeds fail here and there, Fisher's p says whether it may be chance.
    """
    theirs = {row["seed"]: float(row["S"]) for row in others}
    ours = {row["seed"]: float(row["S"]) for row in rows if row["seed"] in theirs}
    changes = [ours[seed] - theirs[seed] for seed in ours]
    n = len(changes)
    if n < 2:
        return "cannot tell"
    mean = statistics.mean(changes)
    half = lab.interval(changes)
    word = "cannot tell"
    if abs(mean) > half:
        word = "higher" if mean > 0 else "lower"
    bad = sum(ours[seed] < FAILED for seed in ours)
    bad_others = sum(theirs[seed] < FAILED for seed in ours)
    p = fisher_exact(bad, bad_others, n)
    text = f"{word} ({mean:+.3f} +- {half:.3f}, n = {n})"
    return f"{text}; {bad} and {bad_others} below {FAILED} (Fisher's p {p:.2f})"


def describe(rows: list[dict]) -> str:
    """Mean or median, least and largest of what there is of one variant, over its seeds."""
    text = f"n = {len(rows)}"
    for name in TOLD + MEDIANS:
        values = lab.numbers(rows, name)
        if values:
            middle = statistics.median if name in MEDIANS else statistics.mean
            digits = 3 if max(values) < 10 else 0
            text += f"; {name} {middle(values):,.{digits}f}"
            if min(values) < max(values):
                text += f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
            if len(values) < len(rows):
                text += f" in {len(values)}"
    return text


def draw_variants(axis, groups: dict[str, list[dict]], column: str) -> None:
    """A dot for each seed and a bar for the mean, over the variants.

    Where the rows have them, the interval of each dot, the teacher's score and that of a
    scripted student are drawn besides.
    """
    names = []
    for x, (label, rows) in enumerate(groups.items()):
        values = lab.numbers(rows, column)
        n = len(values)
        names.append(fill(f"{label} (n = {n})", 32))
        if n == 0:
            continue
        places = [x + 0.5 * ((k + 0.5) / n - 0.5) for k in range(n)]
        method = rows[0]["method"]
        colour = lab.COLOURS.get(method, "tab:cyan")
        axis.plot(places, values, "o", color=colour, markersize=3.5, alpha=0.6)
        axis.hlines(statistics.mean(values), x - 0.3, x + 0.3, colour, label=method)
        if halves := lab.numbers(rows, f"{column}_interval"):
            axis.errorbar(places, values, halves, fmt="none", color=colour, linewidth=1)
        if column == "S":
            axis.plot(places, lab.numbers(rows, "T"), "kx", markersize=3, label="teacher")
            if scripted := lab.numbers(rows, "scripted"):
                line = axis.hlines(scripted[0], x - 0.4, x + 0.4, "black", "dotted")
                line.set_label("scripted student")
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axis.set_ylabel(rows[0]["kind"] if column == "S" else AXES.get(column, column))
    if column == "views_to_95":
        axis.set_yscale("log")


def draw(name: str, question: Question, results: Path) -> None:
    """Draw a question's figure from its table, and print what came out."""
    rows = lab.read_csv(results / f"{name}.csv")
    columns = {}
    for row in rows:
        env, _, _ = row["env"].partition(",")  # without its arguments
        columns.setdefault(question.title or env, []).append(row)
    figure, axes = lab.make_figure(len(columns), len(question.measures))
    for column, (env, of_env) in zip(axes.T, columns.items()):
        title = env.rpartition(":")[2]
        groups = lab.by_method(of_env)
        for axis, measure in zip(column, question.measures):
            draw_variants(axis, groups, measure)
        column[0].set_title(title)
        column[-1].set_xlabel(question.below)
        for label, runs in groups.items():
            text = f"{name}, {title}: {label}: {describe(runs)}"
            if question.base in groups and label != question.base:
                told = verdict(runs, groups[question.base])
                text += f"; S beside {question.base}: {told}"
            print(text)
    note = "a dot for each of n seeds, a bar for their mean"
    if "leak" in question.measures:
        note += "; leak with its 95 % interval over five folds"
    lab.save_figure(figure, results / f"{name}.png", note)


# --- Command line -------------------------------------------------------------------------


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Answer the questions of `args.ask(args)` one after the other -> {folder: error}."""
    failed = {}
    for name, question in args.ask(args).items():
        failed |= answer(name, question, args)
    return failed


def report(args: argparse.Namespace) -> None:
    """Draw each question's figure, and print what came out."""
    for name, question in args.ask(args).items():
        draw(name, question, args.results)


def main(script: str, text: str, questions: dict[str, Question], arguments) -> None:
    """The command line of a script where one names some of its questions, or none."""
    parser = lab.lab_parser(script, text)
    parser.add_argument("names", nargs="*", metavar="QUESTION", help="none: all of them")

    def ask(args: argparse.Namespace) -> dict[str, Question]:
        for name in args.names:
            if name not in questions:
                raise BadInput(f"there is no {name!r}, only {', '.join(questions)}")
        return {name: questions[name] for name in args.names or questions}

    parser.set_defaults(ask=ask)
    lab.lab_main(train, report, parser, arguments)
