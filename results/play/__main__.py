"""See it: one episode, the same for all, played by teacher and student of saved runs, as a GIF.

    python -m results.play runs/tunnelvision_bc_seed0 runs/tunnelvision_ours_seed0

Prints success (or return) of both agents on fresh episodes: the way to evaluate a saved run. Then
draws a column for each run, the teacher above, the student below, all from one start: --layout, or
0, or for several runs the first of 100 that shows a difference: all teachers and the last run's
student succeed, the other students fail. Such a picture is chosen; the printed figures are not.
Takes seconds, in CollectHealth up to a minute. The runs share one environment, which must offer
render_mode="rgb_array".
"""

import argparse
import math
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from PIL import Image, ImageDraw

from tsalign import AGENTS, ENVS, BadInput, evaluate, fail, load_run, make_envs, step_envs

WIDTH, CAPTION, COLOURS = 400, 16, 64  # of a GIF: a panel and its text in pixels, colours in all
MAX_FRAMES, END_MS = 60, 2500  # longer episodes skip steps; how long the end stands
SEES = {  # what of the picture an agent has
    ("tunnelvision", "teacher"): " (sees the 8 framed cells)",
    ("tunnelvision", "student"): " (sees the 3 yellow cells)",
    ("collecthealth", "teacher"): " (knows the map)",
    ("collecthealth", "student"): " (sees the pixels, bottom right)",
}


def picture_envs(name: str) -> gym.vector.VectorEnv:
    """One copy of an environment that can be drawn. Raises BadInput if it cannot."""
    make_envs(name, 1)  # imports the module that registers it
    gym.logger.min_level = gym.logger.ERROR  # what it warns of is said below, in one line
    try:
        return gym.make_vec(ENVS.get(name, name).split(":")[-1], 1, render_mode="rgb_array")
    except (TypeError, gym.error.Error) as error:
        raise BadInput(f"{name!r} cannot be drawn: {error}") from error


@torch.no_grad()
def play(envs, nets, agent: str, layout: int, draw: bool = True) -> tuple[list, float, bool]:
    """One episode from a seed -> its frames (H, W, 3), its return, and if it was a success.

    Where the environment reports no success, an episode with a positive return counts as one.
    """
    torch.manual_seed(layout)
    obs, _ = envs.reset(seed=layout)
    frames, total, ended = [], 0.0, False
    while not ended:
        frames += envs.render() if draw else ()
        action = nets.distribution(agent, torch.as_tensor(obs[agent])).sample()
        obs, reward, terminated, truncated, success = step_envs(envs, action)
        total, ended = total + float(reward[0]), bool((terminated | truncated)[0])
    frames += envs.render() if draw else ()
    return frames, total, total > 0 if np.isnan(success[0]) else bool(success[0])


def find_layout(envs, all_nets: list) -> int:
    """The first of 100 starts that shows a difference. Raises BadInput if none does."""
    wanted = [(nets, "teacher", True) for nets in all_nets]
    wanted += [(nets, "student", nets is all_nets[-1]) for nets in all_nets]
    for layout in range(100):
        if all(play(envs, nets, agent, layout, False)[2] == win for nets, agent, win in wanted):
            return layout
    raise BadInput("on none of 100 starts the last student alone succeeds; name one with --layout")


def draw_page(episodes: list[list[tuple]], t: int) -> Image.Image:
    """All episodes at step t, each below a line of text; whoever has finished waits."""
    height, width = episodes[0][0][1][0].shape[:2]
    size = (WIDTH, round(height * WIDTH / width))
    step_x, step_y = size[0] + 4, size[1] + CAPTION
    page = Image.new("RGB", (step_x * len(episodes[0]), step_y * len(episodes)), "white")
    for r, row in enumerate(episodes):
        for c, (caption, frames, outcome) in enumerate(row):
            x, y, ended = c * step_x + 2, r * step_y, t >= len(frames) - 1
            image = Image.fromarray(frames[-1 if ended else t])
            page.paste(image.resize(size, Image.Resampling.BOX), (x, y + CAPTION))
            text = f"{caption}  {outcome}" if ended else caption
            ImageDraw.Draw(page).text((x, y + 2), text, fill="black")
    return page


def save_gif(path: Path, episodes: list[list[tuple]], fps: float) -> None:
    """`episodes[row][column]` are (caption, frames, outcome)."""
    last = max(len(frames) for row in episodes for _, frames, _ in row) - 1
    shown = [*range(0, last, math.ceil((last + 1) / MAX_FRAMES)), last]
    pages = [draw_page(episodes, t) for t in shown]
    both_ends = Image.fromarray(np.vstack([pages[0], pages[-1]]))
    palette = both_ends.quantize(COLOURS)  # one for all: then only what moves is stored
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    times = [round(1000 / fps)] * (len(pages) - 1) + [END_MS]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0)


def show(folders: list[str], n_episodes: int, seed: int, layout: int | None, out: Path) -> None:
    """Evaluate the runs, then play and draw one episode."""
    if n_episodes < 1 or seed < 0 or (layout or 0) < 0:
        raise BadInput("--episodes must be at least 1, --seed and --layout at least 0")
    configs, all_nets = zip(*map(load_run, folders))
    name = configs[0].env
    if any(config.env != name for config in configs):
        raise BadInput("the runs are of different environments; show those of one at a time")
    envs, many = picture_envs(name), make_envs(name, min(128, n_episodes))
    played = math.ceil(n_episodes / many.num_envs) * many.num_envs
    for folder, config, nets in zip(folders, configs, all_nets):
        torch.manual_seed(seed)
        score = evaluate(many, nets, played, seed, config.episode_limit)
        kind = "success" if "success_student" in score else "return"
        figures = "  ".join(f"{agent} {score[f'{kind}_{agent}']:.3f}" for agent in AGENTS)
        print(f"{folder}: {kind} on {played} fresh episodes: {figures}", flush=True)
    if layout is None:
        layout = find_layout(envs, all_nets) if len(folders) > 1 else 0
    episodes = [[], []]
    for row, agent in zip(episodes, AGENTS):
        for config, nets in zip(configs, all_nets):
            frames, total, success = play(envs, nets, agent, layout)
            outcome = f"{'SUCCESS' if success else 'FAILURE'} after {len(frames) - 1} steps"
            row.append((f"{config.method}, {agent}{SEES.get((name, agent), '')}", frames, outcome))
            print(f"layout {layout}: {config.method}, {agent}: {outcome}, return {total:.2f}")
    out.mkdir(parents=True, exist_ok=True)
    env = configs[0].folder.name.split("_")[0]
    path = out / f"{'_'.join([env, *(config.method for config in configs)])}.gif"
    save_gif(path, episodes, envs.metadata.get("render_fps", 10))
    print(f"saved {path} ({path.stat().st_size // 1000} kB)")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.play`: exit code 2 for bad input, 130 for Ctrl-C."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("results.play", description=__doc__, formatter_class=style)
    parser.error = fail
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument("--episodes", type=int, default=1024, help="fresh ones, for the figures")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh episodes")
    parser.add_argument("--layout", type=int, help="seed of the episode that is shown")
    parser.add_argument("--out", type=Path, default=Path("results/play"), help="where the GIF goes")
    args = parser.parse_args(arguments)
    sys.path.append(".")  # for runs of an environment in a file of one's own
    try:
        show(args.runs, args.episodes, args.seed, args.layout, args.out)
    except BadInput as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", code=130)


if __name__ == "__main__":
    main()
