"""Can a student without memory solve the two examples from its own view alone?"""

import importlib

import numpy as np
import pytest

from results.own_env import cue_reach
from results.own_env.__main__ import play


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


@pytest.mark.parametrize("shape", ["Absolute", "Appended", "Turned"])
def test_scripted_student_crosses_the_lava(shape):
    pytest.importorskip("minigrid")
    lava = importlib.import_module("results.own_env.minigrid_lava")
    name = f"results.own_env.minigrid_lava:Lava{shape}-v0"
    _, successes = play(name, lava.scripted_student, 100)
    assert all(successes)


def test_scripted_student_finds_the_corner():
    pytest.importorskip("minigrid")
    corner = importlib.import_module("results.own_env.minigrid_corner")
    name = "results.own_env.minigrid_corner:Corner-v0"
    _, successes = play(name, corner.scripted_student, 200)
    assert np.mean(successes) > 0.95


@pytest.mark.parametrize("module, kinds", [("lava", 4), ("corner", 2)])
def test_the_turned_map_contains_what_minigrid_shows_the_student(module, kinds):
    pytest.importorskip("minigrid")
    module = importlib.import_module(f"results.own_env.minigrid_{module}")
    env = module.LavaEnv("turned") if kinds == 4 else module.CornerEnv()
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(300):
        minigrid_image = super(type(env), env).gen_obs()["image"][..., 0]  # made anew each time
        seen = obs["student"][: 9 * kinds].reshape(3, 3, kinds)
        np.testing.assert_array_equal(seen, minigrid_image[..., None] == module.KINDS)
        side = 2 * module.SIZE - 1
        room = obs["teacher"][: side**2 * kinds].reshape(side, side, kinds)
        middle, is_visible = module.SIZE - 1, minigrid_image != 0
        near = room[middle - 1 : middle + 2, middle - 2 : middle + 1]
        np.testing.assert_array_equal(near[is_visible], seen[is_visible])
        obs, _, terminated, truncated, _ = env.step(rng.integers(3))
        if terminated or truncated:
            obs, _ = env.reset()


def test_the_appended_view_ends_with_the_students():
    pytest.importorskip("minigrid")
    lava = importlib.import_module("results.own_env.minigrid_lava")
    obs, _ = lava.LavaEnv("appended").reset(seed=0)
    without, _ = lava.LavaEnv("absolute").reset(seed=0)
    both = np.concatenate([without["teacher"], without["student"]])
    np.testing.assert_array_equal(obs["teacher"], both)
