"""TunnelVision on four grids and CollectHealth with three image sizes, under ids of their own.

    python tsalign.py --env results.growth.envs:TunnelVision7x15-v0
    python tsalign.py --env results.growth.envs:CollectHealth64x128-v0

These ids are not in `tsalign.ENV_SETTINGS`; `python -m results.growth` passes on the settings of
"tunnelvision" and "collecthealth", with the rule of growth below.
"""

import gymnasium as gym
import numpy as np

from collecthealth import CollectHealthEnv, CollectHealthVectorEnv
from tunnelvision import TunnelVisionEnv, TunnelVisionVectorEnv

GRIDS = {f"TunnelVision{r}x{c}-v0": (r, c) for r, c in ((5, 9), (5, 13), (7, 15), (9, 21))}
IMAGES = {f"CollectHealth{h}x{w}-v0": (h, w) for h, w in ((16, 32), (32, 64), (64, 128))}
DEFAULT_CELLS, DEFAULT_LIMIT = 5 * 9, 100  # TunnelVision-v0's grid and max_episode_steps


def growth(rows: int, cols: int) -> float:
    """The rule: total steps and episode limit are the default's, times cells over 5 x 9."""
    return rows * cols / DEFAULT_CELLS


def limit(name: str) -> int:
    """Steps after which an episode on a grid is truncated."""
    return round(DEFAULT_LIMIT * growth(*GRIDS[name]))


def n_layouts(rows: int, cols: int) -> int:
    """One free choice of a row in each column where the tunnel turns."""
    return rows ** len(range(2, cols - 2, 2))


class RecordedTunnelVision(TunnelVisionVectorEnv):
    """TunnelVision that remembers which layouts were played, and how each episode ended.

    `sittings` holds one entry per seeded reset: a list per sub-environment of its episodes in
    order, each [layout as bytes, success or None while it lasts].
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.sittings = []

    def reset(self, *, seed: int | list[int] | None = None, options: dict | None = None):
        """As in TunnelVision; writes the new layouts down."""
        result = super().reset(seed=seed, options=options)
        if seed is not None or not self.sittings:
            self.sittings.append([[] for _ in range(self.num_envs)])
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self.sittings[-1][i].append([np.packbits(self.blocked[i]).tobytes(), None])
        return result

    def step(self, actions: np.ndarray):
        """As in TunnelVision; writes down who has succeeded."""
        result = super().step(actions)
        for i in np.flatnonzero(self.done):
            self.sittings[-1][i][-1][1] = bool(result[-1]["is_success"][i])
        return result


def compare_layouts(envs: RecordedTunnelVision, eval_envs: RecordedTunnelVision,
                    episodes: int) -> dict[str, float]:
    """Which layouts of the last evaluation were trained on, and success on those that were not.

    `evaluate` seeds one sitting for the teacher and one for the student, with the same layouts, and
    counts the first `episodes` of each sub-environment.
    """
    played = [layout for own in envs.sittings[-1] for layout, _ in own]
    seen, row = set(played), {"training_episodes": len(played)}
    row["training_layouts"] = len(seen)
    for agent, sitting in zip(("teacher", "student"), eval_envs.sittings[-2:]):
        counted = [episode for own in sitting for episode in own[:episodes]]
        unseen = [success for layout, success in counted if layout not in seen]
        row["seen_share"] = 1 - len(unseen) / len(counted)
        if unseen:
            row[f"success_{agent}_unseen"] = sum(unseen) / len(unseen)
    return row


for name, (rows, cols) in GRIDS.items():
    gym.register(
        name,
        entry_point=TunnelVisionEnv,
        vector_entry_point=RecordedTunnelVision,
        kwargs=dict(rows=rows, cols=cols, max_episode_steps=limit(name)),
    )
for name, (height, width) in IMAGES.items():
    gym.register(
        name,
        entry_point=CollectHealthEnv,
        vector_entry_point=CollectHealthVectorEnv,
        kwargs=dict(view_height=height, view_width=width),
    )
