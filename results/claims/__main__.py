"""The paper's claims, one question each; both environments where nothing else is said.

    python -m results.claims                    # all of them, one after the other
    python -m results.claims align --jobs 2     # carries on where it was interrupted
    python -m results.claims align --report     # redraws from align.csv

    align      Eq. (7): success and leak over lambda_align; 5 seeds, 8 minutes
    stability  Eq. (8): how many of 20 seeds fail with and without it; 7 minutes
    sitt       SITT's lambda1: is it hard to tune? tuning seeds 100-102, 10 minutes
    pairs      how few pairs of views are enough, and what breaks first; 5 seeds, 20 minutes
    baselines  do bc and sitt lose by having one pair in 48? 3 seeds, 6 minutes
    settings   six environments at one set of settings; 10 seeds, 10 minutes
    late       is a learned policy lost again? the README's Cue, 30 seeds, 1 minute

Runs at Table I's settings are Table I's; the minutes are those besides, on two cores.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from results import lab
from results.leak.probes import measure_missing, read_leak
from tsalign import ENVS, Config, checked

COLUMNS = [*lab.RUN, "variant", "leak", "leak_interval"]
COLUMNS += ["steps_to_95", "views_to_95", "worst_later", "scripted"]
CUE = "results.own_env.cue:Cue-v0"
FAILED = 0.98  # a run of `stability` has failed where S is below it
LOOKS = {"pairs": 20_000, "late": 2_500}  # so many steps are between evaluations
AXES = {
    "S": "success",
    "leak": "leak",
    "views_to_95": "student's views until S .95",
    "worst_later": "lowest S after the first at .99",
}


class Question(NamedTuple):
    """What is varied, and what the variants are compared with."""

    variants: list  # of (label, method, settings)
    below: str = ""  # the axis of the variants in the figure
    base: str = ""  # the label of the variant that others are compared with, seed by seed
    seeds: range = range(5)
    measures: tuple = ("S",)  # a row of axes each
    envs: tuple = tuple(ENVS)


def sweep(method: str, name: str, values: list[float]) -> list[tuple]:
    """Variants over one setting; its default is among them."""
    in_order = sorted({*values, getattr(Config, name)})
    return [(f"{value:g}", method, {name: value}) for value in in_order]


QUESTIONS = {
    "align": Question(
        [("0", "no-align", {})] + sweep("ours", "lambda_align", [1.0, 10.0, 300.0]),
        below="lambda_align",
        base=f"{Config.lambda_align:g}",
        measures=("S", "leak"),
    ),
    "stability": Question(
        [("with", "ours", {}), ("without", "no-stability", {})],
        below="with Eq. (8) and without",
        seeds=range(20),
    ),
    "sitt": Question(
        sweep("sitt", "sitt_lambda1", [0.0, 0.003, 0.01, 0.025, 0.05, 0.2, 0.5]),
        below="lambda1",
        base=f"{Config.sitt_lambda1:g}",
        seeds=range(100, 103),
    ),
    "pairs": Question(
        sweep("ours", "pairs_every", [2, 8, 128, 512]),
        below="a pair is kept each so many steps",
        base=f"{Config.pairs_every}",
        measures=("S", "leak", "views_to_95"),
    ),
    "baselines": Question(
        [
            ("bc", "bc", {}),
            ("bc, all pairs", "bc", {"pairs_every": 1}),
            ("sitt", "sitt", {}),
            ("sitt, all pairs", "sitt", {"pairs_every": 1}),
        ],
        below="with one pair in 48, or all of them",
        seeds=range(3),
    ),
    "settings": Question([("", "ours", {})], seeds=range(10), envs=(*ENVS, *lab.STEPS)),
    "late": Question(
        [("", "ours", {})],
        seeds=range(30),
        measures=("S", "worst_later"),
        envs=(CUE,),
    ),
}


# --- Runs ---------------------------------------------------------------------------------


def plan(question: str, seeds, out: Path) -> list[tuple[str, Config]]:
    """The runs of a question, each with the label of its variant."""
    asked = QUESTIONS[question]
    runs = []
    for seed in seeds or asked.seeds:
        for env in asked.envs:
            looks = {}
            if question in LOOKS:
                steps = checked(lab.standard(env)).total_steps
                looks = {"log_evals": steps // LOOKS[question], "log_episodes": 128}
            for label, method, settings in asked.variants:
                config = lab.standard(env, method, seed=seed, **settings, **looks)
                runs.append((label or env.rpartition(":")[2], place(config, out)))
    return runs


def place(config: Config, out: Path) -> Config:
    """The folder is named after the settings; runs without any are other scripts' runs.

    But Table I's runs of sitt have a weight of their own.
    """
    settings = lab.settings_of(config)
    folder = out / settings.replace(" ", ",")
    if not settings and config.method != "sitt":
        folder = lab.TABLE1 if config.env in ENVS else Path("runs/own_env")
    return replace(config, out=str(folder))


def first_good(folder: Path) -> dict:
    """Steps and student's views when S was .95 at two evaluations in a row, or nothing."""
    row = lab.reached(lab.read_csv(folder / "log.csv"), 0.95)
    if not row:
        return {}
    return {"steps_to_95": row["env_steps"], "views_to_95": row["student_views"]}


def worst_later(folder: Path) -> dict:
    """The lowest S of a run after its first evaluation at .99 or more, or nothing."""
    scores = lab.numbers(lab.read_csv(folder / "log.csv"), "success_student")
    first = next((k for k, score in enumerate(scores) if score >= 0.99), len(scores))
    return {"worst_later": min(scores[first:])} if scores[first:] else {}


def answer(question: str, args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing, measure its leak where it is asked for, fill the table."""
    runs = plan(question, args.seeds, args.out)
    configs = [config for _, config in runs]
    labels = {config.folder: label for label, config in runs}
    scripted = {}
    if question == "settings":
        scripted = {env: lab.play_scripted(env) for env in QUESTIONS[question].envs}
    to_measure = []
    if "leak" in QUESTIONS[question].measures:
        every_seed = question == "pairs"
        to_measure = [config.folder for config in configs if every_seed or config.seed == 0]

    def read(folder: Path) -> dict:
        row = lab.read_run(folder) | {"variant": labels[folder]}
        row["scripted"] = scripted.get(row["env"], "")
        if question in LOOKS:
            row |= first_good(folder) | worst_later(folder)
        if folder in to_measure:
            row |= read_leak(folder)
        return row

    path = args.results / f"{question}.csv"
    failed = lab.train_all(configs, args.jobs, path, COLUMNS, read=read)
    finished = [folder for folder in to_measure if folder not in failed]
    if finished:
        failed |= measure_missing(finished, args.jobs)
    lab.merge_csv(path, COLUMNS, [read(folder) for folder in finished])
    return failed


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Answer the questions one after the other -> {run folder: error}."""
    failed = {}
    for question in args.questions:
        failed |= answer(question, args)
    return failed


# --- What came out ------------------------------------------------------------------------


def fisher_exact(bad_a: int, bad_b: int, n: int) -> float:
    """Two-sided p of Fisher's exact test of bad_a and bad_b among n each."""
    bad = bad_a + bad_b
    ways = [math.comb(n, k) * math.comb(n, bad - k) for k in range(bad + 1)]
    return sum(way for way in ways if way <= ways[bad_a]) / sum(ways)


def compare_failures(runs: list[dict], others: list[dict]) -> str:
    """Of two variants: how many of the seeds that both have failed in each."""
    by_seed = {row["seed"]: float(row["S"]) for row in others}
    matched = [row for row in runs if row["seed"] in by_seed]
    bad = sum(float(row["S"]) < FAILED for row in matched)
    bad_others = sum(by_seed[row["seed"]] < FAILED for row in matched)
    p = fisher_exact(bad, bad_others, len(matched))
    word = "cannot tell which fails more"
    if p < 0.05:
        word = "fewer fail" if bad < bad_others else "more fail"
    counts = f"{bad} and {bad_others} of {len(matched)} below {FAILED}"
    return f"{word} ({counts}, Fisher's p {p:.2f})"


def compare(question: str, groups: dict[str, list[dict]]) -> list[str]:
    """A sentence for each variant in one environment, with what n seeds can tell of it."""
    base = QUESTIONS[question].base
    sentences = []
    for label, runs in groups.items():
        text = f"{label}: {lab.describe(runs)}"
        if base in groups and label != base:
            text += f"; S beside {base}: {lab.verdict(runs, groups[base])}"
        if label == "with" and "without" in groups:
            text += f"; beside without: {compare_failures(runs, groups['without'])}"
        sentences.append(text)
    return sentences


def answer_from(question: str, rows: list[dict], path: Path) -> None:
    """Draw a column for each environment, a row for each measure; print sentences."""
    measures = QUESTIONS[question].measures
    columns = lab.group(rows, "env")
    if question == "settings":
        columns = {"one set of settings": rows}
    figure, axes = lab.make_figure(len(columns), len(measures), height=3.0)
    for column, (title, of_env) in zip(axes.T, columns.items()):
        by_label = lab.group(of_env, "variant")
        groups = {label: by_label[label] for label in sorted(by_label, key=lab.natural)}
        for axis, name in zip(column, measures):
            lab.draw_variants(axis, groups, name)
            axis.set_ylabel(AXES[name])
        if "views_to_95" in measures:
            column[-1].set_yscale("log")
        column[0].set_title(title)
        column[-1].set_xlabel(QUESTIONS[question].below)
        for sentence in compare(question, groups):
            print(f"{question}, {title}: {sentence}")
    note = "a dot for each of n seeds, a bar for their mean; crosses: the teacher"
    if "leak" in measures:
        note += "; leak with its 95 % interval over five folds"
    lab.save_figure(figure, path, note)


def report(args: argparse.Namespace) -> None:
    """Draw each question's figure, and print what came out."""
    for question in args.questions:
        rows = lab.read_csv(args.results / f"{question}.csv")
        answer_from(question, rows, args.results / f"{question}.png")


def known_question(name: str) -> str:
    """Raises ArgumentTypeError for another one (`choices` would refuse the default)."""
    if name not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise argparse.ArgumentTypeError(f"there is no {name!r}, only {known}")
    return name


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.claims`."""
    parser = lab.lab_parser("claims", __doc__, None)
    parser.add_argument(
        "questions",
        nargs="*",
        metavar="QUESTION",
        type=known_question,
        default=list(QUESTIONS),
        help="all of them, if none is named",
    )
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
