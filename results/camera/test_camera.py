"""Are the pictures true, drawn only when asked for, and enough to act on?

    MUJOCO_GL=egl python -m pytest results/camera/test_camera.py

Skipped where MuJoCo is not installed or cannot draw.
"""

import importlib
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

os.environ.setdefault("MUJOCO_GL", "egl")  # mujoco reads it when it is imported
# Without MuJoCo or GL even the import fails, in many ways: a process of its own tries.
DRAWS = 'import mujoco as m; m.Renderer(m.MjModel.from_xml_string("<mujoco/>"), 8, 8)'
trial = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, check=False)
if trial.returncode != 0:
    why = trial.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    pytest.skip(f"MuJoCo cannot draw here: {why}", allow_module_level=True)

camera_view = importlib.import_module("results.camera.camera_view")
robot = importlib.import_module("results.camera.robot")
CameraView = camera_view.CameraView
RobotEyeEnv = robot.RobotEyeEnv
RobotEyeVectorEnv = robot.RobotEyeVectorEnv

REACHER = "ReacherCamera-v0"
PENDULUM = "PendulumCamera-v0"


# --- Any environment with a camera --------------------------------------------------------


@pytest.mark.parametrize(
    "inner_id, arguments",
    [
        ("Reacher-v5", {"size": 32}),
        ("InvertedPendulum-v5", {"frames": 2}),
        ("Pusher-v5", {}),
        ("Hopper-v5", {"camera": "track"}),
    ],
)
def test_teacher_gets_the_observation_and_student_a_picture(inner_id, arguments):
    env = camera_view.camera_env(inner_id, **arguments)
    plain = gym.make(inner_id)
    obs, _ = env.reset(seed=3)
    own, _ = plain.reset(seed=3)
    plain.action_space.seed(0)
    for _ in range(4):
        assert env.observation_space.contains(obs)
        np.testing.assert_array_equal(obs["teacher"], own.astype(np.float32))
        assert np.ptp(obs["student"]) > 50
        action = plain.action_space.sample()
        obs, reward, terminated, _, _ = env.step(action)
        own, own_reward, own_terminated, _, _ = plain.step(action)
        assert reward == own_reward
        assert terminated == own_terminated


def test_reachers_target_is_drawn_where_it_is():
    """Computed apart: a pinhole camera above the middle, 45 degrees wide."""
    env = gym.make(REACHER)
    half = 0.54 * np.tan(np.radians(45 / 2))  # metres from the middle to the picture's edge
    seen = 0
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        red, green, blue = np.moveaxis(obs["student"].astype(int), 2, 0)
        rows, columns = np.nonzero((red > 1.6 * green) & (red > 1.6 * blue))
        if len(rows) < 4:
            continue  # below the arm
        x = ((columns.mean() + 0.5) / 32 - 1) * half
        y = (1 - (rows.mean() + 0.5) / 32) * half
        np.testing.assert_allclose([x, y], obs["teacher"][4:6], atol=0.007)  # one pixel
        seen += 1
    assert seen >= 7


def test_camera_draws_nothing_while_nobody_looks():
    env = gym.make(REACHER)
    first, _ = env.reset(seed=0)
    action = np.array([1.0, -1.0])
    count = CameraView.pictures_drawn
    env.unwrapped.draw_student = False
    for _ in range(10):
        obs = env.step(action)[0]
        np.testing.assert_array_equal(obs["student"], first["student"])
    env.reset()
    assert CameraView.pictures_drawn == count
    env.unwrapped.draw_student = True
    obs = env.step(action)[0]
    assert CameraView.pictures_drawn == count + 1
    assert (obs["student"] != first["student"]).any()


def count_renderers(monkeypatch) -> list[int]:
    """The sizes in pixels of all renderers that are made from now on in this test."""
    made = []
    make_renderer = camera_view.make_renderer

    def counted(model, size: int):
        made.append(size)
        return make_renderer(model, size)

    monkeypatch.setattr(camera_view, "RENDERERS", {})
    monkeypatch.setattr(camera_view, "make_renderer", counted)
    return made


def test_copies_share_a_renderer(monkeypatch):
    made = count_renderers(monkeypatch)
    disabled = {"autoreset_mode": gym.vector.AutoresetMode.DISABLED}
    envs = gym.make_vec(REACHER, 6, "sync", vector_kwargs=disabled, size=32)
    obs, _ = envs.reset(seed=0)
    for i in range(6):
        single = gym.make(REACHER, size=32)
        own, _ = single.reset(seed=i)
        np.testing.assert_array_equal(obs["student"][i], own["student"])
    assert made == [64]
    assert all(single.unwrapped.draw_student for single in envs.envs)


def test_robots_share_a_renderer(monkeypatch):
    made = count_renderers(monkeypatch)
    RobotEyeVectorEnv(3).reset(seed=0)
    RobotEyeEnv().reset(seed=0)
    assert made == [64]


def test_both_frames_are_right_in_a_step_that_was_announced():
    always = gym.make(PENDULUM)
    rarely = gym.make(PENDULUM)
    first, _ = always.reset(seed=1)
    rarely.reset(seed=1)
    np.testing.assert_array_equal(first["student"][..., :3], first["student"][..., 3:])
    for t in range(6):
        rarely.unwrapped.draw_student = t in (3, 4)
        count = CameraView.pictures_drawn
        seen = rarely.step(np.array([1.0]))[0]
        drawn = CameraView.pictures_drawn - count
        # Before and after; of the next step the one before it is there already.
        assert drawn == {3: 2, 4: 1}.get(t, 0)
        before = first["student"][..., 3:]
        first = always.step(np.array([1.0]))[0]
        if t in (3, 4):
            np.testing.assert_array_equal(seen["student"], first["student"])
            np.testing.assert_array_equal(seen["student"][..., :3], before)
            assert (seen["student"][..., 3:] != before).any()


@pytest.mark.parametrize("env_id", [REACHER, PENDULUM, "RobotEye-v0"])
def test_drawing_changes_nothing_else(env_id):
    views = []
    for draws in (True, False):
        env = gym.make(env_id)
        env.unwrapped.draw_student = draws
        env.action_space.seed(0)
        obs, _ = env.reset(seed=0)
        path = [obs["teacher"]]
        for _ in range(5):
            obs = env.step(env.action_space.sample())[0]
            path.append(obs["teacher"])
        views.append(np.stack(path))
    np.testing.assert_array_equal(views[0], views[1])


def test_an_episode_has_one_time_limit():
    env = gym.make(REACHER)
    env.reset(seed=0)
    env.unwrapped.draw_student = False
    truncated = [env.step(np.zeros(2))[3] for _ in range(50)]
    assert truncated == [False] * 49 + [True]
    assert str(env).count("TimeLimit") == 1


def test_an_unknown_camera_is_refused():
    with pytest.raises(KeyError, match="nowhere"):
        camera_view.camera_env("Hopper-v5", camera="nowhere")


class Lamp(gym.Env):
    """Not MuJoCo's: it shows its state as a grey of 20 x 33 pixels."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = Box(0, 1, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(0, 1, 1)
        return self.state, {}

    def step(self, action):
        self.state = action
        return self.state, 0.0, False, False, {}

    def render(self):
        return np.full((20, 33, 3), 255 * self.state[0]).astype(np.uint8)


def test_other_environments_are_drawn_by_themselves():
    env = CameraView(Lamp(), size=10, frames=2)
    obs, _ = env.reset(seed=0)
    assert obs["student"].shape == (10, 10, 6)
    env.draw_student = False
    obs = env.step(np.array([0.2]))[0]
    obs = env.step(np.array([0.8]))[0]
    np.testing.assert_array_equal(obs["student"][0, 0], [51, 51, 51, 204, 204, 204])


def test_shrink_is_the_mean_of_blocks():
    picture = np.random.default_rng(0).integers(0, 256, (13, 8, 3)).astype(np.uint8)
    expected = picture[:12].reshape(4, 3, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(camera_view.shrink(picture, 4), np.floor(expected))


# --- The robot ----------------------------------------------------------------------------


def random_actions(steps: int, num_envs: int) -> np.ndarray:  # -> (T, N, 3)
    return np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, 3))


def bearings(envs) -> tuple[np.ndarray, np.ndarray]:  # -> (N,), (N,)
    """Of the goal, left of the eye's axis, and of its half width: from complex numbers."""
    heading = np.exp(1j * envs.pose[:, 2])
    eye = envs.pose[:, 0] + 1j * envs.pose[:, 1]
    goal = envs.things[:, robot.GOAL, 0] + 1j * envs.things[:, robot.GOAL, 1]
    offset = (goal - eye) / heading
    return np.angle(offset), np.arcsin(0.3 / np.abs(offset))


def test_robot_follows_gymnasiums_rules():
    check_env(RobotEyeEnv(render_mode="rgb_array"))
    envs = gym.make_vec("RobotEye-v0", 2)
    assert isinstance(envs.unwrapped, RobotEyeVectorEnv)
    obs, info = envs.reset(seed=0)
    assert envs.observation_space.contains(obs)
    assert info["is_success"].shape == (2,)


def test_sub_environment_i_is_the_single_one_with_seed_plus_i():
    envs = RobotEyeVectorEnv(3, max_episode_steps=4)
    singles = [RobotEyeEnv(max_episode_steps=4) for _ in range(3)]
    actions = random_actions(6, 3)
    obs, _ = envs.reset(seed=7)
    owns = [single.reset(seed=7 + i)[0] for i, single in enumerate(singles)]
    for t in range(6):
        for i, own in enumerate(owns):
            np.testing.assert_array_equal(obs["teacher"][i], own["teacher"])
            np.testing.assert_array_equal(obs["student"][i], own["student"])
        obs, reward, terminated, truncated, _ = envs.step(actions[t])
        for i, single in enumerate(singles):
            owns[i], own_reward, own_terminated, own_truncated, _ = single.step(
                actions[t, i]
            )
            assert own_reward == reward[i]
            assert (own_terminated, own_truncated) == (terminated[i], truncated[i])
        if truncated.any():
            obs, _ = envs.reset(options={"reset_mask": truncated})
            owns = [single.reset()[0] for single in singles]


def test_seeds_repeat_episodes():
    views = []
    for seed in (5, 5, 6):
        envs = RobotEyeVectorEnv(2)
        envs.draw_student = False
        envs.reset(seed=seed)
        views.append(envs.step(np.ones((2, 3)))[0]["teacher"])
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0][0] != views[2][0]).any()
    np.testing.assert_array_equal(views[0][1], views[2][0])  # 5 + 1 = 6 + 0


def test_masked_reset_leaves_the_others_alone():
    envs = RobotEyeVectorEnv(3)
    envs.reset(seed=0)
    before = envs.step(random_actions(1, 3)[0])[0]
    count = RobotEyeVectorEnv.pictures_drawn
    after, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert RobotEyeVectorEnv.pictures_drawn == count + 1
    for view in ("teacher", "student"):
        np.testing.assert_array_equal(before[view][[0, 2]], after[view][[0, 2]])
        assert (before[view][1] != after[view][1]).any()
    assert envs.steps.tolist() == [1, 0, 1]


def test_ended_robots_must_be_reset():
    envs = RobotEyeVectorEnv(2, max_episode_steps=1)
    envs.draw_student = False
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros((2, 3)))
    envs.reset(seed=0)
    _, _, terminated, truncated, info = envs.step(np.zeros((2, 3)))
    assert truncated.all() and not terminated.any() and not info["is_success"].any()
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros((2, 3)))


@pytest.mark.parametrize(
    "arguments",
    [{"num_envs": 0}, {"size": 4}, {"render_mode": "x"}, {"max_episode_steps": 0}],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        RobotEyeVectorEnv(**arguments)


@pytest.mark.parametrize(
    "actions", [np.zeros((1, 3)), np.zeros(3), np.full((2, 3), np.nan)]
)
def test_bad_actions_are_refused(actions):
    envs = RobotEyeVectorEnv(2)
    envs.draw_student = False
    envs.reset(seed=0)
    with pytest.raises(ValueError):
        envs.step(actions)


def test_robot_draws_nothing_while_nobody_looks_and_the_truth_afterwards():
    always = RobotEyeVectorEnv(3)
    rarely = RobotEyeVectorEnv(3)
    always.reset(seed=0)
    first, _ = rarely.reset(seed=0)
    actions = random_actions(4, 3)
    mask = np.array([True, False, False])
    rarely.draw_student = False
    for t in range(3):
        always.step(actions[t])
        truth, _ = always.reset(options={"reset_mask": mask})
        count = RobotEyeVectorEnv.pictures_drawn
        obs = rarely.step(actions[t])[0]
        np.testing.assert_array_equal(obs["student"], first["student"])
        obs, _ = rarely.reset(options={"reset_mask": mask})
        np.testing.assert_array_equal(obs["student"], first["student"])
        np.testing.assert_array_equal(obs["teacher"], truth["teacher"])
        assert RobotEyeVectorEnv.pictures_drawn == count
    rarely.draw_student = True
    truth, _ = always.reset(options={"reset_mask": mask})
    obs, _ = rarely.reset(options={"reset_mask": mask})  # all are drawn: all have moved
    np.testing.assert_array_equal(obs["student"], truth["student"])
    assert (obs["student"] != first["student"]).any(axis=(1, 2, 3)).all()
    truth = always.step(actions[3])[0]
    obs = rarely.step(actions[3])[0]
    np.testing.assert_array_equal(obs["student"], truth["student"])


def test_red_is_seen_where_the_goal_is_in_the_field_of_view_and_nowhere_else():
    envs = RobotEyeVectorEnv(300)
    obs, _ = envs.reset(seed=0)
    bearing, half_width = bearings(envs)
    edge = np.radians(robot.EYE_FIELD / 2)
    inside = np.abs(bearing) < edge - half_width
    outside = np.abs(bearing) > edge + half_width
    assert inside.sum() > 30 and outside.sum() > 200
    red, green, blue = np.moveaxis(obs["student"].astype(int), 3, 0)  # (N, S, S) each
    is_red = (red > 2 * green) & (red > 2 * blue)
    n_red = is_red.sum(axis=(1, 2))
    assert (n_red[inside] >= 4).all()
    assert (n_red[outside] == 0).all()
    # Its middle is where a pinhole camera has it, up to a pixel or two.
    columns = np.arange(32)
    middle = (is_red.sum(axis=1) * columns).sum(axis=1)[inside] / n_red[inside]
    expected = 15.5 - 16 * np.tan(bearing[inside]) / np.tan(edge)
    assert np.abs(middle - expected).max() < 2
    # It is 2 pixels wide at least, however far away.
    assert is_red.any(axis=1)[inside].sum(axis=1).min() >= 2


def test_teachers_view_says_where_things_are():
    envs = RobotEyeVectorEnv(50)
    envs.draw_student = False
    envs.reset(seed=1)
    for actions in random_actions(3, 50):
        view = envs.step(actions)[0]["teacher"]
    assert envs.single_observation_space["teacher"].contains(view[0])
    place = envs.pose[:, 0] + 1j * envs.pose[:, 1]
    heading = np.exp(1j * envs.pose[:, 2])
    things = envs.things[..., 0] + 1j * envs.things[..., 1]
    offset = (things - place[:, None]) / heading[:, None]  # (N, 4), body frame
    for pillar in (robot.PILLARS, robot.PILLARS[::-1]):
        is_first = np.abs(offset[:, pillar[0]]) < np.abs(offset[:, pillar[1]])
        ordered = offset[is_first][:, [robot.GOAL, robot.DECOY, *pillar]]
        features = view[is_first, :20].reshape(-1, 4, 5)
        span = 6 * np.sqrt(2)
        np.testing.assert_allclose(features[..., 0] * span, ordered.real, atol=1e-5)
        np.testing.assert_allclose(features[..., 1] * span, ordered.imag, atol=1e-5)
        np.testing.assert_allclose(features[..., 2] * span, np.abs(ordered), atol=1e-5)
        unit = ordered / np.abs(ordered)
        np.testing.assert_allclose(
            features[..., 3] + 1j * features[..., 4], unit, atol=1e-5
        )
    np.testing.assert_allclose(view[:, 20] + 1j * view[:, 21], place / 3, atol=1e-6)
    np.testing.assert_allclose(view[:, 22] + 1j * view[:, 23], heading, atol=1e-6)


def test_episodes_start_as_described():
    envs = RobotEyeVectorEnv(300)
    envs.draw_student = False
    envs.reset(seed=2)
    places = np.concatenate([envs.pose[:, None, :2], envs.things], axis=1)  # (N, 5, 2)
    apart = np.linalg.norm(places[:, :, None] - places[:, None], axis=3)
    apart += 9 * np.eye(5)
    assert apart.min() >= robot.APART
    assert apart[:, 0, 1].min() >= robot.GOAL_APART
    assert np.abs(places).max() <= robot.SPAWN
    assert np.abs(places[:, 2:]).max() <= robot.SPAWN_SOLID
    assert np.ptp(envs.pose[:, 2]) > 6


def one_robot(pose: list[float], things: list[list[float]]):
    """A vector environment of one robot, in a room that was put in order by hand."""
    envs = RobotEyeVectorEnv(1)
    envs.draw_student = False
    envs.reset(seed=0)
    envs.pose[0] = pose
    envs.things[0] = things
    envs.datas[0].qpos = pose
    envs.datas[0].mocap_pos[:, :2] = things
    return envs


FAR = [[2.5, 2.5], [2.5, -2.5], [-2.5, 2.5], [-2.5, -2.5]]


def test_motors_act_in_the_body_frame_up_to_their_top_speeds():
    envs = one_robot([0, 0, np.pi / 2], FAR)  # it looks north
    for _ in range(6):
        obs = envs.step(np.array([[1, 0, 0]]))[0]
    np.testing.assert_allclose(envs.velocity[0], [0, 1, 0], atol=0.01)
    np.testing.assert_allclose(obs["teacher"][0, 24:], [1, 0, 0], atol=0.01)
    for _ in range(6):
        obs = envs.step(np.array([[0, 1, 0]]))[0]
    np.testing.assert_allclose(envs.velocity[0], [-1, 0, 0], atol=0.01)
    for _ in range(6):
        obs = envs.step(np.array([[0, 0, 9]]))[0]  # clipped to 1
    np.testing.assert_allclose(envs.velocity[0], [0, 0, 2], atol=0.01)
    np.testing.assert_allclose(obs["teacher"][0, 24:], [0, 0, 1], atol=0.01)


def test_reward_is_progress_less_costs():
    envs = one_robot([1, 1, np.pi / 4], FAR)
    before = np.hypot(1.5, 1.5)
    reward = envs.step(np.array([[0.8, 0.0, 0.0]]))[1]
    moved = before - np.linalg.norm(envs.pose[0, :2] - 2.5)
    assert moved > 0.02
    np.testing.assert_allclose(reward, 0.5 * moved - 0.01 - 0.005 * 0.64)
    reward = one_robot([1, 1, 0], FAR).step(np.array([[0, 0, 1]]))[1]
    np.testing.assert_allclose(reward, -0.02, atol=1e-6)


@pytest.mark.parametrize("thing", ["wall", "decoy"])
def test_robot_stops_at_a_flat_thing(thing):
    places = [list(place) for place in FAR]
    stops_at = 3.0 - 0.2
    if thing == "decoy":
        places[robot.DECOY] = [1.5, 0]
        stops_at = 1.5 - 0.2 - 0.2
    envs = one_robot([0, 0, 0], places)
    rewards = [envs.step(np.array([[1, 0, 0]]))[1][0] for _ in range(40)]
    np.testing.assert_allclose(envs.pose[0, 0], stops_at, atol=0.03)
    assert rewards[-1] < -0.05 < -0.03 < rewards[0]


def test_robot_slides_around_a_pillar():
    places = [list(place) for place in FAR]
    places[robot.PILLARS[0]] = [1.5, 0.1]
    envs = one_robot([0, 0, 0], places)
    nearest = np.inf
    for _ in range(40):
        envs.step(np.array([[1, 0, 0]]))
        offset = envs.things[0, robot.PILLARS[0]] - envs.pose[0, :2]
        nearest = min(nearest, np.linalg.norm(offset))
    np.testing.assert_allclose(nearest, 0.25 + 0.2, atol=0.03)
    assert envs.pose[0, 0] > 2


def test_robot_drives_into_the_goal_and_succeeds():
    places = [list(place) for place in FAR]
    places[robot.GOAL] = [1.5, 0]
    envs = one_robot([0, 0, 0], places)
    terminated = [False]
    while not terminated[0]:
        _, reward, terminated, truncated, info = envs.step(np.array([[1, 0, 0]]))
    assert envs.steps[0] in (10, 11)  # a metre at 1 m/s, from rest
    assert info["is_success"][0] and not truncated[0] and reward[0] > 1


def test_render_shows_the_room_and_the_students_pixels():
    envs = RobotEyeVectorEnv(2, render_mode="rgb_array")
    count = RobotEyeVectorEnv.pictures_drawn
    obs, _ = envs.reset(seed=0)
    frames = envs.render()
    assert RobotEyeVectorEnv.pictures_drawn == count + 2  # it counts the student's only
    assert len(frames) == 2 and frames[0].shape == (256, 512, 3)
    np.testing.assert_array_equal(frames[1][::8, 256::8], obs["student"][1])


def test_scripted_players_succeed_and_who_does_not_turn_fails():
    def never_turns(picture):
        return robot.scripted_student(picture) * np.array([1, 1, 0])

    assert robot.play(robot.scripted_student, "student", 100).mean() >= 0.95
    assert robot.play(robot.scripted_teacher, "teacher", 100).mean() >= 0.95
    assert robot.play(never_turns, "student", 40).mean() < 0.4
