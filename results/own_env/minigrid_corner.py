"""Corner-v0: MiniGrid's Empty room, where a student without compass has to walk along the walls.

    pip install -r results/own_env/requirements.txt
    python tsalign.py --env results.own_env.minigrid_corner:Corner-v0

The teacher sees the whole room, turned and shifted so that the agent is in the middle and looks up,
and walks straight to the goal. The student sees the 3 x 3 cells that MiniGrid shows it and no
direction: far from the walls nothing tells it where to turn. But the goal lies in a corner, and
whoever walks along the walls comes to all of them.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from minigrid.core.constants import OBJECT_TO_IDX
from minigrid.envs import EmptyEnv

KINDS = [OBJECT_TO_IDX[kind] for kind in ("wall", "goal")]
LEFT, RIGHT, FORWARD = range(3)  # MiniGrid's first three actions
SIZE = 16


def one_hot(cells: np.ndarray) -> np.ndarray:  # (...) MiniGrid's codes -> (... * 2,)
    """Each cell as two numbers of 0 and 1; an empty one is all zeros."""
    return (cells[..., None] == KINDS).astype(np.float32).ravel()


class CornerEnv(EmptyEnv):
    """MiniGrid-Empty-16x16-v0 from a random start, with two views.

    Description:
        An empty room of 16 x 16 cells with its walls, the goal in one corner.
    Action Space:
        Discrete(3): turn left, turn right, forward.
    Observation Space:
        Dict: teacher 31 x 31 cells, student 3 x 3 cells. All of 0 and 1.
    Rewards:
        MiniGrid's own: at the goal 1 - 0.9 * steps / 1024, otherwise 0.
    Starting State:
        Any free cell and direction.
    Episode End:
        Terminated at the goal (`is_success`); truncated after 64 steps.
    """

    known = {}  # views of each state seen so far, as MiniGrid takes long to make them

    def __init__(self, render_mode: str | None = None) -> None:
        places = dict(agent_start_pos=None, agent_view_size=3)
        super().__init__(size=SIZE, render_mode=render_mode, **places)
        self.action_space = Discrete(3)
        views = self.reset()[0].items()
        self.observation_space = Dict({view: Box(0, 1, obs.shape) for view, obs in views})

    def gen_obs(self) -> dict[str, np.ndarray]:
        """Two views of one state; MiniGrid returns them from reset and step."""
        x, y = (int(i) for i in self.agent_pos)
        if (x, y, self.agent_dir) not in self.known:
            cells = self.grid.encode()[..., 0]  # (16, 16), [x, y]
            cells = np.pad(cells, SIZE - 1, constant_values=OBJECT_TO_IDX["wall"])
            cells = cells[x : x + 2 * SIZE - 1, y : y + 2 * SIZE - 1]  # the agent in the middle
            teacher = one_hot(np.rot90(cells, -(self.agent_dir + 1)))  # and looking up
            student = one_hot(super().gen_obs()["image"][..., 0])
            self.known[x, y, self.agent_dir] = {"teacher": teacher, "student": student}
        return self.known[x, y, self.agent_dir]

    def step(self, action: int):
        """MiniGrid's step, and whether the goal is reached."""
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"is_success": reward > 0}


def scripted_student(view: np.ndarray) -> int:  # (18,) -> ()
    """Straight on, and to the left before a wall: round the room until the goal is there."""
    is_wall_ahead = view.reshape(3, 3, 2)[1, 1, 0]  # [from left to right, from far to near, kind]
    return LEFT if is_wall_ahead else FORWARD


gym.register("Corner-v0", CornerEnv, max_episode_steps=64)
