"""Builds plans with TensorRT or TensorRT-RTX, whichever this process was started for; nothing else imports this file.

A graph can kill TensorRT (a chain of 3000 unary nodes overflows its stack), so this runs isolated: `builder.Builder`
is the caller's side. Polygraphy speaks to every version from 8.5 on and to RTX; what is done by hand is what it leaves
out: naming the node that cannot be parsed, and looking at the network before building it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polygraphy.backend.trt import CreateConfig, CreateNetwork, EngineBytesFromNetwork, Profile, get_trt_logger
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from edgekit.engines.receipt import Layer, PrecisionMismatch, allowed_by_flag, judge
from edgekit.engines.request import BuildRequest, BuiltEngine, Probe, Probed, capability, partial_path
from edgekit.engines.screen import Screened, screen
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.manifest import Receipt, disk_errors
from edgekit.profile import opset_limit

RTX = os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX") == "1"
NAME = "TensorRT-RTX" if RTX else "TensorRT"
trt = importlib.import_module("tensorrt_rtx" if RTX else "tensorrt")

# Believed: the parser of RTX 1.7.1 knows the ONNX IR versions of ONNX 1.20, whose opset is 25, as that of 11.x does.
RTX_MAX_OPSET = 25
COMPUTE_LAYERS = frozenset({"CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY", "EINSUM"})
DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
# Without a driver, TensorRT complains of its absence behind every other error; Polygraphy repeats that one happened.
NOISE = re.compile(r".*catchCudaError.*cudaError 35\b.*|.*initialization failure with error: 35\b.*|Invalid Engine\..*")
SOURCE_PLACES = re.compile(r"\[\w+\.cpp:\d+: \w+\] | In [\w()]+ at /_src/[\w/.]+:\d+")
HINTS = (
    (re.compile(r"Turing \(SM75\)"), "leave sm75 out of the targets, or build in fp16 for it"),
    (re.compile("workspace"), "give the profile a larger workspace_mib, or none"),
)
MAX_LOG_LINES = 50
MIB = 1 << 20

Builder = Any  # TensorRT has no type stubs; its classes are checked by name in tests/engines/test_tensorrt_api.py
Network = Any
Parser = Any
BuilderConfig = Any


def serve_request(request: object) -> BuiltEngine | Probed:
    """Answer a Probe or a BuildRequest.

    Raises InputUnusable for a graph that TensorRT refuses, PrecisionMismatch where the network is not what was asked,
    UsageError for a target that this TensorRT does not have, MachineLacks where it cannot build at all.
    """
    lacking = _lacking()
    if isinstance(request, Probe):
        return Probed(getattr(trt, "__version__", None), lacking)
    assert isinstance(request, BuildRequest)
    if lacking is not None:
        raise MachineLacks(f"{NAME} cannot build here", got=lacking, hint="edgekit doctor tells more")
    return _build(request)


def _lacking() -> str | None:
    if not hasattr(trt, "Builder"):  # the package tensorrt-stubs installs such a thing
        return f"the Python package {trt.__name__} is an empty shell: it has no Builder"
    return None if RTX else _missing_gpu()


def _missing_gpu() -> str | None:
    """Why there is no CUDA device, None when there is one. TensorRT itself says it in worse words."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 is not there)"
    code = cuda.cuInit(0)
    if code != 0:
        return f"the NVIDIA driver does not start (CUDA error {code})"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "no NVIDIA GPU"


def _build(request: BuildRequest) -> BuiltEngine:
    start = time.perf_counter()
    _check_targets(request.targets)
    screened = screen(request.onnx_path, RTX_MAX_OPSET if RTX else opset_limit(_major_minor()))
    typed = _strongly_typed(request)
    with _captured_log() as log:
        builder, network = CreateNetwork(strongly_typed=typed)()
        _parse(network, request.onnx_path, screened, log)
        receipt = _receipt(request, screened, list(_layers(network)), typed)
        if not receipt.passed:
            raise PrecisionMismatch(receipt, str(request.onnx_path))
        plan = _compile(builder, network, request, log)
    sha256 = _write(plan, request.out_path)
    return BuiltEngine(
        request.out_path,
        len(plan),
        sha256,
        request.targets,
        receipt,
        trt.__version__,
        time.perf_counter() - start,
        tuple(log[:MAX_LOG_LINES]),
    )


def _receipt(request: BuildRequest, screened: Screened, layers: list[Layer], typed: bool) -> Receipt:
    if request.precision == "fp16" and not typed:
        return allowed_by_flag(layers)
    return judge(request.precision, screened.layers, layers, screened.kept_fp32)


def _major_minor() -> str:
    return ".".join(trt.__version__.split(".")[:2])


def _check_targets(targets: tuple[str, ...]) -> None:
    """RTX compiles for the targets named; full TensorRT for the GPU that is here."""
    if not RTX:
        return
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    missing = [target for target in targets if target not in known]
    if missing or not targets:
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} cannot compile for these targets",
            got=", ".join(missing) or "none",
            wanted=f"some of {', '.join(sorted(known, key=capability))}",
        )


class _Collector(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += _meaningful(record.getMessage())


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """What TensorRT and Polygraphy say from a warning upwards, without the noise; nothing is printed."""
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.WARNING
    G_LOGGER.letter = G_LOGGER.colors = False
    G_LOGGER.once_logged.clear()  # what it said once about another graph, it may say again about this one
    logger = logging.getLogger("Polygraphy")
    logger.propagate = False
    collector = _Collector()
    logger.addHandler(collector)
    try:
        yield collector.lines
    finally:
        logger.removeHandler(collector)


def _meaningful(message: str) -> list[str]:
    """The lines that are about the graph, without the places in TensorRT's own source."""
    lines = [line.strip() for line in message.splitlines()]
    return [SOURCE_PLACES.sub("", line) for line in lines if line and not NOISE.fullmatch(line)]


def _parse(network: Network, path: Path, screened: Screened, log: list[str]) -> None:
    trt.init_libnvinfer_plugins(get_trt_logger(), "")
    parser = trt.OnnxParser(network, get_trt_logger())
    parsed = parser.parse_from_file(str(path))
    if parser.num_errors or not parsed:
        raise _parse_failure(parser, path, screened, log)
    # It takes text and noise for an empty network, and says that it went well.
    if network.num_layers == 0 or network.num_outputs == 0:
        raise InputUnusable(
            f"{NAME} found no network in the ONNX model",
            where=str(path),
            got=f"{network.num_layers} layers, {network.num_outputs} outputs",
            wanted="at least one of each",
        )


def _parse_failure(parser: Parser, path: Path, screened: Screened, log: list[str]) -> InputUnusable:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    complaints = list(dict.fromkeys(_complaint(error, screened) for error in errors)) or log or ["it does not say why"]
    return InputUnusable(
        f"{NAME} cannot use this graph",
        where=str(path),
        got="; ".join(complaints[:4]) + (f"; and {len(complaints) - 4} more" if len(complaints) > 4 else ""),
        wanted=f"operators that {NAME} {trt.__version__} supports",
        hint="edgekit lint names what a target does not take",
    )


def _complaint(error: Any, screened: Screened) -> str:
    """Operator, node and reason: TensorRT's own text can be just "false"."""
    index = error.node()
    op, name = screened.nodes[index] if 0 <= index < len(screened.nodes) else ("", "")
    if hasattr(error, "node_operator"):  # from 10 on; right inside subgraphs too
        op, name = error.node_operator() or op, error.node_name() or name
    reason = "; ".join(_meaningful(error.desc())).removeprefix("Assertion failed: ")
    if reason in ("", "false"):
        reason = "it is not supported"
    elif "Plugin not found" in reason:
        reason = "it is neither an operator nor a plugin known to this TensorRT"
    return f"{op} {name!r}: {reason}" if op else reason


def _layers(network: Network) -> Iterator[Layer]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            tensor = layer.get_output(0)
            kind = layer.type.name
            yield Layer(_onnx_name(layer), kind, DTYPES.get(tensor.dtype.name, "other"), kind in COMPUTE_LAYERS)


def _onnx_name(layer: Any) -> str:
    """The name of the node that a layer came from; TensorRT numbers the layers of a node with several."""
    match = re.fullmatch(r"\[ONNX Layer: (.*)\]", layer.metadata)
    return match[1] if match else str(layer.name)


def _compile(builder: Builder, network: Network, request: BuildRequest, log: list[str]) -> memoryview:
    create = _config(network, request)
    heard = len(log)
    try:
        plan = EngineBytesFromNetwork((builder, network), config=create)()
    except PolygraphyException as error:
        complaint = "; ".join(log[heard:][-4:]) or str(error)
        raise InputUnusable(
            f"{NAME} cannot build this network",
            where=str(request.onnx_path),
            got=complaint,
            wanted=f"a plan in {request.precision} for {', '.join(request.targets) or 'this GPU'}",
            hint=next((hint for pattern, hint in HINTS if pattern.search(complaint)), None),
        ) from error
    return memoryview(plan).cast("B")


def _config(network: Network, request: BuildRequest) -> Callable[[Builder, Network], BuilderConfig]:
    """A function from builder and network to their configuration, as Polygraphy wants it."""
    common = {
        "profiles": [_profile(network, request)],
        "builder_optimization_level": request.optimization_level,
        "memory_pool_limits": (
            {trt.MemoryPoolType.WORKSPACE: request.workspace_mib * MIB} if request.workspace_mib is not None else None
        ),
    }
    if not RTX:  # this clears TF32 itself
        return CreateConfig(fp16=request.precision == "fp16" and not _strongly_typed(request), **common)  # type: ignore[no-any-return]
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX  # an older Polygraphy for full TensorRT lacks it

    create = CreateConfigRTX(compute_capabilities=[capability(target) for target in request.targets], **common)

    def without_tf32(builder: Builder, network: Network) -> BuilderConfig:
        config = create(builder, network)
        config.clear_flag(trt.BuilderFlag.TF32)  # FP32 asked is FP32, not its top 10 bits of mantissa
        return config

    return without_tf32


def _strongly_typed(request: BuildRequest) -> bool:
    """Whether the graph's own types decide. Raises UsageError for an FP16 mode that this TensorRT does not have."""
    modes = {
        "typed": hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),  # from 9 on, and RTX
        "flag": hasattr(trt.BuilderFlag, "FP16"),  # up to 10
    }
    if request.precision == "fp16" and not modes[request.fp16_mode]:
        raise UsageError(
            f"{NAME} {trt.__version__} has no such way to FP16",
            where="fp16 of the export profile",
            got=request.fp16_mode,
            wanted=" or ".join(mode for mode, exists in modes.items() if exists),
        )
    return modes["typed"] and (request.fp16_mode == "typed" or not modes["flag"])


def _profile(network: Network, request: BuildRequest) -> Profile:
    """The ranges of every input; a graph and a request that contradict each other are refused."""
    profile = Profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if (request.batch is not None and shape[:1] != (-1,)) or not _closes(request, shape):
            raise _contradicts(tensor.name, shape, request)
        sizes = {name: _shape(request, shape, which) for which, name in enumerate(("min", "opt", "max"))}
        profile.add(tensor.name, **sizes)
    return profile


def _closes(request: BuildRequest, shape: tuple[int, ...]) -> bool:
    """Whether the request says something of every axis that is open."""
    return all(size != -1 or _range(request, axis) is not None for axis, size in enumerate(shape))


def _range(request: BuildRequest, axis: int) -> tuple[int, int, int] | None:
    return request.batch if axis == 0 else request.sides if axis in (2, 3) else None


def _shape(request: BuildRequest, shape: tuple[int, ...], which: int) -> tuple[int, ...]:
    ranges = [_range(request, axis) or (size,) * 3 for axis, size in enumerate(shape)]
    return tuple(span[which] if size == -1 else size for size, span in zip(shape, ranges, strict=True))


def _contradicts(name: str, shape: tuple[int, ...], request: BuildRequest) -> UsageError:
    wanted = "static dimensions" if request.batch is None else "a dynamic batch and no other dynamic dimension"
    wanted += "" if request.sides is None else ", height and width aside"
    return UsageError(
        "the graph's input and the batch that was asked for contradict each other",
        where=f"input {name} of {request.onnx_path}",
        got="x".join("?" if size == -1 else str(size) for size in shape) or "a scalar",
        wanted=f"{wanted}, for a batch of {'-'.join(map(str, request.batch)) if request.batch else 'fixed size'}",
        hint="export with --dynamic-batch, or build without a range of batches",
    )


def _write(plan: memoryview, path: Path) -> str:
    """Write the plan whole or not at all; returns its SHA-256 in hex."""
    partial = partial_path(path, os.getpid())
    with disk_errors(path):
        try:
            with partial.open("wb") as file:
                file.write(plan)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return hashlib.sha256(plan).hexdigest()
