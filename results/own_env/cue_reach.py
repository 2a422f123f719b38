"""CueReach-v0: a continuous environment of one's own, with a private cue the student can get.

    python tsalign.py --env results.own_env.cue_reach:CueReach-v0 --total-steps 200000

A teacher that uses its cue at once walks straight to the right side, and a student that copies it
has to guess. A teacher that goes down into the light first can be followed by a student without
memory. The environment reports no `is_success`, so the mean return of each agent is logged.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict

SPEED = 0.2  # length of the longest step along each axis
STEP_COST = 0.02


class CueReachEnv(gym.Env):
    """Leave a square on the side that the cue names.

    Description:
        A point in the square -1 .. 1; `cue` is -1 (leave on the left) or +1 (on the right).
    Action Space:
        Box(-1, 1, (2,)): the step along x and y, in units of SPEED.
    Observation Space:
        Dict: teacher [x, y, cue]; student the same, with 0 in place of the cue where y > 0 (dark).
    Rewards:
        +1 on the right side, -1 on the wrong one, -STEP_COST a step.
    Starting State:
        x in -0.2 .. 0.2, y in 0.4 .. 0.6, in the dark.
    Episode End:
        Terminated at |x| = 1; truncated after 50 steps.
    """

    observation_space = Dict({view: Box(-1, 1, (3,)) for view in ("teacher", "student")})
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        """A new episode."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform((-0.2, 0.4), (0.2, 0.6))
        self.cue = self.np_random.choice((-1.0, 1.0))
        return self.observe(), {}

    def step(self, action):
        """One step of at most SPEED along each axis; the square's edges stop it."""
        self.position = (self.position + SPEED * np.clip(action, -1, 1)).clip(-1, 1)
        terminated = bool(abs(self.position[0]) == 1)
        reward = terminated * self.position[0] * self.cue - STEP_COST
        return self.observe(), float(reward), terminated, False, {}

    def observe(self):
        """Two views of one state, which differ in the dark alone."""
        is_lit = self.position[1] <= 0
        teacher = np.array([*self.position, self.cue], np.float32)
        return {"teacher": teacher, "student": teacher * np.float32([1, 1, is_lit])}


def scripted_student(view: np.ndarray) -> np.ndarray:  # (3,) -> (2,)
    """Plays well from the student's view alone and without memory: down, then where it is told."""
    seen_cue = view[2]
    return np.array([seen_cue, 0.0] if seen_cue else [0.0, -1.0], np.float32)


gym.register("CueReach-v0", entry_point=CueReachEnv, max_episode_steps=50)
