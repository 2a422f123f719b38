"""RobotEye-v0: a robot with an eye in a MuJoCo room, where to draw what it sees is what costs.

    apt-get install -y libegl1 libgl1            # Debian: draws without a display
    pip install -r results/camera/requirements.txt
    MUJOCO_GL=egl python -m results.camera.robot                    # scripted players and speed
    MUJOCO_GL=egl python tsalign.py --env results.camera.robot:RobotEye-v0

A base drives in any direction and turns; its eye looks ahead. The teacher knows where everything
is and need not look, the student has the picture alone. The goal is the only red thing. It stands
higher than the eye and everything else lower, so nothing ever hides it from a robot that turns.

Metres, seconds and radians; world frame x east, y north, angles counter-clockwise; body frame
x forward, y left. Shapes: N sub-environments, H W image rows and columns.
"""

import functools

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

# All that follows is [ours]: no paper describes this task.
ROOM = 3.0  # half the room's side
SPAN = 2 * np.sqrt(2) * ROOM  # no distance in the room is longer
SUBSTEPS = 6  # of 0.025 s: a control step of 0.15 s
TOP_SPEED = 1.0  # of each motor alone, forward and sideways; metres per second
TOP_TURN = 2.0  # radians per second
EYE_AHEAD, EYE_HEIGHT = 0.15, 0.5  # where on the base it sits, and how high above the floor
EYE_TILT = 0.17  # tangent of the angle by which it looks down
EYE_FIELD = 60  # degrees, in both directions

GOAL, DECOY, PILLARS = 0, 1, [2, 3]  # rows of `things`
SPAWN = 2.3  # the base and the goal lie in +-SPAWN; what one has to drive around lies in
SPAWN_OTHERS = 2.0  # +-SPAWN_OTHERS, so that there is a way between it and every wall
APART = 1.2  # from centre to centre; a base passes between any two
GOAL_APART = 2.0  # from the base at the start

GOAL_REACH = 0.5  # from centre to centre: the base touches the goal's side
DECOY_REACH = 0.45
PROGRESS = 0.5  # reward for each metre nearer to the goal
STEP_COST = 0.01
EFFORT_COST = 0.005  # times the squared length of the action
BUMP_COST = 0.05  # for each step that ends in contact with a wall or a pillar

# A velocity settles at motor / damping with time constant mass / damping = 0.1 s. So after a
# control step little is left of the one before, and a picture tells almost the whole state.
# Contacts are without friction (condim 1): the base slides along what it bumps into.
MODEL = f"""
<mujoco model="robot with an eye">
  <option timestep="0.025" integrator="implicitfast"/>
  <size memory="64K"/>
  <visual>
    <global offwidth="1024" offheight="1024"/>
    <quality offsamples="0" shadowsize="0"/>
    <map znear="0.01"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" width="32" height="192"
             rgb1=".55 .7 .9" rgb2=".85 .9 .95"/>
    <texture name="floor" type="2d" builtin="checker" width="64" height="64"
             rgb1=".40 .40 .42" rgb2=".33 .33 .35"/>
    <material name="floor" texture="floor" texrepeat="3 3"/>
    <mesh name="field" vertex="0 0 0  1.5 .87 0  1.5 -.87 0  0 0 .01  1.5 .87 .01  1.5 -.87 .01"/>
  </asset>
  <default>
    <geom contype="0" conaffinity="0"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
    <default class="wall">
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
    <geom class="wall" pos="{ROOM + 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="wall" pos="{-ROOM - 0.1} 0 .3" size=".1 {ROOM + 0.2} .3"/>
    <geom class="wall" pos="0 {ROOM + 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <geom class="wall" pos="0 {-ROOM - 0.1} .3" size="{ROOM + 0.2} .1 .3"/>
    <body name="base">
      <joint type="slide" axis="1 0 0" damping="20"/>
      <joint type="slide" axis="0 1 0" damping="20"/>
      <joint type="hinge" axis="0 0 1" damping=".4"/>
      <site name="middle"/>
      <geom type="cylinder" size=".2 .15" pos="0 0 .15" mass="2" contype="1" condim="1"/>
      <geom type="mesh" mesh="field" pos="0 0 .05" mass="0" group="3" rgba="1 .9 .3 .5"/>
      <camera name="eye" pos="{EYE_AHEAD} 0 {EYE_HEIGHT}" xyaxes="0 -1 0 {EYE_TILT} 0 1"
              fovy="{EYE_FIELD}"/>
    </body>
    <body mocap="true">
      <geom type="cylinder" size=".3 .45" pos="0 0 .45" rgba=".9 .1 .1 1"/>
    </body>
    <body mocap="true">
      <geom class="wall" size=".2 .2 .2" pos="0 0 .2" rgba=".1 .7 .2 1"/>
    </body>
    <body mocap="true"><geom class="pillar" pos="0 0 .2"/></body>
    <body mocap="true"><geom class="pillar" pos="0 0 .2"/></body>
  </worldbody>
  <actuator>
    <motor site="middle" gear="{20 * TOP_SPEED} 0 0 0 0 0"/>
    <motor site="middle" gear="0 {20 * TOP_SPEED} 0 0 0 0"/>
    <motor site="middle" gear="0 0 0 0 0 {0.4 * TOP_TURN}"/>
  </actuator>
</mujoco>
"""


@functools.cache
def load_model() -> mujoco.MjModel:
    """The room; all environments of a process share it."""
    return mujoco.MjModel.from_xml_string(MODEL)


@functools.cache
def make_renderer(height: int, width: int) -> mujoco.Renderer:
    """One for each size of picture, as a drawing context is heavy; made when first drawn."""
    renderer = mujoco.Renderer(load_model(), height, width)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    return renderer


def draw(data: mujoco.MjData, camera: str, height: int, width: int, groups=(0, 1, 2)):
    """What a camera sees -> uint8 (height, width, 3), each pixel the mean of 2 x 2 drawn ones.

    That looks as smooth as MuJoCo's own antialiasing and takes a quarter of its time.
    `groups` are the model's groups of shapes that are drawn.
    """
    mujoco.mj_kinematics(load_model(), data)  # a step leaves the shapes where they were before it
    mujoco.mj_camlight(load_model(), data)
    option = mujoco.MjvOption()
    for group in range(len(option.geomgroup)):
        option.geomgroup[group] = group in groups
    renderer = make_renderer(2 * height, 2 * width)
    renderer.update_scene(data, camera, option)
    drawn = renderer.render().astype(np.uint16)  # (2 H, 2 W, 3)
    rows = drawn[0::2] + drawn[1::2]  # (H, 2 W, 3)
    return ((rows[:, 0::2] + rows[:, 1::2]) // 4).astype(np.uint8)


class RobotEyeVectorEnv(gym.vector.VectorEnv):
    """N robots, a MuJoCo state each; `RobotEyeEnv` below is a slice of one.

    Description:
        A round base in a walled room, 6 m x 6 m, drives to a red column. A green box lures it, two
        blue pillars and the walls are solid. MuJoCo steps the motors, their damping and the
        contacts.
    Action Space:
        Box(-1, 1, (3,)): the motors forward, to the left, and turning left, held for 0.15 s. Each
        alone settles at 1 m/s, 1 m/s and 2 rad/s. Values outside are clipped.
    Observation Space:
        Dict of two views of one state.
        teacher: float32 (27). For the goal, the decoy, the nearer and the farther pillar, [x, y in
        the body frame, distance, cosine and sine of its bearing]; then x, y in the room, scaled to
        [-1, 1], cosine and sine of the heading; then the speeds forward, to the left and turning
        left, in top speeds, clipped to [-1, 1]. Other lengths are in diagonals of the room.
        student: uint8 (size, size, 3), the picture of the eye, 60 degrees wide.
    Rewards:
        0.5 for each metre nearer to the goal, +1 at the goal, -1 at the decoy, -0.01 a step,
        -0.005 times the squared length of the action, -0.05 for a step that ends in contact.
    Starting State:
        All places and the heading are uniform, within 2.3 m of the middle along either axis (the
        decoy and pillars: 2 m), no two nearer than 1.2 m, base and goal no nearer than 2 m. At rest.
    Episode End:
        Terminated at the goal (`info["is_success"]`, within 0.5 m) or at the decoy (within 0.45 m),
        truncated after `max_episode_steps` steps.
    Arguments:
        size: rows and columns of the student's picture, 8 to 512.

    While `draw_student` is False nothing is drawn, and the student's views are the last ones that
    were. `RobotEyeVectorEnv.pictures_drawn` counts the student's pictures of all instances.
    Sub-environments that have ended stay as they are until `reset(options={"reset_mask": done})`.
    Sub-environment i draws from a generator of its own, seeded with seed + i, as in Gymnasium's
    `SyncVectorEnv`. Raises ValueError for bad arguments, gymnasium.error.ResetNeeded for a step
    before the reset.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 7,
        "autoreset_mode": AutoresetMode.DISABLED,
    }
    pictures_drawn = 0

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        max_episode_steps: int = 120,
        size: int = 32,
        max_bumps: int = 1,
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
        self.max_bumps = max_bumps
        self.bumps = np.zeros(num_envs, int)
        self.draw_student = True

        self.single_observation_space = Dict(
            teacher=Box(-1, 1, (28,), np.float32),
            student=Box(0, 255, (size, size, 3), np.uint8),
        )
        self.single_action_space = Box(-1, 1, (3,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.datas = [mujoco.MjData(load_model()) for _ in range(num_envs)]
        self.rngs = [gym.utils.seeding.np_random()[0] for _ in range(num_envs)]
        self.pose = np.zeros((num_envs, 3))  # x, y, heading
        self.velocity = np.zeros((num_envs, 3))  # of the pose, in the world frame
        self.things = np.zeros((num_envs, 4, 2))  # where goal, decoy and both pillars are
        self.steps = np.zeros(num_envs, int)
        self.done = np.ones(num_envs, bool)  # nothing may be stepped before its first reset
        self.pictures = np.zeros((num_envs, size, size, 3), np.uint8)
        self.is_current = np.zeros(num_envs, bool)  # does the picture show the present state?

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """One generator per sub-environment, as in `SyncVectorEnv`."""
        return tuple(self.rngs)

    def reset(self, *, seed: int | list[int] | None = None, options: dict | None = None):
        """Start new episodes where `options["reset_mask"]` (N,) is true; by default everywhere."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask must be ({self.num_envs},) booleans")
        seeds = seed
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int):
            seeds = [seed + i for i in range(self.num_envs)]
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self.rngs[i] = gym.utils.seeding.np_random(seeds[i])[0]
            self._start(i)
        return self._observe(), {"is_success": np.zeros(self.num_envs, bool)}

    def _start(self, i: int) -> None:
        """A new episode in sub-environment i."""
        rng = self.rngs[i]
        places = [rng.uniform(-SPAWN, SPAWN, 2)]  # the base's, then the things'
        for reach, from_base in (
            (SPAWN, GOAL_APART),
            (SPAWN_OTHERS, APART),
            (SPAWN_OTHERS, APART),
            (SPAWN_OTHERS, APART),
        ):
            apart = np.array([from_base] + [APART] * (len(places) - 1))
            place = rng.uniform(-reach, reach, 2)
            while (np.linalg.norm(places - place, axis=1) < apart).any():
                place = rng.uniform(-reach, reach, 2)
            places.append(place)
        self.pose[i] = [*places[0], rng.uniform(-np.pi, np.pi)]
        self.velocity[i] = 0
        self.things[i] = places[1:]
        self.steps[i] = 0
        self.bumps[i] = 0
        self.done[i] = False
        self.is_current[i] = False

        data = self.datas[i]
        mujoco.mj_resetData(load_model(), data)
        data.qpos = self.pose[i]
        data.mocap_pos[:, :2] = self.things[i]

    def step(self, actions: np.ndarray):
        """Advance every sub-environment by one action, `actions` (N, 3)."""
        if self.done.any():
            raise gym.error.ResetNeeded('call reset() or reset(options={"reset_mask": done}) first')
        actions = np.asarray(actions, float)
        if actions.shape != (self.num_envs, 3) or not np.isfinite(actions).all():
            raise ValueError(f"actions must be ({self.num_envs}, 3) finite numbers")
        motors = actions.clip(-1, 1)
        before = self._distances()
        bumped = self._physics(motors)
        after = self._distances()  # (N, 4)
        success = after[:, GOAL] <= GOAL_REACH
        self.bumps += bumped
        broken = (self.bumps >= self.max_bumps) & ~success
        terminated = success | broken
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        self.done = terminated | truncated

        reward = PROGRESS * (before[:, GOAL] - after[:, GOAL]) - STEP_COST
        reward -= EFFORT_COST * (motors**2).sum(axis=1)
        reward[bumped] -= BUMP_COST
        reward[success] += 1
        reward[broken] -= 1
        return self._observe(), reward, terminated, truncated, {"is_success": success}

    def _physics(self, motors: np.ndarray) -> np.ndarray:  # (N, 3) -> (N,)
        """A control step of MuJoCo's; returns whose base touches something solid at its end."""
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

    def _distances(self) -> np.ndarray:  # -> (N, 4)
        """From the base to each of the things, centre to centre."""
        return np.linalg.norm(self.things - self.pose[:, None, :2], axis=2)

    def _observe(self) -> dict[str, np.ndarray]:  # (N, 27), (N, size, size, 3)
        """Two views of one state."""
        if self.draw_student:
            for i in np.flatnonzero(~self.is_current):
                self.pictures[i] = draw(self.datas[i], "eye", self.size, self.size)
                RobotEyeVectorEnv.pictures_drawn += 1
            self.is_current.fill(True)
        return {"teacher": self._teacher_view(), "student": self.pictures.copy()}

    def _teacher_view(self) -> np.ndarray:  # -> (N, 27)
        """Everything, as numbers within [-1, 1]."""
        position = self.pose[:, :2]
        cos = np.cos(self.pose[:, 2])
        sin = np.sin(self.pose[:, 2])
        offset = self.things - position[:, None]  # (N, 4, 2)
        distance = np.linalg.norm(offset, axis=2)
        x, y = to_body(offset[..., 0], offset[..., 1], cos[:, None], sin[:, None])
        away = np.maximum(distance, 1e-9)
        features = np.stack([x / SPAN, y / SPAN, distance / SPAN, x / away, y / away], axis=2)
        swapped = distance[:, PILLARS[0]] > distance[:, PILLARS[1]]  # the nearer one comes first
        features[swapped] = features[swapped][:, [GOAL, DECOY, *PILLARS[::-1]]]

        forward, left = to_body(self.velocity[:, 0], self.velocity[:, 1], cos, sin)
        turning = self.velocity[:, 2]
        speeds = [forward / TOP_SPEED, left / TOP_SPEED, turning / TOP_TURN]
        own = np.stack([*position.T / ROOM, cos, sin, *speeds, self.bumps / self.max_bumps], axis=1)  # (N, 8)
        flat = features.reshape(self.num_envs, -1)  # (N, 4, 5) -> (N, 20)
        return np.concatenate([flat, own], axis=1, dtype=np.float32).clip(-1, 1)

    def render(self) -> tuple | None:
        """One picture (256, 512, 3) per sub-environment: from above, and what the eye sees."""
        if self.render_mode is None:
            return None
        frames = []
        for data in self.datas:
            above = draw(data, "above", 256, 256, groups=(0, 1, 2, 3))  # 3: the field of view
            eye = draw(data, "eye", self.size, self.size)
            pick = np.arange(256) * self.size // 256  # the student's pixels, magnified
            frames.append(np.concatenate([above, eye[pick][:, pick]], axis=1))
        return tuple(frames)


def to_body(x: np.ndarray, y: np.ndarray, cos: np.ndarray, sin: np.ndarray):
    """World vectors (x, y) in the frame of a base with that heading."""
    return cos * x + sin * y, cos * y - sin * x


class RobotEyeEnv(gym.Env):
    """One sub-environment of `RobotEyeVectorEnv`, whose docstring describes the task."""

    metadata = {k: v for k, v in RobotEyeVectorEnv.metadata.items() if k != "autoreset_mode"}

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
        obs, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
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


# --- Players that somebody wrote: what can be done from each view --------------------------------


def scripted_student(picture: np.ndarray) -> np.ndarray:  # (H, W, 3) -> (3,)
    """From one picture alone: turn left until the goal is seen, drive to it, step aside in time."""
    size = len(picture)
    red, green, blue = np.moveaxis(picture.astype(float), 2, 0)  # (H, W) each
    is_goal = (red > 2 * green) & (red > 2 * blue)
    if is_goal.sum() < 2:
        return np.array([0.0, 0.0, 1.0])

    # Where a pixel's ray goes: left of and below the axis of the eye, per length along it.
    centre = 2 * (np.arange(size) + 0.5) / size - 1  # -1 .. 1, to the right or down
    field = np.tan(np.radians(EYE_FIELD / 2))
    left = -field * centre  # (W,)
    below = field * centre  # (H,)
    goal_left = (is_goal.sum(axis=0) * left).sum() / is_goal.sum()
    turn = np.clip(2 * goal_left, -1, 1)

    is_obstacle = (np.maximum(green, blue) > 2 * red)[:, :]
    columns = np.flatnonzero(is_obstacle.any(axis=0))  # (n,)
    foot = size - 1 - is_obstacle[::-1, columns].argmax(axis=0)  # (n,) the lowest row
    tilt = np.arctan(EYE_TILT)
    cos, sin = np.cos(tilt), np.sin(tilt)
    # Where those rays meet the floor, in the body frame.
    depth = EYE_HEIGHT / np.maximum(sin + below[foot] * cos, 1e-3)
    x = EYE_AHEAD + depth * (cos - below[foot] * sin)
    y = depth * left[columns]
    # The lane from the base to the goal.
    goal_bearing = np.arctan(goal_left)
    along, across = to_body(x, y, np.cos(goal_bearing), np.sin(goal_bearing))
    in_the_way = (along < 1.3) & (np.abs(across) < 0.4)
    if not in_the_way.any():
        return np.array([1.0, np.clip(goal_left, -1, 1), turn])
    away = -np.sign(across[in_the_way].mean() + 1e-9)
    return np.array([0.2, away, turn])


def scripted_teacher(view: np.ndarray) -> np.ndarray:  # (27,) -> (3,)
    """Knows where everything is: straight to the goal, around the rest, and never turns."""
    things = view[:20].reshape(4, 5)
    goal = things[GOAL, 3:]  # the unit vector to it
    push = np.zeros(2)
    for thing in things[1:]:
        along, across = to_body(*(thing[:2] * SPAN), *goal)
        if 0 < along < 1 and abs(across) < 0.6:
            side = -1.0 if across > 0 else 1.0
            push += side * np.array([-goal[1], goal[0]])
    drive = goal + 1.5 * push
    return np.append(drive / np.abs(drive).max(), 0.0)


def play(player, view: str, episodes: int, seed: int = 0, **arguments) -> np.ndarray:
    """Successes (episodes,) of a scripted player in the first episodes of that many robots."""
    envs = RobotEyeVectorEnv(episodes, **arguments)
    envs.draw_student = view == "student"
    obs, _ = envs.reset(seed=seed)
    success = np.zeros(episodes, bool)
    ended = np.zeros(episodes, bool)
    while not ended.all():
        actions = np.stack([player(one) for one in obs[view]])
        obs, _, terminated, truncated, info = envs.step(actions)
        success |= info["is_success"] & ~ended
        done = terminated | truncated
        ended |= done
        obs, _ = envs.reset(options={"reset_mask": done})
    return success
