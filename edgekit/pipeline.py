"""The journey of a variant, and of a grid of them: source -> ONNX -> simplified -> FP16 -> engines, proven.

This file decides what has to be done and keeps what is done; `journey` does it. PyTorch is imported only when
something has to be built.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import lean, manifest, pool
from edgekit.environment import usable_cores
from edgekit.errors import EdgekitError, GateFailed
from edgekit.helpers import Helpers
from edgekit.isolation import Turns
from edgekit.manifest import Manifest
from edgekit.plan import Plan
from edgekit.shelf import Shelf
from edgekit.variant import Variant

if TYPE_CHECKING:
    from edgekit.graph.mould import Mould
    from edgekit.journey import Journey

    Moulds = Shelf[tuple[Mould, ...]]


@dataclass(frozen=True)
class Outcome:
    """What became of one variant. `directory` holds its files, also those of a failed gate, which has an `error`."""

    variant: Variant
    directory: Path
    seconds: float
    manifest: Manifest | None = None
    cached: bool = False
    error: EdgekitError | None = None


@dataclass(frozen=True)
class Stage:
    """A variant has reached a station of the journey."""

    variant: Variant
    name: str


Event = Outcome | Stage
Listener = Callable[[Event], None]
# None means that a moment has passed, so that a display can move.
Watcher = Callable[[Event | None], None]


@dataclass(frozen=True)
class Task:
    """Variants that differ in resolution only, and so share weights and graph; one that `leads` is exported first."""

    variants: tuple[Variant, ...]
    leads: bool = False


def export_variant(variant: Variant, plan: Plan) -> Outcome:
    """Carry one variant through the whole journey, or find it done. Raises EdgekitError when it cannot be finished."""
    outcome = export_grid([variant], plan)[0]
    if outcome.error is not None:
        raise outcome.error
    return outcome


def export_grid(
    variants: Sequence[Variant],
    plan: Plan,
    jobs: int = 1,
    listen: Watcher = lambda _event: None,
    *,
    own_process: bool = False,
) -> list[Outcome]:
    """Carry every variant through the journey; what a former run finished, and nothing has changed, is kept.

    One variant's failure does not stop the others: it is in its Outcome. `listen` hears of every stage and outcome
    in this process, as they happen. The work is done in forked processes, also with one job: the memory that it takes
    goes back, and a crash of a native library is one variant's failure. No other thread of this process may be in the
    middle of something. One that ends after this is our `own_process`, in which PyTorch need not be all there (`lean`).
    Raises EdgekitError when the request as a whole cannot be served.
    """
    outcomes: dict[Variant, Outcome] = {}

    def hear(event: Event | None) -> None:
        if isinstance(event, Outcome):
            outcomes[event.variant] = event
        listen(event)

    with manifest.locked(plan.out):
        keys = {variant: plan.key(variant) for variant in variants}  # of the files as they are before they are read
        for variant in variants:
            kept = None if plan.force else _kept(variant, plan, keys[variant])
            if kept is not None:
                hear(kept)
        missing = [variant for variant in variants if variant not in outcomes]
        if missing:
            known = all(plan.source(variant).is_known for variant in missing) and plan.exporter != "dynamo"
            _build(missing, plan, jobs, hear, lean_torch=own_process and known)
    return [outcomes[variant] for variant in variants]


def _kept(variant: Variant, plan: Plan, key: str) -> Outcome | None:
    """The outcome of a former run when `key` is its key and its files are untouched."""
    start = time.perf_counter()
    directory = plan.folder(variant)
    if not (directory / manifest.NAME).is_file():
        return None
    try:
        found = manifest.read(directory)
    except EdgekitError:
        return None  # edited, foreign, or of another schema: built again
    if found.key != key or manifest.verify(found, directory):
        return None
    return Outcome(variant, directory, time.perf_counter() - start, found, cached=True)


def _build(variants: Sequence[Variant], plan: Plan, jobs: int, hear: Watcher, *, lean_torch: bool) -> None:
    tasks = _tasks(variants, jobs)
    first = tasks[:jobs]  # of each worker
    with ExitStack() as held:
        shelves = _shelves(tasks, plan) if len(first) > 1 else {}
        for shelf in shelves.values():
            held.callback(shelf.close)
        # Processes of their own, which import while this one imports PyTorch, on the cores that it leaves to them: two
        # of them on one other core slow it down by a sixth.
        with Turns(max(1, usable_cores() - 1)) as turns:
            profiles = plan.profiles if plan.engines else ()
            helpers = [Helpers(profiles, simplify=not _follows(task, first[0], shelves), turns=turns) for task in first]
        for helper in helpers:
            held.callback(helper.close)
        _import_journey(lean_torch)
        _work_off(tasks, _Worker(plan, helpers, shelves), plan, hear)


def _import_journey(lean_torch: bool) -> None:
    """Import PyTorch and all, with the garbage collector off: it would search a million live objects in vain."""
    gc.disable()
    try:
        if lean_torch:
            lean.import_torch()
        import edgekit.journey  # noqa: F401
    finally:
        gc.enable()
        gc.freeze()  # forked workers would otherwise copy every page that the collector touches


def _work_off(tasks: Sequence[Task], worker: _Worker, plan: Plan, hear: Watcher) -> None:
    pending = list(tasks)
    while pending:
        finished: set[Variant] = set()
        lost: list[Task] = []
        for event in pool.run(pending, worker.work, len(worker.helpers)):
            if isinstance(event, pool.Died):
                lost += _bury(event, finished, plan, hear)
            else:
                finished |= {event.variant} if isinstance(event, Outcome) else set()
                hear(event)
        pending = lost


def _bury(death: pool.Died[Task], finished: set[Variant], plan: Plan, hear: Watcher) -> list[Task]:
    """Report the variant that was in a dead worker's hands; returns what is left of its task."""
    left = [variant for variant in death.task.variants if variant not in finished]
    if not left:  # it had done everything, and died of what it does afterwards
        return []
    victim, *rest = left
    error = EdgekitError(
        f"the worker process {death.reason}", hint="run it again; with fewer --jobs if memory is short"
    )
    hear(Outcome(victim, plan.folder(victim), 0.0, error=error))
    return [Task(tuple(rest))] if rest else []


def _tasks(variants: Sequence[Variant], jobs: int) -> list[Task]:
    """Variants by network, wide ones first (they take longest); networks are split while workers would idle.

    Where there are several of a make, the narrowest is the very first: the others wait for a mould of it, and are busy
    with themselves until it is there.
    """
    groups: dict[tuple[object, ...], list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.model, variant.alpha, variant.batch, variant.options), []).append(variant)
    ordered = sorted(groups.values(), key=lambda group: -(group[0].alpha or 1.0))
    parts = -(-jobs // len(ordered))
    if jobs > 1 and ordered:
        alike = [group for group in ordered if _make(group[0]) == _make(ordered[0][0])]
        ordered.remove(alike[-1])
        ordered.insert(0, alike[-1])
    tasks = [Task(tuple(group[part::parts])) for group in ordered for part in range(parts) if group[part::parts]]
    return [replace(tasks[0], leads=True), *tasks[1:]]


def _shelves(tasks: Sequence[Task], plan: Plan) -> dict[Variant, Moulds]:
    """One for every make that several workers may begin with. Networks from elsewhere make no moulds."""
    known = [task.variants[0] for task in tasks if plan.source(task.variants[0]).is_known]
    makes = [_make(variant) for variant in known]
    return {make: Shelf() for make in dict.fromkeys(makes) if makes.count(make) > 1}


def _follows(task: Task, leader: Task, shelves: Mapping[Variant, Moulds]) -> bool:
    """Whether it is likely to be made from what the leader leaves, and to need no simplifier."""
    make = _make(task.variants[0])
    return task is not leader and make in shelves and make == _make(leader.variants[0])


def _make(variant: Variant) -> Variant:
    """What networks share that may be made from one mould."""
    return replace(variant, alpha=None, resolution=None)


class _Worker:
    """What a worker process does; each has its own copy. `mould` is what the last network left for the next one."""

    def __init__(self, plan: Plan, helpers: Sequence[Helpers], shelves: Mapping[Variant, Moulds]) -> None:
        self.plan, self.helpers, self.shelves = plan, helpers, shelves
        self.mould: Mould | None = None

    def work(self, number: int, task: Task, report: Listener) -> None:
        """Carry a task's variants through the journey, one after the other; every one ends in an Outcome."""
        gc.disable()  # a quarter of torch.onnx's time (211 ms against 156) goes into finding next to nothing
        journey: Journey | None = None
        for place, variant in enumerate(task.variants):
            start = time.perf_counter()
            tell, then = partial(_tell, variant, report), task.variants[place + 1 : place + 2]
            try:
                try:
                    journey = journey or self._journey(number, task, variant, report)
                    found, directory = journey.walk(variant, tell, then)
                except Exception:
                    if not lean.complete():
                        raise
                    journey = self._journey(number, task, variant, report)  # once more, with all of PyTorch
                    found, directory = journey.walk(variant, tell, then)
                error = gate(found, variant.slug)
                report(Outcome(variant, directory, time.perf_counter() - start, found, error=error))
            except Exception as failure:  # the others of the grid go on
                seconds = time.perf_counter() - start
                report(Outcome(variant, self.plan.folder(variant), seconds, error=_as_error(failure)))
            gc.collect(0)
        self.mould = self._left_by(journey)

    def _journey(self, number: int, task: Task, variant: Variant, report: Listener) -> Journey:
        """The task's network, exported at its smallest size, which is the fastest; `variant` is waiting for it."""
        from edgekit.journey import Journey

        report(Stage(variant, "export"))
        smallest = min(task.variants, key=lambda other: other.resolution or 0)
        make = partial(Journey, smallest, self.plan, self.helpers[number])
        own = self.mould if self.mould and _make(self.mould.made_at) == _make(variant) else None
        shelf = self.shelves.get(_make(variant))
        if own is None and shelf is not None:
            return self._in_turn(make, shelf, task)
        journey = make()
        journey.export([own] if own else ())
        return journey

    @staticmethod
    def _in_turn(make: Callable[[], Journey], shelf: Moulds, task: Task) -> Journey:
        """Export the network and leave a mould for the other workers; or run its truth until there is one of theirs."""
        if task.leads:
            shelf.try_turn()  # before anybody else asks
        try:
            journey = make()
            if not shelf.try_turn():
                journey.prepare()
                journey.foresee(task.variants)
                shelf.wait_turn()
            moulds = shelf.get()
            hopeless = moulds == ()  # others have exported one, and it gave no mould: nobody need wait any more
            if hopeless:
                shelf.end_turn()
            journey.export(moulds or ())
            if not (hopeless or journey.exported.filled):
                journey.foresee(task.variants[:2])  # while the simplifier is at work
                shelf.put((*(moulds or ()), journey.mould) if journey.mould else moulds or ())
            return journey
        finally:
            shelf.end_turn()

    @staticmethod
    def _left_by(journey: Journey | None) -> Mould | None:
        try:
            return journey.mould if journey else None
        except EdgekitError:  # its graphs could not be made: that is in its variants' outcomes
            return None


def _as_error(bug: Exception) -> EdgekitError:
    """What went wrong. A mistake of edgekit's own, or of a library's: the user hears where, not that a worker died."""
    if isinstance(bug, EdgekitError):
        return bug
    place = traceback.extract_tb(bug.__traceback__)[-1]
    return EdgekitError(
        "this should not have happened",
        where=f"{Path(place.filename).name}, line {place.lineno}, in {place.name}",
        got=f"{type(bug).__name__}: {bug}",
        hint="please report it, with the command",
    )


def _tell(variant: Variant, report: Listener, station: str) -> None:
    report(Stage(variant, station))


def gate(found: Manifest, name: str) -> GateFailed | None:
    """What the variant failed at, as an error that names the rung or the engine; None when everything passed."""
    rung = found.parity.first_failure()
    if rung is not None:
        reasons = [r.reason for r in found.parity.rungs if r.name == rung and r.reason]
        chaotic = rung in ("pytorch-fp32", "liveness") and found.weights.kind == "seed"
        return GateFailed(
            f"parity failed at rung {rung}",
            where=name,
            got=reasons[0] if reasons else _why(found, rung),
            hint="random weights make some networks amplify every rounding: try trained ones" if chaotic else None,
        )
    for engine in found.engines:
        if engine.status == "failed":
            return GateFailed(f"the engine for profile {engine.profile} failed", where=name, got=engine.reason)
    return None


def _why(found: Manifest, gate_name: str) -> str:
    if gate_name == "liveness":
        live = found.parity.liveness
        return (
            f"the outputs vary by {live.spread:.2g} of their size from input to input; comparing them would need "
            f"{live.wanted:.2g}: a network that ignores its input agrees with anything"
        )
    return next((check.reason or "" for check in found.parity.batch if gate_name.endswith(check.name)), "")
