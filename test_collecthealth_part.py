import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import collecthealth
from collecthealth import CollectHealthEnv, CollectHealthVectorEnv

CEILING, FLOOR, WALL_X, WALL_Y = (list(c) for c in collecthealth.SCENE_RGB)
BOX_TOP, BOX_SIDE = (list(c) for c in collecthealth.BOX_RGB)


def health_room(position, heading, boxes, **arguments):
    """One room with the agent and the boxes at given places, ready to step."""
    env = CollectHealthVectorEnv(1, n_boxes=len(boxes), **arguments)
    env.reset(seed=0)
    env.position[0], env.first_heading[0], env.boxes[0] = position, heading, boxes
    return env


def march_rays(env, height, width, step=0.002):
    """Oracle: walks along the ray of every pixel until a point lies in something. (H, W, 3)"""
    picture = np.zeros((height, width, 3), np.uint8)
    c, s = np.cos(env._heading()[0]), np.sin(env._heading()[0])
    depth = np.arange(0.01, 1.5 * env.room, step)
    for i in range(height):
        for j in range(width):
            right, up = (2 * j + 1 - width) / width, (height - 1 - 2 * i) / width
            x = env.position[0, 0] + depth * (c + right * s)
            y = env.position[0, 1] + depth * (s - right * c)
            z = 1 + depth * up
            solid = [z >= 2, z <= 0, (x <= 0) | (x >= env.room), (y <= 0) | (y >= env.room)]
            hits = [(m.argmax() if m.any() else len(m), k) for k, m in enumerate(solid)]
            colour = collecthealth.SCENE_RGB[min(hits)[1]]
            first = min(hits)[0]
            for box, present in zip(env.boxes[0], env.present[0]):
                inside = (np.hypot(x - box[0], y - box[1]) <= 0.25) & (z <= 0.6)
                if present and inside.any() and inside.argmax() <= first:
                    first = inside.argmax()
                    colour = collecthealth.BOX_RGB[0 if z[first] > 0.6 - 1.5 * step else 1]
            picture[i, j] = colour
    return picture


@pytest.mark.parametrize("seed", range(4))
def test_health_picture_equals_marched_rays(seed):
    env = CollectHealthVectorEnv(1)
    env.reset(seed=seed)
    env.position[0] = (3.7, 4.2)  # leaves room for the boxes below at any heading
    c, s = np.cos(env._heading()[0]), np.sin(env._heading()[0])
    # Three boxes in view, the second partly and the third mostly behind the first.
    for k, (x, y) in enumerate([(1.6, 0.1), (2.2, 0.35), (2.8, 0.3)]):
        env.boxes[0, k] = env.position[0] + (c * x - s * y, s * x + c * y)
    different = (env._student_view()[0] != march_rays(env, 16, 32)).any(axis=2)
    assert different.mean() < 0.01  # the oracle's step blurs an edge by a pixel here and there


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 3.5, 6.5])
def test_health_wall_is_as_high_as_a_pinhole_camera_sees_it(distance):
    env = health_room((8 - distance, 4), 0, [(1, 1)])
    for height, width in [(16, 32), (128, 256)]:
        column = env._student_view(height, width)[0, :, width // 2]
        # 1 m above and 1 m below the camera, width / 2 pixels for each unit of slope.
        rows = sum(abs(r - height / 2 + 0.5) <= width / 2 / distance for r in range(height))
        assert (column == WALL_X).all(axis=1).sum() == rows
        assert (column == CEILING).all(axis=1).sum() == (height - rows) // 2
        assert (column[-1] == (FLOOR if rows < height else WALL_X)).all()


def test_health_box_straight_ahead_has_the_projected_size():
    env = health_room((2, 4), 0, [(5, 4)])
    picture = env._student_view(160, 320)[0]
    side, top = (picture == BOX_SIDE).all(axis=2), (picture == BOX_TOP).all(axis=2)
    columns = np.flatnonzero((side | top).any(axis=0))
    half_width = 160 * np.tan(np.arcsin(0.25 / 3))
    assert columns.min() == round(160 - half_width) and columns.max() == round(159 + half_width)
    rows = np.arange(160) - 79.5
    assert (rows[side[:, 160]].min(), rows[side[:, 160]].max()) == pytest.approx(
        (160 * 0.4 / 2.75, 160 * 1.0 / 2.75), abs=1
    )
    assert rows[top[:, 160]].min() == pytest.approx(160 * 0.4 / 3.25, abs=1)


def test_health_box_at_the_edge_and_behind():
    empty = health_room((2, 4), 0, [(1, 4)])._student_view()
    corner = np.pi / 4
    for angle, is_seen in [(corner - 0.02, True), (corner + 0.3, False), (np.pi, False)]:
        box = (2 + 1.5 * np.cos(angle), 4 + 1.5 * np.sin(angle))
        picture = health_room((2, 4), 0, [box])._student_view()
        assert (picture != empty).any() == is_seen
        if is_seen:  # to the left of the heading is left in the picture
            assert (picture != empty).any(axis=(0, 1, 3)).argmax() == 0


def test_health_nearer_box_hides_the_farther_in_any_order():
    near, far = (3.5, 4.0), (4.1, 4.0)
    for boxes in [(near, far), (far, near)]:
        env = health_room((2, 4), 0, boxes)
        both = env._student_view(160, 320)[0]
        env.present[0] = [b is near for b in boxes]
        alone = env._student_view(160, 320)[0]
        reds = [(alone == c).all(axis=2) for c in (BOX_TOP, BOX_SIDE)]
        shown = reds[0] | reds[1]
        assert (both[shown] == alone[shown]).all()
        extra = (both != alone).any(axis=2)  # only the far box's upper part, above the near one
        assert extra.any() and np.nonzero(extra)[0].max() < np.nonzero(shown)[0].max()


def test_health_camera_inside_a_box_or_at_a_wall_is_harmless():
    for position in [(4, 4), (4.1, 4), (4.25, 4), (0.3, 0.3), (7.7, 4)]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for turns in range(12):
                env = health_room(position, 0, [(4, 4), (4, 4)])
                env.turns[0] = turns
                obs = env._observe()
                assert env.observation_space["teacher"].contains(obs["teacher"])
                assert env.observation_space["student"].contains(obs["student"])


def test_health_full_turn_gives_the_same_picture():
    env = CollectHealthVectorEnv(4)
    first, _ = env.reset(seed=3)
    for turn in (collecthealth.TURN_LEFT, collecthealth.TURN_RIGHT):
        for k in range(12):
            obs = env.step(np.full(4, turn))[0]
            assert k == 11 or (obs["student"] != first["student"]).any()
        assert (obs["student"] == first["student"]).all()


def test_health_student_sees_nothing_outside_its_field_of_view():
    env = health_room((4, 4), 0.3, [(4 + 2 * np.cos(0.3), 4 + 2 * np.sin(0.3)), (2, 3)])
    before = env._observe()
    env.boxes[0, 1] = (2.5, 4.5)  # behind the camera too
    after = env._observe()
    assert (before["student"] == after["student"]).all()
    assert (before["teacher"] != after["teacher"]).any()


@pytest.mark.parametrize("k", range(8))
def test_health_moves_are_relative_to_the_heading(k):
    env = health_room((4, 4), 0.7, [(1, 1)])
    env.turns[0] = 2
    env.step(np.array([k]))
    angle = 0.7 + np.pi / 3 + k * np.pi / 4
    assert env.position[0] == pytest.approx((4 + 0.5 * np.cos(angle), 4 + 0.5 * np.sin(angle)))
    assert env.turns[0] == 2


def test_health_collects_within_60_cm():
    for distance, reward in [(0.599, 0.99), (0.601, -0.01)]:
        env = health_room((4, 4), 0, [(4.5, 4 + distance), (1, 1)])
        result = env.step(np.array([0]))
        assert result[1] == pytest.approx(reward) and not result[2]
        assert env.present[0].tolist() == [reward < 0, True]
        assert result[0]["teacher"][0, [0, 6]].tolist() == [1, float(reward < 0)]


def test_health_success_when_the_last_box_is_collected():
    env = health_room((4, 4), 0, [(4.5, 4.5), (4.5, 3.5)])
    _, reward, terminated, truncated, info = env.step(np.array([0]))
    assert reward == pytest.approx(1.99)
    assert (terminated[0], truncated[0], info["is_success"][0]) == (True, False, True)


def test_health_wall_within_30_cm_ends_the_episode_and_collects_nothing():
    for wall, turns in [((8, 4), 0), ((4, 8), 3), ((0, 4), 6), ((4, 0), 9)]:
        inward = np.sign(4 - np.array(wall))
        for distance, is_hit in [(0.799, True), (0.801, False)]:
            start = np.array(wall) + inward * distance
            env = health_room(start, 0, [(np.array(wall) + inward * 0.5)])
            env.turns[0] = turns
            _, reward, terminated, _, info = env.step(np.array([0]))
            assert terminated[0] and info["is_success"][0] != is_hit
            assert reward == pytest.approx(-1.01 if is_hit else 0.99)


def test_health_time_limit_truncates():
    env = health_room((4, 4), 0, [(1, 1)], max_episode_steps=3)
    ends = [env.step(np.array([8]))[2:4] for _ in range(3)]
    assert [(bool(a[0]), bool(b[0])) for a, b in ends] == [(False, False)] * 2 + [(False, True)]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.array([8]))


def test_health_teacher_features_equal_a_direct_rotation():
    env = CollectHealthVectorEnv(1)
    env.reset(seed=5)
    env.turns[0], env.present[0, 2] = 4, False
    view, angle = env._teacher_view()[0], env.first_heading[0] + 4 * np.pi / 6
    offsets = [(complex(*(b - env.position[0])) * np.exp(-1j * angle)) for b in env.boxes[0]]
    expected = sorted((z for k, z in enumerate(offsets) if k != 2), key=abs)
    for features, z in zip(view[:30].reshape(5, 6), expected + [None]):
        unit = z / abs(z) if z else None
        wanted = [1, z.real / 8, z.imag / 8, abs(z) / 8, unit.real, unit.imag] if z else [0] * 6
        assert features == pytest.approx(wanted, abs=1e-6)
    x, y = env.position[0]
    assert view[30:34] == pytest.approx([x / 4 - 1, y / 4 - 1, np.cos(angle), np.sin(angle)])
    for k in range(4):  # walk along the ray until it leaves the room
        ray = np.exp(1j * (angle + k * np.pi / 2))
        t = np.arange(0, 12, 0.001)
        outside = (np.abs(x + t * ray.real - 4) > 4) | (np.abs(y + t * ray.imag - 4) > 4)
        assert view[34 + k] * 8 == pytest.approx(t[outside.argmax()], abs=2e-3)


def test_health_vector_equals_single():
    n = 5
    fast = gym.make_vec("CollectHealth-v0", n, vectorization_mode="vector_entry_point")
    slow = gym.make_vec(
        "CollectHealth-v0",
        n,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
    )
    rng, episodes = np.random.default_rng(0), 0
    results = [e.reset(seed=7) for e in (fast, slow)]
    for _ in range(150):
        for view in ("teacher", "student"):
            assert (results[0][0][view] == results[1][0][view]).all()
        actions = rng.integers(10, size=n)
        a, b = results = [e.step(actions) for e in (fast, slow)]
        assert all((x == y).all() for x, y in zip(a[1:4], b[1:4]))
        assert (a[4]["is_success"] == b[4]["is_success"]).all()
        for view in ("teacher", "student"):
            assert (a[0][view] == b[0][view]).all()
        done = a[2] | a[3]
        if done.any():
            episodes += done.sum()
            results = [e.reset(options={"reset_mask": done.copy()}) for e in (fast, slow)]
    assert episodes > 2 * n


def test_health_check_env_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("CollectHealth-v0", render_mode="rgb_array").unwrapped)
    frame = gym.make("CollectHealth-v0", render_mode="rgb_array")
    frame.reset(seed=0)
    assert frame.render().shape == (384, 768, 3) and frame.render().dtype == np.uint8


def test_health_observations_stay_in_their_spaces_and_repeat_by_seed():
    def run(seed):
        env, seen = CollectHealthVectorEnv(8), []
        obs, _ = env.reset(seed=seed)
        rng = np.random.default_rng(0)
        for _ in range(100):
            assert all(env.observation_space[k].contains(obs[k]) for k in obs)
            seen.append(obs["teacher"])
            obs, *_ = env.step(rng.integers(10, size=8))
            if env.done.any():
                obs, _ = env.reset(options={"reset_mask": env.done.copy()})
        return np.stack(seen)

    assert (run(1) == run(1)).all()
    assert (run(1) != run(2)).any()


def test_health_sub_env_i_is_seeded_with_seed_plus_i():
    pair = CollectHealthVectorEnv(2).reset(seed=[4, 9])[0]["teacher"]
    assert (pair[1] == CollectHealthEnv().reset(seed=9)[0]["teacher"]).all()
    assert (pair[0] == CollectHealthVectorEnv(3).reset(seed=2)[0]["teacher"][2]).all()


def test_health_stepping_a_finished_sub_env_raises():
    env = CollectHealthVectorEnv(2)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    env.position[1] = (7.5, 4)
    env.first_heading[1] = 0
    assert env.step(np.zeros(2, int))[2][1]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.full(2, 8))
    before = env.position[0].copy()
    env.reset(options={"reset_mask": np.array([False, True])})
    assert (env.position[0] == before).all() and env.steps.tolist() == [1, 0]
    env.step(np.full(2, 8))


@pytest.mark.parametrize(
    "bad",
    [{"num_envs": 0}, {"n_boxes": 0}, {"n_boxes": 101}, {"room": 2.0}, {"room": float("nan")},
     {"max_episode_steps": 0}, {"render_mode": "human"}],
)
def test_health_bad_arguments_raise(bad):
    with pytest.raises(ValueError):
        CollectHealthVectorEnv(**bad)


@pytest.mark.parametrize("actions", [[0], [0, 10], [-1, 0]])
def test_health_bad_actions_raise(actions):
    env = CollectHealthVectorEnv(2)
    env.reset(seed=0)
    with pytest.raises(ValueError):
        env.step(np.array(actions))


def test_health_greedy_teacher_solves_it():
    env, n = CollectHealthVectorEnv(64), 64
    obs, _ = env.reset(seed=0)
    active, success = np.ones(n, bool), np.zeros(n, bool)
    while active.any():
        bearing = np.arctan2(obs["teacher"][:, 5], obs["teacher"][:, 4])
        result = env.step(np.rint(bearing / (np.pi / 4)).astype(int) % 8)
        obs, done = result[0], result[2] | result[3]
        success |= active & result[4]["is_success"]
        active &= ~done
        if done.any():
            obs, _ = env.reset(options={"reset_mask": done})
    assert success.mean() > 0.95
