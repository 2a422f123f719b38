"""What does the teacher's embedding still know of what only the teacher sees?

    python -m results.leak                # all runs in runs/table1, about 12 seconds each
    python -m results.leak --report       # draws the figure and the table again from leak.csv

Conditional probing (Hewitt et al., 2021, arXiv 2109.09234). Probes of one size learn to predict
private facts of the current step from (i) the student's view, (ii) the student's view and z_T,
(iii) the student's view and the teacher's. With CE their mean cross-entropy in bits per fact,

    leak = (CE_i - CE_ii) / (CE_i - CE_iii):  0: no more than the student sees, 1: all of it.

The encoders are frozen; the teacher acts. A probe learns, stops and is tested on different episodes
(in TunnelVision: on different layouts). Control: (ii) with z_T shuffled over steps, which should
give 0. It does not yet in TunnelVision (-.06 to -.12 on three runs: with so few layouts the probe
fits noise), so small leaks are underestimated there; and one run of ours moved from .07 to .19 when
only the probe's weight decay changed. Do not read differences of that size. Private facts: in
TunnelVision the five unseen cells, relative to the heading; in CollectHealth whether a box is
nearer than 3 m in each of four sectors outside the field of view.
"""

import argparse
import csv
import glob
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from tsalign import METHODS, BadInput, collect, load_run, make_envs, mlp

NUM_ENVS, STEPS, NEAR, ROOM = 128, 200, 3.0, 8.0  # NEAR, ROOM in metres
WIDTH, EPOCHS, BATCH = 128, 12, 256  # of a probe
INPUTS = ("student", "with_z", "with_teacher", "with_shuffled_z")


def unseen_cells(obs_teacher: Tensor) -> Tensor:  # (B, 66) -> (B, 5)
    """TunnelVision: the five cells beside and behind the agent, clockwise from its right."""
    heading = obs_teacher[:, -21:-17].argmax(-1)  # before the last action (9) and the cells (8)
    around = (2 * heading[:, None] + torch.arange(2, 7)) % 8
    return (obs_teacher[:, -8:].gather(1, around) > 0).float()


def unseen_boxes(obs_teacher: Tensor) -> Tensor:  # (B, 6 * K + 8) -> (B, 4)
    """CollectHealth: is a box near, left, behind left, behind right, right of the picture?"""
    present, x, y, distance, _, _ = obs_teacher[:, :-8].unflatten(1, (-1, 6)).unbind(-1)  # (B, K)
    angle = torch.atan2(y, x) * 180 / math.pi
    near = (present > 0) & (distance < NEAR / ROOM)
    sectors = ((45, 135), (135, 181), (-181, -135), (-135, -45))
    return torch.stack([(near & (a < angle) & (angle <= b)).any(1) for a, b in sectors], 1).float()


PRIVATE = {"tunnelvision": unseen_cells, "collecthealth": unseen_boxes}


def gather(config, nets) -> tuple[dict[str, Tensor], Tensor, np.ndarray]:
    """The teacher's steps -> the probes' inputs (B, ...), facts (B, F), part of each step (B,).

    Part 0 is to test, 1 to stop, 2-4 to learn; all steps of one episode or layout are in one part.
    """
    torch.manual_seed(0)
    envs = make_envs(config.env, NUM_ENVS)
    obs, _ = envs.reset(seed=10_000)
    rollouts, part = [], []
    for _ in range(STEPS):
        if config.env == "tunnelvision":  # the layout of each environment, before it may be reset
            part += [zlib.crc32(layout.tobytes()) % 5 for layout in envs.unwrapped.blocked]
        else:
            part += [i % 5 for i in range(NUM_ENVS)]
        rollout, obs = collect(envs, obs, nets, 1)
        rollouts.append(rollout.flat())
    teacher, student, z = (torch.cat([getattr(r, name) for r in rollouts])
                           for name in ("obs_teacher", "obs_student", "z_teacher"))  # fmt: skip
    facts = PRIVATE[config.env](teacher)
    is_image = student.dtype == torch.uint8
    student = (student.float() / 127.5 - 1 if is_image else student).flatten(1)
    z = z * z.shape[-1] ** 0.5  # entries of unit size
    extra = [student[:, :0], z, teacher, z[torch.randperm(len(z))]]
    inputs = {name: torch.cat([student, more], 1) for name, more in zip(INPUTS, extra)}
    return inputs, facts, np.array(part)


def probe(x: Tensor, facts: Tensor, part: np.ndarray) -> float:  # (B, I), (B, F), (B,) -> ()
    """Cross-entropy in bits per fact of a trained probe on steps that it has not seen."""
    torch.manual_seed(0)
    test, stop, learn = (torch.tensor(p) for p in (part == 0, part == 1, part > 1))
    net = mlp(x.shape[1], WIDTH, WIDTH, facts.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    x_learn, y_learn, best = x[learn], facts[learn], (math.inf, math.inf)
    for _ in range(EPOCHS):
        for i in torch.randperm(len(x_learn)).split(BATCH):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(x_learn[i]), y_learn[i]).backward()
            optimizer.step()
        with torch.no_grad():
            score = [F.binary_cross_entropy_with_logits(net(x[p]), facts[p]) for p in (stop, test)]
        best = min(best, tuple(float(s) / math.log(2) for s in score))  # by `stop` alone
    return best[1]


def measure(folder: str) -> dict:
    """One row of leak.csv. Raises BadInput for an environment without private facts here."""
    config, nets = load_run(folder)
    if config.env not in PRIVATE:
        raise BadInput(f"{folder}: private facts are defined for {', '.join(PRIVATE)} only")
    inputs, facts, part = gather(config, nets)
    bits = {name: probe(x, facts, part) for name, x in inputs.items()}
    known = bits["student"] - bits["with_teacher"]  # what there is to leak
    leak = {name: (bits["student"] - bits[key]) / known
            for name, key in (("leak", "with_z"), ("control", "with_shuffled_z"))}  # fmt: skip
    row = dict(env=config.env, method=config.method, seed=config.seed, **leak)
    return row | {f"bits_{name}": value for name, value in bits.items()}


def report(rows: list[dict], out: Path) -> None:
    """leak.md and leak.png from the rows: mean over seeds, every seed as a dot."""
    envs = [env for env in PRIVATE if any(row["env"] == env for row in rows)]
    table = ["| environment | method | n | leak: mean (min to max) | control | private bits "
             "| leaked bits |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    figure = Figure(figsize=(4.2 * len(envs), 3.4), layout="tight")
    for env, axis in zip(envs, figure.subplots(1, len(envs), squeeze=False)[0]):
        methods = [m for m in METHODS if any((r["env"], r["method"]) == (env, m) for r in rows)]
        for k, method in enumerate(methods):
            of = [r for r in rows if (r["env"], r["method"]) == (env, method)]
            column = {key: np.array([float(r[key]) for r in of]) for key in of[0] if key not in
                      ("env", "method", "seed")}  # fmt: skip
            leak, before = column["leak"], column["bits_student"]
            axis.barh(k, leak.mean(), color="tab:blue", alpha=0.4)
            axis.plot(leak, [k] * len(leak), "o", color="tab:blue", markersize=4)
            axis.plot(column["control"], [k] * len(leak), "|", color="black", markersize=9)
            private, leaked = (np.mean(before - column[f"bits_with_{key}"])
                               for key in ("teacher", "z"))  # fmt: skip
            table.append(f"| {env} | {method} | {len(of)} | {leak.mean():.2f} ({leak.min():.2f} to "
                         f"{leak.max():.2f}) | {column['control'].mean():+.3f} | {private:.3f} | "
                         f"{leaked:.3f} |")  # fmt: skip
        axis.set_yticks(range(len(methods)), methods)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=env, xlabel="leak (dots: seeds; bars |: z shuffled)")
    figure.savefig(out / "leak.png", dpi=130)
    (out / "leak.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def main() -> None:
    """Measure runs that are not in the CSV yet, then report; Ctrl-C loses the current run only."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("results.leak", description=__doc__, formatter_class=style)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="default: those in runs/table1")
    parser.add_argument("--report", action="store_true", help="only draw again from leak.csv")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here, help="for leak.csv, leak.md, leak.png")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path, rows = args.out / "leak.csv", []
    if path.exists():
        rows = list(csv.DictReader(path.open()))
    finished = [Path(f).parent for f in sorted(glob.glob("runs/table1/*/result.json"))]
    folders = [] if args.report else args.runs or finished
    if not folders and not rows:
        raise BadInput("nothing to report: no runs given, none in runs/table1, no leak.csv")
    for folder in folders:
        row = measure(folder)
        key = [str(row[k]) for k in ("env", "method", "seed")]
        others = [r for r in rows if [str(r[k]) for k in ("env", "method", "seed")] != key]
        rows = [*others, row]
        figures = f"leak {row['leak']:.3f}  control {row['control']:+.3f}"
        print(f"{' '.join(key):32} {figures}", flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(rows)
    report(rows, args.out)


if __name__ == "__main__":
    try:
        main()
    except BadInput as bad:
        print("results.leak:", bad, file=sys.stderr)
        sys.exit(2)
