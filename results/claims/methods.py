"""Methods of the claims' own: rows of METHODS, named as results.claims.methods:NAME."""

from functools import partial

import torch
from torch import Tensor

from tsalign import EQ_10, Method, train_embedding


def train_fixed_sharpness(nets, optimizer, pairs, config, progress):
    """`train_embedding`, but s of Eq. (6) stays as it is."""
    nets.log_inverse_temperature.requires_grad_(False)
    return train_embedding(nets, optimizer, pairs, config, progress)


def train_near(nets, optimizer, pairs, config, progress, window: int):
    """`train_embedding`, but the partner of z_T is the student's view of a step nearby.

    Needs the pairs of every step, so that the memory's rows are T steps of N environments.
    """
    obs_teacher = pairs.obs_teacher.unflatten(0, (-1, config.num_envs))  # (T, N, ...)
    episode = BEGINS[config.env](obs_teacher).cumsum(0)  # (T, N)
    step = draw_nearby(episode, window)  # (T, N)
    row = step * config.num_envs + torch.arange(config.num_envs, device=step.device)
    near = pairs.obs_student.index_select(0, row.flatten())
    near_pairs = pairs._replace(obs_student=near)
    return train_embedding(nets, optimizer, near_pairs, config, progress)


def draw_nearby(episode: Tensor, window: int) -> Tensor:  # (T, N) -> (T, N)
    """For each step one at most `window` away in its episode, all equally likely."""
    n_steps = len(episode)
    step = torch.arange(n_steps, device=episode.device)[:, None].expand_as(episode)
    drawn = step
    is_open = torch.ones_like(episode, dtype=torch.bool)
    while is_open.any():  # draw again where it was before the episode or after it
        offset = torch.randint_like(episode, -window, window + 1)
        other = (step + offset).clamp(0, n_steps - 1)
        fits = (other == step + offset) & (episode.gather(0, other) == episode)
        drawn = torch.where(is_open & fits, other, drawn)
        is_open &= ~fits
    return drawn


def begins_tunnelvision(obs_teacher: Tensor) -> Tensor:  # (T, N, R*C + 21) -> (T, N)
    """Where an episode begins: there has been no action, the last of nine entries."""
    return obs_teacher[..., -9] > 0


def begins_collecthealth(obs_teacher: Tensor) -> Tensor:  # (T, N, 6 * K + 8) -> (T, N)
    """Where an episode begins: there are more boxes, or it is further than a step away."""
    n_boxes = obs_teacher[..., :-8:6].sum(-1)  # (T, N)
    place = obs_teacher[..., -8:-6]  # (T, N, 2), the room is 2 wide and a step is 1/8
    moved = (place[1:] - place[:-1]).norm(dim=-1)
    is_new = (n_boxes[1:] > n_boxes[:-1]) | (moved > 0.126)
    return torch.cat([torch.ones_like(is_new[:1]), is_new])


BEGINS = {"tunnelvision": begins_tunnelvision, "collecthealth": begins_collecthealth}

fixed_sharpness = Method(train_fixed_sharpness, {"lambda_align": 0.0}, unread=EQ_10)
near_1 = Method(partial(train_near, window=1), unread=EQ_10)
near_4 = Method(partial(train_near, window=4), unread=EQ_10)
