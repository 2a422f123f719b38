"""RobotEye-v0: a robot with an eye, simulated and drawn by MuJoCo.

    apt-get install -y libegl1 libgl1            # Debian: draws without a display
    pip install -r results/camera/requirements.txt
    MUJOCO_GL=egl python -m results.camera.robot           # scripted players, speed
    MUJOCO_GL=egl python tsalign.py --env results.camera.robot:RobotEye-v0

A base drives in any direction and turns; its eye looks ahead. The teacher knows where
everything is and need not look. The student has the picture alone and has to look around
first. The goal is the only red thing. It stands higher than the eye and everything else
lower, so that a robot that turns sees it from everywhere [ours: a student without memory
could not go and look behind things].

Metres, seconds and radians; world frame x east, y north, angles counter-clockwise; body
frame x forward, y left. Shapes: N sub-environments, S x S pixels of the student's picture.
"""

import functools
import math
from typing import ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from results.camera.camera_view import draw, named_camera

# The whole task is [ours]. Reasons are given where one might wonder.
ROOM = 3.0  # half the room's side
SPAN = 2 * math.sqrt(2) * ROOM  # the room's diagonal: no distance in it is longer
SUBSTEPS = 4  # of MuJoCo's 0.025 s: a control step of 0.1 s
TOP_SPEED = 1.0  # of the forward and of the sideways motor, metres per second
TOP_TURN = 2.0  # radians per second; a full circle takes 32 steps
GOAL_REACH = 0.5  # from centre to centre: the base touches the goal's side

EYE_HEIGHT = 0.5  # above the middle of the base, from the floor
EYE_TILT = 0.17  # tangent of the angle by which it looks down
EYE_FIELD = 60  # degrees, in both directions
FIELD_GROUP = 3  # MuJoCo's group of the shape that shows it in `render` only

GOAL = 0  # rows of `things`: the goal, the decoy, two pillars
DECOY = 1
PILLARS = [2, 3]
SPAWN = 2.3  # the base and the goal start within +-SPAWN along both axes
SPAWN_SOLID = 2.0  # decoy and pillars; the base fits between them and every wall
APART = 1.2  # from centre to centre; the base fits between any two
GOAL_APART = 2.0  # from the base

PROGRESS = 0.5  # reward for each metre nearer to the goal
STEP_COST = 0.01
BUMP_COST = 0.05
# Times the squared action. Turning costs more than driving, so that a teacher who knows the way
# does not turn for nothing: whoever imitates that looks around by accident.
EFFORT_COST = np.array([0.005, 0.005, 0.01])

# A speed settles at motor / damping, with the time constant mass / damping = 0.07 s. Little
# of it is left after a control step, so that a picture without speeds is enough to act on.
# Contacts have no friction (condim 1), so that the base slides along what it bumps into.
MODEL = f"""
<mujoco model="robot with an eye">
  <option timestep="0.025" integrator="implicitfast"/>
  <size memory="64K"/>
  <visual>
    <map znear="0.01"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" width="32" height="192"
             rgb1=".55 .7 .9" rgb2=".85 .9 .95"/>
    <texture name="floor" type="2d" builtin="checker" width="64" height="64"
             rgb1=".40 .40 .42" rgb2=".33 .33 .35"/>
    <material name="floor" texture="floor" texrepeat="3 3"/>
    <mesh name="field of view"
          vertex="0 0 0  1.5 .87 0  1.5 -.87 0  0 0 .01  1.5 .87 .01  1.5 -.87 .01"/>
  </asset>
  <default>
    <geom contype="0" conaffinity="0"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
    <default class="solid">
      <geom type="box" conaffinity="1" condim="1" rgba=".75 .72 .65 1"/>
    </default>
    <default class="pillar">
      <geom type="cylinder" conaffinity="1" condim="1" size=".25 .2" rgba=".2 .35 .9 1"/>
    </default>
  </default>
  <worldbody>
    <light directional="true" dir="-.3 -.5 -1" diffuse=".5 .5 .5" castshadow="false"/>
    <camera name="above" pos="0 0 12" fovy="32"/>
    <geom type="plane" size="{ROOM} {ROOM} .1" material="floor"/>
    <geom class="solid" pos="{ROOM + 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="solid" pos="{-ROOM - 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="solid" pos="0 {ROOM + 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <geom class="solid" pos="0 {-ROOM - 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <body name="base">
      <joint type="slide" axis="1 0 0" damping="30"/>
      <joint type="slide" axis="0 1 0" damping="30"/>
      <joint type="hinge" axis="0 0 1" damping=".6"/>
      <site name="middle"/>
      <geom type="cylinder" size=".2 .15" pos="0 0 .15" mass="2" contype="1" condim="1"/>
      <geom type="mesh" mesh="field of view" pos="0 0 .05" mass="0" group="{FIELD_GROUP}"
            rgba="1 .9 .3 .5"/>
      <camera name="eye" pos="0 0 {EYE_HEIGHT}" fovy="{EYE_FIELD}"
              xyaxes="0 -1 0 {EYE_TILT} 0 1"/>
    </body>
    <body name="goal" mocap="true">
      <geom type="cylinder" size=".3 .45" pos="0 0 .45" rgba=".9 .1 .1 1"/>
    </body>
    <body name="decoy" mocap="true">
      <geom class="solid" size=".2 .2 .2" pos="0 0 .2" rgba=".1 .7 .2 1"/>
    </body>
    <body name="pillar 1" mocap="true"><geom class="pillar" pos="0 0 .2"/></body>
    <body name="pillar 2" mocap="true"><geom class="pillar" pos="0 0 .2"/></body>
  </worldbody>
  <actuator>
    <motor site="middle" gear="{30 * TOP_SPEED} 0 0 0 0 0"/>
    <motor site="middle" gear="0 {30 * TOP_SPEED} 0 0 0 0"/>
    <motor site="middle" gear="0 0 0 0 0 {0.6 * TOP_TURN}"/>
  </actuator>
</mujoco>
"""


@functools.cache
def load_model() -> mujoco.MjModel:
    """The room; all environments of a process share it."""
    return mujoco.MjModel.from_xml_string(MODEL)


class RobotEyeVectorEnv(gym.vector.VectorEnv):
    """N robots, each a MuJoCo state of its own; `RobotEyeEnv` below is a slice of one.

    Description:
        A round base drives to a red column in a walled room of 6 m x 6 m. A green box, the
        decoy, and two blue pillars stand in its way; they and the walls are solid. MuJoCo
        computes motors, damping and contacts.
    Action Space:
        Box(-1, 1, (3,)): the motors forward, to the left, and turning left, held for 0.1 s.
        Their top speeds are 1 m/s, 1 m/s and 2 rad/s. Values outside are clipped.
    Observation Space:
        Dict of two views of one state.
        teacher: float32 (27). For the goal, the decoy, the nearer and the farther pillar,
        [x, y in the body frame, distance, cosine and sine of its bearing]; then x and y in
        the room, scaled to [-1, 1], cosine and sine of the heading; then the speeds
        forward, to the left and turning left, in top speeds and clipped to [-1, 1]. Other
        lengths are in diagonals of the room.
        student: uint8 (size, size, 3), the picture of an eye that is 60 degrees wide.
    Rewards:
        0.5 for each metre nearer to the goal, +1 at the goal, -0.01 a step, -0.05 if the
        step ends in contact with something solid, -0.005 times the square of each driving
        motor's action and -0.01 times that of the turning one.
    Starting State:
        At rest. Places and heading are uniform: base and goal within 2.3 m of the middle
        along both axes, the rest within 2 m; goal and base are at least 2 m apart, all
        others 1.2 m.
    Episode End:
        Terminated at the goal (`info["is_success"]`, within 0.5 m), truncated after
        `max_episode_steps` steps.
    Arguments:
        size: S, rows and columns of the student's picture, 8 to 512.

    While `draw_student` is False nothing is drawn, and the student's views are the last
    ones that were. `RobotEyeVectorEnv.pictures_drawn` counts the student's pictures of all
    instances. Sub-environments that have ended stay as they are until
    `reset(options={"reset_mask": done})`. Sub-environment i draws from a generator of its
    own, seeded with seed + i, as in Gymnasium's `SyncVectorEnv`. Raises ValueError for bad
    arguments, gymnasium.error.ResetNeeded for a step before the reset.
    """

    metadata: ClassVar = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.DISABLED,
    }
    pictures_drawn = 0

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        max_episode_steps: int = 120,
        size: int = 32,
    ) -> None:
        if num_envs < 1 or max_episode_steps < 1:
            raise ValueError("num_envs and max_episode_steps must be at least 1")
        if not 8 <= size <= 512:
            raise ValueError(f"size must be 8 to 512 pixels, not {size}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be rgb_array, not {render_mode}")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.max_episode_steps = max_episode_steps
        self.size = size
        self.draw_student = True

        self.single_observation_space = Dict(
            teacher=Box(-1, 1, (27,), np.float32),
            student=Box(0, 255, (size, size, 3), np.uint8),
        )
        self.single_action_space = Box(-1, 1, (3,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.datas = [mujoco.MjData(load_model()) for _ in range(num_envs)]
        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.pose = np.zeros((num_envs, 3))  # x, y, heading
        self.velocity = np.zeros((num_envs, 3))  # of the pose, in the world frame
        self.things = np.zeros((num_envs, 4, 2))  # x, y of goal, decoy, pillars
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset
        self.pictures = np.zeros((num_envs, size, size, 3), np.uint8)  # the latest
        self.is_current = np.zeros(num_envs, bool)  # do they show the present state?

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per sub-environment, as in `SyncVectorEnv`."""
        return tuple(self.rngs)

    def reset(self, *, seed: int | list[int] | None = None, options: dict | None = None):
        """New episodes where `options["reset_mask"]` (N,) is true, or else everywhere."""
        everywhere = np.ones(self.num_envs, bool)
        mask = np.asarray((options or {}).get("reset_mask", everywhere))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask must be ({self.num_envs},) booleans")
        for i in np.flatnonzero(mask):
            if isinstance(seed, (list, tuple)):
                own_seed = seed[i]
            elif seed is not None:
                own_seed = seed + int(i)
            else:
                own_seed = None  # its generator goes on
            if own_seed is not None:
                self.rngs[i] = gym.utils.seeding.np_random(own_seed)[0]
            self._start(i)
        return self._observe(), {"is_success": np.zeros(self.num_envs, bool)}

    def _start(self, i: int) -> None:
        """A new episode in sub-environment i."""
        rng = self.rngs[i]
        base = rng.uniform(-SPAWN, SPAWN, 2)
        goal = free_place(rng, SPAWN, [base], GOAL_APART)
        taken = [base, goal]
        for _ in range(3):  # the decoy and two pillars
            taken.append(free_place(rng, SPAWN_SOLID, taken, APART))
        self.things[i] = taken[1:]
        self.pose[i] = [*base, rng.uniform(-np.pi, np.pi)]
        self.velocity[i] = 0
        self.steps[i] = 0
        self.done[i] = False
        self.is_current[i] = False

        data = self.datas[i]
        mujoco.mj_resetData(load_model(), data)
        data.qpos = self.pose[i]
        data.mocap_pos[:, :2] = self.things[i]

    def step(self, actions: np.ndarray):
        """Advance every sub-environment by one action, `actions` (N, 3)."""
        if self.done.any():
            advice = 'call reset() or reset(options={"reset_mask": done}) first'
            raise gym.error.ResetNeeded(advice)
        motors = np.asarray(actions, float).clip(-1, 1)
        if motors.shape != (self.num_envs, 3) or np.isnan(motors).any():
            raise ValueError(f"actions must be ({self.num_envs}, 3) numbers")
        before = self._goal_distance()
        bumped = self._physics(motors)
        after = self._goal_distance()
        success = after <= GOAL_REACH
        truncated = (self.steps >= self.max_episode_steps) & ~success
        self.done = success | truncated

        effort = (EFFORT_COST * motors**2).sum(axis=1)  # (N, 3) -> (N,)
        reward = PROGRESS * (before - after) - STEP_COST - effort
        reward[bumped] -= BUMP_COST
        reward[success] += 1
        info = {"is_success": success}
        return self._observe(), reward, success.copy(), truncated, info

    def _physics(self, motors: np.ndarray) -> np.ndarray:  # (N, 3) -> (N,)
        """One control step; returns which bases touch something solid at its end."""
        bumped = np.zeros(self.num_envs, bool)
        for i, data in enumerate(self.datas):
            data.ctrl = motors[i]
            mujoco.mj_step(load_model(), data, SUBSTEPS)
            self.pose[i] = data.qpos
            self.velocity[i] = data.qvel
            bumped[i] = data.ncon > 0
        self.steps += 1
        self.is_current.fill(False)
        return bumped

    def _goal_distance(self) -> np.ndarray:  # -> (N,)
        """From the middle of the base to the goal's."""
        return np.linalg.norm(self.things[:, GOAL] - self.pose[:, :2], axis=1)

    def _observe(self) -> dict[str, np.ndarray]:  # (N, 27), (N, S, S, 3)
        """Two views of one state."""
        if self.draw_student:
            for i in np.flatnonzero(~self.is_current):
                self.pictures[i] = self._picture(i, "eye", self.size)
                RobotEyeVectorEnv.pictures_drawn += 1
            self.is_current.fill(True)
        return {"teacher": self._teacher_view(), "student": self.pictures.copy()}

    def _teacher_view(self) -> np.ndarray:  # -> (N, 27)
        """Everything, as numbers within [-1, 1]."""
        cos = np.cos(self.pose[:, 2])
        sin = np.sin(self.pose[:, 2])
        offset = self.things - self.pose[:, None, :2]  # (N, 4, 2)
        x, y = to_body(offset[..., 0], offset[..., 1], cos[:, None], sin[:, None])  # (N, 4)
        distance = np.hypot(x, y)
        away = np.maximum(distance, 1e-9)
        features = np.stack(
            [x / SPAN, y / SPAN, distance / SPAN, x / away, y / away], axis=2
        )
        # The nearer pillar comes first.
        swapped = distance[:, PILLARS[0]] > distance[:, PILLARS[1]]
        features[swapped] = features[swapped][:, [GOAL, DECOY, PILLARS[1], PILLARS[0]]]

        forward, left = to_body(self.velocity[:, 0], self.velocity[:, 1], cos, sin)
        own = [
            self.pose[:, 0] / ROOM,
            self.pose[:, 1] / ROOM,
            cos,
            sin,
            forward / TOP_SPEED,
            left / TOP_SPEED,
            self.velocity[:, 2] / TOP_TURN,
        ]
        flat = features.reshape(self.num_envs, 20)  # (N, 4, 5) -> (N, 20)
        view = np.concatenate([flat, np.stack(own, axis=1)], axis=1)
        return view.clip(-1, 1).astype(np.float32)

    def _picture(self, i: int, camera: str, size: int, shows_field=False) -> np.ndarray:
        """Sub-environment i, seen by a camera -> (size, size, 3)."""
        model = load_model()
        data = self.datas[i]
        mujoco.mj_kinematics(model, data)  # a step leaves the shapes where they were before
        mujoco.mj_camlight(model, data)
        option = mujoco.MjvOption()
        option.geomgroup[FIELD_GROUP] = shows_field
        return draw("RobotEye", model, data, named_camera(model, camera), size, option)

    def render(self) -> tuple | None:
        """One picture (256, 512, 3) for each: from above, and what the eye sees."""
        if self.render_mode is None:
            return None
        pick = np.arange(256) * self.size // 256  # magnifies the student's pixels
        frames = []
        for i in range(self.num_envs):
            above = self._picture(i, "above", 256, shows_field=True)
            eye = self._picture(i, "eye", self.size)
            frames.append(np.concatenate([above, eye[pick][:, pick]], axis=1))
        return tuple(frames)


def free_place(
    rng: np.random.Generator, reach: float, taken: list[np.ndarray], apart: float
) -> np.ndarray:
    """Uniform within +-reach along both axes, no nearer than `apart` to a taken place."""
    while True:
        place = rng.uniform(-reach, reach, 2)
        if all(math.dist(place, other) >= apart for other in taken):
            return place


def to_body(x: np.ndarray, y: np.ndarray, cos: np.ndarray, sin: np.ndarray):
    """World vectors (x, y) in the frame of a body that heads along (cos, sin)."""
    return cos * x + sin * y, cos * y - sin * x


class RobotEyeEnv(gym.Env):
    """One sub-environment of `RobotEyeVectorEnv`, whose docstring describes the task."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, **arguments) -> None:
        self.vector = RobotEyeVectorEnv(1, **arguments)
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    @property
    def draw_student(self) -> bool:
        """Whether the student's view is drawn."""
        return self.vector.draw_student

    @draw_student.setter
    def draw_student(self, draws: bool) -> None:
        self.vector.draw_student = draws

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start a new episode."""
        super().reset(seed=seed)
        self.vector.rngs = [self.np_random]
        obs, info = self.vector.reset()
        return {k: v[0] for k, v in obs.items()}, {k: v[0] for k, v in info.items()}

    def step(self, action: np.ndarray):
        """Advance by one action (3,)."""
        actions = np.asarray(action)[None]
        obs, reward, terminated, truncated, info = self.vector.step(actions)
        obs = {k: v[0] for k, v in obs.items()}
        info = {k: v[0] for k, v in info.items()}
        return obs, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """A picture (256, 512, 3)."""
        frames = self.vector.render()
        return None if frames is None else frames[0]


gym.register(
    "RobotEye-v0",
    entry_point=RobotEyeEnv,
    vector_entry_point=RobotEyeVectorEnv,
)


# --- Scripted players: what can be done from each view ------------------------------------


def scripted_student(picture: np.ndarray) -> np.ndarray:  # (S, S, 3) -> (3,)
    """From one picture: turn until the goal is seen, drive to it, step aside in time."""
    size = len(picture)
    red, green, blue = np.moveaxis(picture.astype(float), 2, 0)  # (S, S) each
    is_goal = (red > 2 * green) & (red > 2 * blue)
    is_solid = (green > 2 * red) | (blue > 2 * red)  # the decoy and the pillars
    if is_goal.sum() < 2:
        return np.array([0.0, 0.0, 1.0])

    # Rays through the pixels, per length along the axis of the eye.
    centre = 2 * (np.arange(size) + 0.5) / size - 1  # -1 .. 1, to the right or down
    slope = centre * math.tan(math.radians(EYE_FIELD / 2))
    left = -slope  # (S,) of each column
    below = slope  # (S,) of each row
    goal_left = left[is_goal.nonzero()[1]].mean()

    # Where solid things stand on the floor: the lowest of their pixels in each column.
    columns = is_solid.any(axis=0).nonzero()[0]  # (n,)
    feet = size - 1 - is_solid[::-1, columns].argmax(axis=0)  # (n,)
    tilt = math.atan(EYE_TILT)
    down = math.sin(tilt) + below[feet] * math.cos(tilt)
    length = EYE_HEIGHT / np.maximum(down, 1e-3)
    x = length * (math.cos(tilt) - below[feet] * math.sin(tilt))
    y = length * left[columns]

    # Along the way to the goal, and across it.
    bearing = math.atan(goal_left)
    along, across = to_body(x, y, math.cos(bearing), math.sin(bearing))
    in_the_way = (along < 1.3) & (np.abs(across) < 0.4)
    turn = 2 * goal_left
    if not in_the_way.any():
        return np.array([1.0, goal_left, turn])
    aside = -1.0 if across[in_the_way].mean() > 0 else 1.0
    return np.array([0.2, aside, turn])


def scripted_teacher(view: np.ndarray) -> np.ndarray:  # (27,) -> (3,)
    """Knows where everything is: straight to the goal, around the rest, without turning."""
    things = view[:20].reshape(4, 5)
    cos = things[GOAL, 3]
    sin = things[GOAL, 4]
    aside = 0.0  # to the left of the way to the goal
    for thing in things[1:]:
        along, across = to_body(thing[0] * SPAN, thing[1] * SPAN, cos, sin)
        if 0 < along < 1 and abs(across) < 0.6:
            aside += -1.5 if across > 0 else 1.5
    drive = np.array([cos - aside * sin, sin + aside * cos])
    return np.append(drive / np.abs(drive).max(), 0.0)


def play(player, view: str, episodes: int, seed: int = 0, **arguments) -> np.ndarray:
    """Successes (episodes,) of a player that gets one view; episode k has seed + k."""
    env = RobotEyeEnv(**arguments)
    env.draw_student = view == "student"
    success = np.zeros(episodes, bool)
    for k in range(episodes):
        obs, _ = env.reset(seed=seed + k)
        ended = False
        while not ended:
            obs, _, terminated, truncated, info = env.step(player(obs[view]))
            ended = terminated or truncated
        success[k] = info["is_success"]
    return success


def main() -> None:
    """Print how the scripted players do and how long things take."""
    import time

    def never_turns(picture: np.ndarray) -> np.ndarray:
        """What is left of the student when it does not look around."""
        return scripted_student(picture) * np.array([1, 1, 0])

    for name, player, view in (
        ("scripted teacher", scripted_teacher, "teacher"),
        ("scripted student", scripted_student, "student"),
        ("the same, never turning", never_turns, "student"),
    ):
        print(f"{name:24} success {play(player, view, 200).mean():.3f}")

    envs = RobotEyeVectorEnv(64)
    for draws in (False, True):
        envs.draw_student = draws
        envs.reset(seed=0)
        start = time.perf_counter()
        for _ in range(20):
            envs.step(np.zeros((64, 3)))
        milliseconds = (time.perf_counter() - start) / (20 * 64) * 1000
        print(
            f"a step, {'with a picture' if draws else 'without':16} {milliseconds:8.3f} ms"
        )


if __name__ == "__main__":
    main()
