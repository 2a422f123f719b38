"""How much of what only the teacher sees is in its embedding? What is measured: probes.py.

    python -m results.leak --jobs 2              # Table I's runs, seeds 0-4: 13 minutes
    python -m results.leak RUN ... --results DIR # any runs of the two environments
    python -m results.leak --report              # redraws from leak.csv

0: no more than the student sees; 1: all of it. Private facts: in TunnelVision the cells
around the agent where it does not look; in CollectHealth whether the nearest box is left
of, behind, or right of the picture. A probe learns, stops and is tested on different
layouts or episodes in five rotations; +- is the 95 % t-interval over these, for one run. A
run takes 20 seconds of a core in TunnelVision and 35 in CollectHealth. Once is enough.
"""

import argparse
from pathlib import Path

from results import lab, questions
from results.leak.probes import measure_missing, read_leak
from results.questions import Question
from tsalign import BadInput


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Nothing is trained: measure what is not yet measured, and put it into leak.csv."""
    path = args.results / "leak.csv"
    lab.check_csv(path)
    folders = list(args.runs)
    if not folders:
        for seed in args.seeds:
            folders += sorted(args.out.glob(f"*_seed{seed}"))
    if not folders:
        raise BadInput(f"no runs in {args.out}; results.table1 makes them")
    failed = measure_missing(folders, args.jobs)
    rows = [lab.read_run(f) | read_leak(f) for f in folders if f not in failed]
    lab.merge_csv(path, questions.COLUMNS, rows)
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.leak`."""
    parser = lab.lab_parser("leak", __doc__, range(5))
    asked = {"leak": Question([], measures=("leak",))}
    parser.set_defaults(out=lab.TABLE1, ask=lambda args: asked)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    lab.lab_main(train, questions.report, parser, arguments)


if __name__ == "__main__":
    main()
