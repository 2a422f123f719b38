"""Are the pictures true, drawn only when asked for, and enough to act on?

MUJOCO_GL=egl python -m pytest results/camera/test_camera.py
"""

import os

import gymnasium as gym
import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
try:
    mujoco = pytest.importorskip("mujoco", exc_type=ImportError)
    mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
except (AttributeError, RuntimeError, mujoco.FatalError) as error:
    pytest.skip(f"MuJoCo cannot draw here: {error}", allow_module_level=True)

from results.camera import camera_view, robot  # noqa: E402
from results.camera.camera_view import CameraView  # noqa: E402
from results.camera.robot import RobotEyeVectorEnv  # noqa: E402

REACHER = "results.camera.camera_view:ReacherCamera-v0"
PENDULUM = "results.camera.camera_view:PendulumCamera-v0"
AHEAD = np.array([[1.0, 0.0, 0.0]])


def red_pixels(pictures: np.ndarray) -> np.ndarray:  # (..., S, S, 3) -> (..., S, S)
    red, green, blue = np.moveaxis(pictures.astype(int), -1, 0)
    return (red > 1.6 * green) & (red > 1.6 * blue)


def make_many(env_id: str, num_envs: int):
    """As tsalign makes them: the vector form, or copies that do not reset by themselves."""
    if env_id == "RobotEye-v0":
        return gym.make_vec(env_id, num_envs)
    mode = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    return gym.make_vec(env_id, num_envs, "sync", vector_kwargs=mode)


def owners_of(envs) -> list:
    return [single.unwrapped for single in getattr(envs, "envs", [envs])]
