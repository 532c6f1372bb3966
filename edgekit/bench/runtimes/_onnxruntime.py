"""Graphs in ONNX Runtime, on whichever provider: tensors bound once, so that a run makes nothing new."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import onnxruntime

from edgekit.bench.record import Placement, Transfers
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes._arrays import check_names, copy_out
from edgekit.bench.runtimes._settings import refuse, refuse_transfers, usable_cores
from edgekit.errors import GateFailed, InputUnusable, MachineLacks, UsageError
from edgekit.parity.metrics import AnyArray, Feeds

# onnxruntime-gpu looks for GPUs while it is imported and warns where there are none; only errors matter here.
onnxruntime.set_default_logger_severity(3)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NO_TF32 = {"use_tf32": "0"}  # as in every engine that edgekit builds: FP32 asked is FP32
GRAPH_OPTION = {CUDA: "enable_cuda_graph", TENSORRT: "trt_cuda_graph_enable"}
Provider = tuple[str, Mapping[str, str]]


@dataclass(frozen=True)
class Threads:
    """`count` threads for one inference; `shared`: from the pool that all sessions of the process have in common."""

    count: int
    spin: bool
    shared: bool


@dataclass
class _SharedPool:
    """ONNX Runtime has one for a process, made once; after that, no session can have threads of its own."""

    count: int | None = None


_pool = _SharedPool()


@dataclass(frozen=True)
class Place:
    """Where a graph is to run. `wanted` must take its nodes; `providers` are asked in this order, the CPU last.

    `device` is where inputs and outputs lie: "cpu", or "cuda" where transfers are left out of the time.
    """

    wanted: str
    providers: tuple[Provider, ...]
    device: str
    transfers: Transfers
    cuda_graph: bool | None = None


ON_CPU = Place(CPU, (), "cpu", "none")


def open_on_cpu(path: Path, settings: Settings) -> OrtRunner:
    """The graph on the CPU alone."""
    refuse(settings, "cuda_graph", "compiled")
    refuse_transfers(settings)
    threads = prepare_threads(settings)
    return OrtRunner(path, ON_CPU, threads, settings.strict)


def open_on_gpu(
    path: Path,
    settings: Settings,
    wanted: str,
    others: tuple[Provider, ...],
    options: Mapping[str, str] | None = None,
) -> OrtRunner:
    """The graph on the provider `wanted`, with `others` for the nodes that it does not take."""
    refuse(settings, "compiled")
    if wanted not in onnxruntime.get_available_providers():
        raise MachineLacks(f"this ONNX Runtime has no {wanted}", hint="pip install onnxruntime-gpu")
    _preload()
    own = NO_TF32 if wanted == CUDA else {}
    graph = {GRAPH_OPTION[wanted]: str(int(bool(settings.cuda_graph)))}
    device, transfers = _where_tensors_lie(settings)
    providers = ((wanted, {**own, **graph, **(options or {})}), *others)
    place = Place(wanted, providers, device, transfers, bool(settings.cuda_graph))
    threads = prepare_threads(replace(settings, threads=settings.threads or 1))
    return OrtRunner(path, place, threads, settings.strict)


def _where_tensors_lie(settings: Settings) -> tuple[str, Transfers]:
    transfers = settings.transfers or ("excluded" if settings.cuda_graph else "included")
    if transfers == "none" or (settings.cuda_graph and transfers == "included"):
        raise UsageError(
            "these transfers do not go with a CUDA graph" if settings.cuda_graph else "a GPU has transfers",
            got=transfers,
            wanted="excluded" if settings.cuda_graph else "included or excluded",
        )
    return ("cuda" if transfers == "excluded" else "cpu"), transfers


def _preload() -> None:
    """Load the libraries of CUDA and TensorRT where pip has put them: the loader would not look there."""
    with contextlib.suppress(ImportError):
        importlib.import_module("tensorrt")
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def prepare_threads(settings: Settings) -> Threads:
    """The threads that the settings ask for; the first time, the pool of the process is made.

    Raises UsageError where this process already has a pool and the settings are others, MachineLacks where this ONNX
    Runtime cannot share one.
    """
    count = settings.threads or usable_cores()
    spin = count > 1 and settings.spin is not False  # one thread is the caller's own: nobody waits
    if spin and _pool.count is None:
        _make_pool(count)
    if _pool.count is not None and (count, spin) != (_pool.count, True):
        raise UsageError(
            "all sessions of a process share one pool of threads",
            got=f"{count} threads{'' if spin else ' that do not spin'}",
            wanted=f"{_pool.count} that spin, as before",
            hint="measure each number of threads in a process of its own",
        )
    return Threads(count, spin, shared=spin)


def _make_pool(count: int) -> None:
    if not hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        raise MachineLacks(
            "this ONNX Runtime's sessions cannot share their threads",
            got=onnxruntime.__version__,
            hint="pip install -U onnxruntime, or measure without spinning, or with one thread",
        )
    onnxruntime.set_global_thread_pool_sizes(count, 1)
    _pool.count = count


def load(
    path: Path, place: Place, threads: Threads, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A session with the graph. Raises InputUnusable where ONNX Runtime refuses it."""
    providers = [(name, dict(settings)) for name, settings in place.providers] + [(CPU, {})]
    try:
        # Without enable_fallback=0, a provider that fails is replaced by another, with no more than a printed line.
        return onnxruntime.InferenceSession(
            str(path), options or _options(threads), providers=providers, enable_fallback=0, read_config_from_model=0
        )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise InputUnusable("ONNX Runtime cannot load the graph", where=str(path), got=str(error).strip()) from error


def _options(threads: Threads) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as an error, too
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads.count
    options.use_per_session_threads = not threads.shared
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.spin)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def find_placement(
    session: onnxruntime.InferenceSession, path: Path, place: Place, threads: Threads
) -> Placement | None:
    """How many nodes each provider was given, None where it cannot be found out.

    They are counted when they are shared out: constants are folded by then, and neighbours not yet fused. An ONNX
    Runtime that does not tell is profiled for one run, in a session of its own; it counts what is left after fusing.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return _profiled(path, place, threads)
    counted: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counted[part.ep_name] += len(part.get_nodes())
    return Placement(dict(counted))


def _profiled(path: Path, place: Place, threads: Threads) -> Placement | None:
    with tempfile.TemporaryDirectory() as folder:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = load(path, place, threads, options)
        try:
            session.run(None, {value.name: _zeros(value) for value in session.get_inputs()})
        except Exception:  # it may not run on zeros: then nothing is known
            return None
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {event["name"]: event["args"]["provider"] for event in events if "provider" in event.get("args", {})}
    return Placement(dict(Counter(nodes.values()))) if nodes else None


def _zeros(value: onnxruntime.NodeArg) -> AnyArray:
    """What an input takes, with one row where an axis is open."""
    words = {"float": "float32", "double": "float64"}
    word = value.type.removeprefix("tensor(").removesuffix(")")
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    return np.zeros(shape, np.dtype(words.get(word, word)))


def check_placement(
    wanted: str, found: Placement | None, active: Sequence[str], where: str, *, strict: bool = False
) -> None:
    """Raise GateFailed where `wanted` is not among the `active` providers or took no node; if `strict`, where it did
    not take every node, or nobody can say.
    """
    if wanted not in active:
        raise _elsewhere(where, f"only {', '.join(active)}", wanted, "edgekit doctor tells which providers really work")
    if found is None:
        if strict and list(active) != [wanted]:
            raise _elsewhere(where, "this ONNX Runtime does not tell", wanted, "pip install -U onnxruntime")
        return
    if found.share(wanted) == 0.0 or (strict and found.share(wanted) < 1.0):
        shares = ", ".join(f"{count} nodes on {name}" for name, count in sorted(found.nodes.items()))
        raise _elsewhere(where, shares or "no nodes", wanted, None)


def _elsewhere(where: str, got: str, wanted: str, hint: str | None) -> GateFailed:
    return GateFailed(
        "the graph does not run where it was asked to", where=where, got=got, wanted=f"all of it on {wanted}", hint=hint
    )


@dataclass(frozen=True)
class _Bound:
    """What is bound: the inputs by name, whose memory stays where it is; `arrays` is that memory on the CPU."""

    binding: onnxruntime.IOBinding
    inputs: Mapping[str, onnxruntime.OrtValue]
    arrays: Mapping[str, AnyArray]


class OrtRunner:
    """A graph in a session with its inputs and outputs bound; raises as `load` and `check_placement`. See `Runner`."""

    def __init__(self, path: Path, place: Place, threads: Threads, strict: bool = False) -> None:
        self._session, self._place = load(path, place, threads), place
        self.placement = find_placement(self._session, path, place, threads)
        check_placement(place.wanted, self.placement, self._session.get_providers(), str(path), strict=strict)
        self.transfers, self.cuda_graph = place.transfers, place.cuda_graph
        self.threads: int | None = threads.count
        self.spin: bool | None = threads.spin
        self._bound: _Bound | None = None

    def feed(self, feeds: Feeds) -> None:
        """Bind the inputs, and room for the outputs, whose shapes one run tells; the next of the same shapes go to the
        same places, where a CUDA graph looks for them. Raises InputUnusable where the graph cannot be run on them.
        """
        check_names(feeds, [value.name for value in self._session.get_inputs()])
        try:
            if self._bound is not None and _alike(self._bound.arrays, feeds):
                for name, value in self._bound.inputs.items():
                    value.update_inplace(np.ascontiguousarray(feeds[name]))
            else:
                self._bound = self._bind(feeds)
        except Exception as error:
            raise InputUnusable("ONNX Runtime cannot run the graph", got=str(error).strip()) from error

    def _bind(self, feeds: Feeds) -> _Bound:
        device, binding = self._place.device, self._session.io_binding()
        # Copies: whoever fed them may change them.
        arrays = {value.name: np.array(feeds[value.name], order="C") for value in self._session.get_inputs()}
        make = onnxruntime.OrtValue.ortvalue_from_numpy
        inputs = {name: make(array, device_type=device) for name, array in arrays.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding)
        for name, result in zip(names, binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, result)
        return _Bound(binding, inputs, arrays)

    def sample(self, count: int) -> Sequence[float]:
        """Seconds of `count` runs by the host's clock; on a GPU, until it has finished."""
        run, binding, clock = self._session.run_with_iobinding, self._binding(), perf_counter_ns
        starts, ends = [0] * count, [0] * count
        for number in range(count):
            starts[number] = clock()
            run(binding)
            ends[number] = clock()
        return [(end - start) * 1e-9 for start, end in zip(starts, ends, strict=True)]

    def outputs(self) -> Mapping[str, AnyArray]:
        """One more run's outputs by name, as copies."""
        binding = self._binding()
        self._session.run_with_iobinding(binding)
        names = [value.name for value in self._session.get_outputs()]
        arrays = binding.copy_outputs_to_cpu()
        return {name: copy_out(array) for name, array in zip(names, arrays, strict=True)}

    def _binding(self) -> onnxruntime.IOBinding:
        if self._bound is None:
            raise UsageError("nothing was fed yet", wanted="feed() before the first run")
        return self._bound.binding

    def close(self) -> None:
        """Let go of the session; the shared threads stay."""
        self._bound = None
        self._session = None


def _alike(bound: Mapping[str, AnyArray], feeds: Feeds) -> bool:
    return all(bound[name].shape == feeds[name].shape and bound[name].dtype == feeds[name].dtype for name in bound)
