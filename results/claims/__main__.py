"""The paper's claims, one question each; both environments where nothing else is said.

    python -m results.claims                    # all of them, one after the other
    python -m results.claims align --jobs 2     # carries on where it was interrupted
    python -m results.claims align --report     # redraws from align.csv

    align      Eq. (7): success and leak over lambda_align; 5 seeds, 8 minutes
    stability  Eq. (8): how many of 20 seeds fail with and without it; 7 minutes
    noise      the same of the noise on the policy's z in training, which is ours; 7 minutes
    sitt       SITT's lambda1: is it hard to tune? tuning seeds 100-102, 10 minutes
    pairs      how few pairs of views are enough, and what breaks first; 5 seeds, 15 minutes
    baselines  do bc and sitt lose by having one pair in 48? 3 seeds, 6 minutes
    settings   six environments at one set of settings; 10 seeds, 10 minutes
    late       is a learned policy lost again? the README's Cue, 30 seeds, 1 minute

Runs at Table I's settings are Table I's; the minutes are those besides, on two cores.
"""

from dataclasses import replace

from results import lab, questions
from results.questions import Question
from tsalign import ENVS, Config, checked


def variant(label: str, env: str, method: str = "ours", every: int = 0, **settings):
    """A label and a run, which is looked at each so many steps -> (label, Config).

    A run that table1 or own_env has, too, is theirs. But Table I's sitt has other weights.
    """
    config = lab.standard(env, method, **settings)
    if every:
        looks = checked(config).total_steps // every
        config = replace(config, log_evals=looks, log_episodes=128)
    if not lab.settings_of(config) and method != "sitt":
        home = lab.TABLE1 if env in ENVS else lab.OWN_ENV
        config = replace(config, out=str(home))
    return label, config


def in_both(label: str, method: str, **settings) -> list[tuple[str, Config]]:
    """A variant in both environments of the paper."""
    return [variant(label, env, method, **settings) for env in ENVS]


def sweep(method: str, name: str, values: list, every: int = 0) -> list:
    """Variants over one setting; its default is among them."""
    variants = []
    for value in [getattr(Config, name), *values]:
        variants += in_both(f"{value:g}", method, every=every, **{name: value})
    return variants


QUESTIONS = {
    "align": Question(
        in_both("0", "no-align") + sweep("ours", "lambda_align", [1.0, 10.0, 300.0]),
        measures=("S", "leak"),
        below="lambda_align",
        base=f"{Config.lambda_align:g}",
    ),
    "stability": Question(
        in_both("with", "ours") + in_both("without", "no-stability"),
        seeds=range(20),
        below="with Eq. (8) and without",
        base="without",
    ),
    "noise": Question(
        in_both("with", "ours") + in_both("without", "ours", z_noise=0.0),
        seeds=range(20),
        below="with noise on the policy's z in training, and without",
        base="without",
    ),
    "sitt": Question(
        sweep("sitt", "sitt_lambda1", [0.0, 0.003, 0.01, 0.025, 0.05, 0.2, 0.5]),
        seeds=range(100, 103),
        below="lambda1",
        base=f"{Config.sitt_lambda1:g}",
    ),
    "pairs": Question(
        sweep("ours", "pairs_every", [2, 8, 128, 160, 192, 512], every=20_000),
        measures=("S", "leak", "views_to_95"),
        below="a pair is kept each so many steps",
        base=f"{Config.pairs_every}",
    ),
    "baselines": Question(
        in_both("bc", "bc")
        + in_both("bc, all pairs", "bc", pairs_every=1)
        + in_both("sitt", "sitt")
        + in_both("sitt, all pairs", "sitt", pairs_every=1),
        seeds=range(3),
        below="with one pair in 48, or all of them",
    ),
    "settings": Question(
        [variant(env.rpartition(":")[2], env) for env in [*ENVS, *lab.STEPS]],
        seeds=range(10),
        below="the score of CueReach is its return",
        title="one set of settings",
    ),
    "late": Question(
        [variant("Cue-v0", lab.CUE, every=2_500)],
        seeds=range(30),
        measures=("S", "worst_later"),
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.claims`."""
    questions.main("claims", __doc__, QUESTIONS, arguments)


if __name__ == "__main__":
    main()
