"""Pages of the site that are made from the code: commands, the library, errors, optimizers; and the repository's own.

mkdocs calls `on_files` before it reads the pages (see `hooks` in mkdocs.yml).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ckptgrow
from ckptgrow import errors
from ckptgrow.cli import PROGRAM, app
from ckptgrow.commands._command_tree import tree_of
from ckptgrow.commands._help import PanelledGroup
from ckptgrow.growth.training.optimizer_table import ROWS

ROOT = Path(__file__).parents[1]
COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "benchmarks.md": "benchmarks/README.md"}
LINKS = {"(CONTRIBUTING.md": "(contributing.md", "(CHANGELOG.md": "(changelog.md", "(../": "(", "(docs/": "("}
COLUMNS = "88"
IN_THE_REPOSITORY = "(The picture is in the repository's `CONTRIBUTING.md`.)\n"
LONGEST = 100  # characters of a signature in one line
RECORDS = (
    "How each entry grows follows from what it is of the gradient: linearly, by squares, by magnitudes, or not at all "
    "([moments](../explanation/moments.md), [rates](../explanation/rates.md))."
)
CODES = {
    "0": "done",
    "1": "verified and different; a run that stopped at a growth that lost something",
    "2": "the request or its input is wrong: one line on stderr, and under `--json` an object with `error` and `where`",
    "128 + N": "ended by signal N; what there was to save is saved",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made."""
    from mkdocs.structure.files import File

    pages = {
        "reference/commands.md": commands_page(),
        "reference/library.md": library_page(),
        "reference/records.md": records_page(),
        "reference/errors.md": errors_page(),
        **{page: _linked((ROOT / source).read_text(encoding="utf-8")) for page, source in COPIED.items()},
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands_page() -> str:
    """Every command's help, as a terminal shows it that is as wide as the page."""
    os.environ["COLUMNS"] = COLUMNS
    parts = ["# Commands", "What `ckptgrow COMMAND --help` shows. Every command takes `--json`: one object on stdout."]
    for words, text in _helps(tree_of(app, PROGRAM), (PROGRAM,)):
        parts += [f"## `{' '.join(words)}`", f"```text\n{text}\n```"]
    return "\n\n".join(parts) + "\n"


def _helps(command: Any, words: tuple[str, ...], parent: Any = None) -> Iterator[tuple[tuple[str, ...], str]]:
    import typer

    context = typer.Context(command, info_name=words[-1], parent=parent)
    yield words, context.get_help()
    if isinstance(command, PanelledGroup):
        for name, below in command.commands.items():
            yield from _helps(below, (*words, name), context)


def library_page() -> str:
    """What `import ckptgrow` lists, with signatures and documentation."""
    parts = ["# Library", "What `import ckptgrow` has. All else may change in any version."]
    for name in ckptgrow.__all__:
        one = getattr(ckptgrow, name)
        if not (inspect.isclass(one) and issubclass(one, errors.CkptgrowError)):
            parts += [f"## `{name}`", f"```python\n{_signature(name, one)}\n```", _documentation(one)]
    from ckptgrow import families, train

    for title, module in (
        ("For scripts of your own: `ckptgrow.train`", train),
        ("For tables of your own: `ckptgrow.families`", families),
    ):
        parts.append(f"# {title}")
        for name in module.__all__:
            one = getattr(module, name)
            signature = f"```python\n{_signature(name, one)}\n```" if callable(one) else ""
            parts += [f"## `{name}`", signature, _documentation(one)]
    return "\n\n".join(parts) + "\n"


def _signature(name: str, one: Any) -> str:
    plain = [str(parameter).replace("<factory>", "…") for parameter in inspect.signature(one).parameters.values()]
    short = f"{name}({', '.join(plain)})"
    return short if len(short) <= LONGEST else "\n".join([f"{name}(", *(f"    {each}," for each in plain), ")"])


def _documentation(one: Any) -> str:
    """A docstring as Markdown; indented examples are code there too, and so are those behind >>>."""
    return re.sub(r"((?:^>>>.*\n?(?:^(?!>>>).+\n?)*)+)", r"```python\n\1\n```\n", inspect.getdoc(one) or "", flags=re.M)


def records_page() -> str:
    """What each optimizer's records hold, in terms of the gradient, and by which rule its rates follow."""
    parts = [
        "# What optimizers' records hold",
        RECORDS,
        "| optimizer | entries of its records | rule of its rates |",
    ]
    rows = [
        f"| {row.name} | {', '.join(f'`{key}`: {what}' for key, what in row.entries.items()) or '–'} | {row.lr} |"
        for row in ROWS
    ]
    return "\n\n".join(parts) + "\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def errors_page() -> str:
    """The tree of errors, and the exit codes."""
    tree = str(errors.__doc__).partition("\n\n")[2].partition("\n\n")[0]
    parts = ["# Errors", "A message is one line: where, what was found, what was expected, what to do."]
    parts.append(f"```text\n{tree}\n```")
    kinds = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.CkptgrowError)]
    parts += [f"## `{one.__name__}`\n\n{_documentation(one)}" for one in kinds]
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in CODES.items())
    return "\n\n".join([*parts, "## Exit codes", f"| exit code | |\n| --- | --- |\n{codes}"]) + "\n"


def _linked(text: str) -> str:
    """A file of the repository as a page: its links lead to pages, and what a browser would need another's program to
    draw is left out.
    """
    text = re.sub(r"^```mermaid\n.*?^```\n", IN_THE_REPOSITORY, text, flags=re.M | re.S)
    for old, new in LINKS.items():
        text = text.replace(old, new)
    return text
