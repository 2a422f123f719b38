"""Do the ablations' own methods and measures what they say, and do the reports add up?"""

import math
from pathlib import Path

import pytest
import torch

import tsalign
from results.ablations import __main__ as ablations
from results.ablations import figures, measure, methods
from results.sweep import read_csv
from tsalign import METHODS, Config, Networks, collect, make_envs

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16, encoder_batch=16)


@pytest.fixture(autouse=True)
def rows_of_the_ablations(monkeypatch):
    for name, row in methods.ROWS.items():
        monkeypatch.setitem(METHODS, name, row)


def one_phase(method, train, **given):
    """Losses and encoders' weights after one phase of a row, always from the same start."""
    torch.manual_seed(0)
    config = Config(method=method, **SMALL, **given)
    envs = make_envs(config.env, config.num_envs)
    nets = Networks(envs, config)
    rollout, _ = collect(envs, envs.reset(seed=0)[0], nets, config.rollout_steps)
    _, optimizer = tsalign.make_optimizers(nets, config)
    losses = train(nets, optimizer, rollout, config)
    return losses, torch.cat([p.detach().flatten() for p in nets.teacher.parameters()]), nets


@pytest.mark.parametrize("align_near", [True, False])
def test_a_window_of_0_is_ours_and_a_wider_one_is_not(align_near):
    ours, weights, _ = one_phase("ours", tsalign.train_embedding)

    def train(window):
        def run(*args):
            return methods.train_near_positives(*args, window=window, align_near=align_near)
        return one_phase("ours", run)

    losses, same, _ = train(0)
    assert losses == pytest.approx({k: ours[k] for k in losses}, rel=1e-4)
    assert torch.allclose(weights, same, atol=1e-5)
    assert not torch.allclose(weights, train(2)[1], atol=1e-4)


def test_near_steps_are_of_the_same_episode_within_the_window_and_all_occur():
    done = torch.tensor([[0, 0, 1, 0, 0, 0, 0, 1], [0] * 8]).bool().T  # (T, N)
    drawn = torch.stack([methods.nearby(done, 2) for _ in range(200)])
    seen = [[set(drawn[:, t, n].tolist()) for t in range(8)] for n in range(2)]
    later = [{3, 4, 5}, {3, 4, 5, 6}, {3, 4, 5, 6, 7}, {4, 5, 6, 7}, {5, 6, 7}]
    assert seen[0] == [{0, 1, 2}] * 3 + later
    assert seen[1] == [set(range(max(t - 2, 0), min(t + 3, 8))) for t in range(8)]


def test_measuring_changes_nothing_and_is_0_only_where_nothing_moves():
    _, weights, _ = one_phase("ours", tsalign.train_embedding)
    losses, same, _ = one_phase("ours-measured", methods.train_measured)
    assert torch.equal(weights, same) and losses["moved_z"] > 1e-4 and losses["moved_logits"] > 0
    still, _, _ = one_phase("ours-measured", methods.train_measured, encoder_lr=0.0)
    assert still["moved_z"] == pytest.approx(0, abs=1e-6) and still["moved_logits"] < 1e-6


def test_temperature_and_learning_rate_stay():
    _, _, nets = one_phase("no-align-fixed", methods.train_fixed_sharpness, inverse_temperature=3)
    assert nets.log_inverse_temperature.exp().item() == pytest.approx(3)
    _, moved, _ = one_phase("no-align-constant", methods.train_constant_rate)
    assert not torch.equal(moved, one_phase("no-align-constant", lambda *args: {})[1])


def test_follows_by_hand():
    angle = torch.tensor([0.0, 0.5, 1.0, 1.5])
    z_teacher = torch.stack([angle.cos(), angle.sin()], 1)[:, None]  # (4, 1, 2)
    shifted = torch.stack([(angle + 0.3).cos(), (angle + 0.3).sin()], 1)[:, None]  # past halfway
    views, done = torch.arange(4.0)[:, None, None], torch.zeros(4, 1).bool()
    assert measure.follows(z_teacher, z_teacher, views, done).all()
    assert measure.follows(z_teacher, shifted, views, done)[:, 0].tolist() == [False] * 3 + [True]
    assert measure.follows(z_teacher, shifted, views * 0, done).all()  # none can be told apart
    ends = torch.tensor([[True], [False], [False], [False]])
    found = measure.follows(z_teacher, shifted, views, ends)
    assert found[:, 0].tolist() == [True, False, False, True]


def test_fisher_by_hand():
    assert figures.fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)  # the lady tasting tea
    assert figures.fisher_exact(0, 20, 0, 20) == 1
    both_ends = 2 * math.comb(20, 5) / math.comb(40, 5)
    assert figures.fisher_exact(5, 20, 0, 20) == pytest.approx(both_ends)


def test_the_optimum_ends_where_success_falls():
    success = {"0": 0.5, "0.1": 0.97, "1": 0.99, "10": 0.96, "30": 0.3}
    rows = [dict(variant=k, success_student=str(v)) for k, v in success.items()]
    near, sentence = figures.optimum(rows)
    assert near == ["0.1", "1", "10"] and "a factor of 100, at an end" in sentence


def test_runs_are_reported_with_their_measures_and_redrawn_from_the_csv(tmp_path, monkeypatch):
    def train_all(configs, jobs, module):
        for config in configs:
            tsalign.train(config)
        return {}

    small = dict(SMALL, total_steps=64, log_evals=2, log_episodes=4, eval_episodes=4)
    monkeypatch.setitem(tsalign.ENV_SETTINGS, "tunnelvision", small)
    monkeypatch.setattr(ablations, "run_many", train_all)
    monkeypatch.setattr(measure, "NUM_ENVS", 4)
    monkeypatch.setattr(measure, "STEPS", 16)
    folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path)]
    arguments = ["align", "--seeds", "0", "--envs", "tunnelvision", *folders]
    for more in ([], ["--report"]):
        with pytest.raises(SystemExit) as end:
            ablations.main(arguments + more)
        assert end.value.code == 0
    rows = {row["variant"]: row for row in read_csv(tmp_path / "align.csv")}
    assert list(rows) == "0 0.1 0.3 1 3 10 30".split() and rows["0"]["method"] == "no-align"
    for row in rows.values():
        parts = [float(row[key]) for key in ("offset", "linear", "rest")]
        assert min(parts) > -1e-6 and sum(parts) == pytest.approx(float(row["distance"]), abs=1e-6)
        assert bool(row["nearest"]) == (row["variant"] == "0")
    assert "| tunnelvision | ours | 0.3 | 1 |" in (tmp_path / "align.md").read_text()
    assert (tmp_path / "align.png").exists()


@pytest.mark.parametrize("question", ablations.SEEDS)
def test_the_tables_here_follow_from_their_csvs(question, tmp_path):
    here = Path(figures.__file__).parent
    text = figures.report(question, read_csv(here / f"{question}.csv"), tmp_path)
    assert text == (here / f"{question}.md").read_text(encoding="utf-8")
    assert (tmp_path / f"{question}.png").stat().st_size > 10_000


@pytest.mark.parametrize("arguments", [["nosuch"], ["--jobs", "0"], ["sitt", "--report"]])
def test_bad_input_is_one_line(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        ablations.main([*arguments, "--results", str(tmp_path)])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
