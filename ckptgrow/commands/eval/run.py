"""`ckptgrow eval run`."""

from __future__ import annotations

from ckptgrow.commands._option_groups import takes
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_options import local_files
from ckptgrow.commands.eval._eval_session import TaskChoices, session


@takes("choices", TaskChoices)
def run(
    *,
    checkpoint: options.CheckpointArgument,
    tasks: options.TasksOption,
    choices: TaskChoices,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint on any of lm-eval's tasks.

    Examples:
        ckptgrow eval run model-dir --tasks arc_easy,hellaswag --limit 100
    """
    with session(choices, as_json, checkpoint) as work:
        loaded = work.load(tasks, local_files(choices.data), choices.include_path or ())
        work.show(work.run(checkpoint, loaded))
