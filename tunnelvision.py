"""TunnelVision-v0: a grid world in which a good teacher looks where its student must look.

The task is the one of arXiv 2605.28372, Section V-A. What the paper states is marked
[paper] below where it matters, and what it leaves open and we chose [ours]. Run this file
to see a few layouts as text: `python tunnelvision.py`.
Shapes: N sub-environments, R rows, C columns.
"""

import functools

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

# Steps to the eight neighbours, clockwise from east, as (rows down, columns right).
NEIGHBOURS = np.array(
    [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
)
DIRECTIONS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # E S W N
FIRST_TURN = 4  # actions 0-3 move, 4-7 turn
N_ACTIONS = 8
NO_ACTION = 8  # the "last action" of an episode that has just begun

GOAL_REWARD = 1.0  # [paper: a reward, ours: its size]
CRASH_COST = 1.0  # [paper: a cost, ours: its size]
STEP_COST = 0.01  # [paper: a cost, ours: its size]
PROGRESS_REWARD = 0.1  # [ours] for each cell nearer to the goal

GREY = (70, 74, 82)  # colours of the picture
WHITE = (238, 238, 232)
LIGHT_GREY = (200, 205, 215)
LINE_GREY = (190, 190, 190)
GREEN = (90, 180, 90)
YELLOW = (255, 205, 40)
BLUE = (60, 120, 216)
RED = (205, 50, 50)
CELL_PIXELS = 48


class TunnelVisionVectorEnv(gym.vector.VectorEnv):
    """N grids that are stepped at once; `TunnelVisionEnv` below is a single one.

    Description:
        The agent walks from a fixed start (left, middle row) to a fixed goal (right, middle
        row) between obstacles that are random in each episode [paper]. They leave a tunnel,
        one cell wide [ours]: in columns 2, 4, 6, ... it runs up or down to a random row, in
        the last column to the goal's row, elsewhere straight.
    Action Space:
        Discrete(8): 0-3 move one cell E S W N, 4-7 turn to face E S W N. The two are
        independent: a move does not turn the agent [paper].
    Observation Space:
        Dict of two views of one state (paper, Eq. (3)), float32. Both hold the position
        (one-hot, R * C), the heading (one-hot, 4) and the last action (one-hot, 9: the
        eight and "none") [ours]. Then come cells, +1 if blocked or outside the grid, -1 if
        free [paper: which cells].
        teacher: all eight around the agent, clockwise from east.
        student: three: ahead to the left, straight ahead, ahead to the right.
    Rewards:
        +1 at the goal, -1 for a collision, -0.01 a step [paper: signs, ours: sizes], and
        0.1 for each cell by which the Manhattan distance to the goal shrinks [ours: without
        it the goal is too rare a reward for a policy that has to look before it steps].
    Starting State:
        At the start cell, facing a random direction.
    Episode End:
        Terminated at the goal (`info["is_success"]`) or by a collision, truncated after
        `max_episode_steps` steps.
    Arguments:
        rows, cols: size of the grid [ours].
        obstacle_density: probability that a cell off the tunnel is blocked [ours]. Below 1
        there are dead ends from which a student without memory may never find its way out.
        max_episode_steps: [ours].

    Before the next step, those that have ended have to be reset by
    `reset(options={"reset_mask": done})`; the others stay as they are. Sub-environment i
    draws from a generator of its own, seeded with seed + i, as in Gymnasium's
    `SyncVectorEnv`. Raises ValueError for bad arguments, gymnasium.error.ResetNeeded for a
    step before the reset.
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
        """Check the arguments, declare the spaces and set up the state of the N grids."""
        if num_envs < 1 or rows < 1 or cols < 3 or max_episode_steps < 1:
            raise ValueError("num_envs, rows, max_episode_steps must be >= 1 and cols >= 3")
        if not 0 <= obstacle_density <= 1:
            raise ValueError(f"obstacle_density must be in [0, 1], not {obstacle_density}")
        if render_mode not in (None, "rgb_array", "ansi"):
            raise ValueError(f"render_mode must be rgb_array or ansi, not {render_mode}")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.rows = rows
        self.cols = cols
        self.obstacle_density = obstacle_density
        self.max_episode_steps = max_episode_steps
        self.start = np.array([rows // 2, 0])
        self.goal = np.array([rows // 2, cols - 1])

        n_common = rows * cols + 4 + N_ACTIONS + 1
        self.single_observation_space = Dict(
            teacher=Box(-1, 1, (n_common + 8,), np.float32),
            student=Box(-1, 1, (n_common + 3,), np.float32),
        )
        self.single_action_space = Discrete(N_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.index = np.arange(num_envs)
        # A border of blocked cells stands for the outside: no look-up needs a bounds check.
        self.blocked = np.ones((num_envs, rows + 2, cols + 2), bool)
        self.position = np.zeros((num_envs, 2), int)  # (row, column), without the border
        self.heading = np.zeros(num_envs, int)  # 0-3 are E S W N
        self.last_action = np.full(num_envs, NO_ACTION)
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per sub-environment, as in `SyncVectorEnv`."""
        return tuple(self.rngs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict | None = None
    ) -> tuple[dict, dict]:
        """Start new episodes where `options["reset_mask"]` (N,) is true, by default in all.

        `seed` is that of sub-environment 0, or a list of all N; with None the generators
        simply go on. Returns the two views of all N, and info.
        """
        mask = read_reset_mask(options, self.num_envs)
        for i in np.flatnonzero(mask):
            own_seed = seed_of(seed, int(i))
            if own_seed is not None:
                self.rngs[i] = gym.utils.seeding.np_random(own_seed)[0]
            self._draw_layout(i)
        self.position[mask] = self.start
        self.last_action[mask] = NO_ACTION
        self.steps[mask] = 0
        self.done[mask] = False
        return self._observe(), {"is_success": np.zeros(self.num_envs, bool)}

    def _draw_layout(self, i: int) -> None:
        """Choose tunnel, dead ends and heading of sub-environment i at random."""
        rng = self.rngs[i]
        # 2, 4, 6 of nine columns: a straight one lies between a bend and the next, or
        # between the last bend and the goal's column.
        bend_columns = range(2, self.cols - 2, 2)
        bend_rows = rng.integers(self.rows, size=len(bend_columns)).tolist()
        self.heading[i] = rng.integers(4)
        goal_bend = (self.cols - 1, self.rows // 2)
        bends = (*zip(bend_columns, bend_rows), goal_bend)
        blocked = carve_tunnel(self.rows, self.cols, bends)
        if self.obstacle_density < 1:
            stays = rng.random((self.rows, self.cols)) < self.obstacle_density
            blocked = blocked & stays
        self.blocked[i, 1:-1, 1:-1] = blocked

    def step(self, actions: np.ndarray) -> tuple:  # (N,) -> obs, (N,), (N,), (N,), info
        """Advance every sub-environment by one action.

        Returns obs, reward, terminated, truncated, info, as in Gymnasium.
        """
        action = np.asarray(actions)
        if self.done.any():
            raise gym.error.ResetNeeded(
                'call reset() or reset(options={"reset_mask": done}) first'
            )
        fits = action.shape == (self.num_envs,) and np.issubdtype(action.dtype, np.integer)
        if not fits or ((action < 0) | (action >= N_ACTIONS)).any():
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to 7")
        distance_before = self._distance_to_goal()
        crashed = self._move_or_turn(action)
        distance = self._distance_to_goal()
        self.last_action = action.astype(int)
        self.steps += 1

        success = distance == 0
        goal_reward = np.where(success, GOAL_REWARD, 0.0)
        crash_cost = np.where(crashed, CRASH_COST, 0.0)
        progress_reward = PROGRESS_REWARD * (distance_before - distance)
        reward = goal_reward - crash_cost - STEP_COST + progress_reward
        terminated = success | crashed
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.done = terminated | truncated
        return self._observe(), reward, terminated, truncated, {"is_success": success}

    def _move_or_turn(self, action: np.ndarray) -> np.ndarray:  # (N,) -> (N,)
        """Move or turn each agent. Returns who crashed: these stay where they were."""
        is_move = action < FIRST_TURN
        direction = action % 4  # of the move or of the turn
        moved = self.position + DIRECTIONS[direction]  # (N, 2)
        target = np.where(is_move[:, None], moved, self.position)
        crashed = self.blocked[self.index, target[:, 0] + 1, target[:, 1] + 1]
        self.position = np.where(crashed[:, None], self.position, target)
        self.heading = np.where(is_move, self.heading, direction)
        return crashed

    def _distance_to_goal(self) -> np.ndarray:  # -> (N,)
        """The Manhattan distance, in cells."""
        return np.abs(self.position - self.goal).sum(axis=1)

    def _observe(self) -> dict[str, np.ndarray]:  # -> (N, R*C + 21), (N, R*C + 16)
        """The two views of one state, which differ in the cells alone."""
        cell = self.position[:, 0] * self.cols + self.position[:, 1]
        position = one_hot(cell, self.rows * self.cols)
        heading = one_hot(self.heading, 4)
        last_action = one_hot(self.last_action, N_ACTIONS + 1)

        around = self.position[:, None] + NEIGHBOURS + 1  # (N, 8, 2), border included
        blocked = self.blocked[self.index[:, None], around[:, :, 0], around[:, :, 1]]
        # Cells are centred on 0, because that trains faster than 0 and 1.
        cells_teacher = np.where(blocked, 1, -1)  # (N, 8)
        ahead = neighbours_ahead(self.heading[:, None])  # which of the eight, (N, 3)
        cells_student = np.take_along_axis(cells_teacher, ahead, axis=1)  # (N, 3)

        common = [position, heading, last_action]
        teacher = np.concatenate([*common, cells_teacher], axis=1, dtype=np.float32)
        student = np.concatenate([*common, cells_student], axis=1, dtype=np.float32)
        return {"teacher": teacher, "student": student}

    def render(self) -> tuple | None:
        """One picture or one text per sub-environment, by `render_mode`."""
        if self.render_mode == "rgb_array":
            return tuple(self._picture(i) for i in range(self.num_envs))
        if self.render_mode == "ansi":
            return tuple(self._text(i) for i in range(self.num_envs))
        return None

    def _text(self, i: int) -> str:
        """The grid as characters: # blocked, S start, G goal, the agent as an arrow."""
        grid = np.where(self.blocked[i, 1:-1, 1:-1], "#", ".")
        grid[tuple(self.start)] = "S"
        grid[tuple(self.goal)] = "G"
        grid[tuple(self.position[i])] = ">v<^"[self.heading[i]]
        return "\n".join("".join(row) for row in grid)

    def _picture(self, i: int) -> np.ndarray:  # -> (48 * (R + 2), 48 * (C + 2), 3)
        """The grid with its border; the goal is green, the agent a red arrow.

        The cells that the teacher sees are framed in blue, the student's are tinted yellow.
        """
        around = self.position[i] + NEIGHBOURS + 1  # (8, 2)
        colour = np.where(self.blocked[i][:, :, None], GREY, WHITE)  # (R + 2, C + 2, 3)
        colour[tuple(self.start + 1)] = LIGHT_GREY
        colour[tuple(self.goal + 1)] = GREEN
        for row, column in around[neighbours_ahead(self.heading[i])]:
            colour[row, column] = 0.55 * colour[row, column] + 0.45 * np.array(YELLOW)

        pixels = colour.astype(np.uint8)
        picture = pixels.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)
        picture[::CELL_PIXELS, :] = LINE_GREY
        picture[:, ::CELL_PIXELS] = LINE_GREY
        for row, column in around:
            draw_frame(cell_pixels(picture, row, column))
        row, column = self.position[i] + 1
        draw_arrow(cell_pixels(picture, row, column), self.heading[i])
        return picture


def read_reset_mask(options: dict | None, num_envs: int) -> np.ndarray:  # -> (N,)
    """Which sub-environments begin anew: a copy of `options["reset_mask"]`, by default all.

    Raises ValueError unless it holds N booleans.
    """
    if not options or "reset_mask" not in options:
        return np.ones(num_envs, bool)
    mask = np.array(options["reset_mask"])
    if mask.shape != (num_envs,) or mask.dtype != bool:
        raise ValueError(f"reset_mask must be ({num_envs},) booleans")
    return mask


def seed_of(seed: int | list[int] | None, i: int) -> int | None:
    """The seed of sub-environment i: seed + i, or seed[i], or None."""
    if seed is None:
        return None
    if isinstance(seed, (list, tuple)):
        return seed[i]
    return seed + i


@functools.lru_cache(maxsize=1000)  # a layout that comes again need not be carved again
def carve_tunnel(
    rows: int, cols: int, bends: tuple[tuple[int, int], ...]
) -> np.ndarray:  # -> (R, C)
    """Which cells of a grid are blocked: all but a tunnel from left to right.

    It begins in the middle row. `bends` are pairs (column, row): in which columns it runs
    up or down, and to which row.
    """
    row_after = dict(bends)
    blocked = np.ones((rows, cols), bool)
    row = rows // 2
    for column in range(cols):
        next_row = row_after.get(column, row)
        top = min(row, next_row)
        bottom = max(row, next_row)
        blocked[top : bottom + 1, column] = False
        row = next_row
    blocked.flags.writeable = False  # the next caller gets the same array
    return blocked


def one_hot(values: np.ndarray, size: int) -> np.ndarray:  # (N,) -> (N, size)
    """1 at the place that each value names, 0 elsewhere."""
    return np.eye(size)[values]


def neighbours_ahead(heading: np.ndarray) -> np.ndarray:  # (N, 1) -> (N, 3) or () -> (3,)
    """Which of NEIGHBOURS lie ahead to the left, straight ahead and ahead to the right.

    There are twice as many neighbours as headings, so heading h is neighbour 2h.
    """
    return (2 * heading + np.array([-1, 0, 1])) % 8


def cell_pixels(
    picture: np.ndarray, row: int, column: int
) -> np.ndarray:  # (H, W, 3) -> (48, 48, 3)
    """The pixels of one cell. To paint on them is to paint on the picture."""
    top = row * CELL_PIXELS
    left = column * CELL_PIXELS
    return picture[top : top + CELL_PIXELS, left : left + CELL_PIXELS]


def draw_frame(pixels: np.ndarray) -> None:  # (48, 48, 3)
    """Paint a blue frame, three pixels wide, a little inside the cell."""
    # Pixel 0 belongs to the grid's line, so the margins differ by one.
    is_frame = np.zeros(pixels.shape[:2], bool)
    is_frame[2:-1, 2:-1] = True
    is_frame[5:-4, 5:-4] = False
    pixels[is_frame] = BLUE


def draw_arrow(pixels: np.ndarray, heading: int) -> None:  # (48, 48, 3)
    """Paint a red wedge that narrows to where the agent faces."""
    from_middle = np.arange(CELL_PIXELS) / CELL_PIXELS - 0.5
    down = from_middle[:, None]
    right = from_middle[None, :]
    ahead = DIRECTIONS[heading]
    across = DIRECTIONS[(heading + 1) % 4]
    forward = ahead[0] * down + ahead[1] * right  # (48, 48)
    aside = np.abs(across[0] * down + across[1] * right)
    is_arrow = (forward > -0.3) & (aside < 0.25 - 0.42 * forward)
    pixels[is_arrow] = RED


class TunnelVisionEnv(gym.Env):
    """One sub-environment of `TunnelVisionVectorEnv`, which describes the task."""

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}

    def __init__(self, **arguments) -> None:
        """The arguments are those of `TunnelVisionVectorEnv`, without num_envs."""
        self.vector = TunnelVisionVectorEnv(1, **arguments)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[dict, dict]:
        """Start a new episode."""
        super().reset(seed=seed)
        self.vector.rngs = [self.np_random]  # the generator that Gymnasium keeps for us
        obs, info = self.vector.reset()
        return only_one(obs), only_one(info)

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        """Advance by one action."""
        obs, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        return (
            only_one(obs),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            only_one(info),
        )

    def render(self) -> np.ndarray | str | None:
        """A picture (H, W, 3) or a text, by `render_mode`."""
        if self.render_mode is None:
            return None
        return self.vector.render()[0]


def only_one(batch: dict[str, np.ndarray]) -> dict:  # (1, ...) -> (...)
    """The values of the only sub-environment."""
    return {name: values[0] for name, values in batch.items()}


gym.register(
    "TunnelVision-v0",
    entry_point=TunnelVisionEnv,
    vector_entry_point=TunnelVisionVectorEnv,
)

if __name__ == "__main__":
    examples = TunnelVisionVectorEnv(num_envs=4, render_mode="ansi")
    examples.reset(seed=0)
    print("\n\n".join(examples.render()))
