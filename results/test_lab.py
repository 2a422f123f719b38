"""Does the lab count, compare and keep its tables as it says? No test needs another."""

import argparse
import importlib
import json
import math
import signal
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import tsalign
from results import lab, questions
from results.claims import __main__ as claims
from results.growth import __main__ as growth
from results.leak import __main__ as leak
from results.leak import probes
from results.own_env import __main__ as own_env
from results.own_env import cue_reach
from results.peers import __main__ as peers
from results.peers import race, rivals
from results.play import __main__ as play
from results.table1 import __main__ as table1
from tsalign import BadInput, Config, make_envs

SCRIPTS = [table1, claims, leak, growth, own_env, peers, play]
TINY = {"num_envs": 4, "rollout_steps": 16, "total_steps": 64, "encoder_batch": 16}
TINY |= {"embedding_dim": 8, "width": 16}
TINY |= {"eval_episodes": 4, "log_episodes": 4, "log_evals": 1}


def fake_row(env="tunnelvision", method="ours", seed=0, s=1.0, settings="", **others):
    """A row of a table, as if it had been read from a finished run."""
    row = {"env": env, "method": method, "settings": settings, "seed": seed, "S": s}
    row |= {"kind": "success", "T": 1.0, "gap": 1.0 - s, "seconds": 9}
    return row | {"defaults": lab.defaults_of(env, method)} | others


def exit_code(main, *arguments) -> int:
    """With which a script ends; 0 where it just returns."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def check_redrawn(main, folder, *arguments) -> None:
    """--report makes each file again, to the byte, and leaves the tables as they are."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix == ".csv"}
    redraw = [*arguments, "--report", "--results", folder]
    assert exit_code(main, *redraw) == 0
    drawn = {path: path.read_bytes() for path in folder.iterdir()}
    assert exit_code(main, *redraw) == 0
    assert drawn == {path: path.read_bytes() for path in folder.iterdir()}
    assert before == {path: drawn[path] for path in before}
    assert any(path.suffix == ".png" for path in drawn)


# --- What they share: lab.py --------------------------------------------------------------


def test_intervals_by_hand():
    assert lab.interval([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert lab.interval([0.5]) == math.inf
    twenty = [0.0, 1.0] * 10  # their variance is 5 / 19, the quantile 2.093
    assert lab.interval(twenty) == pytest.approx(2.093 * math.sqrt(5 / 19 / 20), 0.01)


def test_a_verdict_follows_from_matched_seeds_and_their_number():
    base = [fake_row(seed=k, s=s) for k, s in enumerate([0.90, 0.80, 0.70])]
    higher = [fake_row(seed=k, s=s) for k, s in enumerate([0.95, 0.85, 0.76])]
    assert questions.verdict(higher, base).startswith("higher (+0.053")
    assert questions.verdict(base, higher).startswith("lower (-0.053")
    mixed = [fake_row(seed=k, s=s) for k, s in enumerate([0.99, 0.80, 0.69])]
    assert questions.verdict(mixed, base).startswith("cannot tell")
    assert questions.verdict(higher[:1], base) == "cannot tell"
    others = [fake_row(seed=k + 10, s=0.1) for k in range(3)]
    assert questions.verdict(higher, others) == "cannot tell"


def test_failures_of_matched_seeds_by_hand():
    assert questions.fisher_exact(3, 1, 4) == pytest.approx(34 / 70)  # the lady's tea
    good = [fake_row(seed=k) for k in range(20)]
    six_bad = [fake_row(seed=k, s=0.5 if k < 6 else 1.0) for k in range(30)]
    p = 2 * math.comb(20, 6) / math.comb(40, 6)
    told = questions.verdict(good, six_bad)
    assert told.endswith(f"0 and 6 below 0.98 (Fisher's p {p:.2f})") and p < 0.05
    assert questions.verdict(good, good).endswith("0 and 0 below 0.98 (Fisher's p 1.00)")


def test_numbers_are_sorted_as_numbers():
    in_order = ["64", "512", "512, short memory", "a=0.1", "a=3.0", "a=10.0", "a=30.0"]
    assert sorted(reversed(in_order), key=lab.natural) == in_order


def test_a_command_with_fewer_runs_does_not_shorten_a_table(tmp_path):
    path = tmp_path / "runs.csv"
    lab.merge_csv(path, lab.RUN, [fake_row(seed=k, s=0.5) for k in range(12)])
    lab.merge_csv(path, lab.RUN, [fake_row(seed=3, s=0.75)])
    lab.merge_csv(path, lab.RUN, [fake_row(seed=3, s=0.25, settings="lambda_align=3.0")])
    lab.merge_csv(path, lab.RUN, [])
    rows = lab.read_csv(path)
    assert [int(row["seed"]) for row in rows] == [*range(12), 3]
    assert [row["S"] for row in rows if row["seed"] == "3"] == ["0.75", "0.25"]


def test_a_table_made_with_other_defaults_is_not_mixed(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    lab.merge_csv(path, lab.RUN, [fake_row(defaults="1")])
    before = path.read_bytes()
    assert exit_code(table1.main, "--results", tmp_path, "--out", tmp_path / "runs") == 2
    assert "other defaults" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_settings_are_what_differs_from_the_standard_run():
    assert lab.settings_of(lab.standard("tunnelvision", "no-align", seed=7)) == ""
    changed = lab.standard("tunnelvision", lambda_align=3, total_steps=64)
    assert lab.settings_of(changed) == "total_steps=64 lambda_align=3.0"


def test_runs_are_trained_once_kept_and_named_where_they_fail(tmp_path, capsys):
    good = Config(out=str(tmp_path), **TINY)
    bad = Config(out=str(tmp_path), seed=1, encoder_lr=1e18, **TINY)
    path = tmp_path / "runs.csv"
    failed = lab.train_all([good, bad], 2, path)
    assert list(failed) == [bad.folder] and "not finite" in failed[bad.folder]
    (row,) = lab.read_csv(path)
    result = json.loads((good.folder / "result.json").read_text())
    assert float(row["S"]) == result["success_student"] and "num_envs=4" in row["settings"]
    assert lab.train_all([good], 1, path) == {}
    assert "1 runs, 0 of them to be trained" in capsys.readouterr().out
    with pytest.raises(BadInput, match="lambda_align"):
        lab.is_finished(Config(out=str(tmp_path), **TINY, lambda_align=3.0))


def test_a_process_that_is_killed_ends_no_other(tmp_path, capsys):
    signals = {tmp_path / "killed": signal.SIGKILL, tmp_path / "done": 0}
    failed = lab.run_many(signal.raise_signal, signals, jobs=2)
    assert failed == {tmp_path / "killed": "exit -9: "}
    assert capsys.readouterr().out.count(" to go)\n") == 2


def test_lab_main_ends_with_the_exit_code_that_it_says(tmp_path, capsys):
    def run(train, *arguments):
        parser = lab.lab_parser("table1", "text", [0])
        return exit_code(lambda a: lab.lab_main(train, print, parser, a), *arguments)

    interrupted = Mock(side_effect=KeyboardInterrupt)
    assert run(lambda args: {}) == 0
    assert run(lambda args: {tmp_path: "no luck"}) == 1
    assert f"failed: {tmp_path}: no luck" in capsys.readouterr().err
    assert run(interrupted) == 130
    assert run(interrupted, "--report") == 0
    assert run(lambda args: {}, "--jobs", "0") == 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_and_bad_input_train_nothing(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab, "run_many", None)
    assert exit_code(script.main, "--help") == 0
    arguments = ["no"] if script in (play, claims) else ["--report", "--results", tmp_path]
    assert exit_code(script.main, *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- Table I ------------------------------------------------------------------------------


def test_table1_by_hand_and_redrawn(tmp_path, capsys):
    runs = [fake_row(seed=k, s=s) for k, s in enumerate([1.0, 0.99, 0.98])]
    runs += [fake_row(method="bc", seed=k, s=s) for k, s in enumerate([0.2, 0.3])]
    curves = [row | {"env_steps": 4096} for row in runs]
    curves += [row | {"env_steps": 102400} for row in runs]
    lab.merge_csv(tmp_path / "runs.csv", lab.RUN, runs)
    lab.merge_csv(tmp_path / "curves.csv", table1.CURVES, curves, [*lab.KEY, "env_steps"])
    check_redrawn(table1.main, tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert "| `ours` | 3 | 1.000 ± 0.000 | 0.990 ± 0.010 |" in text
    assert "| 0.980 | 1.00 / 1.00 |" in text
    bc = "| `bc` | 2 | 1.000 ± 0.000 | 0.25 ± 0.07 | 0.75 ± 0.07 | 0.200 | 1.00 / 0.19 |"
    assert bc in text


# --- The leak -----------------------------------------------------------------------------


def test_one_coin_of_two_leaks_as_much_as_the_noise_leaves_of_it(monkeypatch):
    settings = {"WIDTH": 32, "CHECKS": 1, "LEARNING_RATE": 1e-2, "UPDATES": 80}
    for name, value in settings.items():
        monkeypatch.setattr(probes, name, value)
    generator = torch.Generator().manual_seed(0)
    view = 2 * torch.randint(2, (1500, 2), generator=generator).float() - 1
    coins = 2 * torch.randint(2, (1500, 2), generator=generator).float() - 1
    steps = probes.Steps(
        view=view,
        difference=0.1 * coins[:, :1],
        obs_teacher=torch.cat([view, coins], 1),
        facts=(coins + 1) / 2,
        is_private=torch.ones_like(coins),
        fold=torch.arange(1500) % probes.FOLDS,
    )
    bits = {kind: probes.train_probe(kind, steps, fold=0) for kind in probes.KINDS}
    assert bits["nothing"] == pytest.approx(2, abs=0.05)
    assert bits["nothing again"] == pytest.approx(2, abs=0.05)
    assert bits["everything"] < 0.05
    left = 0.486  # bits of a coin of +-.1 in Gaussian noise of .1, by integration
    assert 2 - bits["embedding"] == pytest.approx(left, abs=0.1)


def test_private_cells_are_those_that_the_students_view_lacks():
    obs, _ = make_envs("tunnelvision", 64).reset(seed=0)
    facts, is_private = probes.unseen_cells(torch.tensor(obs["teacher"]))
    assert (is_private.sum(1) == 5).all()
    seen = [sorted(f[p == 0].tolist()) for f, p in zip(facts, is_private)]
    assert seen == [sorted(((view + 1) / 2).tolist()) for view in obs["student"][:, -3:]]


def test_the_nearest_box_by_its_bearing():
    obs = torch.zeros(5, 38)
    obs[:4, 0] = 1  # the last has collected all
    obs[:, 1:3] = torch.tensor([[1.0, 0], [-0.2, 1], [-1, 0], [0, -1], [0, 1]])
    facts, is_private = probes.unseen_box(obs)
    assert facts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert (is_private == 1).all()


def test_folds_hold_different_layouts_and_any_two_bends_equally_often():
    envs = make_envs("tunnelvision", 500)
    folds = {}
    for seed in range(0, 2000, 500):
        envs.reset(seed=seed)
        bends = (~envs.unwrapped.blocked[:, 1:-1, 4:-2:2]).argmax(1)
        layouts = map(tuple, bends.tolist())
        folds |= zip(layouts, probes.fold_of("tunnelvision", envs).tolist())
    assert len(folds) == 125
    for fold in range(probes.FOLDS):
        of_fold = np.array([bends for bends in folds if folds[bends] == fold])
        for pair in ((0, 1), (1, 2), (0, 2)):
            assert len(np.unique(of_fold[:, pair], axis=0)) == 25


def test_a_question_is_answered_and_a_run_is_measured_once(tmp_path, monkeypatch, capsys):
    told = {"nothing": 2.0, "nothing again": 1.9, "everything": 1.0, "embedding": 1.5}
    monkeypatch.setattr(probes, "train_probe", lambda kind, steps, fold: told[kind])
    monkeypatch.setattr(probes, "STEPS", {"tunnelvision": 2})
    monkeypatch.setattr(lab, "run_many", run_here)
    config = Config(out=str(tmp_path / "runs"), **TINY)
    question = questions.Question([("tiny", config)], measures=("S", "leak"))
    args = argparse.Namespace(seeds=[0, 4], out=tmp_path, results=tmp_path, jobs=1)
    assert questions.answer("tiny", question, args) == {}
    assert "1 of them to be measured" in capsys.readouterr().out
    first, second = lab.read_csv(tmp_path / "tiny.csv")
    assert first["variant"] == second["variant"] == "tiny"
    figures = [float(first[name]) for name in ("leak", "control", "private_bits")]
    assert figures == pytest.approx([0.5, 0.1, 1.0]) and second["leak"] == ""
    results = tmp_path / "results"
    assert exit_code(leak.main, config.folder, "--results", results) == 0
    assert "0 of them to be measured" in capsys.readouterr().out
    assert lab.read_csv(results / "leak.csv")[0]["leak"] == first["leak"]
    check_redrawn(leak.main, results)


def run_here(task, arguments, jobs) -> dict:
    """`lab.run_many` without processes."""
    for argument in arguments.values():
        task(argument)
    return {}


# --- Claims, growth, environments of one's own, pictures ----------------------------------


OWN = own_env.ask(argparse.Namespace(envs=own_env.ENVS, methods=own_env.METHODS))
QUESTIONS = claims.QUESTIONS | {"growth": growth.QUESTION} | OWN


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_has_a_folder_for_each_run_and_is_redrawn(name, tmp_path, capsys):
    question = QUESTIONS[name]
    runs = questions.plan(question, [0, 1, 2], tmp_path)
    assert len({config.folder for _, config in runs}) == 3 * len(question.variants)
    rows = []
    for label, config in runs:
        settings = lab.settings_of(config)
        row = fake_row(config.env, config.method, config.seed, 0.9, settings, variant=label)
        if "leak" in question.measures and config.seed == 0:
            row |= {"leak": 0.1, "leak_interval": 0.05, "views_to_95": 4096}
        rows.append(row | {"scripted": 0.83})
    lab.merge_csv(tmp_path / f"{name}.csv", questions.COLUMNS, rows)
    check_redrawn(lambda a: questions.main("lab", "", QUESTIONS, a), tmp_path, name)
    said = capsys.readouterr().out
    assert "n = 3; S 0.900; T 1.000; gap 0.100; scripted 0.830" in said
    if question.base:
        assert question.base in [label for label, _ in question.variants]
        assert f"S beside {question.base}: cannot tell (+0.000" in said


def test_all_questions_are_answered_if_none_is_named(tmp_path, capsys):
    assert exit_code(claims.main, "--report", "--results", tmp_path) == 2
    first = next(iter(claims.QUESTIONS))
    assert f"there is no {tmp_path}/{first}.csv" in capsys.readouterr().err
    assert exit_code(claims.main, "colours", "--report") == 2
    assert "there is no 'colours'" in capsys.readouterr().err


def test_runs_at_table_1s_settings_are_table_1s(tmp_path):
    runs = questions.plan(claims.QUESTIONS["align"], [0], tmp_path)
    homes = {(config.env, label): config.folder.parent for label, config in runs}
    assert homes["tunnelvision", "0"] == lab.TABLE1
    assert homes["collecthealth", f"{Config.lambda_align:g}"] == lab.TABLE1
    assert homes["collecthealth", "10"] == tmp_path / "lambda_align=10.0"


def test_s_is_95_where_two_evaluations_in_a_row_say_so(tmp_path):
    log = "env_steps,student_views,success_student\n1,1,.96\n2,2,.9\n300,3,.95\n400,4,.97"
    (tmp_path / "log.csv").write_text(log)
    found = {"steps_to_95": "300", "views_to_95": "3", "worst_later": ""}
    assert questions.looks_of(tmp_path) == found
    (tmp_path / "log.csv").write_text("success_student\n.5\n.99\n.97\n1.0")
    assert questions.looks_of(tmp_path)["worst_later"] == 0.97


def test_growth_follows_its_rule():
    steps = {config.env: config.total_steps for _, config in growth.grids()}
    standard = tsalign.STEPS["tunnelvision"]
    assert steps["tunnelvision,rows=5,cols=9,max_episode_steps=100"] == standard
    assert steps["tunnelvision,rows=9,cols=21,max_episode_steps=420"] == 4.2 * standard
    assert len(growth.grids()) + len(growth.pictures()) == 9


def test_cue_reach_by_hand_and_its_scripted_student():
    env = cue_reach.CueReachEnv()
    env.reset(seed=0)
    for position, is_lit in (((0.0, 0.5), 0), ((0.3, -0.1), 1), ((0.3, 0.0), 1)):
        env.position = np.array(position)
        obs = env.observe()
        assert obs["teacher"][2] == env.cue and obs["student"][2] == env.cue * is_lit
    for side in (-1.0, 1.0):
        env.position = np.array([0.9 * side, 0.5])
        env.cue = 1.0
        _, reward, terminated, _, _ = env.step(np.array([side, 0.0]))
        assert terminated and reward == pytest.approx(side - cue_reach.STEP_COST)
    assert 0.8 < lab.play_scripted("results.own_env.cue_reach:CueReach-v0", 100) < 0.9
    assert lab.play_scripted("results.own_env.cue:Cue-v0", 20) == 1
    assert lab.play_scripted("tunnelvision,rows=7", 20) == ""


def test_the_lavas_scripted_student_and_the_teachers_map():
    pytest.importorskip("minigrid")
    lava = importlib.import_module("results.own_env.minigrid_lava")
    assert lab.play_scripted("results.own_env.minigrid_lava:LavaTurned-v0", 50) == 1
    env = lava.LavaEnv()
    obs, _ = env.reset(seed=0)
    terminated = False
    while not terminated:
        student = obs["student"][:36].reshape(3, 3, 4)
        room = obs["teacher"][: 4 * lava.SPAN**2].reshape(lava.SPAN, lava.SPAN, 4)
        near = room[7:10, 6:9]  # the agent is in the middle, at 8
        is_seen = student.any(-1)
        np.testing.assert_array_equal(near[is_seen], student[is_seen])
        action = lava.scripted_student(obs["student"])
        obs, _, terminated, _, _ = env.step(action)


def test_a_saved_run_is_evaluated_and_drawn(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    config = Config(out=str(tmp_path), **TINY)
    tsalign.train(config)
    arguments = [config.folder, config.folder, "--episodes", "4", "--out", tmp_path]
    assert exit_code(play.main, *arguments) == 0
    said = capsys.readouterr().out
    assert "success in 4 fresh episodes: teacher " in said and "ours: the student " in said
    with image.open(tmp_path / "tunnelvision_ours_ours.gif") as gif:
        assert gif.n_frames >= 2 and gif.width == 800


# --- The race -----------------------------------------------------------------------------


def exams(*scores: float) -> list[dict]:
    """Rows of a run that is examined each 100 steps, with views and seconds to match."""
    rows = []
    for k, score in enumerate(scores, 1):
        row = {"env_steps": 100 * k, "student_views": 10 * k, "train_seconds": float(k)}
        rows.append(row | {"success_student": score, "S": score})
    return rows


def test_the_goal_is_reached_at_the_first_of_two_good_exams_in_a_row():
    assert lab.reached(exams(0.96, 0.5, 0.95, 0.97), 0.95)["env_steps"] == 300
    assert lab.reached(exams(0.96, 0.5, 0.96), 0.95) == {}
    assert lab.score_of({"success_student": 0.0, "return_student": 7}, "student") == 0
    assert math.isnan(lab.score_of({"return_student": 7}, "teacher"))


def test_the_race_is_redrawn_and_says_how_many_times_ours(tmp_path, capsys):
    runs = []
    curves = []
    for entrant, seconds in {"ours": 2, "ppo": 20, "bc": ""}.items():
        for seed in range(3):
            which = {"task": "RobotEye", "entrant": entrant, "seed": seed}
            there = {"seconds_to_goal": seconds, "views_to_goal": seconds}
            runs.append(which | there | {"T": 1, "S": 0.9, "train_seconds": 30})
            curves += [row | which for row in exams(0.5, 0.9)]
    lab.merge_csv(tmp_path / "runs.csv", peers.RUNS, runs, peers.KEY)
    key = [*peers.KEY, "env_steps"]
    lab.merge_csv(tmp_path / "curves.csv", peers.CURVES, curves, key)
    check_redrawn(peers.main, tmp_path)
    said = capsys.readouterr().out
    assert "ppo            3 of 3 got there; seconds 20 (10.0); views 20 (10.0)" in said
    assert "bc             0 of 3 got there; seconds inf (inf)" in said


def test_a_process_can_import_what_it_is_told_to_do():
    for task in (tsalign.train, probes.measure, race.run_entrant):
        assert not task.__module__.endswith("__main__")  # which no process imports


@pytest.mark.parametrize("rival", ["ppo", "asymmetric", "dagger"])
def test_a_rival_learns_from_every_view_of_its_student(rival, tmp_path):
    method = f"results.peers.rivals:{rival}"
    settings = TINY | {"total_steps": 256, "log_episodes": 4}
    config = Config(method=method, out=str(tmp_path), **settings)
    race.run_entrant(race.Start("TunnelVision", rival, config, limit=math.inf))
    log = lab.read_csv(config.folder / "log.csv")
    views = [int(row["student_views"]) for row in log]
    assert views == ([64] if rival == "dagger" else [64, 128, 192, 256])
    assert [int(row["env_steps"]) for row in log][-1] == 256
    seconds = [float(row["train_seconds"]) for row in log]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_rival_stops_at_its_limit_and_at_the_goal(tmp_path, monkeypatch):
    settings = TINY | {"total_steps": 640}
    ends = []
    for seed, (limit, score) in enumerate([(0.0, 0.5), (math.inf, 0.99)]):
        config = Config(
            method="results.peers.rivals:ppo", out=str(tmp_path), seed=seed, **settings
        )
        monkeypatch.setattr(
            race, "examine", lambda *_, s=score, **__: {"success_student": s}
        )
        race.run_entrant(race.Start("TunnelVision", "ppo", config, limit))
        ends.append(int(lab.read_csv(config.folder / "log.csv")[-1]["env_steps"]))
    assert ends == [64, 128]


def test_the_asymmetric_critic_reads_the_teachers_view_and_the_actor_never_does():
    envs = make_envs("tunnelvision", 4)
    nets = tsalign.Networks(envs, Config(method="results.peers.rivals:asymmetric", **TINY))
    obs = tsalign.reset_envs(envs, seed=0)
    steps, _ = rivals.student_acts(envs, obs, nets, "teacher", 3)
    np.testing.assert_array_equal(steps.obs_critic[0].numpy(), obs["teacher"])
    np.testing.assert_array_equal(steps.obs_student[0].numpy(), obs["student"])
    expected = nets.distribution("student", steps.obs_student[2]).log_prob(steps.action[2])
    torch.testing.assert_close(steps.log_prob[2], expected)


def test_dagger_labels_the_students_way_with_the_teachers_action():
    envs = make_envs("tunnelvision", 32)
    nets = tsalign.Networks(envs, Config(method="results.peers.rivals:dagger", **TINY))
    with torch.no_grad():
        nets.policy.net[4].bias[5] = 100.0  # the teacher would always do this,
        nets.student_policy.net[4].bias[2] = 100.0  # and the student does that
    obs = tsalign.reset_envs(envs, seed=0)
    told, obs = rivals.student_is_told(envs, obs, nets, 1)
    assert (told.action == 5).all()


def test_stable_baselines3_sees_the_student_and_true_last_views():
    pytest.importorskip("stable_baselines3")
    sb3 = importlib.import_module("results.peers.sb3")
    env = "tunnelvision,max_episode_steps=2"
    adapter = sb3.StudentEnvs(make_envs(env, 3))
    beside = make_envs(env, 3)
    adapter.seed(5)
    view = adapter.reset()
    obs, _ = beside.reset(seed=5)
    np.testing.assert_array_equal(view, obs["student"])
    for _ in range(2):
        adapter.step_async(np.zeros(3, int))
        view, _, done, infos = adapter.step_wait()
        obs, _, terminated, truncated, _ = beside.step(np.zeros(3, int))
    np.testing.assert_array_equal(done, terminated | truncated)
    for n in np.flatnonzero(done):
        np.testing.assert_array_equal(infos[n]["terminal_observation"], obs["student"][n])
        assert infos[n]["TimeLimit.truncated"] == (truncated[n] and not terminated[n])
    obs, _ = beside.reset(options={"reset_mask": done})
    np.testing.assert_array_equal(view, obs["student"])
