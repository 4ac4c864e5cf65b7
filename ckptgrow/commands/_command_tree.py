"""The commands as a tree of which only that part is made which a command line names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, cast

import typer
from typer.main import get_command, get_command_from_info, get_group

from ckptgrow.commands._help import PanelledGroup, summary_of

HELP = ("--help", "-h")
LEADING = ("--family",)  # options before the command, with a value


class _MadeWhenAsked(MutableMapping[str, Any]):
    """Commands by name, each made when it is first asked for."""

    def __init__(self, makers: dict[str, Callable[[], Any]]) -> None:
        self._makers, self._made = makers, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._makers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def tree_of(app: typer.Typer, name: str) -> PanelledGroup:
    """The command of an app, those below it still to be made."""
    trunk = typer.Typer(name=name, cls=PanelledGroup, rich_markup_mode=None, help=cast(Any, app.info.help))
    trunk._add_completion = app._add_completion  # pyright: ignore[reportPrivateUsage]  its only place
    trunk.registered_callback = app.registered_callback
    found = cast(PanelledGroup, get_command(trunk) if trunk.registered_callback else get_group(trunk))
    makers: dict[str, Callable[[], Any]] = {}
    found.summaries = {}
    for info in app.registered_commands:
        assert info.callback is not None
        key = info.name or info.callback.__name__.replace("_", "-")
        makers[key] = lambda info=info: get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)
        found.summaries[key] = summary_of(info.callback.__doc__, info.rich_help_panel)
    for group in app.registered_groups:
        below, key = group.typer_instance, str(group.name)
        assert below is not None
        makers[key] = lambda below=below, key=key: tree_of(below, key)
        found.summaries[key] = summary_of(str(below.info.help), group.rich_help_panel)
    found.commands = cast(Any, _MadeWhenAsked(makers))
    return found


def context_of(root: PanelledGroup, words: Sequence[str], program: str) -> tuple[typer.Context, Sequence[str]]:
    """The command that the first words of a command line name, and the words behind it."""
    context = typer.Context(root, info_name=program)
    num_leading = _num_leading(words)
    for place, word in enumerate(words[num_leading:], start=num_leading):
        command: Any = context.command
        if not isinstance(command, PanelledGroup) or word not in command.commands:
            return context, words[place:]
        context = typer.Context(command.commands[word], info_name=word, parent=context)
    return context, ()


def _num_leading(words: Sequence[str]) -> int:
    """How many words before the command's name are options with their values."""
    place = 0
    while place < len(words) and words[place].partition("=")[0] in LEADING:
        place += 1 if "=" in words[place] else 2
    return place


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether one of the words, up to a lone --, asks for help."""
    options = words[: list(words).index("--")] if "--" in words else words
    return any(one in HELP for one in options)


def help_for(root: PanelledGroup, words: Sequence[str], program: str) -> str | None:
    """The help that a command line asks for, or needs because it ends at a command that takes more."""
    context, rest = context_of(root, words, program)
    is_asked = asks_for_help(rest)
    if is_asked and (not isinstance(context.command, PanelledGroup) or rest[0] in HELP):
        return context.get_help()
    return context.get_help() if not rest and needs_words(context.command) else None


def needs_words(command: Any) -> bool:
    """Whether a command can do nothing by its name alone."""
    return isinstance(command, PanelledGroup) or any(
        one.required or one.param_type_name == "argument" for one in command.params
    )
