"""Runs what is not there yet, several at a time, each through the command line; stops and goes on at any moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.savings.arms import Arm, Plan, plan
from benchmarks.savings.corpus import Launch, prepare
from benchmarks.savings.results import Result, Results, has_ended, read_run
from benchmarks.savings.tiers import TEXTS, Piece

LOG_EVERY = 5  # steps between logged training losses, which the jump is read from
DIVERGED = "the loss is no finite number"
POLL = 1.0  # seconds between two looks at the clock


class Commands:
    """`ckptgrow` in processes of their own, one thread each on a CPU, all of which can be asked to end."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.is_stopped = False

    def __call__(self, arguments: Sequence[str], log: Path) -> int:
        """The exit code; what the command says goes to the end of `log`."""
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        command = [sys.executable, "-m", "ckptgrow", *arguments]
        with log.open("ab") as file:
            with self._lock:
                if self.is_stopped:
                    return -1
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Trainings save the step that they are in and end; nothing more begins."""
        with self._lock:
            self.is_stopped = True
            for process in self._running:
                process.terminate()


@dataclass
class Runner:
    """Runs pieces into a directory: `data-…`, `runs/NAME`, `results/NAME.json`."""

    out: Path
    launch: Launch
    results: Results
    only: str = "*"
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, pieces: Sequence[Piece], processes: int, deadline: float) -> int:
        """Works until all is there or the clock (`time.monotonic`) says `deadline`; how many runs are left."""
        stop = getattr(self.launch, "stop", lambda: None)
        with ThreadPoolExecutor(processes) as pool:
            busy: dict[Future[None], Arm] = {}
            try:
                while time.monotonic() < deadline:
                    for piece, arm in self._ready(pieces, {one.name for one in busy.values()})[: processes - len(busy)]:
                        print(f"{time.strftime('%H:%M:%S')} {arm.name}", file=sys.stderr, flush=True)
                        busy[pool.submit(self._perform, piece, arm)] = arm
                    if not busy:
                        break
                    done, _ = wait(busy, timeout=POLL, return_when=FIRST_COMPLETED)
                    for future in done:
                        del busy[future]
                        future.result()
            finally:
                if busy:
                    stop()
        return len(self._missing(pieces))

    def plan(self, piece: Piece) -> Plan:
        """What the results that are there say is to be run."""
        first = plan(piece, {}).arms
        tuned = {arm.name: self.results.get(arm) for arm in first if not arm.tuned_by}
        return plan(piece, {name: result.final for name, result in tuned.items() if result is not None})

    def _missing(self, pieces: Sequence[Piece]) -> list[tuple[Piece, Arm, bool]]:
        """Without results, once each: and whether the tuning that they depend on is done."""
        found: dict[str, tuple[Piece, Arm, bool]] = {}
        for piece in pieces:
            planned = self.plan(piece)
            arms = {arm.name: arm for arm in planned.arms}
            wanted = [name for name in arms if fnmatch(name, self.only)]
            for name in wanted:  # grows while it is read
                arm = arms[name]
                needed = (*arm.tuned_by, *([arm.start.parent] if arm.start else []))
                wanted.extend(one for one in needed if one not in wanted)
            for name, arm in arms.items():
                if name in wanted and self.results.get(arm) is None:
                    found.setdefault(name, (piece, arm, planned.is_known[name]))
        return list(found.values())

    def _ready(self, pieces: Sequence[Piece], busy: set[str]) -> list[tuple[Piece, Arm]]:
        """What can begin, the first seed's first: so that half of the work is a whole table, with fewer seeds."""
        missing = self._missing(pieces)
        waiting = {arm.name for _, arm, _ in missing}
        ready = [
            (piece, arm)
            for piece, arm, is_known in missing
            if is_known
            and arm.name not in busy | self.failed.keys()
            and (arm.start is None or arm.start.parent not in waiting)
        ]
        return sorted(ready, key=lambda one: one[0].seeds.index(one[1].seed))

    def _perform(self, piece: Piece, arm: Arm) -> None:
        """Grows and trains, or goes on with what an earlier call left; a failure is remembered, not recorded."""
        began, run = time.monotonic(), self.out / "runs" / arm.name
        run.mkdir(parents=True, exist_ok=True)
        log = run / "log.txt"
        data = self.out / f"data-{piece.text}"
        prepare(TEXTS[piece.text], data, self.launch)
        went_wrong = ""
        if not has_ended(arm, run):
            commands = [*self._growth(arm, run), self._training(piece, arm, run, data)]
            for command in commands:
                code = self.launch(command, log)
                if code:
                    said = _last_line(log)
                    if DIVERGED not in said:
                        if not getattr(self.launch, "is_stopped", False):
                            self.failed[arm.name] = f"exit {code}: {said}"
                        return
                    went_wrong = said
        parent = self._parent(piece, arm)
        self.results.write(arm, read_run(piece, arm, parent, run, time.monotonic() - began, went_wrong))
        if arm.group == "grown":
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
            for path in run.glob("grown-*.ckpt"):
                path.unlink()

    def _parent(self, piece: Piece, arm: Arm) -> Result | None:
        if arm.start is None:
            return None
        parents = {one.name: one for one in self.plan(piece).arms}
        return self.results.get(parents[arm.start.parent])

    def _growth(self, arm: Arm, run: Path) -> list[list[str]]:
        if arm.start is None or (run / "checkpoints" / "last.ckpt").exists():
            return []
        paths = [self._checkpoint(arm), *(run / f"grown-{number}.ckpt" for number in range(1, len(arm.grow) + 1))]
        pairs = zip(arm.grow, paths, paths[1:], strict=False)
        return [[name, str(old), str(new), *options, "--force"] for (name, *options), old, new in pairs]

    def _checkpoint(self, arm: Arm) -> Path:
        assert arm.start is not None
        return self.out / "runs" / arm.start.parent / "checkpoints" / f"step-{arm.start.step}.ckpt"

    def _training(self, piece: Piece, arm: Arm, run: Path, data: Path) -> list[str]:
        kept = arm.phase if arm.group == "small" else 8 * arm.phase  # where others branch off or are grown
        often = [f"--val-every={arm.phase}", f"--save-every={kept}", f"--log-every={LOG_EVERY}"]
        fixed = [f"--val-sequences={piece.validated}", *often, *piece.options]
        command = ["train", "--data", str(data), "--out", str(run), *fixed]
        last = run / "checkpoints" / "last.ckpt"
        if last.exists():
            return [*command, "--resume", str(last)]
        course = [f"--train-steps={arm.steps}", f"--schedule={arm.schedule}"]
        if arm.start is None:
            config = run / "config.json"
            config.write_text(json.dumps(arm.shape.config(TEXTS[piece.text].vocabulary, piece.length)))
            sizes = [f"--batch-size={arm.batch}", f"--seqlen={piece.length}", f"--seed={arm.seed}", f"--lr={arm.rate}"]
            warmup = f"--warmup-steps={round(arm.steps / arm.share) // 20}"
            return [*command, "--recipe=staged-training", f"--config={config}", *course, *sizes, warmup]
        place = [f"--step={arm.start.schedule_step}"] if arm.grow else []
        rate = [f"--lr={arm.rate}"] if arm.multiplier != 1 else []
        rewarm = [f"--rewarm={arm.rewarm}"] if arm.grow else []
        if arm.new_peak is not None:
            rewarm = [f"--rewarm-new={arm.new_peak},{arm.rewarm}"]
        grown = run / f"grown-{len(arm.grow)}.ckpt" if arm.grow else self._checkpoint(arm)
        return [*command, "--resume", str(grown), *course, *place, *rate, *rewarm]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing said"
