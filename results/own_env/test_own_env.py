"""Can a student without memory solve the two examples from its own view alone?"""

import importlib

import numpy as np
import pytest

from results.own_env import cue_reach
from tsalign import make_envs


def play(name: str, scripted_student, episodes: int, view: str = "student"):
    """Returns and successes of a scripted policy in its first `episodes` episodes."""
    envs = make_envs(name, 1)
    obs, _ = envs.reset(seed=0)
    returns, successes = [], []
    for _ in range(episodes):
        total, ended = 0.0, False
        while not ended:
            action = np.array([scripted_student(obs[view][0])])
            obs, reward, terminated, truncated, info = envs.step(action)
            total, ended = total + reward[0], (terminated | truncated)[0]
        returns.append(total)
        successes.append(info.get("is_success", [None])[0])
        obs, _ = envs.reset(options={"reset_mask": np.array([True])})
    return np.array(returns), successes


def scripted_teacher(view: np.ndarray) -> np.ndarray:  # (3,) -> (2,)
    """Straight to the side that the cue names: no policy has a higher return."""
    return np.array([view[2], 0.0], np.float32)


def test_cue_reach_student_is_near_the_best_return_and_never_wrong():
    name = "results.own_env.cue_reach:CueReach-v0"
    student, _ = play(name, cue_reach.scripted_student, 200)
    best, _ = play(name, scripted_teacher, 200, view="teacher")
    assert student.min() > 0.7 and best.mean() - 0.1 < student.mean() < best.mean()


def test_cue_reach_hides_the_cue_in_the_dark_alone():
    env = cue_reach.CueReachEnv()
    for position, is_lit in (((0.0, 0.5), 0), ((0.3, -0.1), 1), ((0.3, 0.0), 1)):
        env.position, env.cue = np.array(position), -1.0
        obs = env.observe()
        assert obs["teacher"][2] == -1 and obs["student"][2] == -is_lit
        np.testing.assert_array_equal(obs["teacher"][:2], obs["student"][:2])


def test_cue_reach_rewards_the_side_that_the_cue_names():
    env = cue_reach.CueReachEnv()
    env.reset(seed=0)
    for side in (-1.0, 1.0):
        env.position, env.cue = np.array([0.9 * side, 0.5]), 1.0
        _, reward, terminated, _, _ = env.step(np.array([side, 0.0]))
        assert terminated and reward == pytest.approx(side - cue_reach.STEP_COST)


@pytest.mark.parametrize("shape", ["Absolute", "Turned"])
def test_scripted_student_crosses_the_lava(shape):
    pytest.importorskip("minigrid")
    lava = importlib.import_module("results.own_env.minigrid_lava")
    name = f"results.own_env.minigrid_lava:Lava{shape}-v0"
    _, successes = play(name, lava.scripted_student, 200)
    assert all(successes)


def test_the_turned_map_contains_the_students_view():
    pytest.importorskip("minigrid")
    lava = importlib.import_module("results.own_env.minigrid_lava")
    env, rng = lava.LavaEnv(turned=True), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        room = obs["teacher"][: 17 * 17 * 4].reshape(17, 17, 4)
        seen = obs["student"][:36].reshape(3, 3, 4)
        visible = seen.any(-1)
        np.testing.assert_array_equal(room[7:10, 6:9][visible], seen[visible])
        obs, _, terminated, truncated, _ = env.step(rng.integers(3))
        if terminated or truncated:
            obs, _ = env.reset()
