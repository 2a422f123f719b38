"""Does the lab carry on, report what was run, and take a method that somebody adds?"""

import json
import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import tsalign
from results import sweep
from results.table1 import __main__ as table1
from tsalign import METHODS, Config

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16, total_steps=64)
SMALL |= dict(eval_episodes=8, log_episodes=8, log_evals=1)


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
METHOD, OWN_ENV = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_method_is_one_function_and_one_row_table_included(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "l2", None)  # gone again after the test
    with monkeypatch.context() as patch:
        trained = []
        patch.setattr(tsalign, "train", trained.append)
        exec(METHOD, {})
    assert [config.method for config in trained] == ["l2"]
    result = tsalign.train(Config(method="l2", out=tmp_path / "runs", **SMALL))
    assert "distance" in result
    table = table1.report(tmp_path / "runs", tmp_path / "table")
    assert "| `l2` " in table and (tmp_path / "table" / "fig5.png").exists()


def test_report_by_hand_from_folders_and_then_from_its_own_csv(tmp_path):
    for seed, student in enumerate([0.6, 0.5, 0.4]):
        config = Config(seed=seed, lambda_stab=7.5, out=tmp_path / "runs")
        tsalign.open_log(config).close()
        run = dict(env="tunnelvision", method="ours", seed=seed, eval_episodes=8, env_steps=64)
        run |= dict(success_teacher=0.9, success_student=student, gap=0.9 - student)
        (config.folder / "result.json").write_text(json.dumps(run))
        log = f"env_steps,success_teacher,success_student\n64,0.9,{student}\n"
        (config.folder / "log.csv").write_text(log)
    line = "| `ours` lambda_stab=7.5 | 3 | 0.90±0.00 | 0.50±0.10 | 0.40±0.10 | 1.00/1.00 |"
    for out in ("runs", "nothing"):
        assert line in table1.report(tmp_path / out, tmp_path / "table")
        (row,) = sweep.read_csv(tmp_path / "table" / "table1.csv")
        assert float(row["S_ci95"]) == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-3)


def test_a_sweep_resumes_waits_for_orphans_and_isolates_failures(tmp_path, capsys):
    small = dict(SMALL, out=tmp_path)
    good, bad = Config(seed=1, **small), Config(seed=2, **{**small, "device": "cuda:99"})
    failed = sweep.run_many([good, bad], jobs=2)
    assert list(failed) == [str(bad.folder)] and "cuda:99" in failed[str(bad.folder)]
    before = (good.folder / "result.json").stat().st_mtime_ns
    assert sweep.run_many([good], jobs=1) == {}
    assert (good.folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(tsalign.BadInput, match="width"):
        sweep.run_many([Config(seed=1, **{**small, "width": 8})], jobs=1)
    with tsalign.open_log(Config(seed=3, **small)):  # as an orphan would
        assert sweep.is_busy(Config(seed=3, **small))
    assert not sweep.is_busy(Config(seed=3, **small))


def test_bad_input_is_one_line(tmp_path, capsys):
    for arguments in (["--report", "--out", "none", "--results", str(tmp_path)], ["--jobs", "0"],
                      ["--methods", "nosuch"]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            table1.main(arguments)
        assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_readmes_environment_is_learned_by_its_command(tmp_path, monkeypatch):
    assert len(OWN_ENV.splitlines()) <= 30
    (tmp_path / "my_file.py").write_text(OWN_ENV)
    monkeypatch.chdir(tmp_path)
    registry = dict(gym.registry)  # a copy: other tests have a Cue-v0 too
    monkeypatch.setattr("gymnasium.envs.registration.registry", registry)
    steps = re.search(r"--env my_file:Cue-v0 --total-steps (\d+)", README)[1]
    tsalign.main(["--env", "my_file:Cue-v0", "--total-steps", steps, "--log-evals", "1"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text())["success_student"] > 0.95
    config, nets = tsalign.load_run(folder)
    cues = torch.eye(2).repeat(200, 1)  # the student's views
    answers = nets.distribution("student", cues).sample()
    assert (answers == cues.argmax(1)).float().mean() > 0.95
