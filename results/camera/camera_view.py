"""A camera for any environment: the teacher has the observation, the student a picture.

    apt-get install -y libegl1 libgl1            # Debian: draws without a display
    pip install -r results/camera/requirements.txt
    MUJOCO_GL=egl python tsalign.py --env results.camera.camera_view:ReacherCamera-v0

Only pictures that somebody looks at are drawn: each takes as long as many steps.
Shapes: S is the side of the student's picture in pixels, H W an image's rows and columns.
"""

import functools

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box, Dict


def camera_env(env_id: str, size: int = 64, frames: int = 1, camera=None, **arguments):
    """A task for teacher and student from a registered environment that can be drawn.

    The student sees size x size pixels; with frames=2, where speeds matter, also those from
    before the step. `camera` is the name of one in a MuJoCo model, by default the one of
    `default_camera_config`. `arguments` are the environment's own; all environments but
    MuJoCo's need render_mode="rgb_array".
    """
    # No time limit here: the id that this is registered as brings its own.
    env = gym.make(env_id, max_episode_steps=-1, disable_env_checker=True, **arguments)
    return CameraView(env, size, frames, camera)


class CameraView(gym.Wrapper):
    """The teacher gets the environment's own observation, the student a picture (S, S, 3).

    With frames=2 it gets two, (S, S, 6), from before and after the step. While
    `env.unwrapped.draw_student` is False nothing is drawn, and they are old ones.
    """

    pictures_drawn = 0  # by all instances

    def __init__(self, env: gym.Env, size: int = 64, frames: int = 1, camera=None) -> None:
        super().__init__(env)
        self.frames = frames
        self.photograph = functools.partial(photograph, env, size, camera)
        self.student = np.zeros((size, size, 3 * frames), np.uint8)
        pictures = Box(0, 255, self.student.shape, np.uint8)
        self.observation_space = Dict(teacher=env.observation_space, student=pictures)
        self.unwrapped.draw_student = True

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self.picture = None  # there is none of the present state yet
        return self._views(obs, self._look()), info

    def step(self, action):
        before = self._look() if self.frames == 2 else None
        obs, *rest = self.env.step(action)
        self.picture = None
        return self._views(obs, before), *rest

    def _look(self) -> np.ndarray | None:  # -> (S, S, 3)
        if self.picture is None and self.unwrapped.draw_student:
            self.picture = self.photograph()
            CameraView.pictures_drawn += 1
        return self.picture

    def _views(self, obs: np.ndarray, before: np.ndarray | None) -> dict[str, np.ndarray]:
        if self._look() is not None:
            shown = [before, self.picture] if self.frames == 2 else [self.picture]
            self.student = np.concatenate(shown, axis=2)
        return {"teacher": obs, "student": self.student.copy()}


def photograph(env: gym.Env, size: int, camera) -> np.ndarray:  # -> (S, S, 3)
    """An environment as it is now."""
    base = env.unwrapped
    if not isinstance(base, MujocoEnv):
        return shrink(env.render(), size)
    if camera is None:
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(base.model, camera)
        for field, value in (base.mujoco_renderer.default_cam_config or {}).items():
            setattr(camera, field, value)
    renderer = shared_renderer(base.fullpath, size)
    renderer.update_scene(base.data, camera)
    return renderer.render()


@functools.cache
def shared_renderer(model_file: str, size: int) -> mujoco.Renderer:
    """One for all copies of an environment, because a context is heavy."""
    return mujoco.Renderer(mujoco.MjModel.from_xml_path(model_file), size, size)


def shrink(image: np.ndarray, size: int) -> np.ndarray:  # (H, W, 3) -> (S, S, 3)
    """The mean of each block of H // S x W // S pixels; what is left over is cut off."""
    tall = image.shape[0] // size
    wide = image.shape[1] // size
    blocks = image[: tall * size, : wide * size].reshape(size, tall, size, wide, 3)
    return blocks.mean(axis=1).mean(axis=2).astype(np.uint8)


FROM_ABOVE = {"lookat": (0, 0, 0), "distance": 0.54, "elevation": -90, "azimuth": 90}
gym.register(
    "ReacherCamera-v0",
    entry_point=camera_env,
    max_episode_steps=50,
    kwargs={"env_id": "Reacher-v5", "default_camera_config": FROM_ABOVE},
)
