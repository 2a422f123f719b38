"""TunnelVision-v0: a grid world in which a good teacher must look where its student has to look.

The task is the paper's (Section V-A); the layout of the obstacles is ours, because the paper does
not give it. Run this file to see a few layouts as text: `python tunnelvision.py`.
Shapes: N sub-environments, R rows, C columns, K layouts that are being drawn.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

# The eight neighbours, clockwise from east, as (row, column). Heading h in E S W N is neighbour 2h,
# so the three cells in front of the agent are neighbours 2h - 1, 2h, 2h + 1.
NEIGHBOURS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
DIRECTIONS = NEIGHBOURS[::2]  # E S W N
NO_ACTION = 8  # the "last action" of an episode that has just begun


class TunnelVisionVectorEnv(gym.vector.VectorEnv):
    """N grids that are stepped at once; `TunnelVisionEnv` below is a slice of one.

    Description:
        The agent walks from a fixed start (left, middle row) to a fixed goal (right, middle row)
        through a one-cell-wide tunnel that every episode carves anew: in columns 2, 4, 6, ... it
        runs up or down to a random row, in the last column to the goal's row, elsewhere straight.
    Action Space:
        Discrete(8): 0-3 move one cell E S W N, 4-7 turn to face E S W N. The two are independent:
        a move does not turn the agent.
    Observation Space:
        Dict of two views of one state (paper, Eq. (3)). Both hold the position (one-hot, R * C),
        the heading (one-hot, 4) and the last action (one-hot, 9: the eight and "none"); then
        teacher: 8 cells, clockwise from east; student: 3 cells, left, centre and right of the
        direction it faces. A cell is +1 if blocked (or outside the grid), -1 if free.
    Rewards:
        +1 at the goal, -1 for a collision, -0.01 a step, and 0.1 for each cell by which the
        Manhattan distance to the goal shrinks [ours: without it the goal is too rare a reward for
        a policy that has to look before it steps].
    Starting State:
        At the start cell, facing a random direction.
    Episode End:
        Terminated at the goal (`info["is_success"]`) or by a collision, truncated after
        `max_episode_steps` steps.
    Arguments:
        rows, cols: size of the grid. obstacle_density: probability that a cell off the tunnel is
        blocked; below 1 there are side pockets that a student without memory may not leave.

    Sub-environments that have ended stay as they are until `reset(options={"reset_mask": done})`.
    Sub-environment i draws from a generator of its own, seeded with seed + i, as in Gymnasium's
    `SyncVectorEnv`. Raises ValueError for bad arguments, gymnasium.error.ResetNeeded for a step
    before the reset.
    """

    metadata = {
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        rows: int = 5,
        cols: int = 9,
        obstacle_density: float = 1.0,
        max_episode_steps: int = 100,
    ) -> None:
        if num_envs < 1 or rows < 1 or cols < 3 or max_episode_steps < 1:
            raise ValueError("num_envs, rows, max_episode_steps must be >= 1 and cols >= 3")
        if not 0 <= obstacle_density <= 1:
            raise ValueError(f"obstacle_density must be in [0, 1], not {obstacle_density}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be rgb_array or ansi, not {render_mode}")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.rows, self.cols, self.density = rows, cols, obstacle_density
        self.max_episode_steps = max_episode_steps
        self.start, self.goal = np.array([rows // 2, 0]), np.array([rows // 2, cols - 1])

        n_common = rows * cols + 4 + 9
        self.single_observation_space = Dict(
            teacher=Box(-1, 1, (n_common + 8,), np.float32),
            student=Box(-1, 1, (n_common + 3,), np.float32),
        )
        self.single_action_space = Discrete(8)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.index = np.arange(num_envs)
        # A border of blocked cells stands for the outside, so no look-up needs a bounds check.
        self.blocked = np.ones((num_envs, rows + 2, cols + 2), bool)
        self.position = np.zeros((num_envs, 2), int)  # (row, column), without the border
        self.heading = np.zeros(num_envs, int)
        self.last_action = np.full(num_envs, NO_ACTION)
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per sub-environment, as in `SyncVectorEnv`."""
        return tuple(self.rngs)

    def reset(self, *, seed: int | list[int] | None = None, options: dict | None = None):
        """Start new episodes where `options["reset_mask"]` (N,) is true; by default everywhere."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask must be ({self.num_envs},) booleans")
        seeds = seed if isinstance(seed, (list, tuple)) else [seed] * self.num_envs
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                own_seed = seeds[i] if seeds is seed else seed + int(i)
                self.rngs[i] = gym.utils.seeding.np_random(own_seed)[0]
        self._new_layouts(np.flatnonzero(mask))
        self.position[mask] = self.start
        self.last_action[mask] = NO_ACTION
        self.steps[mask] = 0
        self.done[mask] = False
        return self._observe(), {"is_success": np.zeros(self.num_envs, bool)}

    def _new_layouts(self, envs: np.ndarray) -> None:  # (K,) indices of sub-environments
        """Carve one tunnel and draw one heading for each of the given sub-environments."""
        if len(envs) == 0:
            return
        turns = np.arange(2, self.cols - 2, 2)  # 2, 4, 6 of nine columns
        drawn = np.stack([self.rngs[i].integers(self.rows, size=len(turns)) for i in envs])
        self.heading[envs] = [self.rngs[i].integers(4) for i in envs]
        leaves = np.full((len(envs), self.cols), self.start[0])  # row in which it leaves a column
        for k, column in enumerate(turns):
            leaves[:, column:] = drawn[:, k : k + 1]
        leaves[:, -1] = self.goal[0]
        enters = np.concatenate([np.full((len(envs), 1), self.start[0]), leaves[:, :-1]], axis=1)
        top, bottom = np.minimum(enters, leaves), np.maximum(enters, leaves)  # (K, C)
        row = np.arange(self.rows)[:, None]
        blocked = (row < top[:, None]) | (row > bottom[:, None])  # (K, R, C)
        if self.density < 1:
            drawn = np.stack([self.rngs[i].random((self.rows, self.cols)) for i in envs])
            blocked &= drawn < self.density
        self.blocked[envs, 1:-1, 1:-1] = blocked

    def step(self, actions: np.ndarray):
        """Advance every sub-environment by one action, `actions` (N,)."""
        actions = np.asarray(actions)
        if self.done.any():
            raise gym.error.ResetNeeded('call reset() or reset(options={"reset_mask": done}) first')
        if actions.shape != (self.num_envs,) or ((actions < 0) | (actions > 7)).any():
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to 7")
        moves, direction = actions < 4, actions % 4
        target = self.position + np.where(moves[:, None], DIRECTIONS[direction], 0)  # (N, 2)
        crashed = self.blocked[self.index, target[:, 0] + 1, target[:, 1] + 1]
        before = np.abs(self.position - self.goal).sum(1)
        self.position = np.where(crashed[:, None], self.position, target)
        self.heading = np.where(moves, self.heading, direction)
        self.last_action = actions.astype(int)
        self.steps += 1

        distance = np.abs(self.position - self.goal).sum(1)
        success = distance == 0
        reward = 1.0 * success - 1.0 * crashed - 0.01 + 0.1 * (before - distance)
        terminated = success | crashed
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.done = terminated | truncated
        return self._observe(), reward, terminated, truncated, {"is_success": success}

    def _observe(self) -> dict[str, np.ndarray]:  # -> (N, R*C + 21), (N, R*C + 16)
        """Two views of one state, which differ in the cells alone (centred: that trains faster)."""
        n_cells = self.rows * self.cols
        common = np.zeros((self.num_envs, n_cells + 4 + 9), np.float32)
        common[self.index, self.position[:, 0] * self.cols + self.position[:, 1]] = 1
        common[self.index, n_cells + self.heading] = 1
        common[self.index, n_cells + 4 + self.last_action] = 1
        around = self.position[:, None] + NEIGHBOURS + 1  # (N, 8, 2), in the grid with its border
        cells = 2 * self.blocked[self.index[:, None], around[..., 0], around[..., 1]] - 1  # (N, 8)
        ahead = (2 * self.heading[:, None] + np.array([-1, 0, 1])) % 8  # (N, 3)
        seen = cells[self.index[:, None], ahead]
        return {
            "teacher": np.concatenate([common, cells], axis=1, dtype=np.float32),
            "student": np.concatenate([common, seen], axis=1, dtype=np.float32),
        }

    def render(self) -> tuple | None:
        """One picture or one text per sub-environment, by `render_mode`."""
        draw = {"rgb_array": self._picture, "ansi": self._text}.get(self.render_mode)
        return None if draw is None else tuple(draw(i) for i in range(self.num_envs))

    def _text(self, i: int) -> str:
        """The grid as characters: # blocked, S start, G goal, the agent as an arrow."""
        grid = np.where(self.blocked[i, 1:-1, 1:-1], "#", ".")
        grid[tuple(self.start)], grid[tuple(self.goal)] = "S", "G"
        grid[tuple(self.position[i])] = ">v<^"[self.heading[i]]
        return "\n".join("".join(row) for row in grid)

    def _picture(self, i: int, size: int = 48) -> np.ndarray:  # -> (size * (R+2), size * (C+2), 3)
        """Teacher's cells are framed in blue, the student's tinted yellow, the goal is green."""
        colour = np.where(self.blocked[i][..., None], (70, 74, 82), (238, 238, 232))
        colour[tuple(self.start + 1)], colour[tuple(self.goal + 1)] = (200, 205, 215), (90, 180, 90)
        around = self.position[i] + NEIGHBOURS + 1
        for k in 2 * self.heading[i] + np.array([-1, 0, 1]):
            cell = tuple(around[k % 8])
            colour[cell] = 0.55 * colour[cell] + 0.45 * np.array((255, 205, 40))
        frame = colour.repeat(size, axis=0).repeat(size, axis=1).astype(np.uint8)
        frame[::size], frame[:, ::size] = 190, 190  # grid lines
        for row, column in around * size:
            block = frame[row + 2 : row + size - 1, column + 2 : column + size - 1]
            block[:3], block[-3:], block[:, :3], block[:, -3:] = [(60, 120, 216)] * 4
        row, column = (self.position[i] + 1) * size
        y, x = np.mgrid[:size, :size] / size - 0.5
        ahead_and_across = DIRECTIONS[(self.heading[i] + np.array([0, 1])) % 4]
        (down, right), (across_down, across_right) = ahead_and_across
        forward, side = down * y + right * x, np.abs(across_down * y + across_right * x)
        arrow = (forward > -0.3) & (side < 0.25 - 0.42 * forward)  # a triangle, tip ahead
        frame[row : row + size, column : column + size][arrow] = (205, 50, 50)
        return frame


class TunnelVisionEnv(gym.Env):
    """One sub-environment of `TunnelVisionVectorEnv`, whose docstring describes the task."""

    metadata = {k: v for k, v in TunnelVisionVectorEnv.metadata.items() if k != "autoreset_mode"}

    def __init__(self, **arguments) -> None:
        self.vector = TunnelVisionVectorEnv(1, **arguments)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start a new episode."""
        super().reset(seed=seed)
        self.vector.rngs = [self.np_random]
        obs, info = self.vector.reset()
        return {k: v[0] for k, v in obs.items()}, {k: v[0] for k, v in info.items()}

    def step(self, action: int):
        """Advance by one action."""
        obs, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        obs, info = {k: v[0] for k, v in obs.items()}, {k: v[0] for k, v in info.items()}
        return obs, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | str | None:
        """A picture (H, W, 3) or a text, by `render_mode`."""
        frames = self.vector.render()
        return None if frames is None else frames[0]


gym.register(
    "TunnelVision-v0",
    entry_point=TunnelVisionEnv,
    vector_entry_point=TunnelVisionVectorEnv,
)

if __name__ == "__main__":
    examples = TunnelVisionVectorEnv(num_envs=4, render_mode="ansi")
    examples.reset(seed=0)
    print("\n\n".join(examples.render()))
