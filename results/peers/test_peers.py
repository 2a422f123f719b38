"""Are the peers judged alike, and is each what it says it is?"""

import io
import itertools
import json
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch.optim import Adam

import tsalign
from results.peers import __main__ as peers
from results.peers import actor_critic, dagger, race
from results.sweep import read_csv
from tsalign import AGENTS, Config, Networks, make_envs

SMALL = dict(num_envs=4, rollout_steps=16, embedding_dim=8, width=16, total_steps=128)
SMALL |= dict(eval_episodes=8, log_episodes=8, log_evals=1)


class Cue(gym.Env):
    """Answer with the cue, which both see, four times; the teacher has two more numbers."""

    observation_space = Dict(teacher=Box(0, 1, (4,)), student=Box(0, 1, (2,)))
    action_space = Discrete(2)

    def observe(self):
        self.cue = self.np_random.integers(2)
        cue, noise = np.eye(2, dtype=np.float32)[self.cue], self.np_random.random(2)
        return {"teacher": np.append(cue, noise.astype(np.float32)), "student": cue}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.right = 0, 0
        return self.observe(), {}

    def step(self, action):
        self.steps, right = self.steps + 1, bool(action == self.cue)
        self.right += right
        info = {"is_success": self.right == 4} if self.steps == 4 else {}
        return self.observe(), float(right), False, self.steps == 4, info


gym.register("PeersCue-v0", Cue)


def changed(before: dict, nets: torch.nn.Module) -> set[str]:
    """Which parts of the networks have other parameters than before."""
    return {k.split(".")[0] for k, v in nets.state_dict().items() if not torch.equal(v, before[k])}


def copy_of(nets: torch.nn.Module) -> dict:
    return {k: v.clone() for k, v in nets.state_dict().items()}


def test_ours_is_trained_exactly_as_by_tsalign():
    config = Config(env="PeersCue-v0", method="ours", seed=3, **SMALL)
    torch.manual_seed(3)
    (first, _), (last, nets) = race.ours(config)
    torch.manual_seed(3)
    envs, eval_envs = (make_envs(config.env, config.num_envs) for _ in range(2))
    expected = Networks(envs, config)
    tsalign.training_loop(envs, eval_envs, expected, config, io.StringIO())
    assert (first, last) == (64, 128) and not changed(expected.state_dict(), nets)


@pytest.mark.parametrize("scores, steps, looks", [
    ([0.2, 0.96, 0.9, 0.95, 1.0, 0.5], 4 * 8192, 5),  # one look alone does not count
    ([0.2, 0.96, 0.94, 0.96], None, 4),
])  # fmt: skip
def test_the_first_of_two_good_looks_in_a_row_counts(scores, steps, looks, monkeypatch):
    left, clock, played = iter([*scores[:looks], 0.7]), itertools.count(), []

    def look(envs, nets, episodes, seed, limit, agent="student"):
        next(clock)  # must not count
        played.append((episodes, seed))
        return next(left)

    def train(config):
        for cycle in range(1, 2 * len(scores) + 1):
            yield 4096 * cycle, None

    monkeypatch.setattr(race, "look", look)
    monkeypatch.setattr(race.time, "process_time", lambda: next(clock))
    config = Config(method="actor-critic", eval_episodes=1024)
    result = race.race(train, None, config, io.StringIO())
    assert result["steps_to_95"] == steps and result["success_student"] == 0.7
    assert result["seconds_to_95"] == (steps and steps // 4096)  # a tick a cycle
    assert [n for n, _ in played] == [256] * looks + [1024] and len(set(played)) == looks + 1
    assert result["env_steps"] == 8192 * looks


def test_actor_reads_the_student_and_critic_the_teacher():
    config = Config(env="PeersCue-v0", method="actor-critic", value_coef=0.0, **SMALL)
    envs = make_envs(config.env, config.num_envs)
    nets, (obs, _) = Networks(envs, config), envs.reset(seed=1)
    steps, _ = actor_critic.collect(envs, obs, nets, 8)
    with torch.no_grad():
        policy = nets.distribution("student", steps.obs_student.flatten(0, 1))
        log_prob = policy.log_prob(steps.action.flatten())
        torch.testing.assert_close(steps.log_prob.flatten(), log_prob)
        value = nets.critic(nets.teacher(steps.obs_teacher.flatten(0, 1))).view(8, 4)
    torch.testing.assert_close(steps.value, value)
    goes_on = ~steps.done[:-1]  # where the next observation is that of the next step
    torch.testing.assert_close(steps.next_value[:-1][goes_on], value[1:][goes_on])
    assert steps.done.sum() == 8 and not steps.terminated.any()

    before, optimizer = copy_of(nets), Adam(nets.parameters(), 1e-2)
    actor_critic.improve(nets, optimizer, steps, config, 0.0)
    assert changed(before, nets) == {"student", "policy"}
    before = copy_of(nets)
    config = Config(env="PeersCue-v0", method="actor-critic", **SMALL)
    actor_critic.improve(nets, optimizer, steps, config, 0.0)
    assert changed(before, nets) == {"student", "policy", "teacher", "critic"}


def test_dagger_labels_the_students_way_and_counts_the_teachers_steps():
    config = Config(env="PeersCue-v0", method="dagger", encoder_lr=0.02, **SMALL)
    envs = make_envs(config.env, config.num_envs)
    nets, (obs, _) = Networks(envs, config), envs.reset(seed=1)
    with torch.no_grad():
        nets.student_policy.net[-1].bias += torch.tensor([4.0, -4.0])  # it always answers 0
        nets.policy.net[-1].bias += torch.tensor([-4.0, 4.0])  # and should answer 1
    visited, _ = dagger.visit(envs, obs, nets, 8)
    assert len(visited.action) == 32 and visited.action.float().mean() < 0.2
    assert (visited.logits_teacher.argmax(1) == 1).all()
    before, optimizer = copy_of(nets), tsalign.make_optimizers(nets, config)[1]
    for _ in range(20):
        dagger.imitate(nets, optimizer, deque([visited]), config)
    assert changed(before, nets) == {"student", "student_policy"}
    assert (nets.distribution("student", visited.obs_student).logits.argmax(1) == 1).all()
    assert [steps for steps, _ in dagger.train(config)] == [128]  # after 64 of the teacher's


@pytest.mark.parametrize("method", ["actor-critic", "dagger", "sb3-ours"])
def test_each_learns_what_both_see(method, tmp_path):
    if method.startswith("sb3"):
        pytest.importorskip("stable_baselines3")
    settings = SMALL | dict(num_envs=16, total_steps=6144, eval_episodes=64, ppo_batch=128)
    settings |= dict(encoder_batch=64, encoder_lr=5e-3, ppo_lr=5e-3)
    config = Config(env="PeersCue-v0", method=method, out=tmp_path, **settings)
    assert race.run(config)["success_student"] > 0.6  # by chance: 1 in 16


def test_stable_baselines_gets_last_views_and_resets():
    pytest.importorskip("stable_baselines3")
    from results.peers import sb3

    adapter, envs = sb3.StudentEnvs(make_envs("PeersCue-v0", 3)), make_envs("PeersCue-v0", 3)
    adapter.seed(5)
    obs, _ = envs.reset(seed=5)
    np.testing.assert_array_equal(adapter.reset(), obs["student"])
    for t in range(1, 9):
        view, reward, done, infos = adapter.step(obs["student"].argmax(1))
        obs, expected, _, truncated, _ = envs.step(obs["student"].argmax(1))
        assert (reward == expected).all() and (done == truncated).all()
        assert done.all() == (t % 4 == 0)
        if done.any():
            for i, info in enumerate(infos):
                np.testing.assert_array_equal(info["terminal_observation"], obs["student"][i])
                assert info["TimeLimit.truncated"]
            obs, _ = envs.reset(options={"reset_mask": done})
        else:
            assert infos == [{}] * 3
        np.testing.assert_array_equal(view, obs["student"])


def test_stable_baselines_sees_centred_images_through_our_encoder():
    pytest.importorskip("stable_baselines3")
    from results.peers import sb3

    settings = SMALL | dict(num_envs=2, rollout_steps=4, total_steps=8, ppo_batch=8)
    config = Config(env="collecthealth", method="sb3-ours", **settings)
    envs = make_envs(config.env, 2)
    ((env_steps, player),) = sb3.train(config)
    obs = torch.as_tensor(envs.reset(seed=0)[0]["student"])
    encoder = player.policy.features_extractor.encoder
    assert env_steps == 8 and encoder.net[0][0].in_channels == 3
    torch.testing.assert_close(obs[0, 0, 0] * encoder.scale[0, 0] + encoder.shift[0, 0],
                               obs[0, 0, 0] / 127.5 - 1)  # fmt: skip
    latent = player.policy.mlp_extractor.forward_actor(encoder(obs) * 8**0.5)
    logits = player.policy.action_net(latent)
    policy = player.distribution("student", obs)
    torch.testing.assert_close(policy.logits, logits.log_softmax(1))
    sizes = [m.out_features for m in player.policy.mlp_extractor.policy_net if hasattr(m, "weight")]
    assert sizes == [16, 16]


def write_run(out, env, method, seed, seconds, success, **more):
    """A finished run by hand; seconds are None where it never won 95 %."""
    config = peers.make_config(env, method, seed, out, None)
    tsalign.open_log(config).close()
    run = dict(env=env, method=method, seed=seed, steps_to_95=seconds and 1000 * seconds)
    run |= dict(seconds_to_95=seconds, success_student=success, env_steps=9e4, seconds=90.0)
    (config.folder / "result.json").write_text(json.dumps(run | more))
    (config.folder / "log.csv").write_text("env_steps\n1\n")


def test_report_from_folders_and_then_from_its_own_csv(tmp_path):
    large = "results.growth.envs:CollectHealth64x128-v0"
    for seed, (ours, other) in enumerate([(4, 8), (5, 20), (None, 7)]):
        write_run(tmp_path / "runs", large, "ours", seed, ours, 0.96)
        write_run(tmp_path / "runs", large, "sb3-ours", seed, other, 0.97)
        write_run(tmp_path / "runs", large, "dagger", seed, None, 0.5, success_teacher=1.0)
    for out in ("runs", "nothing"):
        lines = peers.report(tmp_path / out, tmp_path / "table").splitlines()
        assert "| ours | 3 | 2 | 5.0 (4.0 - never) | 1.00 | 5,000 (" in lines[2]
        assert "| sb3-ours | 3 | 3 | 8.0 (7.0 - 20.0) | 3.00 (2.00 - 4.00) | 8,000 (" in lines[4]
        assert "| never | never | never | 0.500 | 1.000 |" in lines[3]
    rows = read_csv(tmp_path / "table" / "peers.csv")
    assert len(rows) == 9 and rows[2]["seconds_to_95"] == ""
    assert (tmp_path / "table" / "peers.png").exists()


def test_settings_are_those_of_the_environment_it_is_a_variant_of():
    large = "results.growth.envs:CollectHealth64x128-v0"
    for method in race.PEERS:
        one = peers.make_config("collecthealth", method, 0, "x", None)
        two = peers.make_config(large, method, 0, "x", None)
        assert vars(one) == vars(two) | {"env": "collecthealth"}
        assert one.total_steps == Config(env="collecthealth").total_steps * (
            2 if method in ("sb3-images", "sb3-default") else 1
        )
    assert all(agent in AGENTS for agent in make_envs(large, 1).single_observation_space)


def test_bad_input_is_one_line(tmp_path, capsys):
    for arguments in (["--report", "--out", "none", "--results", str(tmp_path)], ["--jobs", "0"],
                      ["--methods", "nosuch"], ["--seeds", "-1", "--methods", "ours"]):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            peers.main(arguments)
        assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
