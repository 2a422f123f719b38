"""TunnelVision on larger grids: which layouts were trained on, and success on others."""

import json

import numpy as np
import torch

import tsalign
from tunnelvision import TunnelVisionVectorEnv

N_EPISODES = 1024  # fresh ones, at once; no training has as many environments


def train_and_compare(config: tsalign.Config) -> None:
    """Train, noting each layout that is drawn; then play, and write `layouts.json`."""
    drawn = set()
    draw_layout = TunnelVisionVectorEnv._draw_layout

    def draw_and_note(envs, i: int) -> None:
        draw_layout(envs, i)
        if envs.num_envs == config.num_envs:  # not in evaluations
            drawn.add(envs.blocked[i].tobytes())

    TunnelVisionVectorEnv._draw_layout = draw_and_note  # in this process alone
    tsalign.train(config)
    _, nets = tsalign.load_run(config.folder)
    envs = tsalign.make_envs(config.env, N_EPISODES)
    row = {"layouts_drawn": len(drawn)}
    for agent, letter in (("teacher", "T"), ("student", "S")):
        is_new, success = play_once(envs, nets, agent, drawn)
        row["new_share"] = float(is_new.mean())
        if is_new.any():
            row[f"{letter}_new"] = float(success[is_new].mean())
    tsalign.write_at_once(config.folder / "layouts.json", json.dumps(row) + "\n")


@torch.no_grad()
def play_once(envs, nets, agent: str, drawn: set[bytes]):  # -> (N,), (N,)
    """One episode of each environment: is its layout a new one, and was it a success?"""
    obs = tsalign.reset_envs(envs, seed=20_000)
    is_new = np.array([grid.tobytes() not in drawn for grid in envs.unwrapped.blocked])
    success = np.zeros(envs.num_envs, bool)
    is_first = np.ones(envs.num_envs, bool)
    while is_first.any():
        action = nets.distribution(agent, tsalign.to_tensor(obs[agent], "cpu")).sample()
        obs, _, terminated, truncated, succeeds = tsalign.step_envs(envs, action)
        ended = terminated | truncated
        success |= is_first & ended & (succeeds == 1)
        is_first &= ~ended
        if ended.any():
            obs = tsalign.reset_envs(envs, ended=ended)
    return is_new, success
