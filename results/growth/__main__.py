"""What happens on larger grids and pictures? Seeds 0-2; about 12 minutes on two cores.

    python -m results.growth --jobs 2          # carries on where it was interrupted
    python -m results.growth --report          # redraws from growth.csv

Grids of TunnelVision, ours and bc: the number of steps and the length of an episode are the
standard ones times cells over 5 x 9. On 5 x 9 there are 125 layouts, all of them trained
on; on 9 x 21 there are 3.9e8, so nearly all that is played at the end is new. Pictures of
CollectHealth, ours: nothing else differs.
"""

from results import lab, questions
from results.questions import Question
from tsalign import STEPS, Config


def grids() -> list[tuple[str, Config]]:
    """TunnelVision with more cells."""
    variants = []
    for rows, columns in [(5, 9), (7, 15), (9, 21)]:
        factor = rows * columns / 45
        limit = round(100 * factor)
        env = f"tunnelvision,rows={rows},cols={columns},max_episode_steps={limit}"
        steps = round(STEPS["tunnelvision"] * factor)
        for method in ("bc", "ours"):
            config = lab.standard(env, method, total_steps=steps)
            variants.append((f"{rows} x {columns}, {method}", config))
    return variants


def pictures() -> list[tuple[str, Config]]:
    """CollectHealth with more pixels."""
    variants = []
    for height, width in [(16, 32), (32, 64), (64, 128)]:
        env = f"collecthealth,view_height={height},view_width={width}"
        variants.append((f"{height} x {width}, ours", lab.standard(env)))
    return variants


QUESTION = Question(grids() + pictures(), seeds=range(3), below="cells, or pixels")


def main(arguments: list[str] | None = None) -> None:
    """`python -m results.growth`."""
    questions.main("growth", __doc__, {"growth": QUESTION}, arguments)


if __name__ == "__main__":
    main()
