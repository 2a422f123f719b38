"""Shared by the lab: its command line, many runs in processes, run folders read into rows."""

import argparse
import csv
import json
import multiprocessing
import os
import runpy
import statistics
import sys
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Callable

from matplotlib.figure import Figure

import tsalign
from tsalign import BadInput, Config, fail

WHERE = ("out", "device", "threads")  # what tells no result apart
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]  # 97.5 %, 1 to 9


def lab_parser(name: str, text: str, seeds=range(5)) -> argparse.ArgumentParser:
    """The flags that all scripts of the lab have."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"results.{name}", description=text, formatter_class=style)
    parser.error = fail
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, a core each")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="run folders")
    parser.add_argument("--results", type=Path, default=Path("results") / name, help="tables")
    parser.add_argument("--report", action="store_true", help="redraw only")
    return parser


def lab_main(work: Callable[[argparse.Namespace], dict], args: argparse.Namespace) -> None:
    """Do the work, which returns {run folder: error}, and exit: with 0, 1 if runs failed, 2 for bad
    input and 130 for Ctrl-C, each in one line.
    """
    try:
        if args.jobs < 1:
            raise BadInput(f"jobs must be at least 1, not {args.jobs}")
        failed = work(args)
        for folder, error in failed.items():
            print(f"failed: {folder}: {error}", file=sys.stderr)
        sys.exit(1 if failed else 0)
    except BadInput as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command carries on", code=130)


def settings_of(config: dict) -> str:
    """What a run sets otherwise than the defaults of its environment and method."""
    default = asdict(Config(**{k: config[k] for k in ("env", "method", "seed")}))
    changed = {k: v for k, v in config.items() if k not in WHERE and v != default.get(k)}
    return " ".join(f"{k}={v}" for k, v in changed.items())


def is_finished(config: Config) -> bool:
    """Whether this run is complete. Raises BadInput if it is, with other settings."""
    if not (config.folder / "result.json").exists():
        return False
    saved = json.loads((config.folder / "config.json").read_text())
    changed = [k for k, v in asdict(config).items() if saved.get(k) != v and k not in WHERE]
    if changed:
        raise BadInput(f"{config.folder} is finished with other {', '.join(changed)}")
    return True


def is_busy(config: Config) -> bool:
    """Whether another process (an orphan of a sweep that was killed, say) is training there."""
    try:
        tsalign.open_log(config).close()
    except BadInput as error:
        if "another process" not in str(error):
            raise
        return True
    return False


def run_module(module: str, config: Config) -> None:
    """`python -m module` with these settings, its output in the run folder, in this process."""
    output = os.open(config.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):  # stdout, stderr
        os.dup2(output, standard)
    sys.argv = [module, *(f"--{k.replace('_', '-')}={v}" for k, v in asdict(config).items())]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_many(configs: list[Config], jobs: int, module: str = "tsalign") -> dict[str, str]:
    """Train each configuration in a process of its own, `jobs` at once; returns {folder: error}.

    Finished runs are kept; one that another process is training is named and waited for. `module`
    is what each process runs: one that adds to `METHODS` and then calls `tsalign.main`, say.
    """
    # Where it can, a server imports torch once and forks: that saves each run some three seconds.
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(["tsalign", "torch._dynamo"])  # Adam imports the latter
    waiting = [config for config in configs if not is_finished(config)]
    print(f"{len(configs) - len(waiting)} runs finished already, {len(waiting)} to go", flush=True)
    running, failed, named = {}, {}, set()
    try:
        while waiting or running:
            waiting = [config for config in waiting if not is_finished(config)]
            for config in waiting[:]:
                if len(running) >= jobs:
                    break
                if is_busy(config):
                    if config.folder not in named:
                        print(f"waiting for another process in {config.folder}", flush=True)
                    named.add(config.folder)
                    continue
                waiting.remove(config)
                process = context.Process(target=run_module, args=(module, config))
                process.start()
                running[process] = config
            wait([p.sentinel for p in running], timeout=0.2)
            for process in [p for p in running if not p.is_alive()]:
                config = running.pop(process)
                line = (config.folder / "output.txt").read_text().strip().rpartition("\n")[2]
                if process.exitcode:
                    failed[str(config.folder)] = line
                left = len(waiting) + len(running)
                print(f"{config.folder}: {line} ({left} to go)", flush=True)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    return failed


def read_runs(out: Path) -> tuple[list[dict], list[dict]]:
    """All finished runs below a folder, and the rows of their logs. Raises BadInput if twice."""
    runs, curves = [], []
    for path in sorted(Path(out).rglob("result.json")):
        config = json.loads((path.parent / "config.json").read_text())
        run = {**json.loads(path.read_text()), "settings": settings_of(config)}
        which = [run[k] for k in ("env", "method", "settings", "seed")]
        if any([r[k] for k in ("env", "method", "settings", "seed")] == which for r in runs):
            raise BadInput(f"the same run twice below {out}: {path.parent} is the second")
        runs.append(run)
        curves += [{**run, **row} for row in read_csv(path.parent / "log.csv")]
    return runs, curves


def runs_or_csv(out: Path, *paths: Path) -> list[list[dict]]:
    """All finished runs below a folder, and their logs if two paths are named; where there are no
    runs, what these CSV files keep of them. Raises BadInput if there is nothing.
    """
    found = list(read_runs(out)[: len(paths)])
    if not found[0] and not paths[0].exists():
        raise BadInput(f"no finished run below {out}, and no {paths[0].name} in {paths[0].parent}")
    return found if found[0] else [read_csv(path) for path in paths]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """A CSV file with the named columns; others are left out."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def legend_below(figure: Figure) -> None:
    """One legend for all axes of a figure, each label once."""
    lines = {text: line for a in figure.axes for line, text in zip(*a.get_legend_handles_labels())}
    columns = min(6, len(lines))
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=columns, fontsize=9)


def mean_sd_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard deviation and half-width of the 95 % t-interval over seeds (0 for one)."""
    n, mean = len(values), statistics.mean(values)
    sd = statistics.stdev(values) if n > 1 else 0.0
    quantile = T_QUANTILES[n - 2] if 2 <= n <= 10 else 1.96 + 2.4 / max(n - 1, 1)
    return mean, sd, quantile * sd / n**0.5
