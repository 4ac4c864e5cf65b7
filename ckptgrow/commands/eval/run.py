"""`ckptgrow eval run`."""

from __future__ import annotations

from ckptgrow.commands._options import ConfigOption
from ckptgrow.commands._screen import JsonOption
from ckptgrow.commands.eval import _eval_options as options
from ckptgrow.commands.eval._eval_options import local_files
from ckptgrow.commands.eval._eval_session import Choices, session


def run(
    checkpoint: options.CheckpointArgument,
    tasks: options.TasksOption,
    data: options.TaskDataOption = None,
    include_path: options.IncludeOption = None,
    num_fewshot: options.FewshotOption = None,
    tokenizer: options.TokenizerOption = None,
    batch_size: options.BatchSizeOption = "auto",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "float32",
    limit: options.LimitOption = None,
    samples: options.SamplesOption = None,
    bootstrap_iters: options.BootstrapOption = None,
    config: ConfigOption = None,
    force: options.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a checkpoint on any of lm-eval's tasks.

    Examples:
        ckptgrow eval run model-dir --tasks arc_easy,hellaswag --limit 100
    """
    choices = Choices(
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        limit=limit,
        samples=samples,
        config=config,
        force=force,
        bootstrap_iters=bootstrap_iters,
        num_fewshot=num_fewshot,
    )
    with session(choices, as_json, checkpoint) as work:
        loaded = work.load(tasks, local_files(data), include_path or ())
        work.show(work.run(checkpoint, loaded))
