"""Runs lm-eval's tasks as `lm_eval.simple_evaluate` does, without what else that does.

It would also ask git for the commit of the user's directory (which may print "fatal: not a git repository" past
Python's streams), and describe the machine (two seconds of other programs).

Bootstrap errors are drawn in this process, or in new processes. lm-eval itself would fork this process: where another
thread holds a lock at that moment, the fork waits for ever. The draws are the same in all cases.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import lm_eval
import numpy as np
import torch

from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.tasks import Loaded

ONE_PROCESS = "DISABLE_MULTIPROC"  # lm-eval's own switch
FEW_DRAWS = 5 * 10**7  # documents times resamples: some ten seconds, as much as processes need to begin
PYTHON_SEED, NUMPY_SEED, TORCH_SEED, FEWSHOT_SEED = 0, 1234, 1234, 1234  # simple_evaluate's defaults


def scores(model: Any, loaded: Loaded, settings: EvalSettings) -> Any:
    """lm-eval's results for one of its model objects on tasks; None in all processes but the first."""
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)
    torch.manual_seed(TORCH_SEED)
    found = loaded.manager.load([*loaded.groups.values(), *_alone(loaded)])
    for task in found["tasks"].values():
        _set_fewshot(task, settings.num_fewshot)
    evaluate: Any = lm_eval.evaluate  # loaded lazily, so that its type is hidden
    num_draws = settings.bootstrap_iters * max((len(task.eval_docs) for task in found["tasks"].values()), default=0)
    with bootstrapping(is_quick=num_draws <= FEW_DRAWS):
        return evaluate(
            lm=model,
            task_dict=found,
            limit=settings.limit,
            bootstrap_iters=settings.bootstrap_iters,
            fewshot_as_multiturn=True,
        )


@contextmanager
def bootstrapping(*, is_quick: bool) -> Generator[None]:
    """Sets how bootstrap errors are drawn while the block runs; `is_quick`: in this process."""
    switch, method = os.environ.get(ONE_PROCESS), multiprocessing.get_start_method(allow_none=True)
    if is_quick:
        os.environ[ONE_PROCESS] = "1"
    else:
        multiprocessing.set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        if switch is None:
            os.environ.pop(ONE_PROCESS, None)
        multiprocessing.set_start_method(method, force=True)


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Sets the number of examples before each question: as asked for, unless the task allows none; by default none."""
    told = task.get_config("num_fewshot")
    if num_fewshot is not None and told != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif told is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _alone(loaded: Loaded) -> list[Any]:
    """The tasks that are in no group."""
    grouped = {task.task_name for group in loaded.groups.values() for task in group.get_all_tasks()}
    return [task for name, task in loaded.tasks.items() if name not in grouped]
