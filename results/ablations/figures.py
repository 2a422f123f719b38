"""Tables, figures and the few derived numbers of `results.ablations`, from its CSVs alone."""

import math
import statistics
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.sweep import mean_sd_interval

TWENTY, ALONE = "20 seeds", " (6)"  # variants of stability, positives
MEANS = {
    "curve": "mean of S over training",  # learned a tenth of the training sooner: .1 more
    "moved_z": "movement of z in a cycle: 1 - cosine",
    "moved_logits": "logits' movement in a cycle",
    "disagreement": "policies on z_T and z_S: total variation",
    "distance": "1 - z_T . z_S = offset + linear + rest",
    "offset": "offset: a shift of z_S would remove it",
    "linear": "linear: a linear map of z_S would, besides",
    "rest": "rest: neither does",
    "match": "z_T whose z_S is the nearest of 128",
    "follows": "z_S nearer to its z_T than to +-8 steps'",
    "changes": "teacher's policy, change in a step",
    "mapped": "S with z_S mapped linearly",
    "nearest": "S with the nearest z_T for z_S",
}
LABELS = {"success_student": "S: student", "success_teacher": "T: teacher", **MEANS}
SUCCESS = ("success", ["success_student", "success_teacher"])
PANELS = {  # question: what stands below the axes, style of the means, what each row of axes shows
    "align": ("lambda_align", "-", [SUCCESS, ("distance", ["disagreement", "distance"])]),
    "noalign": ("", "_", [("success of the student", ["success_student", "mapped", "nearest"]),
                          ("parts of 1 - z_T . z_S", ["offset", "linear", "rest"]),
                          ("share, total variation", ["match", "disagreement"])]),
    "positives": ("positives within; (6): in Eq. (6) alone", "_",
                  [SUCCESS, ("share, total variation", ["follows", "changes"])]),
    "sitt": ("weight", "-", [SUCCESS]),
    "settings": ("settings of", "_", [SUCCESS]),
}  # fmt: skip
STABILITY = ("success_student", "curve", "moved_logits")  # what each of its rows of axes shows


def group(rows: list[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Rows by what the named columns say, in the order of their first appearance."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def mean(rows: list[dict], key: str) -> float:
    """Mean of a column, nan if it is empty."""
    return statistics.mean([float(row[key]) for row in rows if row.get(key)] or [math.nan])


def markdown(rows: list[dict]) -> str:
    """A line per environment, method and variant: mean and standard deviation over seeds."""
    means = [key for key in MEANS if any(row.get(key) for row in rows)]
    names = ["environment", "method", "variant", "n", "T", "S", "T - S", "worst S", *means]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for which, of in group(rows, "env", "method", "variant").items():
        cells = [*which, str(len(of))]
        for key in ("success_teacher", "success_student", "gap"):
            sd = mean_sd_interval([float(row[key]) for row in of])[1]
            cells.append(f"{mean(of, key):.2f} ± {sd:.2f}".replace("-0.00", "0.00"))
        cells.append(f"{min(float(row['success_student']) for row in of):.2f}")
        cells += [f"{mean(of, key):.2g}".replace("nan", "-") for key in means]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def fisher_exact(bad_a: int, n_a: int, bad_b: int, n_b: int) -> float:
    """Two-sided p of Fisher's exact test: all tables that are as unlikely as this one, or more."""
    bad = bad_a + bad_b
    ways = [math.comb(n_a, k) * math.comb(n_b, bad - k) for k in range(bad + 1)]
    return sum(w for w in ways if w <= ways[bad_a]) / sum(ways)


def optimum(rows: list[dict]) -> tuple[list[str], str]:
    """The weights around the best whose mean S is within .05 of it, and a sentence about them."""
    means = {name: mean(of, "success_student") for (name,), of in group(rows, "variant").items()}
    names, best = list(means), max(means, key=means.get)
    near, k = [best], names.index(best)
    for some in (names[:k][::-1], names[k + 1 :]):
        for name in some:
            if means[name] < means[best] - 0.05:
                break
            near.append(name)
    near.sort(key=float)
    at_end = near[0] == names[1] or near[-1] == names[-1]
    factor = float(near[-1]) / (float(near[0]) or math.nan)
    width = "0 included" if near[0] == "0" else f"a factor of {factor:.3g}"
    width += ", at an end of what was tried" if at_end else ""
    return near, f"best S at {best}, within .05 of it from {near[0]} to {near[-1]} ({width})"


def panel(axis: Axes, rows: list[dict], keys: list[str], style: str, first: int = 0,
          label: str = "") -> None:  # fmt: skip
    """Each seed a dot over the variants; the means joined, or as bars if they have no order."""
    variants = group(rows, "variant")
    for k, key in enumerate(keys, first):
        dots = [(x, float(row[key])) for x, of in enumerate(variants.values()) for row in of]
        axis.plot(*zip(*dots), ".", color=f"C{k}", alpha=0.4)
        means = [mean(of, key) for of in variants.values()]
        axis.plot(means, style, color=f"C{k}", markersize=12, markeredgewidth=2,
                  label=label or LABELS[key])  # fmt: skip
    names = [name.replace(", ", ",\n") for (name,) in variants]
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=90 if len(names) > 7 else 0)
    axis.grid(alpha=0.3)


def draw_panels(question: str, rows: list[dict], figure: Figure) -> list[str]:
    """A column of axes per environment, in `sitt` one per method too; says where optima are."""
    below, style, shown = PANELS[question]
    columns, said = {}, []
    for row in rows:
        method = ", SITT" if row["method"] == "sitt" else ", ours"
        columns.setdefault(row["env"] + method * (question == "sitt"), []).append(row)
    axes = figure.subplots(len(shown), len(columns), squeeze=False, sharex="col", sharey="row")
    for (name, of), column in zip(columns.items(), axes.T):
        if question in ("align", "sitt"):
            near, sentence = optimum(of)
            names = [name for (name,) in group(of, "variant")]
            column[0].axvspan(names.index(near[0]), names.index(near[-1]), color="C2", alpha=0.1)
            said.append(f"{name}: {sentence}.")
        for axis, (_, keys) in zip(column, shown):
            panel(axis, of, keys, style)
        column[0].set_title(name, fontsize=10)
        column[-1].set_xlabel(below)
    for row, (label, _) in zip(axes, shown):
        row[0].legend(fontsize=7)  # it holds for the whole row
        row[0].set_ylabel(label)
        if label.startswith("success"):
            row[0].set_ylim(-0.03, 1.03)
    return said


def draw_stability(rows: list[dict], figure: Figure) -> list[str]:
    """Left: 20 seeds each. Then success, speed and movement over passes x learning rate."""
    twenty = group([row for row in rows if row["variant"] == TWENTY], "method")
    maps = group([row for row in rows if row["variant"] != TWENTY], "env")
    axes = figure.subplots(len(STABILITY), 1 + len(maps), squeeze=False, sharex="col",
                           sharey="row", width_ratios=[2] + [3] * len(maps))  # fmt: skip
    left, *others = axes.T
    for axis, key in zip(left[:-1], STABILITY):  # these runs' movement was not measured
        for k, of in enumerate(twenty.values()):
            x = [k + 0.02 * (j - len(of) / 2) for j in range(len(of))]
            axis.plot(x, [float(row[key]) for row in of], ".", color=f"C{k}")
        axis.set_ylabel(LABELS[key])
    left[0].set(title=TWENTY + " each", xlim=(-0.5, 1.5))
    left[-2].set_xticks(range(len(twenty)), [method for (method,) in twenty])
    left[-2].tick_params(labelbottom=True)
    left[-1].set_axis_off()
    for ((env,), of), column in zip(maps.items(), others):
        for axis, key in zip(column, STABILITY):
            for k, ((method,), some) in enumerate(group(of, "method").items()):
                panel(axis, some, [key], "-", k, method.removesuffix("-measured"))
            axis.legend(fontsize=7)
        column[0].set_title(env)
        column[-1].set(xlabel="encoders' passes x learning rate", yscale="log")
        column[-1].set_ylabel(LABELS[STABILITY[-1]])
        column[-1].tick_params(labelleft=True)
    bad = {method: sum(float(row["success_student"]) < 0.95 for row in of)
           for (method,), of in twenty.items()}  # fmt: skip
    said = [f"{m}: S below .95 on {n} of {len(twenty[m,])} seeds." for m, n in bad.items()]
    if len(bad) == 2:
        table = [x for method, n in bad.items() for x in (n, len(twenty[method,]))]
        said.append(f"Fisher's exact test of the two, two-sided: p = {fisher_exact(*table):.2f}.")
    return said


def report(question: str, rows: list[dict], folder: Path) -> str:
    """Writes the table and the figure; returns the table."""
    n_rows = len(STABILITY if question == "stability" else PANELS[question][2])
    figure = Figure(figsize=(9, 2.9 * n_rows + 0.5), layout="constrained")
    draw = draw_stability if question == "stability" else partial(draw_panels, question)
    said = draw(rows, figure)
    legend = "small dots: seeds; lines, bars and large dots: their means"
    legend += "; shaded: within .05 of the best S" * (question in ("align", "sitt"))
    figure.suptitle(legend, fontsize=8)
    figure.savefig(folder / f"{question}.png", dpi=130)
    said += [f"{k}: {text.removeprefix(k + ': ')}." for k, text in MEANS.items() if k in rows[0]]
    text = markdown(rows) + "".join(f"\n- {sentence}" for sentence in said) + "\n"
    (folder / f"{question}.md").write_text(text, encoding="utf-8")
    return text
