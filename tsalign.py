"""Teacher-student representational alignment in one file (arXiv 2605.28372, unofficial).

A teacher that sees more than its student learns behaviour that the student cannot imitate. Here two
encoders are trained with a contrastive loss into one shared embedding, which keeps only what both
can see. PPO trains the policy on that embedding and may not touch the encoders. So whatever the
teacher learns, the student can do: it runs the same policy on its own encoder.

    python tsalign.py --env tunnelvision                  # about half a minute on one core
    python tsalign.py --env collecthealth                 # about 50 seconds, with images
    python tsalign.py --env all --method all --seeds 0 1 2 3 4 --jobs 2   # Table I and Fig. 5

Reading map (`grep -n "Eq\\." tsalign.py` prints it):
    Eq. (3)      two views of one state          the environments, `make_envs`
    Eq. (4), (5) what the views share            assumptions, no code
    Eq. (6)      contrastive loss                `info_nce_loss`
    Eq. (7)      alignment loss                  `alignment_loss`
    Eq. (8)      stability loss                  `stability_loss`
    Eq. (9)      their weighted sum              `embedding_loss`
    Eq. (1)      the teacher's return            `collect`, `gae`, `ppo_losses`
    Section IV   phase two, phase one            `train_policy`, `train_embedding`
    Section V-B  behaviour cloning               `train_bc_student`
    Eq. (10)     SITT's penalty                  `imitation_kl`, `collect`, `train_policy`
    Table I, Fig. 5                              `report`

Left out: continuous actions, recurrent policies, observation normalisation, several GPUs.
Marks: [paper] stated there; [ppo] a usual PPO default; [ours: reason] our choice.
Shapes: T time steps, N environments, B batch, D embedding, A actions, H W C image;
        "..." stands for the shape of one observation.
"""

import argparse
import copy
import csv
import ctypes
import importlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Callable, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.optim import Adam

ENVS = {
    "tunnelvision": "tunnelvision:TunnelVision-v0",
    "collecthealth": "collecthealth:CollectHealth-v0",
}

# Where the two environments need different settings [ours: chosen on seeds 100-124]; any other
# environment gets the last row, untuned. In TunnelVision gamma 0.99 makes standing still as good as
# a collision, and a small entropy bonus settles for stepping blindly at the first bend. In
# CollectHealth a horizon of 25 steps reaches the next box; a longer one only adds noise.
ENV_SETTINGS = {
    "tunnelvision": dict(
        total_steps=750_000, gamma=0.995, entropy_coef=0.25, entropy_end=0.0, sitt_lambda1=0.1
    ),
    "collecthealth": dict(
        total_steps=500_000, gamma=0.96, entropy_coef=0.02, entropy_end=0.02, sitt_lambda1=0.01
    ),
    "other": dict(
        total_steps=1_000_000, gamma=0.99, entropy_coef=0.02, entropy_end=0.02, sitt_lambda1=0.1
    ),
}


class BadInput(ValueError):
    """What the command line reports in one line, with exit code 2."""


def option(default, text: str):
    """A config field whose help text becomes that of the command-line flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """All settings of one run; each is a flag, e.g. `--total-steps`. Raises BadInput if bad."""

    env: str = option("tunnelvision", "tunnelvision, collecthealth, or module:Id-v0 of your own")
    method: str = option("ours", "ours, no-align, no-stability, bc, sitt [paper]")
    seed: int = option(0, "seeds networks, environments and sampling")
    out: str = option("runs", "where the run folders go")
    device: str = option("auto", "auto (cuda > mps > cpu), or a device of torch")
    threads: int = option(1, "CPU threads [ours: the networks are too small for more]")
    # The loop: collect, train the policy, train the encoders
    total_steps: int = option(None, "environment steps [ours: enough for slow seeds]")
    num_envs: int = option(128, "N, environments stepped at once [ours: spreads Python's cost]")
    rollout_steps: int = option(32, "T, steps a cycle [ours: 64 learned more slowly]")
    # Networks, identical in all methods [paper]; their sizes are ours
    embedding_dim: int = option(64, "D [ours: 32 was less reliable]")
    width: int = option(128, "hidden units [ours: 64 was less reliable]")
    # Phase one: the shared embedding
    lambda_align: float = option(
        10.0, "weight of Eq. (7) [ours: lower lets private information in]"
    )
    lambda_stab: float = option(0.1, "weight of Eq. (8) [ours: higher preserves what leaked early]")
    encoder_lr: float = option(1e-3, "Adam, falls linearly to 5 % [ours: a late policy needs rest]")
    encoder_batch: int = option(128, "pairs a minibatch [ours: many small ones close the leak]")
    encoder_epochs: int = option(1, "passes over a cycle's pairs [ours: cheapest that works]")
    # Phase two: the policy
    ppo_lr: float = option(1e-3, "Adam [ours: small networks bear more than 3e-4]")
    ppo_epochs: int = option(3, "passes over a cycle's steps [ours: 2 got stuck on some seeds]")
    ppo_batch: int = option(512, "steps a minibatch [ours: 1024 and 2048 learned more slowly]")
    gamma: float = option(None, "discount [ppo: 0.99; ours: by environment]")
    gae_lambda: float = option(0.95, "GAE lambda [ppo]")
    clip: float = option(0.2, "clip range of the ratio [ppo]")
    entropy_coef: float = option(None, "entropy bonus at first [ppo: 0.01; ours: see the README]")
    entropy_end: float = option(
        None, "entropy bonus at the end, approached as a square [ours: see the README]"
    )
    value_coef: float = option(0.5, "weight of the value loss [ppo]")
    max_grad_norm: float = option(0.5, "gradient clipping [ppo]")
    # SITT
    sitt_lambda1: float = option(None, "weight of Eq. (10) in the reward, below 0 adds it [ours]")
    sitt_lambda2: float = option(
        0.1, "weight of Eq. (10) in the policy loss [ours: 0.3 and 1 no better]"
    )
    # Evaluation
    eval_episodes: int = option(
        1024, "fresh episodes of each agent at the end [ours: +-0.01 at 0.9]"
    )
    log_evals: int = option(10, "evaluations during training, the last one included [ours]")
    log_episodes: int = option(128, "episodes of each agent in those before the last [ours]")

    def __post_init__(self) -> None:
        complete_and_check(self)

    @property
    def folder(self) -> Path:
        """Where this run is saved."""
        env = self.env.replace(":", "-").replace("/", "-")
        return Path(self.out) / f"{env}_{self.method}_seed{self.seed}"


# ----------------------------------------------------------------------------------------------
# Section IV-B to IV-D: the losses of the embedding
# ----------------------------------------------------------------------------------------------


def info_nce_loss(
    z_teacher: Tensor, z_student: Tensor, inverse_temperature: Tensor
) -> Tensor:  # (B, D), (B, D), () -> ()
    """Eq. (6): tell each step's partner view from all others, in both directions.

    Embeddings are of unit norm, so the dot product is the cosine. The only positive is the other
    view of the same step; the rest of the batch, neighbouring steps included, is pushed away.
    """
    similarity = inverse_temperature * z_teacher @ z_student.T  # (B, B)
    partner = torch.arange(len(similarity), device=similarity.device)
    teacher_to_student = F.cross_entropy(similarity, partner)
    student_to_teacher = F.cross_entropy(similarity.T, partner)
    return (teacher_to_student + student_to_teacher) / 2  # Eq. (6)


def alignment_loss(z_teacher: Tensor, z_student: Tensor) -> Tensor:  # (B, D), (B, D) -> ()
    """Eq. (7): the two embeddings of one step should be the same point of the unit sphere."""
    return (1 - (z_teacher * z_student).sum(-1)).mean()  # Eq. (7)


def stability_loss(
    logits_teacher: Tensor,
    logits_student: Tensor,
    logits_teacher_before: Tensor,
    logits_student_before: Tensor,
) -> Tensor:  # (B, A) each -> ()
    """Eq. (8): the policy's raw logits should stay what they were before the phase, on both views.

    Mean squared change over steps, actions and views [ours]. The logits "before" are constants:
    no gradient flows into them.
    """
    change_teacher = F.mse_loss(logits_teacher, logits_teacher_before.detach())
    change_student = F.mse_loss(logits_student, logits_student_before.detach())
    return (change_teacher + change_student) / 2  # Eq. (8)


def embedding_loss(
    nce: Tensor, align: Tensor, stab: Tensor, lambda_align: float, lambda_stab: float
) -> Tensor:  # (), (), () -> ()
    """Eq. (9): the objective of the two encoders."""
    return nce + lambda_align * align + lambda_stab * stab  # Eq. (9)


# ----------------------------------------------------------------------------------------------
# Networks: teacher encoder, student encoder, policy head, critic
# ----------------------------------------------------------------------------------------------


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them [ours: tanh learns as well and costs a third more]."""
    layers = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """E_T or E_S: one view in, a unit-norm embedding out. Images (H, W, C) get a convolution."""

    def __init__(self, space: gym.spaces.Box, config: Config) -> None:
        super().__init__()
        self.is_image = len(space.shape) == 3
        features, size = nn.Identity(), math.prod(space.shape)
        if self.is_image:
            # Patches of 4 x 4 pixels [ours: two overlapping layers learn no more at twice the cost]
            features = nn.Sequential(nn.Conv2d(space.shape[2], 32, 4, stride=4), nn.ReLU())
            size = features(torch.zeros(1, *space.shape).permute(0, 3, 1, 2)).numel()
        hidden = [config.width] if self.is_image else [config.width] * 2
        self.net = nn.Sequential(features, nn.Flatten(), mlp([size, *hidden, config.embedding_dim]))

    def forward(self, obs: Tensor) -> Tensor:  # (B, ...) -> (B, D)
        """Images of bytes are scaled to [0, 1] here, so that a rollout keeps them as bytes."""
        is_bytes = self.is_image and obs.dtype == torch.uint8
        obs = obs.float() / 255 if is_bytes else obs.float()
        obs = obs.permute(0, 3, 1, 2) if self.is_image else obs  # (B, C, H, W)
        return F.normalize(self.net(obs), dim=-1)


class Head(nn.Module):
    """The policy's logits, or the critic's value, from an embedding of either agent."""

    def __init__(self, n_out: int, last_gain: float, config: Config) -> None:
        super().__init__()
        self.net = mlp([config.embedding_dim, config.width, config.width, n_out])
        linears = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        for layer, gain in zip(linears, (2**0.5, 2**0.5, last_gain)):  # [ppo]
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:  # (B, D) -> (B, n_out)
        """Unit-norm z is too small an input to learn from: sqrt(D) gives its entries unit size."""
        return self.net(z * z.shape[-1] ** 0.5)


class Networks(nn.Module):
    """The four networks that every method has, and what a baseline needs besides."""

    def __init__(self, envs: gym.vector.VectorEnv, config: Config) -> None:
        super().__init__()
        views, n_actions = envs.single_observation_space, int(envs.single_action_space.n)
        self.teacher = Encoder(views["teacher"], config)
        self.student = Encoder(views["student"], config)
        self.head = Head(n_actions, 0.01, config)  # [ppo]: the first policy is nearly uniform
        self.critic = Head(1, 1.0, config)
        # s of Eq. (6): the inverse temperature is exp(s), 10 at first [ours: as CLIP, nearly]
        self.log_inverse_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        if config.method == "bc":  # the student fits a head of its own
            self.student_head = copy.deepcopy(self.head)
        if config.method == "sitt":  # an imitation of the student that reads the teacher's view
            self.proxy = Encoder(views["teacher"], config)

    def policy(self, view: str, obs: Tensor) -> Tensor:  # (B, ...) -> (B, A)
        """Logits of the "teacher" or the "student", from that agent's own view alone."""
        if view == "teacher":
            return self.head(self.teacher(obs))
        return getattr(self, "student_head", self.head)(self.student(obs))


# ----------------------------------------------------------------------------------------------
# Eq. (3): environments with two views of one state, and the teacher's rollouts in them
# ----------------------------------------------------------------------------------------------


def make_envs(name: str, num_envs: int) -> gym.vector.VectorEnv:
    """N copies of a registered environment, in its native vector form where it has one.

    None of them resets by itself, so the observation after a step is always the true next one.
    Raises BadInput if there is no such environment or it lacks the two views.
    """
    module, _, env_id = ENVS.get(name, name).rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gym.spec(env_id)
        envs = gym.make_vec(spec, num_envs) if spec.vector_entry_point else None
        if envs is None or envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            mode = {"autoreset_mode": AutoresetMode.DISABLED}
            envs = gym.make_vec(spec, num_envs, vectorization_mode="sync", vector_kwargs=mode)
    except (ImportError, AttributeError, TypeError, ValueError, gym.error.Error) as error:
        raise BadInput(f"cannot make environment {name!r}: {error}") from error
    views = envs.single_observation_space
    if not isinstance(views, gym.spaces.Dict) or not all(
        isinstance(views.spaces.get(view), gym.spaces.Box) for view in ("teacher", "student")
    ):
        raise BadInput(f"{name!r} needs observations Dict(teacher=Box, student=Box), not {views}")
    for view in ("teacher", "student"):
        shape = views[view].shape
        if not shape or (len(shape) == 3 and min(shape[:2]) < 4):
            raise BadInput(f"{name!r}: the {view}'s view must be a vector or (H >= 4, W >= 4, C)")
    if not isinstance(envs.single_action_space, gym.spaces.Discrete):
        raise BadInput(f"{name!r} needs Discrete actions, not {envs.single_action_space}")
    return envs


def env_seed(config: Config, cycle: int) -> int:
    """The seed of the environments: cycle 0 is for training, k for the evaluation after cycle k.

    Sub-environments are seeded with this, this + 1, ...; so runs with seeds 0 and 1 share nothing.
    """
    return int(np.random.SeedSequence([config.seed, cycle]).generate_state(1)[0])


def to_tensor(obs: np.ndarray, device: torch.device) -> Tensor:  # (N, ...) -> (N, ...)
    """Bytes stay bytes, all else becomes float32."""
    obs = torch.as_tensor(obs)
    return (obs if obs.dtype == torch.uint8 else obs.float()).to(device)


def step_envs(envs: gym.vector.VectorEnv, action: Tensor):
    """One step of all environments -> obs, reward, terminated, truncated, success, (N,) each."""
    first = int(envs.single_action_space.start)
    obs, reward, terminated, truncated, info = envs.step(action.cpu().numpy() + first)
    if (terminated | truncated).any() and "is_success" not in info:
        raise BadInput("the environment must report info['is_success'] when an episode ends")
    success = np.asarray(info.get("is_success", np.zeros(len(reward))), bool)
    return obs, reward, terminated, truncated, success


def sample(logits: Tensor) -> Tensor:  # (B, A) -> (B,)
    """Draw actions from softmax(logits): the largest logit after adding Gumbel noise."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


class Rollout(NamedTuple):
    """What one cycle collects: T steps of N environments, (T, N, ...) or flat, (T*N, ...)."""

    obs_teacher: Tensor
    obs_student: Tensor
    z_teacher: Tensor  # as it was when the teacher acted
    logits_teacher: Tensor
    action: Tensor
    advantage: Tensor
    returns: Tensor
    logits_proxy: Tensor  # SITT's imitation of the student; the other methods never read it

    def flat(self) -> "Rollout":  # (T, N, ...) -> (T*N, ...)
        """All steps in one row."""
        return Rollout(*(x.flatten(0, 1) for x in self))


@torch.no_grad()
def collect(envs, obs: dict, nets: Networks, config: Config) -> tuple[Rollout, dict]:
    """The teacher acts for T steps; both views of every step are kept (Section IV, phase one)."""
    device, shape = next(nets.parameters()).device, (config.rollout_steps, config.num_envs)
    views = {view: to_tensor(obs[view], device) for view in ("teacher", "student")}  # one batch
    pairs = {view: x.new_empty(*shape, *x.shape[1:]) for view, x in views.items()}  # (T, N, ...)
    z = torch.empty(*shape, config.embedding_dim, device=device)
    z_truncated = torch.zeros_like(z)  # where an episode was cut short; elsewhere unused
    logits = torch.empty(*shape, int(envs.single_action_space.n), device=device)
    action = torch.empty(shape, dtype=torch.long, device=device)
    reward, terminated, truncated = (np.zeros(shape, np.float32) for _ in range(3))

    for t in range(config.rollout_steps):
        for view in pairs:
            pairs[view][t] = to_tensor(obs[view], device)
        z[t] = nets.teacher(pairs["teacher"][t])
        logits[t] = nets.head(z[t])
        action[t] = sample(logits[t])
        obs, reward[t], terminated[t], truncated[t], _ = step_envs(envs, action[t])
        ended = (terminated[t] + truncated[t]) > 0
        cut = np.flatnonzero(truncated[t])
        if len(cut):  # the reset below replaces their true next observation
            z_truncated[t, cut] = nets.teacher(to_tensor(obs["teacher"][cut], device))
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})

    z_last = nets.teacher(to_tensor(obs["teacher"], device))
    reward, terminated, truncated = (
        torch.as_tensor(x, device=device) for x in (reward, terminated, truncated)
    )
    z_next = torch.where(truncated[..., None] > 0, z_truncated, torch.cat([z[1:], z_last[None]]))
    logits_proxy = logits
    if config.method == "sitt":
        logits_proxy = nets.head(nets.proxy(pairs["teacher"].flatten(0, 1))).view_as(logits)
        penalty = imitation_kl(logits, logits_proxy)
        reward = reward - config.sitt_lambda1 * penalty  # Eq. (10), in the reward
    values, next_values = nets.critic(z).squeeze(-1), nets.critic(z_next).squeeze(-1)
    done = torch.maximum(terminated, truncated)
    advantage = gae(reward, values, next_values, terminated, done, config.gamma, config.gae_lambda)
    obs_teacher, obs_student, returns = pairs["teacher"], pairs["student"], advantage + values
    return (
        Rollout(obs_teacher, obs_student, z, logits, action, advantage, returns, logits_proxy),
        obs,
    )


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:  # (T, N) each -> (T, N)
    """Generalised advantage estimation (Schulman et al., 2016, arXiv 1506.02438, equation 16).

    `next_values` are of the true next observation. Nothing is earned after a termination, so its
    next value counts as zero; a truncated episode would have gone on, so its next value counts.
    Either end (`done`) stops the sum from running on into the next episode.
    """
    terminated, done = terminated.float(), done.float()
    delta = rewards + gamma * next_values * (1 - terminated) - values
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        running = delta[t] + gamma * lam * (1 - done[t]) * running
        advantages[t] = running
    return advantages


# ----------------------------------------------------------------------------------------------
# Section IV: the two phases
# ----------------------------------------------------------------------------------------------


def log_prob_of(action: Tensor, log_probs: Tensor) -> Tensor:  # (B,), (B, A) -> (B,)
    """The log-probabilities of the actions that were taken."""
    return log_probs.gather(-1, action[:, None]).squeeze(-1)


def ppo_losses(
    logits: Tensor,
    value: Tensor,
    action: Tensor,
    log_prob_before: Tensor,
    advantage: Tensor,
    returns: Tensor,
    clip: float,
) -> dict[str, Tensor]:  # (B, A), then (B,) each -> () each
    """Eq. (1) by PPO: clipped policy loss, value loss, entropy (arXiv 1707.06347, equation 9)."""
    log_probs = logits.log_softmax(-1)  # (B, A)
    ratio = (log_prob_of(action, log_probs) - log_prob_before).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = F.mse_loss(value, returns)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def train_policy(
    nets: Networks, optimizer: Adam, steps: Rollout, config: Config, remaining: float = 1.0
) -> dict[str, float]:
    """Phase two: PPO on what the teacher has collected. Returns the mean of each loss.

    `remaining` is the share of the training that is still to come: the entropy bonus goes with it.
    """
    entropy_coef = config.entropy_end + remaining**2 * (config.entropy_coef - config.entropy_end)
    n, device = len(steps.action), steps.z_teacher.device
    log_prob_before = log_prob_of(steps.action, steps.logits_teacher.log_softmax(-1))
    logs = []
    for _ in range(config.ppo_epochs):
        for i in torch.randperm(n, device=device).split(config.ppo_batch):
            # Section IV: "policy gradients ... are not passed through the embedding networks".
            # A stored z carries no graph; no encoder has moved since, so the ratio starts at 1.
            z = steps.z_teacher[i]
            if METHODS[config.method].policy_gradient_reaches_encoder:
                z = nets.teacher(steps.obs_teacher[i])
            logits, value = nets.head(z), nets.critic(z).squeeze(-1)
            batch = (x[i] for x in (steps.action, log_prob_before, steps.advantage, steps.returns))
            log = ppo_losses(logits, value, *batch, config.clip)
            loss = log["policy_loss"] + config.value_coef * log["value_loss"]
            loss = loss - entropy_coef * log["entropy"]
            if config.method == "sitt":
                log["penalty"] = imitation_kl(logits, steps.logits_proxy[i]).mean()
                loss = loss + config.sitt_lambda2 * log["penalty"]  # Eq. (10), in the policy's loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], config.max_grad_norm)
            optimizer.step()
            logs.append(log)
    return mean_of(logs)


def minibatches(steps: Rollout, config: Config) -> list[Tensor]:  # -> indices, (B,) each
    """Shuffled steps for the encoders; a lone last one is dropped, it would have no negatives."""
    n, device = len(steps.action), steps.z_teacher.device
    passes = [torch.randperm(n, device=device) for _ in range(config.encoder_epochs)]
    return [i for indices in passes for i in indices.split(config.encoder_batch) if len(i) > 1]


def train_embedding(
    nets: Networks, optimizer: Adam, steps: Rollout, config: Config
) -> dict[str, float]:
    """Phase one: both encoders learn the shared embedding, Eq. (9), on the teacher's pairs."""
    # Section IV-D: Eq. (8) runs through the policy but may only move the encoders. This copy of the
    # head takes no gradient; it is also the head that gives the logits "before".
    head = copy.deepcopy(nets.head).requires_grad_(False)
    with torch.no_grad():
        logits_teacher_before = head(steps.z_teacher)
        z_student = torch.cat([nets.student(obs) for obs in steps.obs_student.split(1024)])
        logits_student_before = head(z_student)
    logs = []
    for i in minibatches(steps, config):
        z_teacher = nets.teacher(steps.obs_teacher[i])
        z_student = nets.student(steps.obs_student[i])
        logits_teacher, logits_student = head(torch.cat([z_teacher, z_student])).chunk(2)
        nce = info_nce_loss(z_teacher, z_student, nets.log_inverse_temperature.exp())
        align = alignment_loss(z_teacher, z_student)
        stab = stability_loss(
            logits_teacher, logits_student, logits_teacher_before[i], logits_student_before[i]
        )
        loss = embedding_loss(nce, align, stab, config.lambda_align, config.lambda_stab)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # [ours: unbounded it ran away to 230 and more]
            nets.log_inverse_temperature.clamp_(max=math.log(100.0))
        logs.append({"info_nce": nce, "align": align, "stab": stab})
    return {**mean_of(logs), "inverse_temperature": nets.log_inverse_temperature.exp().item()}


def mean_of(logs: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each named loss over the minibatches."""
    return {k: torch.stack([log[k].detach() for log in logs]).mean().item() for k in logs[0]}


# ----------------------------------------------------------------------------------------------
# Section V-B: the baselines
# ----------------------------------------------------------------------------------------------


def train_bc_student(
    nets: Networks, optimizer: Adam, steps: Rollout, config: Config
) -> dict[str, float]:
    """Behaviour cloning: maximise the likelihood of the actions in the teacher's trajectories.

    The teacher does not change, the student is never rolled out.
    """
    logs = []
    for i in minibatches(steps, config):
        imitation = F.cross_entropy(nets.policy("student", steps.obs_student[i]), steps.action[i])
        optimizer.zero_grad()
        imitation.backward()
        optimizer.step()
        logs.append({"imitation": imitation})
    return mean_of(logs)


def imitation_kl(
    logits_teacher: Tensor, logits_imitator: Tensor
) -> Tensor:  # (..., A), (..., A) -> (...)
    """KL(teacher || imitator) of the action distributions at each step; Eq. (10) penalises it."""
    log_teacher = logits_teacher.log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - logits_imitator.log_softmax(-1))).sum(-1)


def train_sitt_student(
    nets: Networks, optimizer: Adam, steps: Rollout, config: Config
) -> dict[str, float]:
    """SITT's alignment phase: student imitates teacher, proxy imitates student, head stays put.

    Written from the description of arXiv 2412.09149: L1 on features and on logits. The first loss
    moves the student only, the second the proxy only. The penalty in `train_policy` moves teacher
    encoder and head; there the proxy's logits are constants.
    """
    head = copy.deepcopy(nets.head).requires_grad_(False)  # the head learns from PPO alone
    logs = []
    for i in minibatches(steps, config):
        with torch.no_grad():
            z_teacher = nets.teacher(steps.obs_teacher[i])
        z_student, z_proxy = nets.student(steps.obs_student[i]), nets.proxy(steps.obs_teacher[i])
        student_to_teacher = F.l1_loss(z_student, z_teacher) + F.l1_loss(
            head(z_student), head(z_teacher)
        )
        z_student = z_student.detach()  # the proxy follows the student, never the reverse
        proxy_to_student = F.l1_loss(z_proxy, z_student) + F.l1_loss(head(z_proxy), head(z_student))
        optimizer.zero_grad()
        (student_to_teacher + proxy_to_student).backward()
        optimizer.step()
        logs.append(
            {"student_to_teacher": student_to_teacher, "proxy_to_student": proxy_to_student}
        )
    return mean_of(logs)


class Method(NamedTuple):
    """What a method trains after PPO, and the settings that define it."""

    train_student: Callable  # what follows PPO in each cycle
    policy_gradient_reaches_encoder: bool = False  # the paper's point is that it does not
    fixed: dict = {}  # settings that define it
    reads: tuple[str, ...] = ()  # settings that not every method reads


EQ_9, EQ_10 = ("lambda_align", "lambda_stab"), ("sitt_lambda1", "sitt_lambda2")  # their weights
METHODS = {
    "ours": Method(train_embedding, reads=EQ_9),
    "no-align": Method(train_embedding, fixed={"lambda_align": 0.0}, reads=EQ_9),
    "no-stability": Method(train_embedding, fixed={"lambda_stab": 0.0}, reads=EQ_9),
    "bc": Method(train_bc_student, policy_gradient_reaches_encoder=True),
    "sitt": Method(train_sitt_student, policy_gradient_reaches_encoder=True, reads=EQ_10),
}


# ----------------------------------------------------------------------------------------------
# Evaluation
# ----------------------------------------------------------------------------------------------


@torch.no_grad()
def success_rate(envs, nets: Networks, view: str, episodes_each: int, seed: int) -> float:
    """Share of successful episodes of one agent, with actions sampled from its policy.

    A policy without memory that always takes its likeliest action can loop for ever [ours]. Every
    environment contributes equally many episodes, so that short ones are not over-represented; one
    that is through with its own goes on, uncounted, until the slowest is.
    """
    device = next(nets.parameters()).device
    finished, wins = np.zeros(envs.num_envs, int), 0
    obs, _ = envs.reset(seed=seed)
    while (finished < episodes_each).any():
        action = sample(nets.policy(view, to_tensor(obs[view], device)))
        obs, _, terminated, truncated, success = step_envs(envs, action)
        ended = terminated | truncated
        wins += int((success & ended & (finished < episodes_each)).sum())
        finished += ended
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return wins / (episodes_each * envs.num_envs)


def evaluate(envs, nets: Networks, episodes: int, seed: int) -> tuple[float, float]:
    """Success rates of teacher and student on fresh episodes, the same layouts for both.

    `episodes` is rounded up to a multiple of the number of environments.
    """
    each = math.ceil(episodes / envs.num_envs)
    teacher, student = (success_rate(envs, nets, v, each, seed) for v in ("teacher", "student"))
    return teacher, student


# ----------------------------------------------------------------------------------------------
# The one training loop
# ----------------------------------------------------------------------------------------------


def pick_device(name: str) -> torch.device:
    """cuda > mps > cpu for "auto". Raises BadInput for a device that torch does not have."""
    if name == "auto":
        best = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else best)
    try:
        torch.zeros(1, device=name).cpu()  # fails also on a device that holds no data
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next tensor: saves 0 to 25 % of the time on Linux.

    By default it hands large ones back to the system, and all their pages fault again at next use.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: blocks below 32 MiB, glibc's upper bound
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: keep up to 1 GiB


def make_optimizers(nets: Networks, config: Config) -> tuple[Adam, Adam]:
    """PPO owns head and critic (in the baselines the teacher's encoder too), phase one the rest."""
    policy_parts = [nets.head, nets.critic]
    if METHODS[config.method].policy_gradient_reaches_encoder:
        policy_parts.append(nets.teacher)
    policy_owned = [p for part in policy_parts for p in part.parameters()]
    rest = [p for p in nets.parameters() if not any(p is q for q in policy_owned)]
    fused = rest[0].device.type in ("cpu", "cuda")
    policy_optimizer = Adam(policy_owned, lr=config.ppo_lr, fused=fused)
    return policy_optimizer, Adam(rest, lr=config.encoder_lr, fused=fused)


def train(config: Config) -> dict:
    """Train one method on one environment with one seed; the result is also in `result.json`.

    Raises BadInput for an environment, a device or a folder that will not do, FloatingPointError
    when a loss is no longer finite; what was logged until then stays in the run folder. Sets
    torch's seed and number of threads for the whole process.
    """
    start = time.perf_counter()
    device = pick_device(config.device)
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    envs = make_envs(config.env, config.num_envs)
    nets = Networks(envs, config).to(device)
    with open_log(config) as log_file:
        print(f"{config.env} {config.method} seed {config.seed} on {device}", flush=True)
        final, seconds_by_phase = training_loop(envs, nets, config, log_file)
        envs.close()
        result = dict(env=config.env, method=config.method, seed=config.seed)
        episodes = math.ceil(config.eval_episodes / config.num_envs) * config.num_envs
        result |= dict(final, eval_episodes=episodes, device=str(device), torch=torch.__version__)
        result |= dict(seconds=time.perf_counter() - start, seconds_by_phase=seconds_by_phase)
        save_run(config, nets, result)
    return result


def training_loop(envs, nets: Networks, config: Config, log_file) -> tuple[dict, dict]:
    """Collect, train the policy, train the encoders; now and then evaluate.

    Returns the figures of the last evaluation, and the seconds that each phase took in all.
    """
    policy_optimizer, encoder_optimizer = make_optimizers(nets, config)
    train_student = METHODS[config.method].train_student
    eval_envs = make_envs(config.env, config.num_envs)
    steps_per_cycle = config.num_envs * config.rollout_steps
    n_cycles = math.ceil(config.total_steps / steps_per_cycle)
    evals = {math.ceil(n_cycles * k / config.log_evals) for k in range(1, config.log_evals + 1)}
    seconds = dict.fromkeys(("collect", "policy", "encoders", "evaluate"), 0.0)
    start = time.perf_counter()

    obs, _ = envs.reset(seed=env_seed(config, 0))
    for cycle in range(1, n_cycles + 1):
        remaining = 1 - (cycle - 1) / n_cycles  # share of the training that is still to come
        clock = [time.perf_counter()]
        steps, obs = collect(envs, obs, nets, config)
        steps = steps.flat()
        clock.append(time.perf_counter())
        # Phase two first, while the stored z still come from these encoders; then phase one.
        losses = train_policy(nets, policy_optimizer, steps, config, remaining)
        clock.append(time.perf_counter())
        encoder_optimizer.param_groups[0]["lr"] = config.encoder_lr * (0.05 + 0.95 * remaining)
        losses |= train_student(nets, encoder_optimizer, steps, config)
        clock.append(time.perf_counter())
        check_finite(losses, nets, cycle * steps_per_cycle)
        if cycle in evals:
            episodes = config.eval_episodes if cycle == n_cycles else config.log_episodes
            teacher, student = evaluate(eval_envs, nets, episodes, env_seed(config, cycle))
            row = dict(env_steps=cycle * steps_per_cycle, success_teacher=teacher)
            row |= dict(success_student=student, gap=teacher - student)
            log_row(log_file, row | losses, time.perf_counter() - start, cycle / n_cycles)
        clock.append(time.perf_counter())
        for phase, begin, end in zip(seconds, clock, clock[1:]):
            seconds[phase] += end - begin
    eval_envs.close()
    return row, seconds


def check_finite(losses: dict[str, float], nets: Networks, env_steps: int) -> None:
    """Raises FloatingPointError if a loss or a weight is infinite or not a number."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    bad += [name for name, weight in nets.named_parameters() if not weight.isfinite().all()]
    if bad:
        names = ", ".join(bad[:8])
        raise FloatingPointError(f"{names} not finite after {env_steps} environment steps")


# ----------------------------------------------------------------------------------------------
# Run folders
# ----------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Raises BadInput if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {folder}: {error.strerror}") from error


def open_log(config: Config):
    """Open `log.csv` of a fresh run folder and hold a lock on it, so that no second run gets in.

    Raises BadInput if the folder holds a finished run or another process is writing to it.
    """
    folder = config.folder
    make_folder(folder)
    try:
        log_file = open(folder / "log.csv", "a", newline="")
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}") from error
    try:
        import fcntl  # not on Windows, where the lock is left out

        fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"another process is training in {folder}") from None
    except (ImportError, OSError):  # a file system without locks
        pass
    if (folder / "result.json").exists():
        raise BadInput(f"{folder} holds a finished run; choose another --out or delete it")
    log_file.seek(0)
    log_file.truncate()  # what an interrupted run has left
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    return log_file


def log_row(log_file, row: dict, elapsed: float, share: float) -> None:
    """Add a row to `log.csv`, and print it with the steps per second and the seconds left."""
    writer = csv.DictWriter(log_file, row)
    if log_file.tell() == 0:
        writer.writeheader()
        print(" ".join(f"{name[-15:]:>15}" for name in row), "  steps/s  s left")
    writer.writerow(row)
    log_file.flush()
    cells = [f"{v:15d}" if isinstance(v, int) else f"{v:15.4f}" for v in row.values()]
    speed, left = row["env_steps"] / elapsed, elapsed / share - elapsed
    print(" ".join(cells), f"{speed:9.0f} {left:7.0f}", flush=True)


def save_run(config: Config, nets: Networks, result: dict) -> None:
    """Weights, curve and, last and at once, the result: where it stands, the run is complete."""
    folder = config.folder
    torch.save({"config": asdict(config), "networks": nets.state_dict()}, folder / "checkpoint.pt")
    rows = [{**result, **row} for row in read_csv(folder / "log.csv")]
    plot_curves(rows, folder / "curve.png")
    (folder / "result.tmp").write_text(json.dumps(result, indent=2) + "\n")
    os.replace(folder / "result.tmp", folder / "result.json")


def load_run(folder: str | Path) -> tuple[Config, Networks]:
    """The settings and the trained networks of a finished run, on the CPU."""
    saved = torch.load(Path(folder) / "checkpoint.pt", map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    nets = Networks(make_envs(config.env, 1), config)
    nets.load_state_dict(saved["networks"])
    return config, nets


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ----------------------------------------------------------------------------------------------
# Table I and Fig. 5
# ----------------------------------------------------------------------------------------------

# Table I of the paper: success of teacher and student.
PAPER = {
    "bc": {"tunnelvision": (1.00, 0.19), "collecthealth": (1.00, 0.47)},
    "sitt": {"tunnelvision": (0.91, 0.72), "collecthealth": (0.94, 0.51)},
    "no-align": {"tunnelvision": (0.99, 0.91), "collecthealth": (0.94, 0.73)},
    "no-stability": {"tunnelvision": (0.79, 0.78), "collecthealth": (0.97, 0.95)},
    "ours": {"tunnelvision": (1.00, 1.00), "collecthealth": (0.99, 0.98)},
}
WHICH_RUN = ["env", "method", "settings", "seed"]
RUN_COLUMNS = [*WHICH_RUN, "success_teacher", "success_student", "gap"]
RUN_COLUMNS += ["eval_episodes", "env_steps", "seconds", "device", "torch"]
CURVE_COLUMNS = [*WHICH_RUN, "env_steps", "success_teacher", "success_student"]
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom, for intervals over few seeds
T_QUANTILES = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]


def read_runs(out: Path) -> tuple[list[dict], list[dict]]:
    """All finished runs below a folder, and the rows of their logs."""
    runs, curves = [], []
    for path in sorted(out.rglob("result.json")):
        if not (path.parent / "config.json").exists():
            continue  # somebody else's file
        result = json.loads(path.read_text())
        config = json.loads((path.parent / "config.json").read_text())
        default = asdict(Config(result["env"], result["method"], result["seed"]))
        changed = {k: v for k, v in decisive(config).items() if v != default.get(k)}
        result["settings"] = " ".join(f"{k}={v}" for k, v in changed.items())
        if any(all(run[k] == result[k] for k in WHICH_RUN) for run in runs):
            raise BadInput(f"the same run twice below {out}: {path.parent} is the second")
        runs.append(result)
        curves += [{**result, **row} for row in read_csv(path.parent / "log.csv")]
    return runs, curves


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """A CSV file with the named columns; others are left out."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def mean_sd_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard deviation and half-width of the 95 % t-interval over seeds (nan for one)."""
    n, mean = len(values), statistics.mean(values)
    if n == 1:
        return mean, math.nan, math.nan
    sd = statistics.stdev(values)
    quantile = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else 1.96 + 2.4 / (n - 1)
    return mean, sd, quantile * sd / n**0.5


def group_runs(rows: list[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """Rows by environment, method and settings, in the paper's order of methods."""
    groups = {}
    for row in rows:
        groups.setdefault((row["env"], row["method"], row["settings"]), []).append(row)

    def place(key: tuple[str, str, str]) -> tuple:
        """What to sort by; an environment of one's own comes after the paper's."""
        env, method, settings = key
        return [*ENVS, env].index(env), env, list(PAPER).index(method), settings

    return {key: groups[key] for key in sorted(groups, key=place)}


def make_table(runs: list[dict]) -> list[dict]:
    """Table I: a row per environment and method, the paper's figures beside ours."""
    table = []
    for (env, method, settings), group in group_runs(runs).items():
        row = dict(env=env, method=method, settings=settings, n=len(group))
        for quantity, name in (("T", "success_teacher"), ("S", "success_student"), ("gap", "gap")):
            numbers = mean_sd_interval([float(run[name]) for run in group])
            row |= {f"{quantity}_{k}": f"{v:.3f}" for k, v in zip(("mean", "sd", "ci95"), numbers)}
        teacher, student = PAPER[method].get(env, (math.nan, math.nan))
        row |= dict(T_paper=teacher, S_paper=student, gap_paper=f"{teacher - student:.2f}")
        table.append(row | dict(episodes=min(int(run["eval_episodes"]) for run in group)))
    return table


def table_markdown(table: list[dict]) -> str:
    """The same table to read: mean ± standard deviation, 95 % interval of each success."""
    lines = ["| environment | method | n | teacher T | student S | T - S | paper T / S / T - S |"]
    lines.append("|---" * 7 + "|")
    for r in table:
        cells = [r["env"], f"{r['method']} {r['settings']}".strip(), str(r["n"])]
        for quantity in ("T", "S"):
            mean, sd, half = (float(r[f"{quantity}_{k}"]) for k in ("mean", "sd", "ci95"))
            low, high = np.clip([mean - half, mean + half], 0, 1)  # one seed has no interval: nan
            cells.append(f"{mean:.3f} ± {sd:.3f} [{low:.2f}, {high:.2f}]")
        cells.append(f"{r['gap_mean']} ± {r['gap_sd']}")
        cells.append(f"{r['T_paper']:.2f} / {r['S_paper']:.2f} / {r['gap_paper']}")
        cells[3:] = [cell.replace("nan", "-").replace(" [-, -]", "") for cell in cells[3:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot_curves(rows: list[dict], path: Path) -> None:
    """Fig. 5: student success over environment steps, mean and min-max band over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [{"settings": "", **row} for row in rows]
    groups = group_runs(rows)
    envs = list(dict.fromkeys(env for env, _, _ in groups))
    size = dict(figsize=(5.5 * len(envs), 3.8), squeeze=False, sharey=True)
    figure, axes = plt.subplots(1, len(envs), **size)
    for env, axis in zip(envs, axes[0]):
        for (_, method, settings), group in ((k, g) for k, g in groups.items() if k[0] == env):
            by_step = {}
            for row in group:
                by_step.setdefault(int(row["env_steps"]), []).append(float(row["success_student"]))
            x = sorted(by_step)
            mean = [statistics.mean(by_step[s]) for s in x]
            colour = None if settings else f"C{list(PAPER).index(method)}"  # the same in each panel
            line = axis.plot(x, mean, color=colour, label=f"{method} {settings}")[0]
            low, high = [min(by_step[s]) for s in x], [max(by_step[s]) for s in x]
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=env, xlabel="environment steps", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(loc="best", fontsize=8)
    axes[0, 0].set_ylabel("success of the student")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(out: str, results: str) -> str:
    """Write runs.csv, curves.csv, table1.csv, table1.md, fig5.png to `results`; return the table.

    Reads the run folders below `out`; where there are none, the two CSVs that `results` has
    already. Raises BadInput where there is neither, or the same run twice.
    """
    folder = Path(results)
    runs, curves = read_runs(Path(out))
    if not runs:
        if not all((folder / name).exists() for name in ("runs.csv", "curves.csv")):
            raise BadInput(f"no finished run below {out}, no runs.csv and curves.csv in {folder}")
        runs, curves = read_csv(folder / "runs.csv"), read_csv(folder / "curves.csv")
    if not runs or not curves:
        raise BadInput(f"no run in {folder}")
    make_folder(folder)
    write_csv(folder / "runs.csv", RUN_COLUMNS, runs)
    write_csv(folder / "curves.csv", CURVE_COLUMNS, curves)
    table = make_table(runs)
    write_csv(folder / "table1.csv", list(table[0]), table)
    (folder / "table1.md").write_text(table_markdown(table), encoding="utf-8")
    plot_curves(curves, folder / "fig5.png")
    return table_markdown(table)


# ----------------------------------------------------------------------------------------------
# Settings and command line
# ----------------------------------------------------------------------------------------------


def complete_and_check(config: Config) -> None:
    """Fill in what the environment and the method decide. Raises BadInput for a bad setting."""
    if config.method not in METHODS:
        raise BadInput(f"unknown method {config.method!r}; known: {', '.join(METHODS)}")
    object.__setattr__(config, "out", str(config.out))
    for name, env_id in ENVS.items():
        if config.env == env_id:
            object.__setattr__(config, "env", name)
    for name, value in ENV_SETTINGS.get(config.env, ENV_SETTINGS["other"]).items():
        if getattr(config, name) is None:  # None stands for "as the environment needs it"
            object.__setattr__(config, name, value)
    for name, value in METHODS[config.method].fixed.items():  # e.g. no-align has lambda_align 0
        object.__setattr__(config, name, value)
    for f in fields(config):
        if f.type in (int, float):
            value = checked_number(f.name, f.type, getattr(config, f.name))
            object.__setattr__(config, f.name, value)
    if config.encoder_batch < 2:
        raise BadInput("encoder_batch must be at least 2: Eq. (6) needs negatives")
    if config.num_envs * config.rollout_steps < 2:
        raise BadInput("num_envs * rollout_steps must be at least 2")
    for name in ("gamma", "gae_lambda"):
        if getattr(config, name) > 1:
            raise BadInput(f"{name} must be at most 1, not {getattr(config, name)!r}")


def checked_number(name: str, kind: type, value) -> int | float:
    """The value as an int or a float, NumPy's included. Raises BadInput if out of range."""
    if not isinstance(value, (int, float, np.number)) or not abs(value) < 2**63:
        raise BadInput(f"{name} must be a finite number, not {value!r}")
    least = {"seed": 0, "sitt_lambda1": -math.inf}.get(name, 1 if kind is int else 0)
    if value < least or kind(value) != value:
        whole = "a whole number" if kind is int else "a number"
        raise BadInput(f"{name} must be {whole} of at least {least}, not {value!r}")
    return kind(value)


def decisive(settings: dict) -> dict:
    """Those settings of a run that its result depends on."""
    ignored = {"out", "device", "threads", *EQ_9, *EQ_10}
    ignored -= set(METHODS[settings["method"]].reads)
    return {k: v for k, v in settings.items() if k not in ignored}


def is_finished(config: Config) -> bool:
    """Whether this run is complete already. Raises BadInput if it is, with other settings."""
    if not (config.folder / "result.json").exists():
        return False
    saved = json.loads((config.folder / "config.json").read_text())
    changed = ", ".join(k for k, v in decisive(asdict(config)).items() if saved.get(k) != v)
    if changed:
        raise BadInput(f"{config.folder} is finished with other {changed}; choose another --out")
    return True


def run_many(configs: list[Config], jobs: int) -> dict[str, str]:
    """Train each configuration in a process of its own, `jobs` at once; returns {folder: error}.

    Finished runs are kept and skipped. An interrupt ends the runs in progress and loses only them.
    """
    waiting = [config for config in configs if not is_finished(config)]
    make_folder(Path(configs[0].out))
    total, start, running, failed = len(waiting), time.perf_counter(), {}, {}
    print(
        f"{len(configs) - total} runs finished already, {total} to go, {jobs} at a time", flush=True
    )
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                config = waiting.pop(0)
                config.folder.mkdir(exist_ok=True)
                command = [sys.executable, os.path.abspath(__file__)]
                command += [f"--{k.replace('_', '-')}={v}" for k, v in asdict(config).items()]
                with open(config.folder / "output.txt", "a") as output:
                    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
                running[process] = config
            time.sleep(0.1)
            for process in [p for p in running if p.poll() is not None]:
                config = running.pop(process)
                line = (config.folder / "output.txt").read_text().strip().rpartition("\n")[2]
                if process.returncode:
                    failed[str(config.folder)] = line
                else:
                    result = json.loads((config.folder / "result.json").read_text())
                    line = "T {success_teacher:.3f}  S {success_student:.3f}".format(**result)
                done = total - len(waiting) - len(running)
                left = (time.perf_counter() - start) / done * (total - done)
                progress = f"{done}/{total}  {config.folder}  {line}"
                print(f"{progress}  ({left / 60:.0f} min left)", flush=True)
    finally:
        for process in running:
            process.terminate()
    return failed


def fail(message: str) -> None:
    """One clear line on stderr and exit code 2."""
    print("tsalign:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def parse_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[Config]]:
    """The command line, whose flags are the fields of Config and a few more -> runs to do."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.error = fail
    for f in fields(Config):
        default = f" (default {'by environment' if f.default is None else f.default})"
        text = (f.metadata["help"] + default).replace("%", "%%")
        flag = "--" + f.name.replace("_", "-")
        parser.add_argument(flag, type=f.type, help=text, default=f.default)
    parser.add_argument("--seeds", type=int, nargs="+", help="several seeds, one run each")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--report", action="store_true", help="redraw table and figures only")
    parser.add_argument("--results", default="results", help="where they go (default results)")
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        fail(f"jobs must be at least 1, not {args.jobs}")
    envs = list(ENVS) if args.env == "all" else [args.env]
    methods = list(METHODS) if args.method == "all" else [args.method]
    seeds = dict.fromkeys(args.seeds if args.seeds is not None else [args.seed])
    own = {f.name: getattr(args, f.name) for f in fields(Config)}
    return args, [
        Config(**{**own, "env": env, "method": method, "seed": seed})
        for seed in seeds for env in envs for method in methods
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """`python tsalign.py`; bad input gives one line and exit code 2, a failed run exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a kill, too, ends child runs
    sys.path.append(os.getcwd())  # for --env my_file:MyEnv-v0
    try:
        args, configs = parse_arguments(arguments)
        if args.report:
            print(report(args.out, args.results))
            return
        for config in {(c.env, c.device): c for c in configs}.values():
            pick_device(config.device)
            make_envs(config.env, 1).close()
        if len(configs) > 1:
            failed = run_many(configs, args.jobs)
            for folder, error in failed.items():
                print(f"failed: {folder}: {error}", file=sys.stderr)
            if len(failed) < len(configs):
                print(report(args.out, args.results))
            sys.exit(1 if failed else 0)
        finished = is_finished(configs[0])
        if finished:
            result = json.loads((configs[0].folder / "result.json").read_text())
        else:
            result = train(configs[0])
    except BadInput as error:
        fail(str(error))
    except FloatingPointError as error:
        sys.exit(f"tsalign: stopped: {error}")
    print_result(configs[0], result, finished)


def print_result(config: Config, result: dict, finished: bool) -> None:
    """Success of both agents beside the paper's row."""
    print(f"\n{'':26} teacher  student      gap")
    row = (result["success_teacher"], result["success_student"], result["gap"])
    print(f"{config.env + ' ' + config.method:26} " + "  ".join(f"{x:7.3f}" for x in row))
    if config.env in ENVS:
        teacher, student = PAPER[config.method][config.env]
        row = (teacher, student, teacher - student)
        print(f"{'the paper, Table I':26} " + "  ".join(f"{x:7.2f}" for x in row))
    how = "kept from an earlier run" if finished else f"{result['seconds']:.0f} s"
    print(f"{result['eval_episodes']} fresh episodes each; {how}; saved in {config.folder}")


if __name__ == "__main__":
    main()
