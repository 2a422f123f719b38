"""CueReach-v0: a continuous environment of one's own, with a cue that a student can get.

    python tsalign.py --env results.own_env.cue_reach:CueReach-v0 --total-steps 200000

A teacher that uses its cue at once goes straight to the right side, and a student that
copies it has to guess. A teacher that goes down into the light first can be followed by a
student without memory. No `is_success` is reported, so returns are compared.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict

SPEED = 0.2  # length of the longest step along each axis
STEP_COST = 0.02


class CueReachEnv(gym.Env):
    """Leave a square on the side that the cue names.

    A point in the square -1 .. 1 starts in the dark, at x in -0.2 .. 0.2, y in 0.4 .. 0.6.
    The cue is -1 (leave on the left) or 1 (on the right). Views are [x, y, cue]; the
    student has 0 for the cue where y > 0. Actions are the step along x and y, in units of
    SPEED. The reward is +1 on the right side, -1 on the wrong one, and -STEP_COST a step.
    An episode ends at |x| = 1, or after 50 steps.
    """

    observation_space = Dict(teacher=Box(-1, 1, (3,)), student=Box(-1, 1, (3,)))
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        """A new episode."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform((-0.2, 0.4), (0.2, 0.6))
        self.cue = self.np_random.choice((-1.0, 1.0))
        return self.observe(), {}

    def step(self, action):
        """One step of at most SPEED along each axis; the square's edges stop it."""
        target = self.position + SPEED * np.clip(action, -1, 1)
        self.position = target.clip(-1, 1)
        x = self.position[0]
        terminated = bool(abs(x) == 1)
        reward = float(x * self.cue) if terminated else 0.0
        return self.observe(), reward - STEP_COST, terminated, False, {}

    def observe(self):
        """Two views of one state, which differ in the dark alone."""
        x, y = self.position
        seen_cue = self.cue if y <= 0 else 0.0
        teacher = np.array([x, y, self.cue], np.float32)
        student = np.array([x, y, seen_cue], np.float32)
        return {"teacher": teacher, "student": student}


def scripted_student(view: np.ndarray) -> np.ndarray:  # (3,) -> (2,)
    """Plays well from the student's view alone: down, then where it is told."""
    seen_cue = view[2]
    return np.array([seen_cue, 0.0] if seen_cue else [0.0, -1.0], np.float32)


gym.register("CueReach-v0", entry_point=CueReachEnv, max_episode_steps=50)
