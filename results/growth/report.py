"""The table and the figure of `results.growth`, from the rows of its CSVs."""

import re
import statistics
from pathlib import Path

from matplotlib.figure import Figure

TRAINING = ("collect", "policy", "student")
COLOURS = {"environment": "C7", "collect": "C0", "policy": "C1", "student": "C2", "evaluate": "C4"}


def group(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Rows by the values of some columns, in the order in which they come."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def numbers(rows: list[dict], key: str) -> list[float]:
    """A column, without the rows that have no value there."""
    return [float(row[key]) for row in rows if row[key] != ""]


def spread(rows: list[dict], key: str, digits: int = 2, unit: float = 1) -> str:
    """Median (least to most) of a column, and of how many if some rows have no value."""
    values = [value / unit for value in numbers(rows, key)]
    if not values:
        return "-"
    middle, *ends = statistics.median(values), min(values), max(values)
    text = f"{middle:.{digits}f}"
    if len(values) > 1:
        text += " ({:.{d}f} to {:.{d}f})".format(*ends, d=digits)
    return text if len(values) == len(rows) else f"{text}, {len(values)} of {len(rows)}"


def size_of(env: str) -> str:
    """The environment's id without its module and version: TunnelVision7x15."""
    return env.rpartition(":")[2].removesuffix("-v0")


def lines_of(head: str, cells: list[list[str]]) -> list[str]:
    """A markdown table; the columns of `head` are separated by |."""
    rule = "|---" * (head.count("|") + 1) + "|"
    return [f"| {head} |", rule, *("| " + " | ".join(row) + " |" for row in cells), ""]


def grid_table(rows: list[dict]) -> list[str]:
    """TunnelVision over the size of the grid."""
    cells = []
    for (env, method), runs in group(rows, "env", "method").items():
        first = runs[0]
        cell = [size_of(env), f"{int(first['layouts']):,}", first["limit"], method, str(len(runs))]
        cell += [spread(runs, "env_steps", 2, 1e6)]
        cell += [spread(runs, key, 3) for key in ("success_teacher", "success_student", "gap")]
        cell += [spread(runs, "steps_to_goal", 2, 1e6), spread(runs, "seconds_to_goal", 0)]
        cell += [spread(runs, "seen_share"), spread(runs, "success_student_unseen", 3)]
        cells.append(cell)
    head = "grid | layouts | limit | method | n | steps, M | T | S | T - S | M steps to S .95"
    head += " | seconds to S .95 | share of evaluation layouts trained on | S on the others"
    return lines_of(head, cells)


def image_table(rows: list[dict]) -> list[str]:
    """CollectHealth over the size of the student's image."""
    cells = []
    for (env,), runs in group(rows, "env").items():
        cell = [size_of(env), str(len(runs)), spread(runs, "success_student", 3)]
        cell += [spread(runs, "gap", 3), spread(runs, "steps_to_goal", 0, 1e3)]
        cell += [spread(runs, "seconds_to_goal", 0)]
        cell += [spread(runs, f"seconds_{phase}", 0) for phase in (*TRAINING, "evaluate")]
        cells.append([*cell, spread(runs, "peak_mib", 0)])
    head = "image | n | S | T - S | k steps to S .95 | seconds to S .95"
    head += " | collect, s | policy, s | student, s | evaluate, s | peak, MiB"
    return lines_of(head, cells)


def envs_table(rows: list[dict]) -> list[str]:
    """Thousands of steps a second over N; then two jobs beside one."""
    speeds = ["steps_per_second", *(f"steps_per_second_{phase}" for phase in TRAINING)]
    scan = [row for row in rows if row["sitting"].startswith("N")]
    cells = []
    for (env, n, t), runs in group(scan, "env", "num_envs", "rollout_steps").items():
        cells.append([env, f"{n} x {t}", *(spread(runs, key, 1, 1e3) for key in speeds)])
        cells[-1].append(spread(runs, "peak_mib", 0))
    head = "environment | N x T | k steps/s | collect | policy | student | peak, MiB"
    lines = lines_of(head, cells)
    for (env,), runs in group(rows, "env").items():
        ratios = []
        for (seed,), same in group(runs, "seed").items():
            speed = {row["sitting"]: float(row["steps_per_second"]) for row in same}
            if {"alone", "beside_a", "beside_b"} <= speed.keys():
                pair = speed["beside_a"] + speed["beside_b"]
                ratios.append({"ratio": pair / speed["alone"]})
        if ratios:
            times = spread(ratios, "ratio")
            lines += [f"{env}: two jobs at once make {times} times the steps of one.", ""]
    return lines


def floor_table(rows: list[dict]) -> list[str]:
    """Milliseconds a cycle beside those of the products alone."""
    cells = []
    for row in rows:
        low, high = (1e3 * float(row[f"seconds_{end}"]) for end in ("min", "max"))
        times = f"{1e3 * float(row['seconds']):.0f} ({low:.0f} to {high:.0f})"
        floor = ["-", "-"]
        if row["ratio"]:
            floor = [f"{1e3 * float(row['floor_seconds']):.0f}", f"{float(row['ratio']):.1f}"]
        mflops = f"{float(row['flops']) / float(row['steps']) / 1e6:.2f}"
        cells.append([size_of(row["env"]), row["phase"], mflops, times, *floor])
    lines = lines_of("size | phase | Mflop a step | ms a cycle | floor, ms | ratio", cells)
    speeds = [float(row["gflops_per_second"]) for row in rows]
    least, most = min(speeds), max(speeds)
    return lines + [f"Products of 1,024 x 1,024: {least:.0f} to {most:.0f} Gflop/s.", ""]


def markdown(tables: dict[str, list[dict]]) -> str:
    """All tables; median (least to most) over seeds."""
    parts = {"grid": ("TunnelVision over the grid", grid_table),
             "image": ("CollectHealth over the student's image", image_table),
             "envs": ("Thousands of steps a second over the number of environments", envs_table),
             "floor": ("What a cycle takes beside its products alone", floor_table)}  # fmt: skip
    lines = []
    for part, (title, table) in parts.items():
        if part in tables:
            lines += [f"**{title}**", "", *table(tables[part])]
    return "\n".join(lines)


def plot(tables: dict[str, list[dict]], path: Path) -> None:
    """Four panels, one for each part."""
    figure = Figure(figsize=(9, 7), layout="tight")
    (grid, image), (envs, floor) = figure.subplots(2, 2)
    curves = group(tables.get("curves", []), "env", "method")
    sizes = list(dict.fromkeys(env for env, _ in curves))
    for (env, method), rows in curves.items():
        for (seed,), run in group(rows, "seed").items():
            style = dict(color=f"C{sizes.index(env)}", linestyle="-" if method == "ours" else ":")
            label = size_of(env).removeprefix("TunnelVision") + " " + method
            x, y = numbers(run, "env_steps"), numbers(run, "success_student")
            is_first = seed == rows[0]["seed"]
            grid.plot([v / 1e6 for v in x], y, label=label if is_first else None, lw=1, **style)
    grid.set(title="TunnelVision, a line for each seed", xlabel="million environment steps")
    grid.set(ylabel="success of the student", ylim=(-0.02, 1.02))

    images = group(tables.get("image", []), "env")
    for k, rows in enumerate(images.values()):
        bottom = 0
        for phase in (*TRAINING, "evaluate"):
            height = statistics.median(numbers(rows, f"seconds_{phase}"))
            label = phase if k == 0 else None
            image.bar(k, height, 0.6, bottom, color=COLOURS[phase], label=label)
            bottom += height
        score = statistics.median(numbers(rows, "success_student"))
        image.text(k, bottom, f"S {score:.2f}", ha="center", va="bottom", fontsize=8)
    names = [size_of(env).removeprefix("CollectHealth") for (env,) in images]
    image.set_xticks(range(len(names)), names)
    image.margins(y=0.12)
    image.set(title="CollectHealth, median run", xlabel="student's image", ylabel="seconds")

    scan = [row for row in tables.get("envs", []) if row["sitting"].startswith("N")]
    for (env,), rows in group(scan, "env").items():
        line = "-o" if env == "tunnelvision" else "--s"
        for key, colour in [("", "black")] + [(f"_{phase}", COLOURS[phase]) for phase in TRAINING]:
            points = group(rows, "num_envs")
            x = [int(n) for (n,) in points]
            speeds = [numbers(runs, f"steps_per_second{key}") for runs in points.values()]
            label = f"all, {env}" if key == "" else key[1:] if line == "-o" else None
            envs.plot(x, [statistics.median(s) for s in speeds], line, color=colour, ms=3,
                      label=label)  # fmt: skip
            low, high = [min(s) for s in speeds], [max(s) for s in speeds]
            envs.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    envs.set(title="Speed over N, and of each phase", xlabel="N, environments at once")
    envs.set(ylabel="environment steps a second", xscale="log", yscale="log")
    envs.set_ylim(bottom=3e3)  # room for the legend
    ticks = sorted({int(row["num_envs"]) for row in scan})
    envs.set_xticks(ticks, ticks)
    envs.minorticks_off()

    by_phase = group([row for row in tables.get("floor", []) if row["ratio"]], "phase")
    for k, ((phase,), rows) in enumerate(by_phase.items()):
        x = [j + 0.25 * (k - 1) for j in range(len(rows))]
        floor.bar(x, numbers(rows, "ratio"), 0.25, color=COLOURS[phase], label=phase)
        names = [re.sub("Vision|Health", "\n", size_of(row["env"])) for row in rows]
        floor.set_xticks(range(len(rows)), names, fontsize=7)
    floor.axhline(1, color="black", lw=0.8)
    floor.set(title="Time over that of the products alone", ylabel="seconds / floor seconds")
    for axis in (grid, image, envs, floor):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=130)
