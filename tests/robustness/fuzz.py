"""The fuzz test for as long as one likes:  python -m tests.robustness.fuzz SECONDS [SEED]"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.helpers.damage import Damage, consequence, originals


def random_damage(chance: random.Random) -> Damage:
    """A few flips, near the head as often as anywhere, and in every third case a cut."""
    places = [chance.random() * chance.choice((1.0, 0.05)) for _ in range(chance.randrange(1, 6))]
    flips = tuple((place, chance.randrange(1, 256)) for place in places)
    return Damage(chance.randrange(50), flips, chance.random() if chance.random() < 0.33 else 1.0)


def main(seconds: float, seed: int) -> None:
    """Prints what happened, and stops at the first violation with the damage that shows it."""
    chance, seen = random.Random(seed), Counter[tuple[str, int]]()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        kinds = originals(directory)
        (directory / "work").mkdir()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            kind = chance.choice(list(kinds))
            damage = random_damage(chance)
            try:
                code, errors = consequence(kinds[kind], damage, directory / "work")
            except BaseException:
                print(f"{kind}: {damage}", file=sys.stderr)
                raise
            assert code == 0 or len(errors.strip().splitlines()) == 1, (kind, damage, errors)
            assert code == 2 or damage.kept == 1.0 or kind != "lightning", (kind, damage)
            seen[kind, code] += 1
    print(f"seed {seed}: {sum(seen.values())} damages, " + ", ".join(f"{k} {n}" for k, n in sorted(seen.items())))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
