"""DAgger: the isolated teacher says what it would have done where the student's own way has led.

Half of the environment steps train the teacher by PPO on its own view, with no regard for the
student. In the other half the student acts, and learns the teacher's policy at every step that it
visits (Ross et al., 2011, arXiv 1011.0686). All steps count.
"""

import math
import random
from collections import deque
from typing import Iterator, NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.optim import Adam

from tsalign import AGENTS, Config, Networks, collect, descend, make_envs, make_optimizers
from tsalign import minibatches, step_envs, to_tensor, train_policy

TEACHER_SHARE = 0.5  # of the environment steps
MEMORY = 2**30  # bytes of student's views; beyond that the oldest cycle is forgotten
PASSES = 4  # as many minibatches a cycle as four passes over its steps, drawn from the memory


class Visited(NamedTuple):
    """Where the student went, (T*N, ...), and what the teacher would have done, (T*N, A)."""

    obs_student: Tensor
    logits_teacher: Tensor
    action: Tensor


@torch.no_grad()
def visit(envs, obs: dict, nets: Networks, n_steps: int) -> tuple[Visited, dict]:
    """The student acts for T steps; the teacher labels each of them."""
    steps = []
    for _ in range(n_steps):
        obs_teacher, obs_student = (to_tensor(obs[view], "cpu") for view in AGENTS)
        action = nets.distribution("student", obs_student).sample()
        steps.append((obs_student, nets.policy(nets.teacher(obs_teacher)), action))
        obs, _, terminated, truncated, _ = step_envs(envs, action)
        ended = terminated | truncated
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return Visited(*(torch.cat(x) for x in zip(*steps))), obs


def imitate(nets: Networks, optimizer: Adam, memory: deque[Visited], config: Config) -> None:
    """Some minibatches of all that is remembered: KL(teacher's policy || student's)."""
    batches = [(v, i) for v in memory for i in minibatches(v, config.encoder_batch, 1)]
    for visited, i in random.choices(batches, k=PASSES * len(batches) // len(memory)):
        teacher = nets.policy.distribution(visited.logits_teacher[i])
        student = nets.distribution("student", visited.obs_student[i])
        descend(optimizer, kl_divergence(teacher, student).mean())


def train(config: Config) -> Iterator[tuple[int, Networks]]:
    """After every cycle of the student: all environment steps so far, and the networks."""
    envs = make_envs(config.env, config.num_envs)
    nets, cycle_steps = Networks(envs, config), config.num_envs * config.rollout_steps
    teacher_optimizer, student_optimizer = make_optimizers(nets, config)
    random.seed(config.seed)
    obs, _ = envs.reset(seed=config.seed)
    n_cycles = math.ceil(config.total_steps / cycle_steps)
    n_teacher, memory = int(n_cycles * TEACHER_SHARE), deque()
    for cycle in range(n_teacher):
        rollout, obs = collect(envs, obs, nets, config.rollout_steps)
        train_policy(nets, teacher_optimizer, rollout, config, 1 - cycle / n_teacher)
    for cycle in range(n_teacher, n_cycles):
        visited, obs = visit(envs, obs, nets, config.rollout_steps)
        memory.append(visited)
        while len(memory) > 1 and len(memory) * visited.obs_student.nbytes > MEMORY:
            memory.popleft()
        remaining = (n_cycles - cycle) / (n_cycles - n_teacher)
        student_optimizer.param_groups[0]["lr"] = config.encoder_lr * (0.05 + 0.95 * remaining)
        imitate(nets, student_optimizer, memory, config)
        yield (cycle + 1) * cycle_steps, nets
