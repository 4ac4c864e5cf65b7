"""`ckptgrow eval lambada`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_options import only_original
from ckptgrow.commands.eval._eval_session import ScoreChoices, Session, session

if TYPE_CHECKING:
    from ckptgrow.evaluate.task_documents import Documents


@takes("choices", ScoreChoices)
def lambada(
    *,
    checkpoint: options.CheckpointArgument,
    data: options.DataOption = None,
    measure: options.MeasureOption = "lm-eval",
    ignore_fragments: Annotated[
        bool, typer.Option("--ignore-fragments", help="original: only passages whose last token is a whole word.")
    ] = False,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help='original: typographic and doubled quotes become ".')
    ] = False,
    leading_newline: Annotated[
        bool, typer.Option("--leading-newline", help="original: a line end before each passage.")
    ] = False,
    choices: ScoreChoices,
    as_json: JsonOption = False,
) -> None:
    """LAMBADA: predict the last word of each passage.

    Measures perplexity and greedy accuracy by lm-eval's lambada_openai. --data takes JSON lines or parquet with `text`,
    or plain text with one passage on each line. --measure original is the accuracy of the last token.

    Examples:
        ckptgrow eval lambada last.ckpt --data lambada.jsonl --tokenizer gpt2
    """
    switches = {
        "--ignore-fragments": ignore_fragments,
        "--preprocess": preprocess,
        "--leading-newline": leading_newline,
    }
    only_original(measure, {name for name, on in switches.items() if on})
    with session(choices, as_json, checkpoint) as work:
        if measure == "lm-eval":
            loaded = work.load("lambada_openai", {} if data is None else {"lambada_openai": data})
            work.show(work.run(checkpoint, loaded))
            return
        from ckptgrow.evaluate.last_token import Reading, last_token_accuracy

        documents = _passages(work, data)
        reading = Reading(preprocess, leading_newline, ignore_fragments)
        subject = work.open(checkpoint)
        work.show(last_token_accuracy(subject, documents, reading, work.settings, work.processes, work.progress))


def _passages(work: Session, data: Path | None) -> Documents:
    from ckptgrow.evaluate.files import Text
    from ckptgrow.evaluate.task_documents import Documents, passages

    if data is not None:
        return passages(data)
    task = work.load("lambada_openai", {}).tasks["lambada_openai"]
    texts = tuple(Text(number, text) for number, text in enumerate(task.eval_docs["text"], start=1))
    return Documents(where="lambada_openai", field="text", texts=texts)
