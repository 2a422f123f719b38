"""One run -> its row of leak.csv: private facts, steps of the acting teacher, figures.

Shapes: n steps, N environments, K boxes, F facts.
"""

import json
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from results.leak.probes import FOLDS, INPUTS, LEVEL, NOISE, Steps, cross_entropies
from results.sweep import mean_sd_interval, settings_of
from tsalign import BadInput, Config, collect, load_run, make_envs, play_episodes

NUM_ENVS, STEPS, EPISODES = 128, {"tunnelvision": 200, "collecthealth": 400}, 256
WHICH = ["env", "method", "settings", "seed"]
FIGURES = ["leak", "leak_interval", "control", "control_interval", "private_bits", "leaked_bits"]
FIGURES += [*(f"leak_{noise}" for noise in NOISE), *(f"success_{noise}" for noise in (0.0, *NOISE))]
FIGURES += ["distance", "success_student"]


def unseen_cells(obs_teacher: Tensor) -> tuple[Tensor, Tensor]:  # (n, R*C + 21) -> (n, 8) twice
    """TunnelVision: the eight cells clockwise from east, and which of them are not ahead."""
    heading = obs_teacher[:, -21:-17].argmax(1)  # before the last action (9) and the cells (8)
    turn = (torch.arange(8) - 2 * heading[:, None]) % 8  # 0 straight ahead, clockwise
    return (obs_teacher[:, -8:] > 0).float(), ((turn > 1) & (turn < 7)).float()


def unseen_box(obs_teacher: Tensor) -> tuple[Tensor, Tensor]:  # (n, 6 * K + 8) -> (n, 3) twice
    """CollectHealth: is the nearest box left of the picture, behind it, or right of it?"""
    present, x, y = obs_teacher[:, :3].T  # the boxes come nearest first
    sides = torch.stack([y > x.abs(), -x >= y.abs(), -y > x.abs()], 1)  # the picture: 90 degrees
    return (sides & (present[:, None] > 0)).float(), torch.ones(len(sides), 3)


PRIVATE = {"tunnelvision": unseen_cells, "collecthealth": unseen_box}


def fold_of(config: Config, envs) -> np.ndarray:  # -> (N,)
    """The part of the data each environment's next step belongs to.

    TunnelVision: the sum of the rows of the tunnel between its bends, modulo 5. Of the layouts with
    any two given rows a fifth is in each fold, so the folds are of one distribution.
    """
    if config.env == "tunnelvision":
        rows = (~envs.unwrapped.blocked[:, 1:-1, 4:-2:2]).argmax(1)  # (N, bends), in odd columns
        return rows.sum(1) % FOLDS
    return np.arange(NUM_ENVS) % FOLDS


@torch.no_grad()
def gather(config: Config, nets) -> tuple[Steps, float]:
    """Steps of the acting teacher for the probes, and the mean length of z_T - z_S."""
    torch.manual_seed(0)
    envs = make_envs(config.env, NUM_ENVS)
    obs, _ = envs.reset(seed=10_000)
    rollouts, folds = [], []
    for _ in range(STEPS[config.env]):
        folds.append(torch.tensor(fold_of(config, envs)))
        rollout, obs = collect(envs, obs, nets, 1)
        rollouts.append(rollout.flat())
    teacher, student = (torch.cat([getattr(r, f"obs_{a}") for r in rollouts])
                        for a in ("teacher", "student"))  # fmt: skip
    fold = torch.cat(folds)
    key = torch.cat([teacher, fold[:, None]], 1).numpy()
    _, first, counts = np.unique(key, axis=0, return_index=True, return_counts=True)
    teacher, student, fold = teacher[first], student[first], fold[first]
    z_student = torch.cat([nets.student(obs) for obs in student.split(4096)])
    difference = nets.teacher(teacher) - z_student
    unit = difference.shape[1] ** 0.5
    if student.dtype == torch.uint8:  # red alone tells all colours of the room apart
        student = student[..., 0].float() / 127.5 - 1
    view = torch.cat([student.flatten(1), unit * z_student], 1)
    scaled = unit * difference
    facts, private = PRIVATE[config.env](teacher)
    weight = torch.tensor(counts, dtype=torch.float32)
    steps = Steps(view, scaled, scaled.var(0), teacher, facts, private, weight, fold)
    return steps, float((difference.norm(dim=1) * weight).sum() / weight.sum())


class Noisy:
    """A teacher that acts on z_T with noise."""

    def __init__(self, nets, noise: float) -> None:
        self.nets, self.noise, self.parameters = nets, noise, nets.parameters

    def distribution(self, agent: str, obs: Tensor):
        """As `Networks.distribution`, of the teacher."""
        z = self.nets.teacher(obs)
        z = z + self.noise * torch.randn_like(z) / z.shape[-1] ** 0.5
        return self.nets.policy.distribution(self.nets.policy(z))


def checksum(folder: Path) -> int:
    """Of the weights: tells a run from another one of the same settings. Raises BadInput."""
    try:
        return zlib.crc32((Path(folder) / "checkpoint.pt").read_bytes())
    except OSError:
        raise BadInput(f"no finished run in {folder}") from None


def measure(folder: Path) -> dict:
    """One row of leak.csv. Raises BadInput for an environment without private facts here."""
    config, nets = load_run(folder)
    if config.env not in PRIVATE:
        raise BadInput(f"{folder}: private facts are defined for {', '.join(PRIVATE)} only")
    row = dict(env=config.env, method=config.method, settings=settings_of(asdict(config)))
    row |= dict(seed=config.seed, checkpoint=checksum(folder))
    result = json.loads((Path(folder) / "result.json").read_text())
    row["success_student"] = result["success_student"]
    steps, row["distance"] = gather(config, nets)
    bits = dict(zip(INPUTS, cross_entropies(steps).T.tolist()))  # each (FOLDS,)
    before = np.array(bits["shuffled"])
    row["private_bits"] = (before - bits["teacher"]).mean()
    row["leaked_bits"] = (before - bits[LEVEL]).mean()
    share = {name: mean_sd_interval([*(before - bits[name]) / row["private_bits"]])
             for name in INPUTS}  # fmt: skip
    for name, of in (("leak", LEVEL), ("control", "shuffled again")):
        row[name], _, row[f"{name}_interval"] = share[of]
    row |= {f"leak_{noise}": share[noise][0] for noise in NOISE}
    envs = make_envs(config.env, NUM_ENVS)
    for noise in (0.0, *NOISE):
        played = EPISODES // NUM_ENVS, 20_000, config.episode_limit
        _, success = play_episodes(envs, Noisy(nets, noise), "teacher", *played)
        row[f"success_{noise}"] = success.mean()
    return row
