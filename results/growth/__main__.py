"""What happens on larger grids and pictures? Seeds 0-2; about 12 minutes on two cores.

    python -m results.growth --jobs 2          # carries on where it was interrupted
    python -m results.growth --report          # redraws from grid.csv and image.csv

Grids of TunnelVision, ours and bc: the number of steps and the length of an episode are the
standard ones times cells over 5 x 9. On 5 x 9 there are 125 layouts, all of them trained
on; on 9 x 21 there are 3.9e8, so nearly all that is played at the end is new. Pictures of
CollectHealth, ours: nothing else differs.
"""

import argparse
from pathlib import Path

from results import lab
from tsalign import STEPS

GRIDS = [(5, 9), (7, 15), (9, 21)]
PICTURES = [(16, 32), (32, 64), (64, 128)]
COLUMNS = [*lab.RUN, "size"]


def read_sized(folder: Path) -> dict:
    """A finished run, and its size as "5 x 9"."""
    row = lab.read_run(folder)
    sizes = [argument.partition("=")[2] for argument in row["env"].split(",")]
    return row | {"size": f"{sizes[1]} x {sizes[2]}"}


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing, and put it into grid.csv and image.csv."""
    grids = []
    pictures = []
    for seed in args.seeds:
        for rows, columns in GRIDS:
            factor = rows * columns / 45
            limit = round(100 * factor)
            env = f"tunnelvision,rows={rows},cols={columns},max_episode_steps={limit}"
            steps = round(STEPS["tunnelvision"] * factor)
            own = {"seed": seed, "out": str(args.out), "total_steps": steps}
            grids += [lab.standard(env, method, **own) for method in ("ours", "bc")]
        for height, width in PICTURES:
            env = f"collecthealth,view_height={height},view_width={width}"
            pictures.append(lab.standard(env, seed=seed, out=str(args.out)))
    failed = {}
    for name, configs in {"grid": grids, "image": pictures}.items():
        path = args.results / f"{name}.csv"
        failed |= lab.train_all(configs, args.jobs, path, COLUMNS, read=read_sized)
    return failed


def report(args: argparse.Namespace) -> None:
    """Draw growth.png from the two tables, and print the means."""
    figure, axes = lab.make_figure(2, height=3.4)
    for axis, name in zip(axes[0], ("grid", "image")):
        groups = {}
        for row in lab.read_csv(args.results / f"{name}.csv"):
            groups.setdefault(f"{row['size']}, {row['method']}", []).append(row)
        in_order = {label: groups[label] for label in sorted(groups, key=lab.natural)}
        lab.draw_variants(axis, in_order)
        for label, rows in in_order.items():
            seconds = " ".join(f"{value:.0f}" for value in lab.numbers(rows, "seconds"))
            print(f"{name} {label}: {lab.describe(rows)}; seconds {seconds}")
    axes[0, 0].set(title="TunnelVision: cells", ylabel="success")
    axes[0, 1].set(title="CollectHealth: pixels of the picture")
    note = "a dot for each of n seeds, a bar for their mean; crosses: the teacher"
    lab.save_figure(figure, args.results / "growth.png", note)


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.growth`."""
    lab.lab_main(train, report, lab.lab_parser("growth", __doc__, range(3)), arguments)


if __name__ == "__main__":
    main()
