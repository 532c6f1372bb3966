"""ONNX in, plan out: one short file per TensorRT, found by the flavour that a profile names. Nothing heavy is imported.

A profile that builds nothing here, or cannot, is no error: the Engine says why and where it can be built.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from edgekit.engines.builder import Builder, Flavour
from edgekit.engines.receipt import PrecisionMismatch
from edgekit.engines.request import BuildRequest
from edgekit.engines.trtexec import build_command
from edgekit.errors import EdgekitError, MachineLacks
from edgekit.manifest import Engine, EnginePrecision, TensorSpec
from edgekit.profile import ExportProfile

Batch = tuple[int, int, int]  # min, opt, max


class PendingEngine:
    """An engine that is being built in its builder's process; `finish` waits for it."""

    def __init__(self, engine: Engine, builder: Builder | None = None, *, owned: bool = False) -> None:
        self._engine = engine
        self._builder = builder
        self._owned = owned

    def finish(self) -> Engine:
        """What became of it; to be called once. Raises nothing that is only this engine's failure."""
        if self._builder is None:
            return self._engine
        try:
            built = self._builder.result()
        except EdgekitError as error:
            return _unbuilt(self._engine, error)
        finally:
            if self._owned:
                self._builder.close()
        return replace(
            self._engine,
            status="built",
            path=built.path.name,
            bytes=built.bytes,
            sha256=built.sha256,
            receipt=built.receipt,
            reason=built.receipt.reason,
            builder=built.tensorrt_version,
            seconds=round(built.seconds, 3),
        )


def flavour(name: str) -> Flavour:
    """The TensorRT that a profile calls by this name: "tensorrt-rtx" lives in rtx.py, "tensorrt" in tensorrt.py."""
    module = importlib.import_module(f"edgekit.engines.{name.rpartition('-')[2]}")
    found = module.FLAVOUR
    assert isinstance(found, Flavour)
    assert found.flavour == name
    return found


def build_engine(
    profile: ExportProfile,
    onnx_path: Path,
    out_path: Path,
    precision: EnginePrecision,
    *,
    batch: Batch | None = None,
    sides: Batch | None = None,
    inputs: tuple[TensorSpec, ...] = (),
    builder: Builder | None = None,
) -> Engine:
    """Build the profile's engine from an ONNX file whose types are of that precision, if it is to be built here.

    `batch` (min, opt, max) is for graphs with a dynamic batch, `sides` for open heights and widths. `inputs` of the
    graph complete the command for a board. `builder` is a running one of the profile's flavour; without it, one is
    started for this engine.
    """
    return start_engine(
        profile, onnx_path, out_path, precision, batch=batch, sides=sides, inputs=inputs, builder=builder
    ).finish()


def start_engine(
    profile: ExportProfile,
    onnx_path: Path,
    out_path: Path,
    precision: EnginePrecision,
    *,
    batch: Batch | None = None,
    sides: Batch | None = None,
    inputs: tuple[TensorSpec, ...] = (),
    builder: Builder | None = None,
) -> PendingEngine:
    """`build_engine` that returns while the builder is at work; a builder has one engine in hand at a time."""
    engine = Engine(profile.name, profile.flavour, profile.targets, "not-here")
    if profile.flavour == "none":
        return PendingEngine(replace(engine, reason=f"profile {profile.name} runs ONNX and builds no engine"))
    if profile.where == "board":
        return PendingEngine(
            replace(engine, reason=_on_the_board(profile, onnx_path, out_path, precision, batch, inputs))
        )
    try:
        flavour(profile.flavour).check_installed()
        request = _request(profile, onnx_path, out_path, precision, batch, sides)
        used = builder or flavour(profile.flavour).builder()
        used.submit(request)
    except EdgekitError as error:
        return PendingEngine(_unbuilt(engine, error))
    return PendingEngine(engine, used, owned=builder is None)


def _request(
    profile: ExportProfile,
    onnx_path: Path,
    out_path: Path,
    precision: EnginePrecision,
    batch: Batch | None,
    sides: Batch | None,
) -> BuildRequest:
    return BuildRequest(
        onnx_path,
        out_path,
        precision,
        profile.targets,
        batch,
        profile.fp16,
        profile.workspace_mib,
        profile.optimization_level,
        sides,
    )


def _unbuilt(engine: Engine, error: EdgekitError) -> Engine:
    details = "; ".join(f"{label}: {text}" for label, text in error.details())
    reason = f"{error.what} ({details})" if details else error.what
    if isinstance(error, MachineLacks):
        elsewhere = f"on a machine that has it: edgekit build DIR --profile {engine.profile}"
        return replace(engine, status="not-here", reason=f"{reason}; {elsewhere}")
    receipt = error.receipt if isinstance(error, PrecisionMismatch) else None
    return replace(engine, status="failed", reason=reason, receipt=receipt)


def _on_the_board(
    profile: ExportProfile,
    onnx_path: Path,
    out_path: Path,
    precision: EnginePrecision,
    batch: Batch | None,
    inputs: tuple[TensorSpec, ...],
) -> str:
    command = build_command(profile, onnx_path.name, out_path.name, precision, batch, inputs)
    jetpack = f" (JetPack {profile.board.jetpack})" if profile.board else ""
    return f"built on the board itself, by its own TensorRT {profile.tensorrt}{jetpack}: {command}"
