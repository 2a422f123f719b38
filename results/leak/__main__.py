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
import statistics
from pathlib import Path

from results import lab
from results.leak.probes import NOISE, measure_missing, read_leak
from tsalign import BadInput

MEASURED = ["leak", "leak_interval", "control", "control_interval", "private_bits"]
COLUMNS = [*lab.KEY, "S", *MEASURED, "checkpoint", "defaults"]


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
    lab.merge_csv(path, COLUMNS, rows)
    return failed


def report(args: argparse.Namespace) -> None:
    """Draw leak.png: a dot with its interval for each seed. Print the means."""
    by_env = lab.group(lab.read_csv(args.results / "leak.csv"), "env")
    figure, axes = lab.make_figure(len(by_env), height=3.8)
    for axis, (env, of_env) in zip(axes[0], by_env.items()):
        groups = lab.by_method(of_env)
        lab.draw_variants(axis, groups, "leak")
        axis.set(title=env, ylim=(-0.1, 1.1))
        for label, rows in groups.items():
            leak = lab.numbers(rows, "leak")
            spread = f"{min(leak):.3f} to {max(leak):.3f}"
            control = max(lab.numbers(rows, "control"), key=abs)
            bits = statistics.mean(lab.numbers(rows, "private_bits"))
            print(f"{env} {label}: leak {statistics.mean(leak):.3f} ({spread})", end="")
            print(f", n = {len(rows)}; control {control:+.3f} at most; of {bits:.2f} bits")
    axes[0, 0].set_ylabel(f"leak, at noise {NOISE}")
    note = "a dot for each of n seeds with its 95 % interval over five folds; 1: all leaks"
    lab.save_figure(figure, args.results / "leak.png", note)


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.leak`."""
    parser = lab.lab_parser("leak", __doc__, range(5))
    parser.set_defaults(out=lab.TABLE1)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders")
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
