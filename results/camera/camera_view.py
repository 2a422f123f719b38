"""A camera for any environment: the teacher has the observation, the student a picture.

    apt-get install -y libegl1 libgl1            # Debian: draws without a display
    pip install -r results/camera/requirements.txt
    MUJOCO_GL=egl python tsalign.py --env results.camera.camera_view:ReacherCamera-v0

`CameraView` wraps an environment whose observations are vectors. It is drawn only while
`draw_student` is True, because a picture takes many times as long as a step. MuJoCo's are
drawn by one renderer for all copies, others by their own `render()`.
Shapes: S is the side of the student's picture in pixels, H W an image's rows and columns.
"""

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict

# (environment's name, S) -> the renderer of all its copies, because a context is heavy.
RENDERERS = {}
EVERYTHING = mujoco.mjtCatBit.mjCAT_ALL


class CameraView(gym.Wrapper):
    """Observations Dict(teacher, student) from an environment that observes vectors.

    teacher: its own observation as float32. student: uint8 (S, S, 3), its picture; with
    `frames=2`, where speeds matter, (S, S, 6), the pictures before and after the step;
    after a reset both are the same. `size` is S.
    `camera` is the name of one in the model, or a dictionary of those fields of
    `mujoco.MjvCamera` in which it differs from the environment's own.

    Who wants the picture that a step returns sets `env.unwrapped.draw_student` to True
    before that step. While it is False, the student's view is the last one that was drawn.
    `CameraView.pictures_drawn` counts the pictures of all instances.
    """

    pictures_drawn = 0

    def __init__(self, env: gym.Env, size: int = 64, frames: int = 1, camera=None) -> None:
        super().__init__(env)
        self.size = size
        self.frames = frames
        own = env.observation_space
        self.observation_space = Dict(
            teacher=Box(np.float32(own.low), np.float32(own.high), dtype=np.float32),
            student=Box(0, 255, (size, size, 3 * frames), np.uint8),
        )
        self.camera = make_camera(env, camera)
        self.picture = np.zeros((size, size, 3), np.uint8)  # the latest
        self.is_current = False  # does it show the present state?
        self.student = np.zeros((size, size, 3 * frames), np.uint8)
        self.unwrapped.draw_student = True

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Start a new episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        self.is_current = False
        self._look()
        return self._views(obs, before=self.picture), info

    def step(self, action):
        """Advance by one action."""
        if self.frames == 2:
            self._look()  # at the state that this step starts from
        before = self.picture
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.is_current = False
        self._look()
        return self._views(obs, before), reward, terminated, truncated, info

    def _look(self) -> None:
        """Draw the present state, unless that has been done or nobody wants to see it."""
        if self.unwrapped.draw_student and not self.is_current:
            self.picture = photograph(self.env, self.camera, self.size)
            self.is_current = True
            CameraView.pictures_drawn += 1

    def _views(self, obs: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
        """Both views of the present state; `before` (S, S, 3) shows the one before it."""
        if self.is_current:
            shown = [before, self.picture][-self.frames :]
            self.student = np.concatenate(shown, axis=2)  # (S, S, 3 * frames)
        return {"teacher": np.asarray(obs, np.float32), "student": self.student.copy()}


def make_camera(env: gym.Env, camera: str | dict | None) -> mujoco.MjvCamera | None:
    """The camera of that name, or the environment's own with some fields changed."""
    base = env.unwrapped
    if not hasattr(base, "mujoco_renderer"):
        return None  # not MuJoCo's: it draws itself
    if isinstance(camera, str):
        return named_camera(base.model, camera)
    view = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(base.model, view)
    own = base.mujoco_renderer.default_cam_config or {}
    for field, value in {**own, **(camera or {})}.items():
        setattr(view, field, value)
    return view


def named_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """A camera that the model itself describes. Raises KeyError for an unknown name."""
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED
    view.fixedcamid = model.camera(name).id
    return view


def photograph(env: gym.Env, camera: mujoco.MjvCamera | None, size: int) -> np.ndarray:
    """An environment as it is now -> (S, S, 3)."""
    base = env.unwrapped
    if camera is None:
        return shrink(env.render(), size)
    return draw(str(base), base.model, base.data, camera, size)


def draw(
    name: str,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    camera: mujoco.MjvCamera,
    size: int,
    option: mujoco.MjvOption | None = None,
) -> np.ndarray:
    """A MuJoCo state -> (S, S, 3). Everything of one `name` is drawn by the same renderer.

    Each pixel is the mean of 2 x 2 drawn ones [ours: MuJoCo's own antialiasing takes three
    times as long and looks the same]. The shapes are drawn where the last step of the
    physics found them, as in Gymnasium's own pictures: nothing of `data` is touched.
    """
    if (name, size) not in RENDERERS:
        RENDERERS[name, size] = make_renderer(model, 2 * size)
    renderer = RENDERERS[name, size]
    how = option or mujoco.MjvOption()
    # With this copy's model: its shapes may differ from those of the renderer's.
    mujoco.mjv_updateScene(model, data, how, None, camera, EVERYTHING, renderer.scene)
    return shrink(renderer.render(), size)


def make_renderer(model: mujoco.MjModel, size: int) -> mujoco.Renderer:
    """Draws size x size pixels without shadows, mirrors and antialiasing."""
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
    model.vis.global_.offheight = max(size, model.vis.global_.offheight)
    try:
        renderer = mujoco.Renderer(model, size, size)
    except mujoco.FatalError as error:
        advice = "without a display, install libegl1 and libgl1 and set MUJOCO_GL=egl"
        raise RuntimeError(f"MuJoCo cannot draw here; {advice}") from error
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    return renderer


def shrink(picture: np.ndarray, size: int) -> np.ndarray:  # (H, W, 3) -> (S, S, 3)
    """The mean of each block of H // S x W // S pixels; what is left over is cut off."""
    tall = picture.shape[0] // size
    wide = picture.shape[1] // size
    exact = picture.astype(np.uint32)
    rows = sum(exact[i : tall * size : tall] for i in range(tall))  # (S, W, 3)
    total = sum(rows[:, i : wide * size : wide] for i in range(wide))  # (S, S, 3)
    return (total // (tall * wide)).astype(np.uint8)


def camera_env(
    env_id: str, size: int = 64, frames: int = 1, camera=None, **arguments
) -> gym.Env:
    """A registered environment with a camera; `arguments` are its own."""
    # No time limit here: the id that this is registered as brings its own.
    env = gym.make(env_id, max_episode_steps=-1, disable_env_checker=True, **arguments)
    return CameraView(env, size, frames, camera)


FROM_ABOVE = {"lookat": (0, 0, 0), "distance": 0.54, "elevation": -90, "azimuth": 90}
gym.register(
    "ReacherCamera-v0",
    entry_point=camera_env,
    max_episode_steps=50,
    kwargs={"env_id": "Reacher-v5", "camera": FROM_ABOVE},
)
# How to catch a pole depends on how fast it moves, which one picture does not show.
gym.register(
    "PendulumCamera-v0",
    entry_point=camera_env,
    max_episode_steps=1000,
    kwargs={"env_id": "InvertedPendulum-v5", "frames": 2},
)
