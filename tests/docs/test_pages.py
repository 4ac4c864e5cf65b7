"""The README and the documentation: what they show runs as printed, and what they link to is there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow.cli import PROGRAM, app, run
from ckptgrow.commands._command_tree import context_of, tree_of
from tests.helpers.paths import DOCS, README, ROOT

PAGES = [README, *sorted(DOCS.rglob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
TREE = tree_of(app, PROGRAM)
NOT_HERE = ("pip install", "ckptgrow demo", "python3 -m venv", ".venv/bin/")  # takes the network, or has its own test


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """A page's blocks of commands and of Python, in order; those with a title need what a test has not."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Every `ckptgrow …` line of a page, titled blocks too, without remarks and redirections."""
    text = page.read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^```sh[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    found = re.findall(r"(?:^|&& |-m )(ckptgrow [^\n&]*)", re.sub(r"\$\([^)]*\)", "FILES", shown), re.MULTILINE)
    return [re.split(r"\s[<>#]\s", line)[0] for line in found]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    made = {"reference/commands.md", "reference/library.md", "reference/errors.md", "reference/records.md"}
    made |= {"contributing.md", "changelog.md", "benchmarks.md"}
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            target = (page.parent / link).resolve()
            is_made = DOCS in target.parents and target.relative_to(DOCS).as_posix() in made
            assert target.exists() or is_made, link


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_every_command_that_is_shown_parses(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        context, rest = context_of(TREE, words, PROGRAM)
        if words == ["--install-completion"]:
            continue
        assert context.command is not TREE, line
        _, left, _ = context.command.make_parser(context).parse_args(list(rest))
        assert not left, line


def test_the_readme_is_short_and_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "fixtures" / "gpt2-tiny.ckpt", "small.ckpt")
    ran = 0
    for line in "\n".join(text for kind, text in blocks(README) if kind == "sh").splitlines():
        if not line.startswith("ckptgrow ") or line.startswith(NOT_HERE):
            continue
        command, _, target = line.partition("#")[0].partition(" > ")
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            assert run(shlex.split(command)[1:]) == 0, line
        if target:
            Path(target.strip()).write_text(shown.getvalue())
        ran += 1
    assert ran >= 8
    assert Path("again.ckpt").read_bytes() == Path("wide.ckpt").read_bytes()
    (program,) = [text for kind, text in blocks(README) if kind == "python"]
    exec(program, {})
    assert ckptgrow.inspect("double.ckpt").sizes["residual"] == 96


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *TUTORIALS], ids=name_of)
def test_a_page_runs_in_order_in_an_empty_directory(page: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("ckptgrow", "ckptgrow"), ("torchrun", "torch.distributed.run"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {f"-m {module}" if module else ""} "$@"\n')
        (programs / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    if page == README:
        (work / "fixtures").symlink_to(ROOT / "fixtures")
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{work}",
        "PYTHONWARNINGS": "ignore",
    }
    ran = 0
    for kind, text in blocks(page):
        if any(words in text for words in NOT_HERE if words != "ckptgrow demo"):
            continue
        words = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        ran += 1
    assert ran >= 2


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()
    assert "ckptgrow width" in page and "--lr-rule" in page
