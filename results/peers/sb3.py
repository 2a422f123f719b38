"""PPO of stable-baselines3 on the student's view, with its usual settings for images.

These are what its RL Zoo has for Atari, held constant. Our `Encoder` is its features
extractor, with two layers above it for the policy and two for the critic, so that inputs
and sizes are as in all other methods. stable-baselines3 has vector environments of its own
kind, so an adapter hands it ours.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.distributions import Distribution

import tsalign
from tsalign import Config, Encoder, Method

NUM_ENVS = 8
N_STEPS = 128  # of each, in a cycle


class StudentEnvs(VecEnv):
    """N environments as stable-baselines3 wants them: one view, reset as soon as they end.

    Images are flat, (N, H*W*C), so that it neither scales nor transposes them. Its own
    `DummyVecEnv` would step copies one by one and take up to half again as long.
    """

    # PPO needs none of these.
    close = None
    set_attr = None
    env_method = None
    env_is_wrapped = None

    def __init__(self, envs) -> None:
        self.envs = envs
        view = envs.single_observation_space["student"]
        flat = Box(view.low.ravel(), view.high.ravel(), dtype=view.dtype)
        super().__init__(envs.num_envs, flat, envs.single_action_space)

    def get_attr(self, attr_name: str, indices=None) -> list:
        """It asks for `render_mode`."""
        return [None] * self.num_envs

    def reset(self) -> np.ndarray:  # -> (N, H*W*C)
        """Reset all environments; environment i has the seed of the first plus i."""
        obs = tsalign.reset_envs(self.envs, seed=self._seeds[0])
        return obs["student"].reshape(self.num_envs, -1)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,) or (N, A)."""
        self.actions = torch.as_tensor(actions)

    def step_wait(self):
        """One step; where an episode ends, its last view is in `infos`."""
        obs, reward, terminated, truncated, _ = tsalign.step_envs(self.envs, self.actions)
        done = terminated | truncated
        infos = [{} for _ in reward]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = obs["student"][i].flatten()
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        if done.any():
            obs = tsalign.reset_envs(self.envs, ended=done)
        return obs["student"].reshape(self.num_envs, -1), reward, done, infos


class Features(BaseFeaturesExtractor):
    """Our `Encoder`, its entries of unit size as `tsalign.Policy` makes them."""

    def __init__(self, flat: Box, view: Box, config: Config) -> None:
        super().__init__(flat, config.embedding_dim)
        self.view_shape = view.shape
        self.encoder = Encoder(view, config.embedding_dim, config.width)

    def forward(self, obs: Tensor) -> Tensor:  # (B, H*W*C) -> (B, D)
        """Features of a flat view."""
        return self.encoder(obs.reshape(-1, *self.view_shape)) * self.features_dim**0.5


class Player(NamedTuple):
    """What `tsalign.play_episodes` asks of networks, from a policy of stable-baselines3."""

    policy: nn.Module
    log_inverse_temperature: Tensor = torch.zeros(())  # says which device it is on

    def distribution(
        self, agent: str, obs: Tensor
    ) -> Distribution:  # (B, ...) -> over (B,)
        """There is only a student."""
        return self.policy.get_distribution(obs.flatten(1)).distribution


def train_sb3(config: Config) -> Iterator[tuple[int, int, Player]]:
    """As the generators in rivals.py."""
    envs = tsalign.make_envs(config.env, NUM_ENVS)
    view = envs.single_observation_space["student"]
    networks = {
        "features_extractor_class": Features,
        "features_extractor_kwargs": {"view": view, "config": config},
        "net_arch": [config.width, config.width],
        "activation_fn": nn.ReLU,
    }
    model = PPO(
        "MlpPolicy",
        StudentEnvs(envs),
        n_steps=N_STEPS,
        batch_size=256,
        n_epochs=4,
        learning_rate=2.5e-4,
        clip_range=0.1,
        ent_coef=0.01,
        policy_kwargs=networks,
        device="cpu",
        seed=config.seed,
    )
    player = Player(model.policy)
    while model.num_timesteps < config.total_steps:
        model.learn(NUM_ENVS * N_STEPS, reset_num_timesteps=False)
        yield model.num_timesteps, model.num_timesteps, player


sb3 = Method(train_sb3)  # as in rivals.py
