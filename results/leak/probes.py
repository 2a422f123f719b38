"""Conditional probing: what does z_T tell of the private facts that the student's view does not?

Hewitt et al., 2021 (arXiv 2109.09234). Every probe reads the student's view, and z_S, which is the
same view digested (it adds nothing, but spares the probe to learn to see). In what else it reads
probes differ: see `INPUTS`. z_T comes with noise: a map without noise loses nothing, so that some
probe, trained for long enough, could always read everything; with noise the answer is a number.
Shapes: n steps, B batch, K inputs, P = FOLDS * K probes, F facts, D embedding, V entries of what
all probes read, E of what they differ in.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsalign import descend

NOISE = (0.03, 0.1, 0.3, 1.0)  # standard deviations, where the entries of z_T have unit size
LEVEL = 0.1  # the one reported: noise a tenth as long as z_T
INPUTS = ("shuffled", "shuffled again", "teacher", *NOISE)  # what a probe reads besides the view
FOLDS = 5  # each is tested on once, with the next one to stop by and the other three to learn from
WIDTH, UPDATES, BATCH, LEARNING_RATE, CHECKS = 64, 1000, 128, 3e-3, 5


class Steps(NamedTuple):
    """Steps of the teacher, each distinct one once."""

    view: Tensor  # (n, V): the student's view and z_S
    difference: Tensor  # (n, D): z_T - z_S, in units in which their entries have size 1
    variance: Tensor  # (D,) of it
    obs_teacher: Tensor  # (n, ...)
    facts: Tensor  # (n, F), 0 or 1
    private: Tensor  # (n, F): 1 where the student does not see the fact, 0 where it does not count
    weight: Tensor  # (n,): how often the step occurred
    fold: Tensor  # (n,)


class Probes(nn.Module):
    """P networks of one size, side by side.

    Those of one fold start equal, but for "shuffled again". What they differ in starts without
    effect: a probe that it tells nothing need not learn to ignore it.
    """

    def __init__(self, n_view: int, n_extra: int, n_facts: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        start = [int(name == "shuffled again") for name in INPUTS]
        sizes = [n_view + n_extra, WIDTH, WIDTH, n_facts]
        for n_in, n_out in zip(sizes, sizes[1:]):
            weight = (2 * torch.rand(FOLDS, 2, n_in, n_out) - 1)[:, start] / n_in**0.5
            if n_in == sizes[0]:
                weight[:, :, n_view:] = 0
            self.weights.append(nn.Parameter(weight.flatten(0, 1)))
            self.biases.append(nn.Parameter(torch.zeros(FOLDS * len(INPUTS), 1, n_out)))

    def forward(self, x: Tensor, which: slice = slice(None)) -> Tensor:  # (P, B, V+E) -> (P, B, F)
        """Each probe's logits on its own inputs; `which` names the probes that x is for."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias[which], x.relu() if layer else x, weight[which])
        return x


def read(steps: Steps, i: Tensor) -> Tensor:  # (B,) -> (K, B, V + E)
    """What each input gives to read at steps i, with fresh noise.

    z_T is read as its difference from z_S, at unit size: to a network that reads z_S as well this
    is the same, but small differences are found in a tenth of the time.
    """

    def noisy(j: Tensor, noise: float) -> Tensor:  # (B,) -> (B, D)
        z = steps.difference[j] + noise * torch.randn(len(j), steps.difference.shape[1])
        return z / (steps.variance + noise**2).sqrt()

    shuffled = [noisy(i[torch.randperm(len(i))], LEVEL) for _ in range(2)]
    extra = [*shuffled, steps.obs_teacher[i].flatten(1), *(noisy(i, noise) for noise in NOISE)]
    width = max(x.shape[1] for x in extra)
    extra = torch.stack([F.pad(x, (0, width - x.shape[1])) for x in extra])
    return torch.cat([steps.view[i].expand(len(INPUTS), -1, -1), extra], dim=2)


def bits(logits: Tensor, steps: Steps, i: Tensor) -> Tensor:  # (P, B, F), (P, B) -> (P, B)
    """Cross-entropy in bits, summed over the facts of a step that are private."""
    off = F.binary_cross_entropy_with_logits(logits, steps.facts[i], reduction="none")
    return (off * steps.private[i]).sum(-1) / math.log(2)


@torch.no_grad()
def score(probes: Probes, steps: Steps, part: Tensor, fold: int) -> Tensor:  # (m,) -> (K,)
    """Mean bits of one fold's probes over the steps `part`."""
    total, which = 0, slice(fold * len(INPUTS), (fold + 1) * len(INPUTS))
    for i in part.split(4096):
        off = bits(probes(read(steps, i), which), steps, i.expand(len(INPUTS), -1))
        total = total + (off * steps.weight[i]).sum(1)
    return total / steps.weight[part].sum()


def cross_entropies(steps: Steps, updates: int = UPDATES) -> Tensor:  # -> (FOLDS, K)
    """Train all probes; bits a step of each on its unseen fold, when it was best on `stop`."""
    torch.manual_seed(0)
    after = [(steps.fold - fold) % FOLDS for fold in range(FOLDS)]
    test, stop = ([(a == k).nonzero()[:, 0] for a in after] for k in (0, 1))
    learn = [(a > 1).nonzero()[:, 0] for a in after]
    draws = [part[torch.multinomial(steps.weight[part], updates * BATCH, replacement=True)]
             .view(updates, BATCH) for part in learn]  # fmt: skip
    n_extra = read(steps, test[0][:1]).shape[2] - steps.view.shape[1]
    probes = Probes(steps.view.shape[1], n_extra, steps.facts.shape[1])
    optimizer = torch.optim.Adam(probes.parameters(), LEARNING_RATE, fused=True)
    best = torch.full((2, FOLDS, len(INPUTS)), math.inf)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / updates)
        batches = [draw[update] for draw in draws]
        x = torch.cat([read(steps, i) for i in batches])  # (P, B, V + E)
        i = torch.stack(batches).repeat_interleave(len(INPUTS), 0)  # (P, B)
        descend(optimizer, bits(probes(x), steps, i).mean(1).sum())
        if (update + 1) % (updates // CHECKS) == 0:
            for fold in range(FOLDS):
                now = torch.stack([score(probes, steps, p[fold], fold) for p in (stop, test)])
                better = now[0] < best[0, fold]
                best[:, fold, better] = now[:, better]
    return best[1]
