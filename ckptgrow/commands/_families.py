"""Families that a command line adds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

FILES = "CKPTGROW_FAMILY"  # their paths, for the processes that this one starts


def add_families(files: Sequence[Path]) -> None:
    """Adds the tables in these Python files, and in those that the environment names; raises ConfigError for a file
    that has none.
    """
    named = [Path(one).absolute() for one in files]
    inherited = [Path(one) for one in os.environ.get(FILES, "").split(os.pathsep) if one]
    paths = list(dict.fromkeys((*inherited, *named)))
    if not paths:
        return
    from ckptgrow.families.registration import family_in
    from ckptgrow.families.registry import register

    for path in paths:
        register(family_in(path))
    os.environ[FILES] = os.pathsep.join(map(str, paths))
