"""Environments of one's own: four methods on CueReach and on MiniGrid's lava, seeds 0-4.

    pip install -r results/own_env/requirements.txt
    python -m results.own_env --jobs 2       # 25 minutes; carries on where it stopped
    python -m results.own_env --report       # redraws from own_env.csv

All settings are Config's but the number of steps. The scripted student has no memory, too.
"""

import argparse
from pathlib import Path

from results import lab

ENVS = [
    "results.own_env.cue_reach:CueReach-v0",
    "results.own_env.minigrid_lava:LavaTurned-v0",
]
METHODS = ["ours", "no-align", "sitt", "bc"]


def train(args: argparse.Namespace) -> dict[Path, str]:
    """Train what is missing; fill own_env.csv, with the scripted student's score."""
    configs = []
    for seed in args.seeds:
        for env in args.envs:
            for method in args.methods:
                configs.append(lab.standard(env, method, seed=seed, out=str(args.out)))
    scripted = {env: lab.play_scripted(env) for env in args.envs}

    def read(folder: Path) -> dict:
        row = lab.read_run(folder)
        return row | {"scripted": scripted[row["env"]]}

    path = args.results / "own_env.csv"
    return lab.train_all(configs, args.jobs, path, [*lab.RUN, "scripted"], read=read)


def report(args: argparse.Namespace) -> None:
    """Draw own_env.png: a dot for each seed. Print the means."""
    by_env = lab.group(lab.read_csv(args.results / "own_env.csv"), "env")
    figure, axes = lab.make_figure(len(by_env))
    for axis, (env, of_env) in zip(axes[0], by_env.items()):
        groups = lab.by_method(of_env)
        lab.draw_variants(axis, groups)
        axis.set(title=env.rpartition(":")[2], ylabel=of_env[0]["kind"])
        for label, rows in groups.items():
            print(f"{env} {label}: {lab.describe(rows)}")
    note = "a dot for each of n seeds, a bar for their mean; crosses: the teacher"
    lab.save_figure(figure, args.results / "own_env.png", note)


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.own_env`."""
    parser = lab.lab_parser("own_env", __doc__, range(5))
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    lab.lab_main(train, report, parser, arguments)


if __name__ == "__main__":
    main()
