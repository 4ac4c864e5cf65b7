"""Random operators and their options, as words of the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from tests.campaign.commands import has_separate
from tests.campaign.subjects import Subject


@dataclass(frozen=True)
class Operator:
    """A growth: the command's words, and what the judge must know of it."""

    command: str
    words: tuple[str, ...]
    kind: str  # factor, ffn, heads, kv, mixed, pad, depth
    separation: str  # default, none, split, spread, or the noise's strength
    how: str = "diagonal"
    factor: int = 1
    rule: str = "keep"
    step: str = "keep"
    new: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """All the command's options."""
        rest = ("--lr-rule", self.rule, "--step", self.step)
        separating = _separating(self.separation) if self.command == "width" else ()
        return (*self.words, *separating, *(("--new", self.new) if self.new else ()), *rest)

    @property
    def is_separated(self) -> bool:
        """Whether copies differ on purpose."""
        return self.kind in ("factor", "ffn", "heads", "mixed") and self.separation != "none"

    @property
    def is_noisy(self) -> bool:
        """Whether noise was asked for by its strength."""
        return self.separation not in ("default", "none", "split", "spread")


def varied(operator: Operator, subject: Subject) -> Operator:
    """The operator, or a rarer form of it. What it becomes depends on it alone, so other draws stay as they are."""
    random = Random(repr((operator, subject.fields)))
    match operator.kind:
        case "factor" if operator.factor == 2 and random.random() < 0.15:
            return replace(operator, words=(*operator.words, *_sized(random, subject, "ffn", least=2)), kind="mixed")
        case "heads" if random.random() < 0.25 and subject.fields.get("num_key_value_heads"):
            many = subject.fields["num_attention_heads"]
            few = subject.fields["num_key_value_heads"]
            sizes = [size for size in range(few + 1, many + 1) if size % few == 0 and many % size == 0]
            if sizes:
                words = ("--kv-heads", str(random.choice(sizes)))
                return replace(operator, words=words, kind="kv", separation="default", rule="keep")
        case "factor" | "ffn" | "heads" if operator.separation == "default" and random.random() < 0.3:
            words = (*operator.words, "--spread", random.choice(["0.25", "0.7", "1", "1.5"]))
            return replace(operator, words=words, separation="spread")
        case "pad" if random.random() < 0.5:
            fresh = random.choice(["zero-copy", "zero-copy", "zero-random", "random-zero"])
            return replace(operator, words=(*operator.words, "--fresh", fresh))
        case "depth" if "--factor" not in operator.words and random.random() < 0.3:
            return replace(operator, words=("--every", str(random.choice([1, 2]))))
        case _:
            pass
    return operator


def _separating(separation: str) -> tuple[str, ...]:
    match separation:
        case "default" | "spread":
            return ()
        case "none":
            return ("--noise", "0")
        case "split":
            return ("--separate", "split") if has_separate() else ()
        case _:
            return ("--noise", separation)


def drawn(random: Random, subject: Subject, separations: tuple[str, ...] | None = None) -> Operator:
    """A random operator for a family."""
    return varied(_common(random, subject, separations), subject)


def _common(random: Random, subject: Subject, separations: tuple[str, ...] | None) -> Operator:
    """What its table refuses is refused; families with ALiBi are seldom asked for that."""
    weights = [4, 1, 1, 1, 40] if subject.model_type in ("bloom", "mpt") else [40, 14, 12, 10, 30]
    kind = random.choices(["factor", "ffn", "heads", "pad", "depth"], weights)[0]
    rule = random.choice(["keep", "keep", "mup"])
    step = random.choice(["keep", "keep", "keep", "auto", "2", "9"])
    if kind == "depth":
        return _deeper(random, subject, rule, step)
    known = ("default", "default", "none", "none", "split", "0.1", "0.5", "1", "2")
    separation = random.choice(separations or known)
    if kind == "pad":
        return Operator("width", _padding(random, subject), "pad", "default", "pad", step=step)
    how = random.choice(["diagonal", "tile"])
    seed = ("--seed", str(random.randrange(100)))
    factor = random.choice([2, 2, 3, 4]) if kind == "factor" else 1
    words = {"factor": ("--factor", str(factor))}.get(kind) or _sized(random, subject, kind)
    return Operator("width", (*words, "--how", how, *seed), kind, separation, how, factor, rule, step)


def _sized(random: Random, subject: Subject, kind: str, least: int = 1) -> tuple[str, ...]:
    fields = subject.fields
    if kind == "ffn":
        names = ("moe_intermediate_size", "n_inner", "intermediate_size", "ffn_dim", "d_ff")
        old = next((fields[one] for one in names if one in fields), 48)
        return ("--ffn", str(least * old + random.randrange(1, 2 * old)))
    heads = fields.get("num_attention_heads", fields.get("num_heads", fields.get("n_head", 4)))
    kv_heads = fields.get("num_key_value_heads", heads)
    if random.random() < 0.5:
        return ("--heads", str(heads * 2), "--kv-heads", str(kv_heads * 2))
    return ("--heads", str(heads + kv_heads * random.choice([1, 2])))


def _padding(random: Random, subject: Subject) -> tuple[str, ...]:
    fields = subject.fields
    old = fields.get("hidden_size", fields.get("n_embd", fields.get("d_model", 16)))
    heads = fields.get("num_attention_heads", fields.get("n_head", fields.get("num_heads", 4)))
    words = ("--how", "pad", "--hidden", str(old + heads * random.randrange(1, 4)))
    if random.random() < 0.3:
        words = (*words, "--fresh-moments", "mean")
    return (*words, *_sized(random, subject, "ffn")) if random.random() < 0.3 else words


def _deeper(random: Random, subject: Subject, rule: str, step: str) -> Operator:
    fields = subject.fields
    old = fields.get("num_hidden_layers", fields.get("n_layer", fields.get("num_layers", fields.get("n_layers", 2))))
    new = random.choice(["zero-output", "zero-output", "zero-norm"])
    match random.choice(["factor", "place", "list"]):
        case "factor":
            words = ("--factor", str(random.choice([2, 3])))
        case "place":
            words = ("--factor", "2", "--place", random.choice(["alternate", "append", "middle"]))
        case _:
            extra = [random.randrange(old) for _ in range(random.randrange(1, 4))]
            words = ("--layers", ",".join(map(str, sorted([*range(old), *extra]))))
    return Operator("depth", words, "depth", "none", rule=rule, step=step, new=new)
