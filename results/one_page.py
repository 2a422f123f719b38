"""The method of arXiv 2605.28372 on one page: TunnelVision, in half a minute.

    python results/one_page.py

tsalign.py is the same with other environments, the baselines, and all settings as flags.
Shapes: T steps, N environments, B minibatch, D embedding, A actions.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

sys.path.append(str(Path(__file__).parents[1]))
from tunnelvision import TunnelVisionVectorEnv  # noqa: E402

TOTAL_STEPS = 780_000
N = 256  # environments
T = 16  # steps of each in a cycle
D = 64  # size of the embedding
WIDTH = 128
GAMMA = 0.99
GAE_LAMBDA = 0.95
CLIP = 0.2
ENTROPY_BONUS = 0.3  # at first
LAMBDA_ALIGN = 80.0
LAMBDA_STAB = 0.3
Z_NOISE = 0.3  # length of the noise on the policy's z in training; z has length 1
ENCODER_UPDATES = 16  # in a cycle
LOOK_EVERY = 48  # one step in so many, on average, gives its pairs of views
MEMORY = 8192  # pairs of views


def info_nce_loss(z_teacher, z_student, inverse_temperature):  # (B, D), (B, D), () -> ()
    """Eq. (6): of all views of the other agent, the partner should be the most similar."""
    similarity = inverse_temperature * z_teacher @ z_student.T  # (B, B)
    partner = torch.arange(len(similarity))
    both = F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)
    return both / 2


def alignment_loss(z_teacher, z_student):  # (B, D), (B, D) -> ()
    """Eq. (7): both views of a step should have the same embedding."""
    return (1 - (z_teacher * z_student).sum(-1)).mean()


def stability_loss(logits, logits_before):  # (2 B, A), (2 B, A) -> ()
    """Eq. (8): the policy's logits, on both views, should stay as they were."""
    return F.mse_loss(logits, logits_before)


def network(n_in, n_out):
    """Three linear layers."""
    hidden = [nn.Linear(n_in, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, n_out))


def embed(encoder, view):  # (..., n_in) -> (..., D)
    """An embedding of unit norm.

    Its entries are about 1 / sqrt(D), so `main` multiplies it by sqrt(D) for the policy.
    """
    return F.normalize(encoder(view), dim=-1)


def descend(optimizer, loss, max_norm=float("inf")):
    """One step of gradient descent."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)
    optimizer.step()


def main():
    """Train, then let both agents play."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    envs = TunnelVisionVectorEnv(N)
    obs, _ = envs.reset(seed=0)
    n_teacher = obs["teacher"].shape[1]
    n_student = obs["student"].shape[1]
    teacher = network(n_teacher, D)
    student = network(n_student, D)
    policy = network(D, 8)
    critic = network(n_teacher, 1)  # only training needs it: it sees what the teacher sees
    log_s = nn.Parameter(torch.tensor(30.0).log())  # s is Eq. (6)'s inverse temperature
    for layer, gain in [(0, 2**0.5), (2, 2**0.5), (4, 0.01)]:  # nearly uniform at first
        nn.init.orthogonal_(policy[layer].weight, gain)
        nn.init.zeros_(policy[layer].bias)
    ppo_parameters = [*policy.parameters(), *critic.parameters()]  # Section IV: no encoder
    encoder_parameters = [*teacher.parameters(), *student.parameters(), log_s]
    ppo_optimizer = torch.optim.Adam(ppo_parameters, betas=(0.9, 0.99))
    encoder_optimizer = torch.optim.Adam(encoder_parameters)
    memory_teacher = torch.empty(0, n_teacher)
    memory_student = torch.empty(0, n_student)
    next_look = T - 1  # in the first cycle, so that phase one has pairs at once

    n_cycles = TOTAL_STEPS // (N * T)
    for cycle in range(n_cycles):
        progress = cycle / n_cycles

        # The teacher acts for T steps. Now and then both views of a step are remembered.
        steps = []
        for t in range(cycle * T, (cycle + 1) * T):
            view = torch.tensor(obs["teacher"])
            if t == next_look:
                memory_teacher = torch.cat([memory_teacher, view])[-MEMORY:]
                view_student = torch.tensor(obs["student"])
                memory_student = torch.cat([memory_student, view_student])[-MEMORY:]
                next_look += rng.integers(1, 2 * LOOK_EVERY)  # LOOK_EVERY on average
            with torch.no_grad():
                z = embed(teacher, view)
                z += Z_NOISE / D**0.5 * torch.randn_like(z)  # drowns what is nearly hidden
                pi = Categorical(logits=policy(z * D**0.5))
                action = pi.sample()
            obs, reward, terminated, truncated, _ = envs.step(action.numpy())
            done = terminated | truncated
            outcome = [torch.tensor(x).float() for x in (reward, terminated, done)]
            next_view = torch.tensor(obs["teacher"])  # before any reset
            steps.append([view, next_view, z, action, pi.log_prob(action), *outcome])
            if done.any():
                obs, _ = envs.reset(options={"reset_mask": done})
        columns = [torch.stack(column) for column in zip(*steps)]  # (T, N, ...) each
        view, next_view, z, action, log_prob, reward, terminated, done = columns

        # Advantages (GAE). After a termination no reward follows, so the next value is 0;
        # after a truncation the critic's estimate stands for the rest.
        with torch.no_grad():
            value = critic(view).squeeze(-1)  # (T, N)
            next_value = critic(next_view).squeeze(-1) * (1 - terminated)
        delta = reward + GAMMA * next_value - value
        advantage = torch.zeros(T, N)
        running = torch.zeros(N)
        for t in reversed(range(T)):
            running = delta[t] + GAMMA * GAE_LAMBDA * (1 - done[t]) * running
            advantage[t] = running
        returns = (advantage + value).flatten()

        # Phase two of the paper: PPO on the stored embeddings. They carry no graph, so no
        # encoder moves. It comes before phase one, which makes these embeddings outdated.
        view = view.flatten(0, 1)  # (T*N, ...)
        z = z.flatten(0, 1)
        ppo_optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (1 - progress) / 0.2)
        for i in torch.randperm(T * N).split(256):
            pi = Categorical(logits=policy(z[i] * D**0.5))
            ratio = (pi.log_prob(action.flatten()[i]) - log_prob.flatten()[i]).exp()
            a = advantage.flatten()[i]
            a = (a - a.mean()) / (a.std() + 1e-8)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.minimum(ratio * a, clipped * a).mean()
            loss = loss + 0.5 * F.mse_loss(critic(view[i]).squeeze(-1), returns[i])
            loss = loss - ENTROPY_BONUS * (1 - progress) ** 3 * pi.entropy().mean()
            descend(ppo_optimizer, loss, max_norm=0.5)

        # Phase one: the encoders learn on remembered pairs, by Eq. (9). The weight of
        # Eq. (7) is 0 in the first fifth of training and full from the middle on.
        encoder_optimizer.param_groups[0]["lr"] = 1e-3 * (1 - 0.95 * progress)
        lambda_align = LAMBDA_ALIGN * min(max((progress - 0.2) / 0.3, 0), 1)
        minibatches = []
        while len(minibatches) < ENCODER_UPDATES:
            minibatches += torch.randperm(len(memory_teacher)).split(128)
        policy.requires_grad_(False)  # Eq. (8) runs through it but moves the encoders only
        logits_before = []  # Eq. (8): as they are before this phase changes the encoders
        for i in minibatches[:ENCODER_UPDATES]:
            with torch.no_grad():
                z_teacher = embed(teacher, memory_teacher[i])
                z_student = embed(student, memory_student[i])
                logits_before.append(policy(torch.cat([z_teacher, z_student]) * D**0.5))
        for i, before in zip(minibatches, logits_before):
            z_teacher = embed(teacher, memory_teacher[i])
            z_student = embed(student, memory_student[i])
            logits = policy(torch.cat([z_teacher, z_student]) * D**0.5)
            loss = info_nce_loss(z_teacher, z_student, log_s.exp())  # Eq. (9) begins
            loss = loss + lambda_align * alignment_loss(z_teacher, z_student)
            loss = loss + LAMBDA_STAB * stability_loss(logits, before)
            descend(encoder_optimizer, loss)
            log_s.data.clamp_(max=np.log(100))
        policy.requires_grad_(True)
        if cycle % 19 == 0:
            print(f"{cycle * T * N:7,} steps, mean reward {reward.mean():.3f}")

    # The student runs the teacher's policy on its own encoder.
    for name, encoder in {"teacher": teacher, "student": student}.items():
        test_envs = TunnelVisionVectorEnv(1000)
        obs, _ = test_envs.reset(seed=1)
        is_over = np.zeros(1000, bool)
        has_won = np.zeros(1000, bool)
        while not is_over.all():
            with torch.no_grad():
                z = embed(encoder, torch.tensor(obs[name]))
                action = Categorical(logits=policy(z * D**0.5)).sample()
            obs, _, terminated, truncated, info = test_envs.step(action.numpy())
            has_won |= info["is_success"] & ~is_over
            is_over |= terminated | truncated
            obs, _ = test_envs.reset(options={"reset_mask": terminated | truncated})
        print(f"{name}: {has_won.mean():.3f} of 1,000 test episodes succeed")


if __name__ == "__main__":
    main()
