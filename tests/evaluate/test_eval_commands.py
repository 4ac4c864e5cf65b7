"""The commands under `eval` as a shell sees them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptgrow.cli import run
from tests.helpers.commands import as_json
from tests.helpers.evaluated import LAMBADA, WIKITEXT
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("measure", ["lm-eval", "original"])
def test_lambada_and_wikitext_print_a_table_or_one_json_object(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], measure: str, tmp_path: Path
) -> None:
    common = ["--tokenizer", "bytes", "--measure", measure, "--batch-size", "4", "--limit", "4"]
    for command, data, metric in (("lambada", LAMBADA, "acc,none"), ("wikitext", WIKITEXT, "perplexity,none")):
        arguments = ["eval", command, str(checkpoint), "--data", str(data), *common]
        results = as_json(arguments, capsys)["results"]
        assert isinstance(results, dict)
        (scores,) = results.values()
        assert any(key.endswith(metric) for key in scores)
        samples = tmp_path / f"{command}.jsonl"
        assert run([*arguments, "--samples", str(samples)]) == 0
        captured = capsys.readouterr()
        assert metric.removesuffix(",none") in captured.out
        assert re.fullmatch(rf"{re.escape(str(checkpoint))}: 4 documents in [\d.]+ s, float32 on cpu\n", captured.err)
        assert len(samples.read_text(encoding="utf-8").splitlines()) == 4
        assert run([*arguments, "--samples", str(samples)]) == 2
        assert "exists already" in capsys.readouterr().err
        assert run([*arguments, "--samples", str(samples), "--force"]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lambada", "CKPT", "--ignore-fragments"], "--ignore-fragments: only with --measure original"),
        (["wikitext", "CKPT", "--block-size", "8"], "--block-size: only with --measure original"),
        (["wikitext", "CKPT", "--measure", "original", "--dataset", "c4"], "--dataset c4: expected wikitext2"),
        (["lambada", "CKPT", "--measure", "theirs"], "--measure theirs: expected lm-eval or original"),
        (["lambada", "CKPT", "--device", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
        (["lambada", "CKPT", "--device", "cuda:99"], "--device cuda:99: expected CUDA device 99, found"),
        (["perplexity", "CKPT", "DATA", "--dtype", "int8"], "--dtype int8: expected float32"),
        (["lambada", "CKPT", "--batch-size", "many"], "--batch-size many: expected auto or a whole number"),
        (["lambada", "CKPT", "--batch-size", "0"], "--batch-size 0: expected auto or a whole number, at least 1"),
        (["lambada", "CKPT", "--limit", "1.5"], "--limit 1.5: expected a whole number"),
        (["lambada", "CKPT", "--limit", "0"], "--limit 0: expected a number, above 0"),
        (["run", "CKPT", "--tasks", "wikitext", "--data", "file.txt"], "--data file.txt: expected TASK=FILE"),
        (["perplexity", "CKPT", "DATA", "--block-size", "65"], "--block-size 65: the model has 64 positions"),
        (["perplexity", "missing.ckpt", "DATA"], "missing.ckpt: no such file"),
        (["perplexity", "CKPT", "missing.txt"], "missing.txt: no such file"),
        (["perplexity", "DATA", "DATA"], "lambada.jsonl"),
        (
            ["wikitext", "CKPT", "--measure", "original", "--data", "DATA", "--dataset", "wikitext2"],
            "exclude each other",
        ),
        (["run", "CKPT", "--tasks", "wikitext", "--include-path", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    named = {"CKPT": str(checkpoint), "DATA": str(LAMBADA)}
    assert run(["eval", *(named.get(one, one) for one in arguments), "--tokenizer", "bytes"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_help_loads_no_torch() -> None:
    code = "import sys; from ckptgrow.cli import run; run(['eval', 'compare', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["lambada", "CKPT", "--data", str(LAMBADA), "--bootstrap-iters", "0"],
        ["lambada", "CKPT", "--data", str(LAMBADA), "--measure", "original"],
        ["wikitext", "CKPT", "--data", str(WIKITEXT), "--limit", "5"],
        ["wikitext", "CKPT", "--data", str(WIKITEXT), "--measure", "original"],
    ],
)
def test_two_processes_score_as_one(checkpoint: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    command = ["eval", *(str(checkpoint) if one == "CKPT" else one for one in arguments)]
    command += ["--tokenizer", "bytes", "--device", "cpu", "--batch-size", "4", "--json"]
    alone = as_json(command[:-1], capsys)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"]
    done = subprocess.run(
        [*launcher, "-m", "ckptgrow", *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    together = json.loads(done.stdout)
    assert together["num_samples"] == alone["num_samples"] and together["notes"] == alone["notes"]
    for task, scores in alone["results"].items():  # type: ignore[attr-defined]
        for metric, value in scores.items():
            expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            assert together["results"][task][metric] == expected


@pytest.mark.cuda
def test_a_gpu_scores_as_a_cpu(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "lambada", str(checkpoint), "--data", str(LAMBADA), "--tokenizer", "bytes"]
    on_gpu, on_cpu = (as_json([*command, "--device", device], capsys)["results"] for device in ("cuda", "cpu"))
    assert isinstance(on_gpu, dict) and isinstance(on_cpu, dict)
    assert on_gpu["lambada_openai"]["acc,none"] == on_cpu["lambada_openai"]["acc,none"]
    expected = pytest.approx(on_cpu["lambada_openai"]["perplexity,none"], rel=1e-3)  # TF32 or another kernel
    assert on_gpu["lambada_openai"]["perplexity,none"] == expected
