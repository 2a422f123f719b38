"""Every test compares the code with something else: hand values, plain loops, a scripted player."""

import copy
import csv
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from matplotlib.figure import Figure
from torch.distributions import Categorical, Independent, Normal, kl_divergence

import tsalign
from collecthealth import CollectHealthEnv, CollectHealthVectorEnv
from tsalign import METHODS, Config
from tunnelvision import TunnelVisionEnv, TunnelVisionVectorEnv

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16)
SMALL |= dict(eval_episodes=8, log_episodes=8)
SMALL_FLAGS = [x for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", v)]


class CueEnv(gym.Env):
    """Three times in a row, answer with the shown cue; `fault` names what goes wrong on the way."""

    def __init__(self, fault="", actions=None):
        view = Box(0, 1, (3,), np.float32)
        views = {"teacher": view} if fault == "one view" else {"teacher": view, "student": view}
        self.observation_space = Dict(views)
        self.action_space = actions or Discrete(2, start=1)
        self.fault, self.total = fault, 0

    def observe(self):
        self.cue, secret = self.np_random.integers(2), self.np_random.random()
        teacher, student = ([self.cue == 0, self.cue == 1, x] for x in (secret, 0))
        too_long = self.fault == "first shape" or (self.fault == "shape" and self.total > 40)
        return {"teacher": np.float32(teacher), "student": np.float32(student + [0] * too_long)}

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
        if self.fault in ("bug", "ctrl-c") and self.total > 40:
            raise RuntimeError("the user's own") if self.fault == "bug" else KeyboardInterrupt
        reward = math.nan if self.fault == "nan" and self.total > 40 else float(is_right)
        ended = (not is_right or self.right == 3) and self.fault != "never"
        success = {"text": "yes", "none": None}.get(self.fault, self.right == 3)
        tells = ended and self.fault != "silent"  # some tell it only then, or only of a success
        tells = tells and (success or self.fault != "seldom")
        return self.observe(), reward, ended, False, {"is_success": success} if tells else {}


register = partial(gym.register, entry_point=CueEnv)
FAULTS = "nan,one view,shape,first shape,bug,ctrl-c,never,text,none,seldom"
for fault in FAULTS.split(","):
    register(f"Cue{fault.replace(' ', '')}-v0", kwargs={"fault": fault})
register("Cue-v0", vector_entry_point=lambda num_envs, **_: SyncVectorEnv([CueEnv] * num_envs))
register("CueBox-v0", kwargs={"actions": Box(4, 6, (2,)), "fault": "silent"})
register("CueUnbounded-v0", kwargs={"actions": Box(-np.inf, np.inf, (1,))})


class RecordingEnv(TunnelVisionVectorEnv):
    """Keeps its seeds and (obs, action, reward, terminated, truncated, true next obs) of a step."""

    def reset(self, **arguments):
        if "seed" in arguments:
            self.seeds = [*getattr(self, "seeds", []), arguments["seed"]]
        self.obs, info = super().reset(**arguments)
        return self.obs, info

    def step(self, actions):
        before, result = self.obs, super().step(actions)
        self.obs = result[0]
        self.log = [*getattr(self, "log", []), (before, actions, *result[1:4], self.obs)]
        return result


class FixedEndsEnv(RecordingEnv):
    """Sub-environment i ends after i + 1 steps of reward 1, with success where i is even."""

    def step(self, actions):
        self.blocked[:] = False
        obs, *_ = super().step(np.full(self.num_envs, 4))
        self.done, is_even = self.steps > self.index, self.index % 2 == 0
        ends = self.done & is_even, self.done & ~is_even
        return obs, np.ones(self.num_envs), *ends, {"is_success": is_even}


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


def spy(monkeypatch, owner, name):
    """The arguments of all calls of `owner.name` from now on."""
    calls, real = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *x, **named: (calls.append(x), real(*x, **named))[1])
    return calls


# --- Are the losses those of Eq. (6) to (10)? -----------------------------------------------------


def test_eq6_equals_a_double_loop_in_value_and_gradients():
    torch.manual_seed(0)
    inputs = [torch.randn(5, 3), torch.randn(5, 3), torch.tensor(4.0)]
    zt, zs, inverse_temperature = (x.requires_grad_() for x in inputs)
    total = 0.0
    for i in range(5):
        to_student = [torch.exp(inverse_temperature * (zt[i] * zs[j]).sum()) for j in range(5)]
        to_teacher = [torch.exp(inverse_temperature * (zt[j] * zs[i]).sum()) for j in range(5)]
        for terms in (to_student, to_teacher):
            total = total - torch.log(terms[i] / sum(terms)) / 10
    loss = tsalign.info_nce_loss(*inputs)
    assert loss.item() == pytest.approx(total.item())
    pairs = zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(total, inputs))
    assert all(torch.allclose(a, b, atol=1e-6) and a.abs().max() > 1e-3 for a, b in pairs)


def test_eq7_to_eq10_by_hand_and_the_logits_before_are_constants():
    z_teacher, z_student = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[0.6, 0.8], [0, -1]])
    assert tsalign.alignment_loss(z_teacher, z_student).item() == pytest.approx((0.4 + 2) / 2)
    logits = [[1.0, 2], [0.0, 0], [1.0, 5], [1.0, -1]]  # teacher, student, the same before
    logits = [torch.tensor([x], requires_grad=True) for x in logits]
    loss = tsalign.stability_loss(*logits)
    assert loss.item() == pytest.approx((0 + 9 + 1 + 1) / 4)
    loss.backward()
    assert logits[0].grad.tolist() == [[0, -1.5]] and logits[1].grad.tolist() == [[-0.5, 0.5]]
    assert logits[2].grad is None and logits[3].grad is None
    assert tsalign.embedding_loss(*torch.tensor([1.0, 2, 3]), 10, 0.1).item() == pytest.approx(21.3)
    kl = tsalign.imitation_kl(*(Categorical(torch.tensor([p, 1 - p])) for p in (0.5, 0.9)))
    assert kl.item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


# --- Do the networks see and say what they should? ------------------------------------------------


def first_input(encoder, obs):
    """What the first layer with weights is given, and the embedding."""
    layer = next(x for x in encoder.modules() if hasattr(x, "weight"))
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z = encoder(obs)
    return seen[0], z


def test_inputs_with_bounds_are_mapped_to_minus_1_to_1_and_others_stay():
    low, high = np.float32([0, -2, -np.inf, 0]), np.float32([1, 2, np.inf, 1e9])
    encoder = tsalign.Encoder(Box(low, high), Config())
    seen, z = first_input(encoder, torch.tensor([[0.25, 1, 7, 5]]))
    assert seen.tolist() == [[-0.5, 0.5, 7, 5]] and z.norm().item() == pytest.approx(1)
    images = torch.randint(256, (5, 4, 8, 3), dtype=torch.uint8)  # (B, H, W, C)
    seen, z = first_input(tsalign.Encoder(Box(0, 255, (4, 8, 3), np.uint8), Config()), images)
    assert seen.shape == (5, 3, 4, 8)
    for y, x in np.ndindex(4, 8):
        assert torch.allclose(seen[:, :, y, x], images[:, y, x] / 127.5 - 1, atol=1e-6)
    assert torch.allclose(z.norm(dim=-1), torch.ones(5)) and (z < 0).any()


def test_the_first_policy_is_flat_and_the_first_values_are_of_unit_size():
    nets = tsalign.Networks(TunnelVisionVectorEnv(1), Config(inverse_temperature=7))
    heads = nets.critic, nets.policy
    z = torch.nn.functional.normalize(torch.randn(200, nets.policy.net[0].in_features))
    size_of_value, size_of_logit = (head(z).norm() / head(z).numel() ** 0.5 for head in heads)
    assert 0.2 < size_of_value < 2 and 0.002 < size_of_logit < 0.02
    assert nets.critic(0 * z).eq(0).all() and (nets.policy(z) < 0).any()
    assert nets.log_inverse_temperature.exp().item() == pytest.approx(7)


def test_what_goes_to_the_environment_and_comes_back():
    obs = np.zeros(2, np.float32)
    envs = tsalign.make_envs("test_tsalign:Cue-v0", 2)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    kept, obs[:] = tsalign.to_tensor(obs, "cpu"), 1
    assert kept.tolist() == [0, 0]
    assert tsalign.to_tensor(np.zeros(2, np.uint8), "cpu").dtype == torch.uint8
    box = Box(np.float32([-2, 0]), np.float32([2, 10]))
    action = tsalign.to_env_action(box, torch.tensor([[0.5, -1.0], [3.0, -9.0], [0, 0]]))
    assert action.tolist() == [[1, 0], [2, 0], [0, 5]]
    assert tsalign.to_env_action(Discrete(3, start=5), torch.tensor([0, 2])).tolist() == [5, 7]
    _, _, _, rollout = one_rollout(env="test_tsalign:CueBox-v0", num_envs=16)
    noise = (rollout.action - rollout.logits_teacher).flatten()  # what is kept was not clipped
    assert noise.std().item() == pytest.approx(1, abs=0.15) and abs(noise.mean()) < 0.15


@pytest.mark.parametrize("method", ["ours", "bc"])
def test_both_agents_draw_their_actions_and_bc_has_a_head_for_each(method):
    config, nets, _, _ = one_rollout(method, num_envs=64)
    chances = {"policy": [0.5, 0.3, 0.2, 0, 0, 0, 0, 0], "student_policy": [1 / 8] * 8}
    for name in chances.keys() & dict(nets.named_children()).keys():
        last = getattr(nets, name).net[-1]
        last.weight.data[:], last.bias.data[:] = 0, torch.tensor(chances[name]).add(1e-9).log()
    student = "student_policy" if method == "bc" else "policy"
    for agent, head in (("collects", "policy"), ("teacher", "policy"), ("student", student)):
        envs = RecordingEnv(64, max_episode_steps=16)
        obs, _ = envs.reset()
        if agent == "collects":
            tsalign.collect(envs, obs, nets, 16)
        else:
            tsalign.play_episodes(envs, nets, agent, 4, 0, 16)
        actions = np.concatenate([step[1] for step in envs.log])
        shares = np.bincount(actions, minlength=8) / len(actions)
        assert shares == pytest.approx(np.array(chances[head]), abs=0.08)


def test_collect_keeps_the_true_next_view_and_never_uses_the_student():
    calls, envs = [], RecordingEnv(8, max_episode_steps=2)
    config, nets, _, _ = one_rollout(envs=envs, num_envs=8)
    envs.log, last = [], envs.obs
    hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: calls.append(m))
    rollout, last = tsalign.collect(envs, last, nets, 16)
    hook.remove()
    assert nets.teacher in calls and nets.student not in calls and last is envs.obs
    assert not any(x.requires_grad for x in rollout)
    obs, action, reward, terminated, truncated, next_obs = (np.array(x) for x in zip(*envs.log))
    assert np.any(truncated) and np.any(terminated)
    expected = dict(action=action, reward=np.float32(reward), terminated=terminated)
    expected |= dict(done=terminated | truncated)
    for view in tsalign.AGENTS:
        expected[f"obs_{view}"] = np.stack([o[view] for o in obs])
    for name, values in expected.items():
        assert (getattr(rollout, name).numpy() == values).all()
    with torch.no_grad():
        next_views = torch.tensor(np.stack([o["teacher"] for o in next_obs]))
        for kept, views in ((rollout.z_teacher, rollout.obs_teacher), (rollout.z_next, next_views)):
            assert torch.allclose(kept.flatten(0, 1), nets.teacher(views.flatten(0, 1)), atol=1e-6)
        assert torch.allclose(rollout.logits_teacher, nets.policy(rollout.z_teacher), atol=1e-5)


# --- Is PPO what its paper says? ------------------------------------------------------------------


def test_gae_equals_an_explicit_sum_over_the_rest_of_the_episode():
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 7, 3)
    terminated, truncated = torch.zeros(2, 7, 3, dtype=torch.bool)
    terminated[2, 0] = truncated[4, 0] = truncated[3, 1] = terminated[6, 2] = True
    done, expected = terminated | truncated, torch.zeros(7, 3)
    for n in range(3):
        for t in range(7):
            for k in range(t, 7):
                future = 0 if terminated[k, n] else 0.9 * next_values[k, n]
                expected[t, n] += (0.9 * 0.8) ** (k - t) * (rewards[k, n] + future - values[k, n])
                if done[k, n]:
                    break
    advantages = tsalign.gae(rewards, values, next_values, terminated, done, 0.9, 0.8)
    assert torch.allclose(advantages, expected, atol=1e-6)


def test_minibatches_are_shuffled_anew_in_each_pass_and_the_last_may_be_a_part():
    _, _, _, rollout = one_rollout()
    batches = tsalign.minibatches(rollout.flat(), 32, 2)
    first, second = torch.cat(batches[:2]), torch.cat(batches[2:])
    assert [len(i) for i in batches] == [32] * 4 and not torch.equal(first, second)
    for order in (first, second):
        assert not torch.equal(order, torch.arange(64))
        assert torch.equal(order.sort()[0], torch.arange(64))
    for size, epochs, lengths in [(32, 0.5, [32]), (32, 1.5, [32] * 3), (32, 0.01, [32]),
                                  (63, 1, [63]), (60, 1, [60, 4])]:  # fmt: skip
        assert [len(i) for i in tsalign.minibatches(rollout.flat(), size, epochs)] == lengths


# --- Which loss reaches which network, and is each step that of its gradient? ---------------------
# Each phase takes two steps over all pairs; before each, the gradients are compared with those of
# the whole loss written down again, without its pieces.

PPO, PPO_AND_ENCODER = ["policy", "critic"], ["policy", "critic", "teacher"]
PHASE_ONE = ["teacher", "student", "log_inverse_temperature"]
ARROWS = [  # phase, method, who learns, the weights that it reads
    ("policy", "ours", PPO, {}),  # Section IV: not through the encoders
    ("policy", "no-align", PPO, {}),
    ("policy", "no-stability", PPO, {}),
    ("policy", "policy-gradient", PPO_AND_ENCODER, {}),
    ("policy", "bc", PPO_AND_ENCODER, {}),
    ("policy", "sitt", PPO_AND_ENCODER, {"sitt_lambda1": 0.7, "sitt_lambda2": 2.0}),
    ("student", "ours", PHASE_ONE, {"lambda_align": 3.0, "lambda_stab": 50.0}),
    ("student", "no-align", PHASE_ONE, {"lambda_stab": 50.0}),
    ("student", "no-stability", PHASE_ONE, {"lambda_align": 3.0}),
    ("student", "policy-gradient", PHASE_ONE, {"lambda_align": 3.0, "lambda_stab": 50.0}),
    ("student", "bc", ["student", "student_policy"], {}),
    ("student", "sitt", ["student", "proxy"], {}),
]


def distribution(head, z):
    if head.log_std is None:
        return Categorical(logits=head(z))
    return Independent(Normal(head(z), head.log_std.exp()), 1)


def policy_by_hand(method, nets, first, rollout, learners, weights):
    """Phase two's losses and their sum. `first`: the networks with which the phase began."""
    steps, reward = rollout.flat(), rollout.reward
    with torch.no_grad():
        before = distribution(first.policy, steps.z_teacher)
        if method == "sitt":
            proxy = distribution(first.policy, first.proxy(steps.obs_teacher))
            reward = reward - 0.7 * kl_divergence(before, proxy).view_as(reward)
        values = [first.critic(z)[..., 0] for z in (rollout.z_teacher, rollout.z_next)]
        advantage = tsalign.gae(reward, *values, rollout.terminated, rollout.done, 0.9, 0.8)
        returns = (advantage + values[0]).flatten()
        advantage = (advantage - advantage.mean()).flatten() / advantage.std(correction=0)
    z = nets.teacher(steps.obs_teacher) if "teacher" in learners else steps.z_teacher
    policy = distribution(nets.policy, z)
    ratio = (policy.log_prob(steps.action) - before.log_prob(steps.action)).exp()
    gain = torch.minimum(ratio * advantage, ratio.clip(0.9, 1.1) * advantage)
    losses = {"policy_loss": -gain.mean(), "entropy": policy.entropy().mean()}
    losses["value_loss"] = (nets.critic(z)[:, 0] - returns).square().mean()
    coefficient = 0.2 + 0.5**2 * (0.4 - 0.2)  # half of the training is still to come
    total = losses["policy_loss"] + 0.3 * losses["value_loss"] - coefficient * losses["entropy"]
    if method == "sitt":
        losses["penalty"] = kl_divergence(policy, proxy).mean()
        total = total + 2 * losses["penalty"]
    return losses, total


def student_by_hand(method, nets, first, rollout, learners, weights):
    """The same for what follows PPO."""
    steps = rollout.flat()
    z_teacher, z_student = nets.teacher(steps.obs_teacher), nets.student(steps.obs_student)
    if method == "bc":
        policy = distribution(nets.student_policy, z_student)
        losses = {"imitation": -policy.log_prob(steps.action).mean()}
        return losses, losses["imitation"]
    if method == "sitt":

        def distance(z, target):
            logits = nets.policy(z) - nets.policy(target.detach())
            return (z - target.detach()).abs().mean() + logits.abs().mean()

        losses = {"student_to_teacher": distance(z_student, z_teacher)}
        losses["proxy_to_student"] = distance(nets.proxy(steps.obs_teacher), z_student)
        return losses, sum(losses.values())
    inverse_temperature = nets.log_inverse_temperature.exp()
    losses = {"info_nce": tsalign.info_nce_loss(z_teacher, z_student, inverse_temperature)}
    losses["align"] = (1 - (z_teacher * z_student).sum(-1)).mean()
    z_before = torch.cat([steps.z_teacher, first.student(steps.obs_student)])
    change = nets.policy(torch.cat([z_teacher, z_student])) - nets.policy(z_before).detach()
    losses["stab"] = change.square().mean()
    names = {"lambda_align": "align", "lambda_stab": "stab"}
    total = losses["info_nce"] + sum(weights[k] * losses[names[k]] for k in weights)
    similarity = z_teacher @ z_student.T
    is_nearest = similarity.diagonal() > similarity.amax(1) - 1e-4  # or as near as the nearest
    return losses | {"match": is_nearest.float().mean()}, total


@pytest.mark.parametrize("method", ["ours", "policy-gradient"])
def test_eq_8_compares_with_the_networks_at_the_beginning_of_its_phase(method):
    config, nets, (policy_optimizer, optimizer), rollout = one_rollout(method, encoder_lr=0)
    tsalign.train_policy(nets, policy_optimizer, rollout, config)  # which may have moved E_T
    assert tsalign.train_embedding(nets, optimizer, rollout, config)["stab"] < 1e-8


@pytest.mark.parametrize("env", ["tunnelvision", "collecthealth", "test_tsalign:CueBox-v0"])
@pytest.mark.parametrize("phase, method, learners, weights", ARROWS)
def test_each_step_follows_the_gradient_of_its_loss(
    phase, method, learners, weights, env, monkeypatch
):
    passes = 0.5 if method == "bc" else 2.0  # its student learns in a quarter of the cycles
    config, nets, optimizers, rollout = one_rollout(
        method, TunnelVisionVectorEnv(4, max_episode_steps=5) if env == "tunnelvision" else None,
        env=env, ppo_batch=64, ppo_epochs=2, encoder_batch=64, encoder_epochs=passes, gamma=0.9,
        gae_lambda=0.8, clip=0.1, value_coef=0.3, entropy_coef=0.4, entropy_end=0.2,
        max_grad_norm=0.3, ppo_lr=0.004, encoder_lr=0.002, **weights,
    )  # fmt: skip
    by_hand = policy_by_hand if phase == "policy" else student_by_hand
    train = partial(tsalign.train_policy, remaining=0.5)
    train = train if phase == "policy" else METHODS[method].train_student
    optimizer, taken = optimizers[phase == "student"], []

    def keep(*_):  # the networks and their gradients before a step
        grads = {k: p.grad.clone() for k, p in nets.named_parameters() if p.grad is not None}
        taken.append((copy.deepcopy(nets), grads))

    optimizer.register_step_pre_hook(keep)
    shuffled = spy(monkeypatch, tsalign, "minibatches")
    returned = train(nets, optimizer, rollout, config)
    assert [arguments[1:] for arguments in shuffled] == [(64, 2)] and len(taken) == 2

    logs = []
    for now, grads in taken:
        copied = copy.deepcopy(now)
        losses, total = by_hand(method, copied, taken[0][0], rollout, learners, weights)
        total.backward()
        logs.append(losses)
        expected = {k: p.grad for k, p in copied.named_parameters() if k.split(".")[0] in learners}
        norm = torch.cat([g.flatten() for g in expected.values()]).norm()
        scale = min(1, 0.3 / norm) if phase == "policy" else 1
        assert grads.keys() == expected.keys()
        for k in expected:
            assert torch.allclose(grads[k], scale * expected[k], rtol=1e-3, atol=1e-5), k
    for k in logs[0]:
        assert returned[k] == pytest.approx((logs[0][k] + logs[1][k]).item() / 2, rel=1e-3), k
    first, second = (dict(x.named_parameters()) for x, _ in taken)
    moved = {k: (second[k] - first[k]).abs().max().item() for k in first}
    assert {k for k, most in moved.items() if most > 0} == expected.keys()
    assert max(moved.values()) == pytest.approx(0.004 if phase == "policy" else 0.002, rel=0.01)


def test_critic_and_proxy_see_all_steps_in_their_order(monkeypatch):
    config, nets, (optimizer, _), rollout = one_rollout("sitt", ppo_batch=16, sitt_lambda1=0.7)
    steps, first = rollout.flat(), copy.deepcopy(nets).requires_grad_(False)
    assert len(steps.reward) == 64  # four minibatches
    proxy = distribution(first.policy, first.proxy(steps.obs_teacher))
    penalty = kl_divergence(distribution(first.policy, steps.z_teacher), proxy)
    values = [first.critic(z)[:, 0] for z in (steps.z_teacher, steps.z_next)]
    calls = spy(monkeypatch, tsalign, "gae")
    tsalign.train_policy(nets, optimizer, rollout, config)
    for given, wanted in zip(calls[0], [steps.reward - 0.7 * penalty, *values]):
        assert torch.allclose(given.flatten(), wanted, atol=1e-6)


def test_the_inverse_temperature_is_clamped_at_100():
    config, nets, (_, optimizer), rollout = one_rollout()
    nets.log_inverse_temperature.data.fill_(6.0)
    losses = tsalign.train_embedding(nets, optimizer, rollout, config)
    assert losses["inverse_temperature"] == pytest.approx(100)


def test_alignment_sets_in_after_its_delay(monkeypatch):
    config = Config(lambda_align=8, align_delay=0.4)
    weights = [tsalign.delay_alignment(config, k / 10).lambda_align for k in (0, 4, 5, 6, 10)]
    assert weights == pytest.approx([0, 0, 4, 8, 8])
    row = METHODS["ours"]._replace(settings=tsalign.NO_EQ_10 | {"lambda_align": 5.0})
    monkeypatch.setitem(METHODS, "fixed", row)
    for config in (Config(env="collecthealth"), Config(method="no-align"), Config(method="fixed")):
        assert tsalign.delay_alignment(config, 0) == tsalign.delay_alignment(config, 1) == config


# --- Does an evaluation count what it should? -----------------------------------------------------


def test_the_student_never_touches_the_teacher_view():
    envs, (_, nets, _, _) = TunnelVisionVectorEnv(4), one_rollout()
    observe, nothing = envs._observe, {"teacher": np.full((4, 66), np.nan)}
    envs._observe = lambda: observe() | nothing
    assert len(tsalign.play_episodes(envs, nets, "student", 1, 3, 1000)[0]) == 4
    with pytest.raises(RuntimeError, match="nan"):
        tsalign.play_episodes(envs, nets, "teacher", 1, 3, 1000)


def test_evaluation_counts_short_and_long_episodes_alike():
    envs, (_, nets, _, _) = FixedEndsEnv(6), one_rollout()
    score = tsalign.evaluate(envs, nets, 20, seed=3, limit=6)  # 24: four of each sub-environment
    assert score["success_teacher"] == score["success_student"] == 0.5 and score["gap"] == 0
    assert score["return_teacher"] == score["return_student"] == 3.5 and envs.seeds == [3, 3]
    assert score["return_student_se"] == pytest.approx(np.arange(1, 7).std() / 24**0.5)
    with pytest.raises(tsalign.BadInput, match="goes on after 5 steps"):
        tsalign.evaluate(envs, nets, 6, seed=0, limit=5)


def test_each_agent_gets_its_own_score(monkeypatch):
    played = {"teacher": np.array([[3.0, 5], [1, 1]]), "student": np.array([[1, 2], [np.nan, 1]])}
    monkeypatch.setattr(tsalign, "play_episodes", lambda envs, nets, agent, *_: played[agent])
    score = tsalign.evaluate(FixedEndsEnv(6), None, 6, seed=0)
    expected = dict(success_teacher=1, success_student=0.5, return_teacher=4, return_student=1.5)
    assert expected.items() <= score.items() and score["gap"] == 0.5  # not reported: no success
    for agent in played:
        played[agent][1] = np.nan
    score = tsalign.evaluate(FixedEndsEnv(6), None, 6, seed=0)
    assert score["gap"] == 2.5 and "success_teacher" not in score


# --- Does `train` do the right things in the right order? -----------------------------------------


def run_loop(monkeypatch, method, **settings):
    """A run that neither steps nor learns: its result, the order of its calls, and each call."""
    order, calls = [], {}

    def fake(name, function):
        def call(*arguments):
            lr = arguments[1].param_groups[0]["lr"] if name in ("policy", "student") else None
            result = function(*arguments)
            order.append(name[0])
            calls.setdefault(name, []).append((arguments, result, lr))
            return result

        return call

    score = dict(gap=0.25, success_teacher=0.75, success_student=0.5)
    student = fake("student", lambda *_: {"imitation": 3.0})
    monkeypatch.setitem(METHODS, method, METHODS[method]._replace(train_student=student))
    collect = fake("collect", lambda *_: (f"rollout {len(order)}", f"obs {len(order)}"))
    monkeypatch.setattr(tsalign, "make_envs", fake("make", lambda name, n: RecordingEnv(n)))
    monkeypatch.setattr(tsalign, "collect", collect)
    monkeypatch.setattr(tsalign, "train_policy", fake("policy", lambda *_: {"entropy": 2.0}))
    monkeypatch.setattr(tsalign, "evaluate", fake("evaluate", lambda *_: score))
    return tsalign.train(Config(method=method, **settings)), "".join(order), calls


@pytest.mark.parametrize(
    "method, order, n_policy, weights",
    [("ours", "mm cpscpscpse cpscpscpse cpscpse", 8, [0, 0, 0.5, 1, 1, 1, 1, 1]),
     ("bc", "mm cpcpcpe cpcpcpe cscse", 6, [0, 0])],
)  # fmt: skip
def test_the_loop_by_its_calls(method, order, n_policy, weights, tmp_path, monkeypatch):
    n_student = len(weights)
    settings = {**SMALL, "total_steps": 7 * 64 + 1, "log_evals": 3, "episode_limit": 77}
    settings |= dict(eval_episodes=10, log_episodes=3, ppo_lr=2.0, encoder_lr=1.0, threads=5)
    threads, drawn = [], []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for seed, out in ((0, tmp_path / "a"), (1, tmp_path / "b"), (0, tmp_path / "c")):
        with monkeypatch.context() as patch:
            result, called, calls = run_loop(patch, method, out=out, seed=seed, **settings)
        assert called == order.replace(" ", "") and threads.pop() == 5
        (_, envs, _), (_, eval_envs, _) = calls["make"]
        obs, rollouts = envs.obs, []
        for arguments, (rollout, following), _ in calls["collect"]:
            assert arguments[0] is envs and arguments[1] is obs
            rollouts, obs = [*rollouts, rollout], following
        for k, (arguments, _, lr) in enumerate(calls["policy"]):
            assert arguments[2] == rollouts[k] and lr == 2
            assert arguments[4] == pytest.approx(1 - k / n_policy)
        for k, (arguments, _, lr) in enumerate(calls["student"]):
            assert arguments[2] == rollouts[k - n_student]
            assert lr == pytest.approx(0.05 + 0.95 * (1 - k / n_student))
            expected = weights[k] * Config(method=method).lambda_align
            assert arguments[3].lambda_align == pytest.approx(expected)
        played = [arguments for arguments, *_ in calls["evaluate"]]
        assert [(x[0], x[2], x[4]) for x in played] == [(eval_envs, n, 77) for n in (3, 3, 10)]
        weight = played[0][1].policy.net[0].weight.sum().item()
        drawn.append([x[3] for x in played] + envs.seeds + [weight])
        log = (out / f"tunnelvision_{method}_seed{seed}" / "log.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in log] == ["env_steps", "192", "384", "512"]
        expected = dict(eval_episodes=12, env_steps=512, imitation=3, success_student=0.5)
        assert expected.items() <= result.items()
        assert (envs.num_envs, eval_envs.num_envs) == (4, 3)
    assert drawn[0] == drawn[2] and len({*drawn[0], *drawn[1]}) == 10  # the seed decides it all


@pytest.mark.parametrize("cuda, mps, best", [(0, 0, "cpu"), (0, 1, "mps"), (1, 1, "cuda")])
def test_the_best_device_is_taken(cuda, mps, best, monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert tsalign.pick_device("auto").type == best


# --- Does a run learn, leave its files, and refuse bad input? -------------------------------------


def run_main(*arguments):
    """`python tsalign.py ...` in this process -> exit code."""
    try:
        tsalign.main([str(x) for x in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.mark.parametrize("env, kind", [("Cue-v0", "success"), ("CueBox-v0", "return")])
def test_training_improves_an_environment_of_ones_own_and_loads_again(env, kind, tmp_path):
    flags = "--num-envs 16 --rollout-steps 32 --total-steps 8192 --ppo-batch 64 --width 32"
    flags += " --ppo-lr 0.003 --embedding-dim 8 --log-evals 1 --eval-episodes 128"
    assert run_main(*flags.split(), "--env", f"test_tsalign:{env}", "--out", tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert ("success_student" in result) == (kind == "success")
    config, nets = tsalign.load_run(folder)
    envs = tsalign.make_envs(config.env, 16)
    untrained = tsalign.evaluate(envs, tsalign.Networks(envs, config), 128, 5)
    loaded = tsalign.evaluate(envs, nets, 128, 5)
    most = 1 if kind == "success" else 3
    for agent in (f"{kind}_teacher", f"{kind}_student"):
        assert untrained[agent] < 0.4 * most and result[agent] > 0.6 * most
        assert loaded[agent] == pytest.approx(result[agent], abs=0.15 * most)


def test_a_run_leaves_its_files_and_is_not_overwritten(tmp_path, monkeypatch, capsys):
    score = dict(success_teacher=0.75, success_student=0.5, gap=0.25)
    score |= dict(return_teacher=2.0, return_student=1.0)
    monkeypatch.setattr(tsalign, "evaluate", lambda *_: dict(score))
    drawn, complete = spy(monkeypatch, Figure, "savefig"), []
    monkeypatch.setattr(Path, "replace", lambda *x: complete.append(os.listdir(folder)) or move(*x))
    move, folder = os.replace, tmp_path / "tunnelvision_bc_seed0"
    flags = ["--method", "bc", "--log-evals", 2, "--total-steps", 256, "--out", tmp_path]
    assert run_main(*flags, *SMALL_FLAGS) == 0
    output = capsys.readouterr().out
    _, head, first, last, _, *table, _ = output.splitlines()
    assert max(map(len, (head, first, last))) <= 80
    shown = dict(zip(head.split(), map(float, last.split())))
    assert (shown["teacher"], shown["student"], shown["gap"]) == (0.75, 0.5, 0.25)
    assert [row.split()[-3:] for row in table] == [
        ["teacher", "student", "gap"], ["0.750", "0.500", "0.250"], ["2.000", "1.000", "1.000"],
        ["1.000", "0.190", "0.810"],
    ]  # fmt: skip

    files = {"config.json", "log.csv", "checkpoint.pt", "curve.png", "result.json"}
    assert set(os.listdir(folder)) == files and files - {"result.json"} < set(*complete)
    assert "result.json" not in complete[0]  # it appears at once, when all else is there
    lines = {line.get_label(): list(line.get_ydata()) for line in drawn[0][0].axes[0].lines}
    assert lines == {"teacher": [0.75] * 2, "student": [0.5] * 2}
    result = json.loads((folder / "result.json").read_text())
    expected = dict(env="tunnelvision", method="bc", seed=0, eval_episodes=8, env_steps=256)
    assert (expected | score).items() <= result.items() and result["seconds"] > 0
    assert result["device"] in ("cpu", "cuda", "mps") and result["torch"] == torch.__version__
    config, nets = tsalign.load_run(folder)
    assert json.loads((folder / "config.json").read_text()) == tsalign.asdict(config)
    assert config.width == 16 and config.total_steps == 256
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["networks"]
    assert all(torch.equal(value, saved[k]) for k, value in nets.state_dict().items())
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    assert run_main(*flags, *SMALL_FLAGS) == 2 and "finished run" in capsys.readouterr().err
    assert kept == {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(tsalign.BadInput, match="no finished run"):
        tsalign.load_run(tmp_path)
    with tsalign.open_log(Config(out=tmp_path)):
        with pytest.raises(tsalign.BadInput, match="another process"):
            tsalign.open_log(Config(out=tmp_path))


def test_import_has_no_side_effect(tmp_path):
    here = os.path.dirname(os.path.abspath(tsalign.__file__))
    flags = ["--env", "collecthealth", "--out", "/dev/null/x"]  # found to be bad after all imports
    command = [sys.executable, "-B", f"{here}/tsalign.py", *flags]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == "" and not list(tmp_path.iterdir())
    assert run.stderr.startswith("tsalign: ") and run.stderr.count("\n") == 1


def test_settings_come_from_defaults_then_environment_then_method_then_flags(monkeypatch):
    monkeypatch.setitem(tsalign.ENV_SETTINGS, "tunnelvision", {"gamma": 0.5, "sitt_lambda1": 0.25})
    default = Config(env="Other-v0")
    assert Config().gamma == 0.5 and Config(gamma=0.75).gamma == 0.75 != default.gamma
    assert Config(method="sitt").sitt_lambda1 == 0.25 and Config().sitt_lambda1 == 0
    assert Config(method="sitt", sitt_lambda1=-1).sitt_lambda1 == -1
    assert Config(env="tunnelvision:TunnelVision-v0") == Config(env="tunnelvision")
    config = Config(env="a.b:C/D-v0", seed=np.int64(3), width=np.float64(8), out="x")
    assert config.folder == Path("x/a.b-C-D-v0_ours_seed3")
    assert type(config.seed) is type(config.width) is int
    with pytest.raises(tsalign.BadInput, match="unknown 'nosuch'"):
        Config(nosuch=1)
    with pytest.raises(AttributeError):
        config.seed = 4


BAD_FLAGS = {
    "--env nosuch-v0": "nosuch", "--env nosuch:Env-v0": "nosuch", "--env CartPole-v1": "teacher",
    "--env test_tsalign:Cueoneview-v0": "student", "--env test_tsalign:CueUnbounded-v0": "bounded",
    "--method nosuch": "nosuch", "--device nosuch": "nosuch", "--device cuda:99": "cuda:99",
    "--nosuch 1": "nosuch", "--num-envs 0": "num_envs", "--total-steps -5": "total_steps",
    "--rollout-steps 1": "rollout_steps", "--width x": "width", "--total-steps 1.5": "total-steps",
    "--encoder-batch 1": "encoder_batch", "--seed": "seed", "--lambda-align -1": "lambda_align",
    "--lambda-align nan": "lambda_align", "--gamma 2": "gamma", "--seed -1": "seed",
    "--out /dev/null/x": "/dev/null/x", "--device meta": "meta", "--env ..:X": "..:X",
    "--seed 18446744073709551616": "seed", "--method bc --lambda-align 3": "lambda_align",
    "--method no-align --lambda-align 5": "lambda_align", "--sitt-lambda1 1": "sitt_lambda1",
    "--method sitt --lambda-stab 1": "lambda_stab", "--align-delay 0.6": "align_delay",
    "--method no-align --align-delay 0.1": "align_delay", "--ppo-batch 1": "ppo_batch",
    "--encoder-epochs 0": "encoder_epochs",
}  # fmt: skip


@pytest.mark.parametrize("arguments, word", BAD_FLAGS.items())
def test_bad_input_gives_one_line_and_exit_code_2(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(*arguments.split()) == 2
    output = capsys.readouterr()
    assert output.err.startswith("tsalign: ") and output.err.count("\n") == 1
    assert word in output.err and output.out == "" and not list(tmp_path.iterdir())


def test_success_may_be_first_reported_late(tmp_path):
    few = SMALL | dict(log_episodes=1, log_evals=16, total_steps=1024, eval_episodes=64)
    tsalign.train(Config(env="test_tsalign:Cueseldom-v0", out=tmp_path, **few))
    (log,) = tmp_path.glob("*/log.csv")
    assert any(not row["success_teacher"] for row in csv.DictReader(log.read_text().splitlines()))
    assert 0 < json.loads((log.parent / "result.json").read_text())["success_student"] < 1


@pytest.mark.parametrize(
    "fault, code, words",
    [("nan", 1, ["value_loss", "Cuenan"]), ("shape", 1, ["student's view", "Cueshape"]),
     ("firstshape", 1, ["student's view", "stopped after 0 environment steps"]),
     ("never", 1, ["goes on"]), ("text", 1, ["'yes'"]), ("none", 1, ["None"]),
     ("ctrl-c", 130, ["interrupted"]), ("bug", None, ["Cuebug", "environment steps"])],
)  # fmt: skip
def test_what_goes_wrong_in_a_run_is_told_in_one_line(fault, code, words, tmp_path, capsys):
    flags = ["--env", f"test_tsalign:Cue{fault}-v0", "--out", tmp_path, *SMALL_FLAGS]
    flags += ["--total-steps", 2048, "--log-evals", 32, "--episode-limit", 50]
    if fault == "bug":  # keeps its traceback, with one line after it
        with pytest.raises(RuntimeError, match="the user's own") as caught:
            run_main(*flags)
        (error,) = caught.value.__notes__
    else:
        assert run_main(*flags) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1
    assert all(word in error for word in words)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "result.json").exists()


# --- Do both environments keep Gymnasium's promises, and are N at once the same as N alone? -------

TUNNEL = (TunnelVisionVectorEnv, TunnelVisionEnv)
HEALTH = (CollectHealthVectorEnv, CollectHealthEnv)
both = pytest.mark.parametrize("Vector, Single", [TUNNEL, HEALTH])


@both
def test_vector_equals_single_and_stays_in_its_spaces(Vector, Single):
    mode = {"autoreset_mode": AutoresetMode.DISABLED}
    fast, new, slow = Vector(5), Vector(5), SyncVectorEnv([Single] * 5, **mode)
    rng, episodes = np.random.default_rng(0), 0

    def check(a, b):
        assert all((a[view] == b[view]).all() for view in tsalign.AGENTS)
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
            check(a[0], b[0])  # what the step returned is not written over
        episodes += done.sum() * (not done.all())
    assert episodes > 10
    for arguments in [{"seed": [4, 9, 1, 0, 4]}, {}, {}, {}]:  # whatever came before the reset
        a, b, c = (envs.reset(**arguments)[0] for envs in (fast, slow, new))
        check(a, b), check(a, c)
        assert (a["teacher"][0] == a["teacher"][4]).all()
    assert (a["teacher"][0] != a["teacher"][1]).any()


@pytest.mark.parametrize(
    "name, limit, teacher, student",
    [("TunnelVision-v0", 100, (66,), (61,)), ("CollectHealth-v0", 300, (38,), (16, 32, 3))],
)
@pytest.mark.filterwarnings("error")
def test_the_registered_environment_is_sound_and_has_its_time_limit(name, limit, teacher, student):
    env = gym.make(name, render_mode="rgb_array").unwrapped
    check_env(env)
    assert [env.observation_space[view].shape for view in tsalign.AGENTS] == [teacher, student]
    env.reset()
    ends = [env.step(env.action_space.n - 1)[2:4] for _ in range(limit)]  # it only turns
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


@both
def test_a_finished_sub_env_waits_for_its_reset(Vector, Single):
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


@pytest.mark.parametrize("Vector, bad", [(TUNNEL[0], COMMON + GRID), (HEALTH[0], COMMON + ROOM)])
def test_bad_arguments_actions_and_masks_are_named(Vector, bad):
    for name, value in bad:
        with pytest.raises(ValueError, match=name):
            Vector(**{name: value})
    env = Vector(2)
    env.reset(seed=0)
    for actions in [[0], [0, env.single_action_space.n], [-1, 0]]:
        with pytest.raises(ValueError, match="actions"):
            env.step(np.array(actions))
    for mask in [[True], [0, 1]]:
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": np.array(mask)})


# --- TunnelVision: is every layout solvable, by a student only if it looks? -----------------------

E, S, W, N, FACE_E, FACE_S, FACE_W, FACE_N = range(8)


def walk(view, looks):
    """A student's rules: position, heading, last action and the three cells ahead, nothing else."""
    (row, column), heading = divmod(view[:45].argmax(), 9), view[45:49].argmax()
    last, is_free = view[49:58].argmax(), view[59] == -1
    if column == 8:
        return S if row < 2 else N
    if column in (0, 1, 3, 5, 7) or not looks:
        return E
    if last == E and heading != E:
        return FACE_E
    if is_free or last == FACE_S:  # where it last looked or went
        return {FACE_E: E, FACE_N: N, FACE_S: S}.get(last, last)
    return {E: FACE_N, FACE_E: FACE_N, FACE_N: FACE_S}.get(last, E)


@pytest.mark.parametrize("looks, least, most", [(True, 1, 1), (False, 0, 0.05)])
def test_tunnel_a_student_that_looks_always_succeeds_and_a_blind_one_does_not(looks, least, most):
    envs = TunnelVisionVectorEnv(500)
    obs, _ = envs.reset(seed=0)
    over, success = np.zeros((2, 500), bool)
    while not over.all():
        actions = np.array([walk(view, looks) for view in obs["student"]])
        obs, _, terminated, truncated, info = envs.step(actions)
        success |= ~over & info["is_success"]
        over |= terminated | truncated
        obs, _ = envs.reset(options={"reset_mask": terminated | truncated})
    assert least <= success.mean() <= most


@pytest.mark.parametrize("density", [1.0, 0.8])
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
        assert 100 < n_layouts <= 125
    else:
        assert n_layouts > 250 and (reached != free).any()
        assert 0.4 < free[:, 1:-1, 1:-1].mean() < 0.55
    assert len(np.unique(envs.heading)) == 4


@pytest.mark.parametrize("heading, ahead", list(enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)])))
def test_tunnel_the_student_sees_the_three_cells_ahead_and_the_teacher_all_eight(heading, ahead):
    env = TunnelVisionVectorEnv(1, render_mode="rgb_array")
    env.reset(seed=0)
    env.position[0], env.heading[0] = (2, 4), heading
    clockwise = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    for k, (down, right) in enumerate(clockwise):
        env.blocked[0] = False
        env.blocked[0, 3 + down, 5 + right] = True
        teacher, student = np.full(8, -1), np.full(3, -1)
        teacher[k] = 1
        if is_ahead := ahead[0] * down + ahead[1] * right > 0:
            student[1 + ahead[1] * down - ahead[0] * right] = 1  # left, centre or right
        for view, cells in [("teacher", teacher), ("student", student)]:
            features = env._observe()[view][0]
            assert features[58:].tolist() == cells.tolist()
            assert np.flatnonzero(features[:58]).tolist() == [2 * 9 + 4, 45 + heading, 49 + 8]
        red, _, blue = env.render()[0][24::48, 24::48][3 + down, 5 + right]  # its centre
        assert (red > blue) == is_ahead  # the student's cells are tinted yellow


@pytest.mark.parametrize(
    "start, action, end, reward, terminated, success",
    [((2, 0), E, (2, 1), 0.09, False, False), ((2, 1), W, (2, 0), -0.11, False, False),
     ((1, 3), S, (2, 3), 0.09, False, False), ((2, 3), N, (1, 3), -0.11, False, False),
     ((2, 3), FACE_N, (2, 3), -0.01, False, False), ((2, 0), W, (2, 0), -1.01, True, False),
     ((2, 7), E, (2, 8), 1.09, True, True), ((4, 4), S, (4, 4), -1.01, True, False)],
)  # fmt: skip
def test_tunnel_steps_by_hand(start, action, end, reward, terminated, success):
    env = TunnelVisionVectorEnv(1, obstacle_density=0, max_episode_steps=1)  # no obstacles
    env.reset(seed=0)
    env.position[0], env.heading[0] = start, 0
    obs, *result, info = env.step(np.array([action]))
    assert env.position[0].tolist() == list(end)
    assert env.heading[0] == (3 if action == FACE_N else 0)
    assert [x[0] for x in result] == [pytest.approx(reward), terminated, not terminated]
    assert info["is_success"][0] == success and obs["student"][0, 49 + action] == 1


def test_tunnel_rendering_shows_start_goal_and_agent():
    text, picture = TunnelVisionEnv(render_mode="ansi"), TunnelVisionEnv(render_mode="rgb_array")
    for env in (text, picture):
        env.reset(seed=0)
        env.step(E)
        env.step(FACE_S)
    lines, frame = text.render().split("\n"), picture.render()
    assert [len(line) for line in lines] == [9] * 5 and lines[2][:2] + lines[2][8] == "SvG"
    # The centres of three cells: the agent is red, the goal green, the start bluish.
    assert frame[24::48, 24::48][[3, 3, 3], [2, 9, 1]].argmax(1).tolist() == [0, 1, 2]


# --- CollectHealth: is every pixel what a camera sees, and are the rules those of the docstring? --


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
    assert all((obs["student"][i] == traced_picture(env, i)).all() for i in range(n))


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
    env.step(np.array([0]))
    student = env.step(np.array([0]))[0]["student"][0]
    (frame,) = env.render()
    assert frame.shape == (384, 768, 3) and frame.dtype == np.uint8
    row, column = np.arange(192)[:, None] * size[0] // 192, np.arange(384) * size[1] // 384
    picture = student[row, column]
    assert (frame[194:, 384:] == picture[2:]).all()
    assert (frame[:190, 384:] == picture[:190]).all(axis=2).mean() > 0.9  # sharper, the same view
    places = {(3.05, 4): (35, 70, 190), (2.6, 4): (120, 150, 220)}  # the agent and its trail
    places |= {(6, 3): (245, 95, 85), (2.5, 3.5): (205, 205, 205)}  # a box, a collected one
    for (x, y), colour in places.items():
        east, south = int((x + 0.24) / 8.48 * 384), int((8.24 - y) / 8.48 * 384)
        assert tuple(frame[south, east]) == colour


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
    view, angle = env._observe()["teacher"][0], env.first_heading[0] + 4 * np.pi / 6
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
