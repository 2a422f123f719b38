"""See it: one episode, the same for all, played by teacher and student of saved runs, as a GIF.

    python -m results.play runs/tunnelvision_bc_seed0 runs/tunnelvision_ours_seed0

A column for each run, the teacher above, the student below; all start from the same layout. Then
success (or return) of both agents is printed over fresh episodes: the way to evaluate a saved run.
Without --layout it is the first of 100 on which every teacher succeeds and, with several runs,
their students differ; what is shown is then chosen, and what is printed is not. Takes seconds for a
run of TunnelVision, up to a minute for one of CollectHealth. Runs of one command share one
environment, which must offer render_mode="rgb_array".
"""

import argparse
import sys
from pathlib import Path

import gymnasium as gym
import torch
from PIL import Image, ImageDraw

from tsalign import AGENTS, ENVS, BadInput, evaluate, load_run, make_envs, step_envs, to_tensor

WIDTH, CAPTION, MAX_FRAMES, COLOURS = 400, 18, 100, 48  # of a GIF; pixels a panel, rows of its text


def picture_envs(name: str) -> gym.vector.VectorEnv:
    """One copy of an environment that can be drawn. Raises BadInput if it cannot."""
    make_envs(name, 1)  # imports the module that registers it
    gym.logger.min_level = gym.logger.ERROR  # what it warns of is said below, in one line
    try:
        return gym.make_vec(ENVS.get(name, name).split(":")[-1], 1, render_mode="rgb_array")
    except (TypeError, gym.error.Error) as error:
        raise BadInput(f"{name!r} cannot be drawn: {error}") from error


@torch.no_grad()
def play(envs, nets, agent: str, layout: int, draw: bool) -> tuple[list, float, bool]:
    """One episode from a seed -> its frames (H, W, 3), its return, and if it was a success.

    Where the environment reports no success, an episode with a positive return counts as one.
    """
    torch.manual_seed(layout)
    obs, _ = envs.reset(seed=layout)
    frames, total, ended = [], 0.0, False
    while not ended:
        frames += envs.render() if draw else ()
        action = nets.distribution(agent, to_tensor(obs[agent], torch.device("cpu"))).sample()
        obs, reward, terminated, truncated, success = step_envs(envs, action)
        total, ended = total + float(reward[0]), bool((terminated | truncated)[0])
    frames += envs.render() if draw else ()
    return frames, total, total > 0 if success is None else bool(success[0])


def find_layout(envs, all_nets: list) -> int:
    """The first of 100 seeds that shows something (see above), otherwise 0."""
    for layout in range(100):
        teachers, students = ([play(envs, nets, agent, layout, False)[2] for nets in all_nets]
                              for agent in AGENTS)  # fmt: skip
        if all(teachers) and (len(all_nets) == 1 or len(set(students)) > 1):
            return layout
    return 0


def panel(frame, caption: str) -> Image.Image:
    """A frame, made small, with a line of text above it."""
    image = Image.fromarray(frame)
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.BOX)
    whole = Image.new("RGB", (WIDTH + 4, image.height + CAPTION), "white")
    whole.paste(image, (2, CAPTION))
    ImageDraw.Draw(whole).text((4, 3), caption, fill="black")
    return whole


def save_gif(path: Path, episodes: list[list[tuple]], fps: float) -> None:
    """`episodes[row][column]` are (caption, frames, outcome); short ones wait for the longest."""
    length = max(len(frames) for row in episodes for _, frames, _ in row)
    skip, pages = -(-length // MAX_FRAMES), []
    for t in [*range(0, length - 1, skip), length - 1]:
        rows = []
        for row in episodes:
            texts = [f"{caption}{': ' + end if t >= len(f) - 1 else ''}" for caption, f, end in row]
            rows.append([panel(f[min(t, len(f) - 1)], s) for (_, f, _), s in zip(row, texts)])
        width, height = rows[0][0].size
        page = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
        for r, row in enumerate(rows):
            for c, image in enumerate(row):
                page.paste(image, (c * width, r * height))
        pages.append(page.quantize(COLOURS, dither=Image.Dither.NONE))
    duration = [round(1000 / fps)] * (len(pages) - 1) + [2000]  # GIF counts in milliseconds
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=duration, loop=0)


def main() -> None:
    """Exit code 2 and one line for bad input."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("results.play", description=__doc__, formatter_class=style)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument("--episodes", type=int, default=1024, help="fresh ones, for the figures")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh episodes")
    parser.add_argument("--layout", type=int, help="seed of the episode that is shown")
    parser.add_argument("--out", type=Path, default=Path("results/play"), help="where GIFs go")
    args = parser.parse_args()
    if args.episodes < 1 or args.seed < 0 or (args.layout or 0) < 0:
        raise BadInput("--episodes must be at least 1, --seed and --layout at least 0")
    configs, all_nets = zip(*map(load_run, args.runs))
    if len({config.env for config in configs}) > 1:
        raise BadInput("the runs are of different environments; show those of one at a time")
    for config, nets in zip(configs, all_nets):
        torch.manual_seed(args.seed)
        envs = make_envs(config.env, min(128, args.episodes))
        score = evaluate(envs, nets, args.episodes, args.seed)
        kind = "success" if "success_student" in score else "return"
        figures = "  ".join(f"{agent} {score[f'{kind}_{agent}']:.3f}" for agent in AGENTS)
        print(f"{config.folder.name:32} {kind}: {figures}", flush=True)
    envs = picture_envs(configs[0].env)
    layout = find_layout(envs, all_nets) if args.layout is None else args.layout
    episodes = []
    for agent in AGENTS:
        episodes.append([])
        for config, nets in zip(configs, all_nets):
            frames, total, success = play(envs, nets, agent, layout, True)
            outcome = f"{'success' if success else 'failure'}, return {total:.2f}"
            episodes[-1].append((f"{config.method}, {agent}", frames, outcome))
            print(f"layout {layout}: {config.method}, {agent}: {outcome}, {len(frames) - 1} steps")
    args.out.mkdir(parents=True, exist_ok=True)
    name = configs[0].folder.name.split("_")[0] + "_" + "_".join(c.method for c in configs)
    save_gif(args.out / f"{name}.gif", episodes, envs.metadata.get("render_fps", 8))
    print(f"saved {args.out / name}.gif")


if __name__ == "__main__":
    sys.path.append(".")  # for runs of an environment in a file of one's own
    try:
        main()
    except BadInput as bad:
        print("results.play:", bad, file=sys.stderr)
        sys.exit(2)
