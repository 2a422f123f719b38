"""RobotEye-v0: a robot with an eye, simulated and drawn by MuJoCo.

    MUJOCO_GL=egl python tsalign.py --env results.camera.robot:RobotEye-v0

What to install: see camera_view.py.

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

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

# The whole task is [ours]. Reasons are given where one might wonder.
ROOM = 3.0  # half the room's side
SPAN = 2 * math.sqrt(2) * ROOM  # the room's diagonal: no distance in it is longer
SPAWN = 2.0  # all start within +-SPAWN along both axes; the base fits behind everything
APART = 1.2  # from centre to centre; the base fits between any two
SUBSTEPS = 4  # of MuJoCo's 0.025 s: a control step of 0.1 s
TOP_SPEEDS = np.array([1.0, 1.0, 2.0])  # forward, left, turning left
GOAL = 0  # the order of things: the goal, the box, two pillars
GOAL_REACH = 0.5  # from centre to centre: the base touches the goal's side

SIZE = 32  # S
EYE_HEIGHT = 0.5  # above the middle of the base, from the floor
EYE_TILT = 0.17  # tangent of the angle by which it looks down
EYE_FIELD = 60  # degrees, in both directions

PROGRESS = 0.5  # reward for each metre nearer to the goal
STEP_COST = 0.01
BUMP_COST = 0.05
EFFORT_COST = 0.005  # times the summed square of the action

# A speed settles at gear / damping, with the time constant mass / damping = 0.07 s. Little
# of it is left after a control step, so that a picture without speeds is enough to act on.
# Contacts have no friction (condim 1), so that the base slides along what it bumps into.
# A yellow pointer, below the eye's field of view, shows from above where the base heads.
XML = f"""
<mujoco model="robot with an eye">
  <option timestep="0.025" integrator="implicitfast"/>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" width="32" height="192"
             rgb1=".55 .7 .9" rgb2=".85 .9 .95"/>
  </asset>
  <default>
    <geom type="cylinder" contype="0" conaffinity="0" condim="1"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
    <default class="box">
      <geom type="box" conaffinity="1" rgba=".75 .72 .65 1"/>
    </default>
    <default class="pillar">
      <geom conaffinity="1" size=".25 .2" pos="0 0 .2" rgba=".2 .35 .9 1"/>
    </default>
  </default>
  <worldbody>
    <light directional="true" dir="-.3 -.5 -1" diffuse=".5 .5 .5" castshadow="false"/>
    <camera name="above" pos="0 0 12" fovy="32"/>
    <geom type="plane" size="{ROOM} {ROOM} .1" rgba=".36 .36 .38 1"/>
    <geom class="box" pos="{ROOM + 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="box" pos="{-ROOM - 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="box" pos="0 {ROOM + 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <geom class="box" pos="0 {-ROOM - 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <body name="base">
      <joint type="slide" axis="1 0 0" damping="30"/>
      <joint type="slide" axis="0 1 0" damping="30"/>
      <joint type="hinge" axis="0 0 1" damping=".6"/>
      <site name="middle"/>
      <geom size=".2 .15" pos="0 0 .15" mass="2" contype="1"/>
      <geom type="box" size=".1 .03 .02" pos=".1 0 .3" mass="0" rgba="1 .9 .3 1"/>
      <camera name="eye" pos="0 0 {EYE_HEIGHT}" fovy="{EYE_FIELD}"
              xyaxes="0 -1 0 {EYE_TILT} 0 1"/>
    </body>
    <body name="goal" mocap="true">
      <geom size=".3 .45" pos="0 0 .45" rgba=".9 .1 .1 1"/>
    </body>
    <body name="box" mocap="true">
      <geom class="box" size=".2 .2 .2" pos="0 0 .2" rgba=".1 .7 .2 1"/>
    </body>
    <body name="pillar 1" mocap="true"><geom class="pillar"/></body>
    <body name="pillar 2" mocap="true"><geom class="pillar"/></body>
  </worldbody>
  <actuator>
    <motor site="middle" gear="30 0 0 0 0 0"/>
    <motor site="middle" gear="0 30 0 0 0 0"/>
    <motor site="middle" gear="0 0 0 0 0 1.2"/>
  </actuator>
</mujoco>
"""
MODEL = mujoco.MjModel.from_xml_string(XML)


class RobotEyeVectorEnv(gym.vector.VectorEnv):
    """N robots, each a MuJoCo state of its own.

    A round base drives to a red column in a room of 6 m x 6 m. A green box and two blue
    pillars stand in its way; they and the walls are solid.
    Actions: the motors forward, left and turning left, within [-1, 1], held for 0.1 s.
    The teacher's view: for the goal, the box and the two pillars, x and y in the body frame
    and cosine and sine of the bearing; then x and y in the room, cosine and sine of the
    heading, and the speeds forward, left and turning left. All are scaled to [-1, 1].
    The student's view: the eye's picture, uint8 (S, S, 3).
    Reward: 0.5 for each metre nearer to the goal, +1 at the goal, -0.01 a step, -0.05 if
    the step ends in contact with something solid, -0.005 times the action's summed square.
    Start: at rest, places and heading uniform. End: terminated at the goal, which is the
    success, truncated after `max_episode_steps`.

    While `draw_student` is False nothing is drawn, and the student's views are the last
    ones that were; `pictures_drawn` counts those of all instances. Whoever has ended must
    be reset with `options={"reset_mask": ended}`. Robot i has a random generator of its
    own, seeded with seed + i.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
    pictures_drawn = 0

    def __init__(self, num_envs=1, max_episode_steps=120, render_mode=None) -> None:
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.max_episode_steps = max_episode_steps
        self.draw_student = True
        self.single_observation_space = Dict(
            teacher=Box(-1, 1, (23,), np.float32),
            student=Box(0, 255, (SIZE, SIZE, 3), np.uint8),
        )
        self.single_action_space = Box(-1, 1, (3,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.robots = [mujoco.MjData(MODEL) for _ in range(num_envs)]
        self.rngs = [np.random.default_rng() for _ in range(num_envs)]
        self.steps = np.zeros(num_envs, int)
        self.pictures = np.zeros((num_envs, SIZE, SIZE, 3), np.uint8)  # the latest
        self.is_current = np.zeros(num_envs, bool)  # do they show the present state?

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """New episodes where `options["reset_mask"]` (N,) is true, or else everywhere."""
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            if seed is not None:
                self.rngs[i] = np.random.default_rng(seed + int(i))
            start_episode(self.robots[i], self.rngs[i])
        self.steps[mask] = 0
        self.is_current[mask] = False
        return self._observe(), {}

    def step(self, actions: np.ndarray):
        """Advance every sub-environment by one action, `actions` (N, 3)."""
        motors = np.clip(actions, -1, 1)
        before = self._goal_distance()
        for robot, motor in zip(self.robots, motors):
            robot.ctrl = motor
            mujoco.mj_step(MODEL, robot, SUBSTEPS)
        after = self._goal_distance()
        bumped = np.array([robot.ncon > 0 for robot in self.robots])
        self.steps += 1
        self.is_current.fill(False)

        success = after <= GOAL_REACH
        truncated = (self.steps >= self.max_episode_steps) & ~success
        reward = PROGRESS * (before - after) + success - STEP_COST - BUMP_COST * bumped
        reward -= EFFORT_COST * (motors**2).sum(axis=1)
        return self._observe(), reward, success, truncated, {"is_success": success}

    def _goal_distance(self) -> np.ndarray:  # -> (N,)
        """From the middle of the base to the goal's."""
        base = np.array([robot.qpos[:2] for robot in self.robots])
        goal = np.array([robot.mocap_pos[GOAL, :2] for robot in self.robots])
        return np.linalg.norm(goal - base, axis=1)

    def _observe(self) -> dict[str, np.ndarray]:
        """Two views of one state."""
        if self.draw_student:
            for i in np.flatnonzero(~self.is_current):
                self.pictures[i] = picture(self.robots[i], "eye", SIZE)
                RobotEyeVectorEnv.pictures_drawn += 1
            self.is_current.fill(True)
        return {"teacher": self._teacher_view(), "student": self.pictures.copy()}

    def _teacher_view(self) -> np.ndarray:  # -> (N, 23)
        """Everything, as numbers within [-1, 1]."""
        pose = np.array([robot.qpos for robot in self.robots])  # (N, 3): x, y, heading
        speeds = np.array([robot.qvel for robot in self.robots])  # (N, 3), world frame
        things = np.array([robot.mocap_pos[:, :2] for robot in self.robots])  # (N, 4, 2)
        cos = np.cos(pose[:, 2:])  # (N, 1)
        sin = np.sin(pose[:, 2:])
        offset = to_body(things - pose[:, None, :2], cos, sin)
        bearing = offset / np.linalg.norm(offset, axis=2, keepdims=True)
        seen = np.concatenate([offset / SPAN, bearing], axis=2)  # (N, 4, 4)
        speeds[:, :2] = to_body(speeds[:, None, :2], cos, sin)[:, 0]
        own = [pose[:, :2] / ROOM, cos, sin, speeds / TOP_SPEEDS]
        view = np.concatenate([seen.reshape(self.num_envs, 16), *own], axis=1)
        return view.clip(-1, 1).astype(np.float32)

    def render(self) -> tuple:
        """One picture (8 S, 16 S, 3) for each: from above, and what the eye sees."""
        frames = []
        for robot in self.robots:
            above = picture(robot, "above", 8 * SIZE)
            eye = picture(robot, "eye", SIZE).repeat(8, axis=0).repeat(8, axis=1)
            frames.append(np.concatenate([above, eye], axis=1))
        return tuple(frames)


def start_episode(robot: mujoco.MjData, rng: np.random.Generator) -> None:
    """Put the base and the things into places that are far enough apart."""
    places = []
    while len(places) < 5:
        place = rng.uniform(-SPAWN, SPAWN, 2)
        if all(math.dist(place, other) >= APART for other in places):
            places.append(place)
    mujoco.mj_resetData(MODEL, robot)
    robot.qpos = [*places[0], rng.uniform(-np.pi, np.pi)]
    robot.mocap_pos[:, :2] = places[1:]


def to_body(vectors: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """World vectors (N, K, 2) in the frames of bodies that head along cos, sin (N, 1)."""
    x = vectors[..., 0]
    y = vectors[..., 1]
    return np.stack([cos * x + sin * y, cos * y - sin * x], axis=2)


def picture(robot: mujoco.MjData, camera: str, size: int) -> np.ndarray:
    """What that camera sees -> (size, size, 3)."""
    mujoco.mj_kinematics(MODEL, robot)  # a step leaves the shapes where they were before
    mujoco.mj_camlight(MODEL, robot)
    room_renderer(size).update_scene(robot, camera)
    return room_renderer(size).render()


@functools.cache
def room_renderer(size: int) -> mujoco.Renderer:
    """One for all robots, because a context is heavy."""
    return mujoco.Renderer(MODEL, size, size)


gym.register("RobotEye-v0", vector_entry_point=RobotEyeVectorEnv, max_episode_steps=120)


# --- A scripted player: what can be done from the picture alone ---------------------------

# The rays through the student's pixels, per length along the eye's axis, and which of them
# meet the floor where the base will soon be if it drives ahead.
SLOPE = ((np.arange(SIZE) + 0.5) * 2 / SIZE - 1) * math.tan(math.radians(EYE_FIELD / 2))
RIGHT, DOWN = np.meshgrid(SLOPE, SLOPE)  # (S, S) each
REACH = EYE_HEIGHT / np.maximum(DOWN + EYE_TILT, 1e-3)
IN_THE_WAY = (REACH * (1 - DOWN * EYE_TILT) < 1.3) & (REACH * np.abs(RIGHT) < 0.4)


def scripted_student(picture: np.ndarray) -> np.ndarray:  # (S, S, 3) -> (3,)
    """From one picture: turn until the goal is seen, drive to it, step aside in time."""
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)  # (S, S) each
    is_goal = (red > 2 * green) & (red > 2 * blue)
    if is_goal.sum() < 2:
        return np.array([0.0, 0.0, 1.0])
    goal_left = -RIGHT[is_goal].mean()
    blocked = IN_THE_WAY & ((green > 2 * red) | (blue > 2 * red))
    if not blocked.any():
        return np.array([1.0, goal_left, 2 * goal_left])
    aside = 1.0 if RIGHT[blocked].mean() > 0 else -1.0
    return np.array([0.2, aside, 2 * goal_left])
