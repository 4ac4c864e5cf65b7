"""`ckptgrow demo`."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckptgrow.commands._interruption import interrupted
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.commands.data import data
from ckptgrow.commands.generate import generate
from ckptgrow.commands.run_plan import run_plan
from ckptgrow.commands.run_report import report
from ckptgrow.commands.train import train
from ckptgrow.errors import MissingDependencyError, RequestError, listing
from ckptgrow.storage.files.file_signs import PAGES, FileKind, Kinds, check_replaceable, with_key
from ckptgrow.storage.files.targets import check_directory

if TYPE_CHECKING:
    from ckptgrow.report.run_record import RunRecord

PROMPT = "Return "
COMMANDS: Mapping[str, Callable[..., Any]] = {
    "data": data,
    "run": run_plan,
    "train": train,
    "report": report,
    "generate": generate,
}
LIBRARIES = ("lightning", "scipy", "matplotlib")  # of the extras that it needs
MADE_INSIDE: Mapping[str, Sequence[str]] = {
    "data": ("train.bin", "val.bin", "meta.json"),
    "run": ("stage-*", "first-model.json", "journal.jsonl", "evaluate*"),
    "scratch": ("checkpoints", "last.json", "metrics.csv"),
    "report": ("*.png",),
}
MADE_FILES: Kinds = {
    "text.jsonl": FileKind("text", lambda beginning: beginning.startswith(b'{"text": ')),
    "plan.json": with_key("a plan", "stages"),
    "large.json": with_key("a config", "model_type"),
    "report.html": PAGES[".html"],
}


def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A staged training in about a minute: data, a small model, its growth, the proof, the large model, a comparison.

    Offline. Every command that it runs is shown, so that it can be typed; numbers are what was measured, whatever they
    are.

    Examples:
        ckptgrow demo --out demo
    """
    begun = time.monotonic()
    if any(find_spec(library) is None for library in LIBRARIES):  # told before anything is written
        raise MissingDependencyError("demo needs `pip install 'ckptgrow[train,plan]'`")
    _make_room(out, force=force)
    from ckptgrow.storage.one_thread import on_one_thread

    screen = Screen(as_json)
    try:
        # matrices as small as the demo's gain nothing from several threads
        with redirect_stdout(sys.stderr) if as_json else nullcontext(), on_one_thread():
            _staged(out, screen)
    except typer.Exit as ending:
        if ending.exit_code > 128:  # its run has told how that goes on
            screen.warn(interrupted("demo", ending.exit_code - 128))
        raise
    record = _record(out)
    _show_curves(record, screen)
    seconds = time.monotonic() - begun
    losses = {one.name: float(one.val_losses[-1]) for one in (*record.curves, record.scratch) if one is not None}
    screen.say(
        f"Last validation losses, in nats a byte: {', '.join(f'{name} {loss:.4f}' for name, loss in losses.items())}; "
        "the staged run and the model from scratch had equal compute. One seed, one tiny model: a demonstration of the "
        "steps, no evidence of savings at scale."
    )
    screen.say(f"{seconds:.0f} s. The report: {out / 'report.html'}")
    screen.result({"out": str(out), "report": str(out / "report.html"), "val_losses": losses, "seconds": seconds})


def _make_room(out: Path, *, force: bool) -> None:
    there = [out / name for name in (*MADE_FILES, *MADE_INSIDE) if (out / name).exists()]
    if there and not force:
        raise RequestError(f"{out}: holds a demo already; choose another --out, or pass --force to replace it")
    check_directory(out)
    for one in there:
        _check_is_of_demo(one)
    for one in there:
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _check_is_of_demo(path: Path) -> None:
    """Raises RequestError where something is not what a demo writes under its name, as far as beginnings and the names
    inside tell.
    """
    if path.name in MADE_FILES:
        check_replaceable(path, MADE_FILES[path.name])
        return
    names = [one.name for one in path.iterdir() if not one.name.startswith(".")] if path.is_dir() else [path.name]
    others = [name for name in names if not any(fnmatch(name, one) for one in MADE_INSIDE[path.name])]
    if others:
        raise RequestError(f"{path}: holds {listing(others)}, expected what a demo wrote alone; choose another --out")


def _staged(out: Path, screen: Screen) -> None:
    """Everything that the demo runs."""
    from ckptgrow.demo.demo_plan import SEQLEN, scratch_words, write_demo_plan
    from ckptgrow.demo.offline_text import write_offline_text

    text = write_offline_text(out / "text.jsonl")
    screen.say(
        f"text: {text.num_characters:,} characters of documentation out of {text.source}, in {out / 'text.jsonl'}"
    )
    places = out / "data", out / "run", out / "scratch"
    _typed(["data", str(out / "text.jsonl"), str(places[0]), "--tokenizer", "bytes"], screen)
    plan = write_demo_plan(out)
    screen.say(f"plan: {plan.plan}, a small model that grows to twice its width")
    _typed(["run", str(plan.plan), "--data", str(places[0]), "--out", str(places[1])], screen)
    screen.say(f"the same large model from scratch, with as much compute as both stages: {plan.scratch_steps} steps")
    _typed(scratch_words(plan, places[0], places[2]), screen)
    page = ["--out", str(out / "report.html")]
    _typed(["report", str(places[1]), "--scratch", str(places[2]), *page], screen)
    for directory in (places[1] / "stage-1", places[1] / "stage-2", places[2]):
        said = ["--prompt", PROMPT, "--num-tokens", str(SEQLEN - len(PROMPT)), "--tokenizer", "bytes"]
        _typed(["generate", str(directory / "checkpoints" / "last.ckpt"), *said], screen)


def _typed(words: list[str], screen: Screen) -> None:
    """Shows a command, and does what it does; raises what it raises."""
    screen.say(f"$ ckptgrow {shlex.join(words)}", style="bold")
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    for name, command in COMMANDS.items():
        app.command(name)(command)
    code = app(words, prog_name="ckptgrow", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def _record(out: Path) -> RunRecord:
    from ckptgrow.report.run_record import recorded

    return recorded(out / "run", out / "scratch")


def _show_curves(record: RunRecord, screen: Screen) -> None:
    """The validation losses as a small plot, on a terminal."""
    from ckptgrow.planning.terminal import Line, picture

    styles = ("blue", "green", "bright_black")
    curves = [one for one in (*record.curves, record.scratch) if one is not None]
    lines = [Line(one.flops, one.val_losses, style) for one, style in zip(curves, styles, strict=False)]
    screen.picture(lambda width: picture(lines, [], width=width))
    screen.picture(lambda width: [[(f"  {one.name}", style) for one, style in zip(curves, styles, strict=False)]])
