"""The helper processes of one worker: native code on somebody's graph runs there, not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit import engines, isolation
from edgekit.engines.builder import Builder
from edgekit.graph.simplify import Simplified, Simplifier
from edgekit.manifest import Engine
from edgekit.plan import Precision
from edgekit.profile import ExportProfile

# A dynamic batch is built for one row at the least; the middle is what the builder optimises for.
DYNAMIC_BATCH = (1, 8, 32)
SMALLEST_SIDE = 17  # of the one reference network that leaves its size open


class Helpers:
    """Started before PyTorch is imported, so that their own imports cost no time; with `turns`, so that they do not
    take its core from it either. To be closed.
    """

    def __init__(
        self, profiles: Sequence[ExportProfile], simplify: bool = True, turns: isolation.Turns | None = None
    ) -> None:
        self.simplifier = Simplifier()
        self._simplifying: object = None  # what was begun last
        flavours = {used.flavour for used in profiles if used.flavour != "none" and used.where == "here"}
        self.builders: dict[str, Builder] = {name: engines.flavour(name).builder() for name in flavours}
        if simplify:
            self.simplifier.start(turns)
        for builder in self.builders.values():
            if builder.flavour.missing() is None:
                builder.start(turns)

    def simplify(self, model: bytes) -> Callable[[], Simplified]:
        """Begin to simplify a serialised model; the function returned waits for the result.

        A model before it, whose result nobody has waited for, gives way: what wanted it has failed. Where it is waited
        for all the same, it begins anew.
        """
        self.simplifier.drop()
        self.simplifier.submit(model)
        mine = self._simplifying = object()

        def result() -> Simplified:
            return self.simplifier.result() if self._simplifying is mine else self.simplify(model)()

        return result

    def close(self) -> None:
        """End the processes at once."""
        self.simplifier.close()
        for builder in self.builders.values():
            builder.close()


class EngineBuilds:
    """One variant's engines: the first is built while the ladder is climbed, the others after it.

    `graphs` says which file has which precision. `side` is what an engine for open heights and widths is best at; it
    takes half of that and twice as much.
    """

    def __init__(
        self,
        helpers: Helpers,
        folder: Path,
        batch: int | None,
        graphs: dict[str, str],
        side: int | None = None,
    ) -> None:
        self.helpers, self.folder, self.batch, self.graphs, self.side = helpers, folder, batch, graphs, side
        self.wanted: list[tuple[ExportProfile, Precision]] = []
        self.pending: engines.PendingEngine | None = None

    def start(self, wanted: Sequence[tuple[ExportProfile, Precision]]) -> None:
        """Begin with the first of these engines; what was begun before, from other graphs, is thrown away."""
        self.drop()
        self.wanted = list(wanted)
        if self.wanted:
            self.pending = self._begin(*self.wanted[0])

    def finish(self) -> tuple[Engine, ...]:
        """Every engine's record; their files are in the folder."""
        records = []
        for number, (profile, precision) in enumerate(self.wanted):
            pending = self.pending if number == 0 and self.pending else self._begin(profile, precision)
            self.pending = None
            records.append(pending.finish())
        return tuple(records)

    def drop(self) -> tuple[Engine, ...]:
        """Forget what is being built: no engines."""
        if self.pending is not None:
            built = self.pending.finish()
            self.pending = None
            if built.path is not None:
                (self.folder / built.path).unlink()
        return ()

    def _begin(self, profile: ExportProfile, precision: Precision) -> engines.PendingEngine:
        # The FP16 flag of old TensorRTs turns an FP32 graph into FP16; everywhere else the graph itself is typed.
        graph = self.graphs["fp32" if profile.fp16 == "flag" else precision]
        return engines.start_engine(
            profile,
            self.folder / graph,
            self.folder / f"model.{profile.name}.engine",
            precision,
            batch=DYNAMIC_BATCH if self.batch is None else None,
            sides=None if self.side is None else (max(self.side // 2, SMALLEST_SIDE), self.side, 2 * self.side),
            builder=self.helpers.builders.get(profile.flavour),
        )
