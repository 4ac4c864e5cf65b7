"""Options in messages: by their Python names for who calls the library, as flags for who types a command."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest

import ckptgrow
from ckptgrow import errors
from ckptgrow.cli import run
from ckptgrow.commands._spelling import spelled, spelled_in
from ckptgrow.errors import CkptgrowError, Message, RequestError
from tests.helpers.gpt2 import perturbed_gpt2
from tests.helpers.lightning_files import save_lightning

PACKAGE = Path(ckptgrow.__file__).parent


@pytest.mark.parametrize(
    ("marked", "in_python", "in_a_shell"),
    [
        ("use ⟦how pad⟧", 'use how="pad"', "use --how pad"),
        ("⟦hidden 100⟧: no", "hidden=100: no", "--hidden 100: no"),
        ("⟦noise -1.5e-3⟧: no", "noise=-1.5e-3: no", "--noise -1.5e-3: no"),
        ("⟦factor K⟧ does", "factor=K does", "--factor K does"),
        ("⟦lr_rule keep⟧", 'lr_rule="keep"', "--lr-rule keep"),
        ("⟦reset optimizer⟧", 'reset=("optimizer",)', "--reset optimizer"),
        ("⟦drop a, b⟧", 'drop=("a", "b")', "--drop a, b"),
        ("⟦layers 0,2⟧", "layers=(0, 2)", "--layers 0,2"),
        ("pass ⟦force⟧", "pass force=True", "pass --force"),
        ("with ⟦step⟧", "with step", "with --step"),
        ("a[0] ⟦ b", "a[0] ⟦ b", "a[0] ⟦ b"),
    ],
)
def test_an_option_is_spelled_for_its_reader(marked: str, in_python: str, in_a_shell: str) -> None:
    assert Message(marked) == in_python
    assert spelled(Message(marked)) == in_a_shell
    assert str(RequestError(marked)) == in_python
    assert spelled(marked) == marked  # what the library does not say of options stays as it is


def test_a_message_is_the_same_after_copying_and_pickling() -> None:
    error = RequestError("⟦hidden 100⟧: copies come whole,\n  expected ⟦factor K⟧")
    for one in (error, pickle.loads(pickle.dumps(error)), RequestError(error.message)):
        assert str(one) == "hidden=100: copies come whole, expected factor=K"
        assert spelled(one.message) == "--hidden 100: copies come whole, expected --factor K"
        assert one.option == "hidden"
    assert spelled_in({"a": [copy.deepcopy(error.message), 1]}) == {"a": [spelled(error.message), 1]}
    assert RequestError("small.ckpt: use ⟦how pad⟧").option is None


def test_one_refusal_speaks_to_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = save_lightning(tmp_path / "small.ckpt", perturbed_gpt2()), tmp_path / "grown.ckpt"
    with pytest.raises(ckptgrow.RequestError) as raised:
        ckptgrow.width(source, target, hidden=100)
    assert str(raised.value) == 'hidden=100: copies come whole, expected factor=K, or how="pad" with it'
    assert raised.value.option == "hidden"
    assert run(["width", str(source), str(target), "--hidden", "100"]) == 2
    expected = "ckptgrow: --hidden 100: copies come whole, expected --factor K, or --how pad with it\n"
    assert capsys.readouterr().err == expected


def test_notes_and_problems_are_spelled_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = perturbed_gpt2()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    source = save_lightning(
        tmp_path / "small.ckpt", model, state_dict={**tensors, "model.extra": model.transformer.wte.weight.detach()}
    )
    problems = ckptgrow.inspect(source).problems
    assert any("drop=(NAME,)" in problem for problem in problems), problems
    run(["inspect", str(source), "--json"])
    output = capsys.readouterr()
    assert "--drop NAME" in output.out and "--drop NAME" in output.err
    assert "⟦" not in output.out + output.err


def test_no_flags_in_what_the_library_says() -> None:
    rooms = ("growth", "state", "families", "formats", "storage", "spaces", "conversion", "inspection.py")
    files = [path for room in rooms for path in ([PACKAGE / room] if "." in room else (PACKAGE / room).rglob("*.py"))]
    found = [
        f"{path.name}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<![\w-])--[a-z{]", line)
        if path.name != "model_cards.py"  # a card shows its reader commands
    ]
    assert len(files) > 90 and not found


def test_every_error_is_exported() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, CkptgrowError)]
    assert len(kinds) > 8
    assert all(getattr(ckptgrow, kind.__name__) is kind and kind.__name__ in ckptgrow.__all__ for kind in kinds)
