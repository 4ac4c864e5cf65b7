"""What an interrupted command says: what there is of it, and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Mapping

WHOLE_OR_NOTHING = "nothing is half-written; start it again"
GOING_ON: Mapping[str, str] = {
    "data": "what is tokenized by now stays in OUT, and the same command goes on there",
    "train": "checkpoints that its directory has by now are whole; --resume DIR goes on from the last one",
    "probe": "the same command goes on where it was if it has --work, and begins anew otherwise",
    "run": "the same command goes on where it was",
    "demo": "--force begins it anew",
}


class Stopped(BaseException):
    """A command was stopped by Ctrl-C, and has said nothing of it yet."""


def interrupted(command: str, number: int) -> str:
    """The sentence for a command's name and the number of the signal."""
    what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return f"{what}; {GOING_ON.get(command, WHOLE_OR_NOTHING)}"
