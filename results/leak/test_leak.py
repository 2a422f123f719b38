"""Does the leak come out as it must, where it can be computed by other means?"""

import math

import numpy as np
import pytest
import torch

import tsalign
from results.leak import __main__ as leak
from results.leak import measure, probes, report
from results.leak.probes import INPUTS, LEVEL, Steps
from results.sweep import read_csv, settings_of
from tsalign import Config, make_envs

TINY = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16, total_steps=64)
TINY |= dict(eval_episodes=4, log_episodes=4, log_evals=1)


def leaks(monkeypatch, make_difference) -> dict:
    """{input: leak} of 2 private coins, of which z_T tells what `make_difference` takes of them."""
    for name, value in dict(WIDTH=32, CHECKS=1, LEARNING_RATE=1e-2).items():
        monkeypatch.setattr(probes, name, value)
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    view, coins = (2 * torch.randint(2, (1500, 2), generator=draw).float() - 1 for _ in range(2))
    z = make_difference(coins, draw)
    every = torch.ones_like(coins)
    steps = Steps(view, z, z.var(0), torch.cat([view, coins], 1), (coins + 1) / 2, every,
                  every[:, 0], torch.arange(1500) % probes.FOLDS)  # fmt: skip
    bits = dict(zip(INPUTS, probes.cross_entropies(steps, 80).mean(0).tolist()))
    assert bits["shuffled"] == pytest.approx(2, abs=0.03) and bits["teacher"] < 0.02
    return {k: (bits["shuffled"] - v) / (bits["shuffled"] - bits["teacher"])
            for k, v in bits.items()}  # fmt: skip


def capacity(size: float, noise: float) -> float:
    """Bits that are left of a coin of +-size under Gaussian noise, by integration."""
    y = np.linspace(-size - 8 * noise, size + 8 * noise, 20_001)
    density = np.exp(-((y - size) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    loss = np.log2(1 + np.exp(-2 * size * y / noise**2))
    return 1 - float((density * loss).sum() * (y[1] - y[0]))


def test_one_coin_of_two_leaks_as_much_as_the_noise_leaves_of_it(monkeypatch):
    found = leaks(monkeypatch, lambda coins, draw: 0.1 * coins[:, :1])
    for noise in probes.NOISE:
        assert found[noise] == pytest.approx(capacity(0.1, noise) / 2, abs=0.04)
    assert capacity(0.1, LEVEL) == pytest.approx(0.486, abs=1e-3)


def test_noise_tells_nothing_and_the_teachers_view_all(monkeypatch):
    nothing = leaks(monkeypatch, lambda c, draw: torch.randn(len(c), 8, generator=draw))
    assert all(abs(nothing[k]) < 0.02 for k in ("shuffled again", *probes.NOISE))
    all_of_it = leaks(monkeypatch, lambda coins, draw: coins)
    assert all_of_it[LEVEL] == pytest.approx(1, abs=0.03)
    assert abs(all_of_it["shuffled again"]) < 0.02


def test_private_cells_by_hand_the_ones_ahead_do_not_count():
    obs = -torch.ones(2, 66)
    obs[:, -21:-17] = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]])  # facing east, north
    obs[:, -8:] = torch.tensor([1, 1, -1, -1, 1, -1, -1, -1])  # E SE . . W . . .
    facts, private = measure.unseen_cells(obs)
    assert facts.tolist() == [[1, 1, 0, 0, 1, 0, 0, 0]] * 2
    assert private.tolist() == [[0, 0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0]]


def test_private_cells_are_those_that_the_students_view_lacks():
    envs = make_envs("tunnelvision", 64)
    obs, _ = envs.reset(seed=0)
    teacher = torch.tensor(obs["teacher"])
    facts, private = measure.unseen_cells(teacher)
    assert (private.sum(1) == 5).all()
    seen = [sorted(f[p == 0].tolist()) for f, p in zip(facts, private)]
    assert seen == [sorted(((x + 1) / 2).tolist()) for x in obs["student"][:, -3:]]


def test_the_nearest_box_by_its_bearing():
    envs = make_envs("collecthealth", 5)
    envs.reset(seed=0)
    room = envs.unwrapped
    room.position[:], room.first_heading[:], room.turns[:] = 4.0, 0.5, 0
    room.boxes[:] = 7.0, 7.0  # far off
    for i, bearing in enumerate((0.0, 100.0, 180.0, -90.0)):
        angle = 0.5 + math.radians(bearing)
        room.boxes[i, 3] = 4 + math.cos(angle), 4 + math.sin(angle)
    room.present[4] = False
    facts, private = measure.unseen_box(torch.tensor(room._observe()["teacher"]))
    assert facts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert (private == 1).all()


def test_folds_hold_different_layouts_and_any_two_bends_equally_often():
    envs = make_envs("tunnelvision", 1)
    folds = {}
    for seed in range(2000):
        envs.reset(seed=seed)
        rows = tuple((~envs.unwrapped.blocked[0, 1:-1, 4:-2:2]).argmax(0))
        folds[rows] = int(measure.fold_of(Config(), envs)[0])
    assert len(folds) == 125
    for fold in range(probes.FOLDS):
        layouts = np.array([rows for rows, f in folds.items() if f == fold])
        assert len(layouts) == 25
        for pair in ((0, 1), (1, 2), (0, 2)):
            assert len(np.unique(layouts[:, pair], axis=0)) == 25


def test_runs_are_measured_kept_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "STEPS", {"tunnelvision": 20, "collecthealth": 20})
    monkeypatch.setattr(measure, "EPISODES", measure.NUM_ENVS)
    monkeypatch.setattr(measure, "cross_entropies", lambda steps: torch.tensor(
        [[2.0, 1.9, 1.0, 1.2, 1.5, 1.8, 2.0]] * probes.FOLDS))  # fmt: skip
    monkeypatch.setattr(measure, "play_episodes", lambda *_: (np.zeros(4), np.array([1, 1, 1, 0])))
    monkeypatch.setattr(measure, "settings_of", lambda config: f"width={config['width']}")
    config = Config(out=tmp_path, **TINY)
    tsalign.train(config)
    row = measure.measure(config.folder)
    assert (row["leak"], row["control"]) == pytest.approx((0.5, 0.1))
    others = row["leak_0.3"], row["private_bits"], row["success_0.1"]
    assert others == pytest.approx((0.2, 1, 0.75))
    assert row["settings"] == "width=16"
    path = tmp_path / "leak.csv"
    monkeypatch.setattr(leak, "Pool", Sequential)
    leak.measure_all([config.folder], path, 1)
    leak.measure_all([config.folder], path, 1)
    assert "1 runs measured already, 0 to go" in capsys.readouterr().out
    assert len(read_csv(path)) == 1
    (tmp_path / "halve.csv").write_text(path.read_text().replace("tunnelvision", "collecthealth"))
    report.report(tmp_path)
    text = capsys.readouterr().out
    assert "| 1 | 0.50 (0.50 to 0.50) | +0.100, 0 of 1 within +- | 1.00 | 0.50 |" in text
    assert "| 1 | 0.50 (0.50 to 0.50) | 1.00 |" in text
    assert (tmp_path / "leak.png").exists() and (tmp_path / "halve.png").exists()


class Sequential:
    """A pool that works here and now."""

    def __init__(self, *_):
        self.imap = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_candidates_differ_from_ours_as_it_is_and_from_each_other(tmp_path):
    configs = leak.candidates([0], tmp_path)
    settings = [settings_of(vars(config)) for config in configs]
    assert settings[0] == "" and len(set(settings)) == len(settings) == len(leak.CANDIDATES)
    assert len({config.folder for config in configs}) == len(configs)


@pytest.mark.parametrize(
    "arguments, word", [(["--report", "--results", "nosuch"], "leak.csv"),
                        (["--jobs", "0"], "jobs"), (["nosuch"], "nosuch")],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, word, capsys):
    with pytest.raises(SystemExit) as end:
        leak.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and word in error
