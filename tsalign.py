"""Teacher-student representational alignment in one file (arXiv 2605.28372, unofficial).

A teacher that sees more than its student learns behaviour that the student cannot imitate.
Here two encoders are trained with a contrastive loss into one shared embedding, which keeps
only what both can see. PPO trains the policy on that embedding and may not touch the
encoders. So, as far as the embedding hides the rest, the teacher's policy depends only on
what the student sees, too, and the student runs the same policy on its own encoder.

    python tsalign.py --env tunnelvision         # or collecthealth, seen by a camera

Where the paper's equations are:
    Eq. (1)      the teacher's return         `collect`, `gae`, `ppo_losses`
    Eq. (2)      InfoNCE in general           `info_nce_loss` is its form here
    Eq. (3)      two views of one state       the environments, `make_envs`
    Eq. (4), (5) what the views share         assumptions, no code
    Eq. (6)      contrastive loss             `info_nce_loss`
    Eq. (7)      alignment loss               `alignment_loss`
    Eq. (8)      stability loss               `stability_loss`
    Eq. (9)      their weighted sum           `embedding_loss`
    Eq. (10)     SITT's penalty               `imitation_kl`, `train_policy`
    Section IV   phase one, phase two         `train_embedding`, `train_policy`
    Section V-B  baselines, rows of Table I   `METHODS` and the functions above it

Left out: recurrent policies, running observation normalisation, several GPUs.
Marks: [ppo] a usual PPO default; [ours: reason] our choice. Of what follows, the paper
states the equations and the phases; it gives no settings.
Shapes: T time steps, N environments, B batch, M pairs of views, D embedding, A actions,
E episodes, H W C image; ... stands for the shape of one view or one action. z is always an
embedding, a vector of norm 1.
"""

import argparse
import ast
import copy
import csv
import importlib
import io
import json
import math
import signal
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Callable, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    kl_divergence,
)
from torch.optim import Adam

AGENTS = ("teacher", "student")
ENVS = {
    "tunnelvision": "tunnelvision:TunnelVision-v0",
    "collecthealth": "collecthealth:CollectHealth-v0",
}
STEPS = {"tunnelvision": 780_000, "collecthealth": 400_000}  # where total_steps is 0
STEPS_ELSEWHERE = 500_000
Losses = dict[str, float]


class BadInput(ValueError):
    """Something that the user can mend. The command line exits with one line and code 2."""


class RunStopped(RuntimeError):
    """A run has begun and cannot go on. The command line exits with one line and code 1."""


# --- Settings -----------------------------------------------------------------------------


def setting(default, meaning: str):
    """A field of `Config`: its default, and what `--help` says of it."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Config:
    """All settings of a run. Each is a flag of the command line, too."""

    env: str = setting("tunnelvision", "tunnelvision, collecthealth, or module:Id-v0")
    method: str = setting("ours", "a name in METHODS, or module:name of your own")
    seed: int = setting(0, "of networks, environments and sampling")
    total_steps: int = setting(
        0,
        "environment steps, rounded up to whole cycles; 0: 780,000 for tunnelvision, "
        "400,000 for collecthealth, 500,000 elsewhere [ours]",
    )
    out: str = setting("runs", "where the run folders go")
    overwrite: bool = setting(False, "replace a finished run in the same folder")
    device: str = setting("auto", "cuda, mps, cpu; auto is the first that there is")
    threads: int = setting(1, "CPU threads [ours: the networks are too small for more]")

    # The loop: collect, then train the policy, then train the encoders
    num_envs: int = setting(
        256, "N, environments stepped at once [ours: saves Python's time]"
    )
    rollout_steps: int = setting(16, "T, steps of each environment in a cycle [ours]")
    embedding_dim: int = setting(
        64, "D, size of the embedding [ours: at 32, more seeds failed]"
    )
    width: int = setting(
        128, "hidden units of all networks [ours: at 64, more seeds failed]"
    )

    # Phase one: the shared embedding
    inverse_temperature: float = setting(
        30.0, "s of Eq. (6), at first [ours: 10 was slower]"
    )
    lambda_align: float = setting(
        80.0,
        "weight of Eq. (7) at the end [ours: with less, z told more of what only the "
        "teacher sees]",
    )
    lambda_stab: float = setting(
        0.3,
        "weight of Eq. (8) [ours: with less, more seeds failed; with more, z was slow to "
        "forget what leaked]",
    )
    encoder_lr: float = setting(1e-3, "Adam's rate at first [ours: .003 was too fast]")
    encoder_batch: int = setting(
        128, "pairs in a minibatch [ours: fewer, larger ones leaked more]"
    )
    encoder_updates: int = setting(16, "minibatches in a cycle [ours: 32 were no better]")
    pairs_every: int = setting(
        48,
        "of each block of so many steps one, chosen at random, gives a pair of views "
        "from every environment [ours: drawing may be slow]",
    )
    pairs_memory: int = setting(8192, "M, how many of the last pairs are kept [ours]")

    # Phase two: the policy
    z_noise: float = setting(
        0.3,
        "length of the noise that is added to the policy's z in training, while z itself "
        "has length 1 [ours: without it, more seeds failed]",
    )
    ppo_lr: float = setting(
        1e-3, "Adam's rate at first [ours: networks this small can take a high one]"
    )
    ppo_epochs: int = setting(
        1, "passes over a cycle's steps [ours: with three, learned policies were lost]"
    )
    ppo_batch: int = setting(256, "steps in a minibatch [ppo]")
    gamma: float = setting(0.99, "discount [ppo]")
    gae_lambda: float = setting(0.95, "lambda of the advantage estimate [ppo]")
    clip: float = setting(0.2, "clip range of the ratio [ppo]")
    entropy_coef: float = setting(
        0.3,
        "weight of the entropy bonus at first, of discrete actions only [ours: the policy "
        "has to explore]",
    )
    value_coef: float = setting(0.5, "weight of the value loss [ppo]")
    max_grad_norm: float = setting(0.5, "PPO's gradients are clipped to it [ppo]")
    sitt_lambda1: float = setting(0.1, "weight of Eq. (10) in the reward [ours: swept]")
    sitt_lambda2: float = setting(0.1, "weight of Eq. (10) in the policy's loss [ours]")

    # Evaluation
    eval_episodes: int = setting(
        1024, "episodes of each agent at the end [ours: a success of .9 is then +- .01]"
    )
    log_evals: int = setting(10, "evaluations, the last one included [ours]")
    log_episodes: int = setting(64, "episodes of each agent in the others [ours]")
    episode_limit: int = setting(10_000, "steps after which an evaluation gives up [ours]")

    @property
    def folder(self) -> Path:
        """The run is saved here."""
        name = f"{self.env}_{self.method}_seed{self.seed}"
        return Path(self.out) / name.replace(":", "-").replace("/", "-")


def encoder_rate(config: Config, progress: float) -> float:
    """Falls linearly to 5 %, as progress goes from 0 to 1 [ours: so that z settles]."""
    return config.encoder_lr * (1 - 0.95 * progress)


def ppo_rate(config: Config, progress: float) -> float:
    """Falls to 0 in the last fifth [ours: a policy that wins learns from noise alone]."""
    return config.ppo_lr * min(1.0, (1 - progress) / 0.2)


def entropy_weight(config: Config, progress: float) -> float:
    """Weight of the entropy bonus: falls to 0, fast at first.

    [ours: a policy has to explore first, and to be sure in the end.]
    """
    return config.entropy_coef * (1 - progress) ** 3


def align_weight(config: Config, progress: float) -> float:
    """Weight of Eq. (7): 0 in the first fifth; then it grows until half time.

    While it is 0, the teacher's embedding may tell what only the teacher sees, and the
    policy learns the task from that. As the weight grows this is hidden, and the policy has
    only to learn how to do without: in our tasks, to look before it acts [ours: with the
    full weight from the start, policies learned more slowly, and some never did].
    """
    return config.lambda_align * min(max((progress - 0.2) / 0.3, 0.0), 1.0)


# --- The losses: Sections IV-B to IV-D, V-B -----------------------------------------------


def info_nce_loss(
    z_teacher: Tensor, z_student: Tensor, inverse_temperature: Tensor
) -> Tensor:  # (B, D), (B, D), () -> ()
    """Eq. (6): of all views of the other agent, the partner should be the most similar.

        teacher to student:  - mean_i log( exp(s zT_i . zS_i) / sum_j exp(s zT_i . zS_j) )
        student to teacher:  - mean_i log( exp(s zT_i . zS_i) / sum_j exp(s zT_j . zS_i) )

    The loss is the mean of the two; s is the inverse temperature. Each is the InfoNCE of
    Eq. (2), with the dot product of unit vectors as the similarity sim and s = 1 / tau:

        - log( exp(sim(z, z+) / tau) / sum over z+ and all z- of exp(sim(z, .) / tau) )

    The only positive z+ is the other view of the same step. All other steps are negatives,
    neighbours in time, too.
    """
    similarity = inverse_temperature * z_teacher @ z_student.T  # (B, B)
    partner = torch.arange(len(similarity), device=similarity.device)  # (B,)
    teacher_to_student = F.cross_entropy(similarity, partner)
    student_to_teacher = F.cross_entropy(similarity.T, partner)
    return (teacher_to_student + student_to_teacher) / 2  # Eq. (6)


def alignment_loss(z_teacher: Tensor, z_student: Tensor) -> Tensor:  # (B, D), (B, D) -> ()
    """Eq. (7): mean_i (1 - zT_i . zS_i): both views should have the same embedding."""
    cosine = (z_teacher * z_student).sum(-1)  # (B,)
    return (1 - cosine).mean()  # Eq. (7)


def stability_loss(
    logits_teacher: Tensor,
    logits_student: Tensor,
    logits_teacher_before: Tensor,
    logits_student_before: Tensor,
) -> Tensor:  # (B, A) each -> ()
    """Eq. (8): mean (l - l_before)^2. The policy's raw logits should stay as they were.

    The mean is over steps, actions and both views [ours]. "Before" is before the phase
    began; these logits are constants.
    """
    change_teacher = F.mse_loss(logits_teacher, logits_teacher_before.detach())
    change_student = F.mse_loss(logits_student, logits_student_before.detach())
    return (change_teacher + change_student) / 2  # Eq. (8)


def embedding_loss(
    nce: Tensor, align: Tensor, stab: Tensor, lambda_align: float, lambda_stab: float
) -> Tensor:  # (), (), () -> ()
    """Eq. (9): L_nce + lambda_align L_align + lambda_stab L_stab, for the two encoders."""
    return nce + lambda_align * align + lambda_stab * stab  # Eq. (9)


def imitation_kl(
    teacher: Distribution, proxy: Distribution
) -> Tensor:  # over (B,) each -> (B,)
    """Eq. (10), of the baseline SITT: KL(teacher's policy || student's) at each step.

        reward for PPO:  r - lambda1 KL        PPO's loss:  L + lambda2 mean KL

    `train_policy` applies both. In place of the student it has a proxy: a network that
    imitates the student but reads the teacher's view, which is there at every step.
    """
    return kl_divergence(teacher, proxy)  # Eq. (10)


# --- Networks: teacher encoder, student encoder, policy, critic ---------------------------


class Encoder(nn.Module):
    """E_T or E_S: one view in, an embedding of unit norm out. `space` is the view's Box.

    An image (H, W, C) is cut into patches of 4 x 4 pixels by one convolution [ours:
    overlapping patches were no better]; any other view is flattened.
    """

    def __init__(self, space: Box, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.view_shape = space.shape
        self.is_image = len(space.shape) == 3
        # An entry has bounds if they are finite and not equal. Some spaces write "no bound"
        # as the largest float instead of infinity.
        is_finite = (np.abs(space.low) < 1e30) & (np.abs(space.high) < 1e30)
        is_bounded = is_finite & (space.high > space.low)
        # `outputs` maps low .. high to -1 .. 1. An entry without bounds gets -1 and 1, so
        # that it stays as it is, until `fit_input_range` has seen its values.
        low = np.where(is_bounded, space.low, -1.0)
        high = np.where(is_bounded, space.high, 1.0)
        self.register_buffer("is_bounded", torch.tensor(is_bounded))  # (...)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))  # (...)
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))  # (...)
        if self.is_image:
            rows, columns, channels = space.shape
            n_patches = math.ceil(rows / 4) * math.ceil(columns / 4)
            self.net = nn.Sequential(
                nn.Conv2d(channels, 16, kernel_size=4, stride=4),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(16 * n_patches, width),
                nn.ReLU(),
                nn.Linear(width, embedding_dim),
            )
        else:
            self.net = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(space.shape), width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, embedding_dim),
            )

    def forward(self, obs: Tensor) -> Tensor:  # (B, ...) -> (B, D)
        """The norm is 1, so the dot product of two embeddings is their cosine."""
        return F.normalize(self.outputs(obs), dim=-1)

    def outputs(self, obs: Tensor) -> Tensor:  # (B, ...) -> (B, D)
        """What the network returns, before `forward` scales it to unit norm.

        Each entry is first mapped from low .. high to -1 .. 1. That is done here, and not
        earlier, so that images can be stored as bytes.
        """
        x = 2 * (obs.float() - self.low) / (self.high - self.low) - 1
        if self.is_image:
            x = x.permute(0, 3, 1, 2)  # (B, C, H, W)
            rows, columns = x.shape[2:]
            x = F.pad(x, (0, -columns % 4, 0, -rows % 4))  # so no pixel is left out
        return self.net(x)

    def fit_input_range(self, obs: Tensor) -> None:  # (B, ...), the first views
        """Set low and high of some entries to the least and largest values in `obs`.

        An entry gets these if it has no bounds, or if its values span less than a tenth of
        its bounds: mapped by its bounds it would hardly change [ours]. An entry that is
        constant in `obs` keeps its bounds; without bounds, its range becomes its value +-
        max(|value|, 1). In an image all pixels of a channel count as one entry.
        """
        values = obs.float()
        if self.is_image:
            values = values.flatten(0, 2)  # (B * H * W, C)
        # One number for each entry; or (C,), which broadcasts to (H, W, C) below.
        least = values.amin(0)
        largest = values.amax(0)
        varies = largest > least
        is_too_wide = self.high - self.low > 10 * (largest - least)  # or a constant
        needs_range = varies & (is_too_wide | ~self.is_bounded)
        self.low = torch.where(needs_range, least, self.low)
        self.high = torch.where(needs_range, largest, self.high)
        is_unbounded_constant = ~varies & ~self.is_bounded
        margin = least.abs().clamp(min=1)
        self.low = torch.where(is_unbounded_constant, least - margin, self.low)
        self.high = torch.where(is_unbounded_constant, least + margin, self.high)


class Critic(Encoder):
    """V: the teacher's own view in, a value out. It is built like an encoder.

    Only training needs it, so it may read all that the teacher sees [ours: on z it had to
    guess what z hides, and its errors drowned what PPO learns from].
    """

    def __init__(self, space: Box, width: int) -> None:
        super().__init__(space, 1, width)

    def forward(self, obs: Tensor) -> Tensor:  # (B, ...) -> (B,)
        """The expected return of each view."""
        return self.outputs(obs).squeeze(-1)


class Policy(nn.Module):
    """pi: an embedding of either agent in, the raw logits of the actions out.

    Where actions are continuous, the outputs are the means of a Gaussian.
    """

    def __init__(self, action_space: gym.Space, embedding_dim: int, width: int) -> None:
        super().__init__()
        is_discrete = isinstance(action_space, Discrete)
        n_out = int(action_space.n) if is_discrete else math.prod(action_space.shape)
        self.net = nn.Sequential(
            nn.Linear(embedding_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_out),
        )
        gains = {0: 2**0.5, 2: 2**0.5, 4: 0.01}  # so the first policy is nearly flat [ppo]
        for layer, gain in gains.items():
            nn.init.orthogonal_(self.net[layer].weight, gain)
            nn.init.zeros_(self.net[layer].bias)
        # The Gaussian has one standard deviation for all states [ppo]. It starts at 0.5
        # [ours: from 1, a third of the sampled actions would be clipped].
        self.log_std = None
        if not is_discrete:
            self.log_std = nn.Parameter(torch.full((n_out,), math.log(0.5)))

    def forward(self, z: Tensor) -> Tensor:  # (B, D) -> (B, A)
        """The entries of a unit vector are small; times sqrt(D) they are about 1 [ours]."""
        return self.net(z * z.shape[-1] ** 0.5)

    def distribution(self, logits: Tensor) -> Distribution:  # (B, A) -> over (B,)
        """B distributions of an action: categorical, or Gaussian where it is continuous."""
        if self.log_std is None:
            return Categorical(logits=logits, validate_args=False)
        normal = Normal(logits, self.log_std.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)


class Networks(nn.Module):
    """The four networks of every method, s of Eq. (6), and what two baselines need."""

    def __init__(self, envs: VectorEnv, config: Config) -> None:
        super().__init__()
        views = envs.single_observation_space
        sizes = (config.embedding_dim, config.width)
        method = find_method(config.method)
        self.teacher = Encoder(views["teacher"], *sizes)
        self.student = Encoder(views["student"], *sizes)
        self.policy = Policy(envs.single_action_space, *sizes)
        self.critic = Critic(views["teacher"], config.width)
        self.log_inverse_temperature = (
            nn.Parameter(  # the logarithm, so that s stays above 0
                torch.tensor(config.inverse_temperature).log()
            )
        )
        self.student_policy = (
            copy.deepcopy(self.policy) if method.has_student_policy else None
        )
        # SITT's proxy imitates the student but reads the teacher's view. It stands for the
        # student in Eq. (10), which then needs no student's view at every step.
        self.proxy = Encoder(views["teacher"], *sizes) if method.has_proxy else None
        self.action_space = envs.single_action_space

    def distribution(
        self, agent: str, obs: Tensor
    ) -> Distribution:  # (B, ...) -> over (B,)
        """What the "teacher" or the "student" would do, from its own view alone."""
        if agent == "teacher":
            return self.policy.distribution(self.policy(self.teacher(obs)))
        policy = self.policy if self.student_policy is None else self.student_policy
        return policy.distribution(policy(self.student(obs)))

    def fit_input_ranges(self, agent: str, obs: Tensor) -> None:  # (B, ...)
        """Correct the input ranges of all networks that read this agent's view."""
        networks = [self.student]
        if agent == "teacher":
            networks = [self.teacher, self.critic, self.proxy]
        for network in networks:
            if network is not None:
                network.fit_input_range(obs)

    @torch.no_grad()
    def act(self, agent: str, obs: np.ndarray) -> np.ndarray:  # (B, ...) or (...)
        """The action to give to the environment, for a batch of views or a single one.

        It is sampled from the policy, as in training. Raises BadInput for an unknown agent
        or a view of another shape.
        """
        if agent not in AGENTS:
            raise BadInput(f"there is no agent {agent!r}, only teacher and student")
        view_shape = getattr(self, agent).view_shape
        obs = to_tensor(np.asarray(obs), self.log_inverse_temperature.device)
        is_single = obs.shape == view_shape
        if not is_single and obs.shape[1:] != view_shape:
            raise BadInput(f"the {agent} needs a view {view_shape}, not {tuple(obs.shape)}")
        batch = obs[None] if is_single else obs
        sampled = self.distribution(agent, batch).sample()
        action = to_env_action(self.action_space, sampled)
        return action[0] if is_single else action


# --- Eq. (3): environments with two views of one state ------------------------------------


def make_envs(env: str, num_envs: int) -> VectorEnv:
    """N copies of a registered environment; observations are Dict(teacher, student).

    `env` may end in arguments, without commas in their values: "tunnelvision,rows=7". No
    environment resets itself when an episode ends, so a step always returns the true next
    observation; `reset_envs` starts the next episode. If the environment is registered with
    a vector form of its own, that is used, unless it resets itself; then N single copies
    are stepped one after the other. Raises BadInput.
    """
    name, *arguments = env.split(",")
    module, _, env_id = ENVS.get(name, name).rpartition(":")
    imported_file = ""  # for the error: Python may have found another file of that name
    try:
        if module:
            file = getattr(import_user_module(module), "__file__", module)
            imported_file = f" (of {file})"
        kwargs = parse_arguments(arguments)
        spec = copy.deepcopy(find_spec(env_id))
        # Gymnasium's own checker prints pages; ours is `check_env`, with one line.
        spec.disable_env_checker = True
        envs = None
        if spec.vector_entry_point:
            envs = gym.make_vec(spec, num_envs, **kwargs)
            if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
                envs.close()  # it resets itself
                envs = None
        if envs is None:
            mode = {"autoreset_mode": AutoresetMode.DISABLED}
            envs = gym.make_vec(spec, num_envs, "sync", vector_kwargs=mode, **kwargs)
    except (ImportError, AttributeError, TypeError, ValueError, gym.error.Error) as error:
        raise BadInput(
            f"cannot make environment {env!r}{imported_file}: {error}"
        ) from error
    try:
        check_spaces(env, envs)
        if isinstance(envs.unwrapped, SyncVectorEnv):  # it consists of single copies
            check_env(env, envs.unwrapped.envs[0])
    except BaseException:
        envs.close()
        raise
    return envs


def import_user_module(name: str):
    """Import a module of the user's. If it is the running script, return that.

    To import it would run it again, and its training, too.
    """
    script = sys.modules["__main__"]
    if Path(getattr(script, "__file__", None) or "").stem == name:
        return script
    return importlib.import_module(name)


def parse_arguments(arguments: list[str]) -> dict:
    """["rows=7", "kind=wide"] -> {"rows": 7, "kind": "wide"}. Raises ValueError."""
    kwargs = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not name=value")
        try:
            kwargs[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            kwargs[name] = text
    return kwargs


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment; without a version the latest, as `gym.make` does."""
    namespace, name, version = gym.envs.registration.parse_env_id(env_id)
    if version is None:
        version = gym.envs.registration.find_highest_version(namespace, name)
    return gym.spec(gym.envs.registration.get_env_id(namespace, name, version))


def check_spaces(env: str, envs: VectorEnv) -> None:
    """Raises BadInput for views and actions that the networks cannot serve."""
    views = envs.single_observation_space
    for agent in AGENTS:
        view = views.get(agent) if isinstance(views, gym.spaces.Dict) else None
        # A view needs at least one dimension, and one entry.
        if not isinstance(view, Box) or view.shape == () or 0 in view.shape:
            raise BadInput(
                f"{env!r} needs views Dict(teacher=Box, student=Box), not {views}"
            )
    actions = envs.single_action_space
    is_float_box = isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating)
    if not isinstance(actions, Discrete) and not (is_float_box and actions.is_bounded()):
        raise BadInput(
            f"{env!r} needs actions Discrete or a bounded Box of floats, not {actions}"
        )


def check_env(env: str, single: gym.Env) -> None:
    """Reset and step one environment. Raises BadInput where it breaks Gymnasium's rules."""
    # Gymnasium's own two wrappers would fail first, and with a worse message. Wrappers of
    # the user's stay: they may change the views.
    gym_wrappers = (gym.wrappers.TimeLimit, gym.wrappers.OrderEnforcing)
    while isinstance(single, gym_wrappers):
        single = single.env
    started = single.reset(seed=0)
    if not isinstance(started, tuple) or len(started) != 2:
        raise BadInput(f"{env!r}: reset must return (observation, info)")
    check_views(env, started[0], single.observation_space)
    stepped = single.step(single.action_space.sample())
    if not isinstance(stepped, tuple) or len(stepped) != 5:
        returns = "(observation, reward, terminated, truncated, info)"
        raise BadInput(f"{env!r}: step must return {returns}")
    check_views(env, stepped[0], single.observation_space)


def check_views(env: str, obs, space: gym.spaces.Dict) -> None:
    """Raises BadInput unless both views have the shapes and types that are declared."""
    if not isinstance(obs, dict) or not set(AGENTS) <= obs.keys():
        raise BadInput(f"{env!r}: an observation must be a dict of teacher and student")
    for agent in AGENTS:
        view = np.asarray(obs[agent])
        declared = space[agent]
        fits = view.shape == declared.shape
        if not fits or not np.can_cast(view.dtype, declared.dtype, "same_kind"):
            expected = f"declared is {declared.dtype} {declared.shape}"
            raise BadInput(
                f"{env!r}: {agent}'s view is {view.dtype} {view.shape}, {expected}"
            )


def reset_envs(envs: VectorEnv, seed: int | None = None, ended=None) -> dict:
    """New episodes, everywhere or where `ended` (N,) is true -> the observation of all."""
    options = None if ended is None else {"reset_mask": ended}
    obs, _ = envs.reset(seed=seed, options=options)
    check_finite({agent: obs[agent] for agent in AGENTS})
    return obs


def step_envs(envs: VectorEnv, action: Tensor):
    """Step once -> obs, reward, terminated, truncated, success.

    Success is nan where the episode goes on, and where none is reported.
    """
    env_action = to_env_action(envs.single_action_space, action)
    obs, reward, terminated, truncated, info = envs.step(env_action)
    reward = np.asarray(reward, np.float32)
    check_finite({agent: obs[agent] for agent in AGENTS} | {"reward": reward})
    success = np.full(envs.num_envs, np.nan)
    if "is_success" in info:
        # Some environments may report it and others not; Gymnasium marks those that do.
        reported = info.get("_is_success", np.ones(envs.num_envs, bool))
        for n in np.flatnonzero(reported & (terminated | truncated)):
            value = info["is_success"][n]
            if not isinstance(value, (bool, np.bool_, int, float, np.number)):
                raise BadInput(f"is_success must be True or False, not {value!r}")
            success[n] = value
    return obs, reward, terminated, truncated, success


def check_finite(values: dict[str, np.ndarray]) -> None:
    """Raises BadInput that names a view or reward with nan or infinity in it."""
    for name, array in values.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            whose = f"{name}'s view" if name in AGENTS else f"the {name}"
            raise BadInput(f"{whose} is not finite")


def set_draw_student(envs: VectorEnv, draws: bool) -> None:
    """Say whether the student's view that the next step or reset returns will be used.

    An environment with an attribute `draw_student` may return any finite view while that is
    False, because drawing is what takes time. Others always draw it.
    """
    base = envs.unwrapped
    singles = [env.unwrapped for env in getattr(base, "envs", [])]
    for owner in [base, *singles]:
        if hasattr(owner, "draw_student"):
            owner.draw_student = draws


def to_tensor(obs: np.ndarray, device: torch.device) -> Tensor:  # (N, ...) -> (N, ...)
    """Make a copy, in which bytes stay bytes and all else becomes float32."""
    dtype = np.uint8 if obs.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.array(obs, dtype, order="C")).to(device)


def to_env_action(
    space: gym.Space, action: Tensor
) -> np.ndarray:  # (N,) or (N, A) -> (N, ...)
    """Turn the policy's actions into the environment's.

    Discrete ones are counted from the space's start instead of 0. Continuous ones are
    mapped from -1 .. 1 to low .. high of the Box [ours]. What lies outside is clipped here
    and nowhere else: PPO learns from the action that was sampled.
    """
    sampled = action.cpu().numpy()
    if isinstance(space, Discrete):
        return sampled + space.start
    middle = (space.high + space.low) / 2
    half = (space.high - space.low) / 2
    scaled = middle + half * sampled.reshape(-1, *space.shape)
    return scaled.clip(space.low, space.high).astype(space.dtype)


# --- What the teacher collects: steps for PPO, pairs for the encoders ---------------------


class Rollout(NamedTuple):
    """What PPO needs of one cycle's steps: T steps of N environments, (T, N, ...)."""

    obs_teacher: Tensor
    z_teacher: Tensor  # as it was when the teacher acted
    noise: Tensor  # what was added to z_teacher before the policy got it
    action: Tensor
    log_prob: Tensor  # of the action, when it was sampled
    reward: Tensor
    terminated: Tensor
    done: Tensor  # terminated or truncated
    obs_next: Tensor  # the teacher's true next view, also where the episode ended


class Pairs(NamedTuple):
    """The paper's aligned dataset (Section IV): both views of the same steps, (M, ...)."""

    obs_teacher: Tensor
    obs_student: Tensor
    action: Tensor  # the teacher's, for the baselines


@torch.no_grad()
def collect(
    envs: VectorEnv,
    obs: dict,
    nets: Networks,
    keeps_pairs: np.ndarray,
    z_noise: float = 0.0,
) -> tuple[Rollout, Pairs | None, dict]:  # keeps_pairs: (T + 1,)
    """The teacher acts for T steps (Section IV) -> rollout, pairs, the next observation.

    keeps_pairs[t] says whether the pairs of step t are kept, one pair per environment.
    Step t - 1, or the reset after it, already returns the student's view of step t. So
    before step t the environments are told whether the view of t + 1 is needed; the last
    entry, keeps_pairs[T], is for the first step of the next call. The policy gets z_T with
    noise of length `z_noise`, see `noise_like`.
    """
    device = nets.log_inverse_temperature.device
    steps = []
    pairs = []
    for t in range(len(keeps_pairs) - 1):
        obs_teacher = to_tensor(obs["teacher"], device)
        z_teacher = nets.teacher(obs_teacher)
        noise = noise_like(z_teacher, z_noise)
        distribution = nets.policy.distribution(nets.policy(z_teacher + noise))
        action = distribution.sample()
        if keeps_pairs[t]:
            pairs.append(Pairs(obs_teacher, to_tensor(obs["student"], device), action))
        set_draw_student(envs, bool(keeps_pairs[t + 1]))  # the view at step t + 1
        obs, reward, terminated, truncated, _ = step_envs(envs, action)
        done = terminated | truncated
        step = Rollout(
            obs_teacher=obs_teacher,
            z_teacher=z_teacher,
            noise=noise,
            action=action,
            log_prob=distribution.log_prob(action),
            reward=torch.tensor(reward, device=device),
            terminated=torch.tensor(terminated, device=device),
            done=torch.tensor(done, device=device),
            obs_next=to_tensor(obs["teacher"], device),
        )
        steps.append(step)
        if done.any():
            obs = reset_envs(envs, ended=done)
    # From lists of tuples to one tuple of tensors, field by field.
    rollout = Rollout(*map(torch.stack, zip(*steps)))  # (T, N, ...)
    kept = Pairs(*map(torch.cat, zip(*pairs))) if pairs else None  # (M, ...)
    return rollout, kept, obs


def noise_like(z: Tensor, length: float) -> Tensor:  # (N, D) -> (N, D)
    """Gaussian noise to be added to z; `length` is the root of its mean squared length.

    [ours: Eq. (7) makes the embeddings of two moments that look alike to the student more
    and more alike, but never quite the same. Noise drowns what difference is left, so the
    policy cannot act on it and has to look instead.]
    """
    if length == 0:
        return torch.zeros_like(z)
    return length / z.shape[-1] ** 0.5 * torch.randn_like(z)


def plan_pairs(
    n_cycles: int, first_cycle: int, config: Config
) -> np.ndarray:  # -> (all steps + 1,)
    """Choose the steps whose pairs are kept -> one bool for each step of the whole run.

    From `first_cycle` on, one of every `pairs_every` steps is chosen at random [ours: a
    fixed one could meet the same moment of every episode]. The last step of `first_cycle`
    is added, so that there are pairs when training on them begins. One more entry, always
    False, is for the step after the run, whose view nobody needs.
    """
    rng = np.random.default_rng([config.seed, 1])  # not the stream of the episodes' seeds
    n_steps = n_cycles * config.rollout_steps
    first_step = first_cycle * config.rollout_steps
    keeps_pairs = np.zeros(n_steps + 1, bool)
    keeps_pairs[first_step + config.rollout_steps - 1] = True
    for start in range(first_step, n_steps, config.pairs_every):
        end = min(start + config.pairs_every, n_steps)
        keeps_pairs[rng.integers(start, end)] = True
    return keeps_pairs


def remember(memory: Pairs | None, new: Pairs, size: int) -> Pairs:
    """The last `size` pairs of the memory and the new ones, in the order of time."""
    if memory is None:
        return Pairs(*(x[-size:] for x in new))
    return Pairs(*(torch.cat([old, x])[-size:] for old, x in zip(memory, new)))


# --- Section IV, phase one: the shared embedding ------------------------------------------


def train_embedding(
    nets: Networks, optimizer: Adam, pairs: Pairs, config: Config, progress: float
) -> Losses:
    """Phase one: both encoders and s of Eq. (6) are trained by Eq. (9) -> mean losses.

    "bits" is how well an embedding picks its partner out of the B in the minibatch: log2(B)
    minus Eq. (6) in bits. It is 0 for a blind guess, and log2(B) at best.
    """
    # Section IV-D: Eq. (8) runs through the policy but may only move the encoders. So it
    # gets a copy of the policy that takes no gradient.
    policy = copy.deepcopy(nets.policy).requires_grad_(False)
    lambda_align = align_weight(config, progress)
    minibatches = draw_pairs(pairs, config.encoder_batch, config.encoder_updates)
    logits_before = []  # of teacher and student, before the first step of this phase
    with torch.no_grad():
        for batch in minibatches:
            logits_teacher = policy(nets.teacher(batch.obs_teacher))
            logits_student = policy(nets.student(batch.obs_student))
            logits_before.append((logits_teacher, logits_student))
    logs = []
    for batch, (logits_teacher_before, logits_student_before) in zip(
        minibatches, logits_before
    ):
        z_teacher = nets.teacher(batch.obs_teacher)  # (B, D)
        z_student = nets.student(batch.obs_student)  # (B, D)
        nce = info_nce_loss(z_teacher, z_student, nets.log_inverse_temperature.exp())
        align = alignment_loss(z_teacher, z_student)
        stab = stability_loss(
            policy(z_teacher),
            policy(z_student),
            logits_teacher_before,
            logits_student_before,
        )
        loss = embedding_loss(nce, align, stab, lambda_align, config.lambda_stab)
        take_step(optimizer, loss)
        with torch.no_grad():  # at most 100 [ours: without a limit it kept growing]
            nets.log_inverse_temperature.clamp_(max=math.log(100))
        bits = (math.log(len(z_teacher)) - nce) / math.log(2)
        logs.append({"info_nce": nce, "align": align, "stab": stab, "bits": bits})
    losses = mean_of(logs)
    losses["inverse_temperature"] = nets.log_inverse_temperature.exp().item()
    return losses


def draw_minibatches(n: int, size: int, count: int) -> list[Tensor]:  # -> count of (B,)
    """Draw `count` minibatches of indices below n; each pass is shuffled anew."""
    minibatches = []
    while len(minibatches) < count:
        minibatches += torch.randperm(n).split(size)
    return minibatches[:count]


def draw_pairs(pairs: Pairs, size: int, count: int) -> list[Pairs]:  # -> count of (B, ...)
    """Draw minibatches of pairs; see `draw_minibatches`."""
    minibatches = []
    for i in draw_minibatches(len(pairs.action), size, count):
        chosen = i.to(pairs.action.device)
        # Of images this is much faster than x[chosen].
        minibatches.append(Pairs(*(x.index_select(0, chosen) for x in pairs)))
    return minibatches


def take_step(optimizer: Adam, loss: Tensor, max_grad_norm: float = math.inf) -> None:
    """One step of Adam. The gradient is clipped to a norm where one is given."""
    optimizer.zero_grad()
    loss.backward()
    if max_grad_norm < math.inf:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_grad_norm)
    optimizer.step()


def mean_of(logs: list[dict[str, Tensor]]) -> Losses:
    """The mean of each named loss over the minibatches."""
    means = {}
    for name in logs[0]:
        means[name] = torch.stack([log[name].detach() for log in logs]).mean().item()
    return means


# --- Section IV, phase two: PPO on the embedding ------------------------------------------


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:  # (T, N) each -> (T, N)
    """Generalised advantage estimation (arXiv 1506.02438, equation 16).

        A_t = delta_t + gamma lam A_t+1,   delta_t = r_t + gamma V(s_t+1) - V(s_t)

    `next_values` are of the true next observation. After a termination V(s_t+1) counts as
    zero; a truncated episode would have gone on, so there it counts. Either end (`done`)
    keeps A_t+1, which belongs to the next episode, out.
    """
    goes_on = 1 - terminated.float()
    same_episode = 1 - done.float()
    delta = rewards + gamma * next_values * goes_on - values
    advantages = torch.zeros_like(rewards)
    advantage = torch.zeros_like(rewards[0])  # (N,)
    for t in reversed(range(len(rewards))):
        advantage = delta[t] + gamma * lam * same_episode[t] * advantage
        advantages[t] = advantage
    return advantages


def ppo_losses(
    distribution: Distribution,
    value: Tensor,
    action: Tensor,
    log_prob_before: Tensor,
    advantage: Tensor,
    returns: Tensor,
    clip: float,
) -> dict[str, Tensor]:  # (B,) each -> () each
    """Eq. (1) by PPO (arXiv 1707.06347, equation 9): policy loss, value loss, entropy.

        ratio = pi(a | z) / pi_before(a | z)
        policy loss = - mean min( ratio A, clip(ratio, 1 - clip, 1 + clip) A )

    For the log: an estimate of KL(pi_before || pi), and the share of clipped ratios.
    """
    log_ratio = distribution.log_prob(action) - log_prob_before
    ratio = log_ratio.exp()
    normalised = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    clipped_ratio = ratio.clamp(1 - clip, 1 + clip)
    return {
        "policy_loss": -torch.minimum(
            ratio * normalised, clipped_ratio * normalised
        ).mean(),
        "value_loss": F.mse_loss(value, returns),
        "entropy": distribution.entropy().mean(),
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip).float().mean(),
    }


def weighted_ppo_loss(
    losses: dict[str, Tensor], policy: Policy, config: Config, progress: float
) -> Tensor:  # () each -> ()
    """PPO's loss: the weighted sum of what `ppo_losses` returns."""
    loss = losses["policy_loss"] + config.value_coef * losses["value_loss"]
    if policy.log_std is None:  # discrete actions; a Gaussian gets no bonus [ppo]
        loss = loss - entropy_weight(config, progress) * losses["entropy"]
    return loss


def train_policy(
    nets: Networks, optimizer: Adam, rollout: Rollout, config: Config, progress: float
) -> Losses:
    """Phase two: PPO on the steps that the teacher has collected -> mean losses."""
    method = find_method(config.method)
    # Where time does not matter, the steps lie in one row, (T*N, ...).
    obs_teacher = rollout.obs_teacher.flatten(0, 1)
    noise = rollout.noise.flatten(0, 1)
    z_policy = rollout.z_teacher.flatten(0, 1) + noise  # what the policy got
    action = rollout.action.flatten(0, 1)
    log_prob_before = rollout.log_prob.flatten()
    reward = rollout.reward  # (T, N)
    with torch.no_grad():
        if method.has_proxy:  # SITT penalises states in which the student cannot follow
            # PPO's loss should pull the teacher to the proxy, and not the proxy to the
            # teacher. So its logits are computed once, by a copy of the policy that is not
            # trained. The same copy turns them into distributions, a Gaussian's with the
            # standard deviation as it is now.
            policy_before = copy.deepcopy(nets.policy).requires_grad_(False)
            logits_proxy = policy_before(nets.proxy(obs_teacher))  # (T*N, A)
            teacher_acts = policy_before.distribution(policy_before(z_policy))
            proxy_acts = policy_before.distribution(logits_proxy)
            penalty = imitation_kl(teacher_acts, proxy_acts).view_as(reward)
            reward = reward - config.sitt_lambda1 * penalty  # Eq. (10), in the reward
        values = nets.critic(obs_teacher).view_as(reward)
        next_values = nets.critic(rollout.obs_next.flatten(0, 1)).view_as(reward)
        advantages = gae(
            reward,
            values,
            next_values,
            rollout.terminated,
            rollout.done,
            config.gamma,
            config.gae_lambda,
        )
        advantage = advantages.flatten()
        returns = advantage + values.flatten()
        # Share of the returns' variance that the critic does not predict; for the log.
        unexplained = advantage.var() / (returns.var() + 1e-8)

    n_updates = config.ppo_epochs * math.ceil(len(action) / config.ppo_batch)
    logs = []
    for i in draw_minibatches(len(action), config.ppo_batch, n_updates):  # i (B,)
        # Section IV: "policy gradients ... are not passed through the embedding networks".
        # The stored z was made without a graph, so no gradient can reach the encoder.
        z = z_policy[i]  # (B, D)
        if method.policy_gradient_reaches_encoder:  # baselines: embed anew, with a graph
            z = nets.teacher(obs_teacher[i]) + noise[i]
        distribution = nets.policy.distribution(nets.policy(z))
        value = nets.critic(obs_teacher[i])  # (B,)
        log = ppo_losses(
            distribution,
            value,
            action[i],
            log_prob_before[i],
            advantage[i],
            returns[i],
            config.clip,
        )
        loss = weighted_ppo_loss(log, nets.policy, config, progress)
        if method.has_proxy:
            proxy_target = policy_before.distribution(logits_proxy[i])
            log["penalty"] = imitation_kl(distribution, proxy_target).mean()
            # Eq. (10), in the policy's loss
            loss = loss + config.sitt_lambda2 * log["penalty"]
        take_step(optimizer, loss, config.max_grad_norm)
        logs.append(log)
    losses = mean_of(logs)
    losses["explained_variance"] = 1 - unexplained.item()
    return losses


# --- Section V-B: the baselines, and all rows of Table I ----------------------------------


def train_bc_student(
    nets: Networks, optimizer: Adam, pairs: Pairs, config: Config, progress: float
) -> Losses:
    """Behaviour cloning: maximise the likelihood [ours] of the teacher's actions.

    The teacher is trained by now and stays as it is. The student is trained only in the
    last quarter of the cycles (`Method.student_share`), with four times the updates in
    each: in all as many as in other methods. `progress` is unused; it is there because all
    functions that train on pairs take the same arguments.
    """
    updates = round(config.encoder_updates / find_method(config.method).student_share)
    logs = []
    for batch in draw_pairs(pairs, config.encoder_batch, updates):
        distribution = nets.distribution("student", batch.obs_student)
        imitation = -distribution.log_prob(batch.action).mean()
        take_step(optimizer, imitation)
        logs.append({"imitation": imitation})
    return mean_of(logs)


def train_sitt_student(
    nets: Networks, optimizer: Adam, pairs: Pairs, config: Config, progress: float
) -> Losses:
    """SITT's imitation phase: the student imitates the teacher, the proxy the student.

    Written from the description in arXiv 2412.09149. Each imitates embeddings and logits,
    by L1 distances. The teacher's encoder and the policy are not trained here, only in
    `train_policy`, where the proxy stands for the student in Eq. (10). `progress` is
    unused here, too.
    """
    policy = copy.deepcopy(nets.policy).requires_grad_(False)
    logs = []
    for batch in draw_pairs(pairs, config.encoder_batch, config.encoder_updates):
        z_teacher = nets.teacher(batch.obs_teacher).detach()  # (B, D): a constant target
        z_student = nets.student(batch.obs_student)  # (B, D)
        z_proxy = nets.proxy(batch.obs_teacher)  # (B, D)
        logits_student = policy(z_student)  # (B, A)
        student_loss = F.l1_loss(z_student, z_teacher)
        student_loss = student_loss + F.l1_loss(logits_student, policy(z_teacher))
        proxy_loss = F.l1_loss(z_proxy, z_student.detach())
        proxy_loss = proxy_loss + F.l1_loss(policy(z_proxy), logits_student.detach())
        take_step(optimizer, student_loss + proxy_loss)
        logs.append({"student_to_teacher": student_loss, "proxy_to_student": proxy_loss})
    return mean_of(logs)


class Method(NamedTuple):
    """A row of Table I, or of our own: everything in which it differs from the others."""

    train_on_pairs: Callable  # (nets, optimizer, pairs, config, progress) -> losses
    settings: dict = {}  # fields of Config that the method fixes, with their values
    unread: tuple = ()  # fields of Config that it does not read
    policy_gradient_reaches_encoder: bool = False  # the paper's point is that it does not
    has_student_policy: bool = False  # the student has a policy network of its own
    has_proxy: bool = False  # SITT's imitation of the student
    # 1: each cycle has both phases. Between 0 and 1: the last cycles, this share of them,
    # have only the training on pairs, and those before them only PPO.
    student_share: float = 1.0
    paper: dict = {}  # environment -> success of (teacher, student) in the paper's Table I


# Settings that only methods with Eq. (9), or with Eq. (10), read.
EQ_9 = ("lambda_align", "lambda_stab", "inverse_temperature")
EQ_10 = ("sitt_lambda1", "sitt_lambda2")
METHODS = {
    "bc": Method(
        train_bc_student,
        settings={"z_noise": 0.0},
        unread=EQ_9 + EQ_10,
        policy_gradient_reaches_encoder=True,
        has_student_policy=True,
        student_share=0.25,
        paper={"tunnelvision": (1.00, 0.19), "collecthealth": (1.00, 0.47)},
    ),
    "sitt": Method(
        train_sitt_student,
        settings={"z_noise": 0.0},
        unread=EQ_9,
        policy_gradient_reaches_encoder=True,
        has_proxy=True,
        paper={"tunnelvision": (0.91, 0.72), "collecthealth": (0.94, 0.51)},
    ),
    # Not in Table I: ours, but PPO's gradient does reach the teacher's encoder.
    "policy-gradient": Method(
        train_embedding,
        unread=EQ_10,
        policy_gradient_reaches_encoder=True,
    ),
    "no-align": Method(
        train_embedding,
        settings={"lambda_align": 0.0},
        unread=EQ_10,
        paper={"tunnelvision": (0.99, 0.91), "collecthealth": (0.94, 0.73)},
    ),
    "no-stability": Method(
        train_embedding,
        settings={"lambda_stab": 0.0},
        unread=EQ_10,
        paper={"tunnelvision": (0.79, 0.78), "collecthealth": (0.97, 0.95)},
    ),
    "ours": Method(
        train_embedding,
        unread=EQ_10,
        paper={"tunnelvision": (1.00, 1.00), "collecthealth": (0.99, 0.98)},
    ),
}


def find_method(name: str) -> Method:
    """A row of METHODS, or "module:name" for a `Method` of the user's. Raises BadInput."""
    if name in METHODS:
        return METHODS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(METHODS)
        raise BadInput(
            f"unknown method {name!r}; there are {known}, and module:name of your own"
        )
    try:
        method = getattr(import_user_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"cannot find method {name!r}: {error}") from error
    if not isinstance(method, Method):
        raise BadInput(f"method {name!r} is not a tsalign.Method")
    if not 0 < method.student_share <= 1:
        raise BadInput(f"method {name!r}: student_share must be above 0 and at most 1")
    return method


# --- Evaluation ---------------------------------------------------------------------------


@torch.no_grad()
def play_episodes(
    envs: VectorEnv,
    nets: Networks,
    agent: str,
    episodes_each: int,
    seed: int,
    step_limit: int,
) -> tuple[np.ndarray, np.ndarray]:  # -> (E,), (E,)
    """Undiscounted return and success (nan: not reported) of one agent's E episodes.

    Each environment gives equally many: the first E that end anywhere would be mostly short
    ones. Actions are sampled [ours: a policy without memory that always takes the likeliest
    action can go in circles for ever].
    """
    device = nets.log_inverse_temperature.device
    n_finished = np.zeros(envs.num_envs, int)
    episode_return = np.zeros(envs.num_envs)
    episode_steps = np.zeros(envs.num_envs, int)
    returns = []
    successes = []
    set_draw_student(envs, agent == "student")
    obs = reset_envs(envs, seed=seed)
    while n_finished.min() < episodes_each:
        action = nets.distribution(agent, to_tensor(obs[agent], device)).sample()
        obs, reward, terminated, truncated, success = step_envs(envs, action)
        episode_return += reward
        episode_steps += 1
        if episode_steps.max() > step_limit:
            raise BadInput(
                f"an episode goes on after {step_limit} steps: register max_episode_steps, "
                "or raise --episode-limit"
            )
        ended = terminated | truncated
        counts = ended & (n_finished < episodes_each)
        returns.extend(episode_return[counts])
        successes.extend(success[counts])
        n_finished[ended] += 1
        episode_return[ended] = 0
        episode_steps[ended] = 0
        if ended.any():
            obs = reset_envs(envs, ended=ended)
    return np.array(returns), np.array(successes)


def evaluate(
    envs: VectorEnv,
    nets: Networks,
    episodes: int,
    seed: int,
    step_limit: int = 10_000,
) -> dict[str, float]:
    """Success rate and mean return of both agents, from the same seeds, and their gap.

    The episodes are rounded up to a multiple of the number of environments. The gap is one
    of success rates, or of returns where not both agents have a success rate. An agent has
    one if any episode reports `is_success`; episodes that do not report it count as
    failures. "_se" is the standard error of the mean return.
    """
    episodes_each = math.ceil(episodes / envs.num_envs)
    score = {}
    for agent in AGENTS:
        returns, successes = play_episodes(
            envs, nets, agent, episodes_each, seed, step_limit
        )
        score[f"return_{agent}"] = float(returns.mean())
        score[f"return_{agent}_se"] = float(returns.std() / len(returns) ** 0.5)
        if not np.isnan(successes).all():
            score[f"success_{agent}"] = float(np.nan_to_num(successes).mean())
    kind = kind_of_score(score)
    score["gap"] = score[f"{kind}_teacher"] - score[f"{kind}_student"]
    return score


def kind_of_score(score: dict) -> str:
    """What agents are compared by: "success" where both have reported it, or "return"."""
    has_success = "success_teacher" in score and "success_student" in score
    return "success" if has_success else "return"


# --- The one training loop ----------------------------------------------------------------


def train(config: Config) -> dict:
    """Train one method on one environment with one seed -> what `result.json` holds.

    Sets torch's seed and number of threads. Evaluations draw from the same generator, so a
    run with another number of them is another run. Raises BadInput before anything is
    trained or saved, and RunStopped where a run cannot go on.
    """
    start = time.perf_counter()
    config = checked(config)
    device = pick_device(config.device)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    n_eval_envs = min(config.num_envs, config.log_episodes)
    with closing(make_envs(config.env, config.num_envs)) as envs:
        with closing(make_envs(config.env, n_eval_envs)) as eval_envs:
            nets = Networks(envs, config).to(device)
            rows = training_loop(envs, eval_envs, nets, config)
    result = {
        "env": config.env,
        "method": config.method,
        "seed": config.seed,
        **rows[-1],
        "eval_episodes": n_eval_envs * math.ceil(config.eval_episodes / n_eval_envs),
        "seconds": time.perf_counter() - start,
        "device": str(device),
        "torch": torch.__version__,
    }
    with saving(config):
        save_curve(config, rows)
        write_at_once(config.folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def training_loop(
    envs: VectorEnv, eval_envs: VectorEnv, nets: Networks, config: Config
) -> list[dict]:
    """Each cycle: collect, train the policy, train the encoders -> the rows of the log.

    The paper names the encoders (phase one) first. As the phases alternate, the order only
    changes how a run begins and ends. Here the policy comes first, so that the z stored
    while collecting are still what the encoder returns. (In the first cycle that is not
    quite so, as the input ranges are set in between.)
    """
    method = find_method(config.method)
    policy_optimizer, pairs_optimizer = make_optimizers(nets, config)
    n_cycles = math.ceil(config.total_steps / (config.num_envs * config.rollout_steps))
    # `train_policy` runs in the first n_ppo cycles, `train_on_pairs` from first_cycle on.
    # In all methods but bc both run in every cycle; in bc one follows the other.
    n_ppo = n_cycles
    first_cycle = 0
    if method.student_share < 1:
        first_cycle = n_cycles - math.ceil(n_cycles * method.student_share)
        n_ppo = first_cycle
    if n_ppo == 0:
        raise BadInput("no cycle is left for PPO: raise total_steps")
    keeps_pairs = plan_pairs(n_cycles, first_cycle, config)
    rng = np.random.default_rng(config.seed)
    # Some simulators take no seed above 2**31, and environment i gets the seed plus i.
    seeds = rng.integers(2**30, size=n_cycles + 1).tolist()

    set_draw_student(envs, bool(keeps_pairs[0]))
    obs = reset_envs(envs, seed=seeds[0])  # the other seeds are for the evaluations
    open_folder(config)
    print_settings(config, nets.log_inverse_temperature.device)
    memory = None
    losses = {}  # the latest of each name: those of bc's PPO stay when PPO has ended
    rows = []
    student_views = 0
    train_seconds = 0.0  # without the evaluations
    for cycle in range(n_cycles):
        start = time.perf_counter()
        first_step = cycle * config.rollout_steps
        env_steps = (first_step + config.rollout_steps) * config.num_envs
        try:
            of_cycle = keeps_pairs[first_step : first_step + config.rollout_steps + 1]
            rollout, pairs, obs = collect(envs, obs, nets, of_cycle, config.z_noise)
            if cycle == 0:
                nets.fit_input_ranges("teacher", rollout.obs_teacher.flatten(0, 1))
            if pairs is not None:
                if memory is None:
                    nets.fit_input_ranges("student", pairs.obs_student)
                memory = remember(memory, pairs, config.pairs_memory)
                student_views += len(pairs.action)
            if cycle < n_ppo:
                progress = cycle / n_ppo
                set_rate(policy_optimizer, ppo_rate(config, progress))
                losses |= train_policy(nets, policy_optimizer, rollout, config, progress)
            if cycle >= first_cycle:
                progress = (cycle - first_cycle) / (n_cycles - first_cycle)
                set_rate(pairs_optimizer, encoder_rate(config, progress))
                losses |= method.train_on_pairs(
                    nets, pairs_optimizer, memory, config, progress
                )
            if not all(math.isfinite(loss) for loss in losses.values()):
                raise RunStopped(f"a loss is not finite: {losses}")
            train_seconds += time.perf_counter() - start
            if is_evaluated(cycle, n_cycles, config):
                is_last = cycle + 1 == n_cycles
                episodes = config.eval_episodes if is_last else config.log_episodes
                seed = seeds[cycle + 1]
                score = evaluate(eval_envs, nets, episodes, seed, config.episode_limit)
                spent = {
                    "env_steps": env_steps,
                    "student_views": student_views,
                    "train_seconds": train_seconds,
                }
                rows.append(spent | score | losses)
                print_row(rows, seconds_left=train_seconds * (n_cycles / (cycle + 1) - 1))
                with saving(config):
                    save_log(config, rows)
                    save_checkpoint(config, nets)
        except (BadInput, RunStopped) as error:
            message = (
                f"{error}; stopped in the cycle that ends at {env_steps} environment steps"
            )
            raise RunStopped(message) from error
    return rows


def is_evaluated(cycle: int, n_cycles: int, config: Config) -> bool:
    """Whether this cycle ends with an evaluation: `log_evals` evenly spaced ones do.

    After a share x of the cycles, x * log_evals evaluations are due, rounded down. A cycle
    is evaluated if one more is due after it than before.
    """
    due_before = config.log_evals * cycle // n_cycles
    due_after = config.log_evals * (cycle + 1) // n_cycles
    return due_after > due_before


def pick_device(name: str) -> torch.device:
    """The named one, or the first of cuda, mps, cpu. Raises BadInput if it is missing."""
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    elif name == "auto" and torch.backends.mps.is_available():
        name = "mps"
    elif name == "auto":
        name = "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # fails also on "meta", which holds no data
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device {name!r} is not available: {first_line(error)}") from error


def make_optimizers(nets: Networks, config: Config) -> tuple[Adam, Adam]:
    """Return two optimizers: one for PPO's loss, one for the loss on pairs of views.

    PPO's has the parameters of the policy and the critic. The other has the rest: both
    encoders, s of Eq. (6) and, where a method has them, SITT's proxy and the student's own
    policy. Where a method lets PPO's gradient reach the teacher's encoder, that encoder is
    in both. A parameter on which a loss does not depend has no gradient, and Adam leaves it
    as it is: so bc and sitt do not move the teacher's encoder by their losses on pairs.
    """
    for_policy = []
    for_pairs = []
    for name, parameter in nets.named_parameters():
        network = name.partition(".")[0]
        if network in ("policy", "critic"):
            for_policy.append(parameter)
        else:
            for_pairs.append(parameter)
    if find_method(config.method).policy_gradient_reaches_encoder:
        for_policy += nets.teacher.parameters()
    is_fused = for_policy[0].device.type in ("cpu", "cuda")  # torch's fast form of Adam
    # Adam divides each step by the root mean square (RMS) of the recent gradients. beta2
    # says how recent: .999, the usual one, means about a thousand, .99 about a hundred.
    # [ours: once a policy wins, its gradients are tiny, and so is their RMS. Then a rare
    # large gradient moved the policy much too far, and what was learned was lost. The
    # shorter the memory of the RMS, the sooner it grows with the gradient.]
    policy_optimizer = Adam(for_policy, config.ppo_lr, betas=(0.9, 0.99), fused=is_fused)
    return policy_optimizer, Adam(for_pairs, config.encoder_lr, fused=is_fused)


def first_line(error: Exception) -> str:
    """Cut short what an exception says; torch's can be pages long."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def set_rate(optimizer: Adam, rate: float) -> None:
    """Set the optimizer's learning rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


# --- Run folders --------------------------------------------------------------------------


def open_folder(config: Config) -> None:
    """Make the run's folder and `config.json`. Raises BadInput where that cannot be."""
    result = config.folder / "result.json"
    if result.exists() and not config.overwrite:
        raise BadInput(
            f"{config.folder} holds a finished run; choose another --out, or --overwrite"
        )
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        write_at_once(
            config.folder / "config.json", json.dumps(asdict(config), indent=2) + "\n"
        )
        for name in ("result.json", "log.csv", "curve.png", "checkpoint.pt"):
            (config.folder / name).unlink(missing_ok=True)  # of the run that is replaced
    except OSError as error:
        raise BadInput(f"cannot write to {config.folder}: {error.strerror}") from error


@contextmanager
def saving(config: Config):
    """Raises RunStopped where something cannot be written, to a full disk for instance."""
    try:
        yield
    except Exception as error:  # torch and matplotlib raise others than OSError
        for unfinished in config.folder.glob("*.tmp"):
            unfinished.unlink()
        raise RunStopped(f"cannot save in {config.folder}: {first_line(error)}") from error


def write_at_once(path: Path, content: str) -> None:
    """Write a file so that it is either whole or as it was before."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(content)
    unfinished.replace(path)


def print_settings(config: Config, device: torch.device) -> None:
    """Print what runs, and the settings that differ from Config's defaults."""
    print(f"{config.env} {config.method} seed {config.seed} on {device}")
    for f in fields(Config):
        value = getattr(config, f.name)
        is_skipped = f.name in ("env", "method", "seed", "out", "overwrite")
        if value != f.default and not is_skipped:
            print(f"  {f.name} {value}")


def print_row(rows: list[dict], seconds_left: float) -> None:
    """Print one aligned line for the last evaluation; above the first, the names."""
    row = rows[-1]
    kind = kind_of_score(row)
    columns = {
        "steps": f"{row['env_steps']:,}",
        "teacher": f"{row[f'{kind}_teacher']:.3f}",
        "student": f"{row[f'{kind}_student']:.3f}",
        "gap": f"{row['gap']:.3f}",
        "views": f"{row['student_views']:,}",
        "entropy": f"{row.get('entropy', math.nan):.3f}",
        "bits": f"{row.get('bits', math.nan):.2f}",
        "steps/s": f"{row['env_steps'] / row['train_seconds']:,.0f}",
        "s left": f"{seconds_left:.0f}",
    }
    if len(rows) == 1:
        print(f"{kind} of teacher and student, and student's views, entropy, bits shared")
        print(" ".join(f"{name:>9}" for name in columns))
    print(" ".join(f"{text:>9}" for text in columns.values()), flush=True)


def save_log(config: Config, rows: list[dict]) -> None:
    """Write `log.csv` anew: a later row may have columns that the first ones do not."""
    columns = {}  # a dict keeps the order in which names first came
    for row in rows:
        columns.update(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_at_once(config.folder / "log.csv", text.getvalue())


def save_checkpoint(config: Config, nets: Networks) -> None:
    """Save settings and weights as of now. If the disk is full, the last ones stay."""
    unfinished = config.folder / "checkpoint.tmp"
    torch.save({"config": asdict(config), "networks": nets.state_dict()}, unfinished)
    unfinished.replace(config.folder / "checkpoint.pt")


def save_curve(config: Config, rows: list[dict]) -> None:
    """Draw both agents' scores over environment steps as `curve.png`."""
    kind = kind_of_score(rows[-1])
    steps = [row["env_steps"] for row in rows]
    figure = Figure(figsize=(5.5, 3.8), layout="tight")
    axis = figure.subplots()
    for agent, style in {"teacher": "--", "student": "-"}.items():
        scores = [row.get(f"{kind}_{agent}", math.nan) for row in rows]
        axis.plot(steps, scores, style, label=agent)
    axis.set(title=config.folder.name, xlabel="environment steps", ylabel=kind)
    axis.legend()
    figure.savefig(config.folder / "curve.png", dpi=130)


def load_run(folder: str | Path) -> tuple[Config, Networks]:
    """Load settings and networks of a run, on the CPU, as of its last evaluation.

    Raises BadInput where there is no whole checkpoint.
    """
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        raise BadInput(f"no run has been saved in {folder}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        config = Config(**saved["config"])
    except Exception as error:  # torch has many for a file that is cut off
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from error
    envs = make_envs(config.env, 1)
    nets = Networks(envs, config)
    envs.close()
    nets.load_state_dict(saved["networks"])
    return config, nets


# --- Settings and command line ------------------------------------------------------------


def checked(config: Config) -> Config:
    """Check the settings, fill in the steps and what the method fixes. Raises BadInput."""
    for f in fields(Config):
        value = getattr(config, f.name)
        if f.type is float and type(value) is int:
            continue  # 1 for 1.0
        if type(value) is not f.type:
            raise BadInput(f"{f.name} must be {f.type.__name__}, not {value!r}")
        if f.type is float and not math.isfinite(value):
            raise BadInput(f"{f.name} must be a finite number, not {value}")
    check_ranges(config)
    method = find_method(config.method)
    default = Config()
    for name in method.unread:
        if getattr(config, name) != getattr(default, name):
            raise BadInput(f"method {config.method} does not read {name}")
    for name, value in method.settings.items():
        # The default passes, too: perhaps the user has not set it.
        if getattr(config, name) not in (value, getattr(default, name)):
            raise BadInput(f"method {config.method} fixes {name} at {value}")
    env, _, _ = config.env.partition(",")
    steps = config.total_steps or STEPS.get(env, STEPS_ELSEWHERE)
    return replace(config, total_steps=steps, **method.settings)


def check_ranges(config: Config) -> None:
    """Raises BadInput for a number that is too small or too large."""
    may_be_0 = ("seed", "total_steps")
    # A single pair has no negatives, and a single step has a normalised advantage of 0.
    # With one environment a rollout of one step would be such a minibatch, too.
    least = {"encoder_batch": 2, "ppo_batch": 2, "rollout_steps": 2}
    most = {"gamma": 1, "gae_lambda": 1, "inverse_temperature": 100}
    for f in fields(Config):
        value = getattr(config, f.name)
        smallest = 0
        if f.type is int and f.name not in may_be_0:
            smallest = least.get(f.name, 1)
        if f.name == "sitt_lambda1":
            smallest = -math.inf  # below 0, Eq. (10) is a bonus: an experiment
        if f.type in (int, float) and value < smallest:
            raise BadInput(f"{f.name} must be at least {smallest}, not {value}")
        largest = most.get(f.name, 2**63 - 1)  # no larger whole number fits into a tensor
        if f.type in (int, float) and value > largest:
            raise BadInput(f"{f.name} must be at most {largest}, not {value}")
    if config.inverse_temperature == 0:
        raise BadInput("inverse_temperature must be above 0")


def whole_number(text: str) -> int:
    """Read "780000", "780_000" or "7.8e5" from the command line. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if not value.is_integer():  # nor is inf or nan
        raise ValueError
    return int(value)


def fail(message: str, code: int = 2) -> None:
    """Exit with one clear line on stderr and the exit code."""
    print("tsalign:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def parse_flags(arguments: list[str] | None) -> Config:
    """Read the command line; each field of Config is a flag."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=style, allow_abbrev=False
    )
    parser.error = fail
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        text = f"{f.metadata['help']} (default: {f.default})"
        if f.type is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            kind = whole_number if f.type is int else f.type
            parser.add_argument(flag, type=kind, default=f.default, help=text)
    return Config(**vars(parser.parse_args(arguments)))


def print_result(config: Config, result: dict) -> None:
    """Print the final scores of both agents, beside the paper's where it has them."""
    table = {}
    if kind_of_score(result) == "success":
        table["success"] = (result["success_teacher"], result["success_student"])
    paper = find_method(config.method).paper  # Table I
    if config.env in paper:
        table["success in the paper"] = paper[config.env]
    table["return"] = (result["return_teacher"], result["return_student"])
    print(f"\n{config.env + ' ' + config.method:27}teacher  student      gap")
    for label, (teacher, student) in table.items():
        print(f"{label:27}{teacher:7.3f}  {student:7.3f}  {teacher - student:7.3f}")
    where = f"{result['seconds']:.0f} s; saved in {config.folder}"
    print(f"{result['eval_episodes']} fresh episodes of each; {where}")


def main(arguments: list[str] | None = None) -> None:
    """Run `python tsalign.py`. Exit code: 2 bad input, 1 a stopped run, 130 Ctrl-C."""
    sys.path.append(str(Path.cwd()))  # for --env my_file:MyEnv-v0
    try:
        config = parse_flags(arguments)
        result = train(config)
    except BadInput as error:
        fail(str(error), code=2)
    except RunStopped as error:
        fail(str(error), code=1)
    except KeyboardInterrupt:
        fail("interrupted; what the last evaluation saved stays in the folder", code=130)
    print_result(config, result)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # end quietly when the output is piped into `head`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # A user's file that imports tsalign shall get this module, and not a second copy, whose
    # `Method` would be another class.
    sys.modules["tsalign"] = sys.modules["__main__"]
    main()
