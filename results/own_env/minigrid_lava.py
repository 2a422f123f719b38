"""LavaAbsolute-v0 and LavaTurned-v0: MiniGrid's LavaCrossing with two views of one state.

    pip install -r results/own_env/requirements.txt
    python tsalign.py --env results.own_env.minigrid_lava:LavaTurned-v0

A room of 9 x 9 cells, a river of lava with one gap, the goal in the far corner; MiniGrid's own
sparse reward, 100 steps. The student sees the 3 x 3 cells that MiniGrid shows it (the agent is in
the middle of the last row) and its direction. The teacher sees the whole room, its position and
direction, in one of two shapes: the room as it lies (Absolute), or turned and shifted so that the
agent is in the middle and looks up (Turned).
"""

import gymnasium as gym
import minigrid  # noqa: F401 (registers MiniGrid's environments)
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from minigrid.core.constants import OBJECT_TO_IDX

KINDS = [OBJECT_TO_IDX[kind] for kind in ("empty", "wall", "lava", "goal")]
EMPTY, WALL, LAVA, GOAL = range(4)
LEFT, RIGHT, FORWARD = range(3)  # MiniGrid's first three actions
EAST, SOUTH, WEST, NORTH = range(4)  # MiniGrid's directions
SIZE = 9


def one_hot(cells: np.ndarray) -> np.ndarray:  # (...) MiniGrid's codes -> (... * 4,)
    """Each cell as four numbers of 0 and 1; a cell out of sight is all zeros."""
    return (cells[..., None] == KINDS).astype(np.float32).ravel()


class LavaEnv(gym.Wrapper):
    """MiniGrid-LavaCrossingS9N1-v0 with actions left, right, forward and two views."""

    def __init__(self, turned: bool, render_mode: str | None = None) -> None:
        name = "MiniGrid-LavaCrossingS9N1-v0"
        super().__init__(gym.make(name, agent_view_size=3, render_mode=render_mode))
        side = 2 * SIZE - 1 if turned else SIZE
        n_teacher, n_student = 4 * side**2 + 2 * SIZE + 4, 4 * 3 * 3 + 4
        self.turned, self.action_space = turned, Discrete(3)
        views = {"teacher": Box(0, 1, (n_teacher,)), "student": Box(0, 1, (n_student,))}
        self.observation_space = Dict(views)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """A new room."""
        obs, _ = self.env.reset(seed=seed, options=options)
        return self.views(obs), {"is_success": False}

    def step(self, action: int):
        """Success is MiniGrid's positive reward at the goal; lava ends the episode without."""
        obs, reward, terminated, truncated, _ = self.env.step(action)
        success = bool(terminated and reward > 0)
        return self.views(obs), reward, terminated, truncated, {"is_success": success}

    def views(self, obs: dict) -> dict[str, np.ndarray]:
        """Two views of one state."""
        room, (x, y) = self.unwrapped, self.unwrapped.agent_pos
        direction = np.eye(4, dtype=np.float32)[room.agent_dir]
        cells = room.grid.encode()[..., 0]  # (9, 9), [x, y]
        if self.turned:
            cells = np.pad(cells, SIZE - 1, constant_values=OBJECT_TO_IDX["wall"])
            cells = cells[x : x + 2 * SIZE - 1, y : y + 2 * SIZE - 1]  # the agent in the middle
            cells = np.rot90(cells, -(room.agent_dir + 1))  # and looking up
        position = np.eye(SIZE, dtype=np.float32)[[x, y]].ravel()
        student = np.concatenate([one_hot(obs["image"][..., 0]), direction])
        return {"teacher": np.concatenate([one_hot(cells), position, direction]),
                "student": student}  # fmt: skip


def scripted_student(view: np.ndarray) -> int:  # (40,) -> ()
    """Reaches the goal without memory: east and south along walls, then along the lava to the gap.

    The direction tells what it is doing: west only along a river that lies to the south.
    """
    seen = view[:36].reshape(3, 3, 4).argmax(-1)  # [from left to right, from far to near]
    direction, left, ahead = view[36:].argmax(), seen[0], seen[1, 1]
    if direction == EAST:
        return RIGHT if ahead in (WALL, LAVA) else FORWARD
    if direction == WEST:
        return FORWARD if left[2] == LAVA and ahead == EMPTY else LEFT
    river_lies_east = left[1] == LAVA and left[0] in (LAVA, WALL)
    if direction == SOUTH and ahead == LAVA:
        return RIGHT
    return LEFT if ahead == WALL or (left[2] == EMPTY and river_lies_east) else FORWARD


for name, is_turned in (("LavaAbsolute-v0", False), ("LavaTurned-v0", True)):
    gym.register(name, LavaEnv, kwargs={"turned": is_turned}, max_episode_steps=100)
