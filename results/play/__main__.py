"""See it: saved runs on fresh episodes, and one episode of each agent as a GIF.

    python -m results.play runs/table1/tunnelvision_bc_seed0 \\
        runs/table1/tunnelvision_ours_seed0 --start 3

Prints success (or return) of both agents: the way to evaluate a saved run. Then draws a
column for each run, the teacher above, the student below, all from one start. Another start
may show another outcome: a picture is chosen, the printed figures are not. The environment
must offer render_mode="rgb_array". Takes seconds.
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

import tsalign
from tsalign import AGENTS, BadInput, fail

MAX_FRAMES = 60  # a longer episode skips steps
END = 10  # frames for which the end stands still


@torch.no_grad()
def play(envs, nets, agent: str, start: int) -> tuple[list, str]:
    """One episode from a seed -> its frames (H, W, 3), and how it ended."""
    torch.manual_seed(start)
    obs = tsalign.reset_envs(envs, seed=start)
    frames = list(envs.render())
    total = 0.0
    ended = False
    while not ended:
        action = nets.distribution(agent, tsalign.to_tensor(obs[agent], "cpu")).sample()
        obs, reward, terminated, truncated, success = tsalign.step_envs(envs, action)
        frames += envs.render()
        total += float(reward[0])
        ended = bool(terminated[0] | truncated[0])
    outcome = {0.0: "fails, ", 1.0: "succeeds, "}.get(float(success[0]), "")
    return frames, f"{outcome}return {total:.2f}, {len(frames) - 1} steps"


def save_gif(path: Path, episodes: list[tuple[str, list]], fps: int) -> None:
    """`episodes` are (caption, frames): of each run the teacher's, then the student's."""
    n_columns = len(episodes) // 2
    height, width = episodes[0][1][0].shape[:2]
    size = (4 * n_columns, 2 * (4 * height / width + 0.3))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2, n_columns, squeeze=False).T.ravel()  # column by column
    longest = max(len(frames) for _, frames in episodes)
    shown = range(0, longest, -(-longest // MAX_FRAMES))
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, path, dpi=100):
        for t in [*shown, *[longest] * END]:
            for axis, (caption, frames) in zip(axes, episodes):
                axis.clear()
                axis.set_axis_off()
                axis.imshow(frames[min(t, len(frames) - 1)])
                axis.set_title(caption, fontsize=9)
            writer.grab_frame()


def show(args: argparse.Namespace) -> None:
    """Evaluate each run, play one episode of each agent, and draw these."""
    if args.episodes < 1 or args.start < 0:
        raise BadInput("--episodes must be at least 1, --start at least 0")
    episodes = []
    names = []
    for folder in args.runs:
        config, nets = tsalign.load_run(folder)
        envs = tsalign.make_envs(config.env, min(128, args.episodes))
        torch.manual_seed(0)  # so that --start chooses nothing here
        score = tsalign.evaluate(envs, nets, args.episodes, 0, config.episode_limit)
        kind = tsalign.kind_of_score(score)
        figures = [f"{agent} {score[f'{kind}_{agent}']:.3f}" for agent in AGENTS]
        print(f"{folder}: {kind} in {args.episodes} fresh episodes:", *figures, flush=True)
        envs = tsalign.make_envs(f"{config.env},render_mode=rgb_array", 1)
        for agent in AGENTS:
            frames, outcome = play(envs, nets, agent, args.start)
            episodes.append((f"{config.method}: the {agent} {outcome}", frames))
            print(f"start {args.start}, {episodes[-1][0]}")
        names.append(config.method)
    names.insert(0, config.env.rpartition(":")[2])
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{'_'.join(names)}.gif"
    save_gif(path, episodes, envs.metadata.get("render_fps", 10))
    print(f"saved {path}")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.play`: exit code 2 for bad input, 130 for Ctrl-C."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("results.play", None, __doc__, formatter_class=style)
    parser.error = fail
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--episodes", type=int, default=1024, help="fresh ones")
    parser.add_argument("--start", type=int, default=0, help="seed of what is shown")
    parser.add_argument("--out", type=Path, default=Path("results/play"), help="of the GIF")
    sys.path.append(".")  # for runs of an environment in a file of one's own
    try:
        show(parser.parse_args(arguments))
    except BadInput as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", code=130)


if __name__ == "__main__":
    main()
