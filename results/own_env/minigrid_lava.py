"""LavaTurned-v0: MiniGrid's LavaCrossing with two views.

    pip install -r results/own_env/requirements.txt
    python tsalign.py --env results.own_env.minigrid_lava:LavaTurned-v0 --total-steps 1e6

The student sees the 3 x 3 cells that MiniGrid shows it and its direction. The teacher sees
the whole room, turned and shifted so that the agent is in the middle and looks up: so its
encoder can easily compute what the student sees. With the room as it lies it cannot.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.envs import CrossingEnv

KINDS = [OBJECT_TO_IDX[kind] for kind in ("empty", "wall", "lava", "goal")]
EMPTY, WALL, LAVA, GOAL = range(4)
LEFT, RIGHT, FORWARD = range(3)  # MiniGrid's first three actions
EAST, SOUTH, WEST, NORTH = range(4)  # MiniGrid's directions
SIZE = 9
KNOWN = {}  # the views of each state so far, because MiniGrid takes long to make them
SPAN = 2 * SIZE - 1  # of a map in which the whole room fits, wherever the agent is


def one_hot(cells: np.ndarray) -> np.ndarray:  # (...) MiniGrid's codes -> (... * 4,)
    """Each cell as four numbers of 0 and 1; a cell out of sight is all zeros."""
    return (cells[..., None] == KINDS).astype(np.float32).ravel()


class LavaEnv(CrossingEnv):
    """MiniGrid-LavaCrossingS9N1-v0 with two views of numbers 0 and 1.

    A room of 9 x 9 cells, a river of lava with one gap (42 rooms in all). The agent
    starts in a corner, facing east; the goal is in the far one. The teacher sees 17 x 17
    cells, its position and direction, the student 3 x 3 cells (it is in the middle of the
    last row) and its direction. It turns left or right or goes forward. The reward is
    MiniGrid's: at the goal 1 - 0.9 * steps / 324, otherwise 0. An episode ends at the
    goal (`is_success`), in lava, or after 100 steps.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(
            size=SIZE, num_crossings=1, agent_view_size=3, render_mode=render_mode
        )
        self.action_space = Discrete(3)
        self.observation_space = Dict(
            teacher=Box(0, 1, (4 * SPAN**2 + 2 * SIZE + 4,)), student=Box(0, 1, (40,))
        )

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)  # MiniGrid's new room
        self.cells = self.grid.encode()[..., 0]  # (9, 9), [x, y]

    def gen_obs(self) -> dict[str, np.ndarray]:
        """Two views of one state; MiniGrid returns them from reset and step."""
        x, y = self.agent_pos
        state = (self.cells.tobytes(), int(x), int(y), self.agent_dir)
        if state not in KNOWN:
            direction = np.eye(4, dtype=np.float32)[self.agent_dir]
            position = np.eye(SIZE, dtype=np.float32)[[x, y]].ravel()
            wide = np.pad(self.cells, SIZE - 1, constant_values=OBJECT_TO_IDX["wall"])
            shifted = wide[x : x + SPAN, y : y + SPAN]  # the agent is in the middle
            turned = np.rot90(shifted, -(self.agent_dir + 1))  # and looks up
            near = super().gen_obs()["image"][..., 0]  # (3, 3)
            teacher = np.concatenate([one_hot(turned), position, direction])
            student = np.concatenate([one_hot(near), direction])
            KNOWN[state] = {"teacher": teacher, "student": student}
        return KNOWN[state]

    def step(self, action: int):
        """MiniGrid's step, and whether the goal is reached."""
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"is_success": reward > 0}


def scripted_student(view: np.ndarray) -> int:  # (40,) -> ()
    """Reaches the goal without memory: east and south along walls, then along the lava.

    The direction tells what it is doing: west only along a river that lies to the south.
    """
    seen = view[:36].reshape(3, 3, 4).argmax(-1)  # [from left to right, from far to near]
    direction = view[36:].argmax()
    left = seen[0]
    ahead = seen[1, 1]
    if direction == EAST:
        return RIGHT if ahead in (WALL, LAVA) else FORWARD
    if direction == WEST:
        return FORWARD if left[2] == LAVA and ahead == EMPTY else LEFT
    if direction == SOUTH and ahead == LAVA:
        return RIGHT
    river_lies_east = left[1] == LAVA and left[0] in (LAVA, WALL)
    is_gap = left[2] == EMPTY and river_lies_east
    return LEFT if ahead == WALL or is_gap else FORWARD


gym.register("LavaTurned-v0", LavaEnv, max_episode_steps=100)
