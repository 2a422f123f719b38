"""What the two embeddings of a finished run have in common, on fresh rollouts of its teacher."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tsalign import collect, load_run, make_envs, play_episodes

NUM_ENVS, STEPS, BATCH, EACH, AROUND = 64, 64, 128, 4, 8  # EACH episodes of NUM_ENVS


def follows(z_teacher: Tensor, z_student: Tensor, views: Tensor, done: Tensor) -> Tensor:
    """Whether z_S is nearer to z_T of its own step than to those around: (T, N, ...) -> (T, N).

    Those are up to `AROUND` before and after, in the same episode, if the student's view differs.
    """
    episode, own = done.cumsum(0) - done.long(), (z_teacher * z_student).sum(-1)
    found = torch.ones_like(done)
    for k in range(1, min(AROUND + 1, len(done))):
        counts = (episode[k:] == episode[:-k]) & (views[k:] != views[:-k]).any(-1)
        found[k:] &= ~counts | ((z_student[k:] * z_teacher[:-k]).sum(-1) < own[k:])
        found[:-k] &= ~counts | ((z_student[:-k] * z_teacher[k:]).sum(-1) < own[:-k])
    return found


def total_variation(logits_a: Tensor, logits_b: Tensor) -> Tensor:  # (..., A) each -> (...)
    """Distance of two policies: 0 if they are the same, 1 if they never do the same."""
    return (logits_a.softmax(-1) - logits_b.softmax(-1)).abs().sum(-1) / 2


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """The measures that `figures.MEANS` explains, kept in `measured.json` of the run folder."""
    path = Path(folder) / "measured.json"
    if path.exists() and path.stat().st_mtime > (path.parent / "result.json").stat().st_mtime:
        return json.loads(path.read_text())
    config, nets = load_run(folder)
    torch.manual_seed(0)
    envs = make_envs(config.env, NUM_ENVS)
    _, obs = collect(envs, envs.reset(seed=20_000)[0], nets, STEPS // 2)  # away from the start
    rollout, _ = collect(envs, obs, nets, STEPS)  # (T, N, ...)
    z_student = nets.student(rollout.obs_student.flatten(0, 1)).view_as(rollout.z_teacher)
    found = follows(rollout.z_teacher, z_student, rollout.obs_student.flatten(2), rollout.done)
    changes = total_variation(rollout.logits_teacher[1:], rollout.logits_teacher[:-1])
    row = {"follows": found.float().mean(), "changes": changes[~rollout.done[:-1]].mean()}
    row["disagreement"] = total_variation(rollout.logits_teacher, nets.policy(z_student)).mean()

    z_teacher, z_student = rollout.z_teacher.flatten(0, 1), z_student.flatten(0, 1)  # (T*N, D)
    batches = torch.randperm(len(z_teacher)).split(BATCH)
    similarity = [z_teacher[i] @ z_student[i].T for i in batches]
    match = torch.cat([s.diagonal() > s.amax(1) - 1e-4 for s in similarity])  # as in training
    ones = torch.ones(len(z_student), 1)
    linear = torch.linalg.lstsq(torch.cat([z_student, ones], 1), z_teacher).solution  # (D + 1, D)

    def mapped(z: Tensor) -> Tensor:  # (B, D) -> (B, D)
        return torch.cat([z, ones[: len(z)]], 1) @ linear

    # Of unit vectors 1 - cosine is half the squared distance, and a mean of squares splits.
    distance = (z_teacher - z_student).square().sum(-1).mean() / 2
    offset = (z_teacher - z_student).mean(0).square().sum() / 2
    rest = (z_teacher - mapped(z_student)).square().sum(-1).mean() / 2
    row |= dict(match=match.float().mean(), distance=distance, offset=offset, rest=rest)
    row |= {"linear": distance - offset - rest}
    repairs = {"mapped": lambda z: F.normalize(mapped(z), dim=-1),
               "nearest": lambda z: z_teacher[(z @ z_teacher.T).argmax(1)]}  # fmt: skip
    for name, repair in repairs.items() if config.lambda_align == 0 else ():
        hook = nets.student.register_forward_hook(lambda module, obs, z, repair=repair: repair(z))
        _, success = play_episodes(envs, nets, "student", EACH, 30_000, config.episode_limit)
        row[name] = success.mean()
        hook.remove()
    row = {key: float(value) for key, value in row.items()}
    path.write_text(json.dumps(row, indent=2) + "\n")
    return row
