"""The console script: all commands by name, and the only place where errors become exit codes."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptgrow.addresses.remote_files import as_typed
from ckptgrow.commands._command_tree import asks_for_help, context_of, help_for, tree_of
from ckptgrow.commands._families import add_families
from ckptgrow.commands._help import PanelledCommand, PanelledGroup
from ckptgrow.commands._interruption import Stopped, interrupted
from ckptgrow.commands._pulse import PULSE
from ckptgrow.commands._spelling import spelled
from ckptgrow.commands._values import refused_value
from ckptgrow.commands.convert import convert
from ckptgrow.commands.data import data
from ckptgrow.commands.demo import demo
from ckptgrow.commands.depth import depth
from ckptgrow.commands.eval.eval_app import eval_app
from ckptgrow.commands.experts import experts
from ckptgrow.commands.family_tables.families_app import families_app
from ckptgrow.commands.generate import generate
from ckptgrow.commands.grow import grow
from ckptgrow.commands.inspect import inspect
from ckptgrow.commands.plan.plan_app import plan
from ckptgrow.commands.positions import positions
from ckptgrow.commands.probe import probe
from ckptgrow.commands.run_plan import run_plan
from ckptgrow.commands.run_report import report
from ckptgrow.commands.train import train
from ckptgrow.commands.verify import verify
from ckptgrow.commands.vocab import vocab
from ckptgrow.commands.width import width
from ckptgrow.errors import CkptgrowError
from ckptgrow.progress import leave_terminal
from ckptgrow.version import __version__

EXIT_DONE, EXIT_DIFFERENT, EXIT_WRONG = 0, 1, 2

TRACEBACK = "CKPTGROW_TRACEBACK"
LONGEST_LINE = 2000  # characters
PROGRAM, COMPLETION = "ckptgrow", "_CKPTGROW_COMPLETE"  # what a shell sets when it asks for completions
PANELS: Mapping[str, Sequence[Callable[..., Any]]] = {
    "Grow": (width, depth, vocab, positions, experts, grow, convert),
    "Look and prove": (verify, inspect),
    "Train": (data, train, generate),
    "Whole runs": (probe, run_plan, report, demo),
}
NAMES: Mapping[Callable[..., Any], str] = {run_plan: "run"}

app = typer.Typer(name=PROGRAM, rich_markup_mode=None, pretty_exceptions_enable=False)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        print(f"ckptgrow {__version__}")
        raise typer.Exit


@app.callback()
def _begin(
    version: Annotated[  # told before anything else is looked at
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and exit.")
    ] = False,
    family: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A Python file of your own with the table of a family, FAMILY; it is run. May be given several times, "
            "before the command.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Grow transformer training checkpoints in width and depth, moments included, and prove it.

    Examples:
    ckptgrow demo                                    # all of it, small, offline, in about a minute
    ckptgrow width small.ckpt wide.ckpt --factor 2   # grow
    ckptgrow verify small.ckpt wide.ckpt             # prove that nothing was lost
    """
    add_families(family or ())


for panel, commands in PANELS.items():
    for command in commands:
        app.command(NAMES.get(command), cls=PanelledCommand, rich_help_panel=panel)(command)
app.add_typer(eval_app, name="eval", rich_help_panel="Train")
app.add_typer(plan, name="plan", rich_help_panel="Whole runs")
app.add_typer(families_app, name="families", rich_help_panel="Look and prove")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 verified and different, 2 the request or its input is wrong.

    A termination is handled like an interruption, so that nothing is left half written; under torchrun only the first
    process prints.
    """
    gc.set_threshold(100_000)  # walking what torch's import leaves, again and again, takes half a second
    signal.signal(signal.SIGTERM, _stopped)
    signal.signal(signal.SIGINT, _stopped)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _stopped)
    PULSE.may_go_on = _raise_what_was_swallowed
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not _is_first() or sys.stdout is None:  # closed by who called
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    with PULSE.beating() if _is_first() else nullcontext():
        code = run(words)
        _flush()
    _part_from_others()
    gc.freeze()  # and once more at the end
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """One command's exit code; anything that a user can mend is one line on stderr."""
    try:
        root = tree_of(app, PROGRAM)
        if COMPLETION not in os.environ and (shown := help_for(root, arguments, PROGRAM)) is not None:
            print(shown)
            command = context_of(root, arguments, PROGRAM)[0].command
            if asks_for_help(arguments) or isinstance(command, PanelledGroup):
                return EXIT_DONE
        code: object = root(arguments, prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as ending:
        if not isinstance(ending.__context__, BrokenPipeError):  # which Typer makes exit 1 of
            raise
        _write_no_more()
        return EXIT_DONE
    except (Exception, KeyboardInterrupt, Stopped, Terminated) as error:
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
            error = error.__cause__
        signalled = _signal_behind(error)
        if signalled is not None:
            if _is_first() and not isinstance(error, typer.Exit):  # what saved something has told so itself
                PULSE.beat()
                print(f"ckptgrow: {interrupted(_name_in(arguments), signalled)}", file=sys.stderr)
            return 128 + signalled
        return _refused(error, as_json="--json" in arguments)
    return code if isinstance(code, int) else EXIT_DONE


def _is_first() -> bool:
    """Whether this is the only process, or the first of those that torchrun or Lightning started."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _name_in(arguments: Sequence[str]) -> str:
    """The command's name; empty where there is none."""
    names = {NAMES.get(command, command.__name__) for commands in PANELS.values() for command in commands}
    return next((word for word in arguments if word in {*names, "eval", "plan", "families"}), "")


def _refused(error: BaseException, *, as_json: bool) -> int:
    """The exit code of an error, after its one line on stderr, and on stdout its object where JSON is asked for."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _write_no_more()
        return EXIT_DONE
    shown = "".join(one if one.isprintable() else "?" for one in _line(error))  # names from files go to a terminal
    shown = shown[:LONGEST_LINE]
    PULSE.beat()
    print(f"ckptgrow: {shown}", file=sys.stderr)
    if as_json:
        try:
            print(json.dumps({"error": shown, "where": _place(error, shown)}), flush=True)
        except OSError:  # what the error tells of may be that nothing more can be written there
            _write_no_more()
    return EXIT_WRONG


def _flush() -> None:
    """Gives a reader what is left, unless it is gone: Python would complain of that at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _write_no_more()


def _write_no_more() -> None:
    """`ckptgrow inspect X | head`: the reader has had enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _line(error: BaseException) -> str:
    """What is said of an error: `where: found, expected; what to do`."""
    match error:
        case CkptgrowError():
            return as_typed(spelled(error.message))
        case typer.BadParameter() if (wrong := refused_value(error)) is not None:
            return wrong.message
        case typer.exceptions.TyperException():
            context = getattr(error, "ctx", None)
            path = "ckptgrow" if context is None else context.command_path
            return f"{' '.join(error.format_message().split())} (see {path} --help)"
        case OSError():
            return f"{error.filename or 'operating system'}: {error.strerror or error}"
        case _:
            # what a damaged file leads to where no check stands must not be a page of code for its owner
            if TRACEBACK in os.environ:
                raise error
            return (
                f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}; the input is malformed, or "
                f"this is a fault of ckptgrow: run it again with {TRACEBACK}=1 and report what it shows"
            )


def _place(error: BaseException, line: str) -> str | None:
    """The file or option that an error is about, where it names one."""
    if isinstance(error, CkptgrowError | OSError | typer.BadParameter):
        place, colon, _ = line.partition(": ")
        return place if colon else None
    return getattr(error, "option_name", None)


def _signal_behind(error: BaseException | None) -> int | None:
    """The number of the signal from which an error comes; None where it comes from none.

    Code that a signal interrupts may raise errors of its own, as torch.save and modules that are being imported do.
    """
    if _received:
        return _received[0]
    while error is not None:
        if isinstance(error, Terminated):
            return signal.SIGTERM
        if isinstance(error, KeyboardInterrupt | typer.Abort):
            return signal.SIGINT
        error = error.__cause__ or error.__context__
    return None


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; like KeyboardInterrupt it unwinds, so that nothing is left behind."""


class CtrlC(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: Python notes for its end that one left an `exec`, as dataclasses have in every
    import, and then dies of SIGINT instead of exiting with the code that it is given.
    """


def _part_from_others() -> None:
    """Leaves the group of processes that torchrun started, if this process has joined it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


_received: list[int] = []


def _stopped(number: int, frame: object) -> None:
    _received.append(number)
    if number == signal.SIGHUP:
        leave_terminal()
    raise CtrlC if number == signal.SIGINT else Terminated


def _raise_what_was_swallowed() -> None:
    """Stops a command whose interruption some library, as one that was just being imported, has kept to itself."""
    if _received:
        raise CtrlC if _received[0] == signal.SIGINT else Terminated
