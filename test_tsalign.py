"""Tests of tsalign.py, tunnelvision.py and collecthealth.py, in the order of the files.

Each test compares the code with something else: values by hand, plain loops, gradients of a
loss that is written down a second time, a ray tracer, a scripted player. No test needs
another.

A course can grade exercises with a part of them, for example `python -m pytest -k eq6`:
    eq6  eq7  eq8  eq9  eq10    the losses
    encoder  policy  critic     networks
    envs  collect  looks        environments, and what is collected in them
    phase_one                   the encoders' training
    gae  ppo  phase_two         the policy's training
    bc  sitt                    baselines
    arrow                       whom each loss moves, and whom not
    evaluation  loop            what is measured, and in which order
    refuse  stops               bad input, and runs that cannot go on
    tunnel  health              the two environments
"""

import ast
import copy
import csv
import inspect
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from matplotlib.figure import Figure
from torch.distributions import Categorical, Independent, Normal, kl_divergence

import tsalign
from collecthealth import CollectHealthEnv, CollectHealthVectorEnv
from tsalign import METHODS, BadInput, Config, Method, RunStopped
from tunnelvision import TunnelVisionEnv, TunnelVisionVectorEnv

HERE = Path(tsalign.__file__).parent
SMALL = {
    "num_envs": 4,
    "rollout_steps": 16,
    "embedding_dim": 8,
    "width": 16,
    "eval_episodes": 8,
    "log_episodes": 8,
}


# --- Environments for the tests: each is one thing that a user's may be -------------------


class Cue(gym.Env):
    """Answer with the cue: one step, two answers. The teacher also sees a random number."""

    observation_space = Dict(teacher=Box(0, 1, (3,)), student=Box(0, 1, (2,)))
    action_space = Discrete(2)
    n_steps = 0
    n_open = 0  # how many of all kinds are open

    def __init__(self):
        Cue.n_open += 1

    def close(self):
        Cue.n_open -= 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(2))
        return self.views(), {}

    def views(self):
        cue = np.eye(2, dtype=np.float32)[self.cue]
        noise = self.np_random.random(dtype=np.float32)
        return {"teacher": np.append(cue, noise), "student": cue}

    def step(self, action):
        self.n_steps += 1
        is_right = int(action) == self.cue
        return self.views(), float(is_right), True, False, {"is_success": is_right}


class Reach(Cue):
    """Name a point of a Box that is the same everywhere. It does not report success."""

    action_space = Box(np.float32([4, -1]), np.float32([6, 1]))

    def step(self, action):
        assert self.action_space.contains(action), action
        distance = np.abs(action - np.float32([5.5, 0.5])).sum()
        return self.views(), -float(distance), True, False, {}


class OddCue(Cue):
    """Attributes are replaced, or what a method returns, after so many steps."""

    def __init__(self, attributes=None, after=0, **functions):
        super().__init__()
        vars(self).update(attributes or {})
        self.after = after
        self.functions = functions  # a method's name -> what its result goes through

    def changed(self, method, result):
        if method not in self.functions or self.n_steps < self.after:
            return result
        return self.functions[method](result)

    def reset(self, *, seed=None, options=None):
        return self.changed("reset", super().reset(seed=seed))

    def views(self):
        return self.changed("views", super().views())

    def step(self, action):
        return self.changed("step", super().step(action))


class NotMade(Cue):
    def __init__(self):
        raise ValueError("the engine is missing")


class Drift(Cue):
    """Views without bounds, whose values grow all the time."""

    observation_space = Dict(
        teacher=Box(-np.inf, np.inf, (3,)), student=Box(-np.inf, np.inf, (2,))
    )

    def views(self):
        views = super().views()
        size = 100 + self.n_steps
        return {"teacher": size * views["teacher"], "student": size * views["student"]}


class Cameras(Cue):
    """A picture that is drawn only while somebody looks."""

    draw_student = True


class Spoken(Cue):
    """There is a third view, which is no array and of no concern to us."""

    observation_space = Dict(**Cue.observation_space, words=Dict(said=Box(0, 1, (1,))))

    def views(self):
        return {**super().views(), "words": {"said": np.float32([math.nan])}}


class ManyCues(gym.vector.VectorEnv):
    """A native vector form whose views have `size` entries and a negative stride."""

    autoreset_mode = AutoresetMode.DISABLED

    def __init__(self, num_envs, size=2):
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.single_observation_space = Dict(
            teacher=Box(0, 1, (size,)), student=Box(0, 1, (size,))
        )
        self.single_action_space = Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def views(self):
        view = np.linspace(0, 1, self.single_observation_space["teacher"].shape[0])
        batch = np.tile(np.float32(view), (self.num_envs, 1))
        return {"teacher": batch[:, ::-1], "student": batch[:, ::-1]}

    def reset(self, *, seed=None, options=None):
        return self.views(), {}

    def step(self, actions):
        ends = np.ones(self.num_envs, bool)
        return self.views(), np.ones(self.num_envs), ends, ~ends, {}


class ManyCuesThatResetThemselves(ManyCues):
    autoreset_mode = AutoresetMode.NEXT_STEP
    n_open = 0

    def __init__(self, num_envs):
        super().__init__(num_envs)
        ManyCuesThatResetThemselves.n_open += 1

    def close_extras(self, **_):
        ManyCuesThatResetThemselves.n_open -= 1


def with_views(**student):
    """A change of the views, as they are declared; the teacher's is as it was."""
    return {"attributes": {"observation_space": Dict(teacher=Box(0, 1, (3,)), **student)}}


def with_actions(space):
    """A change of the actions, as they are declared."""
    return {"attributes": {"action_space": space}}


def with_view(agent, values, after=0):
    """A change of one agent's view, as it is."""
    view = np.float32(values)
    return {"after": after, "views": lambda views: {**views, agent: view}}


def with_reward(value):
    """A reward that comes after some steps."""
    return {"after": 20, "step": lambda result: (result[0], value, *result[2:])}


def with_info(function):
    """A change of the info, which depends on what it was."""
    return {"step": lambda result: (*result[:4], function(result[4]))}


def raise_after_40_steps(error):
    """An exception of the user's, or Ctrl-C."""

    def fail(result):
        raise error

    return {"after": 40, "step": fail}


ODD_CUES = {
    "OneView": with_views(),
    "DiscreteView": with_views(student=Discrete(2)),
    "EmptyView": with_views(student=Box(0, 1, (0,))),
    "WrongType": with_views(student=Box(0, 255, (2,), np.uint8)),
    "WrongShape": with_view("student", [0, 0, 0]),
    "TupleOfViews": {"views": lambda views: tuple(views.values())},
    "UnboundedActions": with_actions(Box(-np.inf, np.inf, (1,))),
    "WholeActions": with_actions(Box(0, 3, (1,), np.int64)),
    "ManyActions": with_actions(MultiDiscrete([2, 2])),
    "OldReset": {"reset": lambda result: result[0]},
    "OldStep": {"step": lambda result: (*result[:3], result[4])},
    "NanAtFirst": with_view("student", [math.nan, math.nan]),
    "LateNanTeacher": with_view("teacher", [0, 1, math.nan], after=20),
    "LateNanStudent": with_view("student", [0, math.nan], after=20),
    "LateNanReward": with_reward(math.nan),
    "LateInfReward": with_reward(math.inf),
    "WordOfSuccess": with_info(lambda info: {"is_success": "yes"}),
    "NoneOfSuccess": with_info(lambda info: {"is_success": None}),
    "TellsOnlySuccess": with_info(lambda info: info if info["is_success"] else {}),
    "Endless": {"step": lambda result: (*result[:2], False, False, result[4])},
    "Bug": raise_after_40_steps(RuntimeError("the user's own")),
    "CtrlC": raise_after_40_steps(KeyboardInterrupt()),
}


def register_all():
    """Each class and each odd cue under its own name."""
    for env in (Reach, NotMade, Drift, Cameras, Spoken):
        gym.register(f"{env.__name__}-v0", env)
    for name, changes in ODD_CUES.items():
        gym.register(f"{name}-v0", OddCue, kwargs=changes)
    gym.register("Cue-v0", Reach)  # an older version than the next line's
    gym.register("Cue-v1", Cue)
    gym.register("Many-v0", Cue, vector_entry_point=ManyCues)
    gym.register("Resets-v0", Cue, vector_entry_point=ManyCuesThatResetThemselves)


register_all()


class StepRecord(NamedTuple):
    """One step of N environments."""

    obs: dict
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    obs_next: dict


NOT_DRAWN = 0.5  # no true view of TunnelVision holds it


class RecordedEnvs(TunnelVisionVectorEnv):
    """TunnelVision that writes down what is done with it, and draws only when told to."""

    def __init__(self, num_envs, **arguments):
        super().__init__(num_envs, **arguments)
        self.draw_student = True
        self.seeds = []  # of the resets that were given one
        self.history = []  # a StepRecord of each step
        self.draws_at_step = []  # draw_student, at each step
        self.draws_at_reset = []
        self.is_closed = False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seeds.append(seed)
        self.draws_at_reset.append(self.draw_student)
        obs, info = super().reset(seed=seed, options=options)
        self.last_obs = obs
        return obs, info

    def step(self, actions):
        self.draws_at_step.append(self.draw_student)
        obs = self.last_obs
        result = super().step(actions)
        obs_next, reward, terminated, truncated, _ = result
        self.history.append(
            StepRecord(obs, actions, reward, terminated, truncated, obs_next)
        )
        self.last_obs = obs_next
        return result

    def _observe(self):
        views = super()._observe()
        if not self.draw_student:
            views["student"] = np.full_like(views["student"], NOT_DRAWN)
        return views

    def close_extras(self, **_):
        self.is_closed = True


class FixedEndsEnvs(RecordedEnvs):
    """Environment i ends after i + 1 steps of reward 1, with success where i is even."""

    def step(self, actions):
        self.blocked.fill(False)
        turns = np.full(self.num_envs, 4)
        obs, _, _, _, _ = super().step(turns)
        is_even = self.index % 2 == 0
        self.done = self.steps > self.index
        terminated = self.done & is_even
        truncated = self.done & ~is_even
        return obs, np.ones(self.num_envs), terminated, truncated, {"is_success": is_even}


# --- Helpers ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def same_path_and_seed(monkeypatch):
    """Each test begins with the same random numbers; `main` adds to a copy of the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)


def small_config(**changes) -> Config:
    """Settings of a tiny run."""
    return Config(**{**SMALL, **changes})


def of_this_file(name: str) -> str:
    """What --env is given for an environment that is registered here."""
    return f"test_tsalign:{name}"


class Start(NamedTuple):
    """A small run after its first rollout."""

    config: Config
    envs: gym.vector.VectorEnv
    nets: tsalign.Networks
    policy_optimizer: torch.optim.Adam
    pairs_optimizer: torch.optim.Adam
    rollout: tsalign.Rollout
    pairs: tsalign.Pairs

    def train_policy(self, progress=0.0, **changes) -> dict:
        """Phase two, on the first rollout with some changes -> mean losses."""
        rollout = self.rollout._replace(**changes)
        return tsalign.train_policy(
            self.nets, self.policy_optimizer, rollout, self.config, progress
        )

    def train_on_pairs(self, progress=1.0) -> dict:
        """What the method learns from its pairs -> mean losses."""
        method = METHODS[self.config.method]
        return method.train_on_pairs(
            self.nets, self.pairs_optimizer, self.pairs, self.config, progress
        )


def start_run(method="ours", env="tunnelvision,max_episode_steps=5", **changes) -> Start:
    """The first rollout (16, 4, ...) of a policy that is not flat, and all its 64 pairs."""
    config = small_config(env=env, method=method, **changes)
    envs = tsalign.make_envs(env, config.num_envs)
    nets = tsalign.Networks(envs, config)
    last_layer = nets.policy.net[-1]
    last_layer.weight.data *= 100
    policy_optimizer, pairs_optimizer = tsalign.make_optimizers(nets, config)
    obs = tsalign.reset_envs(envs, seed=0)
    looks = np.ones(config.rollout_steps + 1, bool)
    z_noise = METHODS[method].settings.get("z_noise", 0.4)
    rollout, pairs, _ = tsalign.collect(envs, obs, nets, looks, z_noise)
    return Start(config, envs, nets, policy_optimizer, pairs_optimizer, rollout, pairs)


def small_networks(envs=None, method="ours") -> tsalign.Networks:
    """Untrained networks, by default for TunnelVision."""
    return tsalign.Networks(envs or TunnelVisionVectorEnv(1), small_config(method=method))


def check_same_gradients(loss, loss_by_hand, inputs):
    """Both losses have the same gradient to each input, and none is zero."""
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
    gradients_by_hand = torch.autograd.grad(loss_by_hand, inputs, retain_graph=True)
    for gradient, by_hand in zip(gradients, gradients_by_hand):
        assert by_hand.abs().max() > 1e-3
        assert torch.allclose(gradient, by_hand, atol=1e-6)


class Step(NamedTuple):
    """What an optimizer found when it was about to step."""

    nets: tsalign.Networks  # a copy
    gradients: dict  # name of the parameter -> its gradient, where it has one


def record_steps(optimizer, nets) -> list[Step]:
    """A list that gets a `Step` before each step of the optimizer."""
    steps = []

    def write_down(*_):
        gradients = {}
        for name, parameter in nets.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()
        steps.append(Step(copy.deepcopy(nets), gradients))

    optimizer.register_step_pre_hook(write_down)
    return steps


def network_of(parameter_name: str) -> str:
    """ "teacher" of "teacher.net.0.weight"."""
    return parameter_name.partition(".")[0]


def check_gradients(step: Step, loss_by_hand, learners, max_norm=math.inf):
    """The learners' gradients are those of a loss on `step.nets`, clipped; no others."""
    for parameter in step.nets.parameters():
        parameter.grad = None
    loss_by_hand.backward()
    expected = {}
    for name, parameter in step.nets.named_parameters():
        if network_of(name) in learners:
            expected[name] = parameter.grad
    assert step.gradients.keys() == expected.keys()
    squares = [gradient.square().sum() for gradient in expected.values()]
    norm = torch.stack(squares).sum().sqrt().item()
    scale = min(1, max_norm / norm)
    for name, gradient in expected.items():
        assert torch.allclose(
            step.gradients[name], scale * gradient, rtol=1e-3, atol=1e-5
        ), name


def check_moves(before, after, learners, rate=None):
    """Exactly the learners have moved; by Adam's first step, if the rate is said."""
    weights_before = dict(before.named_parameters())
    moved = {}
    for name, weights in after.named_parameters():
        change = (weights - weights_before[name]).abs().max().item()
        if change > 0:
            moved[network_of(name)] = max(change, moved.get(network_of(name), 0))
        assert weights.requires_grad  # a network that was held still is free again
    assert moved.keys() == set(learners)
    if rate is not None:
        assert max(moved.values()) == pytest.approx(rate, rel=0.01)


def distribution_of(policy, z):
    """The actions' distribution, written down again."""
    if policy.log_std is None:
        return Categorical(logits=policy(z))
    return Independent(Normal(policy(z), policy.log_std.exp()), 1)


def gae_by_sum(rewards, values, next_values, terminated, done, gamma, lam):
    """A_t as the sum of (gamma lam)^k delta_t+k over the rest of the episode, by loops."""
    n_steps, n_envs = rewards.shape
    advantages = torch.zeros(n_steps, n_envs)
    for n in range(n_envs):
        for t in range(n_steps):
            total = 0.0
            for k in range(t, n_steps):
                next_value = 0.0 if terminated[k, n] else next_values[k, n].item()
                delta = rewards[k, n] + gamma * next_value - values[k, n]
                total += (gamma * lam) ** (k - t) * delta.item()
                if done[k, n]:
                    break
            advantages[t, n] = total
    return advantages


def policy_loss_by_cases(ratio, advantage, clip):
    """PPO's policy loss as one would explain it: no more gain beyond the clip range."""
    gains = []
    for r, a in zip(ratio, advantage):
        if a > 0 and r > 1 + clip:
            gains.append((1 + clip) * a)
        elif a < 0 and r < 1 - clip:
            gains.append((1 - clip) * a)
        else:
            gains.append(r * a)
    return -torch.stack(gains).mean()


def run_main(*arguments) -> int:
    """`python tsalign.py ...` in this process -> exit code."""
    try:
        tsalign.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def small_flags() -> list:
    """The settings of a tiny run as flags."""
    flags = []
    for name, value in SMALL.items():
        flags += ["--" + name.replace("_", "-"), value]
    return flags


def read_log(folder: Path) -> list[dict]:
    """The rows of log.csv, as text."""
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def record_calls(monkeypatch, owner, name, result=None) -> list[tuple]:
    """From now on `owner.name` only writes down with which arguments it is called."""
    calls = []

    def write_down(*arguments, **named):
        calls.append((*arguments, *named.values()))
        return result

    monkeypatch.setattr(owner, name, write_down)
    return calls


# --- Settings -----------------------------------------------------------------------------


def test_config_cannot_be_changed_once_it_is_made():
    config = Config(seed=3)
    with pytest.raises(FrozenInstanceError):
        config.seed = 4


@pytest.mark.parametrize(
    "env, steps",
    [
        ("tunnelvision", tsalign.STEPS["tunnelvision"]),
        ("tunnelvision,rows=7", tsalign.STEPS["tunnelvision"]),
        ("collecthealth", tsalign.STEPS["collecthealth"]),
        ("my_file:Mine-v0", tsalign.STEPS_ELSEWHERE),
    ],
)
def test_config_checked_keeps_all_defaults_and_fills_in_the_environments_steps(env, steps):
    config = Config(env=env)
    assert tsalign.checked(config) == replace(config, total_steps=steps)
    told = Config(env=env, total_steps=7)
    assert tsalign.checked(told) == told


def test_config_the_folder_is_one_name_without_colons_or_slashes():
    config = Config(env="a.b:C/D-v0", method="m:f", seed=7, out="x/y")
    assert config.folder == Path("x/y/a.b-C-D-v0_m-f_seed7")


@pytest.mark.parametrize(
    "progress, encoder_rate, ppo_rate, entropy_weight, align_weight",
    [
        (0.0, 1.0, 1.0, 1.0, 0.0),
        (0.1, 0.905, 1.0, 0.729, 0.0),
        (0.2, 0.81, 1.0, 0.512, 0.0),
        (0.26, 0.753, 1.0, 0.405224, 0.2),
        (0.35, 0.6675, 1.0, 0.274625, 0.5),
        (0.5, 0.525, 1.0, 0.125, 1.0),
        (0.8, 0.24, 1.0, 0.008, 1.0),
        (0.85, 0.1925, 0.75, 0.003375, 1.0),
        (0.95, 0.0975, 0.25, 0.000125, 1.0),
        (1.0, 0.05, 0.0, 0.0, 1.0),
    ],
)
def test_schedules_give_this_share_of_their_own_setting_at_each_progress(
    progress, encoder_rate, ppo_rate, entropy_weight, align_weight
):
    config = Config(encoder_lr=2.0, ppo_lr=3.0, entropy_coef=5.0, lambda_align=7.0)
    assert tsalign.encoder_rate(config, progress) == pytest.approx(2 * encoder_rate)
    assert tsalign.ppo_rate(config, progress) == pytest.approx(3 * ppo_rate)
    assert tsalign.entropy_weight(config, progress) == pytest.approx(5 * entropy_weight)
    assert tsalign.align_weight(config, progress) == pytest.approx(7 * align_weight)


# --- The losses: Eq. (6) to (10) ----------------------------------------------------------


def test_eq6_equals_a_double_loop_in_value_and_gradients():
    z_teacher = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    z_student = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    s = torch.tensor(1.7, dtype=torch.double, requires_grad=True)
    by_hand = 0
    for i in range(5):
        partner = torch.exp(s * z_teacher[i].dot(z_student[i]))
        all_students = 0
        all_teachers = 0
        for j in range(5):
            all_students = all_students + torch.exp(s * z_teacher[i].dot(z_student[j]))
            all_teachers = all_teachers + torch.exp(s * z_teacher[j].dot(z_student[i]))
        by_hand = by_hand - torch.log(partner / all_students) / 5 / 2
        by_hand = by_hand - torch.log(partner / all_teachers) / 5 / 2
    loss = tsalign.info_nce_loss(z_teacher, z_student, s)
    assert loss.item() == pytest.approx(by_hand.item())
    check_same_gradients(loss, by_hand, [z_teacher, z_student, s])


def test_eq6_is_log_of_the_batch_at_collapse_also_where_exp_would_overflow():
    collapsed = torch.ones(8, 4) / 2
    loss = tsalign.info_nce_loss(collapsed, collapsed, torch.tensor(100.0))
    assert loss.item() == pytest.approx(math.log(8))


def test_eq7_by_hand_in_value_and_gradients():
    z_teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    z_student = torch.tensor([[0.6, 0.8], [0.0, -1.0]], requires_grad=True)
    loss = tsalign.alignment_loss(z_teacher, z_student)
    assert loss.item() == pytest.approx(((1 - 0.6) + (1 + 1)) / 2)
    loss.backward()
    assert torch.allclose(z_teacher.grad, torch.tensor([[-0.3, -0.4], [0.0, 0.5]]))
    assert torch.allclose(z_student.grad, torch.tensor([[-0.5, 0.0], [0.0, -0.5]]))


def test_eq8_by_hand_in_value_and_gradients_and_no_arrow_leads_to_the_logits_before():
    teacher = torch.tensor([[1.0, 2.0]], requires_grad=True)
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    teacher_before = torch.tensor([[1.0, 5.0]], requires_grad=True)
    student_before = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = tsalign.stability_loss(teacher, student, teacher_before, student_before)
    assert loss.item() == pytest.approx((0 + 9 + 1 + 1) / 4)
    loss.backward()
    assert teacher.grad.tolist() == [[0, -1.5]]
    assert student.grad.tolist() == [[-0.5, 0.5]]
    assert teacher_before.grad is None
    assert student_before.grad is None


def test_eq9_is_the_weighted_sum_in_value_and_gradients():
    nce = torch.tensor(1.0, requires_grad=True)
    align = torch.tensor(2.0, requires_grad=True)
    stab = torch.tensor(3.0, requires_grad=True)
    loss = tsalign.embedding_loss(nce, align, stab, lambda_align=10, lambda_stab=0.1)
    assert loss.item() == pytest.approx(1 + 20 + 0.3)
    loss.backward()
    assert nce.grad.item() == 1
    assert align.grad.item() == 10
    assert stab.grad.item() == pytest.approx(0.1)


def test_eq10_is_the_kl_of_the_imitator_from_the_teacher_at_each_step():
    teacher = Categorical(torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
    imitator = Categorical(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    kl = tsalign.imitation_kl(teacher, imitator)
    by_hand = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl.tolist() == pytest.approx([by_hand, 0], abs=1e-6)


# --- Networks -----------------------------------------------------------------------------


def inputs_of(network, obs):
    """What the layers of an encoder or critic are given for these views."""
    seen = []
    handle = network.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.as_tensor(obs))
    handle.remove()
    return seen[0]


def encoder_of(low, high):
    """A small encoder of a vector with these bounds."""
    return tsalign.Encoder(Box(np.float32(low), np.float32(high)), 8, 16)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 8, 3), (7, 7, 3), (5, 5, 1)])
def test_encoder_gives_unit_vectors_for_vectors_and_images(shape):
    encoder = tsalign.Encoder(Box(0, 1, shape), embedding_dim=8, width=16)
    z = encoder(torch.rand(6, *shape))
    assert z.shape == (6, 8)
    assert torch.allclose(z.norm(dim=1), torch.ones(6))
    assert (z < 0).any()
    assert z.std(dim=0).min() > 1e-6  # each view has its own


def test_encoder_maps_inputs_with_bounds_to_minus_1_to_1_and_leaves_others_as_they_are():
    encoder = encoder_of([0, -2, -np.inf, 0], [1, 2, np.inf, np.inf])
    assert inputs_of(encoder, [[0.25, 1.0, 7.0, 9.0]]).tolist() == [[-0.5, 0.5, 7, 9]]


def test_encoder_maps_the_bytes_of_an_image_and_keeps_each_pixel_in_its_place():
    images = torch.randint(256, (5, 4, 8, 3), dtype=torch.uint8)
    encoder = tsalign.Encoder(Box(0, 255, (4, 8, 3), np.uint8), 8, 16)
    seen = inputs_of(encoder, images)
    assert seen.shape == (5, 3, 4, 8)
    for row in range(4):
        for column in range(8):
            expected = images[:, row, column] / 127.5 - 1
            assert torch.allclose(seen[:, :, row, column], expected, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(7, 7, 3), (5, 6, 1), (10, 10, 4), (3, 2, 3), (21, 16, 3)]
)
def test_encoder_every_pixel_of_an_image_of_any_size_reaches_z(shape):
    encoder = tsalign.Encoder(Box(0, 255, shape, np.uint8), 64, 128)
    images = torch.full((1, *shape), 100.0, requires_grad=True)
    z = encoder(images)
    (z * torch.randn(64)).sum().backward()
    assert (images.grad != 0).all()


INF = np.inf
INPUT_RANGES = {  # low, high, the first views, a view -> what the layers are given of it
    "far_too_wide": ([0, 0], [100, 1e5], [[0, 3], [1, 4], [0, 5]], [0.5, 5], [0, 1]),
    "at_most_ten_times_too_wide": ([0], [9.9], [[0], [1]], [1], [2 / 9.9 - 1]),
    "just_too_wide": ([0], [10.1], [[0], [1]], [1], [1]),
    "unbounded": ([-INF, -INF], [INF, INF], [[0, -0.1], [1e6, 0.1]], [5e5, 0.1], [0, 1]),
    "half_bounded": ([0], [INF], [[5e6], [6e6]], [5e6], [-1]),
    "bounded_constant": ([0], [100], [[50], [50]], [75], [0.5]),
    "unbounded_constant": ([-INF], [INF], [[0.5], [0.5]], [1], [0.5]),
    "large_constant": ([-INF], [INF], [[2**26], [2**26]], [1.5 * 2**26], [0.5]),
    "largest_floats": ([-3.4e38], [3.4e38], [[0], [4]], [3], [0.5]),
    "largest_floats_constant": ([-3.4e38], [3.4e38], [[8], [8]], [12], [0.5]),
}


@pytest.mark.parametrize(
    "low, high, first_views, view, expected", INPUT_RANGES.values(), ids=INPUT_RANGES
)
def test_encoder_fit_input_range_corrects_bounds_that_are_missing_or_far_too_wide(
    low, high, first_views, view, expected
):
    encoder = encoder_of(low, high)
    encoder.fit_input_range(torch.tensor(first_views))
    seen = inputs_of(encoder, torch.tensor([view]))
    assert seen[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_encoder_fit_input_range_takes_each_channel_of_an_image_as_a_whole():
    images = torch.zeros(2, 7, 7, 3, dtype=torch.uint8)
    images[0, 0, 0, 0] = 10  # the other pixels of this channel are constant
    images[:, 3, 3, 0] = 5
    images[1, 6, 6, 1] = 200
    encoder = tsalign.Encoder(Box(0, 255, (7, 7, 3), np.uint8), 8, 16)
    encoder.fit_input_range(images)
    seen = inputs_of(encoder, images)[:, :, :7, :7]  # without the padding
    assert seen[:, 0].min().item() == -1
    assert seen[0, 0, 0, 0].item() == pytest.approx(1)
    assert seen[0, 0, 3, 3].item() == pytest.approx(0)
    assert seen[1, 1, 6, 6].item() == pytest.approx(200 / 127.5 - 1)
    assert (seen[:, 2] == -1).all()


@pytest.mark.parametrize("env", ["tunnelvision", "collecthealth"])
def test_encoder_fit_input_range_changes_nothing_in_the_papers_environments(env):
    config = Config(env=env)
    envs = tsalign.make_envs(env, config.num_envs)
    nets = tsalign.Networks(envs, config)
    before = copy.deepcopy(nets.state_dict())
    obs = tsalign.reset_envs(envs, seed=0)
    looks = np.zeros(config.rollout_steps + 1, bool)
    looks[config.rollout_steps - 1] = True
    rollout, pairs, _ = tsalign.collect(envs, obs, nets, looks)
    nets.fit_input_ranges("teacher", rollout.obs_teacher.flatten(0, 1))
    nets.fit_input_ranges("student", pairs.obs_student)
    for name, value in nets.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_policy_is_nearly_flat_at_first_and_its_inputs_are_of_unit_size():
    policy = tsalign.Policy(Discrete(8), embedding_dim=64, width=128)
    z = torch.nn.functional.normalize(torch.randn(200, 64), dim=1)
    logits = policy(z)
    assert 0.002 < logits.square().mean().sqrt() < 0.02
    assert policy(0 * z).eq(0).all()  # no action is preferred
    seen = []
    policy.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    policy(z)
    assert seen[0].square().mean().item() == pytest.approx(1)


def test_policy_has_a_logit_for_each_discrete_action_or_a_mean_for_each_entry_of_a_box():
    z = torch.randn(5, 8)
    discrete = tsalign.Policy(Discrete(3, start=7), 8, 16)
    assert discrete.distribution(discrete(z)).probs.shape == (5, 3)
    continuous = tsalign.Policy(Box(0, 1, (2, 3)), 8, 16)
    distribution = continuous.distribution(continuous(z))
    assert distribution.log_prob(torch.zeros(5, 6)).shape == (5,)
    assert torch.equal(distribution.mean, continuous(z))
    assert torch.allclose(distribution.stddev, torch.full((5, 6), 0.5))
    assert continuous.log_std.requires_grad


def test_critic_arrow_comes_from_the_teachers_view_and_from_no_encoder():
    envs = TunnelVisionVectorEnv(4)
    nets = small_networks(envs)
    obs, _ = envs.reset(seed=0)
    view = torch.tensor(obs["teacher"], requires_grad=True)
    values = nets.critic(view)
    assert values.shape == (4,)
    values.sum().backward()
    assert view.grad.abs().sum() > 0
    for name, parameter in nets.named_parameters():
        assert (parameter.grad is not None) == (network_of(name) == "critic"), name


def test_networks_the_inverse_temperature_begins_where_the_settings_say():
    nets = tsalign.Networks(TunnelVisionVectorEnv(1), small_config(inverse_temperature=7.0))
    assert nets.log_inverse_temperature.exp().item() == pytest.approx(7)


def test_networks_each_agent_acts_on_its_own_view_through_its_own_encoder_and_policy():
    envs = TunnelVisionVectorEnv(4)
    obs, _ = envs.reset(seed=0)
    obs_teacher = torch.tensor(obs["teacher"])
    obs_student = torch.tensor(obs["student"])
    for method in ("ours", "bc"):
        nets = small_networks(envs, method)
        logits_teacher = nets.policy(nets.teacher(obs_teacher))
        student_policy = nets.student_policy if method == "bc" else nets.policy
        if method == "bc":
            student_policy.net[-1].weight.data *= 100
        logits_student = student_policy(nets.student(obs_student))
        teacher = nets.distribution("teacher", obs_teacher)
        student = nets.distribution("student", obs_student)
        assert torch.allclose(teacher.probs, logits_teacher.softmax(1))
        assert torch.allclose(student.probs, logits_student.softmax(1))


@pytest.mark.parametrize("env", ["tunnelvision", "collecthealth", of_this_file("Reach-v0")])
@pytest.mark.parametrize("agent", ["teacher", "student"])
def test_networks_act_takes_one_view_or_a_batch_as_arrays_or_tensors(env, agent):
    envs = tsalign.make_envs(env, 3)
    nets = small_networks(envs)
    views = tsalign.reset_envs(envs, seed=0)[agent]
    for batch in (views, torch.tensor(views)):
        actions = nets.act(agent, batch)
        assert envs.action_space.contains(actions)
        assert envs.single_action_space.contains(nets.act(agent, batch[0]))


def test_networks_act_draws_from_the_policy():
    nets = small_networks()
    nets.policy.net[-1].weight.data.zero_()
    chances = torch.tensor([0.5, 0.3, 0.2, 0, 0, 0, 0, 0])
    nets.policy.net[-1].bias.data = (chances + 1e-9).log()
    actions = nets.act("student", np.zeros((2000, 61), np.float32))
    shares = np.bincount(actions, minlength=8) / 2000
    assert shares == pytest.approx(chances.numpy(), abs=0.05)


def test_networks_act_names_an_unknown_agent_and_a_view_of_another_shape():
    nets = small_networks()
    with pytest.raises(BadInput, match="nobody"):
        nets.act("nobody", np.zeros(66))
    with pytest.raises(BadInput, match="teacher needs a view .66,., not .61,"):
        nets.act("teacher", np.zeros(61))


# --- Eq. (3): environments with two views of one state ------------------------------------


@pytest.mark.parametrize("name", ["tunnelvision", "collecthealth", of_this_file("Cue-v1")])
def test_envs_do_not_reset_by_themselves(name):
    envs = tsalign.make_envs(name, 3)
    assert envs.num_envs == 3
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED


def test_envs_the_native_vector_form_is_used_if_it_leaves_resets_to_us_and_else_closed():
    assert isinstance(tsalign.make_envs("tunnelvision", 3).unwrapped, TunnelVisionVectorEnv)
    assert isinstance(tsalign.make_envs("Many-v0", 3).unwrapped, ManyCues)
    assert isinstance(tsalign.make_envs("Resets-v0", 3).unwrapped, SyncVectorEnv)
    assert ManyCuesThatResetThemselves.n_open == 0


def test_envs_arguments_follow_the_name():
    envs = tsalign.make_envs("tunnelvision,rows=7,cols=15,obstacle_density=0.5", 2)
    tunnels = envs.unwrapped
    assert (tunnels.rows, tunnels.cols, tunnels.obstacle_density) == (7, 15, 0.5)
    rooms = tsalign.make_envs("collecthealth:CollectHealth-v0,room=5.5", 2).unwrapped
    assert rooms.room == 5.5
    many = tsalign.make_envs("Many-v0,size=5", 2)
    assert many.single_observation_space["student"].shape == (5,)


def test_envs_arguments_are_read_as_python_values_or_else_as_text():
    kwargs = tsalign.parse_arguments(["n=7", "x=.5", "b=False", "kind=wide", "path=a=b"])
    assert kwargs == {"n": 7, "x": 0.5, "b": False, "kind": "wide", "path": "a=b"}


def test_envs_without_a_version_the_latest_is_made():
    envs = tsalign.make_envs(of_this_file("Cue"), 1)
    assert type(envs.unwrapped.envs[0].unwrapped) is Cue  # version 1, not 0


def test_envs_are_closed_where_they_cannot_serve():
    Cue.n_open = 0
    with pytest.raises(BadInput):
        tsalign.make_envs("OneView-v0", 3)
    with pytest.raises(BadInput):
        tsalign.make_envs("OldReset-v0", 3)
    assert Cue.n_open == 0


def test_envs_the_file_that_was_imported_is_named():
    with pytest.raises(BadInput, match="code.py"):
        tsalign.make_envs("code:Cue-v9", 1)


def test_envs_a_step_reports_success_and_nan_where_none_is_reported():
    envs = tsalign.make_envs(of_this_file("TellsOnlySuccess-v0"), 6)
    tsalign.reset_envs(envs, seed=0)
    cues = [env.unwrapped.cue for env in envs.unwrapped.envs]
    right = torch.tensor(cues)
    wrong = 1 - right
    actions = torch.cat([right[:3], wrong[3:]])
    _, reward, terminated, truncated, success = tsalign.step_envs(envs, actions)
    assert reward.tolist() == [1, 1, 1, 0, 0, 0]
    assert reward.dtype == np.float32
    assert terminated.all()
    assert not truncated.any()
    assert success[:3].tolist() == [1, 1, 1]
    assert np.isnan(success[3:]).all()


def test_envs_of_the_views_only_the_teachers_and_the_students_matter():
    envs = tsalign.make_envs(of_this_file("Spoken-v0"), 2)
    tsalign.reset_envs(envs, seed=0)
    obs, *_ = tsalign.step_envs(envs, torch.tensor([0, 1]))
    assert obs["teacher"].shape == (2, 3)
    assert obs["student"].shape == (2, 2)


def test_envs_draw_student_reaches_a_vector_form_and_each_single_environment():
    vector = gym.wrappers.vector.RecordEpisodeStatistics(RecordedEnvs(2))
    singles = tsalign.make_envs(of_this_file("Cameras-v0"), 2)
    without = tsalign.make_envs(of_this_file("Cue"), 2)
    for draws in (False, True):
        for envs in (vector, singles, without):
            tsalign.set_draw_student(envs, draws)
        assert vector.unwrapped.draw_student == draws
        for env in singles.unwrapped.envs:
            assert env.unwrapped.draw_student == draws
    assert not hasattr(without.unwrapped.envs[0].unwrapped, "draw_student")


def test_envs_a_tensor_of_a_view_is_a_copy_in_which_bytes_stay_bytes():
    obs = np.zeros(2, np.float64)
    tensor = tsalign.to_tensor(obs, "cpu")
    obs += 1
    assert tensor.tolist() == [0, 0]
    assert tensor.dtype == torch.float32
    assert tsalign.to_tensor(np.zeros(2, np.uint8), "cpu").dtype == torch.uint8
    assert tsalign.to_tensor(np.zeros(2, bool), "cpu").dtype == torch.float32
    flipped = np.arange(3, dtype=np.float32)[::-1]  # torch itself takes no negative stride
    assert tsalign.to_tensor(flipped, "cpu").tolist() == [2, 1, 0]


def test_envs_discrete_actions_count_from_the_start_of_their_space():
    actions = tsalign.to_env_action(Discrete(3, start=5), torch.tensor([0, 2]))
    assert actions.tolist() == [5, 7]


def test_envs_continuous_actions_span_the_box_and_are_clipped_to_it():
    box = Box(np.float32([-2, 0]), np.float32([2, 10]))
    drawn = torch.tensor([[0.5, -1.0], [3.0, -9.0], [0.0, 0.0]])
    actions = tsalign.to_env_action(box, drawn)
    assert actions.tolist() == [[1, 0], [2, 0], [0, 5]]
    assert actions.dtype == np.float32
    matrix = Box(-1, 1, (2, 3))
    assert tsalign.to_env_action(matrix, torch.zeros(4, 6)).shape == (4, 2, 3)


# --- What the teacher collects ------------------------------------------------------------


def collect_recorded(looks, num_envs=8):
    """Two-step episodes -> rollout, pairs, the observation after them, envs, nets."""
    envs = RecordedEnvs(num_envs, max_episode_steps=2)
    nets = small_networks(envs)
    tsalign.set_draw_student(envs, bool(looks[0]))
    obs = tsalign.reset_envs(envs, seed=0)
    rollout, pairs, obs_after = tsalign.collect(envs, obs, nets, np.array(looks))
    return rollout, pairs, obs_after, envs, nets


def test_collect_keeps_each_step_as_the_environment_gave_it():
    rollout, _, obs_after, envs, _ = collect_recorded([True] * 17)
    assert len(envs.history) == 16
    assert obs_after is envs.last_obs
    n_terminated = 0
    n_truncated = 0
    for t, step in enumerate(envs.history):
        assert (rollout.obs_teacher[t].numpy() == step.obs["teacher"]).all()
        assert (rollout.action[t].numpy() == step.action).all()
        assert (rollout.reward[t].numpy() == step.reward.astype(np.float32)).all()
        assert (rollout.terminated[t].numpy() == step.terminated).all()
        assert (rollout.done[t].numpy() == (step.terminated | step.truncated)).all()
        n_terminated += step.terminated.sum()
        n_truncated += step.truncated.sum()
    assert n_terminated > 0
    assert n_truncated > 0


def test_collect_keeps_the_true_next_view_also_where_an_episode_ends():
    rollout, _, _, envs, _ = collect_recorded([True] * 17)
    for t, step in enumerate(envs.history):
        assert (rollout.obs_next[t].numpy() == step.obs_next["teacher"]).all()
    goes_on = ~rollout.done[:-1]
    is_same = (rollout.obs_next[:-1] == rollout.obs_teacher[1:]).all(dim=2)
    assert is_same[goes_on].all()
    assert not is_same[~goes_on].any()  # there the next row is the reset one


def test_collect_keeps_z_and_log_prob_of_the_acting_policy_and_no_arrow_leaves_them():
    rollout, pairs, _, _, nets = collect_recorded([True] * 17)
    z_teacher = nets.teacher(rollout.obs_teacher.flatten(0, 1)).view(16, 8, -1)
    policy = distribution_of(nets.policy, z_teacher)
    assert torch.allclose(rollout.z_teacher, z_teacher, atol=1e-6)
    assert torch.allclose(rollout.log_prob, policy.log_prob(rollout.action), atol=1e-5)
    assert (rollout.noise == 0).all()
    for kept in (*rollout, *pairs):
        assert not kept.requires_grad


def test_collect_with_noise_keeps_it_beside_z_and_log_prob_is_of_their_sum():
    envs = RecordedEnvs(64, max_episode_steps=2)
    nets = small_networks(envs)
    nets.policy.net[-1].weight.data *= 100
    obs = tsalign.reset_envs(envs, seed=0)
    rollout, _, _ = tsalign.collect(envs, obs, nets, np.zeros(17, bool), z_noise=0.5)
    z_teacher = nets.teacher(rollout.obs_teacher.flatten(0, 1)).view(16, 64, -1)
    assert torch.allclose(rollout.z_teacher, z_teacher, atol=1e-6)
    lengths = rollout.noise.norm(dim=-1)
    assert lengths.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.05)
    assert rollout.noise.mean().item() == pytest.approx(0, abs=0.01)
    noisy = distribution_of(nets.policy, z_teacher + rollout.noise)
    clean = distribution_of(nets.policy, z_teacher)
    assert torch.allclose(rollout.log_prob, noisy.log_prob(rollout.action), atol=1e-4)
    assert not torch.allclose(rollout.log_prob, clean.log_prob(rollout.action), atol=0.1)
    assert not rollout.noise.requires_grad


def test_collect_draws_the_teachers_actions_and_never_uses_the_students_encoder():
    envs = RecordedEnvs(64, max_episode_steps=16)
    nets = small_networks(envs)
    nets.student = None
    nets.policy.net[-1].weight.data.zero_()
    chances = torch.tensor([0.4, 0.1, 0.1, 0.1, 0.3, 0, 0, 0])
    nets.policy.net[-1].bias.data = (chances + 1e-9).log()
    obs = tsalign.reset_envs(envs, seed=0)
    rollout, _, _ = tsalign.collect(envs, obs, nets, np.ones(17, bool))
    shares = np.bincount(rollout.action.flatten(), minlength=8) / 1024
    assert shares == pytest.approx(chances.numpy(), abs=0.06)


def test_collect_keeps_the_gaussians_own_sample_and_not_the_clipped_action():
    start = start_run(env=of_this_file("Reach-v0"), num_envs=32)
    nets = start.nets
    z = start.rollout.z_teacher + start.rollout.noise
    means = nets.policy(z.flatten(0, 1))
    noise = start.rollout.action.flatten(0, 1) - means
    assert noise.std().item() == pytest.approx(0.5, abs=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert start.rollout.action.abs().max() > 1


def test_collect_pairs_are_both_views_and_the_action_of_one_step_and_environment():
    looks = [False] * 17
    for t in (0, 3, 4, 15):
        looks[t] = True
    _, pairs, _, envs, _ = collect_recorded(looks)
    assert len(pairs.action) == 4 * 8
    k = 0
    for t in (0, 3, 4, 15):
        step = envs.history[t]
        for n in range(8):
            assert (pairs.obs_teacher[k].numpy() == step.obs["teacher"][n]).all()
            assert (pairs.obs_student[k].numpy() == step.obs["student"][n]).all()
            assert pairs.action[k] == step.action[n]
            k += 1
    assert (pairs.obs_student != NOT_DRAWN).all()


def test_collect_looks_are_told_to_the_environment_before_the_step_or_reset_that_draws():
    looks = list(np.random.default_rng(0).random(17) < 0.3)
    _, _, obs_after, envs, _ = collect_recorded(looks)
    assert envs.draws_at_step == looks[1:]
    draws_at_reset = [looks[0]]  # the first one
    for t, step in enumerate(envs.history):
        if (step.terminated | step.truncated).any():
            draws_at_reset.append(looks[t + 1])
    assert envs.draws_at_reset == draws_at_reset
    assert len(set(draws_at_reset[1:])) == 2  # both kinds of masked resets were met
    assert (obs_after["student"] == NOT_DRAWN).all() == (not looks[16])


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("pairs_every", [1, 8, 70])
def test_looks_are_one_in_each_so_many_from_the_first_cycle_and_its_last_step(
    pairs_every, seed
):
    config = small_config(rollout_steps=10, pairs_every=pairs_every, seed=seed)
    looks = tsalign.plan_pairs(20, 6, config)  # 200 steps; the student begins at the 60th
    rng = np.random.default_rng([seed, 1])  # a stream of its own, decided by the seed
    expected = {69}
    for start in range(60, 200, pairs_every):
        end = min(start + pairs_every, 200)  # 200 is no step
        expected.add(int(rng.integers(start, end)))
    assert looks.shape == (201,)
    assert set(np.flatnonzero(looks).tolist()) == expected


# --- Section IV, phase one ----------------------------------------------------------------

ENVS_OF_ALL_KINDS = [
    "tunnelvision,max_episode_steps=5",  # vectors
    "collecthealth,max_episode_steps=5",  # an image for the student
    of_this_file("Reach-v0"),  # continuous actions
]
PHASE_ONE_LEARNS = ["teacher", "student", "log_inverse_temperature"]
PHASE_ONE_WEIGHTS = {  # method -> what Eq. (7) and Eq. (8) weigh in the test below
    "ours": (3.0, 50.0),
    "policy-gradient": (3.0, 50.0),
    "no-align": (0.0, 50.0),
    "no-stability": (3.0, 0.0),
}


def phase_one_by_hand(nets, nets_before, pairs):
    """Eq. (6), (7), (8) and bits of all pairs; the phase began with `nets_before`."""
    z_teacher = nets.teacher(pairs.obs_teacher)
    z_student = nets.student(pairs.obs_student)
    similarity = nets.log_inverse_temperature.exp() * z_teacher @ z_student.T
    found_student = similarity.log_softmax(dim=1).diagonal()
    found_teacher = similarity.log_softmax(dim=0).diagonal()
    nce = -(found_student.mean() + found_teacher.mean()) / 2
    squared_distance = (z_teacher - z_student).square().sum(dim=1)
    with torch.no_grad():
        teacher_before = nets_before.policy(nets_before.teacher(pairs.obs_teacher))
        student_before = nets_before.policy(nets_before.student(pairs.obs_student))
    change_teacher = (nets.policy(z_teacher) - teacher_before).square().mean()
    change_student = (nets.policy(z_student) - student_before).square().mean()
    return {
        "info_nce": nce,
        "align": squared_distance.mean() / 2,  # as both are unit vectors
        "stab": (change_teacher + change_student) / 2,
        "bits": math.log2(len(z_teacher)) - nce / math.log(2),
    }


@pytest.mark.parametrize("env", ENVS_OF_ALL_KINDS)
@pytest.mark.parametrize("method", PHASE_ONE_WEIGHTS)
def test_phase_one_arrows_lead_from_eq9_to_both_encoders_and_nowhere_else(method, env):
    lambda_align, lambda_stab = PHASE_ONE_WEIGHTS[method]
    settings = {"encoder_batch": 64, "encoder_updates": 2, "encoder_lr": 0.002}
    settings |= {"lambda_align": 6.0, "lambda_stab": 50.0} | METHODS[method].settings
    start = start_run(method, env, **settings)
    steps = record_steps(start.pairs_optimizer, start.nets)
    nets_before = copy.deepcopy(start.nets)
    logged = start.train_on_pairs(progress=0.35)
    assert len(steps) == 2
    all_losses = []
    for step in steps:
        losses = phase_one_by_hand(step.nets, nets_before, start.pairs)
        total = losses["info_nce"]
        total = total + lambda_align * losses["align"] + lambda_stab * losses["stab"]
        check_gradients(step, total, PHASE_ONE_LEARNS)
        all_losses.append(losses)
    first, second = all_losses
    for name in first:
        mean = (first[name] + second[name]).item() / 2
        assert logged[name] == pytest.approx(mean, rel=1e-3, abs=1e-6), name
    assert second["stab"] > 0  # so that "before" is told from "now"
    check_moves(nets_before, start.nets, PHASE_ONE_LEARNS)
    check_moves(nets_before, steps[1].nets, PHASE_ONE_LEARNS, rate=0.002)


@pytest.mark.parametrize("begin, end", [(403, 100), (100, 100), (0.05, 0.05)])
def test_phase_one_clamps_the_inverse_temperature_at_100_and_not_from_below(begin, end):
    start = start_run(encoder_updates=1)
    start.nets.log_inverse_temperature.data.fill_(math.log(begin))
    logged = start.train_on_pairs()
    assert logged["inverse_temperature"] == pytest.approx(end, rel=0.01)
    assert logged["inverse_temperature"] < 100.001
    now = start.nets.log_inverse_temperature.exp().item()
    assert logged["inverse_temperature"] == pytest.approx(now)


def test_phase_one_takes_minibatches_of_the_size_and_number_in_the_settings(monkeypatch):
    start = start_run(encoder_batch=10, encoder_updates=9)
    sizes = []
    info_nce_loss = tsalign.info_nce_loss

    def write_down(z_teacher, z_student, inverse_temperature):
        sizes.append(len(z_teacher))
        return info_nce_loss(z_teacher, z_student, inverse_temperature)

    monkeypatch.setattr(tsalign, "info_nce_loss", write_down)
    start.train_on_pairs()
    assert sizes == [10, 10, 10, 10, 10, 10, 4, 10, 10]  # a pass over 64 pairs, and more


@pytest.mark.parametrize(
    "size, count, lengths",
    [
        (32, 3, [32, 32, 32]),
        (60, 3, [60, 4, 60]),  # the last part of a pass is not lost
        (100, 2, [64, 64]),
        (16, 1, [16]),
    ],
)
def test_minibatches_of_64_have_the_right_number_and_sizes(size, count, lengths):
    minibatches = tsalign.draw_minibatches(64, size, count)
    assert [len(i) for i in minibatches] == lengths


def test_minibatches_of_pairs_keep_both_views_and_the_action_of_a_step_together():
    numbers = torch.arange(20)
    pairs = tsalign.Pairs(numbers, 10 * numbers, 100 * numbers)
    minibatches = tsalign.draw_pairs(pairs, 8, 6)
    for batch in minibatches:
        assert (batch.obs_student == 10 * batch.obs_teacher).all()
        assert (batch.action == 100 * batch.obs_teacher).all()
    for one_pass in (minibatches[:3], minibatches[3:]):
        drawn = torch.cat([batch.obs_teacher for batch in one_pass])
        assert sorted(drawn.tolist()) == numbers.tolist()


def test_a_step_goes_down_the_gradient_clipped_to_its_norm():
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weights], lr=0.1)
    weights.grad = torch.tensor([100.0, 100.0])  # of an earlier step: forgotten
    slope = torch.tensor([3.0, -4.0])
    tsalign.take_step(optimizer, slope.dot(weights), max_grad_norm=0.5)
    assert weights.grad.tolist() == pytest.approx([0.3, -0.4])
    assert weights.tolist() == pytest.approx([-0.1, 0.1])
    tsalign.take_step(optimizer, slope.dot(weights))  # without a norm nothing is clipped
    assert weights.grad.tolist() == pytest.approx([3, -4])
    tsalign.take_step(optimizer, slope.dot(weights), max_grad_norm=10)
    assert weights.grad.tolist() == pytest.approx([3, -4])  # it is not made longer


# --- Section IV, phase two ----------------------------------------------------------------


def random_episodes():
    """Rewards, values, next values, terminated, truncated of 7 steps in 3 environments."""
    rewards = torch.randn(7, 3)
    values = torch.randn(7, 3)
    next_values = torch.randn(7, 3)
    terminated = torch.zeros(7, 3, dtype=torch.bool)
    truncated = torch.zeros(7, 3, dtype=torch.bool)
    terminated[2, 0] = True
    truncated[4, 0] = True
    truncated[3, 1] = True
    terminated[6, 2] = True
    return rewards, values, next_values, terminated, truncated


def test_gae_equals_an_explicit_sum_over_the_rest_of_the_episode():
    rewards, values, next_values, terminated, truncated = random_episodes()
    done = terminated | truncated
    steps = (rewards, values, next_values, terminated, done)
    advantages = tsalign.gae(*steps, gamma=0.9, lam=0.8)
    by_sum = gae_by_sum(*steps, gamma=0.9, lam=0.8)
    assert torch.allclose(advantages, by_sum, atol=1e-5)


def test_gae_of_one_step_by_hand_at_a_termination_a_truncation_and_in_between():
    three = torch.tensor([[1.0, 1.0, 1.0]])
    terminated = torch.tensor([[True, False, False]])
    done = torch.tensor([[True, True, False]])
    advantages = tsalign.gae(three, 2 * three, 10 * three, terminated, done, 0.9, 0.5)
    assert advantages.tolist() == [pytest.approx([1 - 2, 1 + 9 - 2, 1 + 9 - 2])]


def ppo_batch():
    """A batch for `ppo_losses` with gains and losses on both sides of the clip range."""
    logits = torch.randn(40, 3, dtype=torch.double, requires_grad=True)
    value = torch.randn(40, dtype=torch.double, requires_grad=True)
    action = torch.randint(3, (40,))
    log_prob = Categorical(logits=logits).log_prob(action).detach()
    log_prob_before = log_prob + 0.3 * torch.randn(40, dtype=torch.double)
    advantage = 5 + 2 * torch.randn(40, dtype=torch.double)
    returns = torch.randn(40, dtype=torch.double)
    return logits, value, action, log_prob_before, advantage, returns


def test_ppo_losses_equal_a_case_by_case_loop_in_value_and_gradients():
    logits, value, action, log_prob_before, advantage, returns = ppo_batch()
    policy = Categorical(logits=logits)
    losses = tsalign.ppo_losses(
        policy, value, action, log_prob_before, advantage, returns, clip=0.2
    )
    probability = logits.softmax(dim=1)[range(40), action]
    ratio = probability / log_prob_before.exp()
    mean = sum(advantage) / 40
    deviation = (sum((advantage - mean) ** 2) / 40).sqrt()
    normalised = (advantage - mean) / deviation
    for is_gain in (normalised > 0, normalised < 0):  # all four corners are in the batch
        assert (is_gain & (ratio > 1.2)).any()
        assert (is_gain & (ratio < 0.8)).any()
    policy_loss = policy_loss_by_cases(ratio, normalised, clip=0.2)
    assert losses["policy_loss"].item() == pytest.approx(policy_loss.item())
    check_same_gradients(losses["policy_loss"], policy_loss, [logits])

    value_loss = ((value - returns) ** 2).sum() / 40
    assert losses["value_loss"].item() == pytest.approx(value_loss.item())
    check_same_gradients(losses["value_loss"], value_loss, [value])

    probabilities = logits.softmax(dim=1)
    entropy = -(probabilities * probabilities.log()).sum(dim=1).mean()
    assert losses["entropy"].item() == pytest.approx(entropy.item())
    check_same_gradients(losses["entropy"], entropy, [logits])

    approx_kl = sum(r - 1 - math.log(r) for r in ratio.tolist()) / 40
    assert losses["approx_kl"].item() == pytest.approx(approx_kl)
    n_clipped = sum(r < 0.8 or r > 1.2 for r in ratio.tolist())
    assert losses["clip_fraction"].item() == pytest.approx(n_clipped / 40)


PHASE_TWO_LEARNS = {
    "ours": ["policy", "critic"],  # Section IV: not through the encoders
    "no-align": ["policy", "critic"],
    "no-stability": ["policy", "critic"],
    "policy-gradient": ["policy", "critic", "teacher"],
    "bc": ["policy", "critic", "teacher"],
    "sitt": ["policy", "critic", "teacher"],
}
PHASE_TWO = {
    "ppo_batch": 64,
    "ppo_epochs": 2,
    "ppo_lr": 0.004,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "clip": 0.1,
    "value_coef": 0.3,
    "entropy_coef": 3.2,  # at half time an eighth is left of it
    "max_grad_norm": 0.3,
}


def phase_two_by_hand(start, method, nets, nets_before):
    """Phase two's losses over all steps, their sum, and the explained variance.

    `nets_before` are the networks with which the phase began.
    """
    rollout = start.rollout
    obs_teacher = rollout.obs_teacher.flatten(0, 1)
    obs_next = rollout.obs_next.flatten(0, 1)
    action = rollout.action.flatten(0, 1)
    reward = rollout.reward
    with torch.no_grad():
        z_before = (rollout.z_teacher + rollout.noise).flatten(0, 1)
        before = distribution_of(nets_before.policy, z_before)
        if method == "sitt":
            proxy = distribution_of(nets_before.policy, nets_before.proxy(obs_teacher))
            reward = reward - 0.7 * kl_divergence(before, proxy).view(16, 4)
        values = nets_before.critic(obs_teacher).view(16, 4)
        next_values = nets_before.critic(obs_next).view(16, 4)
        advantages = gae_by_sum(
            reward, values, next_values, rollout.terminated, rollout.done, 0.9, 0.8
        )
        returns = (advantages + values).flatten()
        advantage = advantages.flatten()
        explained_variance = 1 - advantage.var() / returns.var()
        normalised = (advantage - advantage.mean()) / advantage.std(correction=0)

    z = rollout.z_teacher.flatten(0, 1)
    if "teacher" in PHASE_TWO_LEARNS[method]:
        z = nets.teacher(obs_teacher)
    policy = distribution_of(nets.policy, z + rollout.noise.flatten(0, 1))
    ratio = (policy.log_prob(action) - before.log_prob(action)).exp()
    losses = {
        "policy_loss": policy_loss_by_cases(ratio, normalised, clip=0.1),
        "value_loss": (nets.critic(obs_teacher) - returns).square().mean(),
        "entropy": policy.entropy().mean(),
    }
    total = losses["policy_loss"] + 0.3 * losses["value_loss"]
    if nets.policy.log_std is None:  # a Gaussian has no bonus
        total = total - 0.4 * losses["entropy"]
    if method == "sitt":
        losses["penalty"] = kl_divergence(policy, proxy).mean()
        total = total + 2.0 * losses["penalty"]
    return losses, total, explained_variance.item()


@pytest.mark.parametrize("env", ENVS_OF_ALL_KINDS)
@pytest.mark.parametrize("method", PHASE_TWO_LEARNS)
def test_phase_two_arrows_lead_to_policy_and_critic_and_to_an_encoder_only_in_baselines(
    method, env
):
    settings = dict(PHASE_TWO)
    if method == "sitt":
        settings.update(sitt_lambda1=0.7, sitt_lambda2=2.0)
    start = start_run(method, env, **settings)
    steps = record_steps(start.policy_optimizer, start.nets)
    nets_before = copy.deepcopy(start.nets)
    logged = start.train_policy(progress=0.5)
    assert len(steps) == 2  # two passes of one minibatch
    all_losses = []
    for step in steps:
        losses, total, explained_variance = phase_two_by_hand(
            start, method, step.nets, nets_before
        )
        check_gradients(step, total, PHASE_TWO_LEARNS[method], max_norm=0.3)
        all_losses.append(losses)
    first, second = all_losses
    for name in first:
        mean = (first[name] + second[name]).item() / 2
        assert logged[name] == pytest.approx(mean, rel=1e-3, abs=1e-5), name
    assert logged["explained_variance"] == pytest.approx(explained_variance, rel=1e-3)
    check_moves(nets_before, start.nets, PHASE_TWO_LEARNS[method])
    check_moves(nets_before, steps[1].nets, PHASE_TWO_LEARNS[method], rate=0.004)


def test_phase_two_uses_z_and_log_prob_as_stored_even_if_the_encoder_has_moved_since():
    start = start_run(ppo_lr=0.0)
    for parameter in start.nets.teacher.parameters():
        parameter.data.add_(1)
    log_prob = start.rollout.log_prob - 1  # all ratios are e
    logged = start.train_policy(log_prob=log_prob)
    assert logged["approx_kl"] == pytest.approx(math.e - 2, rel=1e-4)
    assert logged["clip_fraction"] == 1


def test_phase_two_each_pass_has_each_step_once_with_all_that_belongs_to_it(monkeypatch):
    start = start_run(ppo_batch=24, ppo_epochs=3, ppo_lr=0.0)
    numbers = torch.arange(64.0).view(16, 4)  # of the steps
    rollout = start.rollout
    values = start.nets.critic(rollout.obs_teacher.flatten(0, 1))
    z = rollout.z_teacher + rollout.noise
    probs = distribution_of(start.nets.policy, z.flatten(0, 1)).probs
    ppo_losses = tsalign.ppo_losses
    minibatches = []

    def write_down(policy, value, action, log_prob_before, advantage, returns, clip):
        k = -log_prob_before.long()  # which steps these are
        assert torch.equal(advantage, k.float())
        assert torch.equal(action, rollout.action.flatten()[k])
        assert torch.allclose(value, values[k], atol=1e-5)
        assert torch.allclose(returns, k + values[k], atol=1e-5)
        assert torch.allclose(policy.probs, probs[k], atol=1e-5)
        minibatches.append(k.tolist())
        return ppo_losses(policy, value, action, log_prob_before, advantage, returns, clip)

    monkeypatch.setattr(tsalign, "ppo_losses", write_down)
    monkeypatch.setattr(tsalign, "gae", lambda *_: numbers)
    start.train_policy(log_prob=-numbers)
    assert [len(k) for k in minibatches] == 3 * [24, 24, 16]
    passes = []
    for first in (0, 3, 6):
        passes.append(sum(minibatches[first : first + 3], []))
    for k in passes:
        assert sorted(k) == list(range(64))
        assert k != list(range(64))
    assert passes[0] != passes[1]


# --- Section V-B: the baselines, and all rows of Table I ----------------------------------


@pytest.mark.parametrize("env", ENVS_OF_ALL_KINDS)
def test_bc_arrows_lead_from_the_actions_likelihood_to_the_student_and_its_policy(env):
    start = start_run("bc", env, encoder_batch=64, encoder_updates=1, encoder_lr=0.002)
    steps = record_steps(start.pairs_optimizer, start.nets)
    nets_before = copy.deepcopy(start.nets)
    logged = start.train_on_pairs()
    assert len(steps) == 4  # as many in a quarter of the cycles as others in all of them
    likelihoods = []
    for step in steps:
        z_student = step.nets.student(start.pairs.obs_student)
        policy = distribution_of(step.nets.student_policy, z_student)
        loss = -policy.log_prob(start.pairs.action).mean()
        check_gradients(step, loss, ["student", "student_policy"])
        likelihoods.append(loss.item())
    assert logged == {"imitation": pytest.approx(np.mean(likelihoods), rel=1e-3)}
    check_moves(nets_before, start.nets, ["student", "student_policy"])
    check_moves(nets_before, steps[1].nets, ["student", "student_policy"], rate=0.002)


def l1_distance(nets, z, z_aim):
    """SITT's distance: of embeddings and of logits, to a constant aim."""
    distance_of_z = (z - z_aim.detach()).abs().mean()
    distance_of_logits = (nets.policy(z) - nets.policy(z_aim).detach()).abs().mean()
    return distance_of_z + distance_of_logits


@pytest.mark.parametrize("env", ENVS_OF_ALL_KINDS)
def test_sitt_arrows_lead_to_the_student_and_from_there_to_the_proxy_alone(env):
    start = start_run("sitt", env, encoder_batch=64, encoder_updates=2, encoder_lr=0.002)
    steps = record_steps(start.pairs_optimizer, start.nets)
    nets_before = copy.deepcopy(start.nets)
    logged = start.train_on_pairs()
    assert len(steps) == 2
    student_losses = []
    proxy_losses = []
    for step in steps:
        nets = step.nets
        z_teacher = nets.teacher(start.pairs.obs_teacher)
        z_student = nets.student(start.pairs.obs_student)
        z_proxy = nets.proxy(start.pairs.obs_teacher)
        student_loss = l1_distance(nets, z_student, z_teacher)
        proxy_loss = l1_distance(nets, z_proxy, z_student)
        check_gradients(step, student_loss + proxy_loss, ["student", "proxy"])
        student_losses.append(student_loss.item())
        proxy_losses.append(proxy_loss.item())
    assert logged["student_to_teacher"] == pytest.approx(np.mean(student_losses), rel=1e-3)
    assert logged["proxy_to_student"] == pytest.approx(np.mean(proxy_losses), rel=1e-3)
    check_moves(nets_before, start.nets, ["student", "proxy"])
    check_moves(nets_before, steps[1].nets, ["student", "proxy"], rate=0.002)


def test_methods_differ_in_what_their_rows_say():
    assert set(METHODS) == set(PHASE_TWO_LEARNS)
    for name, method in METHODS.items():
        reaches = "teacher" in PHASE_TWO_LEARNS[name]
        assert method.policy_gradient_reaches_encoder == reaches
        assert (method.student_share < 1) == (name == "bc")
        hides = method.train_on_pairs is tsalign.train_embedding
        assert method.settings.get("z_noise", Config.z_noise) == (0.3 if hides else 0)
    assert METHODS["no-align"].settings == {"lambda_align": 0.0}
    assert METHODS["no-stability"].settings == {"lambda_stab": 0.0}
    assert METHODS["ours"].paper["tunnelvision"] == (1.00, 1.00)
    assert METHODS["bc"].paper["collecthealth"] == (1.00, 0.47)


def train_nothing(nets, optimizer, pairs, config, progress):
    """A method of a user's, that learns nothing."""
    return {"nothing": 0.5}


no_share = tsalign.Method(train_nothing, student_share=0.0)


# --- Evaluation ---------------------------------------------------------------------------


def test_evaluation_neither_agent_ever_touches_the_others_view():
    class OneNanView(TunnelVisionVectorEnv):
        def _observe(self):
            views = super()._observe()
            views[self.hidden] = np.full_like(views[self.hidden], np.inf)
            return views

    nets = small_networks()
    envs = OneNanView(4)
    for agent, other in (("student", "teacher"), ("teacher", "student")):
        envs.hidden = other
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tsalign, "check_finite", lambda values: None)
            returns, _ = tsalign.play_episodes(envs, nets, agent, 1, 3, 1000)
            assert np.isfinite(returns).all()
            with pytest.raises(RuntimeError, match="nan"):
                tsalign.play_episodes(envs, nets, other, 1, 3, 1000)


def test_evaluation_each_agent_draws_from_its_own_policy():
    envs = RecordedEnvs(64, max_episode_steps=16)
    nets = small_networks(envs, "bc")
    chances = {
        "teacher": torch.tensor([0.5, 0.3, 0.2, 0, 0, 0, 0, 0]),
        "student": torch.tensor([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0]),
    }
    policies = {"teacher": nets.policy, "student": nets.student_policy}
    for agent, wanted in chances.items():
        last_layer = policies[agent].net[-1]
        last_layer.weight.data.zero_()
        last_layer.bias.data = (wanted + 1e-9).log()
    for agent, wanted in chances.items():
        envs.history.clear()
        tsalign.play_episodes(envs, nets, agent, 4, seed=0, step_limit=16)
        actions = np.concatenate([step.action for step in envs.history])
        shares = np.bincount(actions, minlength=8) / len(actions)
        assert shares == pytest.approx(wanted.numpy(), abs=0.08)


def test_evaluation_counts_short_and_long_episodes_alike_and_each_in_full():
    envs = FixedEndsEnvs(6)
    nets = small_networks(envs)
    score = tsalign.evaluate(envs, nets, 20, seed=3)  # 24: four of each environment
    assert score["success_teacher"] == 0.5
    assert score["success_student"] == 0.5
    assert score["return_teacher"] == 3.5  # the mean of 1 .. 6
    assert score["return_student"] == 3.5
    assert score["gap"] == 0
    error = np.arange(1, 7).std() / 24**0.5
    assert score["return_student_se"] == pytest.approx(error)
    returns, successes = tsalign.play_episodes(envs, nets, "teacher", 2, 0, 1000)
    assert sorted(returns) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert successes[np.isin(returns, [1, 3, 5])].all()  # of environments 0, 2, 4
    assert successes.sum() == 6


def test_evaluation_begins_both_agents_with_the_same_seed():
    envs = FixedEndsEnvs(2)
    tsalign.evaluate(envs, small_networks(envs), 2, seed=3)
    tsalign.evaluate(envs, small_networks(envs), 2, seed=4)
    assert envs.seeds == [3, 3, 4, 4]


def test_evaluation_looks_through_the_students_eyes_only_where_the_student_acts():
    envs = FixedEndsEnvs(3)
    nets = small_networks(envs)
    for agent, looks in (("teacher", False), ("student", True), ("teacher", False)):
        envs.draws_at_step.clear()
        envs.draws_at_reset.clear()
        tsalign.play_episodes(envs, nets, agent, 2, seed=0, step_limit=1000)
        assert set(envs.draws_at_step) == {looks}
        assert set(envs.draws_at_reset) == {looks}
        assert len(envs.draws_at_reset) > 2


def test_evaluation_gives_up_where_an_episode_does_not_end():
    envs = FixedEndsEnvs(6)
    nets = small_networks(envs)
    tsalign.evaluate(envs, nets, 6, seed=0, step_limit=6)
    with pytest.raises(BadInput, match="goes on after 5 steps"):
        tsalign.evaluate(envs, nets, 6, seed=0, step_limit=5)


@pytest.mark.parametrize(
    "teacher_successes, student_successes, expected",
    [
        ([1, 1], [0, 1], {"success_teacher": 1, "success_student": 0.5, "gap": 0.5}),
        ([1, 1], [math.nan, 1], {"success_teacher": 1, "success_student": 0.5, "gap": 0.5}),
        ([math.nan, math.nan], [math.nan, math.nan], {"gap": 2.5}),  # of the returns
    ],
)
def test_evaluation_gives_each_agent_its_own_score_and_the_gap_is_teacher_less_student(
    teacher_successes, student_successes, expected, monkeypatch
):
    def play_episodes(envs, nets, agent, episodes_each, seed, step_limit):
        if agent == "teacher":
            return np.array([3.0, 5.0]), np.array(teacher_successes)
        return np.array([1.0, 2.0]), np.array(student_successes)

    monkeypatch.setattr(tsalign, "play_episodes", play_episodes)
    score = tsalign.evaluate(FixedEndsEnvs(6), None, 6, seed=0)
    errors = {"return_teacher_se": 1 / 2**0.5, "return_student_se": 0.5 / 2**0.5}
    returns = {"return_teacher": 4, "return_student": 1.5}
    assert score == pytest.approx(expected | returns | errors)


# --- The one training loop ----------------------------------------------------------------

SCORE = {
    "success_teacher": 0.75,
    "success_student": 0.5,
    "return_teacher": 2.0,
    "return_student": 1.0,
    "gap": 0.25,
}


class LoopRecord:
    """What one run of `training_loop` did, in which nothing learns and nobody plays."""

    def __init__(self):
        self.order = []  # "policy", "student", "evaluate" as they are called
        self.progress = {"policy": [], "student": []}
        self.rates = {"policy": [], "student": []}  # of the optimizers
        self.rollouts = []
        self.memories = []
        self.evaluations = []  # (envs, episodes, seed, step_limit)
        self.ranges = []  # "teacher", "student", ... -> lowest and highest of each input
        self.envs = None
        self.eval_envs = None
        self.rows = None


def record_loop(monkeypatch, out, method, make, changes) -> LoopRecord:
    """Eight cycles of 8 steps in 4 environments, with three evaluations."""
    record = LoopRecord()

    def begin(phase, optimizer, progress):
        record.order.append(phase)
        record.progress[phase].append(progress)
        record.rates[phase].append(optimizer.param_groups[0]["lr"])

    def train_policy(nets, optimizer, rollout, config, progress):
        begin("policy", optimizer, progress)
        record.rollouts.append(rollout)
        return {"entropy": 2.0}

    def train_student(nets, optimizer, pairs, config, progress):
        begin("student", optimizer, progress)
        record.memories.append(pairs)
        ranges = {}
        for name in ("teacher", "student", "critic", "proxy"):
            network = getattr(nets, name)
            if network is not None:
                ranges[name] = torch.stack([network.low, network.high])
        record.ranges.append(ranges)
        return {"imitation": 3.0}

    def evaluate(envs, nets, episodes, seed, step_limit):
        record.order.append("evaluate")
        record.evaluations.append((envs, episodes, seed, step_limit))
        return dict(SCORE)

    row = METHODS[method]._replace(train_on_pairs=train_student)
    settings = {
        "out": str(out),
        "rollout_steps": 8,
        "total_steps": 7 * 32 + 1,  # the last cycle counts whole
        "log_evals": 3,
        "ppo_lr": 1.0,
        "encoder_lr": 2.0,
        "episode_limit": 77,
        "pairs_every": 4,
        "pairs_memory": 1000,
        "overwrite": True,
    }
    config = small_config(method=method, **{**settings, **changes})
    record.envs = make(4)
    record.eval_envs = make(3)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, method, row)
        patch.setattr(tsalign, "train_policy", train_policy)
        patch.setattr(tsalign, "evaluate", evaluate)
        nets = tsalign.Networks(record.envs, config)
        record.rows = tsalign.training_loop(record.envs, record.eval_envs, nets, config)
    return record


@pytest.fixture
def run_loop(monkeypatch, tmp_path):
    """`record_loop`, by default of "ours" in TunnelVision."""

    def run(method="ours", make=RecordedEnvs, **changes):
        return record_loop(monkeypatch, tmp_path, method, make, changes)

    return run


def test_loop_order_is_policy_then_encoders_in_each_cycle_and_evaluations_between(run_loop):
    record = run_loop()
    cycle = ["policy", "student"]
    evaluated = [*cycle, "evaluate"]
    three_cycles = [*cycle, *cycle, *evaluated]
    assert record.order == [*three_cycles, *three_cycles, *cycle, *evaluated]
    assert len(record.envs.history) == 8 * 8


def test_loop_bc_trains_the_student_after_the_teachers_end(run_loop):
    record = run_loop("bc")
    three_policies = ["policy"] * 3 + ["evaluate"]
    assert record.order == 2 * three_policies + ["student", "student", "evaluate"]
    assert record.progress["policy"] == pytest.approx([k / 6 for k in range(6)])
    assert record.progress["student"] == [0, 1 / 2]
    assert record.rates["policy"] == pytest.approx([1, 1, 1, 1, 1, 5 / 6])
    assert record.rates["student"] == pytest.approx([2, 2 * (1 - 0.95 / 2)])


def test_loop_both_phases_are_told_their_progress_and_have_the_rate_of_their_schedule(
    run_loop,
):
    record = run_loop()
    progress = [k / 8 for k in range(8)]
    assert record.progress == {"policy": progress, "student": progress}
    assert record.rates["policy"] == pytest.approx([1, 1, 1, 1, 1, 1, 1, 5 / 8])
    assert record.rates["student"] == pytest.approx([2 * (1 - 0.95 * p) for p in progress])


def test_loop_each_phase_gets_the_data_of_its_own_cycle_without_a_reset_in_between(
    run_loop,
):
    record = run_loop()
    assert len(record.envs.seeds) == 1
    t = 0
    for rollout in record.rollouts:
        for obs_teacher in rollout.obs_teacher:
            assert (obs_teacher.numpy() == record.envs.history[t].obs["teacher"]).all()
            t += 1
    assert t == 64


def drawn_pairs(envs, steps) -> np.ndarray:
    """Both views and the action at the given steps, one row for each pair."""
    rows = []
    for t in steps:
        step = envs.history[t]
        columns = [step.obs["teacher"], step.obs["student"], step.action]
        rows.append(np.column_stack(columns))
    return np.concatenate(rows)


def looked_at(envs) -> list[int]:
    """The steps before which the student's view had been drawn."""
    steps = []
    for t, step in enumerate(envs.history):
        if (step.obs["student"] != NOT_DRAWN).all():
            steps.append(t)
    return steps


@pytest.mark.parametrize("pairs_every", [1, 4, 20])  # 20: some cycles have no new pairs
def test_loop_the_memory_holds_the_newest_pairs_in_the_order_of_time(pairs_every, run_loop):
    record = run_loop(pairs_every=pairs_every, pairs_memory=14)
    for cycle, memory in enumerate(record.memories):
        steps = [t for t in looked_at(record.envs) if t < 8 * (cycle + 1)]
        expected = drawn_pairs(record.envs, steps)[-14:]
        columns = [memory.obs_teacher, memory.obs_student, memory.action[:, None]]
        assert (torch.cat(columns, dim=1).numpy() == expected).all()


def test_loop_looks_are_those_planned_and_their_views_are_counted(run_loop):
    record = run_loop()
    steps = looked_at(record.envs)
    assert len(steps) in (16, 17)  # one of four of 64 steps, and one more at first
    assert len({t // 4 for t in steps}) == 16
    views = [row["student_views"] for row in record.rows]
    expected = []
    for n_cycles in (3, 6, 8):
        expected.append(4 * len([t for t in steps if t < 8 * n_cycles]))
    assert views == expected


def test_loop_looks_at_every_step_also_the_first_if_pairs_every_is_1(run_loop):
    record = run_loop(pairs_every=1)
    assert looked_at(record.envs) == list(range(64))


def test_loop_looks_of_bc_begin_with_its_student(run_loop):
    record = run_loop("bc")
    steps = looked_at(record.envs)
    assert min(steps) >= 6 * 8
    assert len(steps) in (4, 5)
    views = [row["student_views"] for row in record.rows]
    assert views == [0, 0, 4 * len(steps)]


@pytest.mark.parametrize(
    "n_cycles, log_evals, expected",
    [
        (10, 5, [1, 3, 5, 7, 9]),
        (8, 3, [2, 5, 7]),
        (7, 2, [3, 6]),
        (5, 1, [4]),
        (3, 10, [0, 1, 2]),
    ],
)
def test_loop_evaluations_are_spread_evenly_and_one_follows_the_last_cycle(
    n_cycles, log_evals, expected
):
    config = small_config(log_evals=log_evals)
    evaluated = []
    for cycle in range(n_cycles):
        if tsalign.is_evaluated(cycle, n_cycles, config):
            evaluated.append(cycle)
    assert evaluated == expected


def test_loop_evaluations_use_their_own_environments_sizes_and_limit(run_loop):
    record = run_loop(eval_episodes=10, log_episodes=3)
    episodes = []
    for envs, n_episodes, _, step_limit in record.evaluations:
        assert envs is record.eval_envs
        assert step_limit == 77
        episodes.append(n_episodes)
    assert episodes == [3, 3, 10]


def test_loop_seeds_are_all_different_small_and_decided_by_the_runs_seed(run_loop):
    seeds = []
    for run_seed in (0, 0, 1):
        record = run_loop(seed=run_seed)
        evaluation_seeds = [seed for _, _, seed, _ in record.evaluations]
        seeds.append(record.envs.seeds + evaluation_seeds)
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0] + seeds[2])) == 8
    largest = max(seeds[0] + seeds[2])
    assert largest < 2**31 - 10_000  # environment i gets seed + i; some take a C int


@pytest.mark.parametrize("method", ["sitt", "bc"])
def test_loop_input_ranges_are_the_first_ones_seen_for_all_that_read_a_view(
    method, run_loop
):
    def make(num_envs):
        return tsalign.make_envs(of_this_file("Drift-v0"), num_envs)

    record = run_loop(method, make)
    views = record.rollouts[0].obs_teacher.flatten(0, 1)
    of_teacher = torch.stack([views.amin(dim=0), views.amax(dim=0)])
    views = record.memories[0].obs_student
    of_student = torch.stack([views.amin(dim=0), views.amax(dim=0)])
    readers = {"teacher", "critic", "student"} | ({"proxy"} if method == "sitt" else set())
    assert len(record.ranges) == {"sitt": 8, "bc": 2}[method]
    for ranges in record.ranges:
        assert ranges.keys() == readers
        for name in readers:
            expected = of_student if name == "student" else of_teacher
            assert torch.equal(ranges[name], expected), name


def test_loop_rows_have_steps_views_scores_and_the_last_losses(run_loop, tmp_path):
    record = run_loop()
    assert [row["env_steps"] for row in record.rows] == [3 * 32, 6 * 32, 8 * 32]
    for row in record.rows:
        assert SCORE.items() <= row.items()
        assert row["entropy"] == 2
        assert row["imitation"] == 3
    log = read_log(tmp_path / "tunnelvision_ours_seed0")
    assert list(log[0]) == list(record.rows[0])
    assert [float(row["env_steps"]) for row in log] == [96, 192, 256]


def test_loop_stops_where_a_loss_is_not_finite(monkeypatch, tmp_path):
    def diverge(nets, optimizer, pairs, config, progress):
        return {"distance": math.inf}

    monkeypatch.setitem(METHODS, "diverges", Method(diverge))
    config = small_config(method="diverges", total_steps=256, out=str(tmp_path))
    with pytest.raises(RunStopped, match="distance.* ends at 64 environment steps"):
        tsalign.train(config)


def test_optimizers_own_the_networks_that_their_phase_may_move():
    extra = {"bc": {"student_policy"}, "sitt": {"proxy"}}
    for method, learners in PHASE_TWO_LEARNS.items():
        nets = small_networks(method=method)
        optimizers = tsalign.make_optimizers(nets, small_config(method=method))
        owned = []
        for optimizer in optimizers:
            identities = {id(p) for p in optimizer.param_groups[0]["params"]}
            names = {
                network_of(n) for n, p in nets.named_parameters() if id(p) in identities
            }
            owned.append(names)
        assert owned[0] == set(learners)
        assert owned[1] == set(PHASE_ONE_LEARNS) | extra.get(method, set())


def test_optimizers_have_the_rates_of_the_settings_and_ppos_forgets_sooner():
    nets = small_networks()
    config = small_config(ppo_lr=0.5, encoder_lr=0.25)
    policy_optimizer, pairs_optimizer = tsalign.make_optimizers(nets, config)
    assert policy_optimizer.param_groups[0]["lr"] == 0.5
    assert policy_optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert pairs_optimizer.param_groups[0]["lr"] == 0.25
    assert pairs_optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_train_makes_environments_of_both_sizes_and_evaluates_on_the_second(
    monkeypatch, tmp_path
):
    made = []

    def make_envs(env, num_envs):
        made.append(RecordedEnvs(num_envs, max_episode_steps=4))
        return made[-1]

    monkeypatch.setattr(tsalign, "make_envs", make_envs)
    config = small_config(log_episodes=3, total_steps=128, log_evals=2, out=str(tmp_path))
    result = tsalign.train(config)
    envs, eval_envs = made
    assert envs.num_envs == 4
    assert eval_envs.num_envs == 3
    assert len(envs.history) == 32  # nobody plays on them but the teacher that collects
    assert len(envs.seeds) == 1
    assert len(eval_envs.seeds) == 4  # two evaluations of two agents
    assert len(set(envs.seeds + eval_envs.seeds)) == 3
    assert envs.is_closed
    assert eval_envs.is_closed
    assert result["eval_episodes"] == 9  # 8, rounded up to a multiple of 3


def test_train_closes_all_environments_also_on_errors(tmp_path):
    Cue.n_open = 0
    good = small_config(env=of_this_file("Cue"), total_steps=64, out=str(tmp_path))
    tsalign.train(good)
    tsalign.load_run(good.folder)
    assert Cue.n_open == 0
    bad = small_config(env=of_this_file("Bug-v0"), out=str(tmp_path))
    with pytest.raises(RuntimeError, match="the user's own"):
        tsalign.train(bad)
    assert Cue.n_open == 0


def test_train_sets_the_number_of_threads(monkeypatch, tmp_path):
    calls = record_calls(monkeypatch, torch, "set_num_threads")
    tsalign.train(small_config(threads=3, total_steps=64, out=str(tmp_path)))
    assert calls == [(3,)]


@pytest.mark.parametrize(
    "has_cuda, has_mps, best",
    [
        (False, False, "cpu"),
        (False, True, "mps"),
        (True, True, "cuda"),
        (True, False, "cuda"),
    ],
)
def test_train_auto_takes_the_best_device(has_cuda, has_mps, best, monkeypatch):
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert tsalign.pick_device("auto").type == best


# --- Run folders --------------------------------------------------------------------------

RUN_FILES = {"config.json", "log.csv", "checkpoint.pt", "curve.png", "result.json"}


def train_small(tmp_path, monkeypatch=None, **changes) -> tuple[Config, dict]:
    """A run of two cycles with two evaluations -> its settings and result."""
    settings = {"total_steps": 128, "log_evals": 2, "out": str(tmp_path)}
    config = small_config(**{**settings, **changes})
    if monkeypatch is not None:
        monkeypatch.setattr(tsalign, "evaluate", lambda *_: dict(SCORE))
    return config, tsalign.train(config)


def test_run_leaves_its_files_and_the_result_says_what_ran(tmp_path, monkeypatch):
    config, result = train_small(tmp_path, monkeypatch, method="bc", seed=5)
    assert {path.name for path in config.folder.iterdir()} == RUN_FILES
    assert json.loads((config.folder / "result.json").read_text()) == result
    assert result["env"] == "tunnelvision"
    assert result["method"] == "bc"
    assert result["seed"] == 5
    assert result["env_steps"] == 128
    assert result["eval_episodes"] == 8
    assert result["device"] == "cpu" or torch.cuda.is_available()
    assert result["torch"] == torch.__version__
    assert result["seconds"] > 0
    assert SCORE.items() <= result.items()
    saved = json.loads((config.folder / "config.json").read_text())
    assert Config(**saved) == replace(config, z_noise=0.0)  # which bc fixes


def test_run_its_noise_is_the_one_of_its_settings(tmp_path, monkeypatch):
    lengths = []

    def write_down(z, length):
        lengths.append(length)
        return torch.zeros_like(z)

    monkeypatch.setattr(tsalign, "noise_like", write_down)
    train_small(tmp_path, monkeypatch, z_noise=0.7)
    assert set(lengths) == {0.7}


def test_run_the_curve_has_both_agents_under_their_names(tmp_path, monkeypatch):
    figures = record_calls(monkeypatch, Figure, "savefig")
    config = small_config(out=str(tmp_path))
    rows = [
        {**SCORE, "env_steps": 100},
        {**SCORE, "env_steps": 200, "success_teacher": 1.0},
    ]
    axes = []
    subplots = Figure.subplots

    def keep(figure):
        axes.append(subplots(figure))
        return axes[-1]

    monkeypatch.setattr(Figure, "subplots", keep)
    tsalign.save_curve(config, rows)
    assert len(figures) == 1
    lines = {}
    for line in axes[0].lines:
        assert list(line.get_xdata()) == [100, 200]
        lines[line.get_label()] = list(line.get_ydata())
    assert lines == {"teacher": [0.75, 1.0], "student": [0.5, 0.5]}


def test_run_result_appears_last_and_each_file_at_once(tmp_path, monkeypatch):
    seen = []
    replace = Path.replace

    def write_down(self, target):
        names = {path.name for path in Path(target).parent.iterdir()}
        seen.append((Path(target).name, names))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", write_down)
    train_small(tmp_path, monkeypatch)
    assert [name for name, _ in seen] == [
        "config.json",
        "log.csv",
        "checkpoint.pt",
        "log.csv",
        "checkpoint.pt",
        "result.json",
    ]
    _, there = seen[-1]
    assert RUN_FILES - {"result.json"} <= there
    assert "result.json" not in there


def test_run_can_be_loaded_with_all_its_weights_and_input_ranges(tmp_path, monkeypatch):
    kept = []
    save_checkpoint = tsalign.save_checkpoint

    def keep(config, nets):
        kept.append(copy.deepcopy(nets))
        save_checkpoint(config, nets)

    monkeypatch.setattr(tsalign, "save_checkpoint", keep)
    for method in METHODS:
        config, _ = train_small(tmp_path, env=of_this_file("Drift-v0"), method=method)
        loaded_config, nets = tsalign.load_run(config.folder)
        assert loaded_config == tsalign.checked(config)
        weights = kept[-1].state_dict()
        assert nets.state_dict().keys() == weights.keys()
        for name, value in nets.state_dict().items():
            assert torch.equal(value, weights[name]), name
        views = 100 * torch.rand(5, 2)
        assert torch.equal(nets.student(views), kept[-1].student(views))


def contents(folder: Path) -> dict:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_run_that_is_finished_is_kept_unless_overwrite_is_said(tmp_path, monkeypatch):
    config, _ = train_small(tmp_path, monkeypatch)
    before = contents(config.folder)
    with pytest.raises(BadInput, match="finished run"):
        train_small(tmp_path, monkeypatch)
    assert contents(config.folder) == before
    train_small(tmp_path, monkeypatch, seed=1)  # has a folder of its own
    assert contents(config.folder) == before
    for _ in range(2):  # as a notebook's cell that is run again
        train_small(tmp_path, monkeypatch, overwrite=True)
    assert set(contents(config.folder)) == RUN_FILES


def test_run_that_is_being_overwritten_has_no_files_of_the_old_one(tmp_path, monkeypatch):
    config, _ = train_small(tmp_path, monkeypatch)
    monkeypatch.setattr(tsalign, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tsalign.train(small_config(total_steps=128, out=str(tmp_path), overwrite=True))
    assert set(contents(config.folder)) == {"config.json"}


def test_run_load_refuses_a_folder_without_a_run_and_half_a_checkpoint(
    tmp_path, monkeypatch
):
    with pytest.raises(BadInput, match="no run has been saved"):
        tsalign.load_run(tmp_path)
    config, _ = train_small(tmp_path, monkeypatch)
    checkpoint = config.folder / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"something else"):
        checkpoint.write_bytes(part)
        with pytest.raises(BadInput, match="cannot be read"):
            tsalign.load_run(config.folder)
    torch.save({"networks": {}}, checkpoint)
    with pytest.raises(BadInput, match="cannot be read"):
        tsalign.load_run(config.folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is full")
@pytest.mark.parametrize("name", ["log.tmp", "checkpoint.tmp", "curve.png", "result.tmp"])
def test_run_stops_in_one_line_where_the_disk_gets_full(
    name, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "tunnelvision_ours_seed0"
    evaluations = []

    def evaluate(*_):
        evaluations.append(1)
        if len(evaluations) == 2:  # from now on nothing can be written to this file
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to("/dev/full")
        return dict(SCORE)

    monkeypatch.setattr(tsalign, "evaluate", evaluate)
    flags = ["--total-steps", 128, "--log-evals", 2, "--out", tmp_path, *small_flags()]
    assert run_main(*flags) == 1
    check_one_line(capsys.readouterr().err, str(tmp_path))
    assert not (folder / "result.json").exists()
    assert not (folder / "checkpoint.tmp").exists()
    tsalign.load_run(folder)  # what was saved before is still whole


# --- Settings and command line: what is bad is refused in one line ------------------------


def check_one_line(error: str, word: str):
    """What went to stderr is one line of tsalign's that holds a word."""
    assert error.startswith("tsalign: ")
    assert error.count("\n") == 1
    assert word in error
    assert "Traceback" not in error


BAD_FLAGS = {
    # flags and types
    "--nosuch 1": "--nosuch",
    "--total 5": "--total",  # no abbreviations
    "positional": "positional",
    "--seed": "--seed",
    "--width x": "--width",
    "--total-steps 1.5": "--total-steps",
    "--total-steps inf": "--total-steps",
    "--total-steps nan": "--total-steps",
    "--overwrite yes": "yes",
    # ranges
    "--num-envs 0": "num_envs",
    "--total-steps -5": "total_steps",
    "--rollout-steps 1": "rollout_steps",
    "--encoder-batch 1": "encoder_batch",
    "--ppo-batch 1": "ppo_batch",
    "--pairs-every 0": "pairs_every",
    "--lambda-align -1": "lambda_align",
    "--lambda-align nan": "lambda_align",
    "--ppo-lr inf": "ppo_lr",
    "--gamma 2": "gamma",
    "--gae-lambda 1.1": "gae_lambda",
    "--clip -0.1": "clip",
    "--inverse-temperature 0": "inverse_temperature",
    "--inverse-temperature 101": "inverse_temperature",
    "--seed -1": "seed",
    "--seed 18446744073709551616": "seed",
    # device and folder
    "--device nosuch": "nosuch",
    "--device cuda:99": "cuda:99",
    "--device meta": "meta",
    "--out /dev/null/x": "/dev/null/x",
    # methods, and what contradicts them
    "--method nosuch": "nosuch",
    "--method nosuch:mine": "nosuch",
    "--method test_tsalign:nosuch": "nosuch",
    "--method test_tsalign:SMALL": "SMALL",
    "--method tsalign:Method": "tsalign:Method",
    "--method ..:mine": "..:mine",
    "--method :mine": ":mine",
    "--method bc --lambda-align 5": "lambda_align",
    "--method bc --lambda-stab 5": "lambda_stab",
    "--method sitt --inverse-temperature 5": "inverse_temperature",
    "--method no-align --lambda-align 5": "lambda_align",
    "--method no-stability --lambda-stab 5": "lambda_stab",
    "--sitt-lambda1 1": "sitt_lambda1",
    "--method bc --sitt-lambda2 1": "sitt_lambda2",
    "--method bc --total-steps 10": "raise total_steps",
    "--method test_tsalign:no_share": "student_share",
    # environments
    "--env nosuch": "nosuch",
    "--env nosuch-v0": "nosuch",
    "--env nosuch:Env-v0": "nosuch",
    "--env ..:X": "..:X",
    "--env :": "':'",
    "--env a/b/c": "a/b/c",
    "--env tunnelvision:TunnelVision-v9": "v9",
    "--env tunnelvision,rows": "'rows'",
    "--env tunnelvision,rows=0": "rows",
    "--env tunnelvision,rows=many": "tunnelvision,rows=many",
    "--env tunnelvision,nosuch=1": "nosuch",
    "--env collecthealth,view_height=15": "view_height",
    "--env CartPole-v1": "needs views",
    "--env test_tsalign:OneView-v0": "needs views",
    "--env test_tsalign:DiscreteView-v0": "needs views",
    "--env test_tsalign:EmptyView-v0": "needs views",
    "--env test_tsalign:UnboundedActions-v0": "bounded",
    "--env test_tsalign:WholeActions-v0": "floats",
    "--env test_tsalign:ManyActions-v0": "MultiDiscrete",
    "--env test_tsalign:OldReset-v0": "reset must return (observation, info)",
    "--env test_tsalign:OldStep-v0": "step must return (observation, reward, terminated",
    "--env test_tsalign:TupleOfViews-v0": "a dict of teacher and student",
    "--env test_tsalign:WrongShape-v0": "student's view is float32 (3,)",
    "--env test_tsalign:WrongType-v0": "student's view is float32 (2,)",
    "--env test_tsalign:NotMade-v0": "the engine is missing",
    "--env test_tsalign:NanAtFirst-v0": "student's view is not finite",
}


@pytest.mark.parametrize("flags, word", BAD_FLAGS.items())
def test_refuse_bad_input_in_one_line_with_exit_code_2_and_nothing_saved(
    flags, word, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_main(*flags.split()) == 2
    output = capsys.readouterr()
    check_one_line(output.err, word)
    assert output.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"seed": 1.5}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": True}, "seed"),
        ({"gamma": "0.9"}, "gamma"),
        ({"gamma": None}, "gamma"),
        ({"overwrite": 1}, "overwrite"),
        ({"env": None}, "env"),
        ({"method": ["ours"]}, "method"),
    ],
)
def test_refuse_settings_of_the_wrong_type_also_from_python(changes, word):
    with pytest.raises(BadInput, match=word):
        tsalign.train(Config(**changes))


def test_refuse_nothing_that_a_method_itself_fixes_or_its_own_default():
    for method, row in METHODS.items():
        completed = tsalign.checked(Config(method=method))
        for name, value in row.settings.items():
            assert getattr(completed, name) == value
    assert tsalign.checked(Config(method="no-align", lambda_align=0.0)).lambda_align == 0
    assert tsalign.checked(Config(method="sitt", sitt_lambda1=-1.0)).sitt_lambda1 == -1


def test_command_line_numbers_may_have_exponents_and_underscores():
    config = tsalign.parse_flags(["--total-steps", "1e5", "--num-envs", "1_024"])
    assert config.total_steps == 100_000
    assert config.num_envs == 1024
    assert type(config.total_steps) is int
    large = 2**53 + 1  # no float holds it
    assert tsalign.parse_flags(["--seed", str(large)]).seed == large


def test_command_line_has_each_setting_with_its_default():
    assert tsalign.parse_flags([]) == Config()
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        if f.type is bool:
            config = tsalign.parse_flags([flag])
            assert getattr(config, f.name) is True
        else:
            value = {int: 7, float: 0.25, str: "text"}[f.type]
            config = tsalign.parse_flags([flag, str(value)])
            assert getattr(config, f.name) == value


def test_command_line_help_shows_each_flag_with_its_true_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "250")
    assert run_main("--help") == 0
    words = capsys.readouterr().out.split()
    shown = " ".join(words)  # a long flag's text begins on the next line
    for f in fields(Config):
        flag = "--" + f.name.replace("_", "-")
        value = "" if f.type is bool else f" {f.name.upper()}"
        text = f"{f.metadata['help']} (default: {f.default})"
        assert f" {flag}{value} {text}" in shown


def test_command_line_tells_the_settings_that_differ_and_no_others(capsys):
    config = small_config(method="bc", seed=3, overwrite=True, width=16)
    tsalign.print_settings(config, torch.device("cpu"))
    expected = ["tunnelvision bc seed 3 on cpu"]
    for f in fields(Config):
        if f.name in SMALL and SMALL[f.name] != f.default:
            expected.append(f"  {f.name} {SMALL[f.name]}")
    assert "  width 16" in expected
    assert capsys.readouterr().out.splitlines() == expected


def test_command_line_prints_both_agents_under_their_names_and_the_papers_beside(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tsalign, "evaluate", lambda *_: dict(SCORE))
    flags = ["--method", "bc", "--total-steps", 128, "--log-evals", 2, "--out", tmp_path]
    assert run_main(*flags, *small_flags()) == 0
    lines = capsys.readouterr().out.splitlines()
    head = 0
    while lines[head].split()[:2] != ["steps", "teacher"]:
        head += 1
    for line, steps in ((lines[head + 1], 64), (lines[head + 2], 128)):
        shown = dict(zip(lines[head].split(), line.split()))
        assert float(shown["steps"]) == steps
        assert float(shown["teacher"]) == 0.75
        assert float(shown["student"]) == 0.5
        assert float(shown["gap"]) == 0.25
        assert len(line) == len(lines[head])  # the columns are aligned
    table = [line.split()[-3:] for line in lines[head + 4 : head + 8]]
    assert table == [
        ["teacher", "student", "gap"],
        ["0.750", "0.500", "0.250"],
        ["1.000", "0.190", "0.810"],
        ["2.000", "1.000", "1.000"],
    ]
    assert lines[-1].startswith("8 fresh episodes of each; ")
    assert lines[-1].endswith(f"saved in {tmp_path}/tunnelvision_bc_seed0")


STOPS = {
    "LateNanTeacher-v0": "teacher's view is not finite",
    "LateNanStudent-v0": "student's view is not finite",
    "LateNanReward-v0": "the reward is not finite",
    "LateInfReward-v0": "the reward is not finite",
    "WordOfSuccess-v0": "'yes'",
    "NoneOfSuccess-v0": "None",
    "Endless-v0": "goes on after 50 steps",
}


@pytest.mark.parametrize("name, words", STOPS.items())
def test_stops_in_one_line_with_exit_code_1_where_a_run_cannot_go_on(
    name, words, tmp_path, capsys
):
    flags = ["--env", of_this_file(name), "--out", tmp_path, "--total-steps", 2048]
    flags += [*small_flags(), "--episode-limit", 50, "--log-evals", 32]
    assert run_main(*flags) == 1
    error = capsys.readouterr().err
    check_one_line(error, words)
    assert "environment steps" in error
    (folder,) = tmp_path.iterdir()
    assert not (folder / "result.json").exists()


def test_stops_with_130_at_ctrl_c_and_the_last_evaluation_can_be_loaded(tmp_path, capsys):
    flags = ["--env", of_this_file("CtrlC-v0"), "--out", tmp_path, "--total-steps", 2048]
    flags += [*small_flags(), "--log-evals", 32]
    assert run_main(*flags) == 130
    check_one_line(capsys.readouterr().err, "interrupted")
    (folder,) = tmp_path.iterdir()
    assert not (folder / "result.json").exists()
    assert len(read_log(folder)) >= 1
    tsalign.load_run(folder)


def test_stops_with_the_users_own_traceback_at_a_bug_of_the_users(tmp_path):
    flags = ["--env", of_this_file("Bug-v0"), "--out", tmp_path, "--total-steps", 2048]
    with pytest.raises(RuntimeError, match="the user's own"):
        run_main(*flags, *small_flags())


def test_success_may_be_first_reported_late(tmp_path):
    config = small_config(
        env=of_this_file("TellsOnlySuccess-v0"),
        log_episodes=1,
        log_evals=16,
        total_steps=1024,
        eval_episodes=64,
        out=str(tmp_path),
    )
    result = tsalign.train(config)
    assert 0 < result["success_student"] <= 1
    without = [row for row in read_log(config.folder) if not row.get("success_teacher")]
    assert len(without) > 0  # else this test has tested nothing


# --- In a process of its own --------------------------------------------------------------


def run_python(*arguments, cwd) -> subprocess.CompletedProcess:
    """`python ...` in a folder, without leaving byte code."""
    command = [sys.executable, "-B", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


USERS_FILE = """
import sys
sys.path.insert(0, {here!r})
import gymnasium as gym
import numpy as np
import tsalign
from gymnasium.spaces import Box, Dict, Discrete

{environment}

{method}

gym.register("Mine-v0", Cue)
my_method = tsalign.Method(train_nothing)
"""


def write_users_file(folder: Path, name: str, end: str = "") -> None:
    """A file of a user's with an environment and a method of his own."""
    environment = inspect.getsource(Cue)
    method = inspect.getsource(train_nothing)
    text = USERS_FILE.format(here=str(HERE), environment=environment, method=method)
    (folder / name).write_text(text + end)


def test_process_environment_method_and_training_in_one_file_train_once(tmp_path):
    end = """
print("begins")
sizes = dict(total_steps=64, num_envs=2, eval_episodes=2)
tsalign.train(tsalign.Config(env="one_file:Mine-v0", **sizes))
tsalign.train(tsalign.Config(env="one_file:Mine", method="one_file:my_method", **sizes))
print("ends")
"""
    write_users_file(tmp_path, "one_file.py", end)
    run = run_python("one_file.py", cwd=tmp_path)
    assert run.stderr == ""
    assert run.returncode == 0
    assert run.stdout.count("begins") == 1
    assert run.stdout.count("ends") == 1


def test_process_command_line_finds_a_users_file_and_so_does_load_run_later(
    tmp_path, monkeypatch
):
    write_users_file(tmp_path, "mine.py")
    flags = ["--env", "mine:Mine", "--method", "mine:my_method", "--total-steps", "64"]
    flags += small_flags()
    run = run_python(HERE / "tsalign.py", *flags, cwd=tmp_path)
    assert run.stderr == ""
    assert run.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"mine.py", "runs"}
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "mine-Mine_mine-my_method_seed0"
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    monkeypatch.syspath_prepend(tmp_path)
    _, nets = tsalign.load_run(folder)
    assert nets.act("student", np.zeros(2)) in (0, 1)


def test_process_output_into_head_leaves_no_traceback(tmp_path):
    python = f"{sys.executable} -B {HERE / 'tsalign.py'} --total-steps 256 --log-evals 4"
    flags = " ".join(str(flag) for flag in small_flags())
    command = ["bash", "-c", f"{python} {flags} | head -3"]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert len(run.stdout.splitlines()) == 3
    assert run.stderr == ""


# --- Pieces that can be pasted into a file of one's own -----------------------------------


def paste(*names):
    """The last of these pieces, below the imports of tsalign.py and nothing else."""
    namespace = {"__name__": "pasted"}
    for node in ast.parse(inspect.getsource(tsalign)).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(ast.unparse(node), namespace)
    for name in names:
        exec(inspect.getsource(getattr(tsalign, name)), namespace)
    return namespace[names[-1]]


def test_pasted_losses_and_gae_run_and_give_the_same():
    z_teacher = torch.randn(6, 4)
    z_student = torch.randn(6, 4)
    logits = [torch.randn(6, 3) for _ in range(4)]
    policies = [Categorical(logits=logits[0]), Categorical(logits=logits[1])]
    losses = torch.randn(3)
    rewards, values, next_values, terminated, truncated = random_episodes()
    calls = {
        "info_nce_loss": [z_teacher, z_student, torch.tensor(3.0)],
        "alignment_loss": [z_teacher, z_student],
        "stability_loss": logits,
        "embedding_loss": [*losses, 10, 0.1],
        "imitation_kl": policies,
        "gae": [rewards, values, next_values, terminated, truncated, 0.9, 0.8],
    }
    for name, arguments in calls.items():
        expected = getattr(tsalign, name)(*arguments)
        assert torch.equal(paste(name)(*arguments), expected), name
    zeros = torch.zeros(6)
    batch = [policies[0], zeros, zeros.long(), zeros, torch.randn(6), zeros, 0.2]
    pasted = paste("ppo_losses")(*batch)
    for name, expected in tsalign.ppo_losses(*batch).items():
        assert torch.equal(pasted[name], expected), name


def test_pasted_encoder_critic_and_policy_run():
    for space in (Box(0, 1, (3,)), Box(0, 255, (7, 7, 3), np.uint8)):
        views = torch.zeros(5, *space.shape)
        encoder = paste("Encoder")(space, 8, 16)
        assert encoder(views).shape == (5, 8)
        encoder.fit_input_range(views)
        critic = paste("Encoder", "Critic")(space, 16)
        assert critic(views).shape == (5,)
    for actions, shape in ((Discrete(3), (5,)), (Box(0, 1, (2,)), (5, 2))):
        policy = paste("Policy")(actions, 8, 16)
        assert policy.distribution(policy(torch.randn(5, 8))).sample().shape == shape


def test_pasted_environment_files_import_nothing_of_ours():
    packages = {"gymnasium", "numpy", "typing", "time", "functools", "matplotlib"}
    for name in ("tunnelvision.py", "collecthealth.py"):
        for node in ast.walk(ast.parse((HERE / name).read_text())):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                imported = [node.module]
            for module in imported:
                assert module.partition(".")[0] in packages


# --- A whole run --------------------------------------------------------------------------

LEARNS = {  # said here, so that other defaults do not change what these tests show
    "num_envs": 64,
    "rollout_steps": 16,
    "width": 64,
    "embedding_dim": 16,
    "ppo_lr": 0.003,
    "ppo_batch": 128,
    "ppo_epochs": 1,
    "encoder_lr": 0.003,
    "encoder_batch": 64,
    "encoder_updates": 16,
    "pairs_every": 4,
    "pairs_memory": 1024,
    "entropy_coef": 0.01,
    "lambda_align": 10.0,
    "lambda_stab": 0.1,
    "eval_episodes": 256,
    "log_evals": 2,
}


def test_whole_run_of_ours_teaches_both_agents_the_readmes_cue(tmp_path):
    config = Config(
        env=of_this_file("Cue"), total_steps=12_000, out=str(tmp_path), **LEARNS
    )
    result = tsalign.train(config)
    assert result["success_teacher"] > 0.97  # chance is .5
    assert result["success_student"] > 0.97
    assert abs(result["gap"]) < 0.03
    loaded_config, nets = tsalign.load_run(config.folder)
    envs = tsalign.make_envs(loaded_config.env, 64)
    score = tsalign.evaluate(envs, nets, 256, seed=5)
    assert score["success_student"] > 0.97
    untrained = tsalign.evaluate(envs, tsalign.Networks(envs, config), 256, seed=5)
    assert untrained["success_student"] < 0.7


def test_whole_run_improves_continuous_actions_by_their_return(tmp_path):
    config = Config(
        env=of_this_file("Reach-v0"), total_steps=16_000, out=str(tmp_path), **LEARNS
    )
    result = tsalign.train(config)
    assert "success_student" not in result
    envs = tsalign.make_envs(config.env, 64)
    untrained = tsalign.evaluate(envs, tsalign.Networks(envs, config), 256, seed=5)
    for agent in ("return_teacher", "return_student"):
        assert result[agent] > untrained[agent] + 0.15


@pytest.mark.parametrize("method", METHODS)
def test_whole_run_is_repeated_by_its_seed_to_the_last_digit(method, tmp_path):
    logs = []
    for run, seed in enumerate((0, 0, 1)):
        torch.rand(run)  # whatever was drawn before
        config = small_config(
            env="tunnelvision,max_episode_steps=10",
            method=method,
            seed=seed,
            total_steps=256,
            log_evals=2,
            out=str(tmp_path / str(run)),
        )
        tsalign.train(config)
        rows = read_log(config.folder)
        for row in rows:
            row.pop("train_seconds", None)
        logs.append(rows)
    assert len(logs[0]) == 2
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


# --- Both environments keep Gymnasium's promises ------------------------------------------

TUNNEL = (TunnelVisionVectorEnv, TunnelVisionEnv)
HEALTH = (CollectHealthVectorEnv, CollectHealthEnv)
both_environments = pytest.mark.parametrize(
    "vector_class, single_class", [TUNNEL, HEALTH], ids=["tunnel", "health"]
)


def check_equal_views(obs, other):
    """Both views of all sub-environments are the same."""
    for agent in ("teacher", "student"):
        assert (obs[agent] == other[agent]).all()
        assert obs[agent].dtype == other[agent].dtype


@both_environments
def test_env_stepping_many_at_once_equals_stepping_each_alone(vector_class, single_class):
    many = vector_class(5)
    alone = SyncVectorEnv([single_class] * 5, autoreset_mode=AutoresetMode.DISABLED)
    rng = np.random.default_rng(0)
    n_partial_ends = 0
    obs, _ = many.reset(seed=7)
    obs_alone, _ = alone.reset(seed=7)
    check_equal_views(obs, obs_alone)
    for _ in range(150):
        before = obs
        kept = copy.deepcopy(before)
        actions = rng.integers(many.single_action_space.n, size=5)
        obs, reward, terminated, truncated, info = many.step(actions)
        expected = alone.step(actions)
        check_equal_views(obs, expected[0])
        check_equal_views(before, kept)  # a step writes over nothing that was returned
        assert many.observation_space.contains(obs)
        assert np.array_equal([reward, terminated, truncated], expected[1:4])
        assert (info["is_success"] == expected[4]["is_success"]).all()
        done = terminated | truncated
        if done.any():
            before = obs
            kept = copy.deepcopy(before)
            obs, _ = many.reset(options={"reset_mask": done.copy()})
            obs_alone, _ = alone.reset(options={"reset_mask": done.copy()})
            check_equal_views(obs, obs_alone)
            check_equal_views(before, kept)  # nor does a reset
        if done.any() and not done.all():
            n_partial_ends += 1
    assert n_partial_ends > 10


@both_environments
def test_env_episodes_depend_on_the_seed_alone(vector_class, single_class):
    used = vector_class(5)
    used.reset(seed=3)
    new = vector_class(5)
    seeds = [4, 9, 1, 0, 4]
    obs, _ = used.reset(seed=seeds)
    obs_new, _ = new.reset(seed=seeds)
    for _ in range(3):
        check_equal_views(obs, obs_new)
        assert (obs["teacher"][0] == obs["teacher"][4]).all()
        assert (obs["teacher"][0] != obs["teacher"][1]).any()
        obs, _ = used.reset()
        obs_new, _ = new.reset()
    one_seed, _ = used.reset(seed=4)
    by_list, _ = new.reset(seed=[4, 5, 6, 7, 8])
    check_equal_views(one_seed, by_list)


@pytest.mark.parametrize(
    "name, limit, teacher, student",
    [
        ("TunnelVision-v0", 100, (66,), (61,)),
        ("CollectHealth-v0", 300, (38,), (16, 32, 3)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_env_as_registered_is_sound_and_has_its_time_limit(name, limit, teacher, student):
    env = gym.make(name, render_mode="rgb_array").unwrapped
    check_env(env)
    assert env.observation_space["teacher"].shape == teacher
    assert env.observation_space["student"].shape == student
    env.reset()
    ends = []
    for _ in range(limit):  # it only turns
        _, _, terminated, truncated, _ = env.step(env.action_space.n - 1)
        ends.append((terminated, truncated))
    assert ends[:-1] == [(False, False)] * (limit - 1)
    assert ends[-1] == (False, True)


@both_environments
def test_env_must_be_reset_before_its_first_step(vector_class, single_class):
    envs = vector_class(2)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(np.zeros(2, int))


@both_environments
def test_env_that_has_ended_waits_for_its_reset_and_the_others_go_on(
    vector_class, single_class
):
    envs = vector_class(2, max_episode_steps=2)
    turn = envs.single_action_space.n - 1
    envs.reset(seed=0)
    envs.step(np.array([turn, turn]))
    if vector_class is TunnelVisionVectorEnv:  # environment 1 is about to hit a wall
        envs.blocked[1] = True
    else:
        envs.position[1] = (7.5, 4)
        envs.first_heading[1] = 0
        envs.turns[1] = 0
    last, _, terminated, truncated, _ = envs.step(np.array([turn, 0]))
    assert terminated.tolist() == [False, True]
    assert truncated.tolist() == [True, False]
    advice = r'reset\(options={"reset_mask": done}\)'
    with pytest.raises(gym.error.ResetNeeded, match=advice):
        envs.step(np.array([turn, turn]))
    obs, _ = envs.reset(options={"reset_mask": np.array([False, True])})
    assert (obs["teacher"][0] == last["teacher"][0]).all()
    with pytest.raises(gym.error.ResetNeeded, match=advice):
        envs.step(np.array([turn, turn]))
    obs, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert (obs["teacher"][0] != last["teacher"][0]).any()
    _, _, terminated, truncated, _ = envs.step(np.array([turn, turn]))
    assert not terminated.any()
    assert not truncated.any()


@pytest.mark.parametrize(
    "vector_class, name, value",
    [
        (TunnelVisionVectorEnv, "num_envs", 0),
        (TunnelVisionVectorEnv, "max_episode_steps", 0),
        (TunnelVisionVectorEnv, "render_mode", "human"),
        (TunnelVisionVectorEnv, "rows", 0),
        (TunnelVisionVectorEnv, "cols", 2),
        (TunnelVisionVectorEnv, "obstacle_density", 1.1),
        (TunnelVisionVectorEnv, "obstacle_density", np.nan),
        (CollectHealthVectorEnv, "num_envs", 0),
        (CollectHealthVectorEnv, "max_episode_steps", 0),
        (CollectHealthVectorEnv, "render_mode", "human"),
        (CollectHealthVectorEnv, "n_boxes", 0),
        (CollectHealthVectorEnv, "n_boxes", 101),
        (CollectHealthVectorEnv, "room", 2.0),
        (CollectHealthVectorEnv, "room", np.nan),
        (CollectHealthVectorEnv, "view_height", 2),
        (CollectHealthVectorEnv, "view_height", 15),
        (CollectHealthVectorEnv, "view_width", 3),
    ],
)
def test_env_names_a_bad_argument(vector_class, name, value):
    with pytest.raises(ValueError, match=name):
        vector_class(**{name: value})


@both_environments
def test_env_names_bad_actions_and_masks(vector_class, single_class):
    envs = vector_class(2)
    envs.reset(seed=0)
    for actions in ([0], [0, envs.single_action_space.n], [-1, 0], [0, 0.5]):
        with pytest.raises(ValueError, match="actions"):
            envs.step(np.array(actions))
    for mask in ([True], [0, 1]):
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": np.array(mask)})


# --- TunnelVision -------------------------------------------------------------------------

E, S, W, N, FACE_E, FACE_S, FACE_W, FACE_N = range(8)
FACE_OF_MOVE = {E: FACE_E, S: FACE_S, W: FACE_W, N: FACE_N}
MOVE_OF_FACE = {FACE_E: E, FACE_S: S, FACE_W: W, FACE_N: N}


def scripted_student(view, looks):
    """A student by rules that know its view alone: where it is, what it did, three cells.

    With `looks` it faces each way at a bend before it goes there; else it only goes east.
    """
    row, column = divmod(int(view[:45].argmax()), 9)
    heading = int(view[45:49].argmax())
    last_action = int(view[49:58].argmax())
    is_free_ahead = view[59] == -1
    if column == 8:  # the goal's column
        return S if row < 2 else N
    if column in (0, 1, 3, 5, 7) or not looks:  # no bends here
        return E
    if last_action == E and heading != E:  # it has just come: look ahead first
        return FACE_E
    if last_action == FACE_E or last_action == E:
        return E if is_free_ahead else FACE_N
    if last_action == FACE_N:
        return N if is_free_ahead else FACE_S
    if last_action == FACE_S:  # the last way that is left
        return S
    if last_action in (N, S):  # it is on its way up or down: on, until that is blocked
        return last_action if is_free_ahead else E
    return E


@pytest.mark.parametrize("looks, least, most", [(True, 1, 1), (False, 0, 0.05)])
def test_tunnel_a_student_that_looks_always_succeeds_and_a_blind_one_hardly_ever(
    looks, least, most
):
    envs = TunnelVisionVectorEnv(500)
    obs, _ = envs.reset(seed=0)
    is_over = np.zeros(500, bool)
    has_succeeded = np.zeros(500, bool)
    while not is_over.all():
        actions = [scripted_student(view, looks) for view in obs["student"]]
        obs, _, terminated, truncated, info = envs.step(np.array(actions))
        has_succeeded |= ~is_over & info["is_success"]
        done = terminated | truncated
        is_over |= done
        obs, _ = envs.reset(options={"reset_mask": done})
    assert least <= has_succeeded.mean() <= most


def reachable_cells(free):
    """Which free cells (N, R, C) can be reached from the start, step by step."""
    reached = np.zeros_like(free)
    reached[:, 3, 1] = True
    for _ in range(35):
        for axis in (1, 2):
            for shift in (1, -1):
                reached |= free & np.roll(reached, shift, axis)
    return reached


def test_tunnel_each_layout_is_a_path_one_cell_wide_and_the_layouts_are_random():
    envs = TunnelVisionVectorEnv(300)
    envs.reset(seed=0)
    free = ~envs.blocked
    reached = reachable_cells(free)
    assert reached[:, 3, 9].all()  # the goal
    assert (reached == free).all()
    free_in_column = free.sum(axis=1)
    for column in (1, 2, 4, 6, 8):  # without bends
        assert (free_in_column[:, column] == 1).all()
    n_layouts = len(np.unique(free.reshape(300, -1), axis=0))
    assert 100 < n_layouts <= 125
    assert len(np.unique(envs.heading)) == 4


def test_tunnel_fewer_obstacles_leave_side_pockets_but_never_block_the_way():
    envs = TunnelVisionVectorEnv(300, obstacle_density=0.8)
    envs.reset(seed=0)
    free = ~envs.blocked
    reached = reachable_cells(free)
    assert reached[:, 3, 9].all()
    assert (reached != free).any()
    assert len(np.unique(free.reshape(300, -1), axis=0)) > 250
    assert 0.4 < free[:, 1:-1, 1:-1].mean() < 0.55
    assert not free[:, [0, -1]].any()  # the border
    assert not free[:, :, [0, -1]].any()


CLOCKWISE = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
AHEAD = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # of the headings E S W N


@pytest.mark.parametrize("heading", range(4))
def test_tunnel_the_teacher_sees_eight_cells_and_the_student_the_three_ahead(heading):
    ahead_down, ahead_right = AHEAD[heading]
    env = TunnelVisionVectorEnv(1, render_mode="rgb_array")
    env.reset(seed=0)
    env.position[0] = (2, 4)
    env.heading[0] = heading
    for k, (down, right) in enumerate(CLOCKWISE):
        env.blocked[0] = False
        env.blocked[0, 3 + down, 5 + right] = True
        teacher = [-1] * 8
        teacher[k] = 1
        student = [-1] * 3
        is_ahead = ahead_down * down + ahead_right * right > 0
        if is_ahead:
            to_its_right = ahead_right * down - ahead_down * right  # -1, 0, 1
            student[1 + to_its_right] = 1
        views = env._observe()
        assert views["teacher"][0, 58:].tolist() == teacher
        assert views["student"][0, 58:].tolist() == student
        for agent in ("teacher", "student"):
            common = np.flatnonzero(views[agent][0, :58])
            assert common.tolist() == [2 * 9 + 4, 45 + heading, 49 + 8]
        (picture,) = env.render()
        centre = picture[48 * (3 + down) + 24, 48 * (5 + right) + 24].astype(int)
        is_tinted_yellow = centre[0] > centre[2]
        assert is_tinted_yellow == is_ahead


@pytest.mark.parametrize(
    "start, action, end, reward, terminated, success",
    [
        ((2, 0), E, (2, 1), 0.09, False, False),
        ((2, 1), W, (2, 0), -0.11, False, False),
        ((1, 3), S, (2, 3), 0.09, False, False),
        ((2, 3), N, (1, 3), -0.11, False, False),
        ((2, 3), FACE_N, (2, 3), -0.01, False, False),
        ((2, 0), W, (2, 0), -1.01, True, False),  # out of the grid
        ((4, 4), S, (4, 4), -1.01, True, False),
        ((2, 7), E, (2, 8), 1.09, True, True),  # the goal
    ],
)
def test_tunnel_steps_by_hand(start, action, end, reward, terminated, success):
    env = TunnelVisionVectorEnv(1, obstacle_density=0, max_episode_steps=1)
    env.reset(seed=0)
    env.position[0] = start
    env.heading[0] = 0
    obs, rewards, terminations, truncations, info = env.step(np.array([action]))
    assert env.position[0].tolist() == list(end)
    assert env.heading[0] == (3 if action == FACE_N else 0)
    assert rewards[0] == pytest.approx(reward)
    assert terminations[0] == terminated
    assert truncations[0] == (not terminated)  # it is the last step that there may be
    assert info["is_success"][0] == success
    assert obs["student"][0, 49 + action] == 1
    assert obs["teacher"][0, 49 + action] == 1


def test_tunnel_a_blocked_cell_is_a_crash():
    env = TunnelVisionVectorEnv(1)
    env.reset(seed=0)
    env.blocked[0, 3, 2] = True  # to the east of the start
    _, reward, terminated, _, info = env.step(np.array([E]))
    assert reward[0] == pytest.approx(-1.01)
    assert terminated[0]
    assert not info["is_success"][0]


def test_tunnel_rendering_shows_start_goal_and_agent():
    text = TunnelVisionEnv(render_mode="ansi")
    picture = TunnelVisionEnv(render_mode="rgb_array")
    for env in (text, picture):
        env.reset(seed=0)
        env.step(E)
        env.step(FACE_S)
    lines = text.render().split("\n")
    assert len(lines) == 5
    assert lines[2][:2] == "Sv"
    assert lines[2][8] == "G"
    centres = picture.render()[24::48, 24::48].argmax(axis=2)
    assert centres[3, 2] == 0  # the agent is red
    assert centres[3, 9] == 1  # the goal is green
    assert centres[3, 1] == 2  # the start is bluish


# --- CollectHealth ------------------------------------------------------------------------

FLOOR = (95, 90, 85)
CEILING = (150, 190, 225)
WALL_X = (205, 195, 170)
WALL_Y = (165, 155, 135)
BOX_TOP = (245, 95, 85)
BOX_SIDE = (190, 25, 30)


def rays_of(env, i):
    """How far each pixel's ray goes east, north and up on a metre ahead, (H, W) each."""
    width = env.view_width
    height = env.view_height
    right = (2 * np.arange(width) + 1 - width) / width  # -1 .. 1: 90 degrees
    up = (height - 1 - 2 * np.arange(height)) / width  # square pixels
    right, up = np.meshgrid(right, up)
    heading = env._heading()[i]
    east = np.cos(heading) + np.sin(heading) * right
    north = np.sin(heading) - np.cos(heading) * right
    return east, north, up


def traced_picture(env, i):
    """What each ray meets first, (H, W, 3). The camera is 1 m high, the ceiling 2 m."""
    east, north, up = rays_of(env, i)
    x, y = env.position[i]
    hits = [
        (-1 / up, FLOOR),
        (1 / up, CEILING),
        ((0 - x) / east, WALL_X),
        ((env.room - x) / east, WALL_X),
        ((0 - y) / north, WALL_Y),
        ((env.room - y) / north, WALL_Y),
    ]  # after how many metres ahead, and what
    squared_length = east**2 + north**2
    for box_x, box_y in env.boxes[i][env.present[i]]:
        closest = ((box_x - x) * east + (box_y - y) * north) / squared_length
        off_x = x + closest * east - box_x
        off_y = y + closest * north - box_y
        inside = (0.25**2 - off_x**2 - off_y**2) / squared_length  # half the chord, squared
        side = closest - np.sqrt(np.maximum(inside, 0))
        height = 1 + side * up
        meets_side = (inside > 0) & (height > 0) & (height < 0.6)
        hits.append((np.where(meets_side, side, np.inf), BOX_SIDE))
        top = (0.6 - 1) / up
        distance = np.hypot(x + top * east - box_x, y + top * north - box_y)
        hits.append((np.where(distance < 0.25, top, np.inf), BOX_TOP))
    depths = []
    for depth, _ in hits:
        depths.append(np.where(depth > 0, depth, np.inf))
    nearest = np.stack(depths).argmin(axis=0)
    colours = np.array([colour for _, colour in hits], np.uint8)
    return colours[nearest]


def scatter_boxes(env, i, rng):
    """Place the boxes of room i, most of them ahead of the agent, none within another."""
    boxes = []
    if i % 3 == 0:  # the agent stands within a box, sometimes at its centre
        boxes.append(env.position[i] + 0.05 * (i % 4))
    while len(boxes) < env.n_boxes:
        behind = rng.choice([0, 0, 0, np.pi])
        angle = env._heading()[i] + rng.normal(0, 0.5) + behind
        direction = np.array([np.cos(angle), np.sin(angle)])
        box = env.position[i] + rng.uniform(0, 5) * direction
        is_inside = (box > 0.25).all() and (box < env.room - 0.25).all()
        is_apart = True
        for other in boxes:
            is_apart &= np.hypot(box[0] - other[0], box[1] - other[1]) > 0.5
        if is_inside and is_apart:
            boxes.append(box)
    env.boxes[i] = rng.permutation(boxes)
    env.present[i, 0] = False  # one is collected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("room", [8.0, 5.0])
@pytest.mark.parametrize("height, width", [(16, 32), (32, 64), (24, 40), (600, 9)])
def test_health_every_pixel_is_what_a_pinhole_camera_sees(height, width, room):
    n_envs = 24
    rng = np.random.default_rng(0)
    env = CollectHealthVectorEnv(
        n_envs, n_boxes=7, room=room, view_height=height, view_width=width
    )
    env.reset(seed=0)
    env.turns = np.arange(n_envs) % 12
    for i in range(n_envs):
        if i % 2 == 0:  # at a wall
            env.position[i] = (rng.uniform(1, 4), 0.3)
        else:
            env.position[i] = rng.uniform(0.5, room - 0.5, 2)
        scatter_boxes(env, i, rng)
    obs = env._observe()
    assert env.observation_space.contains(obs)
    for i in range(n_envs):
        assert (obs["student"][i] == traced_picture(env, i)).all()


def health_room(position, heading, boxes, **arguments) -> CollectHealthVectorEnv:
    """One room with the agent and the boxes at given places, ready to step."""
    env = CollectHealthVectorEnv(1, n_boxes=len(boxes), **arguments)
    env.reset(seed=0)
    env.position[0] = position
    env.first_heading[0] = heading
    env.boxes[0] = boxes
    return env


def step_by_chance(envs, rng, draws):
    """A random step, then a reset of those that have ended -> both observations, `done`."""
    envs.draw_student = draws
    actions = rng.integers(10, size=envs.num_envs)
    obs, _, terminated, truncated, _ = envs.step(actions)
    done = terminated | truncated
    return obs, envs.reset(options={"reset_mask": done.copy()})[0], done


def test_health_draw_student_changes_nothing_but_pictures_that_nobody_sees():
    always = CollectHealthVectorEnv(6, max_episode_steps=7)
    sometimes = CollectHealthVectorEnv(6, max_episode_steps=7)
    looks = np.random.default_rng(1).random(120) < 0.3
    rng = np.random.default_rng(2)
    same_rng = np.random.default_rng(2)
    always.reset(seed=0)
    sometimes.draw_student = False
    sometimes.reset(seed=0)
    n_outdated = 0
    n_partial_resets = 0
    for t in range(120):
        obs, obs_reset, done = step_by_chance(always, rng, True)
        other, other_reset, _ = step_by_chance(sometimes, same_rng, bool(looks[t]))
        assert (obs["teacher"] == other["teacher"]).all()
        assert (obs_reset["teacher"] == other_reset["teacher"]).all()
        assert sometimes.observation_space.contains(other)
        if looks[t]:
            assert (obs["student"] == other["student"]).all()
            assert (obs_reset["student"] == other_reset["student"]).all()
        else:
            n_outdated += (obs["student"] != other["student"]).any()
        if done.any() and not done.all():
            n_partial_resets += 1
    assert n_outdated > 20
    assert n_partial_resets > 20


def test_health_draw_student_false_draws_nothing(monkeypatch):
    envs = CollectHealthVectorEnv(3)
    envs.draw_student = False
    calls = record_calls(monkeypatch, CollectHealthVectorEnv, "_draw")
    envs.reset(seed=0)
    for _ in range(5):
        envs.step(np.array([8, 8, 8]))
    assert calls == []


def test_health_draw_student_of_a_single_room_is_that_of_its_vector():
    env = CollectHealthEnv()
    assert env.draw_student is True
    for draws in (False, True):
        env.draw_student = draws
        assert env.draw_student == draws
        assert env.vector.draw_student == draws


@pytest.mark.parametrize("height, width", [(16, 32), (24, 40), (64, 16), (8, 500)])
def test_health_rendering_shows_map_camera_and_the_students_pixels(height, width):
    env = health_room(
        (2, 4),
        0,
        [(2.5, 3.5), (6, 3)],
        render_mode="rgb_array",
        view_height=height,
        view_width=width,
    )
    env.step(np.array([0]))
    obs = env.step(np.array([0]))[0]
    (frame,) = env.render()
    assert frame.shape == (384, 768, 3)
    assert frame.dtype == np.uint8
    row = np.arange(192) * height // 192
    column = np.arange(384) * width // 384
    picture = obs["student"][0][row[:, None], column]
    assert (frame[194:, 384:] == picture[2:]).all()  # below the white line
    is_same = (frame[:190, 384:] == picture[:190]).all(axis=2)
    assert is_same.mean() > 0.9  # above, in finer pixels
    places = {
        (3.05, 4): (35, 70, 190),  # the agent
        (2.6, 4): (120, 150, 220),  # its trail
        (6, 3): BOX_TOP,
        (2.5, 3.5): (205, 205, 205),  # a box that is collected
    }
    for (x, y), colour in places.items():
        right = int((x + 0.24) / 8.48 * 384)
        down = int((8.24 - y) / 8.48 * 384)
        assert tuple(frame[down, right]) == colour


def test_health_starts_anywhere_but_near_the_walls():
    env = CollectHealthVectorEnv(500, room=5.0)
    env.reset(seed=0)
    for places in (env.position, env.boxes.reshape(-1, 2)):
        assert places.min(axis=0) == pytest.approx([1, 1], abs=0.05)
        assert places.max(axis=0) == pytest.approx([4, 4], abs=0.05)
    counts, _ = np.histogram(env._heading(), 12, (0, 2 * np.pi))
    assert counts.min() > 20
    assert env.present.all()


@pytest.mark.parametrize("turns", [0, 11])
@pytest.mark.parametrize("action", range(10))
def test_health_moves_are_relative_to_the_heading_and_8_turns_left(turns, action):
    env = health_room((4, 4), 0.7, [(1, 1)])
    env.turns[0] = turns
    env.step(np.array([action]))
    before = 0.7 + turns * np.pi / 6  # counter-clockwise
    place = [4.0, 4.0]
    if action < 8:
        direction = before + action * np.pi / 4
        place = [4 + 0.5 * np.cos(direction), 4 + 0.5 * np.sin(direction)]
    assert env.position[0] == pytest.approx(place)
    turned = {8: np.pi / 6, 9: -np.pi / 6}.get(action, 0)
    after = env._heading()[0]
    assert np.cos(after) == pytest.approx(np.cos(before + turned))
    assert np.sin(after) == pytest.approx(np.sin(before + turned))


@pytest.mark.parametrize(
    "first, second, reward, left",
    [
        (0.599, -3, 0.99, [False, True]),
        (0.601, -3, -0.01, [True, True]),
        (0.5, -0.5, 1.99, [False, False]),
    ],
)
def test_health_collects_within_60_cm_and_succeeds_with_the_last_box(
    first, second, reward, left
):
    env = health_room((4, 4), 0, [(4.5, 4 + first), (4.5, 4 + second)])
    obs, rewards, terminated, truncated, info = env.step(np.array([0]))
    is_success = not any(left)
    assert rewards[0] == pytest.approx(reward)
    assert terminated[0] == is_success
    assert info["is_success"][0] == is_success
    assert not truncated[0]
    assert env.present[0].tolist() == left
    n_left = sum(left)
    assert obs["teacher"][0, [0, 6]].tolist() == [n_left > 0, n_left > 1]
    env.reset()
    assert env.present.all()


@pytest.mark.parametrize("x, y, turns", [(8, 4, 0), (4, 8, 3), (0, 4, 6), (4, 0, 9)])
def test_health_wall_within_30_cm_ends_the_episode_and_collects_nothing(x, y, turns):
    wall = np.array([x, y])
    inward = np.sign(4 - wall)
    for distance, reward in ((0.799, -1.01), (0.801, 0.99)):
        env = health_room(wall + distance * inward, 0, [wall + 0.5 * inward])
        env.turns[0] = turns
        _, rewards, terminated, _, info = env.step(np.array([0]))
        assert rewards[0] == pytest.approx(reward)
        assert terminated[0]  # by the wall, or with the only box
        assert info["is_success"][0] == (reward > 0)


def test_health_teachers_view_equals_a_direct_rotation():
    env = CollectHealthVectorEnv(1)
    env.reset(seed=5)
    env.turns[0] = 4
    env.present[0, 2] = False
    angle = env.first_heading[0] + 4 * np.pi / 6
    cos = np.cos(angle)
    sin = np.sin(angle)
    x, y = env.position[0]
    features = []
    for k in (0, 1, 3, 4):
        dx = env.boxes[0, k, 0] - x
        dy = env.boxes[0, k, 1] - y
        far = math.hypot(dx, dy)
        ahead = cos * dx + sin * dy
        left = -sin * dx + cos * dy
        features.append([1, ahead / 8, left / 8, far / 8, ahead / far, left / far])
    features.sort(key=lambda of_box: of_box[3])  # nearest first
    features.append([0] * 6)  # the collected one
    to_walls = []
    for quarter in range(4):  # forward, left, back, right
        direction = angle + quarter * np.pi / 2
        to_x = (8 - x if np.cos(direction) > 0 else -x) / np.cos(direction)
        to_y = (8 - y if np.sin(direction) > 0 else -y) / np.sin(direction)
        to_walls.append(min(to_x, to_y) / 8)
    pose = [x / 4 - 1, y / 4 - 1, cos, sin]
    expected = np.concatenate([np.ravel(features), pose, to_walls])
    assert env._observe()["teacher"][0] == pytest.approx(expected, abs=1e-6)
