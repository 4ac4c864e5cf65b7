"""The report's page: one HTML file with its pictures inside, and nothing that a browser would fetch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ckptgrow.probe.report_of_probe import verdict
from ckptgrow.report.pictures import as_address, pictures_of, write_pictures
from ckptgrow.report.run_record import RunRecord, recorded
from ckptgrow.report.saved_compute import incomparable, saving_of
from ckptgrow.run.standing import DONE, duration
from ckptgrow.storage.files.atomic import appearing

PAGE, FOLDER = "report.html", "report"
TITLES = {"loss": "Validation loss against compute", "rates": "Learning rate against compute"}
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; } img { width: 100%; max-width: 46rem; height: auto; background: white; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: bottom; }
th, td { border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
pre { background: var(--soft); padding: .75rem; font-size: .8rem; border-radius: 4px; }
code { display: block; white-space: pre-wrap; overflow-wrap: anywhere; padding-left: 2em; text-indent: -2em; }
code span { display: inline-block; text-indent: 0; }
"""


def write_report(
    out: Path, scratch: Path | None = None, target: Path | None = None
) -> tuple[Path, list[Path], RunRecord]:
    """Writes the page (`report.html` in the run's directory, or `target`) and its pictures in a folder beside it;
    returns the paths, and what was reported.

    Raises RequestError and DataError as `recorded` does.
    """
    record = recorded(out, scratch)
    page = target or out / PAGE
    pictures = pictures_of(record)
    page.parent.mkdir(parents=True, exist_ok=True)
    files = write_pictures(pictures, page.parent / FOLDER)
    with appearing(page) as partial:
        partial.write_text(page_of(record, pictures), encoding="utf-8")
    return page, files, record


def page_of(record: RunRecord, pictures: dict[str, bytes]) -> str:
    """The page as text."""
    saving, why_not = saving_of(record), incomparable(record)
    parts = [
        f"<h1>{escape(str(record.out))}</h1>",
        f"<p>{escape(_state(record))}</p>",
        f"<p>{escape(saving.sentence)}</p>" if saving is not None else "",
        f"<p>{escape(why_not)}.</p>" if why_not else "",
        *(_figure(name, picture) for name, picture in pictures.items()),
        _stages(record),
        *(_probe(stage, found) for stage, found in record.probes.items()),
        _growths(record),
        _evaluations(record),
        _jobs(record),
        f"<h2>By hand</h2><pre>{''.join(map(_command, record.commands))}</pre>",
    ]
    head = [
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(record.out.name)}</title>",
        '<link rel="icon" href="data:,">',  # or a browser asks for one
        f"<style>{STYLE}</style>",
    ]
    inner = f"<head>{''.join(head)}</head><body>{''.join(parts)}</body>"
    return f'<!doctype html><html lang="en">{inner}</html>\n'


def _state(record: RunRecord) -> str:
    """Where the run stands, and what its planner expected of it."""
    found = "The run is done." if record.standing.current is None else f"Under way: {record.standing.sentence}."
    if record.saving is not None:
        found += f" The planner expected to save {record.saving:.1%} of the last model's compute from scratch."
    return found


def _figure(name: str, picture: bytes) -> str:
    title = escape(TITLES[name])
    return f'<figure><h2>{title}</h2><img alt="{title}" src="{as_address(picture)}"></figure>'


def _command(line: str) -> str:
    """A line whose words stay whole where it is folded."""
    return f"<code>{' '.join(f'<span>{escape(word)}</span>' for word in line.split(' '))}</code>"


def _stages(record: RunRecord) -> str:
    rows = [
        (
            one.name,
            f"{one.params:,}",
            f"{one.spent:.3g}",
            *(f"{losses[0]:.4f}" if len(losses) else "–" for losses in (one.val_losses,)),
            *(f"{losses[-1]:.4f}" if len(losses) else "–" for losses in (one.val_losses, one.losses)),
        )
        for one in (*record.curves, *([] if record.scratch is None else [record.scratch]))
    ]
    columns = (
        *("stage", "parameters without embeddings", "FLOPs so far"),
        *("first validation", "last validation", "last training loss"),
    )
    return _table("Stages", columns, rows)


def _probe(stage: str, found: Mapping[str, Any]) -> str:
    """Every candidate of a probe, in the order of their losses, and the controls."""
    rows = [
        (
            one["name"],
            _loss(one["loss"]),
            *(("–", "–") if one["behind"] is None else _difference(*one["behind"])),
            *(_loss(one[name]) for name in ("slope", "jump", "spike")),
            one["out"] or verdict(one["name"], found["winner"], found["level"]),
        )
        for one in found["candidates"]
    ]
    rows += [
        (one["name"], _loss(one["loss"]), *["–"] * 5, f"control, {one['steps']:,} steps") for one in found["controls"]
    ]
    columns = ("candidate", "mean held-out loss", "difference", "95 %", "slope", "jump", "spike", "verdict")
    title = f"The probe that chose the recipe of {stage}: {found['rungs'][-1]:,} steps, {found['flops']:.3g} FLOPs"
    return _table(title, columns, rows)


def _difference(mean: float, low: float, high: float) -> tuple[str, str]:
    return f"{mean:.4f}", f"{low:.4f} to {high:.4f}"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _growths(record: RunRecord) -> str:
    rows: list[tuple[str, ...]] = []
    for one in record.growths:
        old, new = one.result["parameters"]
        sizes = ", ".join(f"{name} {one.result['old'][name]} → {size}" for name, size in one.result["new"].items()
                          if one.result["old"].get(name) != size)  # fmt: skip
        verdict = ("not yet", "–", "–")
        if one.verified is not None:
            moments = one.verified["moments"]
            verdict = ("passed", f"{one.verified['logits']:.1e}", "–" if moments is None else f"{moments:.1e}")
        rows.append((one.stage, one.operator, sizes, f"{old:,} → {new:,}", *verdict))
    columns = ("stage", "growth", "sizes", "parameters", "verified", "logits differ by", "moments differ by")
    return _table("Growths and their verification", columns, rows)


def _evaluations(record: RunRecord) -> str:
    measures = {
        (task, name)
        for results in record.evaluations.values()
        for task, scores in results.items()
        for name in scores
        if "stderr" not in name and "," in name
    }
    rows = [
        (task, name.removesuffix(",none"), *(_score(results, task, name) for results in record.evaluations.values()))
        for task, name in sorted(measures)
    ]
    return _table("Evaluations", ("task", "measure", *record.evaluations), rows)


def _score(results: object, task: str, name: str) -> str:
    assert isinstance(results, dict)
    scores = results.get(task, {})
    if name not in scores:
        return "–"
    error = scores.get(name.replace(",", "_stderr,", 1))
    return f"{scores[name]:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else "")


def _jobs(record: RunRecord) -> str:
    rows = [(one.name, one.state, "–" if one.seconds is None else duration(one.seconds)) for one in record.jobs]
    total = sum(one.seconds or 0.0 for one in record.jobs if one.state == DONE)
    return _table("Time", ("job", "state", "wall time"), [*rows, ("all", "", duration(total))])


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = list(rows)
    if not body:
        return ""
    numeric = [all(_is_number(row[place]) for row in body) for place in range(len(columns))]

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="number"' if one else "" for one in numeric]
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    lines = "".join(f"<tr>{line('td', row)}</tr>" for row in body)
    return f'<h2>{escape(title)}</h2><div class="wide"><table><tr>{line("th", columns)}</tr>{lines}</table></div>'


def _is_number(cell: str) -> bool:
    return cell == "–" or (cell.lstrip("-")[:1].isdigit() and "→" not in cell)
