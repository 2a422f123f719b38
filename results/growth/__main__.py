"""What does it cost as it grows? Grid, image, number of environments, and the floor beneath.

    python -m results.growth --jobs 2          # all parts; carries on where it was interrupted
    python -m results.growth grid              # TunnelVision, 125 to 3.9e8 layouts, ours and bc
    python -m results.growth image --jobs 1    # CollectHealth, 16 x 32 to 64 x 128 pixels, ours
    python -m results.growth envs              # N = 16 to 1024, and two jobs beside one
    python -m results.growth floor             # seconds of each phase over those of its products
    python -m results.growth --report          # redraws from run folders, or else from the CSVs

All settings are those of `tunnelvision` and `collecthealth`, but in the grids: total steps and
episode limit are the default's, times cells over 5 x 9 (`growth` in envs.py). Seconds are wall
clock, of training without evaluations where nothing else is said; those of `grid` and `image` are
as many jobs at once as `--jobs` says, `envs` and `floor` are never run side by side but for their
pairs. S = .95 is reached at the first evaluation that shows it (25 in a run).
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from results.growth import envs, floor
from results.growth.report import markdown, plot
from results.sweep import is_finished, lab_main, lab_parser, read_csv, read_runs, run_many
from results.sweep import write_csv
from tsalign import ENVS, BadInput, Config

PARTS, GOAL = ("grid", "image", "envs", "floor"), 0.95
NUM_ENVS = (16, 32, 64, 128, 256, 512, 1024)
LOGGED = dict(log_evals=25, log_episodes=128)  # so that S = .95 is not reached by luck too early
CYCLES, CYCLES_PAIR = 16, 48  # of the short runs in `envs`
TRAINING = ("collect", "policy", "student")
WHICH = ["env", "method", "seed", "sitting", "num_envs", "rollout_steps"]
SPEEDS = ["steps_per_second", *(f"steps_per_second_{phase}" for phase in TRAINING)]
SECONDS = ["seconds_training", *(f"seconds_{phase}" for phase in (*TRAINING, "evaluate"))]
SCORES = ["success_teacher", "success_student", "gap", "steps_to_goal", "seconds_to_goal"]
LAYOUTS = ["training_episodes", "training_layouts", "seen_share"]
LAYOUTS += ["success_teacher_unseen", "success_student_unseen"]
COLUMNS = {
    "grid": [*WHICH, "layouts", "limit", "env_steps", *SCORES, *LAYOUTS, *SECONDS, "peak_mib"],
    "image": [*WHICH, "env_steps", *SCORES, *SECONDS, *SPEEDS, "peak_mib", "torch"],
    "envs": [*WHICH, "env_steps", *SPEEDS, *SECONDS, "peak_mib", "torch"],
    "floor": ["env", "method", "phase", "steps", "seconds", "seconds_min", "seconds_max", "flops",
              "gflops_per_second", "floor_seconds", "ratio"],
    "curves": [*WHICH, "env_steps", "success_teacher", "success_student", "gap", "entropy"],
}  # fmt: skip


def like(base: str, method: str, **changed) -> Config:
    """The settings of a built-in environment, with changes."""
    return Config(**{**asdict(Config(env=base, method=method)), **changed})


def grid_configs(seeds: list[int], out: Path, scale: float) -> list[Config]:
    """TunnelVision on each grid, by the rule of growth."""
    steps = Config(env="tunnelvision").total_steps * scale
    return [
        like("tunnelvision", method, env=f"{envs.__name__}:{name}", seed=seed, out=out / "grid",
             total_steps=round(steps * envs.growth(*size)), **LOGGED)
        for name, size in envs.GRIDS.items() for seed in seeds for method in ("ours", "bc")
    ]  # fmt: skip


def image_configs(seeds: list[int], out: Path, scale: float) -> list[Config]:
    """CollectHealth with each image, all else the same."""
    steps = round(Config(env="collecthealth").total_steps * scale)
    return [
        like("collecthealth", "ours", env=f"{envs.__name__}:{name}", seed=seed, out=out / "image",
             total_steps=steps, **LOGGED)
        for name in envs.IMAGES for seed in seeds
    ]  # fmt: skip


def short(env: str, seed: int, out: Path, cycles: float, num_envs: int | None = None) -> Config:
    """A short run with as many steps a cycle as the default, evaluated once, on N episodes."""
    default = Config(env=env)
    cycle = default.num_envs * default.rollout_steps
    size = {} if num_envs is None else dict(num_envs=num_envs, rollout_steps=cycle // num_envs)
    small = dict(eval_episodes=1, log_evals=1, total_steps=max(1, round(cycle * cycles)))
    return like(env, "ours", seed=seed, out=out, **size, **small)


def envs_batches(seeds: list[int], out: Path, scale: float) -> list[tuple[list[Config], int]]:
    """N environments, one run after the other; then one job, two jobs, one, two."""
    batches = []
    for env in ENVS:
        scan = [short(env, s, out / "envs" / f"N{n}", CYCLES * scale, n)
                for s in seeds for n in NUM_ENVS]  # fmt: skip
        batches.append((scan, 1))
        for s in seeds:
            one, *two = (short(env, s, out / "envs" / name, CYCLES_PAIR * scale)
                         for name in ("alone", "beside_a", "beside_b"))  # fmt: skip
            batches += [([one], 1), (two, 2)]
    return batches


def row_of(config: Config) -> tuple[dict, list[dict]]:
    """What is reported of a finished run, and of each of its evaluations."""
    (run,), curve = read_runs(config.folder)
    which = {**asdict(config), "sitting": Path(config.out).name}
    taken = [sum(float(row[f"seconds_{phase}"]) for phase in TRAINING) for row in curve]
    reached = [k for k, row in enumerate(curve) if float(row["success_student"]) >= GOAL]
    row = {**which, **run, "seconds_training": taken[-1]}
    row |= {f"steps_per_second_{p}": run["env_steps"] / run[f"seconds_{p}"] for p in TRAINING}
    row["steps_per_second"] = run["env_steps"] / taken[-1]
    if reached:
        row["steps_to_goal"] = curve[reached[0]]["env_steps"]
        row["seconds_to_goal"] = taken[reached[0]]
    name = config.env.rpartition(":")[2]
    if name in envs.GRIDS:
        row |= dict(layouts=envs.n_layouts(*envs.GRIDS[name]), limit=envs.limit(name))
    return row, [{**point, **which} for point in curve]


def run_floor() -> list[dict]:
    """All sizes in one sitting, the speed of a product measured before each."""
    rows = []
    sizes = [("tunnelvision", envs.GRIDS), ("collecthealth", envs.IMAGES)]
    for base, name in [(base, name) for base, names in sizes for name in names]:
        speed = floor.product_speed()
        config = like(base, "ours", env=f"{envs.__name__}:{name}")
        rows += floor.add_floor(floor.measure(config), speed)
        print(f"{name}: {sum(row['seconds'] for row in rows[-4:]):.2f} s a cycle", flush=True)
    return rows


def work(args: argparse.Namespace) -> dict[str, str]:
    """Run the parts and report -> {run folder: error}."""
    failed, parts = {}, args.parts or PARTS
    if not set(parts) <= set(PARTS):
        raise BadInput(f"unknown part {[*set(parts) - set(PARTS)][0]!r}: {', '.join(PARTS)}")
    if not args.scale > 0:
        raise BadInput("scale must be above 0")
    ask = (args.seeds, args.out, args.scale)
    batches = {"grid": [(grid_configs(*ask), args.jobs)], "envs": envs_batches(*ask)}
    batches["image"] = [(image_configs(*ask), args.jobs)]
    for part in parts:
        for configs, jobs in batches.get(part, ()) if not args.report else ():
            failed |= run_many(configs, jobs, module="results.growth.clocked")
        done = [row_of(config) for configs, _ in batches.get(part, ())
                for config in configs if is_finished(config)]  # fmt: skip
        if part == "floor" and not args.report:
            done = [(row, []) for row in run_floor()]
        if done:
            args.results.mkdir(parents=True, exist_ok=True)
            write_csv(args.results / f"{part}.csv", COLUMNS[part], [row for row, _ in done])
        if done and part == "grid":
            curves = [point for _, curve in done for point in curve]
            write_csv(args.results / "curves.csv", COLUMNS["curves"], curves)
    files = {part: args.results / f"{part}.csv" for part in (*PARTS, "curves")}
    tables = {part: read_csv(path) for part, path in files.items() if path.exists()}
    if not tables:
        raise BadInput(f"no finished run below {args.out}, and no CSV in {args.results}")
    (args.results / "growth.md").write_text(markdown(tables), encoding="utf-8")
    plot(tables, args.results / "growth.png")
    print(markdown(tables))
    return failed


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.growth`."""
    parser = lab_parser("growth", __doc__, range(3))
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, for trials")
    lab_main(work, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
