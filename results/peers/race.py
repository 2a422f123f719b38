"""One run of the race: training under the clock, examinations outside of it.

Processes import this file; what lies in a `__main__.py` they could not find.
"""

import json
import math
import time
from typing import NamedTuple

import numpy as np
import torch

import tsalign
from results import lab
from tsalign import Config, checked

EXAMS = 25


class Task(NamedTuple):
    """An environment, and the student's success or return that is good enough."""

    env: str
    goal: float
    episodes: int = 64  # of an exam


TASKS = {
    "RobotEye": Task("results.camera.robot:RobotEye-v0", 0.95),
    "Reacher": Task("results.camera.camera_view:ReacherCamera-v0", -10.0, episodes=32),
    "CollectHealth 64x128": Task("collecthealth,view_height=64,view_width=128", 0.95),
    "CollectHealth": Task("collecthealth", 0.95),
    "TunnelVision": Task("tunnelvision", 0.95),
}


class Start(NamedTuple):
    """One run of one entrant."""

    task: str
    entrant: str
    config: Config
    limit: float = math.inf  # seconds, of a rival


def run_entrant(start: Start) -> None:
    """Train in this process; `log.csv` of the run's folder has a row for each exam.

    Of a rival the clock is stopped for exams, as `tsalign.train` does it.
    """
    config = checked(start.config)
    if config.method in tsalign.METHODS:
        tsalign.train(config)
        return
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    tsalign.open_folder(config)
    exam_envs = tsalign.make_envs(config.env, config.log_episodes)
    train_rival = tsalign.find_method(config.method).train_on_pairs  # it does everything
    rows = []
    seconds = 0.0
    began = time.perf_counter()
    for env_steps, views, player in train_rival(config):
        seconds += time.perf_counter() - began
        is_stopped = seconds > start.limit
        if env_steps >= (len(rows) + 1) * config.total_steps / EXAMS or is_stopped:
            row = {"env_steps": env_steps, "student_views": views}
            row["train_seconds"] = seconds
            rows.append(row | examine(exam_envs, player, seed=env_steps))
            tsalign.save_log(config, rows)
            if is_stopped or lab.reached(rows, TASKS[start.task].goal):
                break
        began = time.perf_counter()
    result = rows[-1] | {"device": "cpu", "torch": torch.__version__}
    tsalign.write_at_once(config.folder / "result.json", json.dumps(result))


def examine(envs, player, seed: int) -> dict[str, float]:
    """The student's success, or its return where none is reported, in fresh episodes."""
    returns, success = tsalign.play_episodes(envs, player, "student", 1, seed, 10_000)
    if not np.isnan(success).any():
        return {"success_student": float(success.mean())}
    return {"return_student": float(returns.mean())}
