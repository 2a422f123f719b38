"""CollectHealth-v0: a 3D room that the teacher knows and the student sees through a camera.

Written in NumPy from the description in arXiv 2605.28372, Section V-A; its code is not
public. What the paper states is marked [paper] below where it matters, and what it leaves
open and we chose [ours].
Miniworld's registered CollectHealth is a different task (18 kits, health that decays, no
end at the walls), and Miniworld is no longer maintained. Run this file for a picture and
the speed: `python collecthealth.py`.

Lengths are metres, angles radians and counter-clockwise. In the room x points east and y
north; the agent's own coordinates are `ahead` and `left`.
Shapes: N sub-environments, M of their rooms that are drawn, K boxes, H W picture, R rays.
"""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

N_ACTIONS = 10  # the first eight move
TURN_LEFT = 8
TURN_RIGHT = 9
STEP = 0.5  # [ours] metres
TURN = np.pi / 6  # [ours] 30 degrees
N_TURNS = 12  # of these are a full circle

COLLECT_RADIUS = 0.6  # [ours]
WALL_MARGIN = 0.3  # [ours] the agent touches a wall at this distance
SPAWN_MARGIN = 1.0  # [ours] agent and boxes begin at least this far from the walls
BOX_RADIUS = 0.25  # [ours] a box is an upright cylinder
BOX_HEIGHT = 0.6  # [ours]
CAMERA_HEIGHT = 1.0  # [ours] walls are always twice as high: the horizon halves them
MIN_DEPTH = 1e-3  # of a box, metres: the camera may be inside its cylinder

BOX_REWARD = 1.0  # [paper: a reward, ours: its size]
STEP_COST = 0.01  # [paper: a cost, ours: its size]
CRASH_COST = 1.0  # [ours]

# What a pixel of the student's picture shows, as a row of the palette, in one byte.
CEILING = np.uint8(0)
FLOOR = np.uint8(1)
WALL_X = np.uint8(2)  # the walls in the east and the west, of constant x
WALL_Y = np.uint8(3)
BOX_TOP = np.uint8(4)
BOX_SIDE = np.uint8(5)
PALETTE = np.array(
    [
        (150, 190, 225),  # ceiling
        (95, 90, 85),  # floor
        (205, 195, 170),  # walls of constant x
        (165, 155, 135),  # walls of constant y
        (245, 95, 85),  # tops of boxes
        (190, 25, 30),  # sides of boxes
    ],
    np.uint8,
)

MAP_SIZE = 384  # pixels of the map that `render` draws, in these colours
MAP_FLOOR = (236, 236, 236)
MAP_VIEW = (255, 236, 150)
MAP_COLLECTED = (205, 205, 205)
MAP_TRAIL = (120, 150, 220)
MAP_AGENT = (35, 70, 190)


class Boxes(NamedTuple):
    """The boxes of each room from where the agent stands: nearest first, collected last."""

    present: np.ndarray  # (M, K), false once it is collected
    ahead: np.ndarray  # (M, K), metres
    left: np.ndarray  # (M, K), metres
    distance: np.ndarray  # (M, K), metres


class CollectHealthVectorEnv(gym.vector.VectorEnv):
    """N rooms, stepped and seen at once; `CollectHealthEnv` below is a single one.

    Description:
        Five health boxes lie at random places in a square room [paper]. The agent walks
        through them to collect them and must not touch a wall [paper].
    Action Space:
        Discrete(10): 0-7 move 0.5 m, k * 45 degrees counter-clockwise of where the camera
        looks (0 is straight ahead), without turning it; 8 and 9 turn the camera 30 degrees
        left and right.
    Observation Space:
        Dict of two views of one state (paper, Eq. (3)).
        teacher: float32 (6 K + 8). For each box, nearest first: present, ahead, left,
        distance, cosine and sine of its bearing; zeros for those collected, which come
        last. Then x and y in the room, scaled to [-1, 1]. Then cosine and sine of the
        heading. Then the distances to the walls forward, left, back and right. All lengths
        but x and y are in room sides.
        student: uint8 (view_height, view_width, 3), the picture of a pinhole camera 90
        degrees wide with square pixels. Walls have two shades, boxes are red cylinders with
        lighter tops.
    Rewards:
        +1 for each box, -0.01 a step [paper: signs, ours: sizes], -1 at a wall [ours].
    Starting State:
        Agent and boxes uniform, at least 1 m from the walls; heading uniform over all
        angles.
    Episode End:
        Terminated when the last box is collected (`info["is_success"]`; a box is collected
        within 0.6 m) or at a wall (within 0.3 m, nothing is collected then), truncated
        after `max_episode_steps` steps.
    Arguments:
        n_boxes: K, 1 to 100.
        room: side of the room in metres, above 2.
        view_height, view_width: size of the student's picture in pixels, at least 4 each.
        The height is even: the horizon lies between two rows.

    Before the next step, those that have ended have to be reset by
    `reset(options={"reset_mask": done})`; the others stay as they are. Sub-environment i
    draws from a generator of its own, seeded with seed + i, as in Gymnasium's
    `SyncVectorEnv`. Raises ValueError for bad arguments, gymnasium.error.ResetNeeded for a
    step before the reset.

    The attribute `draw_student` is True at first. While it is False, nothing is drawn: step
    and reset return an older picture for the student (a black one at first), and the
    teacher's view as always.
    From the first step or reset after it was set back to True, all pictures are true.
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
        """Check the arguments, declare the spaces and set up the state of the N rooms."""
        if num_envs < 1 or max_episode_steps < 1 or not 1 <= n_boxes <= 100:
            raise ValueError(
                "num_envs, max_episode_steps must be >= 1 and n_boxes in 1 .. 100"
            )
        if not 2 * SPAWN_MARGIN < room < np.inf:
            raise ValueError(
                f"room must be a length above {2 * SPAWN_MARGIN} m, not {room}"
            )
        if view_height < 4 or view_height % 2 or view_width < 4:
            raise ValueError(
                "view_height must be even, view_height and view_width at least 4"
            )
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be rgb_array, not {render_mode}")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.n_boxes = n_boxes
        self.room = room
        self.max_episode_steps = max_episode_steps
        self.view_height = view_height
        self.view_width = view_width
        self.draw_student = True

        self.single_observation_space = Dict(
            teacher=Box(-2, 2, (6 * n_boxes + 8,), np.float32),
            student=Box(0, 255, (view_height, view_width, 3), np.uint8),
        )
        self.single_action_space = Discrete(N_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.index = np.arange(num_envs)
        self.position = np.full((num_envs, 2), room / 2)
        self.first_heading = np.zeros(num_envs)
        # Left turns since then, 0 .. 11. To count them lets no rounding error grow.
        self.turns = np.zeros(num_envs, int)
        self.boxes = np.zeros((num_envs, n_boxes, 2))
        self.present = np.zeros((num_envs, n_boxes), bool)  # not yet collected
        self.trail = np.zeros((num_envs, max_episode_steps + 1, 2))  # for `render` only
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset
        self.pictures = np.zeros((num_envs, view_height, view_width, 3), np.uint8)
        self.is_outdated = np.ones(num_envs, bool)  # whose picture shows an older state

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
        low = SPAWN_MARGIN
        high = self.room - SPAWN_MARGIN
        for i in np.flatnonzero(mask):
            own_seed = seed_of(seed, int(i))
            if own_seed is not None:
                self.rngs[i] = gym.utils.seeding.np_random(own_seed)[0]
            self.position[i] = self.rngs[i].uniform(low, high, 2)
            self.boxes[i] = self.rngs[i].uniform(low, high, (self.n_boxes, 2))
            self.first_heading[i] = self.rngs[i].uniform(0, 2 * np.pi)
        self.present[mask] = True
        self.turns[mask] = 0
        self.steps[mask] = 0
        self.trail[mask, 0] = self.position[mask]
        self.done[mask] = False
        return self._observe(mask), {"is_success": np.zeros(self.num_envs, bool)}

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
            raise ValueError(f"actions must be {self.num_envs} integers from 0 to 9")
        crashed = self._move_or_turn(action)
        n_collected = self._collect(crashed)
        self.steps += 1
        if self.render_mode is not None:
            self.trail[self.index, self.steps] = self.position

        success = ~self.present.any(axis=1)
        crash_cost = np.where(crashed, CRASH_COST, 0.0)
        reward = BOX_REWARD * n_collected - crash_cost - STEP_COST
        terminated = success | crashed
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.done = terminated | truncated
        return self._observe(), reward, terminated, truncated, {"is_success": success}

    def _move_or_turn(self, action: np.ndarray) -> np.ndarray:  # (N,) -> (N,)
        """Move each agent or turn its camera. Returns who touched a wall."""
        direction = self._heading() + action * (np.pi / 4)
        stride = STEP * np.stack([np.cos(direction), np.sin(direction)], axis=1)  # (N, 2)
        is_move = action < TURN_LEFT
        target = np.where(is_move[:, None], self.position + stride, self.position)
        low = WALL_MARGIN
        high = self.room - WALL_MARGIN
        crashed = ((target <= low) | (target >= high)).any(axis=1)
        # It ends beside the wall, not beyond it: the last views are from inside the room.
        self.position = target.clip(low, high)
        self.turns[action == TURN_LEFT] += 1
        self.turns[action == TURN_RIGHT] -= 1
        self.turns %= N_TURNS
        return crashed

    def _collect(self, crashed: np.ndarray) -> np.ndarray:  # (N,) -> (N,)
        """Collect the boxes within reach, but none where the agent crashed.

        Returns how many each agent collects.
        """
        offset = self.boxes - self.position[:, None]  # (N, K, 2)
        is_near = (offset**2).sum(axis=2) <= COLLECT_RADIUS**2  # (N, K)
        collected = self.present & is_near & ~crashed[:, None]
        self.present &= ~collected
        return collected.sum(axis=1)

    def _heading(self) -> np.ndarray:  # -> (N,)
        """Where each camera looks, counter-clockwise from east."""
        return self.first_heading + self.turns * TURN

    def _observe(
        self, changed: np.ndarray | bool = True
    ) -> dict[str, np.ndarray]:  # (N,) -> (N, 6 * K + 8), (N, H, W, 3)
        """The two views of one state. `changed` says whose state is new, by default all.

        A picture is drawn only if its room has changed since it was last drawn, and only
        while `draw_student` is True.
        """
        self.is_outdated |= changed
        if self.draw_student:
            rooms = np.flatnonzero(self.is_outdated)
            self.pictures[rooms] = self._draw(rooms, self.view_height, self.view_width)
            self.is_outdated[rooms] = False
        return {"teacher": self._teacher_view(), "student": self.pictures.copy()}

    def _find_boxes(self, rooms: np.ndarray) -> Boxes:  # (M,) -> (M, K) each
        """The boxes of the given rooms from where the agent stands, sorted by distance."""
        offset = self.boxes[rooms] - self.position[rooms, None]  # (M, K, 2)
        dx = offset[:, :, 0]
        dy = offset[:, :, 1]
        present = self.present[rooms]
        distance = np.sqrt(dx * dx + dy * dy)
        order = np.where(present, distance, np.inf).argsort(axis=1)
        ahead, left = seen_from_agent(dx, dy, self._heading()[rooms, None])
        return Boxes(
            present=np.take_along_axis(present, order, axis=1),
            ahead=np.take_along_axis(ahead, order, axis=1),
            left=np.take_along_axis(left, order, axis=1),
            distance=np.take_along_axis(distance, order, axis=1),
        )

    def _teacher_view(self) -> np.ndarray:  # -> (N, 6 * K + 8)
        """Everything, as numbers. Lengths are in room sides, so none exceeds sqrt(2)."""
        boxes = self._find_boxes(self.index)
        # A box exactly where the agent stands has no bearing: its cosine and sine are 0.
        divisor = np.maximum(boxes.distance, 1e-9)
        columns = [
            boxes.present,
            boxes.ahead / self.room,
            boxes.left / self.room,
            boxes.distance / self.room,
            boxes.ahead / divisor,
            boxes.left / divisor,
        ]
        features = np.stack(columns, axis=2)  # (N, K, 6)
        features_present = np.where(boxes.present[:, :, None], features, 0)
        flat = features_present.reshape(self.num_envs, 6 * self.n_boxes)

        place = 2 * self.position / self.room - 1  # (N, 2)
        cos = np.cos(self._heading())
        sin = np.sin(self._heading())
        heading = np.stack([cos, sin], axis=1)
        dx = np.stack([cos, -sin, -cos, sin], axis=1)  # forward, left, back, right
        dy = np.stack([sin, cos, -sin, -cos], axis=1)
        to_wall, _ = wall_distance(self.room, self.position, dx, dy)  # (N, 4)
        parts = [flat, place, heading, to_wall / self.room]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _draw(
        self, rooms: np.ndarray, height: int, width: int
    ) -> np.ndarray:  # (M,) -> (M, H, W, 3)
        """The pictures of the cameras in the given rooms.

        They are pinhole cameras, 90 degrees wide. What lies d metres ahead, y to the left
        and h below the camera is focal * y / d pixels to the left of the picture's middle
        and focal * h / d pixels below it. A pixel has the colour of its centre. Where boxes
        overlap, the one whose axis is nearer is painted over the other.
        """
        focal = np.float32(width / 2)  # this precision is enough for pixels
        # How far the ray through each column goes to the right on a metre ahead: -1 to 1.
        slope = ((np.arange(width) + 0.5) / focal - 1).astype(np.float32)  # (W,)
        # The two halves of the picture, in rows counted from the horizon. The camera is at
        # half the walls' height, so as many rows show a wall above the horizon as below.
        row = np.arange(height // 2)[:, None, None]  # (H/2, 1, 1)
        wall, wall_end = self._find_walls(rooms, slope, focal)  # (M, W) each
        upper = np.where(row < wall_end, wall, CEILING)  # (H/2, M, W)
        lower = np.where(row < wall_end, wall, FLOOR)

        # A box is lower than the camera. The nearest is painted last, over the others.
        boxes = self._find_boxes(rooms)
        for k in reversed(range(self.n_boxes)):
            present = boxes.present[:, k, None]  # (M, 1)
            ahead = boxes.ahead[:, k, None].astype(np.float32)
            left = boxes.left[:, k, None].astype(np.float32)
            enter, leave = meet_box(present, ahead, left, slope)  # (M, W) each
            # From the horizon down: far edge of its top, near edge of its top, its foot.
            top_begin = rows_down_to(CAMERA_HEIGHT - BOX_HEIGHT, leave, focal)
            top_end = rows_down_to(CAMERA_HEIGHT - BOX_HEIGHT, enter, focal)
            side_end = rows_down_to(CAMERA_HEIGHT, enter, focal)
            lower[(top_begin <= row) & (row < top_end)] = BOX_TOP
            lower[(top_end <= row) & (row < side_end)] = BOX_SIDE

        # Row 0 of the upper half is its lowest, so that half is turned over.
        picture = np.concatenate([upper[::-1], lower]).swapaxes(0, 1)  # (M, H, W)
        return np.take(PALETTE, picture, axis=0)  # PALETTE[picture], but faster

    def _find_walls(
        self, rooms: np.ndarray, slope: np.ndarray, focal: float
    ) -> tuple[np.ndarray, np.ndarray]:  # (M,), (W,), () -> (M, W), (M, W)
        """Which wall each column shows, and how many rows of it are below the horizon."""
        heading = self._heading()[rooms, None].astype(np.float32)  # (M, 1)
        dx = np.cos(heading) + np.sin(heading) * slope  # (M, W), on a metre ahead
        dy = np.sin(heading) - np.cos(heading) * slope
        depth, is_x = wall_distance(self.room, self.position[rooms], dx, dy)
        wall = np.where(is_x, WALL_X, WALL_Y)
        return wall, rows_down_to(CAMERA_HEIGHT, depth, focal)

    def render(self) -> tuple | None:
        """One picture (384, 768, 3) per sub-environment.

        On its left is a map, on its right what the camera sees: above in fine pixels, below
        in the student's.
        """
        if self.render_mode is None:
            return None
        factor = max(1, MAP_SIZE // self.view_width)
        fine = self._draw(self.index, factor * self.view_height, factor * self.view_width)
        coarse = self._draw(self.index, self.view_height, self.view_width)
        above = stretch(fine, MAP_SIZE // 2, MAP_SIZE)
        below = stretch(coarse, MAP_SIZE // 2, MAP_SIZE)
        camera = np.concatenate([above, below], axis=1)  # (N, 384, 384, 3)
        middle = MAP_SIZE // 2
        camera[:, middle - 2 : middle + 2] = 255  # a white line
        frames = []
        for i in range(self.num_envs):
            frames.append(np.concatenate([self._draw_map(i), camera[i]], axis=1))
        return tuple(frames)

    def _draw_map(self, i: int) -> np.ndarray:  # -> (384, 384, 3)
        """Room i from above, north up.

        What the camera can see is yellow. Boxes are red, grey once they are collected. The
        agent and its trail are blue.
        """
        margin = 0.03 * self.room  # thickness of the walls
        scale = MAP_SIZE / (self.room + 2 * margin)  # pixels a metre
        from_edge = (np.arange(MAP_SIZE) + 0.5) / scale
        x = (from_edge - margin)[None, :]  # (1, 384), of each column
        y = (self.room + margin - from_edge)[:, None]  # (384, 1), of each row
        dx = x - self.position[i, 0]
        dy = y - self.position[i, 1]
        ahead, left = seen_from_agent(dx, dy, self._heading()[i])  # (384, 384) each

        frame = np.full((MAP_SIZE, MAP_SIZE, 3), MAP_FLOOR, np.uint8)
        frame[np.abs(left) < ahead] = MAP_VIEW
        for k in range(self.n_boxes):
            box_x, box_y = self.boxes[i, k]
            is_box = np.hypot(x - box_x, y - box_y) < BOX_RADIUS
            frame[is_box] = PALETTE[BOX_TOP] if self.present[i, k] else MAP_COLLECTED
        trail = fill_trail(self.trail[i, : self.steps[i] + 1])
        column = ((trail[:, 0] + margin) * scale).astype(int)
        row = ((self.room + margin - trail[:, 1]) * scale).astype(int)
        for down, right in [(0, 0), (1, 0), (0, 1)]:  # a line two pixels wide
            frame[row + down, column + right] = MAP_TRAIL
        is_x_wall = (x < 0) | (x > self.room)
        is_y_wall = (y < 0) | (y > self.room)
        frame[:, is_x_wall[0]] = PALETTE[WALL_X]
        frame[is_y_wall[:, 0]] = PALETTE[WALL_Y]
        is_agent = (ahead > -0.2) & (np.abs(left) < 0.24 - 0.6 * ahead)
        frame[is_agent] = MAP_AGENT  # a triangle, tip ahead
        return frame


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


def seen_from_agent(
    dx: np.ndarray, dy: np.ndarray, heading: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # (...), (...), (...) -> (...), (...)
    """How far ahead and how far to the left of an agent lies what is (dx, dy) from it."""
    cos = np.cos(heading)
    sin = np.sin(heading)
    ahead = cos * dx + sin * dy
    left = cos * dy - sin * dx
    return ahead, left


def wall_distance(
    room: float, position: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # (), (M, 2), (M, R), (M, R) -> (M, R), (M, R)
    """How often (dx, dy) fits between the agent and the wall that this ray hits.

    That is the distance in metres if (dx, dy) has length 1. The second result says whether
    the wall is one of constant x.
    """
    middle = room / 2
    from_middle = (position - middle).astype(dx.dtype)  # as precise as the rays
    x = from_middle[:, :1]  # (M, 1)
    y = from_middle[:, 1:]
    # From the agent to the wall on the side to which the ray goes, over the ray's part in
    # that direction. A ray along a wall meets it far off, not at a division by zero.
    to_x_wall = (middle - x * np.sign(dx)) / np.maximum(np.abs(dx), 1e-6)
    to_y_wall = (middle - y * np.sign(dy)) / np.maximum(np.abs(dy), 1e-6)
    return np.minimum(to_x_wall, to_y_wall), to_x_wall < to_y_wall


def meet_box(
    present: np.ndarray, ahead: np.ndarray, left: np.ndarray, slope: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # (M, 1), (M, 1), (M, 1), (W,) -> (M, W), (M, W)
    """How many metres ahead each column's ray enters and leaves the cylinder of a box.

    After t metres ahead the ray is at t * (1, -slope). There it meets the cylinder if that
    is a radius away from (ahead, left):

        t^2 (1 + slope^2) - 2 t (ahead - left slope) + ahead^2 + left^2 - radius^2 = 0

    Without solutions, or where the box is no longer there, both depths are infinite. Depths
    behind the camera become MIN_DEPTH: what is so near is below the picture's lower edge.
    """
    squared_length = 1 + slope * slope  # of (1, -slope)
    middle = ahead - left * slope
    # middle^2 - squared_length (ahead^2 + left^2 - radius^2), simplified
    discriminant = BOX_RADIUS**2 * squared_length - (left + ahead * slope) ** 2
    half = np.sqrt(np.maximum(discriminant, 0))
    enter = np.maximum((middle - half) / squared_length, MIN_DEPTH)
    leave = np.maximum((middle + half) / squared_length, MIN_DEPTH)
    is_hit = present & (discriminant > 0)
    return np.where(is_hit, enter, np.inf), np.where(is_hit, leave, np.inf)


def rows_down_to(
    metres: float, depth: np.ndarray, focal: float
) -> np.ndarray:  # (), (M, W), () -> (M, W)
    """How many pixels of a column, by their centres, lie between the horizon and a point.

    The point is so many metres below the camera, and `depth` metres ahead of it.
    """
    # Pixel j counts if its centre, j + 0.5, is above the point: this is to round.
    return (focal * metres / depth + 0.5).astype(int)


def stretch(
    pictures: np.ndarray, height: int, width: int
) -> np.ndarray:  # (N, H, W, 3) -> (N, height, width, 3)
    """Repeat pixels, or leave some out, until the pictures have the given size."""
    row = np.arange(height) * pictures.shape[1] // height
    column = np.arange(width) * pictures.shape[2] // width
    return pictures[:, row[:, None], column]


def fill_trail(places: np.ndarray) -> np.ndarray:  # (T + 1, 2) -> (32 * T, 2)
    """32 points on each of the straight lines from place to place."""
    begin = places[:-1, None]  # (T, 1, 2)
    end = places[1:, None]
    share = np.linspace(0, 1, 32)[:, None]  # (32, 1)
    points = begin + (end - begin) * share  # (T, 32, 2)
    return points.reshape(-1, 2)


class CollectHealthEnv(gym.Env):
    """One sub-environment of `CollectHealthVectorEnv`, which describes the task."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, **arguments) -> None:
        """The arguments are those of `CollectHealthVectorEnv`, without num_envs."""
        self.vector = CollectHealthVectorEnv(1, **arguments)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    @property
    def draw_student(self) -> bool:
        """Whether the student's picture is drawn, as in the vector environment."""
        return self.vector.draw_student

    @draw_student.setter
    def draw_student(self, draws: bool) -> None:
        """Pass it on to the vector environment."""
        self.vector.draw_student = draws

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

    def render(self) -> np.ndarray | None:
        """A picture (384, 768, 3)."""
        if self.render_mode is None:
            return None
        return self.vector.render()[0]


def only_one(batch: dict[str, np.ndarray]) -> dict:  # (1, ...) -> (...)
    """The values of the only sub-environment."""
    return {name: values[0] for name, values in batch.items()}


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
    turns_left = np.full(128, TURN_LEFT)
    for draws in (True, False):
        envs.draw_student = draws
        envs.reset(seed=0)
        start = time.perf_counter()
        for _ in range(200):
            envs.step(turns_left)
        steps_per_second = 200 * 128 / (time.perf_counter() - start)
        views = "both views" if draws else "the teacher's view alone"
        print(f"{steps_per_second:9,.0f} steps a second with {views}")
