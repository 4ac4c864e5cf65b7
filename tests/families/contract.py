"""The documentation's table of families × operators, made from what the contract's tests did.

python -m tests.families.contract           runs them all (minutes) and writes contract.json and the table
python -m tests.families.contract NAME …    runs the cases of these families, and leaves what the others showed
python -m tests.families.contract COLUMN …  runs the tests of these columns (vocab, experts, …), of all or some families
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.helpers.families import CASES
from tests.helpers.family_checks import LAYER_NORM
from tests.helpers.paths import FAMILIES_PAGE

RESULTS = Path(__file__).with_name("contract.json")
BEGIN, END = "<!-- contract -->\n", "<!-- /contract -->\n"
UNWIDENED = "test_what_alibi|test_a_hidden_size_that_sines|test_sizes_that_no_copies.*no gain"
# Column, the test that shows it, and the tests that show a refusal.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "×2 diagonal": ("test_diagonal_width", UNWIDENED),
    "×3 tile": ("test_tiled_width", UNWIDENED),
    "noise": ("test_noise_keeps", UNWIDENED),
    "`mup`": ("test_under_mup", f"test_one_rate|{UNWIDENED}"),
    "`--ffn`": ("test_feed_forward_units", "test_what_alibi|test_sizes_that_no_copies.*(such size|no tensor)"),
    "`--heads`": ("test_heads_grow", "test_what_alibi|test_sizes_that_no_copies.*(heads|no field)"),
    "`--hidden`": ("test_any_hidden_size", f"test_families_whose_config_forbids|{UNWIDENED}"),
    "depth": ("test_new_layers_in_between", "test_depth_of_post_norm|test_dense_layers_behind|test_layers_out_of_one"),
    "depth, `zero-norm`": ("test_new_layers_with_zero_norms", "test_zero_norms_that_leave|test_depth_of_post_norm"),
    "saved, 20 tokens": ("test_a_grown_model_survives", "(?!)"),
    "`vocab`": ("test_in_every_family_old_logits_stay", "test_a_bias_of_every_token"),
    "`positions`": (
        "test_longer_tables_change|test_where_positions_are_computed",
        "test_models_without_a_number_of_positions|test_positions_whose_scaling",
    ),
    "`experts`": (
        "test_copies_of_experts_keep|test_a_dense_model_and_the_mixture|test_behind_a_gate_of_its_own",
        "test_experts_whose_copies|test_dense_models_of_which",
    ),
}
SHOWN = "|".join(f"{shown}|{refused}" for shown, refused in COLUMNS.values())  # the tests that the table tells of
OF_GROWTH = ("vocabulary", "positions", "upcycling", "dense_upcycling")
FILES = ("families/test_contract.py", "families/test_padding.py", *(f"growth/test_{name}.py" for name in OF_GROWTH))


def outcomes(families: Sequence[str], columns: Sequence[str]) -> tuple[int, dict[str, bool]]:
    """Runs the contract, of some families and columns or of all; pytest's exit code, and whether each test passed."""
    words = sorted({case.split()[0] for case, (family, _) in CASES.items() if family in families})
    tests = [part.partition(".*")[0] for column in columns for part in "|".join(COLUMNS[column]).split("|")]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        files = [str(RESULTS.parents[1] / name) for name in FILES]
        command = [sys.executable, "-m", "pytest", *files, "-q", "-m", "slow or not slow", "-n", "2"]
        named = words, [one for one in tests if "(" not in one]
        chosen = " and ".join(f"({' or '.join(some)})" for some in named if some)
        command += ["-k", chosen] if chosen else []
        code = subprocess.run([*command, f"--junitxml={report}"], check=False).returncode
        cases = ElementTree.parse(report).iter("testcase")
        passed = {str(one.get("name")): not len(one) for one in cases}
        return code, {name: result for name, result in passed.items() if re.match(SHOWN, name)}


def table(passed: Mapping[str, bool]) -> str:
    """The table in Markdown, one row a family."""
    families = list(dict.fromkeys(model_type for model_type, _ in CASES.values()))
    lines = ["| `model_type` | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [f"| `{one}` | " + " | ".join(_cell(one, column, passed) for column in COLUMNS) + " |" for one in families]
    return "\n".join(lines) + "\n"


def _cell(family: str, column: str, passed: Mapping[str, bool]) -> str:
    shown, refused = COLUMNS[column]
    results = _results(family, shown, passed)
    if not all(results):
        return "FAILED"
    exact = "≈" if column == "`--hidden`" and family in LAYER_NORM else "="
    refusals = _results(family, refused, passed)
    return " ".join([exact] * bool(results) + ["refused"] * bool(refusals and all(refusals))) or "–"


def _results(family: str, pattern: str, passed: Mapping[str, bool]) -> list[bool]:
    cases = {case for case, (model_type, _) in CASES.items() if model_type == family}
    return [
        result
        for name, result in passed.items()
        if re.match(pattern, name) and (found := re.search(r"\[(.*)\]", name)) and _case_in(found[1]) in cases
    ]


def _case_in(parameters: str) -> str | None:
    """The case among a test's parameters: the longest that begins or ends them."""
    fitting = [case for case in CASES if re.search(rf"(^|-){re.escape(case)}($|-)", parameters)]
    return max(fitting, key=len, default=None)


def _family_of(name: str) -> str | None:
    """The family of the case that a test's name has, None where it has none."""
    found = re.search(r"\[(.*)\]", name)
    case = _case_in(found[1]) if found else None
    return CASES[case][0] if case else None


def _is_of(name: str, column: str) -> bool:
    """Whether a test is one that a column tells of."""
    return re.match("|".join(COLUMNS[column]), name) is not None


def page_with(text: str, made: str) -> str:
    """The page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + made + END + rest.partition(END)[2]


def main() -> None:
    """Runs the contract and writes what it showed."""
    named = {column.strip("`"): column for column in COLUMNS}
    columns = [named[one] for one in sys.argv[1:] if one in named]
    families = [one for one in sys.argv[1:] if one not in named]
    code, passed = outcomes(families, columns)
    if families or columns:
        before: dict[str, bool] = json.loads(RESULTS.read_text(encoding="utf-8"))
        own = {name for name in before | passed if not families or _family_of(name) in families}
        run_again = {name for name in own if not columns or any(_is_of(name, column) for column in columns)}
        passed = {
            **{name: one for name, one in before.items() if name not in run_again and re.match(SHOWN, name)},
            **{name: one for name, one in passed.items() if name in run_again},
        }
    RESULTS.write_text(json.dumps(dict(sorted(passed.items())), indent=1) + "\n", encoding="utf-8")
    made = table(passed)
    FAMILIES_PAGE.write_text(page_with(FAMILIES_PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    print(made)
    sys.exit(code)


if __name__ == "__main__":
    main()
