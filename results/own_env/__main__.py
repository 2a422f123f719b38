"""Environments of one's own: four methods on CueReach and on MiniGrid's lava, seeds 0-4.

    pip install -r results/own_env/requirements.txt
    python -m results.own_env --jobs 2       # 25 minutes; carries on where it stopped
    python -m results.own_env --report       # redraws from own_env.csv

All settings are Config's but the number of steps. The scripted student has no memory, too.
"""

import argparse

from results import lab, questions
from results.questions import Question

ENVS = [lab.CUE_REACH, lab.LAVA]
METHODS = ["ours", "no-align", "sitt", "bc"]


def ask(args: argparse.Namespace) -> dict[str, Question]:
    """Each method in each environment."""
    variants = []
    for env in args.envs:
        variants += [(method, lab.standard(env, method)) for method in args.methods]
    return {"own_env": Question(variants)}


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.own_env`."""
    parser = lab.lab_parser("own_env", __doc__)
    parser.set_defaults(ask=ask)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    lab.lab_main(questions.train, questions.report, parser, arguments)


if __name__ == "__main__":
    main()
