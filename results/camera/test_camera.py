"""Are the pictures true, drawn only when asked for, and enough to act on?"""

import os
import time

import gymnasium as gym
import numpy as np
import pytest

import tsalign

os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
try:
    import mujoco

    mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
except Exception as error:  # each missing library raises another one
    pytest.skip(f"MuJoCo cannot draw here: {error}", allow_module_level=True)
from results import lab
from results.camera import camera_view, robot

REACHER = "results.camera.camera_view:ReacherCamera-v0"
PENDULUM = "PendulumCamera-v0"
ROBOT = "results.camera.robot:RobotEye-v0"
gym.register(
    PENDULUM,
    entry_point=camera_view.camera_env,
    max_episode_steps=1000,
    kwargs={"env_id": "InvertedPendulum-v5", "frames": 2},
)
each_env = pytest.mark.parametrize("env_id", [REACHER, PENDULUM, ROBOT])


def count_pictures() -> int:
    return camera_view.CameraView.pictures_drawn + robot.RobotEyeVectorEnv.pictures_drawn


def is_red(pictures: np.ndarray) -> np.ndarray:  # (N, S, S, 3) -> (N, S, S)
    red, green, blue = np.moveaxis(pictures.astype(int), 3, 0)
    return (red > 1.6 * green) & (red > 1.6 * blue)


@each_env
def test_nothing_is_drawn_while_nobody_looks_and_the_truth_afterwards(env_id):
    always = tsalign.make_envs(env_id, 2)
    rarely = tsalign.make_envs(env_id, 2)
    always.reset(seed=0)
    first, _ = rarely.reset(seed=0)
    action = np.full(always.action_space.shape, 0.3)
    for looks in (False, False, True):
        truth = always.step(action)[0]
        count = count_pictures()
        tsalign.set_draw_student(rarely, looks)
        obs = rarely.step(action)[0]
        np.testing.assert_array_equal(obs["teacher"], truth["teacher"])
        expected = truth if looks else first
        np.testing.assert_array_equal(obs["student"], expected["student"])
        assert (count_pictures() > count) == looks
    assert (obs["student"] != first["student"]).any(axis=(1, 2, 3)).all()


@each_env
def test_copies_share_a_renderer_and_copy_i_has_seed_plus_i(env_id):
    camera_view.shared_renderer.cache_clear()
    robot.room_renderer.cache_clear()
    obs, _ = tsalign.make_envs(env_id, 3).reset(seed=5)
    for i in range(3):
        alone, _ = tsalign.make_envs(env_id, 1).reset(seed=5 + i)
        np.testing.assert_array_equal(obs["teacher"][i], alone["teacher"][0])
        np.testing.assert_array_equal(obs["student"][i], alone["student"][0])
    caches = [camera_view.shared_renderer.cache_info(), robot.room_renderer.cache_info()]
    assert sum(cache.misses for cache in caches) == 1


def test_reachers_target_is_drawn_where_the_teacher_has_it():
    """Computed apart: a pinhole camera above the middle, 45 degrees wide."""
    obs, _ = tsalign.make_envs(REACHER, 10).reset(seed=0)
    half = 0.54 * np.tan(np.radians(45 / 2))  # metres from the middle to the picture's edge
    seen = 0
    for red, view in zip(is_red(obs["student"]), obs["teacher"]):
        rows, columns = np.nonzero(red)
        if len(rows) >= 4:  # it is not below the arm
            x = ((columns.mean() + 0.5) / 32 - 1) * half
            y = (1 - (rows.mean() + 0.5) / 32) * half
            np.testing.assert_allclose([x, y], view[4:6], atol=0.007)  # one pixel
            seen += 1
    assert seen >= 7


def test_two_frames_show_before_and_after():
    envs = tsalign.make_envs(PENDULUM, 1)
    before = envs.reset(seed=1)[0]["student"]
    np.testing.assert_array_equal(before[..., :3], before[..., 3:])
    after = envs.step(np.ones((1, 1)))[0]["student"]
    np.testing.assert_array_equal(after[..., :3], before[..., 3:])


def test_other_environments_draw_themselves(monkeypatch):
    monkeypatch.setattr(camera_view, "MujocoEnv", ())  # as if Reacher were none of them
    env = camera_view.camera_env("Reacher-v5", size=48, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    blocks = env.render().reshape(48, 10, 48, 10, 3)
    np.testing.assert_allclose(obs["student"], blocks.mean(axis=(1, 3)), atol=1.01)


def drive(heading: float, action: list[float], steps: int, goal=(2.5, 2.5), box=(9, 9)):
    """From the room's middle -> the robot, and the last step's returns."""
    envs = robot.RobotEyeVectorEnv(1)
    envs.draw_student = False
    envs.reset(seed=0)
    data = envs.robots[0]
    data.qpos = [0, 0, heading]
    data.mocap_pos[:, :2] = [goal, box, (-2.5, 2.5), (-2.5, -2.5)]
    for _ in range(steps):
        returns = envs.step(np.array([action]))
    return data, *returns


def test_red_is_seen_where_the_teacher_has_the_goal_and_nowhere_else():
    obs, _ = robot.RobotEyeVectorEnv(300).reset(seed=0)
    x, y = obs["teacher"][:, :2].T * robot.SPAN
    bearing = np.arctan2(y, x)
    half_width = np.arcsin(0.3 / np.hypot(x, y))
    margin = half_width + np.radians(3)  # the eye looks down: what is low is seen earlier
    edge = np.radians(robot.EYE_FIELD / 2)
    red = is_red(obs["student"])
    n_red = red.sum(axis=(1, 2))
    inside = np.abs(bearing) < edge - margin
    assert (n_red[inside] >= 4).all()
    assert (n_red[np.abs(bearing) > edge + margin] == 0).all()
    column = (red.sum(axis=1) @ np.arange(robot.SIZE))[inside] / n_red[inside]
    middle = (robot.SIZE - 1) / 2
    expected = middle - robot.SIZE / 2 * np.tan(bearing[inside]) / np.tan(edge)
    assert np.abs(column - expected).max() < 4  # pixels


def test_motors_act_in_the_body_frame_up_to_their_top_speeds():
    velocities = [[0, 1, 0], [-1, 0, 0], [0, 0, 2]]
    for action, velocity in zip(9 * np.eye(3), velocities):
        data, obs, *_ = drive(np.pi / 2, action, 6)  # it heads north
        np.testing.assert_allclose(data.qvel, velocity, atol=0.01)
        np.testing.assert_allclose(obs["teacher"][0, 20:], action / 9, atol=0.01)


def test_reward_is_progress_less_costs_and_the_goal_ends_the_episode():
    data, _, reward, terminated, _, info = drive(0, [0.8, 0, 0.5], 1, goal=(1.5, 0))
    moved = 1.5 - np.linalg.norm(data.qpos[:2] - [1.5, 0])
    np.testing.assert_allclose(reward, 0.5 * moved - 0.01 - 0.005 * (0.64 + 0.25))
    assert not terminated[0] and not info["is_success"][0]
    _, _, reward, terminated, truncated, info = drive(0, [1, 0, 0], 11, goal=(1.5, 0))
    assert terminated[0] and info["is_success"][0] and not truncated[0] and reward[0] > 1


@pytest.mark.parametrize("box, stops_at", [((9, 9), 3 - 0.2), ((1.5, 0), 1.5 - 0.2 - 0.2)])
def test_walls_and_things_stop_the_robot_at_a_cost(box, stops_at):
    data, _, reward, *_ = drive(0, [1, 0, 0], 40, box=box)
    np.testing.assert_allclose(data.qpos[0], stops_at, atol=0.03)
    assert -0.09 < reward[0] < -0.05


def test_masked_reset_leaves_the_others_alone_and_truncation_is_counted_anew():
    envs = robot.RobotEyeVectorEnv(3, max_episode_steps=2)
    envs.reset(seed=0)
    before = envs.step(np.ones((3, 3)))[0]
    count = count_pictures()
    mask = np.array([False, True, False])
    after, _ = envs.reset(options={"reset_mask": mask})
    assert count_pictures() == count + 1
    for view in ("teacher", "student"):
        changed = (before[view] != after[view]).reshape(3, -1).any(axis=1)
        np.testing.assert_array_equal(changed, mask)
    _, _, terminated, truncated, _ = envs.step(np.ones((3, 3)))
    assert truncated.tolist() == [True, False, True] and not terminated.any()


def test_a_picture_is_enough_for_who_turns():
    assert lab.play_scripted(ROBOT, 60) >= 0.95


def test_a_picture_is_not_enough_for_who_does_not_turn():
    envs = robot.RobotEyeVectorEnv(30)
    obs, _ = envs.reset(seed=0)
    succeeds = np.zeros(30, bool)
    for _ in range(120):
        actions = [robot.scripted_student(view) * [1, 1, 0] for view in obs["student"]]
        obs, _, terminated, _, _ = envs.step(np.array(actions))
        succeeds |= terminated  # and what it does afterwards does not matter
    assert succeeds.mean() < 0.5


def test_a_step_with_a_picture_takes_many_times_as_long():
    envs = robot.RobotEyeVectorEnv(64)
    envs.reset(seed=0)
    seconds = []
    for draws in (True, False):
        envs.draw_student = draws
        start = time.perf_counter()
        for _ in range(20):
            envs.step(np.zeros((64, 3)))
        seconds.append(time.perf_counter() - start)
    assert seconds[0] > 5 * seconds[1]  # on a quiet machine about fifty times
