"""Cells as tasks of a Ray cluster. The data and the experiment's folder lie where every node sees them by one path.

A task does what a process of this machine does, with the same number of threads, so the figures are the same. A worker
or a node that dies is one cell's loss; the cell goes on from its last checkpoint wherever there is room.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from importlib import import_module
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from edgekit.errors import EdgekitError, InputUnusable, MachineLacks
from edgekit.training.experiment.processes import CELL
from edgekit.training.experiment.scheduling import Ending, Job

LOCAL, AUTO = "local", "auto"
KNOCK_S = 10.0


class OnRay:
    """A cluster at `address`, or one that is started on this machine for the occasion ("local").

    A cluster that this process is connected to already is used as it is, and left running. `slots` cells at a time
    are what a local one has room for; another decides by its own number of cores. `target` as in `LocalProcesses`.
    """

    def __init__(self, address: str, slots: int, threads: int, target: str = CELL) -> None:
        self.address, self.slots, self.threads, self.target = address, slots, threads, target
        self._running: dict[Any, Job] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Ray tells of deaths on stdout, where nothing but the result belongs.
            stack.enter_context(redirect_stdout(sys.stderr))
            if not ray.is_initialized():
                self._join()
                stack.callback(ray.shutdown)
            self._check_room()
            cards = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
            self._task = ray.remote(_train).options(
                num_cpus=self.threads, num_gpus=cards, max_retries=0, runtime_env={"env_vars": self._environment()}
            )
            self._leave = stack.pop_all()
        return self

    def _join(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is trained here is nobody else's business
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; else Ray warns of it
        mine = {"num_cpus": self.slots * self.threads, "include_dashboard": False} if self.address == LOCAL else {}
        try:
            _knock(self.address)
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **mine)
        except (OSError, RuntimeError, ValueError) as error:
            raise MachineLacks(
                "there is no Ray cluster to join",
                where=f"--ray {self.address}",
                got=str(error).strip().splitlines()[0],
                wanted="HOST:PORT of its head, auto on one of its machines, or local",
                hint="ray start --head starts one; --ray local starts one on this machine for the occasion",
            ) from error

    def _check_room(self) -> None:
        """Raise MachineLacks where no machine has the cores of one cell: Ray would wait for one without a word."""
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < self.threads:
            raise MachineLacks(
                "no machine of the cluster has room for a cell",
                where=f"--ray {self.address}",
                got=f"{most:g} cores on the largest",
                wanted=f"{self.threads}, as many as a cell has threads",
                hint=f"--threads {max(1, int(most))}",
            )

    def _environment(self) -> dict[str, str]:
        """As in `processes.environment`. On this machine Python finds what this process finds, as in a checkout."""
        shared = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        here = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} if self.address == LOCAL else {}
        return shared | here

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._leave:
            for task in self._running:
                ray.cancel(task, force=True)
            self._running.clear()

    def submit(self, job: Job) -> None:
        """Take a job; Ray chooses where."""
        self._running[self._task.remote(self.target, job)] = job

    def wait(self, seconds: float) -> Sequence[Ending]:
        """What has ended, as soon as something has, or nothing after so many seconds."""
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [_ending(self._running.pop(task), task) for task in done]


def _knock(address: str) -> None:
    """Raise OSError or ValueError unless somebody listens there: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host, int(port)), KNOCK_S):
            pass
    elif address not in (LOCAL, AUTO):
        raise ValueError("an address without a port")


def _ending(job: Job, task: object) -> Ending:
    try:
        return Ending(job, ray.get(task))
    except RayTaskError as error:  # something unforeseen in the training itself: the same would come of it again
        cause = error.cause
        return Ending(job, InputUnusable("the training process failed", got=f"{type(cause).__name__}: {cause}"))
    except RayError as error:
        reason = " ".join(str(error).split())[:300]
        return Ending(job, EdgekitError("a Ray worker died", got=f"{type(error).__name__}: {reason}"), died=True)


def _train(target: str, job: Job) -> EdgekitError | None:
    """What a Ray worker does: the error that ended it is a result, everything unforeseen is raised."""
    module, _, function = target.partition(":")
    try:
        getattr(import_module(module), function)(job)
    except EdgekitError as error:
        return error
    return None
