"""Do layouts, clocks, operations and the rule of growth hold what they say?"""

import time
from dataclasses import asdict

import numpy as np
import pytest

import tsalign
from results.growth import __main__ as growth
from results.growth import clocked, envs, floor
from results.sweep import read_csv
from tsalign import METHODS, Config, make_envs

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16)
TINY = {**SMALL, "total_steps": 128, "eval_episodes": 8, "log_episodes": 4, "log_evals": 2}


def play(grid, seed: int, steps: int, actions: np.random.Generator) -> list[list]:
    """The episodes of each sub-environment under random actions."""
    grid.reset(seed=seed)
    for _ in range(steps):
        done = grid.step(actions.integers(8, size=grid.num_envs))
        grid.reset(options={"reset_mask": done[2] | done[3]})
    return grid.sittings[-1]


def test_the_rule_of_growth_and_nothing_else_differs(tmp_path):
    default, steps = asdict(Config(env="tunnelvision")), {}
    for config in growth.grid_configs([7], tmp_path, 1.0):
        steps[config.env.rpartition(":")[2]] = config.total_steps
        base = asdict(Config(env="tunnelvision", method=config.method))
        changed = {k for k, v in asdict(config).items() if v != base[k]}
        assert changed <= {"env", "seed", "out", "total_steps", *growth.LOGGED}
    total = default["total_steps"]
    assert steps["TunnelVision5x9-v0"] == total
    assert steps["TunnelVision7x15-v0"] == round(total * 105 / 45)
    default_limit = make_envs("tunnelvision", 1).unwrapped.max_episode_steps
    for name, limit in (("5x9", default_limit), ("9x21", 420)):
        grid = make_envs(f"results.growth.envs:TunnelVision{name}-v0", 2).unwrapped
        assert grid.max_episode_steps == limit


def test_ids_have_the_size_that_they_name():
    for name, (rows, cols) in envs.GRIDS.items():
        views = make_envs(f"results.growth.envs:{name}", 1).single_observation_space
        assert views["student"].shape == (rows * cols + 16,)
    for name, size in envs.IMAGES.items():
        views = make_envs(f"results.growth.envs:{name}", 1).single_observation_space
        assert views["student"].shape == (*size, 3)


@pytest.mark.parametrize("size", [(3, 7), (4, 8), (5, 9)])
def test_number_of_layouts_by_drawing_until_no_new_one_comes(size):
    grid = envs.RecordedTunnelVision(200, rows=size[0], cols=size[1])
    for seed in range(0, 2000, 200):
        grid.reset(seed=seed)
    layouts = {own[0][0] for sitting in grid.sittings for own in sitting}
    assert len(layouts) == envs.n_layouts(*size)


def test_a_layout_depends_on_the_seed_and_its_number_alone():
    grid = envs.RecordedTunnelVision(3)
    played = [[[layout for layout, _ in own] for own in play(grid, seed, 80, actions)]
              for seed, actions in ((5, np.random.default_rng(0)), (5, np.random.default_rng(1)),
                                    (50, np.random.default_rng(0)))]  # fmt: skip
    lengths = [[len(own) for own in run] for run in played]
    assert lengths[0] != lengths[1] and np.min(lengths) > 5
    for first, second in zip(played[0], played[1]):
        both = min(len(first), len(second))
        assert first[:both] == second[:both]
    assert played[0][0][:5] != played[2][0][:5]


def test_layouts_are_compared_episode_by_episode():
    training, evaluation = envs.RecordedTunnelVision(2), envs.RecordedTunnelVision(2)
    training.sittings = [[[[b"a", True], [b"b", False]], [[b"a", None]]]]
    teacher = [[[b"a", True], [b"c", True], [b"d", False]], [[b"c", True], [b"b", True]]]
    student = [[[b"a", True], [b"c", True], [b"d", False]], [[b"c", False], [b"b", True]]]
    evaluation.sittings = [[[[b"z", False]], []], teacher, student]
    row = envs.compare_layouts(training, evaluation, 2)  # the third episode is not counted
    assert row == dict(training_episodes=3, training_layouts=2, seen_share=0.5,
                       success_teacher_unseen=1.0, success_student_unseen=0.5)  # fmt: skip


def test_clocks_and_layouts_are_in_the_run_folder(tmp_path, monkeypatch):
    for name in ("collect", "train_policy", "evaluate", "log", "training_loop"):
        monkeypatch.setattr(tsalign, name, getattr(tsalign, name))  # so that they are put back
    monkeypatch.setattr(tsalign, "METHODS", dict(METHODS))

    def slow(*args):
        time.sleep(0.1)
        return {}

    tsalign.METHODS["ours"] = METHODS["ours"]._replace(train_student=slow)
    clocked.install()
    config = Config(env="results.growth.envs:TunnelVision9x21-v0", out=tmp_path, seed=100, **TINY)
    result = tsalign.train(config)
    assert result["seconds_student"] >= 0.2  # two cycles
    taken = [result[f"seconds_{phase}"] for phase in clocked.PHASES]
    assert min(taken) > 0 and sum(taken) < result["seconds"]
    assert result["seen_share"] < 0.2 and 50 < result["peak_mib"] < 4096
    first, last = read_csv(config.folder / "log.csv")
    assert 0.1 <= float(first["seconds_student"]) < float(last["seconds_student"]) - 0.09
    row, curve = growth.row_of(config)
    training = sum(float(last[f"seconds_{phase}"]) for phase in growth.TRAINING)
    assert row["steps_per_second"] == pytest.approx(128 / training) and len(curve) == 2
    assert row["layouts"] == 9**9 and row["limit"] == 420 and "steps_to_goal" not in row


def test_operations_by_hand(monkeypatch):
    passes = dict(encoder_epochs=1, encoder_batch=32, ppo_epochs=2, ppo_batch=32)
    config = Config(env="tunnelvision", **passes, **SMALL)
    collect, rollouts = tsalign.collect, []
    monkeypatch.setattr(tsalign, "collect", lambda *a: rollouts.append(collect(*a)) or rollouts[-1])
    rows = {row["phase"]: row for row in floor.measure(config, cycles=1)}
    d, w, n, teacher_in, student_in, actions = 8, 16, 64, 66, 61, 8

    def forward(n_in, n_out):  # a multiplication and an addition per weight
        return 2 * (n_in * w + w * w + w * n_out)

    teacher, student = forward(teacher_in, d), forward(student_in, d)
    policy, critic = forward(d, actions), forward(d, 1)
    again = config.num_envs + rollouts[0][0].done[:-1].sum()  # after the last step, after each end
    assert rows["collect"]["flops"] == n * (teacher + policy) + again * teacher
    # Backward costs twice the forward pass, but inputs without gradient cost nothing.
    update = 3 * (policy + critic) - 2 * (2 * d * w)
    assert rows["policy"]["flops"] == n * (2 * critic + config.ppo_epochs * update)
    encoders = 3 * (teacher + student) - 2 * w * (teacher_in + student_in)
    similarity = 2 * 32 * d * (3 + 1)  # forward and backward, and once more for "match"
    through_policy = 2 * 2 * policy  # two views; forward, and backward to z alone
    before = student + 2 * policy
    assert rows["student"]["flops"] == n * (before + encoders + through_policy + similarity)
    assert rows["environment"]["flops"] == 0 and rows["environment"]["seconds"] > 0


def test_the_floor_is_operations_over_speed():
    rows = floor.add_floor([dict(flops=3e9, seconds=6.0), dict(flops=0, seconds=1.0)], 1e9)
    assert rows[0]["floor_seconds"] == 3.0 and rows[0]["ratio"] == 2.0 and rows[1]["ratio"] == ""


def test_report_from_runs_and_then_from_csv_and_bad_input(tmp_path, capsys):
    config = growth.grid_configs([100], tmp_path / "runs", 1e-4)[0]
    tsalign.open_log(config).close()
    clocks = "seconds_collect,seconds_policy,seconds_student,seconds_evaluate"
    log = f"env_steps,success_teacher,success_student,gap,entropy,{clocks}\n"
    log += "10,1,0.90,0.1,1,1,2,3,9\n20,1,0.96,0.04,1,2,4,6,18\n30,1,0.94,0.06,1,3,6,9,27\n"
    (config.folder / "log.csv").write_text(log)
    row = dict(env=config.env, method="ours", seed=100, env_steps=30, success_teacher=1.0)
    row |= dict(success_student=0.94, gap=0.06, seconds_collect=3, seconds_policy=6)
    row |= dict(seconds_student=9, seconds_evaluate=27, peak_mib=400, seen_share=1.0)
    (config.folder / "result.json").write_text(tsalign.json.dumps(row))
    for out in ("runs", "none"):
        flags = ["--out", str(tmp_path / out), "--results", str(tmp_path / "table")]
        with pytest.raises(SystemExit) as end:
            growth.main(["--report", "--seeds", "100", "--scale", "1e-4", *flags])
        assert end.value.code == 0
        assert "| TunnelVision5x9 | 125 | 100 | ours" in capsys.readouterr().out
        (line,) = read_csv(tmp_path / "table" / "grid.csv")
        assert line["steps_to_goal"] == "20" and float(line["seconds_to_goal"]) == 12
    for bad in (["nosuch"], ["--jobs", "0"], ["--report", "--out", str(tmp_path / "none"),
                "--results", str(tmp_path / "empty")]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            growth.main(bad)
        assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
