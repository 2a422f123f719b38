"""Asymmetric actor-critic: PPO whose actor sees the student's view, and its critic the teacher's.

The critic is needed in training only, so it may know what the actor does not (Pinto et al., 2018,
arXiv 1710.06542). Settings, networks and PPO are `tsalign`'s.
"""

import math
from typing import Iterator, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from tsalign import AGENTS, Config, Networks, descend, gae, make_envs, minibatches, ppo_losses
from tsalign import step_envs, to_tensor


class Steps(NamedTuple):
    """What one cycle collects, (T, N, ...), or (T*N, ...) once it is flat."""

    obs_teacher: Tensor
    obs_student: Tensor
    log_prob: Tensor
    value: Tensor
    next_value: Tensor  # of the true next observation
    action: Tensor
    reward: Tensor
    terminated: Tensor
    done: Tensor


@torch.no_grad()
def collect(envs, obs: dict, nets: Networks, n_steps: int) -> tuple[Steps, dict]:
    """The student acts for T steps; the critic judges them by the teacher's view."""
    steps = []
    for _ in range(n_steps):
        obs_teacher, obs_student = (to_tensor(obs[view], "cpu") for view in AGENTS)
        policy = nets.distribution("student", obs_student)
        action, value = policy.sample(), nets.critic(nets.teacher(obs_teacher))[:, 0]
        obs, reward, terminated, truncated, _ = step_envs(envs, action)
        next_value = nets.critic(nets.teacher(to_tensor(obs["teacher"], "cpu")))[:, 0]
        ended = terminated | truncated
        known = (obs_teacher, obs_student, policy.log_prob(action), value, next_value, action)
        steps.append((*known, *(torch.as_tensor(x) for x in (reward, terminated, ended))))
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return Steps(*(torch.stack(x) for x in zip(*steps))), obs


def entropy_bonus(config: Config, remaining: float) -> float:
    """The rule of `tsalign.train_policy`: from the first to the last value, as a square."""
    return config.entropy_end + remaining**2 * (config.entropy_coef - config.entropy_end)


def improve(nets: Networks, optimizer: Adam, steps: Steps, config: Config, bonus: float) -> None:
    """PPO on all networks: the actor's gradient ends in E_S, the critic's in E_T."""
    outcome = steps.reward, steps.value, steps.next_value, steps.terminated, steps.done
    advantage = gae(*outcome, config.gamma, config.gae_lambda)
    returns, advantage = (advantage + steps.value).flatten(), advantage.flatten()
    steps = Steps(*(x.flatten(0, 1) for x in steps))
    for i in minibatches(steps, config.ppo_batch, config.ppo_epochs):
        policy = nets.distribution("student", steps.obs_student[i])
        value = nets.critic(nets.teacher(steps.obs_teacher[i]))[:, 0]
        known = steps.action[i], steps.log_prob[i], advantage[i], returns[i]
        loss = ppo_losses(policy, value, *known, config.clip)
        total = loss["policy_loss"] + config.value_coef * loss["value_loss"]
        descend(optimizer, total - bonus * loss["entropy"], config.max_grad_norm)


def train(config: Config) -> Iterator[tuple[int, Networks]]:
    """After every cycle: the environment steps so far, and the networks."""
    envs = make_envs(config.env, config.num_envs)
    nets, cycle_steps = Networks(envs, config), config.num_envs * config.rollout_steps
    optimizer = Adam(nets.parameters(), config.ppo_lr, fused=True)
    obs, _ = envs.reset(seed=config.seed)
    n_cycles = math.ceil(config.total_steps / cycle_steps)
    for cycle in range(n_cycles):
        steps, obs = collect(envs, obs, nets, config.rollout_steps)
        improve(nets, optimizer, steps, config, entropy_bonus(config, 1 - cycle / n_cycles))
        yield (cycle + 1) * cycle_steps, nets
