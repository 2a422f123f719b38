"""Teacher-student representational alignment in one file (arXiv 2605.28372, unofficial).

A teacher that sees more than its student learns behaviour that the student cannot imitate. Here two
encoders are trained with a contrastive loss into one shared embedding, which keeps only what both
can see. PPO trains the policy on that embedding and may not touch the encoders. So whatever the
teacher learns, the student can do: it runs the same policy on its own encoder.

    python tsalign.py --env tunnelvision                  # or collecthealth: images

Reading map (`grep -n "Eq\\." tsalign.py` prints it):
    Eq. (3)      two views of one state          the environments, `make_envs`
    Eq. (4), (5) what the views share            assumptions, no code
    Eq. (6)      contrastive loss                `info_nce_loss`
    Eq. (7)      alignment loss                  `alignment_loss`
    Eq. (8)      stability loss                  `stability_loss`
    Eq. (9)      their weighted sum              `embedding_loss`, `delay_alignment`
    Eq. (10)     SITT's penalty                  `imitation_kl`, `train_policy`
    Eq. (1)      the teacher's return            `collect`, `gae`, `ppo_losses`
    Section IV   phase two, phase one            `train_policy`, `train_embedding`
    Section V-B  baselines, Table I's rows       `train_bc_student`, `train_sitt_student`, `METHODS`

Left out: recurrent policies, running observation normalisation, several GPUs.
Marks: [paper] stated there; [ppo] a usual PPO default; [ours: reason] our choice.
Shapes: T time steps, N environments, B batch, D embedding, A actions, H W C image, ... any view.
"""

import argparse
import copy
import csv
import importlib
import inspect
import json
import math
import re
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.optim import Adam

AGENTS, Losses = ("teacher", "student"), dict[str, float]
ENVS = {name.lower(): f"{name.lower()}:{name}-v0" for name in ("TunnelVision", "CollectHealth")}
# An environment's own settings [ours: chosen on seeds 100-145]. These step so fast that new steps
# cost less than passes over old ones. In TunnelVision gamma 0.98 or a small bonus ends in standing
# still; Eq. (7) waits until a policy is there, and then weighs more to close what has leaked. In
# CollectHealth 25 steps reach a next box.
FEW_PASSES = dict(ppo_epochs=1, ppo_batch=256, encoder_epochs=0.5)
ENV_SETTINGS = {
    "tunnelvision": FEW_PASSES | dict(total_steps=780_000, num_envs=256, rollout_steps=16,
                                      gamma=0.995, entropy_coef=0.25, entropy_end=0.0,
                                      lambda_align=80.0, align_delay=0.2),
    "collecthealth": FEW_PASSES | dict(total_steps=400_000, gamma=0.96, sitt_lambda1=0.01),
}  # fmt: skip

class BadInput(ValueError):
    """What the command line reports in one line, with exit code 2 (1 once a run has begun)."""

@dataclass(frozen=True, init=False)
class Config:
    """All settings, each a flag: these, ENV_SETTINGS, METHODS, what is given. Raises BadInput."""
    env: str = "tunnelvision"  # tunnelvision, collecthealth, or module:Id-v0 of your own
    method: str = "ours"  # ours, no-align, no-stability, bc, sitt [paper], policy-gradient [ours]
    seed: int = 0  # of networks, environments and sampling
    out: str = "runs"  # where the run folders go
    device: str = "auto"  # auto (cuda > mps > cpu), or a device of torch
    threads: int = 1  # CPU threads [ours: the networks are too small for more]
    # The loop: collect, train the policy, train the encoders
    total_steps: int = 1_000_000  # environment steps [ours]
    num_envs: int = 128  # N, environments stepped at once [ours: spreads Python's cost]
    rollout_steps: int = 32  # T, steps a cycle [ours: 64 learned more slowly]
    embedding_dim: int = 64  # D, in all methods alike [ours: 32 learned more slowly]
    width: int = 128  # hidden units, in all methods alike [ours: 64 was less reliable]
    # Phase one: the shared embedding
    inverse_temperature: float = 30.0  # of Eq. (6), at first [ours: 10 learned more slowly]
    lambda_align: float = 10.0  # weight of Eq. (7) [ours: lower lets private information in]
    align_delay: float = 0.0  # share of training before Eq. (7) counts [ours: `delay_alignment`]
    lambda_stab: float = 0.1  # weight of Eq. (8) [ours: higher preserves what leaked early]
    encoder_lr: float = 1e-3  # Adam's, falls linearly to 5 % [ours: a late policy needs rest]
    encoder_batch: int = 128  # pairs a minibatch [ours: many small ones close the leak]
    encoder_epochs: float = 1.0  # passes over a cycle's pairs, 0.5: half of them [ours]
    # Phase two: the policy
    ppo_lr: float = 1e-3  # Adam's [ours: small networks bear more than 3e-4]
    ppo_epochs: int = 3  # passes over a cycle's steps [ppo]
    ppo_batch: int = 512  # steps a minibatch [ours: 1024 learned more slowly]
    gamma: float = 0.99  # discount [ppo]
    gae_lambda: float = 0.95  # [ppo]
    clip: float = 0.2  # clip range of the ratio [ppo]
    entropy_coef: float = 0.02  # entropy bonus at first [ours: 0.01 is usual]
    entropy_end: float = 0.02  # entropy bonus at the end, approached as a square [ours]
    value_coef: float = 0.5  # weight of the value loss [ppo]
    max_grad_norm: float = 0.5  # gradient clipping [ppo]
    sitt_lambda1: float = 0.1  # weight of Eq. (10) in the reward, below 0 adds it [ours: swept]
    sitt_lambda2: float = 0.1  # weight of Eq. (10) in the policy's loss [ours: 0.3, 1 no better]
    # Evaluation
    eval_episodes: int = 1024  # fresh episodes of each agent at the end [ours: +-0.01 at 0.9]
    log_evals: int = 10  # evaluations during training, the last one included [ours]
    log_episodes: int = 64  # episodes of each agent in those before the last [ours]
    episode_limit: int = 10_000  # steps after which an evaluation gives up [ours]

    def __init__(self, **given) -> None:
        self.__dict__.update(complete_settings(given))

    @property
    def folder(self) -> Path:
        """Where this run is saved."""
        return Path(self.out) / f"{re.sub('[:/]', '-', self.env)}_{self.method}_seed{self.seed}"

# --- The losses: Sections IV-B to IV-D, V-B -------------------------------------------------------
def info_nce_loss(z_teacher: Tensor, z_student: Tensor,
                  inverse_temperature: Tensor) -> Tensor:  # (B, D), (B, D), () -> ()
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

def stability_loss(logits_teacher: Tensor, logits_student: Tensor, logits_teacher_before: Tensor,
                   logits_student_before: Tensor) -> Tensor:  # (B, A) each -> ()
    """Eq. (8): the policy's raw logits should stay what they were before the phase, on both views.

    Mean squared change over steps, actions and views [ours]. The logits "before" are constants.
    """
    change_teacher = F.mse_loss(logits_teacher, logits_teacher_before.detach())
    change_student = F.mse_loss(logits_student, logits_student_before.detach())
    return (change_teacher + change_student) / 2  # Eq. (8)

def embedding_loss(nce: Tensor, align: Tensor, stab: Tensor, lambda_align: float,
                   lambda_stab: float) -> Tensor:  # (), (), () -> ()
    """Eq. (9): the objective of the two encoders."""
    return nce + lambda_align * align + lambda_stab * stab  # Eq. (9)

def delay_alignment(config: Config, done: float) -> Config:
    """Eq. (9) as training goes on: lambda_align is 0 until `align_delay`, whole from 1.5 times that
    on [ours: until then z_T may tell what only the teacher sees, and the policy learns what to do
    with it; then it has only to learn to look. A method's own lambda_align does not wait]."""
    delay = config.align_delay * ("lambda_align" not in METHODS[config.method].settings)
    weight = np.interp(done, (delay, 1.5 * delay), (0, config.lambda_align))
    return replace(config, lambda_align=float(weight))

def imitation_kl(policy: Distribution, imitator: Distribution) -> Tensor:  # over (...) -> (...)
    """Eq. (10): what SITT penalises at each step, KL(teacher's policy || its imitator's)."""
    return kl_divergence(policy, imitator)  # Eq. (10)

# --- Networks: teacher encoder, student encoder, policy, critic -----------------------------------
def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them [ours: tanh learns as well and costs a third more]."""
    layers = [x for n, m in zip(sizes, sizes[1:]) for x in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])

class Encoder(nn.Module):
    """E_T or E_S: one view in, a unit-norm embedding out. Images (H, W, C) get a convolution."""
    def __init__(self, space: Box, config: Config) -> None:
        super().__init__()
        # An entry with bounds is mapped from them to [-1, 1], bytes too; one without, or with
        # bounds beyond 1e6, stays as it is [ours: inputs centred at 0 learn in half the steps].
        low, high = space.low.astype(float), space.high.astype(float)
        bounded = (high > low) & (np.maximum(-low, high) < 1e6)
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        self.register_buffer("scale", torch.tensor(2 / (high - low), dtype=torch.float32))
        self.register_buffer("shift", torch.tensor(-1 - 2 * low / (high - low)).float())
        self.is_image, features = len(space.shape) == 3, nn.Identity()
        sizes = [math.prod(space.shape), config.width, config.width, config.embedding_dim]
        if self.is_image:  # patches of 4 x 4 pixels [ours: overlapping layers learn no more]
            features = nn.Sequential(nn.Conv2d(space.shape[2], 16, 4, stride=4), nn.ReLU())
            sizes[:2] = [16 * (space.shape[0] // 4) * (space.shape[1] // 4)]
        self.net = nn.Sequential(features, nn.Flatten(), mlp(*sizes))

    def forward(self, obs: Tensor) -> Tensor:  # (B, ...) -> (B, D)
        """Scaled here, so that a rollout can keep images as bytes."""
        obs = obs.float() * self.scale + self.shift
        obs = obs.permute(0, 3, 1, 2) if self.is_image else obs  # (B, C, H, W)
        return F.normalize(self.net(obs), dim=-1)

class Head(nn.Module):
    """From an embedding of either agent to the policy's logits, or to the critic's value."""
    def __init__(self, n_out: int, last_gain: float, config: Config) -> None:
        super().__init__()
        self.net = mlp(config.embedding_dim, config.width, config.width, n_out)
        for layer, gain in zip(self.net[::2], (2**0.5, 2**0.5, last_gain)):  # [ppo]
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:  # (B, D) -> (B, n_out)
        """Unit-norm z is too small an input to learn from: sqrt(D) gives its entries unit size."""
        return self.net(z * z.shape[-1] ** 0.5)

class Policy(Head):
    """pi: its raw output are logits, or the means of a Gaussian where actions are continuous."""
    def __init__(self, space: gym.Space, config: Config) -> None:
        is_discrete = isinstance(space, Discrete)
        n_actions = int(space.n) if is_discrete else math.prod(space.shape)
        super().__init__(n_actions, 0.01, config)  # [ppo]: the first policy is nearly uniform
        self.log_std = None if is_discrete else nn.Parameter(torch.zeros(n_actions))  # [ppo]

    def distribution(self, logits: Tensor) -> Distribution:  # (..., A) -> over (...) or (..., A)
        """Categorical, or a diagonal Gaussian whose standard deviation no state changes [ppo]."""
        if self.log_std is None:
            return Categorical(logits=logits, validate_args=False)
        return Independent(Normal(logits, self.log_std.exp(), False), 1, validate_args=False)

class Networks(nn.Module):
    """The four networks that every method has, s of Eq. (6), and what a baseline needs besides."""
    def __init__(self, envs: gym.vector.VectorEnv, config: Config) -> None:
        super().__init__()
        views, method = envs.single_observation_space, METHODS[config.method]
        self.teacher, self.student = (Encoder(views[agent], config) for agent in AGENTS)
        self.policy = Policy(envs.single_action_space, config)
        self.critic = Head(1, 1.0, config)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(config.inverse_temperature).log())
        if method.own_head:
            self.student_policy = copy.deepcopy(self.policy)
        if method.has_proxy:  # an imitation of the student that reads the teacher's view
            self.proxy = Encoder(views["teacher"], config)

    def distribution(self, agent: str, obs: Tensor) -> Distribution:  # (B, ...) -> over (B,)
        """What the "teacher" or the "student" would do, from its own view alone."""
        own_head = agent == "student" and hasattr(self, "student_policy")
        policy = self.student_policy if own_head else self.policy
        return policy.distribution(policy(getattr(self, agent)(obs)))

# --- Eq. (3): environments with two views of one state, and the teacher's rollouts in them --------
def check_views(name: str, space: gym.spaces.Dict, obs: dict) -> dict:
    """The observation itself. Raises BadInput if a view does not fit its declared space."""
    for view in AGENTS:
        value, box = np.asarray(obs.get(view)), space[view]
        if value.shape != box.shape or not np.can_cast(value.dtype, box.dtype, "same_kind"):
            declared = f"declared as {box.dtype} {box.shape}"
            raise BadInput(f"{name!r}: {view}'s view is {value.dtype} {value.shape}, {declared}")
    return obs

def make_envs(name: str, num_envs: int) -> gym.vector.VectorEnv:
    """N copies of a registered environment, in its native vector form where it has one. None resets
    by itself: the observation after a step is the true next one. Raises BadInput."""
    module, _, env_id = ENVS.get(name, name).rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = copy.deepcopy(gym.spec(env_id))
        spec.disable_env_checker = True  # it warns, in many lines, of what is checked here in one
        envs = gym.make_vec(spec, num_envs) if spec.vector_entry_point else None
        if envs is None or envs.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.DISABLED:
            views, mode = gym.make(spec).observation_space, {"autoreset_mode": "Disabled"}
            check = partial(check_views, name, views)
            wrappers = [lambda env: gym.wrappers.TransformObservation(env, check, views)]
            envs = gym.make_vec(spec, num_envs, "sync", vector_kwargs=mode, wrappers=wrappers)
    except (ImportError, AttributeError, TypeError, ValueError, gym.error.Error) as error:
        raise BadInput(f"cannot make environment {name!r}: {error}") from error
    views, actions = envs.single_observation_space, envs.single_action_space
    for box in (getattr(views, "spaces", {}).get(view) for view in AGENTS):
        is_box = isinstance(box, Box) and box.shape
        if not is_box or (len(box.shape) == 3 and min(box.shape[:2]) < 4):
            needs = "Dict(teacher=Box, student=Box), vectors or images of at least (4, 4, C)"
            raise BadInput(f"{name!r} needs observations {needs}, not {views}")
    is_float = isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating)
    is_bounded = is_float and (np.abs([actions.low, actions.high]) < 1e6).all()
    if not is_bounded and not isinstance(actions, Discrete):
        raise BadInput(f"{name!r} needs actions Discrete or Box (floats, bounded), not {actions}")
    return envs

def to_tensor(obs: np.ndarray, device: torch.device) -> Tensor:  # (N, ...) -> (N, ...)
    """A copy. Bytes stay bytes, all else becomes float32."""
    dtype = torch.uint8 if obs.dtype == np.uint8 else torch.float32
    return torch.tensor(obs, dtype=dtype, device=device)

def to_env_action(space: gym.Space, action: Tensor) -> np.ndarray:  # (N,) or (N, A) -> (N, ...)
    """Discrete actions count from the space's start; a Gaussian's -1 .. 1 spans the Box [ours].
    What lies outside is clipped here and nowhere else: the policy learns from what it drew."""
    action = action.cpu().numpy()
    if isinstance(space, Discrete):
        return action + space.start
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    return (middle + half * action.reshape(-1, *space.shape)).clip(space.low, space.high)

def step_envs(envs: gym.vector.VectorEnv, action: Tensor):
    """One step -> obs, reward, terminated, truncated, success (nan: not reported), (N,) each."""
    action = to_env_action(envs.single_action_space, action)
    obs, reward, terminated, truncated, info = envs.step(action)
    success = np.full(envs.num_envs, np.nan)
    if "is_success" in info:
        told = info.get("_is_success", np.ones(envs.num_envs, bool))
        values = np.asarray(info["is_success"])[told].tolist()
        if not all(isinstance(x, (bool, np.bool_, int, float)) for x in values):
            raise BadInput(f"is_success must be True or False, not {values[0]!r}")
        success[told] = values
    return obs, np.asarray(reward, np.float32), terminated, truncated, success

class Rollout(NamedTuple):
    """What one cycle collects: T steps of N environments, (T, N, ...) or flat, (T*N, ...)."""
    obs_teacher: Tensor
    obs_student: Tensor
    logits_teacher: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    done: Tensor  # terminated or truncated
    z_teacher: Tensor  # as it was when the teacher acted
    z_next: Tensor  # of the true next observation, also where the episode ended

    def flat(self) -> "Rollout":  # (T, N, ...) -> (T*N, ...)
        """All steps in one row."""
        return Rollout(*(x.flatten(0, 1) for x in self))

@torch.no_grad()
def collect(envs, obs: dict, nets: Networks, n_steps: int) -> tuple[Rollout, dict]:
    """The teacher acts for T steps; both views of every step are kept (Section IV, phase one)."""
    device, steps = next(nets.parameters()).device, []
    for _ in range(n_steps):
        obs_teacher, obs_student = (to_tensor(obs[view], device) for view in AGENTS)
        z = nets.teacher(obs_teacher)
        logits = nets.policy(z)
        action = nets.policy.distribution(logits).sample()
        obs, reward, terminated, truncated, _ = step_envs(envs, action)
        ended, obs_next = terminated | truncated, to_tensor(obs["teacher"], device)
        outcome = (torch.tensor(x, device=device) for x in (reward, terminated, ended))
        steps.append((obs_teacher, obs_student, logits, action, *outcome, z, obs_next))
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    *kept, done, z, obs_next = (torch.stack(x) for x in zip(*steps))
    # What came next, the next step has embedded; unless an episode ended there, or the rollout.
    z_next, last = z.roll(-1, 0), torch.cat([done[:-1], torch.ones_like(done[-1:])])
    z_next[last] = nets.teacher(obs_next[last])
    return Rollout(*kept, done, z, z_next), obs

# --- Section IV: the two phases -------------------------------------------------------------------
def gae(rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, done: Tensor,
        gamma: float, lam: float) -> Tensor:  # (T, N) each -> (T, N)
    """Generalised advantage estimation (Schulman et al., 2016, arXiv 1506.02438, equation 16).

    `next_values` are of the true next observation: zero counts after a termination, but a truncated
    episode would have gone on. Either end (`done`) keeps the sum out of the next episode.
    """
    terminated, done = terminated.float(), done.float()
    delta = rewards + gamma * next_values * (1 - terminated) - values
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        running = delta[t] + gamma * lam * (1 - done[t]) * running
        advantages[t] = running
    return advantages

def ppo_losses(policy: Distribution, value: Tensor, action: Tensor, log_prob_before: Tensor,
               advantage: Tensor, returns: Tensor, clip: float) -> dict[str, Tensor]:  # (B,) -> ()
    """Eq. (1) by PPO: clipped policy loss, value loss, entropy (arXiv 1707.06347, equation 9)."""
    ratio = (policy.log_prob(action) - log_prob_before).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss, entropy = F.mse_loss(value, returns), policy.entropy().mean()
    return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}

def minibatches(rollout: Rollout, size: int, epochs: float) -> list[Tensor]:  # indices (B,) each
    """Steps of a flat rollout, shuffled anew for each pass; the last pass may be a part of one."""
    n, device = len(rollout.action), rollout.action.device
    passes = [torch.randperm(n, device=device) for _ in range(math.ceil(epochs))]
    batches = [i for indices in passes for i in indices.split(size) if len(i) > 1]  # 1: no negative
    return batches[: math.ceil(epochs * len(batches) / len(passes))]

def descend(optimizer: Adam, loss: Tensor, max_grad_norm: float | None = None) -> None:
    """One gradient step, clipped to a norm if one is given."""
    optimizer.zero_grad()
    loss.backward()
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_grad_norm)
    optimizer.step()

def mean_of(logs: list[dict[str, Tensor]]) -> Losses:
    """Mean of each named loss over the minibatches."""
    return {k: torch.stack([log[k].detach() for log in logs]).mean().item() for k in logs[0]}

def train_policy(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config,
                 remaining: float = 1.0) -> Losses:
    """Phase two: PPO on what the teacher has collected, (T, N, ...) -> the mean of each loss. The
    entropy bonus goes with `remaining`, the share of the training that is still to come."""
    method = METHODS[config.method]
    before = copy.deepcopy(nets.policy).requires_grad_(False)
    with torch.no_grad():
        reward, policy_before = rollout.reward, before.distribution(rollout.logits_teacher)
        parts = Rollout(*(x.split(config.ppo_batch) for x in rollout.flat()))  # faster than at once
        if method.has_proxy:
            logits_proxy = torch.cat([nets.policy(nets.proxy(x)) for x in parts.obs_teacher])
            proxy = before.distribution(logits_proxy.view_as(rollout.logits_teacher))  # constants
            reward = reward - config.sitt_lambda1 * imitation_kl(policy_before, proxy)  # Eq. (10)
        values = torch.cat([nets.critic(z) for z in parts.z_teacher]).view_as(reward)
        next_values = torch.cat([nets.critic(z) for z in parts.z_next]).view_as(reward)
        ends = rollout.terminated, rollout.done
        advantage = gae(reward, values, next_values, *ends, config.gamma, config.gae_lambda)
        targets = policy_before.log_prob(rollout.action), advantage, advantage + values
        targets = [x.flatten() for x in targets]  # (T*N,) each
    rollout, logs = rollout.flat(), []
    entropy_coef = config.entropy_end + remaining**2 * (config.entropy_coef - config.entropy_end)
    for i in minibatches(rollout, config.ppo_batch, config.ppo_epochs):
        # Section IV: "policy gradients ... are not passed through the embedding networks".
        # A stored z carries no graph; no encoder has moved since, so the ratio starts at 1.
        z = rollout.z_teacher[i]
        if method.policy_gradient_reaches_encoder:
            z = nets.teacher(rollout.obs_teacher[i])
        policy, value = nets.policy.distribution(nets.policy(z)), nets.critic(z).squeeze(-1)
        log = ppo_losses(policy, value, rollout.action[i], *(x[i] for x in targets), config.clip)
        loss = log["policy_loss"] + config.value_coef * log["value_loss"]
        loss = loss - entropy_coef * log["entropy"]
        if method.has_proxy:
            log["penalty"] = imitation_kl(policy, before.distribution(logits_proxy[i])).mean()
            loss = loss + config.sitt_lambda2 * log["penalty"]  # Eq. (10), in the policy's loss
        descend(optimizer, loss, config.max_grad_norm)
        logs.append(log)
    return mean_of(logs)

def train_embedding(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config) -> Losses:
    """Phase one: both encoders learn the shared embedding, Eq. (9), on the teacher's pairs.
    "match": how often z_S is the nearest to its z_T; near 1, z_T tells what the student sees."""
    # Section IV-D: Eq. (8) runs through the policy but may only move the encoders. So it gets a
    # copy of the policy that takes no gradient; stored z and the copied E_S give logits "before"
    # (not the stored logits: PPO has moved the policy since).
    frozen, rollout, logs = copy.deepcopy(nets).requires_grad_(False), rollout.flat(), []
    moved = METHODS[config.method].policy_gradient_reaches_encoder  # E_T, since z was stored
    for i in minibatches(rollout, config.encoder_batch, config.encoder_epochs):
        obs_teacher = rollout.obs_teacher.index_select(0, i)
        obs_student = rollout.obs_student.index_select(0, i)  # of images 20 times faster than [i]
        z_teacher, z_student = nets.teacher(obs_teacher), nets.student(obs_student)
        z_before = frozen.teacher(obs_teacher) if moved else rollout.z_teacher[i]
        logits_teacher, logits_student = frozen.policy(torch.cat([z_teacher, z_student])).chunk(2)
        logits_before = frozen.policy(torch.cat([z_before, frozen.student(obs_student)])).chunk(2)
        nce = info_nce_loss(z_teacher, z_student, nets.log_inverse_temperature.exp())
        align = alignment_loss(z_teacher, z_student)
        stab = stability_loss(logits_teacher, logits_student, *logits_before)
        loss = embedding_loss(nce, align, stab, config.lambda_align, config.lambda_stab)
        descend(optimizer, loss)
        with torch.no_grad():
            nets.log_inverse_temperature.clamp_(max=math.log(100.0))  # [ours: else it ran to 230]
            similarity = z_teacher @ z_student.T  # (B, B); equal views tie, and count as found
            match = (similarity.diagonal() > similarity.amax(1) - 1e-4).float().mean()
        logs.append({"info_nce": nce, "align": align, "stab": stab, "match": match})
    return {**mean_of(logs), "inverse_temperature": nets.log_inverse_temperature.exp().item()}

# --- Section V-B: the baselines, and all rows of Table I ------------------------------------------
def train_bc_student(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config) -> Losses:
    """Behaviour cloning: maximise the likelihood of the actions in the teacher's trajectories.

    The teacher is trained by now and stays as it is. The passes over each rollout give the student
    as many updates in all as in other methods.
    """
    rollout, logs = rollout.flat(), []
    passes = config.encoder_epochs / METHODS[config.method].imitation_share
    for i in minibatches(rollout, config.encoder_batch, passes):
        policy = nets.distribution("student", rollout.obs_student.index_select(0, i))
        logs.append({"imitation": -policy.log_prob(rollout.action[i]).mean()})
        descend(optimizer, logs[-1]["imitation"])
    return mean_of(logs)

def train_sitt_student(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config) -> Losses:
    """SITT's alignment phase: student imitates teacher, proxy imitates student, policy stays put.

    Written from the description of arXiv 2412.09149: L1 on features and on logits; each loss moves
    one of the two. The penalty in `train_policy` moves teacher's encoder and policy.
    """
    policy = copy.deepcopy(nets.policy).requires_grad_(False)  # it learns from PPO alone
    rollout, logs = rollout.flat(), []
    for i in minibatches(rollout, config.encoder_batch, config.encoder_epochs):
        z_teacher = nets.teacher(rollout.obs_teacher[i]).detach()  # PPO alone moves the teacher
        z_student = nets.student(rollout.obs_student.index_select(0, i))
        z_proxy, logits = nets.proxy(rollout.obs_teacher[i]), policy(z_student)
        student = F.l1_loss(z_student, z_teacher) + F.l1_loss(logits, policy(z_teacher))
        proxy = F.l1_loss(z_proxy, z_student.detach()) + F.l1_loss(policy(z_proxy), logits.detach())
        descend(optimizer, student + proxy)
        logs.append({"student_to_teacher": student, "proxy_to_student": proxy})
    return mean_of(logs)

class Method(NamedTuple):
    """One row of our Table I: all in which a method differs."""
    train_student: Callable  # (nets, optimizer, rollout, config) -> losses; follows PPO in a cycle
    settings: dict = {}  # what the method fixes; what it does not read is fixed too
    policy_gradient_reaches_encoder: bool = False  # the paper's point is that it does not
    own_head: bool = False  # otherwise the student acts through the teacher's policy
    has_proxy: bool = False  # a network that stands for the student in Eq. (10)
    imitation_share: float = 1.0  # below 1: PPO first, then train_student for this share of steps
    paper: tuple = ()  # success of (teacher, student) in the paper's Table I, in the order of ENVS

NO_EQ_9 = dict(lambda_align=0.0, align_delay=0.0, lambda_stab=0.0, inverse_temperature=1.0)
NO_EQ_10 = dict(sitt_lambda1=0.0, sitt_lambda2=0.0)
METHODS = {
    "bc": Method(train_bc_student, NO_EQ_9 | NO_EQ_10, policy_gradient_reaches_encoder=True,
                 own_head=True, imitation_share=0.25, paper=((1.00, 0.19), (1.00, 0.47))),
    "sitt": Method(train_sitt_student, NO_EQ_9, policy_gradient_reaches_encoder=True,
                   has_proxy=True, paper=((0.91, 0.72), (0.94, 0.51))),
    "policy-gradient": Method(train_embedding, NO_EQ_10, policy_gradient_reaches_encoder=True),
    "no-align": Method(train_embedding, NO_EQ_10 | dict(lambda_align=0.0, align_delay=0.0),
                       paper=((0.99, 0.91), (0.94, 0.73))),
    "no-stability": Method(train_embedding, NO_EQ_10 | {"lambda_stab": 0.0},
                           paper=((0.79, 0.78), (0.97, 0.95))),
    "ours": Method(train_embedding, NO_EQ_10, paper=((1.00, 1.00), (0.99, 0.98))),
}  # fmt: skip

# --- Evaluation -----------------------------------------------------------------------------------
@torch.no_grad()
def play_episodes(envs, nets: Networks, agent: str, episodes_each: int, seed: int,
                  limit: int) -> tuple[np.ndarray, np.ndarray]:  # -> (E,), (E,)
    """Undiscounted return and success (nan if not reported) of one agent's E episodes, equally many
    of each environment. Actions are sampled [ours: the likeliest can loop without memory]."""
    device, played = next(nets.parameters()).device, []
    finished, steps, returns = np.zeros((3, envs.num_envs))
    obs, _ = envs.reset(seed=seed)
    while (finished < episodes_each).any():
        action = nets.distribution(agent, to_tensor(obs[agent], device)).sample()
        obs, reward, terminated, truncated, success = step_envs(envs, action)
        steps, returns, ended = steps + 1, returns + reward, terminated | truncated
        if steps.max() > limit:
            raise BadInput(f"an episode goes on after {limit} steps: register max_episode_steps")
        played.append(np.stack([returns, success])[:, ended & (finished < episodes_each)])
        finished, steps, returns = finished + ended, steps * ~ended, returns * ~ended
        if ended.any():
            obs, _ = envs.reset(options={"reset_mask": ended})
    return tuple(np.concatenate(played, axis=1))

def evaluate(envs, nets: Networks, episodes: int, seed: int, limit: int = 10_000) -> dict:
    """Success rates and mean returns of both agents from the same seeds, and the gap. The episodes
    are rounded up to a multiple of N. No success if no `is_success` is reported."""
    score, each = {}, math.ceil(episodes / envs.num_envs)
    for agent in AGENTS:
        returns, success = play_episodes(envs, nets, agent, each, seed, limit)
        score[f"return_{agent}"] = float(returns.mean())
        score[f"return_{agent}_se"] = float(returns.std() / len(returns) ** 0.5)
        if not np.isnan(success).all():
            score[f"success_{agent}"] = float(np.nan_to_num(success).mean())
    kind = "success" if {"success_teacher", "success_student"} <= score.keys() else "return"
    return {"gap": score[f"{kind}_teacher"] - score[f"{kind}_student"]} | score

# --- The one training loop ------------------------------------------------------------------------
def pick_device(name: str) -> torch.device:
    """cuda > mps > cpu for "auto". Raises BadInput for a device that torch does not have."""
    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    try:
        torch.zeros(1, device=name).cpu()  # fails also on a device that holds no data
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} is not available: {str(error).splitlines()[0]}") from error

def make_optimizers(nets: Networks, config: Config) -> tuple[Adam, Adam]:
    """PPO's: policy and critic, in some methods E_T too; phase one's: all but policy and critic."""
    owned = [*nets.policy.parameters(), *nets.critic.parameters()]
    rest = [p for p in nets.parameters() if all(p is not q for q in owned)]
    if METHODS[config.method].policy_gradient_reaches_encoder:
        owned += nets.teacher.parameters()
    fused = rest[0].device.type != "mps"
    return Adam(owned, config.ppo_lr, fused=fused), Adam(rest, config.encoder_lr, fused=fused)

def train(config: Config) -> dict:
    """Train one method on one environment with one seed; the result is also in `result.json`.

    Sets torch's seed and threads. Raises BadInput, or FloatingPointError for a loss not finite.
    """
    start, device = time.perf_counter(), pick_device(config.device)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    n_eval = min(config.num_envs, config.log_episodes)
    envs, eval_envs = (make_envs(config.env, n) for n in (config.num_envs, n_eval))
    nets = Networks(envs, config).to(device)
    with open_log(config) as log_file:
        print(f"{config.env} {config.method} seed {config.seed} on {device}", flush=True)
        rows = training_loop(envs, eval_envs, nets, config, log_file)
        episodes = math.ceil(config.eval_episodes / n_eval) * n_eval
        result = dict(env=config.env, method=config.method, seed=config.seed, **rows[-1])
        result |= dict(eval_episodes=episodes, seconds=time.perf_counter() - start)
        result |= dict(device=str(device), torch=torch.__version__)
        save_run(config, nets, rows, result)
    return result

def training_loop(envs, eval_envs, nets: Networks, config: Config, log_file) -> list[dict]:
    """Collect, then policy, then student (the stored z are then of today's encoders) -> log."""
    method, rows, losses = METHODS[config.method], [], {}
    policy_optimizer, student_optimizer = make_optimizers(nets, config)
    n_cycles = math.ceil(config.total_steps / (config.num_envs * config.rollout_steps))
    evals = {math.ceil(n_cycles * k / config.log_evals) for k in range(1, config.log_evals + 1)}
    n_student = math.ceil(n_cycles * method.imitation_share)  # the last so many cycles
    n_policy = n_cycles - n_student if method.imitation_share < 1 else n_cycles  # the first
    seeds = np.random.SeedSequence(config.seed).generate_state(n_cycles + 1).tolist()
    start, env_steps = time.perf_counter(), 0
    try:
        obs, _ = envs.reset(seed=seeds[0])  # the others are for the evaluations
        check_views(config.env, envs.observation_space, obs)
        for cycle in range(1, n_cycles + 1):
            rollout, obs = collect(envs, obs, nets, config.rollout_steps)
            if cycle <= n_policy:
                left = 1 - (cycle - 1) / n_policy  # share of this phase's training to come
                losses |= train_policy(nets, policy_optimizer, rollout, config, left)
            if cycle > n_cycles - n_student:
                left = (n_cycles - cycle + 1) / n_student
                student_optimizer.param_groups[0]["lr"] = config.encoder_lr * (0.05 + 0.95 * left)
                now = delay_alignment(config, (cycle - 1) / n_cycles)  # Eq. (7) may still wait
                losses |= method.train_student(nets, student_optimizer, rollout, now)
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(f"a loss is not finite: {losses}")
            env_steps = cycle * config.num_envs * config.rollout_steps
            if cycle in evals:
                episodes = config.eval_episodes if cycle == n_cycles else config.log_episodes
                score = evaluate(eval_envs, nets, episodes, seeds[cycle], config.episode_limit)
                rows.append({"env_steps": env_steps} | score | losses)
                log(log_file, rows, time.perf_counter() - start, cycle / n_cycles)
    except Exception as error:  # an error of the environment's own keeps its traceback
        error.add_note(f"tsalign: {config.env} stopped after {env_steps} environment steps")
        raise
    return rows

# --- Run folders ----------------------------------------------------------------------------------
def open_log(config: Config):
    """Open `log.csv` of a fresh run folder, locked against a second run. Raises BadInput."""
    folder = config.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log_file = open(folder / "log.csv", "a", newline="")
        if sys.platform != "win32":  # which has no such lock
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(log_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"another process is training in {folder}") from None
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}") from error
    if (folder / "result.json").exists():
        raise BadInput(f"{folder} holds a finished run; choose another --out or delete it")
    log_file.truncate(0)  # what an interrupted run has left
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    return log_file

def log(log_file, rows: list[dict], elapsed: float, share: float) -> None:
    """Write `log.csv` anew (a later row may have more columns); print the last row's main ones."""
    log_file.truncate(0)
    writer = csv.DictWriter(log_file, list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    writer.writerows(rows)
    log_file.flush()
    row, kind = rows[-1], "success" if "success_student" in rows[-1] else "return"
    row = row | {"steps/s": row["env_steps"] / elapsed, "s left": elapsed / share - elapsed}
    names = [f"{kind}_{agent}" for agent in AGENTS] + ["gap", "entropy", "match", *list(row)[-2:]]
    if len(rows) == 1:
        print(f"{kind + ':':>9}", *(f"{k.split('_')[-1]:>9}" for k in names if k in row))
    print(f"{row['env_steps']:9d}", *(f"{row[k]:9.4g}" for k in names if k in row), flush=True)

def save_run(config: Config, nets: Networks, rows: list[dict], result: dict) -> None:
    """Weights, curve and, last and at once, the result: where it stands, the run is complete."""
    folder, figure = config.folder, Figure(figsize=(5.5, 3.8), layout="tight")
    torch.save({"config": asdict(config), "networks": nets.state_dict()}, folder / "checkpoint.pt")
    axis, kind = figure.subplots(), "success" if "success_student" in result else "return"
    for agent, style in zip(AGENTS, ("--", "-")):
        score = [row.get(f"{kind}_{agent}", math.nan) for row in rows]
        axis.plot([row["env_steps"] for row in rows], score, style, label=agent)
    axis.set(title=folder.name, xlabel="environment steps", ylabel=kind)
    axis.legend()
    figure.savefig(folder / "curve.png", dpi=130)
    (folder / "result.tmp").write_text(json.dumps(result, indent=2) + "\n")
    (folder / "result.tmp").replace(folder / "result.json")

def load_run(folder: str | Path) -> tuple[Config, Networks]:
    """Settings and networks of a finished run, on the CPU. Raises BadInput where there is none."""
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        raise BadInput(f"no finished run in {folder}")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = Config(**saved["config"])
    nets = Networks(make_envs(config.env, 1), config)
    nets.load_state_dict(saved["networks"])
    return config, nets

# --- Settings and command line --------------------------------------------------------------------
def complete_settings(given: dict) -> dict:
    """Defaults, then what environment and method set, then what is given. Raises BadInput."""
    default = {f.name: f.default for f in fields(Config)}
    env, method = ({**default, **given}[name] for name in ("env", "method"))
    if method not in METHODS or not given.keys() <= default.keys():
        unknown = [*given.keys() - default.keys()] or [method]
        raise BadInput(f"unknown {unknown[0]!r}; methods: {', '.join(METHODS)}; flags: --help")
    env = {env_id: name for name, env_id in ENVS.items()}.get(env, env)
    fixed = METHODS[method].settings
    settings = {**default, **ENV_SETTINGS.get(env, {}), **fixed, **given, "env": env}
    for f in fields(Config):
        settings[f.name] = checked(f.name, f.type, settings[f.name])
        if settings[f.name] != fixed.get(f.name, settings[f.name]):
            raise BadInput(f"method {method} has {f.name} {fixed[f.name]}, not {given[f.name]}")
    return settings

def checked(name: str, kind: type, value) -> str | int | float:
    """The value as its kind, NumPy's numbers too. Raises BadInput for a number out of range."""
    if kind is str:
        return str(value)
    least = {"seed": 0, "sitt_lambda1": -math.inf, "rollout_steps": 2, "encoder_batch": 2,
             "ppo_batch": 2, "encoder_epochs": 1e-3, "inverse_temperature": 1e-3}  # fmt: skip
    least = least.get(name, int(kind is int))
    most = {"gamma": 1, "gae_lambda": 1, "align_delay": 0.5, "inverse_temperature": 100}
    most = most.get(name, 2**63 - 1)
    is_number = isinstance(value, (int, float, np.number)) and abs(value) < 2**63
    if not is_number or not least <= value <= most or kind(value) != value:
        whole = "whole " if kind is int else ""
        raise BadInput(f"{name} must be a {whole}number from {least} to {most}, not {value!r}")
    return kind(value)

def fail(message: str, code: int = 2) -> None:
    """One clear line on stderr, and the exit code."""
    print("tsalign:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)

def main(arguments: list[str] | None = None) -> None:
    """`python tsalign.py`: exit code 2 for bad input, 1 for a run that stopped, 130 for Ctrl-C."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    parser.error = fail
    texts = dict(re.findall(r"^    (\w+): \w+ = (.+)$", inspect.getsource(Config), re.MULTILINE))
    for f in fields(Config):  # each is a flag, its comment the help
        flag, text = "--" + f.name.replace("_", "-"), texts[f.name].replace("%", "%%")
        parser.add_argument(flag, type=f.type, help=text, default=argparse.SUPPRESS)
    sys.path.append(str(Path.cwd()))  # for --env my_file:MyEnv-v0
    try:
        config = Config(**vars(parser.parse_args(arguments)))
        result = train(config)
    except (BadInput, FloatingPointError) as error:
        notes = getattr(error, "__notes__", [])  # only a run that had begun has one
        fail("; ".join([str(error), *notes]).replace("; tsalign:", ";"), code=1 if notes else 2)
    except KeyboardInterrupt:
        fail("interrupted; its log so far stays in the run folder", code=130)
    rows = {k: [result.get(f"{k}_{agent}") for agent in AGENTS] for k in ("success", "return")}
    paper = dict(zip(ENVS, METHODS[config.method].paper))
    rows["the paper, Table I"] = paper.get(config.env, [None])
    print(f"\n{config.env + ' ' + config.method:27}teacher  student      gap")
    for label, row in rows.items():
        if None not in row:
            print(f"{label:27}{row[0]:7.3f}  {row[1]:7.3f}  {row[0] - row[1]:7.3f}")
    where = f"{result['seconds']:.0f} s; saved in {config.folder}"
    print(f"{result['eval_episodes']} fresh episodes of each; {where}")

if __name__ == "__main__":
    main()
