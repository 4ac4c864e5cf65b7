"""lm-eval without worker processes and without a census of the machine, and checkpoints that many tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from ckptgrow.evaluate.eval_settings import EvalSettings
from ckptgrow.evaluate.evaluation import Evaluation, evaluate
from ckptgrow.evaluate.processes import launched
from ckptgrow.evaluate.subject import Subject
from ckptgrow.evaluate.tasks import load_tasks
from tests.helpers.evaluated import EVALUATED, Score, byte_model, opened
from tests.helpers.lightning_files import save_lightning


@pytest.fixture(autouse=True)
def _quick_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # lm-eval's bootstrap
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # two seconds of `pip list` and such


@pytest.fixture(scope="session")
def model() -> PreTrainedModel:
    return byte_model("gpt2")


@pytest.fixture(scope="session")
def checkpoint(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lightning(tmp_path_factory.mktemp("checkpoint") / "small.ckpt", model)


@pytest.fixture(scope="session")
def subject(checkpoint: Path) -> Subject:
    return opened(checkpoint)


@pytest.fixture(scope="module", params=EVALUATED)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """Every family's model, and its checkpoint."""
    trained = byte_model(request.param)
    return trained, save_lightning(tmp_path_factory.mktemp(request.param) / "small.ckpt", trained)


@pytest.fixture
def score() -> Score:
    """lm-eval's results for a subject on local files, with few resamples."""

    def run(one: Subject, local: dict[str, Path], **settings: object) -> Evaluation:
        chosen = EvalSettings(**{"batch_size": 4, "bootstrap_iters": 50, **settings})  # type: ignore[arg-type]
        with launched("cpu") as processes:
            done = evaluate(one, load_tasks(list(local), local), chosen, processes)
        assert done is not None
        return done

    return run
