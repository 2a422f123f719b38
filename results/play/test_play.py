"""Does a picture show the episode that was played, and does bad input end in one line?"""

import numpy as np
import pytest
import torch
from PIL import Image

import tsalign
from results.play import __main__ as play
from tsalign import Config, make_envs

TINY = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16, total_steps=64)
TINY |= dict(eval_episodes=4, log_episodes=4, log_evals=1)


class Walker:
    """Networks whose teacher always walks east; the student walks north."""

    def distribution(self, agent, obs):
        logits = torch.full((1, 8), -50.0)
        logits[0, 0 if agent == "teacher" else 3] = 50.0
        return torch.distributions.Categorical(logits=logits)


def test_an_episode_by_hand_the_straight_tunnel_is_walked_and_a_wall_is_hit():
    envs = play.picture_envs("tunnelvision")
    for layout in range(1000):
        envs.reset(seed=layout)
        blocked = envs.unwrapped.blocked[0]
        if not blocked[3, 1:-1].any() and blocked[2, 1:-1].all():
            break  # the middle row is the whole tunnel
    frames, total, success = play.play(envs, Walker(), "teacher", layout)
    assert success and len(frames) == 9 and total == pytest.approx(1 + 8 * (0.1 - 0.01))
    assert all((a != b).any() for a, b in zip(frames, frames[1:]))
    frames, total, success = play.play(envs, Walker(), "student", layout)
    assert not success and len(frames) == 2 and total == pytest.approx(-1.01)


def test_the_chosen_layout_is_one_where_only_the_last_student_succeeds(monkeypatch):
    wins = {("bc", "teacher"): {3, 4, 5}, ("bc", "student"): {3}, ("ours", "teacher"): {3, 5},
            ("ours", "student"): {3, 4, 5}}  # fmt: skip
    monkeypatch.setattr(play, "play", lambda e, nets, agent, k, d: (0, 0, k in wins[nets, agent]))
    assert play.find_layout(None, ["bc", "ours"]) == 5
    with pytest.raises(tsalign.BadInput, match="--layout"):
        play.find_layout(None, ["ours", "bc"])


def test_a_gif_has_a_panel_for_each_episode_and_waits_for_the_longest(tmp_path):
    red, blue = (np.full((20, 40, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    play.save_gif(tmp_path / "x.gif", [[("a", [red], "won"), ("b", [red, blue, blue], "lost")]], 10)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames >= 2 and gif.size == (2 * (play.WIDTH + 4), 200 + play.CAPTION)
        gif.seek(gif.n_frames - 1)
        picture = np.asarray(gif.convert("RGB")).astype(int)
    left, right = picture[100, play.WIDTH // 2], picture[100, play.WIDTH * 3 // 2]
    assert left[0] > 150 > left[2] and right[2] > 150 > right[0]


@pytest.mark.parametrize("env", ["tunnelvision", "collecthealth"])
def test_runs_of_both_environments_are_evaluated_and_drawn(env, tmp_path, capsys):
    config = Config(env=env, out=tmp_path, **TINY)
    nets = tsalign.Networks(make_envs(env, 1), config)
    nets.policy.net[-1].bias.data[0] = 50.0  # it walks on until it hits a wall
    tsalign.open_log(config).close()
    tsalign.save_run(config, nets, [dict(env_steps=1, success_teacher=0, success_student=0)],
                     dict(success_student=0))  # fmt: skip
    play.main([str(config.folder), "--episodes", "3", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "success on 3 fresh episodes: teacher " in text and "layout 0: ours, student" in text
    assert (tmp_path / f"{env}_ours.gif").exists()


@pytest.mark.parametrize(
    "arguments, word",
    [(["nosuch"], "nosuch"), (["nosuch", "--episodes", "0"], "episodes"), ([], "RUN")],
)
def test_bad_input_is_one_line(arguments, word, capsys):
    with pytest.raises(SystemExit) as end:
        play.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and word in error
