"""The table and the picture, from the results that are there, few or all."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.savings.figure import draw
from benchmarks.savings.measures import Bound, Interval, interval, slope
from benchmarks.savings.results import Results
from benchmarks.savings.table import MEASURES, Outcome, Table
from benchmarks.savings.tiers import TEXTS, Piece

SLOPE_ROWS = 5  # validations that a slope is over, as in the paper's rule
# Slopes d log L / d log C at which to grow (Shen et al., arXiv 2203.06211, section 4)
TAU = {"width": -0.0475, "depth": -0.0575}
SIGNS = {"≥": "≥ ", "≤": "≤ ", "=": ""}
MINUS = "\N{MINUS SIGN}"


def report(pieces: Sequence[Piece], results: Results, out: Path, about: str) -> str:
    """Markdown; also written to `report.md`, with a picture for each piece beside it."""
    parts = [about]
    for piece in pieces:
        table = Table(piece, results)
        if table.results:
            parts.append(_piece(table))
            draw(table, out / f"savings-{piece.name}.png")
    text = "\n\n".join(parts) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def _piece(table: Table) -> str:
    parts = [_about(table), _tuning(table), _baselines(table), _growth_points(table), _recipes(table)]
    return "\n\n".join(part for part in parts if part)


def _about(table: Table) -> str:
    piece, vocabulary = table.piece, TEXTS[table.piece.text].vocabulary
    sizes = [
        f"{shape.layers} layers × {shape.hidden} ({_count(shape.num_block_parameters)} parameters, "
        f"{_count(shape.num_parameters(vocabulary))} with embeddings)"
        for shape in (piece.small, piece.large)
    ]
    tokens = piece.steps * piece.batches[0] * piece.length
    budget = piece.large.cost_per_token(vocabulary, piece.length).times(tokens)
    share = tokens / piece.large.num_block_parameters
    left = table.num_planned - len(table.results)
    state = f"Incomplete: {left} of {table.num_planned} runs are missing." if left else "Complete."
    return (
        f"### {piece.name}: {sizes[0]} → {sizes[1]}\n\n{state} Budget {budget.whole:.3g} FLOPs with embeddings: "
        f"{piece.steps:,} steps of {piece.batches[0]} × {piece.length} tokens of the large model from scratch, "
        f"{_count(tokens)} tokens ({share:.0f} for each of its parameters without embeddings)."
    )


def _tuning(table: Table) -> str:
    lines = ["| schedule | batch | " + " | ".join(f"rate {rate:g}" for rate in table.piece.rates) + " |"]
    lines.append("| --- " * (2 + len(table.piece.rates)) + "|")
    finals = {arm.settings: table.finals[arm.name] for arm in table.scratch}
    for schedule in table.piece.schedules:
        for batch in table.piece.batches:
            losses = [finals.get((rate, batch, schedule)) for rate in table.piece.rates]
            lines.append(f"| {schedule} | {batch} | " + " | ".join(_number(loss, "{:.4f}") for loss in losses) + " |")
    text = "The large model from scratch, first seed, loss at the budget:\n\n" + "\n".join(lines)
    by_rate = sorted(table.small, key=lambda arm: arm.rate)
    if by_rate:
        small = ", ".join(f"rate {arm.rate:g}: {table.finals[arm.name]:.4f}" for arm in by_rate)
        text += f"\n\nThe small model alone at the budget: {small}."
    return "\n\n".join([text, *_edges(table)])


def _edges(table: Table) -> Iterator[str]:
    """Where the tuning, once it is done, found the best rate at an end of those tried."""
    piece = table.piece
    num_scratch = len(piece.rates) * len(piece.batches) * len(piece.schedules)
    for name, tuned, rates, num in (
        ("large", table.scratch, piece.rates, num_scratch),
        ("small", table.small, piece.small_rates, len(piece.small_rates)),
    ):
        if len(tuned) == num > 1 and tuned[0].rate in (min(rates), max(rates)):
            yield f"The {name} model's best rate is at the edge of those tried: a better one may lie beyond."


def _baselines(table: Table) -> str:
    pairs = [[table.at_budget(group, seed) for group in ("scratch", "small")] for seed in table.piece.seeds]
    gaps = interval([scratch.final - small.final for scratch, small in pairs if scratch and small])
    if gaps is None:
        return ""
    means = [statistics.fmean(one.final for one in group if one) for group in zip(*pairs, strict=True)]
    text = (
        f"From scratch {means[0]:.4f}, the small model alone {means[1]:.4f}; difference "
        f"{_in_nats(gaps)} nats over {gaps.num} seed{'s' if gaps.num > 1 else ''}."
    )
    if gaps.mean >= 0:
        text += " **Scratch does not beat the small model continued: below this budget growth answers no question.**"
    elif gaps.half is not None and gaps.mean + gaps.half >= 0:
        text += " The interval holds zero: it is not sure that growth answers a question at this budget."
    return text


def _growth_points(table: Table) -> str:
    """Where growth stands on the small model's curve: its slope beside τ, and the most that could be saved there."""
    tau, seeds, lines = TAU[table.piece.operator], table.piece.seeds, list[str]()
    for point in table.piece.points:
        until = [rows[-SLOPE_ROWS:] for seed in seeds if len(rows := table.until_growth(point, seed)) > 1]
        leads = [lead for seed in seeds if (lead := table.lead(point, seed)) is not None]
        if until and leads:
            mean = statistics.fmean(slope([(row.whole, row.loss) for row in rows]) for rows in until)
            loss = statistics.fmean(rows[-1].loss for rows in until)
            side = "past" if mean > tau else "before"
            lead = f"{100 * statistics.fmean(leads):+.0f} %".replace("-", MINUS)
            lines.append(f"| {point:g} | {loss:.4f} | {_signed(mean)} ({side} τ) | {lead} |")
    if not lines:
        return ""
    about = (
        f"Where the small model is grown: its slope d log L / d log C (τ = {_signed(tau)}), and its lead, the share of "
        "the budget that the large model, at its constant rate, needs more to the same loss: what a growth "
        "that goes on as the large model from there saves at this budget."
    )
    return "\n".join([about, "", "| grown at | loss there | slope | lead |", "| --- | --- | --- | --- |", *lines])


def _recipes(table: Table) -> str:
    groups: dict[tuple[float, float, str], list[Outcome]] = {}
    lost: list[str] = []
    for arm, result in table.done("grown"):
        if result.went_wrong:
            lost.append(arm.name)
        else:
            groups.setdefault((arm.point, arm.multiplier, arm.recipe), []).append(table.outcome(arm, result))
    if not groups:
        return ""
    others = any(outcome.against_default is not None for outcomes in groups.values() for outcome in outcomes)
    columns = ["recipe", "grown at", "rate ×", "seeds", "loss", "against scratch at equal compute"]
    columns += ["against the small model alone", *([f"against {table.default}"] if others else [])]
    columns += ["compute saved at equal loss", "the same without embeddings"]
    lines = ["| " + " | ".join([*columns, "jump: mean of 20 steps, highest"]) + " |", "| --- " * (10 + others) + "|"]
    for (point, multiplier, recipe), outcomes in sorted(groups.items(), key=lambda item: (item[0][:2], _loss(item[1]))):
        against = [outcome.against_scratch["whole"] for outcome in outcomes]
        jumps = [f"{_signed(mean)}" for mean in _means(outcomes, "jump")] + [
            f"{_signed(max(highest))}" for highest in [_present(outcomes, "highest")] if highest
        ]
        cells = [
            recipe,
            f"{point:g}",
            f"{multiplier:g}",
            str(len(outcomes)),
            f"{_loss(outcomes):.4f}",
            _in_nats(interval([one for one in against if one is not None])),
            _in_nats(interval(_present(outcomes, "against_small"))),
            *([_in_nats(interval(_present(outcomes, "against_default")))] if others else []),
            *(_in_percent([outcome.saved[measure] for outcome in outcomes]) for measure in MEASURES),
            ", ".join(jumps) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    text = (
        "Grown runs, the small stage counted, ± 95 % (t) over seeds; negative differences are better than scratch; ≥ "
        "where a run ends below all that scratch reached, with twice the budget at most:\n\n" + "\n".join(lines)
    )
    return text + (f"\n\nDiverged: {', '.join(lost)}." if lost else "")


def _loss(outcomes: Sequence[Outcome]) -> float:
    return statistics.fmean(outcome.final for outcome in outcomes)


def _present(outcomes: Sequence[Outcome], name: str) -> list[float]:
    return [value for outcome in outcomes if (value := getattr(outcome, name)) is not None]


def _means(outcomes: Sequence[Outcome], name: str) -> list[float]:
    values = _present(outcomes, name)
    return [statistics.fmean(values)] if values else []


def _count(number: int) -> str:
    return f"{number / 1e6:.3g}M" if number >= 1e6 else f"{number / 1e3:.3g}k"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)


def _in_nats(found: Interval | None) -> str:
    if found is None:
        return "–"
    return _signed(found.mean) + (f" ± {found.half:.4f}" if found.half is not None else "")


def _in_percent(bounds: Sequence[Bound | None]) -> str:
    """The mean over seeds with its interval; with a sign where a seed's number is but a bound."""
    known = [bound for bound in bounds if bound is not None]
    found = interval([bound.value for bound in known])
    if found is None:
        return "–"
    signs = {bound.sign for bound in known} - {"="}
    mean = f"{100 * found.mean:.0f} %".replace("-", MINUS)
    return SIGNS[min(signs, default="=")] + mean + (f" ± {100 * found.half:.0f}" if found.half is not None else "")
