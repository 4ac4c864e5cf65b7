"""Work on arms: one after the other here, or side by side in processes of their own, each with a GPU where it can."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

import torch

from ckptgrow.errors import CheckpointError, CkptgrowError
from ckptgrow.probe.arms import Arm, Trace, advanced
from ckptgrow.probe.held_out import HeldOut
from ckptgrow.train.guards import Interrupted
from ckptgrow.train.launching import dies_with_parent


@dataclass(frozen=True)
class Task:
    """An arm, and the numbers of steps that it goes to."""

    arm: Arm
    marks: tuple[int, ...]


@dataclass
class _Started:
    """A process at work on the task of a number, in a slot."""

    number: int
    slot: int
    process: SpawnProcess
    receiver: Connection


def all_advanced(
    tasks: Sequence[Task],
    held_out: HeldOut,
    processes: int,
    begun: Callable[[Task], None],
    heard: Callable[[Task, Trace], None],
) -> list[Trace]:
    """What each task came to, in their order; `begun` and `heard` are told of each. `processes` at most at once.

    Raises what a task raises; processes that are still at work are ended then.
    """
    if processes == 1:
        found: list[Trace] = []
        for task in tasks:
            begun(task)
            found.append(advanced(task.arm, task.marks, held_out))
            heard(task, found[-1])
        return found
    return _Side(tasks, held_out, processes, begun, heard).done()


class _Side:
    """Tasks in processes of their own."""

    def __init__(
        self,
        tasks: Sequence[Task],
        held_out: HeldOut,
        processes: int,
        begun: Callable[[Task], None],
        heard: Callable[[Task, Trace], None],
    ) -> None:
        self._tasks, self._held_out, self._begun, self._heard = tasks, held_out, begun, heard
        self._free = list(range(processes))
        self._at_work: list[_Started] = []
        self._found: dict[int, Trace] = {}

    def done(self) -> list[Trace]:
        """Runs all of them."""
        waiting = list(range(len(self._tasks)))
        try:
            while waiting or self._at_work:
                while waiting and self._free:
                    self._start(waiting.pop(0), self._free.pop(0))
                ready = wait([one.receiver for one in self._at_work])
                for one in [one for one in self._at_work if one.receiver in ready]:
                    self._take(one)
        finally:
            for one in self._at_work:
                one.process.terminate()
            for one in self._at_work:
                one.process.join()
        return [self._found[number] for number in range(len(self._tasks))]

    def _start(self, number: int, slot: int) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        device, threads = _device_of(slot), torch.get_num_threads()
        place = _Place(device, threads, cast("Connection", sender))
        process = context.Process(target=_work, args=(self._tasks[number], self._held_out, place))
        process.start()
        self._begun(self._tasks[number])
        sender.close()
        self._at_work.append(_Started(number, slot, process, cast("Connection", receiver)))

    def _take(self, one: _Started) -> None:
        """Takes what a process sends; raises what it met."""
        try:
            sent = one.receiver.recv()
        except EOFError:
            one.process.join()
            name = self._tasks[one.number].arm.name
            sent = CheckpointError(f"{name}: its process ended with exit code {one.process.exitcode}, without a result")
        one.process.join()
        self._at_work.remove(one)
        self._free.append(one.slot)
        if isinstance(sent, BaseException):
            raise sent
        self._found[one.number] = sent
        self._heard(self._tasks[one.number], sent)


@dataclass(frozen=True)
class _Place:
    """Where a process works: on which GPU, None where there is no choice; with how many threads, for the same sums as
    anywhere else; and to whom it sends.
    """

    device: str | None
    threads: int
    sender: Connection


def _work(task: Task, held_out: HeldOut, place: _Place) -> None:
    """In the process: does a task, and sends what it came to, or what it met."""
    dies_with_parent()()
    if place.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.device
    torch.set_num_threads(place.threads)
    try:
        sent: object = advanced(task.arm, task.marks, held_out)
    except (CkptgrowError, Interrupted) as error:
        sent = error
    place.sender.send(sent)
    place.sender.close()


def _device_of(slot: int) -> str | None:
    """The GPU of a slot, among those that this process may use."""
    if torch.cuda.device_count() < 2:
        return None
    listed = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    devices = listed or [str(number) for number in range(torch.cuda.device_count())]
    return devices[slot % len(devices)]
