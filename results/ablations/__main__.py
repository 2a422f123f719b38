"""Which ingredient of the method is needed, and when? Six questions, both environments.

    python -m results.ablations                  # all of them; carries on where it was interrupted
    python -m results.ablations align --jobs 2   # one of them
    python -m results.ablations align --report   # draws again from align.csv

    align      Eq. (7): success and gap over lambda_align
    noalign    why does the student fail without Eq. (7)? One setting changed at a time
    stability  Eq. (8): bad seeds of 20; success where the encoders move faster
    positives  Eq. (6): positives from a few steps away, not from the same step alone
    sitt       SITT's lambda1 beside our lambda_align (the runs of `align`): which is wider?
    settings   one setting for both environments, and each environment's in the other

About 390 runs besides those of runs/table1, which are used where they fit: 2 hours on two cores.
Then the leak of `align`'s runs is measured by `results.leak`; the lab book has the command.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

from results.ablations.figures import ALONE, MEANS, TWENTY, report
from results.ablations.measure import measure
from results.ablations.methods import ROWS, WINDOWS
from results.sweep import is_finished, lab_main, lab_parser, read_csv, run_many, settings_of
from results.sweep import write_csv
from tsalign import ENV_SETTINGS, ENVS, METHODS, BadInput, Config

SEEDS = dict(align=5, noalign=3, stability=3, positives=5, sitt=3, settings=3)
MEASURED = ("align", "noalign", "positives")
COLUMNS = ["env", "method", "variant", "seed", "success_teacher", "success_student", "gap"]
COLUMNS += ["eval_episodes", "env_steps", "seconds", "settings", "device", "torch"]


def variants(env: str) -> dict[str, list[tuple[str, dict]]]:
    """The variants of each question: a name, and what is set besides the defaults.

    "sharpness" is the inverse temperature of Eq. (6), kept there; "2 x 0.003" are the encoders'
    passes and learning rate.
    """
    no_align, ours, sitt = {"method": "no-align"}, Config(env=env), Config(env=env, method="sitt")
    names = {name for s in ENV_SETTINGS.values() for name in s} - {"total_steps"}
    names -= METHODS["ours"].settings.keys()
    one = ENV_SETTINGS["tunnelvision"] | {"gamma": 0.98}  # between the two horizons
    sources = {**ENV_SETTINGS, "Config": {}, "tunnelvision, gamma .98": one}
    return {
        "align": [(f"{v:g}", {"lambda_align": v} if v else no_align)
                  for v in sorted({0, 0.1, 0.3, 1, 3, 10, 30, ours.lambda_align})],
        "noalign": [
            ("as it is", no_align),
            *((f"sharpness {k}", dict(method="no-align-fixed", inverse_temperature=k))
              for k in (1, 10, 30, 100)),
            *((f"D {k}", no_align | {"embedding_dim": k}) for k in (8, 16, 32, 64, 128)),
            *((f"minibatch {k}", no_align | {"encoder_batch": k}) for k in (32, 128, 512)),
            *((f"passes {k}", no_align | {"encoder_epochs": k}) for k in (0.5, 1, 2, 4)),
            ("rate constant", {"method": "no-align-constant"}),
            ("no Eq. (8)", no_align | {"lambda_stab": 0}),
        ],
        "stability": [
            *((TWENTY, {"method": method}) for method in ("ours", "no-stability")),
            *((f"{passes:g} x {rate:g}",
               dict(method=f"{method}-measured", encoder_epochs=passes, encoder_lr=rate))
              for method in ("ours", "no-stability") for rate in (1e-3, 3e-3, 1e-2)
              for passes in (ours.encoder_epochs * k for k in (1, 2, 4))),
        ],
        "positives": [
            ("0", {}),
            *((f"±{k}", {"method": f"positives-{k}"}) for k in WINDOWS),
            *((f"±{k}{ALONE}", {"method": f"positives-{k}-eq6"}) for k in WINDOWS),
        ],
        "sitt": [(f"{v:g}", dict(method="sitt", sitt_lambda1=v))
                 for v in sorted({0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, sitt.sitt_lambda1})],
        "settings": [  # the steps stay the environment's
            (source, {name: values.get(name, getattr(Config, name)) for name in sorted(names)})
            for source, values in sources.items()
        ],
    }  # fmt: skip


def place(question: str, out: Path, given: dict) -> Config:
    """The run and its folder; runs at the defaults are shared, with Table I where it has them."""
    config = Config(**given)
    changed = settings_of(asdict(config)).replace(" ", ",")
    if not changed and config.method not in ROWS:
        shared = Config(**given, out="runs/table1")
        try:
            return shared if is_finished(shared) else Config(**given, out=out / "default")
        except BadInput:  # Table I has it with other settings
            return Config(**given, out=out / "default")
    return Config(**given, out=out / question / (changed or "default"))


def plan(question: str, args: argparse.Namespace) -> list[tuple[str, Config]]:
    """The runs of a question, each with the name of its variant."""
    runs, common = [], {"total_steps": args.total_steps} if args.total_steps else {}
    for env in args.envs:
        ours = [("align", *v) for v in variants(env)["align"] if question == "sitt"]
        for folder, variant, given in [*((question, *v) for v in variants(env)[question]), *ours]:
            if variant == TWENTY and env != "tunnelvision":
                continue
            for seed in range(20) if variant == TWENTY else args.seeds or range(SEEDS[question]):
                settings = dict(env=env, seed=seed) | given | common
                runs.append((variant, place(folder, args.out, settings)))
    return runs


def make_rows(question: str, runs: list[tuple[str, Config]]) -> list[dict]:
    """A row per finished run: its result, its log's mean success and movement, what is measured."""
    rows = []
    for variant, config in runs:
        if is_finished(config):
            log = read_csv(config.folder / "log.csv")
            row = json.loads((config.folder / "result.json").read_text())
            row |= {"variant": variant, "settings": settings_of(asdict(config))}
            row["curve"] = statistics.mean(float(line["success_student"]) for line in log)
            for key in ("moved_z", "moved_logits"):
                if key in log[0]:
                    row[key] = statistics.mean(float(line[key]) for line in log)
            rows.append(row | (measure(config.folder) if question in MEASURED else {}))
    return rows


def answer(question: str, args: argparse.Namespace) -> dict[str, str]:
    """Trains what is missing; writes CSV, table and figure; returns {folder: error}."""
    path, failed = args.results / f"{question}.csv", {}
    if not args.report:
        runs = plan(question, args)
        configs = list({config.folder: config for _, config in runs}.values())
        configs.sort(key=lambda config: config.seed)  # what is finished early can be compared
        waiting = [config for config in configs if not is_finished(config)]
        seconds = sum(16 + 22 * config.encoder_epochs for config in waiting)  # as timed, one core
        number = f"{len(waiting)} of {len(configs)} runs to go"
        print(f"{question}: {number}, about {seconds / args.jobs / 60:.0f} minutes", flush=True)
        failed = run_many(configs, args.jobs, "results.ablations.methods")
        if rows := make_rows(question, runs):
            args.results.mkdir(parents=True, exist_ok=True)
            write_csv(path, COLUMNS + [k for k in MEANS if any(k in row for row in rows)], rows)
    if not path.exists():
        raise BadInput(f"nothing to report: there is no {path}")
    print(report(question, read_csv(path), args.results), flush=True)
    return failed


def work(args: argparse.Namespace) -> dict[str, str]:
    """Answer the questions -> {run folder: error}."""
    METHODS.update(ROWS)
    if not {*args.questions} <= {*SEEDS}:
        raise BadInput(f"questions: {', '.join(SEEDS)}")
    failed = {}
    for question in args.questions or SEEDS:
        failed |= answer(question, args)
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.ablations`."""
    parser = lab_parser("ablations", __doc__, None)  # each question has its own seeds
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(SEEDS))
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=list(ENVS))
    parser.add_argument("--total-steps", type=int, help="shorter runs, to try it out")
    lab_main(work, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
