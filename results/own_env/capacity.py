"""Can the teacher's encoder compute what the student sees, and how soon? MiniGrid, no policy.

    python -m results.own_env.capacity    # about five minutes; writes capacity.csv, capacity.md

The two encoders learn by Eq. (6) and (7) from all states, drawn evenly. "tells" is the share of
states whose z_T is nearest to the embedding of the view that the student has there, among all views
it can have. A teacher's map in absolute coordinates has the same information as the turned one, but
another function has to be learned from it.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import tsalign
from results.own_env.minigrid_lava import EMPTY, KINDS, LavaEnv
from results.sweep import write_csv
from tsalign import Config, Networks, alignment_loss, descend, info_nce_loss

CHECKS, BATCH, SEEDS = (750, 1500, 3000, 6000), 128, range(3)
CASES = [("turned", 128), ("appended", 128), ("absolute", 128), ("absolute", 512)]


@functools.cache
def all_states(shape: str) -> tuple[Tensor, Tensor]:  # -> (n, ...), (n, 40)
    """Both views in each state that can be reached."""
    env, rooms, teacher, student = LavaEnv(shape), {}, [], []
    for seed in range(1000):  # 42 rooms
        env.reset(seed=seed)
        rooms[env.room] = env.grid, env.cells
    for env.room, (env.grid, env.cells) in rooms.items():
        for env.agent_pos in np.argwhere(env.cells == KINDS[EMPTY]):
            for env.agent_dir in range(4):
                views = env.gen_obs()
                teacher.append(views["teacher"])
                student.append(views["student"])
    return torch.tensor(np.array(teacher)), torch.tensor(np.array(student))


def train(shape: str, width: int, seed: int) -> list[dict]:
    """A row per check: after how many updates the teacher's encoder tells how much."""
    name = f"results.own_env.minigrid_lava:Lava{shape.title()}-v0"
    config = Config(env=name, width=width, seed=seed)
    torch.manual_seed(seed)
    nets = Networks(tsalign.make_envs(name, 1), config)
    _, optimizer = tsalign.make_optimizers(nets, config)
    teacher, student = all_states(shape)
    views, which = torch.unique(student, dim=0, return_inverse=True)
    rows = []
    for update in range(1, CHECKS[-1] + 1):
        i = torch.randint(len(teacher), (BATCH,))
        z_teacher, z_student = nets.teacher(teacher[i]), nets.student(student[i])
        nce = info_nce_loss(z_teacher, z_student, nets.log_inverse_temperature.exp())
        descend(optimizer, nce + config.lambda_align * alignment_loss(z_teacher, z_student))
        if update in CHECKS:
            with torch.no_grad():
                tells = (nets.teacher(teacher) @ nets.student(views).T).argmax(1) == which
            row = dict(shape=shape, width=width, seed=seed, updates=update)
            rows.append(row | dict(states=len(teacher), tells=tells.float().mean().item()))
    return rows


def main() -> None:
    """Trains all cases; the table has the mean over seeds and the lowest."""
    torch.set_num_threads(1)
    folder, rows = Path(__file__).parent, []
    lines = ["| teacher's map | width | " + " | ".join(f"{n} updates" for n in CHECKS) + " |"]
    lines.append("|---" * (2 + len(CHECKS)) + "|")
    for shape, width in CASES:
        of_case = [row for seed in SEEDS for row in train(shape, width, seed)]
        cells = []
        for n in CHECKS:
            tells = [row["tells"] for row in of_case if row["updates"] == n]
            cells.append(f"{np.mean(tells):.3f} ({min(tells):.3f})")
        lines.append(f"| {shape} | {width} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        rows += of_case
    write_csv(folder / "capacity.csv", list(rows[0]), rows)
    (folder / "capacity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
