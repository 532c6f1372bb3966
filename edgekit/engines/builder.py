"""A builder of plans in a process of its own, whatever TensorRT that process speaks to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from edgekit.engines.plan import read_plan_header
from edgekit.engines.request import BuildRequest, BuiltEngine, Probe, Probed, partial_path
from edgekit.errors import EdgekitError, MachineLacks
from edgekit.isolation import Isolated, IsolationFailed, Turns

PROBE_S = 60.0


@dataclass(frozen=True)
class Flavour:
    """One of the two TensorRTs: what a profile calls it, its package, how to get that, how long a build may take."""

    flavour: str
    name: str
    package: str
    install: str
    timeout_s: float

    def builder(self, timeout_s: float | None = None) -> Builder:
        """A builder in a process of its own, not started yet; `timeout_s` limits each build."""
        return Builder(self, self.timeout_s if timeout_s is None else timeout_s)

    def missing(self) -> str | None:
        """What is not installed, found without starting anything; None when it all is there."""
        for package in (self.package, "polygraphy"):
            if find_spec(package) is None:
                return f"the Python package {package} is not installed"
        return None

    def available(self) -> str | None:
        """Why nothing can be built here, None when it can; loads the package in a process of its own (0.5 s)."""
        if (reason := self.missing()) is not None:
            return reason
        try:
            with self.builder() as probing:
                return probing.probe().lacking
        except EdgekitError as error:
            return error.got or error.what

    def build(self, request: BuildRequest) -> BuiltEngine:
        """Build one plan in a process for it alone. Raises what Builder.result and `check_installed` do."""
        self.check_installed()
        with self.builder() as building:
            return building.build(request)

    def check_installed(self) -> None:
        """Raise MachineLacks where a package is not installed."""
        if (reason := self.missing()) is not None:
            raise MachineLacks(f"{self.name} cannot build here", got=reason, hint=self.install)


class Builder:
    """A TensorRT in a process that starts at `start` (or on first use) and builds one plan after another."""

    def __init__(self, flavour: Flavour, timeout_s: float) -> None:
        self.flavour = flavour
        self.timeout_s = timeout_s
        self._request: BuildRequest | None = None
        self._isolated = Isolated(
            "edgekit.engines.worker:serve_request",
            what=f"the {flavour.name} builder",
            environment={"POLYGRAPHY_USE_TENSORRT_RTX": str(int(flavour.package == "tensorrt_rtx"))},
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        return self._isolated.pid

    def start(self, turns: Turns | None = None) -> None:
        """Let the process load TensorRT while this one does something else; with `turns`, in its turn."""
        self._isolated.start(turns)

    def probe(self) -> Probed:
        """Whether this machine could build. Raises MachineLacks where TensorRT cannot even be imported."""
        probed = self._isolated.call(Probe(), PROBE_S)
        assert isinstance(probed, Probed)
        return probed

    def submit(self, request: BuildRequest) -> None:
        """Begin to build; returns at once."""
        # The process keeps the folder in which it was started, whatever becomes of this one's.
        absolute = replace(request, onnx_path=request.onnx_path.absolute(), out_path=request.out_path.absolute())
        self._isolated.submit(absolute)
        self._request = request

    def result(self) -> BuiltEngine:
        """The plan that was submitted, on disk and checked by its header.

        Raises InputUnusable for a graph that cannot be built, PrecisionMismatch where the network is not what was asked
        for, UsageError for contradictions, MachineLacks, and IsolationFailed when the builder crashes on the graph or
        takes longer than `timeout_s` seconds. After a failure there is no file.
        """
        assert self._request is not None, "nothing was submitted"
        request, pid = self._request, self.pid
        try:
            built = self._isolated.result(self.timeout_s)
        except IsolationFailed as error:
            _remove_partial(request, pid)
            hint = "simplify the graph, or build it for fewer targets; edgekit lint may name the cause"
            got = error.got or error.where
            raise IsolationFailed(error.what, where=str(request.onnx_path), got=got, hint=hint) from error
        finally:
            self._request = None
        assert isinstance(built, BuiltEngine)
        built = replace(built, path=request.out_path)
        self._check_header(built)
        return built

    def build(self, request: BuildRequest) -> BuiltEngine:
        """`submit` and `result` in one."""
        self.submit(request)
        return self.result()

    def release(self) -> None:
        """Let go of the process without ending it: a worker forked after `start` has it from now on."""
        self._isolated.release()

    def close(self) -> None:
        """End the process at once; a plan in the making leaves nothing behind."""
        pid = self.pid
        self._isolated.close()
        if self._request is not None:
            _remove_partial(self._request, pid)
            self._request = None

    def _check_header(self, built: BuiltEngine) -> None:
        """What was asked is what was built: the file's own header must agree."""
        header = read_plan_header(built.path)
        wanted = (self.flavour.flavour, built.bytes, set(built.targets) if header.targets else set())
        found = (header.flavour, header.size, set(header.targets))
        if wanted != found:
            built.path.unlink()
            raise EdgekitError(
                "the plan is not what was asked for", where=str(built.path), got=str(found), wanted=str(wanted)
            )


def _remove_partial(request: BuildRequest, pid: int | None) -> None:
    """What a builder that was killed in the middle of writing has left."""
    if pid is not None:
        partial_path(request.out_path, pid).unlink(missing_ok=True)
