"""`ckptgrow verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.choices import VerifyDevice, VerifyDtype, VerifyLevel
from ckptgrow.commands import _options as options
from ckptgrow.commands._memory import reuse_memory
from ckptgrow.commands._paths import checkpoint_at
from ckptgrow.commands._screen import JsonOption, Screen
from ckptgrow.verification.two_paths import check_apart

if TYPE_CHECKING:
    from ckptgrow.verification.report import VerifyReport


MOST_SENTENCES = 10  # on what differs: two checkpoints that are no pair differ in everything


def verify(
    small: Annotated[
        Path,
        typer.Argument(
            metavar="SMALL", help="The checkpoint before growth.", show_default=False, callback=checkpoint_at
        ),
    ],
    grown: Annotated[
        Path,
        typer.Argument(
            metavar="GROWN", help="The checkpoint after growth.", show_default=False, callback=checkpoint_at
        ),
    ],
    level: Annotated[
        VerifyLevel | None,
        typer.Option(
            help="What is compared: all that is stored, the function too, or gradients as well. [default: full where "
            "memory allows, else function]",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Token ids to compare on: .npy, .bin or text; random ones otherwise.")
    ] = None,
    batches: Annotated[int, typer.Option(help="Batches of 2 sequences of up to 256 tokens.")] = 4,
    steps: Annotated[int, typer.Option(help="Optimizer steps in both, losses side by side; 0 for none.")] = 0,
    dtype: Annotated[VerifyDtype, typer.Option(help="What both models compute in.")] = "float64",
    device: Annotated[VerifyDevice, typer.Option(help="Where both models run.")] = "cpu",
    config: Annotated[
        Path | None,
        typer.Option(
            help="SMALL's transformers config.json, where neither it nor the growth's record has one.",
            show_default=False,
        ),
    ] = None,
    dialect: options.DialectOption = None,
    as_json: JsonOption = False,
) -> int:
    """Prove that a grown checkpoint lost nothing: exit 0 if so, 1 if something differs.

    Compares structure, function, gradients and moments, the losses over some optimizer steps, and how far the copies
    differ, against transformers' own models and autograd. Below the full level less is compared, in less memory.

    Examples:
        ckptgrow verify small.ckpt wide.ckpt
        ckptgrow verify small.ckpt wide.ckpt --steps 20 --tokens val.bin
        ckptgrow verify 7b.ckpt 13b.ckpt --level stored
    """
    check_apart(small, grown)
    reuse_memory()
    from ckptgrow.verification.comparison import verify as verify_pair
    from ckptgrow.verification.verify_settings import VerifySettings

    screen = Screen(as_json)
    settings = VerifySettings(level=level, tokens=tokens, batches=batches, steps=steps, dtype=dtype, device=device)
    with screen.stages() as stage:
        report = verify_pair(small, grown, config=config, dialect=dialect, settings=settings, stage=stage)
    _show(report, screen)
    screen.result(report.to_json())
    return 0 if report.passed else 1


def _show(report: VerifyReport, screen: Screen) -> None:
    if not report.passed:
        screen.say(f"different, in {len(report.sentences)} respects", style="red")
    rows: list[tuple[object, ...]] = [
        (
            "structure",
            f"{report.structure.num_tensors} tensors; weights up to a factor",
            report.structure.worst_relative_error,
            report.structure.tolerance,
            _verdict(report.structure.passed),
        ),
    ]
    if report.function is not None:
        function = report.function
        found = (function.relative, function.tolerance, _verdict(function.passed))
        rows.append(("function", "logits, relative to the largest", *found))
    if report.moments is not None:
        moments = report.moments
        name = f"{moments.num_compared} states against {'autograd' if report.level == 'full' else 'the weights'}"
        found = (moments.worst_relative_error, moments.tolerance, _verdict(moments.passed))
        rows.append(("moments", name, *found))
    if report.trajectory is not None:
        judged = _verdict(report.trajectory.passed) if report.trajectory.judged else "not judged"
        name = f"losses over {report.trajectory.steps} steps"
        rows.append(("trajectory", name, report.trajectory.max_abs_loss_diff, report.trajectory.tolerance, judged))
    screen.table("", ("part", "compared", "difference", "tolerance", "verdict"), rows)
    if report.asymmetry is not None:
        asymmetry = report.asymmetry
        parts = {"weights": asymmetry.weights, "gradients": asymmetry.gradients}
        parts["hidden states"] = asymmetry.hidden_states
        known = [f"{size:.1e} in {name}" for name, size in parts.items() if size is not None]
        screen.say(f"copies differ by {', '.join(known)}")
    shown = report.sentences if report.passed else report.sentences[:MOST_SENTENCES]
    for sentence in shown:
        screen.say(f"- {sentence}")
    if left := len(report.sentences) - len(shown):
        screen.say(f"- and {left} more, all of them in --json")
    screen.say("verified" if report.passed else "different", style="green" if report.passed else "red")


def _verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"
