"""LavaAbsolute-v0, LavaAppended-v0, LavaTurned-v0: MiniGrid's LavaCrossing with two views.

    pip install -r results/own_env/requirements.txt
    python tsalign.py --env results.own_env.minigrid_lava:LavaTurned-v0

The student sees the 3 x 3 cells that MiniGrid shows it (the agent is in the middle of the last row)
and its direction. The teacher sees the whole room, its position and direction, in one of three
shapes: the room as it lies (Absolute); the same followed by the student's view (Appended); turned
and shifted so that the agent is in the middle and looks up (Turned).
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


def one_hot(cells: np.ndarray) -> np.ndarray:  # (...) MiniGrid's codes -> (... * 4,)
    """Each cell as four numbers of 0 and 1; a cell out of sight is all zeros."""
    return (cells[..., None] == KINDS).astype(np.float32).ravel()


class LavaEnv(CrossingEnv):
    """MiniGrid-LavaCrossingS9N1-v0 with two views.

    Description:
        A room of 9 x 9 cells, a river of lava with one gap (42 rooms in all), the goal in the far
        corner.
    Action Space:
        Discrete(3): turn left, turn right, forward.
    Observation Space:
        Dict: teacher room, position, direction; student 3 x 3 cells, direction. All of 0 and 1.
    Rewards:
        MiniGrid's own: at the goal 1 - 0.9 * steps / 324, otherwise 0.
    Starting State:
        In the corner far from the goal, facing east.
    Episode End:
        Terminated at the goal (`is_success`) and in lava; truncated after 100 steps.
    """

    known = {}  # views of each state seen so far, as MiniGrid takes long to make them

    def __init__(self, shape: str, render_mode: str | None = None) -> None:
        super().__init__(size=SIZE, num_crossings=1, agent_view_size=3, render_mode=render_mode)
        self.shape, self.action_space = shape, Discrete(3)
        views = self.reset()[0].items()
        self.observation_space = Dict({view: Box(0, 1, obs.shape) for view, obs in views})

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)  # MiniGrid's new room
        self.cells = self.grid.encode()[..., 0]  # (9, 9), [x, y]
        self.room = self.cells.tobytes()

    def gen_obs(self) -> dict[str, np.ndarray]:
        """Two views of one state; MiniGrid returns them from reset and step."""
        x, y = self.agent_pos
        state = self.shape, self.room, int(x), int(y), self.agent_dir
        if state not in self.known:
            cells, direction = self.cells, np.eye(4, dtype=np.float32)[self.agent_dir]
            if self.shape == "turned":
                cells = np.pad(cells, SIZE - 1, constant_values=OBJECT_TO_IDX["wall"])
                cells = cells[x : x + 2 * SIZE - 1, y : y + 2 * SIZE - 1]  # the agent in the middle
                cells = np.rot90(cells, -(self.agent_dir + 1))  # and looking up
            position = np.eye(SIZE, dtype=np.float32)[[x, y]].ravel()
            student = np.concatenate([one_hot(super().gen_obs()["image"][..., 0]), direction])
            appended = [student] if self.shape == "appended" else []
            teacher = np.concatenate([one_hot(cells), position, direction, *appended])
            self.known[state] = {"teacher": teacher, "student": student}
        return self.known[state]

    def step(self, action: int):
        """MiniGrid's step, and whether the goal is reached."""
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"is_success": reward > 0}


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


for shape in ("absolute", "appended", "turned"):
    kwargs = {"shape": shape}
    gym.register(f"Lava{shape.title()}-v0", LavaEnv, kwargs=kwargs, max_episode_steps=100)
