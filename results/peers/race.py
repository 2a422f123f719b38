"""One method, one seed, one core, against the clock: run by `python -m results.peers`.

    python -m results.peers.race --env tunnelvision --method actor-critic     # flags of tsalign.py

A method is a generator that yields (environment steps so far, networks) after every cycle. The
clock runs only inside it: it is the processor time of this process, which has one thread. At every
multiple of LOOK_EVERY steps the student plays LOOK_EPISODES fresh episodes with sampled actions. It
stops once it has won 95 % of them at two looks in a row (the first of the two counts) or at
`--total-steps`; then it plays `--eval-episodes`.
"""

import argparse
import csv
import itertools
import json
import math
import os
import time
from dataclasses import fields
from typing import Callable, Iterator

import numpy as np
import torch

import tsalign
from results.peers import actor_critic, dagger
from tsalign import NO_EQ_9, NO_EQ_10, BadInput, Config, Method, Networks

GOAL, LOOK_EVERY, LOOK_EPISODES, LOOK_ENVS = 0.95, 8192, 256, 64


def ours(config: Config) -> Iterator[tuple[int, Networks]]:
    """The loop of `tsalign.training_loop`, without its evaluations."""
    envs = tsalign.make_envs(config.env, config.num_envs)
    nets, cycle_steps = Networks(envs, config), config.num_envs * config.rollout_steps
    policy_optimizer, student_optimizer = tsalign.make_optimizers(nets, config)
    n_cycles = math.ceil(config.total_steps / cycle_steps)
    seeds = np.random.SeedSequence(config.seed).generate_state(n_cycles + 1).tolist()
    obs, _ = envs.reset(seed=seeds[0])
    for cycle in range(n_cycles):
        remaining = 1 - cycle / n_cycles
        rollout, obs = tsalign.collect(envs, obs, nets, config.rollout_steps)
        tsalign.train_policy(nets, policy_optimizer, rollout, config, remaining)
        student_optimizer.param_groups[0]["lr"] = config.encoder_lr * (0.05 + 0.95 * remaining)
        now = tsalign.delay_alignment(config, cycle / n_cycles)
        tsalign.train_embedding(nets, student_optimizer, rollout, now)
        yield (cycle + 1) * cycle_steps, nets


def stable_baselines(config: Config) -> Iterator[tuple[int, torch.nn.Module]]:
    """`results.peers.sb3.train`, imported only when it is run. Raises BadInput if not installed."""
    try:
        from results.peers import sb3
    except ImportError as error:
        raise BadInput(f"{error}: pip install -r results/peers/requirements.txt") from error
    return sb3.train(config)


PEERS = {
    "ours": ours,
    "actor-critic": actor_critic.train,
    "dagger": dagger.train,
    "sb3-ours": stable_baselines,
    "sb3-images": stable_baselines,
    "sb3-default": stable_baselines,
}
HAVE_A_TEACHER = ("ours", "dagger")
# So that `Config` and `Networks` know them. A peer's row holds its whole training.
ALONE = dict(policy_gradient_reaches_encoder=True, own_head=True)
for name, train in PEERS.items():
    row = Method(train, NO_EQ_9 | NO_EQ_10, **(ALONE if name == "dagger" else {}))
    tsalign.METHODS.setdefault(name, row)


def look(eval_envs, nets: torch.nn.Module, episodes: int, seed: int, limit: int,
         agent: str = "student") -> float:  # fmt: skip
    """Success in fresh episodes; the training's random numbers are left alone."""
    each = math.ceil(episodes / eval_envs.num_envs)
    with torch.random.fork_rng(devices=[]):
        _, success = tsalign.play_episodes(eval_envs, nets, agent, each, seed, limit)
    return float(success.mean())


def race(train: Callable, eval_envs, config: Config, log_file) -> dict:
    """Train until the goal is reached twice in a row or the training ends; what came out."""
    # Of fresh episodes, the same for all methods of one seed.
    seeds = (int(np.random.SeedSequence([config.seed, k]).generate_state(1)[0])
             for k in itertools.count(1))  # fmt: skip
    writer = csv.DictWriter(log_file, ["env_steps", "seconds", "success_student"])
    writer.writeheader()
    looks, reached, seconds, start = [], {}, 0.0, time.process_time()
    for env_steps, nets in train(config):
        seconds += time.process_time() - start
        if env_steps // LOOK_EVERY > (looks[-1]["env_steps"] if looks else 0) // LOOK_EVERY:
            won = look(eval_envs, nets, LOOK_EPISODES, next(seeds), config.episode_limit)
            looks.append(dict(env_steps=env_steps, seconds=seconds, success_student=won))
            writer.writerow(looks[-1])
            log_file.flush()
            if len(looks) > 1 and min(row["success_student"] for row in looks[-2:]) >= GOAL:
                reached = looks[-2]
                break
        start = time.process_time()
    result = dict(steps_to_95=reached.get("env_steps"), seconds_to_95=reached.get("seconds"))
    last = eval_envs, nets, config.eval_episodes, next(seeds), config.episode_limit
    result |= dict(success_student=look(*last), env_steps=env_steps, seconds=seconds)
    if config.method in HAVE_A_TEACHER:
        result["success_teacher"] = look(*last, "teacher")
    return result


def run(config: Config) -> dict:
    """One configuration; its folder gets `config.json`, `log.csv` and, last, `result.json`."""
    start = time.perf_counter()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    eval_envs = tsalign.make_envs(config.env, LOOK_ENVS)
    with tsalign.open_log(config) as log_file:
        result = dict(env=config.env, method=config.method, seed=config.seed)
        result |= race(PEERS[config.method], eval_envs, config, log_file)
        result |= dict(seconds_with_looks=time.perf_counter() - start, torch=torch.__version__)
        part = config.folder / "result.tmp"
        part.write_text(json.dumps(result, indent=2) + "\n")
        os.replace(part, config.folder / "result.json")
    return result


def main(arguments: list[str] | None = None) -> None:
    """Exit code 2 for bad input, 130 for Ctrl-C. The flags are the fields of Config."""
    parser = argparse.ArgumentParser("results.peers.race", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = tsalign.fail
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        parser.add_argument(flag, type=f.type, default=argparse.SUPPRESS)
    try:
        result = run(Config(**vars(parser.parse_args(arguments))))
    except BadInput as error:
        tsalign.fail(str(error))
    except KeyboardInterrupt:
        tsalign.fail("interrupted", code=130)
    goal = f"{GOAL} after {result['steps_to_95']} steps, {result['seconds_to_95']} s"
    print(f"{goal}; at the end {result['success_student']:.3f}, {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
