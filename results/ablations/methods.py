"""Rows of METHODS for the ablations; a sweep runs each as `python -m results.ablations.methods`."""

import copy
import math
from functools import partial

import torch
from torch import Tensor
from torch.optim import Adam

import tsalign
from tsalign import METHODS, NO_EQ_10, Config, Method, Networks, Rollout, train_embedding


def train_measured(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config) -> dict:
    """`train_embedding`, and how far it moves the two views of the cycle's own steps.

    "moved_z" is the mean of 1 - cosine, before and after; "moved_logits" the mean absolute change
    of the policy's raw logits. No random number is drawn, so the run itself stays the same.
    """
    steps = rollout.flat()

    @torch.no_grad()
    def embed() -> tuple[Tensor, Tensor]:  # -> (2*T*N, D), (2*T*N, A)
        z = [nets.teacher(obs) for obs in steps.obs_teacher.split(1024)]
        z = torch.cat(z + [nets.student(obs) for obs in steps.obs_student.split(1024)])
        return z, nets.policy(z)

    z_before, logits_before = embed()
    losses = train_embedding(nets, optimizer, rollout, config)
    z, logits = embed()
    losses["moved_z"] = (1 - (z * z_before).sum(-1)).mean().item()
    return losses | {"moved_logits": (logits - logits_before).abs().mean().item()}


def nearby(done: Tensor, window: int) -> Tensor:  # (T, N) -> (T, N)
    """For each step one within +-window in its episode and rollout, all of them equally likely."""
    n = len(done)
    t = torch.arange(n, device=done.device)[:, None].expand_as(done)
    begins = torch.cat([torch.zeros_like(done[:1]), done[:-1]])
    first = (t * begins).cummax(0).values  # of this episode in this rollout; below, the last
    last = n - 1 - ((n - 1 - t) * done).flip(0).cummax(0).values.flip(0)
    low, high = torch.maximum(t - window, first), torch.minimum(t + window, last)
    return low + (torch.rand(done.shape, device=done.device) * (high - low + 1)).long()


def train_near_positives(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config,
                         window: int, align_near: bool) -> dict:  # fmt: skip
    """`train_embedding`, but in Eq. (6) the partner of z_T is z_S of a step up to `window` away.

    Eq. (7) takes the same pairs with `align_near`, otherwise pairs of one step. Eq. (8) is as ever.
    """
    before = copy.deepcopy(nets).requires_grad_(False)  # as in `train_embedding`
    steps, logs, n_envs = rollout.flat(), [], rollout.done.shape[1]
    batches = tsalign.minibatches(steps, config.encoder_batch, config.encoder_epochs)
    columns = torch.arange(n_envs, device=rollout.done.device)
    near = (nearby(rollout.done, window) * n_envs + columns).flatten()  # (T*N,): which flat step
    for i in batches:
        z_teacher = nets.teacher(steps.obs_teacher[i])
        obs_student, obs_near = (steps.obs_student.index_select(0, k) for k in (i, near[i]))
        z_student, z_near = nets.student(obs_student), nets.student(obs_near)
        z_before = steps.z_teacher[i], before.student(obs_student)
        nce = tsalign.info_nce_loss(z_teacher, z_near, nets.log_inverse_temperature.exp())
        align = tsalign.alignment_loss(z_teacher, z_near if align_near else z_student)
        stab = tsalign.stability_loss(*map(before.policy, (z_teacher, z_student, *z_before)))
        loss = tsalign.embedding_loss(nce, align, stab, config.lambda_align, config.lambda_stab)
        tsalign.descend(optimizer, loss)
        with torch.no_grad():
            nets.log_inverse_temperature.clamp_(max=math.log(100.0))
        logs.append({"info_nce": nce, "align": align, "stab": stab})
    return tsalign.mean_of(logs)


def train_fixed_sharpness(nets: Networks, optimizer: Adam, rollout: Rollout,
                          config: Config) -> dict:  # fmt: skip
    """`train_embedding` with the inverse temperature of Eq. (6) kept where it starts."""
    nets.log_inverse_temperature.requires_grad_(False)
    return train_embedding(nets, optimizer, rollout, config)


def train_constant_rate(nets: Networks, optimizer: Adam, rollout: Rollout, config: Config) -> dict:
    """`train_embedding` with a learning rate that does not fall, as the training loop lets it."""
    optimizer.param_groups[0]["lr"] = config.encoder_lr
    return train_embedding(nets, optimizer, rollout, config)


WINDOWS = (1, 2, 4)
ROWS = {
    "ours-measured": Method(train_measured, NO_EQ_10),
    "no-stability-measured": Method(train_measured, METHODS["no-stability"].settings),
    "no-align-fixed": Method(train_fixed_sharpness, METHODS["no-align"].settings),
    "no-align-constant": Method(train_constant_rate, METHODS["no-align"].settings),
}
for k in WINDOWS:
    for name, align_near in ((f"positives-{k}", True), (f"positives-{k}-eq6", False)):
        train = partial(train_near_positives, window=k, align_near=align_near)
        ROWS[name] = Method(train, NO_EQ_10)

if __name__ == "__main__":
    METHODS.update(ROWS)
    tsalign.main()
