"""Cue-v0: the smallest environment of one's own, the README's.

python tsalign.py --env results.own_env.cue:Cue-v0 --total-steps 50000
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Cue(gym.Env):
    """Answer with the cue, in one step. The teacher also sees a random number."""

    observation_space = Dict(teacher=Box(0, 1, (3,)), student=Box(0, 1, (2,)))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        """A new cue."""
        super().reset(seed=seed)
        self.cue = np.eye(2, dtype=np.float32)[self.np_random.integers(2)]
        number = self.np_random.random(dtype=np.float32)
        return {"teacher": np.append(self.cue, number), "student": self.cue}, {}

    def step(self, action):
        """The episode ends, so any view may follow."""
        right = bool(self.cue[action])
        return self.reset()[0], float(right), True, False, {"is_success": right}


def scripted_student(view: np.ndarray) -> int:  # (2,) -> ()
    """Always right."""
    return int(view.argmax())


gym.register("Cue-v0", Cue)
