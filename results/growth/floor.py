"""The floor: what each phase would take if it were matrix products alone, at this machine's speed.

Floating-point operations of linear layers, convolutions and matrix products, forward and backward,
are counted by `torch.utils.flop_counter` in one cycle of the real phases; the floor in seconds is
their number over the speed of a product of two square float32 matrices on one thread. All that is
no product (activations, Adam, shuffling, Python) has no floor, nor has the environment.
"""

import statistics
import time
from typing import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

import tsalign
from results.growth.clocked import clock
from tsalign import METHODS, Config

PHASES = ("environment", "collect", "policy", "student")  # "collect" without the environment
SIZE, PRODUCTS, CYCLES = 1024, 20, 5


def product_speed(size: int = SIZE) -> float:
    """Floating-point operations a second, the best of several float32 products, on one thread."""
    torch.set_num_threads(1)
    a, b, taken = torch.randn(size, size), torch.randn(size, size), []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken)


def measure(config: Config, cycles: int = CYCLES) -> list[dict]:
    """A row per phase: operations and median seconds of one cycle, the networks hardly trained."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    envs = tsalign.make_envs(config.env, config.num_envs)
    nets = tsalign.Networks(envs, config)
    policy_optimizer, student_optimizer = tsalign.make_optimizers(nets, config)
    (obs, _), flops, seconds, taken = envs.reset(seed=config.seed), {}, {}, []
    envs.step = clock("environment", envs.step, seconds)
    envs.reset = clock("environment", envs.reset, seconds)

    def counted(name: str, phase: Callable, *args):
        with FlopCounterMode(display=False) as counter:
            result = phase(*args)
        flops[name] = counter.get_total_flops()
        return result

    def timed(name: str, phase: Callable, *args):
        return clock(name, phase, seconds)(*args)

    for watch in [counted] + [timed] * cycles:
        seconds.clear()
        rollout, obs = watch("collect", tsalign.collect, envs, obs, nets, config.rollout_steps)
        watch("policy", tsalign.train_policy, nets, policy_optimizer, rollout, config)
        train_student = METHODS[config.method].train_student
        watch("student", train_student, nets, student_optimizer, rollout, config)
        if watch is timed:
            taken.append(seconds | {"collect": seconds["collect"] - seconds["environment"]})
    rows = []
    for name in PHASES:
        times = [cycle[name] for cycle in taken]
        row = dict(env=config.env, method=config.method, phase=name, flops=flops.get(name, 0))
        row |= dict(steps=config.num_envs * config.rollout_steps, seconds=statistics.median(times))
        rows.append(row | dict(seconds_min=min(times), seconds_max=max(times)))
    return rows


def add_floor(rows: list[dict], speed: float) -> list[dict]:
    """The same rows with the floor in seconds, and how many times it a phase takes."""
    for row in rows:
        floor = row["flops"] / speed
        row |= dict(gflops_per_second=speed / 1e9, floor_seconds=floor)
        row["ratio"] = row["seconds"] / floor if floor else ""
    return rows
