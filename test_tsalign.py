"""Every test compares the code with something else: hand values, plain loops, a scripted player."""

import copy
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from torch.distributions import Categorical, Independent, Normal

import tsalign
from collecthealth import CollectHealthEnv, CollectHealthVectorEnv
from tsalign import METHODS, Config
from tunnelvision import NEIGHBOURS, TunnelVisionEnv, TunnelVisionVectorEnv

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16)
SMALL |= dict(eval_episodes=8, log_episodes=8)
SMALL_FLAGS = [x for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", str(v))]


class CueEnv(gym.Env):
    """Three times in a row, answer with the shown cue; `fault` names what goes wrong on the way."""

    def __init__(self, fault="", actions=None, reports=True):
        self.observation_space = Dict(
            teacher=Box(0, 1, (3,), np.float32), student=Box(0, 1, (3,), np.float32)
        )
        if fault == "one view":
            self.observation_space = Dict(teacher=self.observation_space["teacher"])
        self.action_space = actions or Discrete(2, start=1)
        self.fault, self.reports, self.total = fault, reports, 0

    def observe(self):
        self.cue, secret = self.np_random.integers(2), self.np_random.random()
        cue = [float(self.cue == 0), float(self.cue == 1)]
        is_long = self.fault == "shape" and self.total > 40
        return {"teacher": np.float32([*cue, secret]), "student": np.float32([*cue, 0][:3 - is_long])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.right = 0
        return self.observe(), {}

    def step(self, action):
        if isinstance(self.action_space, Box):
            assert self.action_space.contains(action), action
            action = 1 + (action[0] > 5)
        is_right, self.total = action == self.cue + 1, self.total + 1
        self.right += is_right
        if self.fault == "raise" and self.total > 40:
            raise RuntimeError("the user's own bug")
        reward = math.nan if self.fault == "nan" and self.total > 40 else float(is_right)
        ended = (not is_right or self.right == 3) and self.fault != "never"
        success = {"text": "yes", "none": None}.get(self.fault, self.right == 3)
        info = {"is_success": success} if ended and self.reports else {}  # some tell it only then
        return self.observe(), reward, ended, False, info


FAULTS = ("", "nan", "one view", "shape", "raise", "never", "text", "none")
for fault in FAULTS:
    gym.register(f"Cue{fault.replace(' ', '')}-v0", CueEnv, kwargs={"fault": fault})
gym.register("CueBox-v0", CueEnv, kwargs={"actions": Box(4, 6, (1,)), "reports": False})
gym.register("CueUnbounded-v0", CueEnv, kwargs={"actions": Box(-np.inf, np.inf, (1,))})


class RecordingEnv(TunnelVisionVectorEnv):
    """Keeps (obs, action, reward, terminated, truncated, true next obs) of every step."""

    def reset(self, **arguments):
        self.seeds = [*getattr(self, "seeds", []), arguments.get("seed")]
        self.obs, info = super().reset(**arguments)
        return self.obs, info

    def step(self, actions):
        before, result = self.obs, super().step(actions)
        self.obs = result[0]
        self.log = [*getattr(self, "log", []), (before, actions, *result[1:4], self.obs)]
        return result


class BlindfoldedEnv(RecordingEnv):
    """The teacher's view is noise."""

    def _observe(self):
        obs = super()._observe()
        return obs | {"teacher": np.random.default_rng(0).random(obs["teacher"].shape, np.float32)}


def one_rollout(method="ours", envs=None, **settings):
    """Networks, optimizers and the first rollout of a small run, with a policy that is not flat."""
    config = Config(**{**SMALL, "method": method, **settings})
    torch.manual_seed(0)
    envs = envs or tsalign.make_envs(config.env, config.num_envs)
    nets = tsalign.Networks(envs, config)
    nets.policy.net[-1].weight.data *= 100
    obs, _ = envs.reset(seed=0)
    rollout, _ = tsalign.collect(envs, obs, nets, config.rollout_steps)
    return config, nets, tsalign.make_optimizers(nets, config), rollout


def spy(monkeypatch, name):
    """The positional arguments and results of all calls of `tsalign.name` from now on."""
    calls, real = [], getattr(tsalign, name)

    def recorded(*arguments, **named):
        calls.append((arguments, real(*arguments, **named)))
        return calls[-1][1]

    monkeypatch.setattr(tsalign, name, recorded)
    return calls


def units(*shape):
    """Random unit vectors that want a gradient."""
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1).requires_grad_()


# --- the losses, Eq. (6) to (10) -----------------------------------------------------------------


def test_eq6_by_hand_for_two_pairs():
    z_teacher, z_student = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0.6, 0.8]])
    # Similarities times 2: [[2, 1.2], [0, 1.6]]; each term is log(1 + exp(wrong - right)).
    rows = [math.log(1 + math.exp(1.2 - 2)), math.log(1 + math.exp(0 - 1.6))]
    columns = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1.2 - 1.6))]
    loss = tsalign.info_nce_loss(z_teacher, z_student, torch.tensor(2.0))
    assert loss.item() == pytest.approx((sum(rows) / 2 + sum(columns) / 2) / 2)


def test_eq6_equals_a_double_loop_in_value_and_gradients():
    torch.manual_seed(0)
    inputs = units(5, 3), units(5, 3), torch.tensor(4.0, requires_grad=True)
    zt, zs, inverse_temperature = inputs
    total = 0.0
    for i in range(5):
        to_student = [torch.exp(inverse_temperature * (zt[i] * zs[j]).sum()) for j in range(5)]
        to_teacher = [torch.exp(inverse_temperature * (zt[j] * zs[i]).sum()) for j in range(5)]
        for terms in (to_student, to_teacher):
            total = total - torch.log(terms[i] / sum(terms)) / 10
    loss = tsalign.info_nce_loss(*inputs)
    assert loss.item() == pytest.approx(total.item())
    assert tsalign.info_nce_loss(zs, zt, inverse_temperature).item() == pytest.approx(loss.item())
    pairs = zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(total, inputs))
    assert all(torch.allclose(a, b, atol=1e-6) and a.abs().max() > 1e-3 for a, b in pairs)


def test_eq7_and_eq9_by_hand():
    z_teacher, z_student = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[0.6, 0.8], [0, -1]])
    assert tsalign.alignment_loss(z_teacher, z_student).item() == pytest.approx((0.4 + 2) / 2)
    assert tsalign.embedding_loss(*torch.tensor([1.0, 2, 3]), 10, 0.1).item() == pytest.approx(21.3)


def test_eq8_by_hand_and_the_logits_before_are_constants():
    now_teacher, now_student, before_teacher, before_student = logits = [
        torch.tensor([x], requires_grad=True) for x in ([1.0, 2], [0.0, 0], [1.0, 5], [1.0, -1])
    ]
    loss = tsalign.stability_loss(*logits)
    assert loss.item() == pytest.approx((0 + 9 + 1 + 1) / 4)
    loss.backward()
    assert now_teacher.grad.tolist() == [[0, -1.5]] and now_student.grad.tolist() == [[-0.5, 0.5]]
    assert before_teacher.grad is None and before_student.grad is None


def test_eq10_by_hand_with_its_direction_for_both_kinds_of_action():
    teacher, proxy = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)  # the reverse is .368
    kl = tsalign.imitation_kl(Categorical(logits=teacher + 3), Categorical(logits=proxy))
    assert kl.tolist() == pytest.approx([expected])
    one, other = (Independent(Normal(torch.tensor([m]), 2.0), 1) for m in ([1.0, 0], [4.0, 2]))
    assert tsalign.imitation_kl(one, other).tolist() == pytest.approx([(9 + 4) / (2 * 4)])


# --- PPO -----------------------------------------------------------------------------------------


def explicit_gae(rewards, values, next_values, terminated, done, gamma, lam):
    """Oracle: the sum over all later steps of the same episode, step by step."""
    advantages = torch.zeros_like(rewards)
    for n in range(rewards.shape[1]):
        for t in range(len(rewards)):
            for k in range(t, len(rewards)):
                future = 0 if terminated[k, n] else gamma * next_values[k, n]
                delta = rewards[k, n] + future - values[k, n]
                advantages[t, n] += (gamma * lam) ** (k - t) * delta
                if done[k, n]:
                    break
    return advantages


def test_gae_equals_an_explicit_sum_with_both_ends():
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 7, 3)
    terminated, truncated = torch.zeros(2, 7, 3, dtype=torch.bool)
    terminated[2, 0] = truncated[4, 0] = truncated[3, 1] = terminated[6, 2] = True
    arguments = rewards, values, next_values, terminated, terminated | truncated, 0.9, 0.8
    assert torch.allclose(tsalign.gae(*arguments), explicit_gae(*arguments), atol=1e-6)


def test_collect_keeps_the_true_next_view_and_never_uses_the_student():
    calls, envs = [], RecordingEnv(8, max_episode_steps=2)
    hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: calls.append(m))
    _, nets, _, rollout = one_rollout(envs=envs, num_envs=8)
    hook.remove()
    assert nets.teacher in calls and nets.student not in calls
    assert not any(x.requires_grad for x in rollout)
    obs, action, reward, terminated, truncated, next_obs = zip(*envs.log)
    assert np.any(truncated) and np.any(terminated)
    assert (rollout.action.numpy() == np.stack(action)).all()
    assert (rollout.terminated.numpy() == np.stack(terminated)).all()
    assert (rollout.done.numpy() == np.stack(terminated) | np.stack(truncated)).all()
    assert np.allclose(rollout.reward, np.stack(reward))
    for view, kept in (("teacher", rollout.obs_teacher), ("student", rollout.obs_student)):
        assert (kept.numpy() == np.stack([o[view] for o in obs])).all()
    with torch.no_grad():
        for kept, views in ((rollout.z_teacher, obs), (rollout.z_next, next_obs)):
            z = nets.teacher(torch.tensor(np.stack([o["teacher"] for o in views])).flatten(0, 1))
            assert torch.allclose(kept.flatten(0, 1), z, atol=1e-6)


@pytest.mark.parametrize("method", ["ours", "sitt"])
def test_ppo_learns_from_these_advantages_and_returns(method, monkeypatch):
    config, nets, (optimizer, _), rollout = one_rollout(
        method, gamma=0.9, gae_lambda=0.8, ppo_batch=64, ppo_epochs=1,
        **({"sitt_lambda1": 0.7} if method == "sitt" else {}),
    )  # fmt: skip
    reward = rollout.reward
    with torch.no_grad():
        values, next_values = nets.critic(rollout.z_teacher)[..., 0], nets.critic(rollout.z_next)[..., 0]
        if method == "sitt":
            proxy = nets.policy(nets.proxy(rollout.obs_teacher.flatten(0, 1))).view(16, 4, -1)
            log_p, log_q = rollout.logits_teacher.log_softmax(-1), proxy.log_softmax(-1)
            penalty = (log_p.exp() * (log_p - log_q)).sum(-1)
            assert penalty.mean() > 0.05
            reward = reward - 0.7 * penalty
    calls = spy(monkeypatch, "ppo_losses")
    tsalign.train_policy(nets, optimizer, rollout, config)
    ends = rollout.terminated, rollout.done
    expected = explicit_gae(reward, values, next_values, *ends, 0.9, 0.8).flatten()
    (arguments, _), = calls
    returns = expected + values.flatten()  # minibatches are shuffled, so both are sorted
    assert torch.allclose(arguments[4].sort()[0], expected.sort()[0], atol=1e-5)
    assert torch.allclose(arguments[5].sort()[0], returns.sort()[0], atol=1e-5)


def test_ppo_losses_by_hand():
    log_probs = torch.tensor([[0.3, 0.7], [0.5, 0.5]]).log()
    action, advantage = torch.tensor([0, 1]), torch.tensor([5.0, 1.0])  # normalised: 1, -1
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7) + math.log(0.5)) / 2
    for ratios, surrogate in [((1.5, 0.5), (1.2 - 0.8) / 2), ((0.5, 1.5), (0.5 - 1.5) / 2)]:
        before, returns = torch.tensor([0.3 / ratios[0], 0.5 / ratios[1]]).log(), torch.tensor([1.0, 3])
        arguments = Categorical(logits=log_probs), torch.zeros(2), action, before, advantage, returns
        losses = tsalign.ppo_losses(*arguments, clip=0.2)
        assert losses["policy_loss"].item() == pytest.approx(-surrogate)
        assert losses["value_loss"].item() == pytest.approx(5)
        assert losses["entropy"].item() == pytest.approx(entropy)


# --- Which loss reaches which network, and how are the steps taken? -------------------------------

PHASE_ONE = {"teacher", "student", "log_inverse_temperature"}
ARROWS = [
    ("policy", "ours", {"policy", "critic"}),  # Section IV: not through the encoders
    ("policy", "policy-gradient", {"policy", "critic", "teacher"}),
    ("policy", "bc", {"policy", "critic", "teacher"}),
    ("policy", "sitt", {"policy", "critic", "teacher"}),
    ("student", "ours", PHASE_ONE),
    ("student", "no-align", PHASE_ONE),
    ("student", "policy-gradient", PHASE_ONE),
    ("student", "bc", {"student", "student_policy"}),
    ("student", "sitt", {"student", "proxy"}),
]


@pytest.mark.parametrize("phase, method, learners", ARROWS)
def test_each_phase_moves_its_own_networks_only(phase, method, learners):
    config, nets, (policy_optimizer, student_optimizer), rollout = one_rollout(method)
    before = copy.deepcopy(dict(nets.named_parameters()))
    if phase == "policy":
        tsalign.train_policy(nets, policy_optimizer, rollout, config)
    else:
        tsalign.train_policy(nets, policy_optimizer, rollout, config)  # leaves gradients behind
        before = copy.deepcopy(dict(nets.named_parameters()))
        METHODS[method].train_student(nets, student_optimizer, rollout, config)
    moved = {k.split(".")[0] for k, p in nets.named_parameters() if not torch.equal(p, before[k])}
    assert moved == learners


def whole_batch(method, **settings):
    """As `one_rollout`, with a single minibatch: one phase is one gradient step."""
    one = dict(encoder_batch=64, encoder_epochs=1, ppo_batch=64, ppo_epochs=1, max_grad_norm=1e9)
    return one_rollout(method, **one, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_one_step_of_the_second_optimizer_has_the_gradient_of_its_loss(method, monkeypatch):
    monkeypatch.setitem(METHODS, "bc", METHODS["bc"]._replace(imitation_share=1.0))  # one pass
    config, nets, (_, optimizer), rollout = whole_batch(method)
    steps, copied = rollout.flat(), copy.deepcopy(nets)
    METHODS[method].train_student(nets, optimizer, rollout, config)

    z_student, z_teacher = copied.student(steps.obs_student), copied.teacher(steps.obs_teacher)
    if method == "bc":
        student, learners = Categorical(logits=copied.student_policy(z_student)), ["student"]
        loss = -student.log_prob(steps.action).mean()
    elif method == "sitt":

        def distance(z, target):
            logits = copied.policy(z) - copied.policy(target.detach())
            return (z - target.detach()).abs().mean() + logits.abs().mean()

        loss = distance(z_student, z_teacher) + distance(copied.proxy(steps.obs_teacher), z_student)
        learners = ["student", "proxy"]
    else:  # Eq. (8) is at its minimum before the first step
        loss = tsalign.info_nce_loss(z_teacher, z_student, copied.log_inverse_temperature.exp())
        weight = {"no-align": 0.0}.get(method, config.lambda_align)
        loss = loss + weight * (1 - (z_teacher * z_student).sum(-1)).mean()
        learners = ["teacher", "student"]
    loss.backward()
    for name in learners:
        pairs = zip(getattr(nets, name).parameters(), getattr(copied, name).parameters())
        assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("method", ["ours", "sitt"])
@pytest.mark.parametrize("remaining", [1.0, 0.5])
def test_one_step_of_the_policy_has_the_gradient_of_its_loss(method, remaining):
    settings = {"sitt_lambda2": 5.0} if method == "sitt" else {}
    config, nets, (optimizer, _), rollout = whole_batch(method, entropy_end=0.05, **settings)
    steps, copied, returns = rollout.flat(), copy.deepcopy(nets), []
    real = tsalign.ppo_losses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsalign, "ppo_losses", lambda *x: (returns.append(x), real(*x))[1])
        tsalign.train_policy(nets, optimizer, rollout, config, remaining)
    (_, _, action, _, advantage, _, _), = returns
    # The order within the batch does not matter to a mean; recover it for the advantage.
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    i = torch.stack([x for x in tsalign_order(steps, returns[0])])
    policy = Categorical(logits=copied.policy(steps.z_teacher[i]))
    loss = -(policy.log_prob(action) * advantage).mean()  # the ratio is 1 everywhere
    bonus = 0.05 + remaining**2 * (config.entropy_coef - 0.05)
    loss = loss - bonus * policy.entropy().mean()
    if method == "sitt":
        proxy = copied.policy(copied.proxy(steps.obs_teacher[i])).detach().log_softmax(-1)
        loss = loss + 5 * (policy.probs * (policy.logits - proxy)).sum(-1).mean()
    loss.backward()
    pairs = zip(nets.policy.parameters(), copied.policy.parameters())
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5) for a, b in pairs)


def tsalign_order(steps, arguments):
    """Which step each row of the shuffled minibatch is: its policy's logits tell."""
    logits = arguments[0].logits.detach()
    stored = steps.logits_teacher.log_softmax(-1)
    return [(stored - row).abs().sum(-1).argmin() for row in logits]


@pytest.mark.parametrize("off, learns", [({"info_nce_loss"}, False),
                                         ({"alignment_loss", "stability_loss"}, True)])  # fmt: skip
def test_the_temperature_learns_from_eq6_alone(monkeypatch, off, learns):
    for name in off:
        monkeypatch.setattr(tsalign, name, lambda first, *_: first.sum() * 0)
    config, nets, (_, optimizer), rollout = one_rollout(lambda_align=1.0, lambda_stab=1.0)
    before = nets.log_inverse_temperature.item()
    tsalign.train_embedding(nets, optimizer, rollout, config)
    assert (nets.log_inverse_temperature.item() != before) == learns


def test_the_inverse_temperature_is_clamped_at_100():
    config, nets, (_, optimizer), rollout = one_rollout()
    nets.log_inverse_temperature.data.fill_(6.0)
    losses = tsalign.train_embedding(nets, optimizer, rollout, config)
    assert losses["inverse_temperature"] == pytest.approx(100)


def test_eq8_compares_with_the_logits_before_the_phase_on_both_views(monkeypatch):
    config, nets, (_, optimizer), rollout = one_rollout(encoder_batch=64, encoder_epochs=3)
    steps, seen = rollout.flat(), spy(monkeypatch, "stability_loss")
    with torch.no_grad():
        first = [nets.policy(nets.teacher(steps.obs_teacher))]
        first.append(nets.policy(nets.student(steps.obs_student)))
    tsalign.train_embedding(nets, optimizer, rollout, config)
    for k, ((teacher, student, *before), _) in enumerate(seen):  # rows are shuffled
        for now, then, expected in zip((teacher, student), before, first):
            assert torch.allclose(then.sort(0)[0], expected.sort(0)[0], atol=1e-5)
            assert torch.allclose(now, then, atol=1e-4) == (k == 0)


def test_minibatches_are_shuffled_anew_in_each_pass_and_the_last_may_be_a_part():
    _, _, _, rollout = one_rollout()
    batches = tsalign.minibatches(rollout.flat(), 32, 2)
    first, second = torch.cat(batches[:2]), torch.cat(batches[2:])
    assert [len(i) for i in batches] == [32] * 4 and not torch.equal(first, second)
    for order in (first, second):
        assert not torch.equal(order, torch.arange(64))
        assert torch.equal(order.sort()[0], torch.arange(64))
    for epochs, lengths in ((0.5, [32]), (1.5, [32] * 3), (0.01, [32])):
        assert [len(i) for i in tsalign.minibatches(rollout.flat(), 32, epochs)] == lengths
    assert [len(i) for i in tsalign.minibatches(rollout.flat(), 63, 1)] == [63]  # one has no negative


def test_both_phases_take_their_minibatches_from_there_and_ppo_clips_its_gradient(monkeypatch):
    calls, clip = spy(monkeypatch, "minibatches"), torch.nn.utils.clip_grad_norm_
    norms = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, n: norms.append(n) or clip(p, n)
    )
    settings = dict(max_grad_norm=0.25, ppo_epochs=3, ppo_batch=512, encoder_epochs=1.5)
    config, nets, (optimizer, student_optimizer), rollout = one_rollout(**settings)
    tsalign.train_policy(nets, optimizer, rollout, config)
    assert set(norms) == {0.25} and len(norms) == 3
    tsalign.train_embedding(nets, student_optimizer, rollout, config)
    assert [call[0][1:] for call in calls] == [(512, 3), (128, 1.5)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("env", ["tunnelvision", "collecthealth", "test_tsalign:CueBox-v0"])
def test_every_method_runs_a_cycle_with_finite_losses(env, method):
    config, nets, optimizers, rollout = one_rollout(method, env=env)
    losses = tsalign.train_policy(nets, optimizers[0], rollout, config)
    losses |= METHODS[method].train_student(nets, optimizers[1], rollout, config)
    assert len(losses) >= 4 and all(map(math.isfinite, losses.values()))


def test_inputs_with_bounds_are_mapped_to_minus_1_to_1_and_others_stay():
    low, high = np.float32([0, -2, -np.inf, 0]), np.float32([1, 2, np.inf, 1e9])
    encoder = tsalign.Encoder(Box(low, high), Config())
    mapped = torch.tensor([0.25, 1, 7, 5]) * encoder.scale + encoder.shift
    assert mapped.tolist() == [-0.5, 0.5, 7, 5]
    image = tsalign.Encoder(Box(0, 255, (4, 4, 3), np.uint8), Config())
    ends = torch.tensor([0.0, 255])[:, None, None, None] * image.scale + image.shift
    assert ends[0].eq(-1).all() and torch.allclose(ends[1], torch.ones(4, 4, 3))
    images = torch.randint(255, (5, 4, 4, 3), dtype=torch.uint8)
    assert torch.allclose(image(images), image(images.float()), atol=1e-6)
    assert torch.allclose(image(images).norm(dim=-1), torch.ones(5))


def test_actions_enter_the_environment_in_its_own_units():
    box = Box(np.float32([-2, 0]), np.float32([2, 10]))
    action = tsalign.to_env_action(box, torch.tensor([[0.5, -1.0], [3.0, -9.0], [0, 0]]))
    assert action.tolist() == [[1, 0], [2, 0], [0, 5]]
    assert tsalign.to_env_action(Discrete(3, start=5), torch.tensor([0, 2])).tolist() == [5, 7]


# --- Does an evaluation count what it should? -----------------------------------------------------


def test_the_student_never_touches_the_teacher_view():
    _, nets, _, _ = one_rollout()
    actions = {}
    for env_class in (RecordingEnv, BlindfoldedEnv):
        for view in ("teacher", "student"):
            envs = env_class(4)
            torch.manual_seed(1)
            tsalign.play_episodes(envs, nets, view, 1, 3, 1000)
            actions[env_class, view] = [step[1].tolist() for step in envs.log]
    assert actions[RecordingEnv, "student"] == actions[BlindfoldedEnv, "student"]
    assert actions[RecordingEnv, "teacher"] != actions[BlindfoldedEnv, "teacher"]


class FixedEndsEnv(RecordingEnv):
    """Sub-environment i ends after i + 1 steps of reward 1, with success where i is even."""

    def step(self, actions):
        self.blocked[:] = False
        obs, *_ = super().step(np.full(self.num_envs, 4))
        self.done = self.steps > self.index
        return obs, np.ones(6), self.done, ~self.done & False, {"is_success": self.index % 2 == 0}


def test_evaluation_counts_short_and_long_episodes_alike():
    _, nets, _, _ = one_rollout()
    score = tsalign.evaluate(FixedEndsEnv(6), nets, 24, seed=0)
    assert score["success_teacher"] == score["success_student"] == 0.5 and score["gap"] == 0
    assert score["return_teacher"] == score["return_student"] == 3.5
    assert score["return_student_se"] == pytest.approx(np.arange(1, 7).std() / 24**0.5)


def test_each_agent_gets_its_own_score(monkeypatch):
    played = {"teacher": np.array([[3.0, 5], [1, 1]]), "student": np.array([[1.0, 2], [0, 1]])}
    monkeypatch.setattr(tsalign, "play_episodes", lambda envs, nets, agent, *_: played[agent])
    score = tsalign.evaluate(FixedEndsEnv(6), None, 6, seed=0)
    expected = dict(success_teacher=1, success_student=0.5, return_teacher=4, return_student=1.5)
    assert expected.items() <= score.items() and score["gap"] == 0.5
    for agent in played:
        played[agent][1] = np.nan
    score = tsalign.evaluate(FixedEndsEnv(6), None, 6, seed=0)
    assert score["gap"] == 2.5 and "success_teacher" not in score


# --- Does a run do what it says, leave its files, and refuse bad input? ---------------------------


def rows_of(path):
    return list(csv.DictReader(path.open()))


def run_main(*arguments):
    """`python tsalign.py ...` in this process -> exit code."""
    try:
        tsalign.main([str(x) for x in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("env, first", [("Cue-v0", "success"), ("CueBox-v0", "return")])
def test_training_improves_an_environment_of_ones_own_and_loads_again(env, first, tmp_path):
    flags = "--num-envs 16 --rollout-steps 32 --total-steps 16384 --ppo-batch 64 --width 32"
    flags += f" --embedding-dim 8 --log-evals 4 --eval-episodes 512 --env test_tsalign:{env} --out"
    assert run_main(*flags.split(), tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert ("success_student" in result) == (first == "success")
    envs = tsalign.make_envs(f"test_tsalign:{env}", 16)
    config, nets = tsalign.load_run(folder)
    assert config.width == 32 and len(rows_of(folder / "log.csv")) == 4
    untrained = tsalign.evaluate(envs, tsalign.Networks(envs, config), 512, 5)
    loaded = tsalign.evaluate(envs, nets, 512, 5)
    for agent in tsalign.AGENTS:
        name, scale = f"{first}_{agent}", 1 if first == "success" else 3
        assert untrained[name] < 0.35 * scale and result[name] > 0.6 * scale
        assert loaded[name] == pytest.approx(result[name], abs=0.1 * scale)


def test_the_loop_by_its_calls(tmp_path, monkeypatch):
    """Seeds, separate environments, falling rates; bc's student after its teacher."""
    made, calls = [], spy(monkeypatch, "train_policy")

    def make(name, n):
        made.append(RecordingEnv(n))
        return made[-1]

    monkeypatch.setattr(tsalign, "make_envs", make)
    evaluated = spy(monkeypatch, "evaluate")
    rates, student = [], METHODS["bc"].train_student

    def train_student(nets, optimizer, rollout, config):
        rates.append((len(calls), optimizer.param_groups[0]["lr"]))
        return student(nets, optimizer, rollout, config)

    monkeypatch.setitem(METHODS, "bc", METHODS["bc"]._replace(train_student=train_student))
    first_seeds = set()
    for seed in (0, 1):
        made.clear(), calls.clear(), evaluated.clear(), rates.clear()
        config = Config(
            **SMALL, method="bc", total_steps=8 * 64, log_evals=4, seed=seed, out=tmp_path
        )
        tsalign.train(config)
        assert [x for _, x in rates] == pytest.approx([1e-3, 1e-3 * (0.05 + 0.95 / 2)])
        assert [n for n, _ in rates] == [6, 6]  # the teacher is through with its six cycles
        assert [c[0][4] for c in calls] == pytest.approx([1 - k / 6 for k in range(6)])
        train_envs, eval_envs = made
        assert {c[0][0] for c in evaluated} == {eval_envs} and len(evaluated) == 4
        seeds = [c[0][3] for c in evaluated] + [train_envs.seeds[0]]
        assert len(set(seeds)) == 5 and first_seeds.isdisjoint(seeds)
        first_seeds |= set(seeds)


def test_a_run_leaves_its_files_and_is_not_overwritten(tmp_path, monkeypatch, capsys):
    score = dict(success_teacher=0.75, success_student=0.5, gap=0.25)
    score |= dict(return_teacher=2.0, return_student=1.0)
    monkeypatch.setattr(tsalign, "evaluate", lambda *_: dict(score))
    flags = [*SMALL_FLAGS, "--out", tmp_path, "--log-evals", 2, "--total-steps", 128]
    assert run_main(*flags) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines()[:4])
    folder = tmp_path / "tunnelvision_ours_seed0"
    files = {"config.json", "log.csv", "checkpoint.pt", "curve.png", "result.json"}
    assert {path.name for path in folder.iterdir()} == files
    result = json.loads((folder / "result.json").read_text())
    expected = dict(env="tunnelvision", method="ours", seed=0, eval_episodes=8, env_steps=128)
    assert (expected | score).items() <= result.items() and result["seconds"] > 0
    assert result["device"] in ("cpu", "cuda", "mps") and result["torch"] == torch.__version__
    assert json.loads((folder / "config.json").read_text())["width"] == 16
    assert [row["env_steps"] for row in rows_of(folder / "log.csv")] == ["64", "128"]
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["networks"]
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    assert run_main(*flags) == 2 and "finished run" in capsys.readouterr().err
    assert kept == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_second_process_is_locked_out(tmp_path):
    with tsalign.open_log(Config(out=tmp_path)):
        with pytest.raises(tsalign.BadInput, match="another process"):
            tsalign.open_log(Config(out=tmp_path))


def test_the_seed_decides_everything(tmp_path):
    logs = []
    for out, seed in [("a", 0), ("b", 0), ("c", 1)]:
        torch.rand(seed + len(out))  # the state of the generator before must not matter
        config = Config(**SMALL, total_steps=192, log_evals=2, seed=seed, out=str(tmp_path / out))
        tsalign.train(config)
        logs.append((config.folder / "log.csv").read_bytes())
    assert logs[0] == logs[1] != logs[2]


BAD = {
    "--env nosuch-v0": "nosuch", "--env nosuch:Env-v0": "nosuch", "--env CartPole-v1": "teacher",
    "--env test_tsalign:Cueoneview-v0": "student", "--env test_tsalign:CueUnbounded-v0": "bounded",
    "--method nosuch": "nosuch", "--device nosuch": "nosuch", "--device cuda:99": "cuda:99",
    "--nosuch 1": "nosuch", "--num-envs 0": "num_envs", "--total-steps -5": "total_steps",
    "--rollout-steps 0": "rollout_steps", "--width x": "width", "--total-steps 1.5": "total-steps",
    "--encoder-batch 1": "encoder_batch", "--seed": "seed", "--lambda-align -1": "lambda_align",
    "--lambda-align nan": "lambda_align", "--gamma 2": "gamma", "--seed -1": "seed",
    "--out /dev/null/x": "/dev/null/x", "--device meta": "meta", "--env ..:X": "..:X",
    "--seed 18446744073709551616": "seed", "--method bc --lambda-align 3": "lambda_align",
    "--method no-align --lambda-align 5": "lambda_align", "--sitt-lambda1 1": "sitt_lambda1",
    "--method sitt --lambda-stab 1": "lambda_stab",
}  # fmt: skip


@pytest.mark.parametrize("arguments, word", BAD.items())
def test_bad_input_gives_one_line_and_exit_code_2(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(*arguments.split()) == 2
    output = capsys.readouterr()
    assert output.err.startswith("tsalign: ") and output.err.count("\n") == 1
    assert word in output.err and output.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault, word", [("nan", "value_loss"), ("shape", "student's view"),
                                         ("never", "goes on"), ("text", "'yes'"),
                                         ("none", "None"), ("raise", "own bug")])  # fmt: skip
def test_what_goes_wrong_in_a_run_is_one_line_and_exit_code_1(fault, word, tmp_path, capsys):
    flags = ["--env", f"test_tsalign:Cue{fault}-v0", "--out", tmp_path, *SMALL_FLAGS]
    flags += ["--total-steps", 2048, "--log-evals", 32, "--episode-limit", 50]
    if fault == "raise":  # the user's own bug keeps its traceback, with one line after it
        with pytest.raises(RuntimeError, match=word) as caught:
            run_main(*flags)
        (note,) = caught.value.__notes__
        assert "Cueraise" in note and "environment steps" in note
    else:
        assert run_main(*flags) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and word in error and f"Cue{fault}" in error
    (folder,) = tmp_path.iterdir()
    assert not (folder / "result.json").exists()


def python(folder, *arguments):
    here = os.path.dirname(os.path.abspath(tsalign.__file__))
    env = {**os.environ, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *(x.replace("HERE", here) for x in arguments)]
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=folder, env=env, **pipe)


def test_import_has_no_side_effect_and_ctrl_c_no_traceback(tmp_path):
    process = python(tmp_path, "-c", "import tsalign, tunnelvision, collecthealth")
    assert (*process.communicate(), process.returncode) == ("", "", 0)
    assert not list(tmp_path.iterdir())
    process = python(tmp_path, "HERE/tsalign.py", "--log-evals", "100")
    while not process.stdout.readline().startswith("tunnelvision"):
        pass
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and error.count("\n") == 1 and "interrupted" in error


# --- both environments ---------------------------------------------------------------------------
# Do they keep Gymnasium's promises, and are N sub-environments at once the same as N alone?

TUNNEL = ("TunnelVision-v0", TunnelVisionVectorEnv, TunnelVisionEnv)
HEALTH = ("CollectHealth-v0", CollectHealthVectorEnv, CollectHealthEnv)
both = pytest.mark.parametrize("name, Vector, Single", [TUNNEL, HEALTH])


@both
def test_vector_equals_single_and_stays_in_its_spaces(name, Vector, Single):
    mode = {"autoreset_mode": AutoresetMode.DISABLED}
    fast = gym.make_vec(name, 5, vectorization_mode="vector_entry_point")
    slow = gym.make_vec(name, 5, vectorization_mode="sync", vector_kwargs=mode)
    rng, episodes = np.random.default_rng(0), 0

    def check(a, b):
        assert all((a[view] == b[view]).all() for view in ("teacher", "student"))
        assert all(fast.observation_space[view].contains(a[view]) for view in a)

    check(fast.reset(seed=7)[0], slow.reset(seed=7)[0])
    for _ in range(150):
        actions = rng.integers(fast.single_action_space.n, size=5)
        a, b = fast.step(actions), slow.step(actions)
        check(a[0], b[0])
        assert all((x == y).all() for x, y in zip(a[1:4], b[1:4]))
        assert (a[4]["is_success"] == b[4]["is_success"]).all()
        done = a[2] | a[3]
        if done.any():
            check(*(envs.reset(options={"reset_mask": done.copy()})[0] for envs in (fast, slow)))
        episodes += done.sum() * (not done.all())
    assert episodes > 10


@both
@pytest.mark.filterwarnings("error")
def test_check_env_is_silent(name, Vector, Single):
    check_env(gym.make(name, render_mode="rgb_array").unwrapped)


@both
def test_sub_env_i_is_seeded_with_seed_plus_i_whatever_came_before(name, Vector, Single):
    # Four episodes each, because the first views of two TunnelVision layouts are often the same.
    def episodes(env, **seed):
        seeds = [seed, {}, {}, {}]
        return np.stack([env.reset(**seed)[0]["teacher"] for seed in seeds])

    pair = episodes(Vector(2), seed=[4, 9])
    assert (pair[:, 1] == episodes(Single(), seed=9)).all()
    assert (pair[:, 0] == episodes(Vector(3), seed=2)[:, 2]).all()
    assert (pair[:, 0] != pair[:, 1]).any()
    used = Vector(2)
    used.reset(seed=0)
    used.step(np.full(2, used.single_action_space.n - 1))
    assert (episodes(used, seed=[4, 9]) == pair).all()


@both
def test_a_time_limit_truncates_and_a_finished_sub_env_waits_for_its_reset(name, Vector, Single):
    env, advice = Vector(2, max_episode_steps=2), r'reset\(options={"reset_mask": done}\)'
    turn = np.full(2, env.single_action_space.n - 1)
    with pytest.raises(gym.error.ResetNeeded, match=advice):
        env.step(turn)
    env.reset(seed=0)
    assert not np.any(env.step(turn)[2:4])
    if Vector is TunnelVisionVectorEnv:  # sub-environment 1 is about to hit something to its east
        env.blocked[1] = True
    else:
        env.position[1], env.first_heading[1], env.turns[1] = (7.5, 4), 0, 0
    last, _, *ends, _ = env.step(turn * [1, 0])
    assert np.array(ends).tolist() == [[False, True], [True, False]]  # terminated, truncated
    for mask in ([False, True], [True, False]):
        with pytest.raises(gym.error.ResetNeeded, match=advice):
            env.step(turn)
        obs, _ = env.reset(options={"reset_mask": np.array(mask)})
        assert (obs["teacher"][0] != last["teacher"][0]).any() == mask[0]
    assert not np.any(env.step(turn)[2:4])


COMMON = [("num_envs", 0), ("max_episode_steps", 0), ("render_mode", "human")]
GRID = [("rows", 0), ("cols", 2), ("obstacle_density", 1.1), ("obstacle_density", np.nan)]
ROOM = [("n_boxes", 0), ("n_boxes", 101), ("room", 2.0), ("room", np.nan), ("view_height", 2)]
ROOM += [("view_height", 15), ("view_width", 3)]
BAD = [(TUNNEL[1], *bad) for bad in COMMON + GRID] + [(HEALTH[1], *bad) for bad in COMMON + ROOM]


@pytest.mark.parametrize("Vector, name, value", BAD)
def test_bad_arguments_are_named(Vector, name, value):
    with pytest.raises(ValueError, match=name):
        Vector(**{name: value})


@both
def test_bad_actions_and_masks_raise(name, Vector, Single):
    env = Vector(2)
    env.reset(seed=0)
    for actions in [[0], [0, env.single_action_space.n], [-1, 0]]:
        with pytest.raises(ValueError, match="actions"):
            env.step(np.array(actions))
    for mask in [[True], [0, 1]]:
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": np.array(mask)})


def play(envs, choose):
    """Success of the first episode in each sub-environment."""
    obs, _ = envs.reset(seed=0)
    over, success = np.zeros((2, envs.num_envs), bool)
    while not over.all():
        obs, _, terminated, truncated, info = envs.step(choose(obs))
        success |= ~over & info["is_success"]
        over |= terminated | truncated
        obs, _ = envs.reset(options={"reset_mask": terminated | truncated})
    return success


# --- TunnelVision --------------------------------------------------------------------------------
# Is every layout solvable, by a student only if it looks, and does a step do what the rules say?

E, S, W, N, FACE_E, FACE_S, FACE_W, FACE_N = range(8)


def look_before_you_step(view):
    """A student's rules: position, heading, last action and the three cells ahead, nothing else."""
    (row, column), heading = divmod(view[:45].argmax(), 9), view[45:49].argmax()
    last, is_free = view[49:58].argmax(), view[59] == -1
    if column == 8:
        return S if row < 2 else N
    if column in (0, 1, 3, 5, 7):
        return E
    if last == E and heading != E:
        return FACE_E
    if last in (E, FACE_E):
        return E if is_free else FACE_N
    if last == FACE_N:
        return N if is_free else FACE_S
    if last == FACE_S:
        return S
    return last if is_free else E  # on its way up or down


def test_tunnel_a_student_that_looks_always_succeeds_and_a_blind_walker_does_not():
    def student(obs):
        return np.array([look_before_you_step(view) for view in obs["student"]])

    def greedy(obs):  # to the east, in the last column to the goal
        cell = obs["teacher"][:, :45].argmax(1)
        return np.where(cell % 9 < 8, E, np.where(cell // 9 < 2, S, N))

    assert play(TunnelVisionVectorEnv(1000), student).all()
    assert play(TunnelVisionVectorEnv(1000), greedy).mean() < 0.05


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_tunnel_every_layout_is_connected_and_random(density):
    envs = TunnelVisionVectorEnv(300, obstacle_density=density)
    envs.reset(seed=0)
    free, reached = ~envs.blocked, np.zeros_like(envs.blocked)
    reached[:, 3, 1] = True
    for axis, shift in 35 * [(1, 1), (1, -1), (2, 1), (2, -1)]:  # spreads from the start cell
        reached |= free & np.roll(reached, shift, axis)
    assert reached[:, 3, 9].all()
    assert not (free[:, [0, -1]].any() or free[:, :, [0, -1]].any())
    n_layouts = len(np.unique(free.reshape(300, -1), axis=0))
    if density == 1:  # a tunnel and nothing else, one cell wide; 125 of them
        assert (reached == free).all() and (free.sum(axis=1)[:, [1, 2, 4, 6, 8]] == 1).all()
        assert 80 < n_layouts <= 125
    else:
        assert n_layouts > 250 and (reached != free).any()
    assert len(np.unique(envs.heading)) == 4


@pytest.mark.parametrize("heading, ahead", list(enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)])))
def test_tunnel_the_student_sees_the_three_cells_ahead_and_the_teacher_all_eight(heading, ahead):
    env = TunnelVisionVectorEnv(1)
    env.reset(seed=0)
    env.position[0], env.heading[0] = (2, 4), heading
    clockwise = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    for k, (down, right) in enumerate(clockwise):
        env.blocked[0] = False
        env.blocked[0, 3 + down, 5 + right] = True
        teacher, student = np.full(8, -1), np.full(3, -1)
        teacher[k] = 1
        if ahead[0] * down + ahead[1] * right > 0:
            student[1 + ahead[1] * down - ahead[0] * right] = 1  # left, centre or right
        for view, cells in [("teacher", teacher), ("student", student)]:
            features = env._observe()[view][0]
            assert features[58:].tolist() == cells.tolist()
            assert np.flatnonzero(features[:58]).tolist() == [2 * 9 + 4, 45 + heading, 49 + 8]


@pytest.mark.parametrize(
    "start, action, end, reward, terminated, success",
    [((2, 0), E, (2, 1), 0.09, False, False), ((2, 1), W, (2, 0), -0.11, False, False),
     ((1, 3), S, (2, 3), 0.09, False, False), ((2, 3), N, (1, 3), -0.11, False, False),
     ((2, 3), FACE_N, (2, 3), -0.01, False, False), ((2, 0), W, (2, 0), -1.01, True, False),
     ((2, 7), E, (2, 8), 1.09, True, True), ((4, 4), S, (4, 4), -1.01, True, False)],
)  # fmt: skip
def test_tunnel_steps_by_hand(start, action, end, reward, terminated, success):
    env = TunnelVisionVectorEnv(1, obstacle_density=0)  # nothing but the outside is blocked
    env.reset(seed=0)
    env.position[0], env.heading[0] = start, 0
    obs, *result, info = env.step(np.array([action]))
    assert env.position[0].tolist() == list(end)
    assert env.heading[0] == (3 if action == FACE_N else 0)
    assert [x[0] for x in result] == [pytest.approx(reward), terminated, False]
    assert info["is_success"][0] == success and obs["student"][0, 49 + action] == 1


def test_tunnel_rendering_shows_start_goal_and_agent():
    env = TunnelVisionEnv(render_mode="ansi")
    env.reset(seed=0)
    env.step(E)
    env.step(FACE_S)
    text, env.vector.render_mode = env.render().split("\n"), "rgb_array"
    frame = env.render()
    assert [len(line) for line in text] == [9] * 5 and text[2][0] + text[2][1] + text[2][8] == "SvG"
    assert frame.dtype == np.uint8 and frame.shape == (7 * 48, 11 * 48, 3)
    centres = frame[24::48, 24::48]  # (7, 11, 3), one pixel a cell
    # The agent is red, the goal green, the start bluish.
    assert centres[[3, 3, 3], [2, 9, 1]].argmax(1).tolist() == [0, 1, 2]


# --- CollectHealth -------------------------------------------------------------------------------
# Is every pixel what a pinhole camera sees there, and do the rules follow the docstring?


def traced_picture(env, i):  # -> (H, W, 3)
    """Oracle: what the ray of each pixel meets first. Points of the plan are complex numbers."""
    width, height, room = env.view_width, env.view_height, env.room
    across, down = (2 * np.arange(n) + 1 - n for n in (width, height))
    right, up = np.meshgrid(across / width, -down / width)  # (H, W): 90 degrees, square pixels
    here, ray = complex(*env.position[i]), np.exp(1j * env._heading()[i]) * (1 - 1j * right)
    hits = [(-1 / up, (95, 90, 85)), (1 / up, (150, 190, 225))]  # (how often the ray fits; colour)
    hits += [((wall - here.real) / ray.real, (205, 195, 170)) for wall in (0, room)]
    hits += [((wall - here.imag) / ray.imag, (165, 155, 135)) for wall in (0, room)]
    for box in env.boxes[i][env.present[i]]:
        axis = (complex(*box) - here) / ray  # real: closest after so much ray; imaginary: how close
        square = (0.25 / abs(ray)) ** 2 - axis.imag**2
        side, top = axis.real - np.sqrt(np.maximum(square, 0)), -0.4 / up
        meets_side = (square > 0) & (abs(1 + side * up - 0.3) < 0.3)
        hits.append((np.where(meets_side, side, np.inf), (190, 25, 30)))
        hits.append((np.where(abs(top - axis) < 0.25 / abs(ray), top, np.inf), (245, 95, 85)))
    times = np.stack([np.where(times > 0, times, np.inf) for times, _ in hits])
    return np.uint8([colour for _, colour in hits])[times.argmin(axis=0)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("room", [8.0, 5.0])
@pytest.mark.parametrize("size", [(16, 32), (32, 64), (24, 40), (600, 9)])
def test_health_every_pixel_is_what_a_pinhole_camera_sees(size, room):
    rng, n = np.random.default_rng(0), 24
    env = CollectHealthVectorEnv(n, n_boxes=7, room=room, view_height=size[0], view_width=size[1])
    env.reset(seed=0)
    env.turns = np.arange(n) % 12
    for i in range(n):  # half of them at a wall, a third within a box, some of these at its centre
        env.position[i] = rng.uniform(0.5, room - 0.5, 2) if i % 2 else (rng.uniform(1, 4), 0.3)
        boxes = [env.position[i] + 0.05 * (i % 4)] if i % 3 == 0 else []
        while len(boxes) < 7:  # most of them ahead, some behind; none overlaps another in space
            angle = env._heading()[i] + rng.normal(0, 0.5) + rng.choice([0, 0, 0, np.pi])
            box = env.position[i] + rng.uniform(0, 5) * np.array([np.cos(angle), np.sin(angle)])
            apart = all(np.hypot(*(box - other)) > 0.5 for other in boxes)
            if apart and (abs(box - room / 2) < room / 2 - 0.25).all():
                boxes.append(box)
        env.boxes[i] = rng.permutation(boxes)
        env.present[i, 0] = False  # collected
    obs = env._observe()
    assert all(env.observation_space[view].contains(obs[view]) for view in obs)
    for i in range(n):
        assert (obs["student"][i] == traced_picture(env, i)).all()


def health_room(position, heading, boxes, **arguments):
    """One room with the agent and the boxes at given places, ready to step."""
    env = CollectHealthVectorEnv(1, n_boxes=len(boxes), **arguments)
    env.reset(seed=0)
    env.position[0], env.first_heading[0], env.boxes[0] = position, heading, boxes
    return env


@pytest.mark.parametrize("size", [(16, 32), (24, 40), (64, 16), (8, 500)])
def test_health_rendering_shows_map_camera_and_the_students_pixels(size):
    arguments = dict(render_mode="rgb_array", view_height=size[0], view_width=size[1])
    env = health_room((2, 4), 0, [(2.5, 3.5), (6, 3)], **arguments)
    student = env.step(np.array([0]))[0]["student"][0]
    (frame,) = env.render()
    assert frame.shape == (384, 768, 3) and frame.dtype == np.uint8
    row, column = np.arange(192)[:, None] * size[0] // 192, np.arange(384) * size[1] // 384
    picture = student[row, column]
    assert (frame[194:, 384:] == picture[2:]).all()
    assert (frame[:190, 384:] == picture[:190]).all(axis=2).mean() > 0.9  # sharper, the same view
    for x, y, colour in [(2.55, 4, [35, 70, 190]), (6, 3, [245, 95, 85]), (2.5, 3.5, [205] * 3)]:
        east, south = int((x + 0.24) / 8.48 * 384), int((8.24 - y) / 8.48 * 384)
        assert frame[south, east].tolist() == colour  # agent, box, collected box


def test_health_starts_anywhere_but_near_the_walls():
    env = CollectHealthVectorEnv(500, room=5.0)
    env.reset(seed=0)
    for xy in (env.position, env.boxes.reshape(-1, 2)):
        assert xy.min(axis=0) == pytest.approx([1, 1], abs=0.05)
        assert xy.max(axis=0) == pytest.approx([4, 4], abs=0.05)
    assert (np.histogram(env._heading(), 12, (0, 2 * np.pi))[0] > 20).all() and env.present.all()


def test_health_moves_are_relative_to_the_heading_and_8_turns_left():
    for turns, action in [(turns, action) for turns in (0, 11) for action in range(10)]:
        env = health_room((4, 4), 0.7, [(1, 1)])
        env.turns[0] = turns
        env.step(np.array([action]))
        before = 0.7 + turns * np.pi / 6  # counter-clockwise
        move = 0.5 * np.exp(1j * (before + action * np.pi / 4)) * (action < 8)
        assert complex(*env.position[0]) == pytest.approx(4 + 4j + move)
        after = before + {8: np.pi / 6, 9: -np.pi / 6}.get(action, 0)
        assert np.exp(1j * env._heading()[0]) == pytest.approx(np.exp(1j * after))


def test_health_collects_within_60_cm_and_succeeds_with_the_last_box():
    for y, reward, left in [((0.599, -3), 0.99, [0, 1]), ((0.601, -3), -0.01, [1, 1]),
                            ((0.5, -0.5), 1.99, [0, 0])]:  # fmt: skip
        env = health_room((4, 4), 0, [(4.5, 4 + y[0]), (4.5, 4 + y[1])])
        obs, *result, info = env.step(np.array([0]))
        success = sum(left) == 0
        assert result == [pytest.approx(reward), success, False]
        assert info["is_success"] == success and env.present[0].tolist() == left
        assert obs["teacher"][0, [0, 6]].tolist() == sorted(left, reverse=True)
    env.reset()
    assert env.present.all()


def test_health_wall_within_30_cm_ends_the_episode_and_collects_nothing():
    for wall, turns in [((8, 4), 0), ((4, 8), 3), ((0, 4), 6), ((4, 0), 9)]:
        inward = np.sign(4 - np.array(wall))
        for distance, reward in [(0.799, -1.01), (0.801, 0.99)]:
            env = health_room(wall + distance * inward, 0, [wall + 0.5 * inward])
            env.turns[0] = turns
            result = env.step(np.array([0]))
            assert result[1] == pytest.approx(reward)
            assert result[2] and result[4]["is_success"] == (reward > 0)


def test_health_teacher_features_equal_a_direct_rotation():
    env = CollectHealthVectorEnv(1)
    env.reset(seed=5)
    env.turns[0], env.present[0, 2] = 4, False
    view, angle = env._teacher_view()[0], env.first_heading[0] + 4 * np.pi / 6
    boxes = [(complex(*(b - env.position[0])) * np.exp(-1j * angle)) for b in env.boxes[0]]
    boxes = np.array(sorted(np.delete(boxes, 2), key=abs))
    x, y, far = boxes.real, boxes.imag, abs(boxes)
    wanted = np.stack([np.ones(4), x / 8, y / 8, far / 8, x / far, y / far], axis=1)
    x, y = env.position[0]
    pose = [x / 4 - 1, y / 4 - 1, np.cos(angle), np.sin(angle)]
    assert view[:34] == pytest.approx([*wanted.ravel(), *[0] * 6, *pose], abs=1e-6)
    ray = np.exp(1j * (angle + np.arange(4) * np.pi / 2))
    to_walls = np.stack([-x / ray.real, (8 - x) / ray.real, -y / ray.imag, (8 - y) / ray.imag])
    assert view[34:] * 8 == pytest.approx(np.where(to_walls > 0, to_walls, 99).min(axis=0))


def test_health_a_greedy_teacher_solves_it():
    def nearest(obs):
        bearing = np.arctan2(obs["teacher"][:, 5], obs["teacher"][:, 4])
        return np.rint(bearing / (np.pi / 4)).astype(int) % 8

    assert play(CollectHealthVectorEnv(64), nearest).mean() > 0.95
