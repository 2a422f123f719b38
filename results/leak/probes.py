"""Conditional probing: what does z_T tell of private facts that the student does not see?

After Hewitt et al., 2021 (arXiv 2109.09234). Small networks learn to predict the private
facts of a step. All read the student's view and z_S, which is the same view digested. What
they read besides is their kind:

    nothing        z_T of another step, so only the student's view tells
    nothing again  the same with another start: how much equal probes differ by chance
    everything     the teacher's view: what can be told at all
    embedding      z_T

    leak = (bits(nothing) - bits(embedding)) / (bits(nothing) - bits(everything))

where bits are cross-entropies on steps that were not learned from. z_T comes with noise of
a tenth of its size: a map without noise loses nothing, so some probe could always read all.

Shapes: n steps, N environments, B batch, F facts, D embedding, V entries of view and z_S.
"""

import json
import math
import statistics
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tsalign
from results import lab
from tsalign import BadInput, to_tensor

KINDS = ("nothing", "nothing again", "everything", "embedding")
NOISE = 0.1  # standard deviation, where the entries of z_T have unit size
FOLDS = 5  # each is tested on once; the next says when to stop, three are learned from
NUM_ENVS = 128
STEPS = {"tunnelvision": 200, "collecthealth": 400}
WIDTH = 64
UPDATES = 1000
BATCH = 128
LEARNING_RATE = 3e-3
CHECKS = 5  # how often a probe is tested while it learns


class Steps(NamedTuple):
    """Steps of the acting teacher."""

    view: Tensor  # (n, V): the student's view and z_S
    difference: Tensor  # (n, D): z_T - z_S, in units in which the entries of z have size 1
    obs_teacher: Tensor  # (n, ...)
    facts: Tensor  # (n, F), 0 or 1
    is_private: Tensor  # (n, F): 0 where the student sees the fact
    fold: Tensor  # (n,)


def unseen_cells(obs_teacher: Tensor):  # (n, R*C + 21) -> (n, 8), (n, 8)
    """TunnelVision: the eight cells clockwise from east, and which are not ahead."""
    heading = obs_teacher[:, -21:-17].argmax(1)  # before last action (9) and cells (8)
    turn = (torch.arange(8) - 2 * heading[:, None]) % 8  # 0 straight ahead, clockwise
    return (obs_teacher[:, -8:] > 0).float(), ((turn > 1) & (turn < 7)).float()


def unseen_box(obs_teacher: Tensor):  # (n, 6 * K + 8) -> (n, 3), (n, 3)
    """CollectHealth: is the nearest box left of the picture, behind, or right of it?"""
    present, ahead, left = obs_teacher[:, :3].T  # boxes come nearest first
    sides = torch.stack([left > ahead.abs(), -ahead >= left.abs(), -left > ahead.abs()], 1)
    return (sides & (present[:, None] > 0)).float(), torch.ones(len(sides), 3)


PRIVATE = {"tunnelvision": unseen_cells, "collecthealth": unseen_box}


def fold_of(env: str, envs) -> np.ndarray:  # -> (N,)
    """The part of the data that each environment's next step belongs to.

    TunnelVision: the sum of the rows of the tunnel between its bends, modulo 5. Of the
    layouts with any two given rows a fifth is in each fold: all are of one distribution.
    """
    if env == "tunnelvision":
        rows = (~envs.unwrapped.blocked[:, 1:-1, 4:-2:2]).argmax(1)  # (N, bends)
        return rows.sum(1) % FOLDS
    return np.arange(NUM_ENVS) % FOLDS


@torch.no_grad()
def gather(env: str, nets) -> Steps:
    """Steps of the acting teacher."""
    torch.manual_seed(0)
    envs = tsalign.make_envs(env, NUM_ENVS)
    obs = tsalign.reset_envs(envs, seed=10_000)
    parts = []
    for _ in range(STEPS[env]):
        obs_teacher = to_tensor(obs["teacher"], "cpu")
        obs_student = to_tensor(obs["student"], "cpu")
        z_student = nets.student(obs_student)
        difference = nets.teacher(obs_teacher) - z_student
        unit = difference.shape[1] ** 0.5
        if obs_student.dtype == torch.uint8:  # one channel tells the room's colours apart
            obs_student = obs_student[..., 0].float() / 127.5 - 1
        facts, is_private = PRIVATE[env](obs_teacher)
        part = Steps(
            view=torch.cat([obs_student.flatten(1), unit * z_student], 1),
            difference=unit * difference,
            obs_teacher=obs_teacher,
            facts=facts,
            is_private=is_private,
            fold=torch.tensor(fold_of(env, envs)),
        )
        parts.append(part)
        action = nets.distribution("teacher", obs_teacher).sample()
        obs, _, terminated, truncated, _ = tsalign.step_envs(envs, action)
        if (terminated | truncated).any():
            obs = tsalign.reset_envs(envs, ended=terminated | truncated)
    return Steps(*map(torch.cat, zip(*parts)))


def read(
    kind: str, steps: Steps, size: Tensor, i: Tensor
) -> Tensor:  # (D,), (B,) -> (B, .)
    """What a probe reads at steps i. z_T has fresh noise.

    It is read as its difference from z_S, divided by its size. To a network that reads z_S
    as well this is the same, but small differences are found in a tenth of the time.
    """
    if kind == "everything":
        return torch.cat([steps.view[i], steps.obs_teacher[i].flatten(1)], 1)
    whose = i if kind == "embedding" else i[torch.randperm(len(i))]
    difference = steps.difference[whose]
    noisy = difference + NOISE * torch.randn_like(difference)
    return torch.cat([steps.view[i], noisy / size], 1)


def train_probe(kind: str, steps: Steps, fold: int) -> float:
    """Bits on the fold when they were fewest on the next one; it learns from the others."""
    torch.manual_seed(fold + 100 if kind == "nothing again" else fold)
    ahead = (steps.fold - fold) % FOLDS
    test = (ahead == 0).nonzero()[:, 0]
    stop = (ahead == 1).nonzero()[::4, 0]  # a part is enough
    learn = (ahead > 1).nonzero()[:, 0]
    batches = learn[torch.randint(len(learn), (UPDATES, BATCH))]
    size = (steps.difference.var(0) + NOISE**2).sqrt()
    n_view = steps.view.shape[1]
    n_inputs = read(kind, steps, size, test[:1]).shape[1]
    probe = nn.Sequential(
        nn.Linear(n_inputs, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, steps.facts.shape[1]),
    )
    with torch.no_grad():  # what is read besides the view has no effect at first
        probe[0].weight[:, n_view:] = 0

    def bits(i: Tensor) -> Tensor:  # (B,) -> ()
        """Cross-entropy in bits, summed over the private facts of a step."""
        logits = probe(read(kind, steps, size, i))
        off = F.binary_cross_entropy_with_logits(logits, steps.facts[i], reduction="none")
        return (off * steps.is_private[i]).sum(1).mean() / math.log(2)

    optimizer = torch.optim.Adam(probe.parameters(), LEARNING_RATE, fused=True)
    best = math.inf
    for update, i in enumerate(batches):
        tsalign.set_rate(optimizer, LEARNING_RATE * (1 - update / UPDATES))
        tsalign.take_step(optimizer, bits(i))
        if (update + 1) % (UPDATES // CHECKS) == 0:
            with torch.no_grad():
                now = bits(stop).item()
                if now < best:
                    best = now
                    tested = bits(test).item()
    return tested


def checksum(folder: Path) -> int:
    """Of the weights: tells a run from another one of the same settings."""
    return zlib.crc32((folder / "checkpoint.pt").read_bytes())


def measure(folder: Path) -> None:
    """Measure one run and write `leak.json` into its folder."""
    torch.set_num_threads(1)
    config, nets = tsalign.load_run(folder)
    steps = gather(config.env, nets)
    bits = {}
    for kind in KINDS:
        bits[kind] = np.array([train_probe(kind, steps, fold) for fold in range(FOLDS)])
    private_bits = (bits["nothing"] - bits["everything"]).mean()
    row = {"checkpoint": checksum(folder), "private_bits": private_bits}
    for name, kind in (("leak", "embedding"), ("control", "nothing again")):
        share = ((bits["nothing"] - bits[kind]) / private_bits).tolist()  # of each fold
        row[name] = statistics.mean(share)
        row[f"{name}_interval"] = lab.interval(share)
    tsalign.write_at_once(folder / "leak.json", json.dumps(row, indent=2) + "\n")


def read_leak(folder: Path) -> dict:
    """What `measure` wrote; empty where it did not, or where the run is a new one.

    Raises BadInput where there is no run, or one of an environment without private facts.
    """
    config, _ = tsalign.load_run(folder)
    if config.env not in PRIVATE:
        raise BadInput(f"{folder}: private facts are defined of {', '.join(PRIVATE)} alone")
    path = folder / "leak.json"
    row = json.loads(path.read_text()) if path.exists() else {}
    return row if row.get("checkpoint") == checksum(folder) else {}


def measure_missing(folders: list[Path], jobs: int) -> dict[Path, str]:
    """Measure the runs that have not been, `jobs` at once -> {folder: error}."""
    waiting = {folder: folder for folder in folders if not read_leak(folder)}
    print(f"{len(folders)} runs, {len(waiting)} of them to be measured", flush=True)
    return lab.run_many(measure, waiting, jobs)
