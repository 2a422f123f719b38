"""Methods whose student acts, so that it has to see each step: they need all pictures.

    ppo         PPO on the student's view alone; nobody knows more
    asymmetric  the same, but the critic, which is needed in training only, reads the
                teacher's view (Pinto et al., arXiv 1710.06542)
    dagger      a teacher is trained alone, for three quarters of the steps; then the
                student acts and learns what the teacher would have done (arXiv 1011.0686)

All have the settings and networks of `tsalign`: E_S, the policy's head, the critic.
Each is a generator: after a cycle it yields its environment steps, the student's views
that were drawn for it, and the networks that play.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

import tsalign
from tsalign import Config, Critic, Method, Networks, Pairs, to_tensor, train_bc_student

DAGGER_SHARE = 0.25  # of the steps are the student's
DAGGER_MEMORY = 32_768  # steps of the student that are remembered


class Steps(NamedTuple):
    """What PPO needs of steps of the student, (T, N, ...)."""

    obs_student: Tensor
    obs_critic: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    done: Tensor
    obs_critic_next: Tensor  # the true next one, also where the episode ended


@torch.no_grad()
def student_acts(envs, obs: dict, nets: Networks, critic_view: str, n_steps: int):
    """The student acts for T steps -> steps, the next observation."""
    steps = []
    for _ in range(n_steps):
        obs_student = to_tensor(obs["student"], "cpu")
        obs_critic = to_tensor(obs[critic_view], "cpu")
        policy = nets.distribution("student", obs_student)
        action = policy.sample()
        obs, reward, terminated, truncated, _ = tsalign.step_envs(envs, action)
        done = terminated | truncated
        step = Steps(
            obs_student=obs_student,
            obs_critic=obs_critic,
            action=action,
            log_prob=policy.log_prob(action),
            reward=torch.tensor(reward),
            terminated=torch.tensor(terminated),
            done=torch.tensor(done),
            obs_critic_next=to_tensor(obs[critic_view], "cpu"),
        )
        steps.append(step)
        if done.any():
            obs = tsalign.reset_envs(envs, ended=done)
    return Steps(*map(torch.stack, zip(*steps))), obs


def train_actor(config: Config, critic_view: str) -> Iterator[tuple[int, int, Networks]]:
    """PPO through E_S, as in `tsalign.train_policy`; the critic reads the named view."""
    envs = tsalign.make_envs(config.env, config.num_envs)
    nets = Networks(envs, config)
    critic = Critic(envs.single_observation_space[critic_view], config.width)
    actor_parameters = [*nets.student.parameters(), *nets.policy.parameters()]
    parameters = [*actor_parameters, *critic.parameters()]
    optimizer = Adam(parameters, config.ppo_lr, betas=(0.9, 0.99), fused=True)
    steps_of_cycle = config.num_envs * config.rollout_steps
    n_cycles = math.ceil(config.total_steps / steps_of_cycle)
    obs = tsalign.reset_envs(envs, seed=config.seed)
    for cycle in range(n_cycles):
        steps, obs = student_acts(envs, obs, nets, critic_view, config.rollout_steps)
        if cycle == 0:
            nets.student.fit_input_range(steps.obs_student.flatten(0, 1))
            critic.fit_input_range(steps.obs_critic.flatten(0, 1))
        progress = cycle / n_cycles
        tsalign.set_rate(optimizer, tsalign.ppo_rate(config, progress))
        update_actor(nets, critic, optimizer, steps, config, progress)
        env_steps = (cycle + 1) * steps_of_cycle
        yield env_steps, env_steps, nets


def update_actor(nets, critic, optimizer, steps: Steps, config: Config, progress) -> None:
    """PPO's passes over one cycle's steps."""
    flat = Steps(*(x.flatten(0, 1) for x in steps))  # (T*N, ...)
    with torch.no_grad():
        values = critic(flat.obs_critic).view_as(steps.reward)
        next_values = critic(flat.obs_critic_next).view_as(steps.reward)
    advantages = tsalign.gae(
        steps.reward,
        values,
        next_values,
        steps.terminated,
        steps.done,
        config.gamma,
        config.gae_lambda,
    )
    returns = (advantages + values).flatten()
    n_updates = config.ppo_epochs * math.ceil(len(returns) / config.ppo_batch)
    for i in tsalign.draw_minibatches(len(returns), config.ppo_batch, n_updates):
        log = tsalign.ppo_losses(
            nets.distribution("student", flat.obs_student[i]),
            critic(flat.obs_critic[i]),
            flat.action[i],
            flat.log_prob[i],
            advantages.flatten()[i],
            returns[i],
            config.clip,
        )
        loss = tsalign.weighted_ppo_loss(log, nets.policy, config, progress)
        tsalign.take_step(optimizer, loss, config.max_grad_norm)


@torch.no_grad()
def student_is_told(envs, obs: dict, nets: Networks, n_steps: int) -> tuple[Pairs, dict]:
    """The student acts for T steps -> views with the teacher's action, next observation."""
    told = []
    for _ in range(n_steps):
        obs_teacher = to_tensor(obs["teacher"], "cpu")
        obs_student = to_tensor(obs["student"], "cpu")
        wanted = nets.distribution("teacher", obs_teacher).sample()
        told.append(Pairs(obs_teacher, obs_student, wanted))
        action = nets.distribution("student", obs_student).sample()
        obs, _, terminated, truncated, _ = tsalign.step_envs(envs, action)
        if (terminated | truncated).any():
            obs = tsalign.reset_envs(envs, ended=terminated | truncated)
    return Pairs(*map(torch.cat, zip(*told))), obs


def train_dagger(config: Config) -> Iterator[tuple[int, int, Networks]]:
    """A teacher of its own, then the student on its own way; it yields from then on."""
    envs = tsalign.make_envs(config.env, config.num_envs)
    nets = Networks(envs, config)
    teacher_optimizer, student_optimizer = tsalign.make_optimizers(nets, config)
    steps_of_cycle = config.num_envs * config.rollout_steps
    n_cycles = math.ceil(config.total_steps / steps_of_cycle)
    n_teacher = n_cycles - math.ceil(DAGGER_SHARE * n_cycles)
    keeps_no_pairs = [False] * (config.rollout_steps + 1)
    tsalign.set_draw_student(envs, False)
    obs = tsalign.reset_envs(envs, seed=config.seed)
    for cycle in range(n_teacher):
        rollout, _, obs = tsalign.collect(envs, obs, nets, keeps_no_pairs)
        if cycle == 0:
            nets.fit_input_ranges("teacher", rollout.obs_teacher.flatten(0, 1))
        progress = cycle / n_teacher
        tsalign.set_rate(teacher_optimizer, tsalign.ppo_rate(config, progress))
        tsalign.train_policy(nets, teacher_optimizer, rollout, config, progress)

    tsalign.set_draw_student(envs, True)
    obs = tsalign.reset_envs(envs, seed=config.seed + 2**29)
    memory = None
    for cycle in range(n_teacher, n_cycles):
        told, obs = student_is_told(envs, obs, nets, config.rollout_steps)
        if memory is None:
            nets.fit_input_ranges("student", told.obs_student)
        memory = tsalign.remember(memory, told, DAGGER_MEMORY)
        progress = (cycle - n_teacher) / (n_cycles - n_teacher)
        tsalign.set_rate(student_optimizer, tsalign.encoder_rate(config, progress))
        train_bc_student(nets, student_optimizer, memory, config, progress)
        views = (cycle + 1 - n_teacher) * steps_of_cycle
        yield (cycle + 1) * steps_of_cycle, views, nets


# A rival's `train_on_pairs` is its whole training. results.peers calls it, not `tsalign`.
ppo = Method(functools.partial(train_actor, critic_view="student"))
asymmetric = Method(functools.partial(train_actor, critic_view="teacher"))
dagger = Method(
    train_dagger,
    policy_gradient_reaches_encoder=True,
    has_student_policy=True,
    student_share=DAGGER_SHARE,
)
