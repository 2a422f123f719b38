"""`tsalign.py` with clocks: what each phase takes, in seconds, and the peak of the memory.

    python -m results.growth.clocked --env tunnelvision --total-steps 50000   # flags of tsalign.py

`log.csv` gets a column per phase, the seconds (wall clock) that it has taken since the start, and
`peak_mib`; `result.json` gets the last row of them, and in the grids of `results.growth.envs` also
which layouts of the last evaluation were trained on.
"""

import functools
import math
import sys
import time
from typing import Callable

import tsalign
from results.growth.envs import RecordedTunnelVision, compare_layouts

PHASES = ("collect", "policy", "student", "evaluate")


def clock(name: str, function: Callable, seconds: dict[str, float]) -> Callable:
    """The function, whose time is added to seconds[name]."""

    @functools.wraps(function)
    def clocked(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    return clocked


def peak_mib() -> float:
    """The largest memory that this process has had, in MiB; nan on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def install() -> None:
    """Put the clocks around the phases of `tsalign`, for one run of this process."""
    seconds = dict.fromkeys(PHASES, 0.0)
    log, training_loop = tsalign.log, tsalign.training_loop
    tsalign.collect = clock("collect", tsalign.collect, seconds)
    tsalign.train_policy = clock("policy", tsalign.train_policy, seconds)
    tsalign.evaluate = clock("evaluate", tsalign.evaluate, seconds)
    for name, method in tsalign.METHODS.items():
        train_student = clock("student", method.train_student, seconds)
        tsalign.METHODS[name] = method._replace(train_student=train_student)

    def log_with_clocks(log_file, rows, *args):
        taken = {f"seconds_{phase}": round(value, 3) for phase, value in seconds.items()}
        rows[-1] |= taken | {"peak_mib": round(peak_mib())}
        log(log_file, rows, *args)

    def loop_with_layouts(envs, eval_envs, nets, config, log_file):
        rows = training_loop(envs, eval_envs, nets, config, log_file)
        if isinstance(envs.unwrapped, RecordedTunnelVision):
            each = math.ceil(config.eval_episodes / eval_envs.num_envs)
            rows[-1] |= compare_layouts(envs.unwrapped, eval_envs.unwrapped, each)
        return rows

    tsalign.log, tsalign.training_loop = log_with_clocks, loop_with_layouts


if __name__ == "__main__":
    install()
    tsalign.main()
