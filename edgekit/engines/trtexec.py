"""The trtexec command that builds a profile's engine on the board: every JetPack has trtexec, and it needs no Python.

Source of which option exists when: trtexec's own source at its tags (tests/reference/trtexec_flags.json).
"""

from __future__ import annotations

import shlex

from edgekit.errors import UsageError
from edgekit.manifest import EnginePrecision, TensorSpec
from edgekit.profile import ExportProfile, version_of

PROGRAM = "/usr/src/tensorrt/bin/trtexec"


def build_command(
    profile: ExportProfile,
    onnx: str,
    engine: str,
    precision: EnginePrecision,
    batch: tuple[int, int, int] | None = None,
    inputs: tuple[TensorSpec, ...] = (),
) -> str:
    """One shell line, to be run where `onnx` lies. `batch` (min, opt, max) needs the `inputs` of the graph.

    Raises UsageError for a profile without a TensorRT version, or a dynamic batch without inputs.
    """
    if profile.tensorrt is None:
        raise UsageError("the command depends on the TensorRT version", where=f"profile {profile.name}", got="none")
    version = version_of(profile.tensorrt)
    options = [f"--onnx={onnx}", f"--saveEngine={engine}", *_precision(version, profile.fp16, precision)]
    options += _limits(version, profile.workspace_mib, profile.optimization_level)
    options += _shapes(batch, inputs)
    options.append("--skipInference" if version >= (8, 6) else "--buildOnly")
    return shlex.join([PROGRAM, *options])


def _precision(version: tuple[int, ...], fp16: str, precision: EnginePrecision) -> list[str]:
    """TF32 is off, as in every engine that edgekit builds: FP32 asked is FP32."""
    if fp16 == "flag":
        return ["--noTF32", *(["--fp16"] if precision == "fp16" else [])]
    # From 11 on every network is strongly typed, and the option has no effect.
    return ["--noTF32", *(["--stronglyTyped"] if version < (11,) else [])]


def _limits(version: tuple[int, ...], workspace_mib: int | None, level: int | None) -> list[str]:
    options = []
    if workspace_mib is not None:
        options.append(
            f"--memPoolSize=workspace:{workspace_mib}" if version >= (8, 5) else f"--workspace={workspace_mib}"
        )
    if level is not None:
        options.append(f"--builderOptimizationLevel={level}")
    return options


def _shapes(batch: tuple[int, int, int] | None, inputs: tuple[TensorSpec, ...]) -> list[str]:
    if batch is None:
        return []
    if not inputs:
        raise UsageError("a dynamic batch needs the graph's inputs", got="none", wanted="their names and shapes")
    return [
        f"--{which}Shapes=" + ",".join(f"{spec.name}:{'x'.join(map(str, (size, *spec.shape[1:])))}" for spec in inputs)
        for which, size in zip(("min", "opt", "max"), batch, strict=True)
    ]
