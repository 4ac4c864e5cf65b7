"""`--params`, spelt alike wherever there are several curves: its values one after the other, or each behind its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ckptgrow.commands._help import PanelledCommand
from ckptgrow.errors import RequestError

OPTION = "--params"
ParamsOption = Annotated[
    list[str],
    typer.Option(
        help="Parameters without embeddings of each model, in the order of the logs: numbers, config.json files or "
        "checkpoints.",
        metavar="N...",
        show_default=False,
    ),
]


class WithParams(PanelledCommand):
    """A command whose `--params` takes every word up to the next option.

    Of two, where the command names two models; given more than once, it takes one word each time.
    """

    most: int | None = None

    def make_parser(self, ctx: Any) -> Any:
        """A parser that puts `--params` before each of its values."""
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args
        parser.parse_args = lambda args: parse(_each_behind_its_own(args, self.most))
        return parser


class WithTwoParams(WithParams):
    """A command that names a small model and a large one."""

    most = 2


def _each_behind_its_own(words: Sequence[str], most: int | None) -> list[str]:
    if words.count(OPTION) != 1:
        return list(words)
    begin = words.index(OPTION) + 1
    end = begin
    while end < len(words) and not words[end].startswith("-") and (most is None or end - begin < most):
        end += 1
    spread = [part for value in words[begin:end] for part in (OPTION, value)]
    return [*words[: begin - 1], *(spread or [OPTION]), *words[end:]]


def sizes_of(params: Sequence[str], num: int, what: str, dialect: str | None = None) -> list[float]:
    """The sizes, one for each of so many logs, of checkpoints by a dialect; raises RequestError for more or fewer."""
    from ckptgrow.planning.model_size import model_size

    if len(params) != num:
        raise RequestError(f"--params: {len(params)} given for {num} {what}, expected one for each")
    return [model_size(one, dialect) for one in params]


def check_larger(sizes: Sequence[float], params: Sequence[str]) -> None:
    """Raises RequestError where the second model is not the larger one."""
    if sizes[0] >= sizes[1]:
        raise RequestError(
            f"--params {' '.join(params)}: {sizes[0]:,.0f} parameters, then {sizes[1]:,.0f}, expected the small "
            "model's first, then a larger one's"
        )
