"""CollectHealth-v0: a 3D room that the teacher knows exactly and the student sees through a camera.

Written in NumPy from the paper's description (Section V-A); its code is not public. What the paper
states is marked [paper] below, what it leaves open and we chose [ours]. Miniworld's
registered CollectHealth is a different task (18 kits, health that decays, no end at the walls), and
Miniworld is no longer maintained. Run this file for a picture and the speed: `python
collecthealth.py`. Metres and radians; world frame x east, y north, angles counter-clockwise; body
frame x forward, y left.
Shapes: N sub-environments, K boxes, H W image rows and columns, M rays from one position.
"""

import copy

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

STEP, TURN, N_TURNS = 0.5, np.pi / 6, 12  # [ours] metres a move; 12 turns are a full circle
TURN_LEFT, TURN_RIGHT = 8, 9  # actions 0-7 move
COLLECT_RADIUS, WALL_MARGIN, SPAWN_MARGIN = 0.6, 0.3, 1.0  # [ours]
BOX_RADIUS, BOX_HEIGHT = 0.25, 0.6  # [ours] an upright cylinder
MIN_DEPTH = 1e-3  # metres; the camera may be inside a cylinder
CAMERA_HEIGHT = 1.0  # [ours] half the walls' height of 2, so the horizon halves the wall

CEILING, FLOOR, WALL_X, WALL_Y, TOP, SIDE = np.arange(6, dtype=np.uint8)  # rows of the palette
PALETTE = np.uint8(
    [(150, 190, 225), (95, 90, 85), (205, 195, 170), (165, 155, 135), (245, 95, 85), (190, 25, 30)]
)
# Two of its rows, a byte each, read as one number: first + 256 * second. No pixel has a first above
# 5, so what is clipped here is never looked up.
PAIR = np.arange(len(PALETTE) * 256)
PAIRS = PALETTE.take(np.stack([PAIR % 256, PAIR // 256], 1), axis=0, mode="clip").reshape(-1, 6)


def colours(image: np.ndarray) -> np.ndarray:  # (N, H, W) -> (N, H, W, 3)
    """PALETTE[image], only faster: two pixels side by side at a time."""
    pairs = image.reshape(-1).view("<u2").astype(np.intp)  # H is even
    return PAIRS.take(pairs, axis=0).reshape(*image.shape, 3)


class CollectHealthVectorEnv(gym.vector.VectorEnv):
    """N rooms that are stepped and seen at once; `CollectHealthEnv` below is a slice of one.

    Description:
        Five health boxes lie at random places in a square room [paper]. The agent walks through
        them to collect them and must not touch a wall [paper].
    Action Space:
        Discrete(10): 0-7 move 0.5 m, k * 45 degrees counter-clockwise of where the camera looks
        (0 is straight ahead), without turning it; 8 and 9 turn the camera 30 degrees left, right.
    Observation Space:
        Dict of two views of one state (paper, Eq. (3)).
        teacher: float32 (6 K + 8). For each box, nearest first, [present, x, y in the body frame,
        distance, cosine and sine of its bearing], zeros for those collected, which come last; then
        x and y in the room, scaled to [-1, 1], cosine and sine of the heading; then the distances
        to the walls along the rays forward, left, back, right. Other lengths are in room sides.
        student: uint8 (view_height, view_width, 3), the picture of a pinhole camera 90 degrees
        wide with square pixels. Walls in two shades, boxes as red cylinders with lighter tops.
    Rewards:
        +1 for each box, -0.01 a step [paper: signs, ours: sizes], -1 at a wall [ours].
    Starting State:
        Agent and boxes uniform, at least 1 m from the walls; heading uniform over all angles.
    Episode End:
        Terminated when the last box is collected (`info["is_success"]`; a box is collected within
        0.6 m) or at a wall (within 0.3 m, nothing is collected then), truncated after
        `max_episode_steps` steps.
    Arguments:
        n_boxes: K, 1 to 100. room: side of the room in metres, above 2. view_height, view_width:
        size of the student's picture in pixels, at least 4 each; the height is even.

    Sub-environments that have ended stay as they are until `reset(options={"reset_mask": done})`.
    Sub-environment i draws from a generator of its own, seeded with seed + i, as in Gymnasium's
    `SyncVectorEnv`. Raises ValueError for bad arguments, gymnasium.error.ResetNeeded for a step
    before the reset.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        n_boxes: int = 5,  # [paper]
        room: float = 8.0,  # [ours]
        max_episode_steps: int = 300,  # [ours] a student needs about 100 steps to search
        view_height: int = 16,  # [ours]
        view_width: int = 32,  # [ours]
    ) -> None:
        if num_envs < 1 or max_episode_steps < 1 or not 1 <= n_boxes <= 100:
            raise ValueError("num_envs, max_episode_steps must be >= 1 and n_boxes in 1 .. 100")
        if not 2 * SPAWN_MARGIN < room < np.inf:
            raise ValueError(f"room must be a length above {2 * SPAWN_MARGIN} m, not {room}")
        if view_height < 4 or view_height % 2 or view_width < 4:
            raise ValueError("view_height must be even, view_height and view_width at least 4")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be rgb_array, not {render_mode}")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.n_boxes, self.room, self.max_episode_steps = n_boxes, room, max_episode_steps
        self.view_height, self.view_width = view_height, view_width

        self.single_observation_space = Dict(
            teacher=Box(-2, 2, (6 * n_boxes + 8,), np.float32),
            student=Box(0, 255, (view_height, view_width, 3), np.uint8),
        )
        self.single_action_space = Discrete(10)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.index = np.arange(num_envs)
        self.position = np.full((num_envs, 2), room / 2)
        self.first_heading = np.zeros(num_envs)
        self.turns = np.zeros(num_envs, int)  # left turns since, 0 .. 11: no rounding error grows
        self.boxes = np.zeros((num_envs, n_boxes, 2))
        self.present = np.zeros((num_envs, n_boxes), bool)  # not yet collected
        self.trail = np.zeros((num_envs, max_episode_steps + 1, 2))  # for pictures only
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset
        self.seen = self._observe()  # the latest views; callers get copies

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
        low, high = SPAWN_MARGIN, self.room - SPAWN_MARGIN
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                own_seed = seeds[i] if seeds is seed else seed + int(i)
                self.rngs[i] = gym.utils.seeding.np_random(own_seed)[0]
            self.position[i] = self.rngs[i].uniform(low, high, 2)
            self.boxes[i] = self.rngs[i].uniform(low, high, (self.n_boxes, 2))
            self.first_heading[i] = self.rngs[i].uniform(0, 2 * np.pi)
        self.present[mask] = True
        self.turns[mask] = self.steps[mask] = 0
        self.trail[mask, 0] = self.position[mask]
        self.done[mask] = False
        new = self._observe(np.flatnonzero(mask))  # the other rooms look as they did
        for view, seen in self.seen.items():
            seen[mask] = new[view]
        return copy.deepcopy(self.seen), {"is_success": np.zeros(self.num_envs, bool)}

    def step(self, actions: np.ndarray):
        """Advance every sub-environment by one action, `actions` (N,)."""
        actions = np.asarray(actions)
        if self.done.any():
            raise gym.error.ResetNeeded('call reset() or reset(options={"reset_mask": done}) first')
        if actions.shape != (self.num_envs,) or ((actions < 0) | (actions > 9)).any():
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to 9")
        reward, success, crashed = self._physics(actions)
        terminated = success | crashed
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.done = terminated | truncated
        self.seen = self._observe()
        return copy.deepcopy(self.seen), reward, terminated, truncated, {"is_success": success}

    def _physics(self, actions: np.ndarray):  # (N,) -> (N,), (N,), (N,)
        """Move or turn, then collect; returns the rewards, who has all boxes, who hit a wall."""
        angle = self._heading() + actions * (np.pi / 4)
        length = np.where(actions < TURN_LEFT, STEP, 0.0)
        target = self.position + np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
        self.turns = (self.turns + (actions == TURN_LEFT) - (actions == TURN_RIGHT)) % N_TURNS
        low, high = WALL_MARGIN, self.room - WALL_MARGIN
        crashed = ((target <= low) | (target >= high)).any(axis=1)
        # It stops where it touches the wall: the last views are from inside the room as well.
        self.position = target.clip(low, high)

        offset = self.boxes - self.position[:, None]  # (N, K, 2)
        near = offset[..., 0] ** 2 + offset[..., 1] ** 2 <= COLLECT_RADIUS**2
        collected = self.present & near & ~crashed[:, None]
        self.present &= ~collected
        self.steps += 1
        if self.render_mode:
            self.trail[self.index, self.steps] = self.position
        reward = 1.0 * collected.sum(axis=1) - 1.0 * crashed - 0.01
        return reward, ~self.present.any(axis=1), crashed

    def _heading(self, rooms=slice(None)) -> np.ndarray:  # -> (N,)
        return self.first_heading[rooms] + self.turns[rooms] * TURN

    def _observe(self, rooms=slice(None)) -> dict[str, np.ndarray]:  # (N, 6 * K + 8), (N, H, W, 3)
        """Two views of one state. From here on N counts the `rooms`, by default all."""
        boxes = self._body_frame(rooms)
        teacher, student = self._teacher_view(boxes, rooms), self._student_view(boxes, rooms)
        return {"teacher": teacher, "student": student}

    def _body_frame(self, rooms=slice(None)):  # (N,) -> (N, K), (N, K), (N, K), (N, K)
        """Which boxes are present, their x, y and distance; nearest first, the collected last."""
        heading, present = self._heading(rooms)[:, None], self.present[rooms]
        cos, sin = np.cos(heading), np.sin(heading)
        dx, dy = np.moveaxis(self.boxes[rooms] - self.position[rooms, None], 2, 0)  # (N, K) each
        distance = np.sqrt(dx * dx + dy * dy)
        order = np.where(present, distance, np.inf).argsort(axis=1)
        x, y = cos * dx + sin * dy, cos * dy - sin * dx
        pick = (self.index[: len(order), None], order)
        return present[pick], x[pick], y[pick], distance[pick]

    def _wall_distance(self, rooms, dx: np.ndarray, dy: np.ndarray):  # (N, M) -> (N, M), (N, M)
        """How many (dx, dy) reach the wall ahead, and whether that is a wall of constant x."""
        middle = self.room / 2
        x, y = (self.position[rooms] - middle).astype(dx.dtype).T[..., None]  # (N, 1) each
        # A ray along a wall meets it far off, instead of at a division by zero.
        to_x_wall = (middle - x * np.sign(dx)) / np.maximum(np.abs(dx), 1e-6)
        to_y_wall = (middle - y * np.sign(dy)) / np.maximum(np.abs(dy), 1e-6)
        return np.minimum(to_x_wall, to_y_wall), to_x_wall < to_y_wall

    def _teacher_view(self, boxes, rooms=slice(None)) -> np.ndarray:  # -> (N, 6 * K + 8)
        """Everything, as numbers. Lengths are in room sides, so none exceeds sqrt(2)."""
        present, x, y, distance = boxes
        away = np.maximum(distance, 1e-9)  # a box exactly below the agent has no bearing
        length = self.room
        features = np.stack(
            [present, x / length, y / length, distance / length, x / away, y / away], axis=2
        )
        features *= present[..., None]
        heading = self._heading(rooms)
        cos, sin = np.cos(heading), np.sin(heading)
        ahead, left = np.stack([cos, sin]), np.stack([-sin, cos])
        walls, _ = self._wall_distance(rooms, *np.stack([ahead, left, -ahead, -left], axis=2))
        pose = [2 * self.position[rooms] / length - 1, ahead.T]
        flat = features.reshape(len(features), -1)  # (N, K, 6) -> (N, 6 * K)
        return np.concatenate([flat, *pose, walls / length], axis=1, dtype=np.float32)

    def _student_view(self, boxes, rooms=slice(None), sharper: int = 1):  # -> (N, H, W, 3)
        """The picture, column by column: what a column's ray meets, and from which row to which.
        H and W are `sharper` times the view's.

        Pinhole camera: a point at depth d along its axis, y to the left of and h below it, is
        focal * y / d pixels left of and focal * h / d pixels below the middle of the picture. A
        pixel has the colour of its centre. Of boxes that overlap in space the nearer is whole.
        """
        height, width = sharper * self.view_height, sharper * self.view_width
        focal, below = np.float32(width / 2), height // 2  # 90 degrees: |y| <= d is in the picture
        u = ((np.arange(width) + 0.5) / focal - 1).astype(np.float32)  # (W,) right of the axis
        row = np.arange(below, dtype=np.int16)  # (H/2,) down from the horizon

        def rows(h, depth):  # (), (...) -> (...)
            """How many pixel centres lie between the horizon and a point h below the camera."""
            return np.minimum(focal * h / depth + 0.5, below).astype(np.int16)

        heading = self._heading(rooms).astype(np.float32)[:, None]
        cos, sin = np.cos(heading), np.sin(heading)
        depth, is_x_wall = self._wall_distance(rooms, cos + sin * u, sin - cos * u)  # along (1, -u)
        wall = np.where(is_x_wall, WALL_X, WALL_Y)[:, None]  # (N, 1, W)
        is_wall = row[:, None] < rows(CAMERA_HEIGHT, depth)[:, None]  # (N, H/2, W)
        upper = is_wall * wall  # CEILING is 0, FLOOR 1, the walls are above
        lower = np.maximum(upper, FLOOR)

        # Farthest first, so that the nearer box is painted over it.
        present, x, y, _ = (v[:, ::-1].astype(np.float32) for v in boxes)
        # Only a box that reaches into the wedge |y| <= x costs anything.
        in_view = (present > 0) & (x > -BOX_RADIUS) & (np.abs(y) < x + BOX_RADIUS * np.sqrt(2))
        env = in_view.nonzero()[0]  # (n,) in whose room each such box is
        x, y = x[in_view], y[in_view]  # (n,)
        # Depths t where |t (1, -u) - (x, y)| = radius, from the quadratic equation.
        ray = 1 + u * u  # (W,) squared length of (1, -u)
        # Its discriminant over 4: (n, W); above 0 is a hit.
        square = BOX_RADIUS**2 * ray - (y[:, None] + x[:, None] * u) ** 2
        box, column = (square > 0).nonzero()  # (m,) each: which ray hits which box
        middle, half = x[box] - y[box] * u[column], np.sqrt(square[box, column])
        enter = np.maximum((middle - half) / ray[column], MIN_DEPTH)
        leave = np.maximum((middle + half) / ray[column], MIN_DEPTH)
        foot = rows(CAMERA_HEIGHT, enter)[:, None]  # (m, 1); no box reaches up to the horizon
        near, far = (rows(CAMERA_HEIGHT - BOX_HEIGHT, edge)[:, None] for edge in (enter, leave))
        hit, line = ((far <= row) & (row < foot)).nonzero()  # a pixel each, in the boxes' order
        shade = np.where(row < near, TOP, SIDE)[hit, line]
        lower[env[box[hit]], line, column[hit]] = shade  # the last one stays
        return colours(np.concatenate([upper[:, ::-1], lower], axis=1))

    def render(self) -> tuple | None:
        """One picture (384, 768, 3) per sub-environment: top view, camera, the student's pixels."""
        if self.render_mode is None:
            return None
        boxes, sharper = self._body_frame(), max(1, 384 // self.view_width)
        views = [self._student_view(boxes, sharper=sharper), self._student_view(boxes)]
        for k, view in enumerate(views):  # both to (N, 192, 384, 3), whatever their shape
            row, column = (np.arange(n) * view.shape[axis] // n for axis, n in ((1, 192), (2, 384)))
            views[k] = view[:, row[:, None], column]
        camera = np.concatenate(views, axis=1)  # (N, 384, 384, 3)
        camera[:, 190:194] = 255
        return tuple(
            np.concatenate([self._top_view(i), camera[i]], axis=1) for i in range(self.num_envs)
        )

    def _top_view(self, i: int, size: int = 384) -> np.ndarray:  # -> (size, size, 3)
        """North up: field of view yellow, boxes red (grey once collected), trail and agent blue."""
        margin = 0.03 * self.room  # the walls' thickness in the picture
        scale = size / (self.room + 2 * margin)
        east, down = (np.arange(size) + 0.5) / scale - margin, np.arange(size)[:, None]
        north = self.room + margin - (down + 0.5) / scale
        dx, dy = east - self.position[i, 0], north - self.position[i, 1]
        cos, sin = np.cos(self._heading()[i]), np.sin(self._heading()[i])
        ahead, left = cos * dx + sin * dy, cos * dy - sin * dx  # (size, size)

        frame = np.full((size, size, 3), 236, np.uint8)
        frame[np.abs(left) < ahead] = (255, 236, 150)
        for (x, y), present in zip(self.boxes[i], self.present[i]):
            disc = np.hypot(east - x, north - y) < BOX_RADIUS
            frame[disc] = PALETTE[TOP] if present else (205, 205, 205)
        trail = self.trail[i, : self.steps[i] + 1]
        for a, b in zip(trail[:-1], trail[1:]):
            points = a + (b - a) * np.linspace(0, 1, 32)[:, None]  # (32, 2)
            column, row = ((points * (1, -1) + (margin, self.room + margin)) * scale).T.astype(int)
            frame[row, column] = frame[row + 1, column] = frame[row, column + 1] = (120, 150, 220)
        frame[:, np.abs(east - self.room / 2) > self.room / 2] = PALETTE[WALL_X]
        frame[np.abs(north[:, 0] - self.room / 2) > self.room / 2] = PALETTE[WALL_Y]
        arrow = (ahead > -0.2) & (np.abs(left) < 0.24 - 0.6 * ahead)  # a triangle, tip ahead
        frame[arrow] = (35, 70, 190)
        return frame


class CollectHealthEnv(gym.Env):
    """One sub-environment of `CollectHealthVectorEnv`, whose docstring describes the task."""

    metadata = {k: v for k, v in CollectHealthVectorEnv.metadata.items() if k != "autoreset_mode"}

    def __init__(self, **arguments) -> None:
        self.vector = CollectHealthVectorEnv(1, **arguments)
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

    def render(self) -> np.ndarray | None:
        """A picture (384, 768, 3)."""
        frames = self.vector.render()
        return None if frames is None else frames[0]


gym.register(
    "CollectHealth-v0",
    entry_point=CollectHealthEnv,
    vector_entry_point=CollectHealthVectorEnv,
)

if __name__ == "__main__":
    import time

    import matplotlib.pyplot as plt

    example = CollectHealthEnv(render_mode="rgb_array")
    example.reset(seed=0)
    for action in (0, 8, 8, 0, 8, 8, 8, 0, 0, 0, 0, 9):
        example.step(action)
    plt.imsave("collecthealth.png", example.render())
    print("wrote collecthealth.png")

    envs = CollectHealthVectorEnv(num_envs=128)
    envs.reset(seed=0)
    turn = np.full(128, TURN_LEFT)

    def per_second(call) -> float:
        """How many environments a second `call` serves; it does one thing in each of the 128."""
        start = time.perf_counter()
        for _ in range(200):
            call()
        return 200 * 128 / (time.perf_counter() - start)

    pictures = per_second(lambda: envs._student_view(envs._body_frame()))
    print(f"student views a second            {pictures:9,.0f}")
    envs.reset()
    steps = per_second(lambda: (envs._physics(turn), envs._teacher_view(envs._body_frame())))
    print(f"physics + teacher views a second {steps:9,.0f}")
