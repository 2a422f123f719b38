"""What a student without memory can reach from its view: players that somebody wrote."""

import importlib
import statistics

import numpy as np

from tsalign import make_envs, reset_envs


def play_scripted(env: str, episodes: int = 256) -> float | str:
    """Mean success, or return where none is reported; "" if nobody wrote a player.

    The player is `scripted_student(view) -> action` in the module that registers `env`.
    """
    envs = make_envs(env, 1)  # imports the module, or says what is missing
    module = importlib.import_module(env.partition(":")[0])
    player = getattr(module, "scripted_student", None)
    if player is None:
        return ""
    obs = reset_envs(envs, seed=0)
    scores = []
    total = 0.0
    while len(scores) < episodes:
        action = np.array([player(obs["student"][0])])
        obs, reward, terminated, truncated, info = envs.step(action)
        total += float(reward[0])
        if (terminated | truncated)[0]:
            scores.append(float(info["is_success"][0]) if "is_success" in info else total)
            total = 0.0
            obs = reset_envs(envs, ended=np.array([True]))
    return statistics.mean(scores)
