"""How much of what only the teacher sees is in its embedding? And what would halve it?

    python -m results.leak --jobs 2          # all runs in runs/table1, those in leak.csv are kept
    python -m results.leak RUN... --results DIR  # any runs of the two environments
    python -m results.leak --halve --jobs 2  # trains other settings of ours (seeds 0-2), then these
    python -m results.leak --report          # redraws from leak.csv and halve.csv

With frozen encoders, small networks predict private facts of a step from (i) the student's view,
(ii) that and z_T, (iii) that and the teacher's view; with CE their cross-entropy on unseen steps

    leak = (CE_i - CE_ii) / (CE_i - CE_iii)       0: no more than the student sees, 1: all of it.

Private facts: in TunnelVision the cells around the agent, where it does not look; in CollectHealth
whether the nearest box is left of, behind, or right of the picture. The teacher acts. A probe
learns, stops and is tested on different layouts (TunnelVision: in each part of them any two bends
are equally frequent) or episodes, in five rotations; +- is a 95 % t-interval over these. In (i) and
in the control, a second (i) trained apart, the place of z_T is taken by z_T of another step.

z_T is read with noise, see probes.py; the one reported is a tenth as long as z_T. The noise that
the policy bears is measured beside it: the teacher's success when it acts on such a z_T.
Takes about 20 seconds a run in TunnelVision, up to a minute in CollectHealth.
"""

import argparse
import signal
from dataclasses import asdict
from multiprocessing import Pool
from pathlib import Path

import torch

from results.leak.measure import FIGURES, WHICH, checksum, measure
from results.leak.report import report
from results.sweep import lab_main, lab_parser, read_csv, run_many, write_csv
from tsalign import BadInput, Config

CANDIDATES = [  # of --halve: what is multiplied by what, in ours as it is
    {}, {"encoder_epochs": 2}, {"encoder_epochs": 4}, {"encoder_batch": 0.5},
    {"encoder_batch": 0.5, "encoder_epochs": 2}, {"lambda_align": 3}, {"lambda_align": 10},
    {"encoder_epochs": 2, "lambda_align": 3}, {"embedding_dim": 0.25}, {"inverse_temperature": 3},
]  # fmt: skip


def start_worker() -> None:
    """One thread each; Ctrl-C is for the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def measure_all(folders: list[Path], path: Path, jobs: int) -> list[dict]:
    """Rows of the CSV with those of all folders, what it had already is kept."""
    rows = read_csv(path) if path.exists() else []
    known = {row["checkpoint"] for row in rows}
    todo = [folder for folder in folders if str(checksum(folder)) not in known]
    print(f"{len(folders) - len(todo)} runs measured already, {len(todo)} to go", flush=True)
    with Pool(jobs, start_worker) as pool:  # its end stops the workers
        for row in pool.imap(measure, todo):
            same = [str(row[k]) for k in WHICH]
            rows = [*(r for r in rows if [str(r[k]) for k in WHICH] != same), row]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_csv(path, [*WHICH, *FIGURES, "checkpoint"], rows)
            text = "  ".join(f"{k} {row[k]:+.3f} +- {row[k + '_interval']:.3f}"
                             for k in ("leak", "control"))  # fmt: skip
            print(f"{' '.join(filter(None, same)):40} {text}", flush=True)
    return rows


def candidates(seeds: list[int], out: Path) -> list[Config]:
    """Ours in CollectHealth, and with each of the other settings."""
    configs = []
    for factors in CANDIDATES:
        default = asdict(Config(env="collecthealth"))
        changed = {k: type(default[k])(default[k] * factor) for k, factor in factors.items()}
        name = "_".join(f"{k}_{v}" for k, v in changed.items()) or "as_it_is"
        configs += [Config(env="collecthealth", seed=seed, out=out / name, **changed)
                    for seed in seeds]  # fmt: skip
    return configs


def work(args: argparse.Namespace) -> dict[str, str]:
    """Measure what is not measured yet and report -> {run folder: error}."""
    failed = {}
    if args.halve and not args.report:
        configs = candidates(args.seeds, args.out)
        failed = run_many(configs, args.jobs)
        done = [config.folder for config in configs if str(config.folder) not in failed]
        measure_all(done, args.results / "halve.csv", args.jobs)
    elif not args.report:
        finished = sorted(Path("runs/table1").glob("*/result.json"))
        runs = args.runs or [path.parent for path in finished]
        if not runs:
            raise BadInput("no runs given, and none in runs/table1")
        measure_all(runs, args.results / "leak.csv", args.jobs)
    report(args.results)
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.leak`."""
    parser = lab_parser("leak", __doc__, range(3))  # the seeds and --out are for --halve
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="default: runs/table1/*")
    parser.add_argument("--halve", action="store_true", help="train and measure other settings")
    lab_main(work, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
