"""PPO of stable-baselines3 on the student's view alone, with our networks, in three settings.

A teacher is not involved. stable-baselines3 has no vector environments of Gymnasium's kind, so an
adapter hands it ours; and our `Encoder` is its features extractor, with two layers above it for the
policy and two for the critic as in `Head`, so inputs are centred in the same way.
"""

from typing import Iterator

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.distributions import Distribution

from results.peers.actor_critic import entropy_bonus
from tsalign import Config, Encoder, make_envs, step_envs

# "as usual for images" are the values that stable-baselines3's RL Zoo has for Atari, held constant;
# at its defaults PPO has one environment.
IMAGES = dict(n_steps=128, batch_size=256, n_epochs=4, learning_rate=2.5e-4, clip_range=0.1,
              ent_coef=0.01)  # fmt: skip


def as_ours(config: Config) -> dict:
    """Our settings by the names they have there; the entropy bonus follows cycle by cycle."""
    return dict(
        n_steps=config.rollout_steps, batch_size=config.ppo_batch, n_epochs=config.ppo_epochs,
        learning_rate=config.ppo_lr, gamma=config.gamma, gae_lambda=config.gae_lambda,
        clip_range=config.clip, vf_coef=config.value_coef, max_grad_norm=config.max_grad_norm,
    )  # fmt: skip


class StudentEnvs(VecEnv):
    """N environments as stable-baselines3 wants them: one view, reset as soon as they end.

    Images are flat, (N, H*W*C), so that it neither scales nor transposes them: `Encoder` does.
    """

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        self.envs, space = envs, envs.single_observation_space["student"]
        flat = Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype)
        super().__init__(envs.num_envs, flat, envs.single_action_space)

    def view(self, obs: dict) -> np.ndarray:
        """The student's, (N, ...) -> (N, H*W*C)."""
        return obs["student"].reshape(self.num_envs, -1)

    def reset(self) -> np.ndarray:
        """All environments; environment i has the seed of the first plus i."""
        obs, _ = self.envs.reset(seed=self._seeds[0])
        self._reset_seeds()
        return self.view(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, (N,)."""
        self.actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """One step; where an episode ends, `infos` has its last view and the view is a new one."""
        obs, reward, terminated, truncated, _ = step_envs(self.envs, self.actions)
        view, done, infos = self.view(obs), terminated | truncated, [{} for _ in reward]
        for i in np.flatnonzero(done):
            infos[i] = {"terminal_observation": view[i].copy()}
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        if done.any():
            obs, _ = self.envs.reset(options={"reset_mask": done})
        return self.view(obs), reward, done, infos

    def close(self) -> None:
        """Close our environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices=None) -> list:
        """The same for every environment."""
        return [getattr(self.envs, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value, indices=None) -> None:
        """Not needed by PPO."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args, indices=None, **kwargs) -> list:
        """Not needed by PPO."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices=None) -> list[bool]:
        """None is."""
        return [False] * self.num_envs


class Features(BaseFeaturesExtractor):
    """Our `Encoder`, its entries of unit size as `Head` makes them."""

    def __init__(self, flat: Box, space: Box, config: Config) -> None:
        super().__init__(flat, config.embedding_dim)
        self.encoder, self.shape = Encoder(space, config), space.shape

    def forward(self, obs: Tensor) -> Tensor:  # (B, H*W*C) -> (B, D)
        """Features of a flat view."""
        return self.encoder(obs.reshape(-1, *self.shape)) * self.features_dim**0.5


class Player(nn.Module):
    """What `tsalign.play_episodes` asks of networks, from a policy of stable-baselines3."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def distribution(self, agent: str, obs: Tensor) -> Distribution:  # (B, ...) -> over (B,)
        """There is only a student."""
        return self.policy.get_distribution(obs.flatten(1)).distribution


def train(config: Config) -> Iterator[tuple[int, Player]]:
    """After every cycle of its own: the environment steps so far, and who plays."""
    settings = {"sb3-default": {}, "sb3-images": IMAGES}.get(config.method, as_ours(config))
    num_envs = {"sb3-default": 1, "sb3-images": 8}.get(config.method, config.num_envs)
    envs = make_envs(config.env, num_envs)
    networks = dict(
        features_extractor_class=Features,
        features_extractor_kwargs=dict(
            space=envs.single_observation_space["student"], config=config
        ),
        net_arch=[config.width, config.width], activation_fn=nn.ReLU,
    )  # fmt: skip
    model = PPO("MlpPolicy", StudentEnvs(envs), **settings, policy_kwargs=networks, device="cpu",
                seed=config.seed)  # fmt: skip
    player, cycle_steps = Player(model.policy), num_envs * model.n_steps
    while model.num_timesteps < config.total_steps:
        if config.method == "sb3-ours":
            remaining = 1 - model.num_timesteps / config.total_steps
            model.ent_coef = entropy_bonus(config, remaining)
        model.learn(cycle_steps, reset_num_timesteps=False)
        yield model.num_timesteps, player
