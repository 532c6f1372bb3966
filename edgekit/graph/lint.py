"""What a target will not take, and what an exported graph should not still hold, found without building anything.

Every rule is a function over one graph; RULES lists them all. Linear in the number of nodes, plus one pass over the
weights. Nothing here runs the graph or reads external data.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    ValueInfoProto,
    numpy_helper,
)

from edgekit.profile import MAX_OPSET, MIN_OPSET, ExportProfile, opset_limit, version_of

DEFAULT_DOMAINS: Final = ("", "ai.onnx")
MAX_FP16: Final = 65504.0
FLUSHED_BY_FP16: Final = 2.0**-25  # half the smallest subnormal: anything up to this rounds to zero
MAX_FLUSHED: Final = 0.01  # of a tensor's non-zero weights; a few tiny ones are in every trained network
MAX_NAMED: Final = 4  # places that one finding lists by name

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
SIMPLIFY: Final = "simplify the graph (edgekit export does)"

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to know before going to the target: an error is refused there or computes something else."""

    severity: Severity
    rule: str
    where: str
    message: str
    hint: str


@dataclass(frozen=True)
class OperatorLimit:
    """An operator, or one use of it, that TensorRT below a version does not take."""

    op: str
    below: tuple[int, ...]  # the first TensorRT version that takes it
    applies: Callable[[NodeProto, frozenset[str]], bool]  # the node, and the names of all constants
    message: str
    hint: str


def _always(_node: NodeProto, _constants: frozenset[str]) -> bool:
    return True


def _reflects(node: NodeProto, _constants: frozenset[str]) -> bool:
    return any(attribute.name == "mode" and attribute.s == b"reflect" for attribute in node.attribute)


def _scale_or_bias_is_computed(node: NodeProto, constants: frozenset[str]) -> bool:
    return any(name not in constants for name in node.input[1:3])


# The versions are those of tests/reference/jetson.json; a test holds them to it.
OPERATOR_LIMITS: Final = (
    OperatorLimit("Pad", (8, 2), _reflects, "Pad with mode=reflect", "pad with zeros, or slice and concatenate"),
    OperatorLimit(
        "InstanceNormalization",
        (8, 6),
        _scale_or_bias_is_computed,
        "InstanceNormalization (a plugin before 8.6) with a computed scale or bias",
        "make scale and bias initializers",
    ),
    OperatorLimit(
        "HardSwish", (8, 4), _always, "HardSwish", "export at opset 13, which writes it as simpler operators"
    ),
)


@dataclass(frozen=True)
class Scan:
    """One graph of a model, looked over once, so that no rule has to search: what it holds and what uses what."""

    model: ModelProto
    profile: ExportProfile | None
    graph: GraphProto
    path: str  # "" for the main graph, "If_3/then_branch" for one inside a node
    labels: tuple[str, ...]  # what to call each node in a message
    uses: tuple[frozenset[str], ...]  # per node: the tensors it reads, its subgraphs included
    readers: dict[str, list[int]]  # tensor -> nodes that read it
    makers: dict[str, int]  # tensor -> node that makes it
    inputs: tuple[ValueInfoProto, ...]  # what a caller feeds: without those that are initializers
    initializers: frozenset[str]
    constants: frozenset[str]  # initializers and outputs of Constant nodes, those of outer graphs included
    outputs: frozenset[str]

    def at(self, what: str) -> str:
        return f"{self.path}/{what}" if self.path else what

    def targets_tensorrt(self) -> bool:
        return self.profile is not None and self.profile.flavour != "none"

    def tensorrt_below(self, version: tuple[int, ...]) -> bool:
        known = self.profile.tensorrt if self.profile else None
        return known is not None and version_of(known) < version


def lint(model: ModelProto, profile: ExportProfile | None = None) -> list[Finding]:
    """All findings, errors first; those about a target need its `profile`. Takes any model, however odd.

    Weights in external files that were not loaded are reported as unchecked.
    """
    findings = [*_opset(model, profile), *_local_functions(model), *_broken_names(model)]
    if not any(finding.rule == "broken-name" for finding in findings):
        for scan in _scans(model, profile):
            rules = RULES if scan.path else (*RULES, *INTERFACE_RULES)
            findings += itertools.chain.from_iterable(rule(scan) for rule in rules)
    return sorted(findings, key=lambda finding: finding.severity)


# --- the model as a whole


def _opset(model: ModelProto, profile: ExportProfile | None) -> Iterator[Finding]:
    versions = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    if not versions:
        yield _error("opset", "opset_import", "the model names no opset of the default domain", "export it again")
        return
    opset, limit, whose = versions[0], *_opset_limit(profile)
    if opset < MIN_OPSET:
        yield _error("opset", "opset_import", f"opset {opset} is older than {MIN_OPSET}", "export at a newer opset")
    elif opset > limit:
        yield _error("opset", "opset_import", f"opset {opset} is above {limit}, the newest {whose}", _at_opset(profile))
    elif profile is not None and opset > profile.opset:
        message = f"opset {opset} is above the {profile.opset} of the profile {profile.name}"
        yield _warning("opset", "opset_import", message, _at_opset(profile))


def _opset_limit(profile: ExportProfile | None) -> tuple[int, str]:
    if profile is None or profile.flavour == "none":
        return onnx.defs.onnx_opset_version(), f"that onnx {onnx.__version__} knows"
    if profile.tensorrt is None:
        return MAX_OPSET, "that any TensorRT parses"
    return opset_limit(profile.tensorrt), f"that TensorRT {profile.tensorrt} parses"


def _at_opset(profile: ExportProfile | None) -> str:
    return f"export at opset {profile.opset if profile else 17}"


def _local_functions(model: ModelProto) -> Iterator[Finding]:
    if model.functions:
        names = _listed([str(function.name) for function in model.functions])
        message = f"{len(model.functions)} model-local functions: {names}"
        yield _warning("local-function", "functions", message, "inline them: onnx.inliner.inline_local_functions")


def _broken_names(model: ModelProto) -> Iterator[Finding]:
    """Names that are not UTF-8, which protobuf hands over as bytes: nothing can be looked up by such a name."""
    broken = [repr(name) for name in _names(model.graph) if type(name) is not str]
    if broken:
        message = f"{len(broken)} names are not UTF-8 text; nothing else was checked"
        yield _error("broken-name", _listed(broken), message, "the file is damaged: export it again")


def _names(graph: GraphProto) -> Iterator[str]:
    yield graph.name
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    yield from _initializer_names(graph)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for _, inner in _subgraphs(node):
            yield from _names(inner)


# --- rules for every graph: what it holds


def _operators(scan: Scan) -> Iterator[Finding]:
    limits = [limit for limit in OPERATOR_LIMITS if scan.tensorrt_below(limit.below)]
    for node, label in zip(scan.graph.node, scan.labels, strict=True):
        for limit in limits:
            if node.op_type == limit.op and node.domain in DEFAULT_DOMAINS and limit.applies(node, scan.constants):
                assert scan.profile is not None  # or there were no limits
                first = ".".join(map(str, limit.below))
                message = f"TensorRT {scan.profile.tensorrt} does not take {limit.message}; {first} does"
                yield _error("operator", scan.at(label), message, limit.hint)


def _custom_domains(scan: Scan) -> Iterator[Finding]:
    local = {(function.domain, function.name) for function in scan.model.functions}
    found: dict[tuple[str, str], list[str]] = {}
    for node, label in zip(scan.graph.node, scan.labels, strict=True):
        if node.domain not in DEFAULT_DOMAINS and (node.domain, node.op_type) not in local:
            found.setdefault((node.domain, node.op_type), []).append(label)
    for (domain, op), labels in found.items():
        message = f"{len(labels)} of operator {op} from the domain {domain}, which is not ONNX's own"
        hint = "export with standard operators: a target needs a plugin for any other"
        yield _target_finding(scan, "custom-domain", scan.at(_listed(labels)), message, hint)


def _leftovers(scan: Scan) -> Iterator[Finding]:
    found: dict[str, list[str]] = {}
    for node, label in zip(scan.graph.node, scan.labels, strict=True):
        if node.op_type in ("Identity", "Constant", "Dropout") and not _is_needed(node, scan):
            found.setdefault(node.op_type, []).append(label)
    for op, labels in found.items():
        message = f"{len(labels)} {op} {'node' if len(labels) == 1 else 'nodes'} left in the graph"
        yield _warning(f"leftover-{op.lower()}", scan.at(_listed(labels)), message, SIMPLIFY)


def _is_needed(node: NodeProto, scan: Scan) -> bool:
    """An Identity or Constant stays where it alone gives a graph output its name: nothing else could be renamed."""
    if node.op_type == "Dropout" or not scan.outputs.intersection(node.output):
        return False
    return node.op_type == "Constant" or any(name not in scan.makers or name in scan.outputs for name in node.input)


def _unfolded_batch_norms(scan: Scan) -> Iterator[Finding]:
    labels = []
    for node, label in zip(scan.graph.node, scan.labels, strict=True):
        if node.op_type == "BatchNormalization" and node.input and _follows_conv(node.input[0], scan):
            labels.append(label)
    if labels:
        message = f"{len(labels)} BatchNormalization right after a Conv"
        yield _warning("unfolded-batchnorm", scan.at(_listed(labels)), message, "fold them into the convolutions")


def _follows_conv(tensor: str, scan: Scan) -> bool:
    maker = scan.makers.get(tensor)
    return (
        maker is not None
        and scan.graph.node[maker].op_type == "Conv"
        and len(scan.readers[tensor]) == 1
        and tensor not in scan.outputs
    )


def _dead_nodes(scan: Scan) -> Iterator[Finding]:
    live = _live_nodes(scan)
    dead = [label for i, label in enumerate(scan.labels) if i not in live]
    if dead:
        message = f"{len(dead)} of {len(scan.labels)} nodes lead to no output"
        yield _warning("dead-node", scan.at(_listed(dead)), message, SIMPLIFY)


def _live_nodes(scan: Scan) -> set[int]:
    live: set[int] = set()
    waiting = [scan.makers[name] for name in scan.outputs if name in scan.makers]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting += [scan.makers[name] for name in scan.uses[node] if name in scan.makers]
    return live


def _unused_initializers(scan: Scan) -> Iterator[Finding]:
    names = [name for name in sorted(scan.initializers) if name not in scan.readers and name not in scan.outputs]
    if names:
        message = f"{len(names)} of {len(scan.initializers)} initializers are read by nothing"
        yield _warning("unused-initializer", scan.at(_listed(names)), message, "remove them: they only take space")


def _node_names(scan: Scan) -> Iterator[Finding]:
    unnamed = [label for node, label in zip(scan.graph.node, scan.labels, strict=True) if not node.name]
    if unnamed:
        message = f"{len(unnamed)} of {len(scan.labels)} nodes have no name"
        hint = "name every node: logs, profiles and bisection refer to them"
        yield _warning("unnamed-node", scan.at(_listed(unnamed)), message, hint)
    for name, count in Counter(node.name for node in scan.graph.node if node.name).items():
        if count > 1:
            yield _warning("duplicate-node-name", scan.at(name), f"{count} nodes have this name", "make names unique")


# --- rules for every graph: its tensors


def _double_types(scan: Scan) -> Iterator[Finding]:
    values = [*scan.graph.input, *scan.graph.output, *scan.graph.value_info]
    doubles = [value.name for value in values if value.type.tensor_type.elem_type == TensorProto.DOUBLE]
    doubles += [name for name, tensor in _tensors(scan) if tensor.data_type == TensorProto.DOUBLE]
    doubles += [label for node, label in zip(scan.graph.node, scan.labels, strict=True) if _casts_to_double(node)]
    if doubles:
        names = list(dict.fromkeys(doubles))
        message = f"{len(names)} tensors are float64, which TensorRT does not have"
        yield _target_finding(scan, "float64", scan.at(_listed(names)), message, "export the network in float32")


def _casts_to_double(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.DOUBLE for a in node.attribute)


def _weights(scan: Scan) -> Iterator[Finding]:
    for name, tensor in _tensors(scan):
        where = scan.at(name)
        if tensor.data_location == TensorProto.EXTERNAL:
            hint = "load the model with its external data"
            yield _warning("external-data", where, "the values are in another file and were not checked", hint)
        elif tensor.data_type in (*FLOATS, TensorProto.INT64):
            yield from _values(scan, where, tensor)


def _values(scan: Scan, where: str, tensor: TensorProto) -> Iterator[Finding]:
    array = _array(tensor)
    if array is None:
        kind = TensorProto.DataType.Name(tensor.data_type)
        message = f"the data do not fit the type {kind} and shape {list(tensor.dims)}"
        yield _error("broken-tensor", where, message, "the file is damaged: export it again")
    elif array.size and tensor.data_type == TensorProto.INT64:
        yield from _wide_integers(scan, where, array)
    elif array.size:
        yield from _float_values(scan, where, tensor.data_type, array)


def _array(tensor: TensorProto) -> npt.NDArray[np.generic] | None:
    """The values, or None where type, shape and data contradict each other."""
    if any(size < 0 for size in tensor.dims):
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return None


def _wide_integers(scan: Scan, where: str, array: npt.NDArray[np.generic]) -> Iterator[Finding]:
    has_int64 = scan.profile is not None and (
        scan.profile.flavour in ("none", "tensorrt-rtx") or not scan.tensorrt_below((10,))
    )
    if not has_int64 and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
        message = "int64 values outside the range of int32, to which TensorRT below 10 clamps them"
        yield _warning("int64-range", where, message, "check that the clamped value means the same")


def _float_values(scan: Scan, where: str, kind: int, array: npt.NDArray[np.generic]) -> Iterator[Finding]:
    values = array.astype(np.float32) if kind == TensorProto.BFLOAT16 else array
    if not np.isfinite(values).all():
        yield _not_finite(where, kind, values)
    if kind == TensorProto.FLOAT and _wants_fp16(scan.profile):
        yield from _fp16_losses(where, np.abs(values))


def _not_finite(where: str, kind: int, values: npt.NDArray[np.generic]) -> Finding:
    nans = int(np.count_nonzero(np.isnan(values)))
    infinite = int(np.count_nonzero(np.isinf(values)))
    if nans:
        return _error("non-finite", where, f"{nans} of {values.size} values are NaN", "the weights are broken")
    if kind == TensorProto.FLOAT16:
        hint = "keep this tensor in float32: it overflowed in the conversion"
        return _error("fp16-infinite", where, f"{infinite} of {values.size} float16 values are infinite", hint)
    if values.size == 1:  # the fill value of a padding or a mask
        return _warning("non-finite", where, "the constant is infinite", "make sure that the target computes with it")
    return _error("non-finite", where, f"{infinite} of {values.size} values are infinite", "the weights are broken")


def _fp16_losses(where: str, size: npt.NDArray[np.generic]) -> Iterator[Finding]:
    largest = float(size.max())
    if MAX_FP16 < largest < math.inf:
        message = f"the largest value, {largest:.3g}, overflows in FP16 (at most {MAX_FP16:.0f})"
        yield _warning("fp16-overflow", where, message, "keep this tensor in float32, or rescale it")
    tiny = int(np.count_nonzero(size <= np.float32(FLUSHED_BY_FP16)))
    used = int(np.count_nonzero(size)) if tiny else 0
    flushed = tiny - (size.size - used)
    if flushed > MAX_FLUSHED * used:
        message = f"{flushed} of {used} non-zero values ({flushed / used:.0%}) become zero in FP16"
        yield _warning("fp16-vanish", where, message, "keep this tensor in float32, or rescale it")


def _wants_fp16(profile: ExportProfile | None) -> bool:
    return profile is None or "fp16" in profile.precisions


# --- rules for the main graph: what a caller meets


def _shape_of_graph(scan: Scan) -> Iterator[Finding]:
    if not scan.graph.node:
        yield _error("empty-graph", scan.graph.name or "graph", "the graph has no nodes", "export it again")
    if not scan.graph.output:
        yield _error("no-output", scan.graph.name or "graph", "the graph has no outputs", "export it again")


def _inputs_that_are_initializers(scan: Scan) -> Iterator[Finding]:
    names = [value.name for value in scan.graph.input if value.name in scan.initializers]
    if names:
        message = f"{len(names)} graph inputs are initializers, so their values may change and nothing can be folded"
        hint = "export with keep_initializers_as_inputs=False"
        yield _warning("input-is-initializer", _listed(names), message, hint)


def _interface_types(scan: Scan) -> Iterator[Finding]:
    values = [*scan.inputs, *scan.graph.output]
    for value in values:
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            message = f"a {str(value.type.WhichOneof('value')).removesuffix('_type')} instead of a tensor"
            yield _target_finding(scan, "not-a-tensor", value.name, message, "export with tensors only")
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    if any(kind in FLOATS for kind in types.values()) or any(t.data_type in FLOATS for t in scan.graph.initializer):
        for name, kind in types.items():
            if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.UNDEFINED):  # float64 has its own rule
                message = f"an interface of type {_type_name(kind)} on a network of floats"
                yield _warning("interface-type", name, message, "keep inputs and outputs float32")


def _interface_shapes(scan: Scan) -> Iterator[Finding]:
    for value in (*scan.inputs, *scan.graph.output):
        kind: TypeProto.Tensor = value.type.tensor_type
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            continue
        if not kind.HasField("shape"):
            yield _warning("no-shape", value.name, "the shape is unknown", "run shape inference, or export it again")
        axes = [i for i, axis in enumerate(kind.shape.dim) if i > 0 and _is_dynamic(axis)]
        if axes:
            message = f"dynamic axes other than the batch: {', '.join(map(str, axes))}"
            yield _warning("dynamic-axis", value.name, message, "export at a fixed resolution")


def _is_dynamic(axis: TensorShapeProto.Dimension) -> bool:
    return not axis.HasField("dim_value") or axis.dim_value < 0


def _interface_names(scan: Scan) -> Iterator[Finding]:
    for value in (*scan.inputs, *scan.graph.output):
        if not value.name or value.name.isdecimal():
            hint = "export with input_names and output_names"
            yield _warning("meaningless-name", value.name or '""', "the name of an input or output says nothing", hint)


Rule = Callable[[Scan], Iterator[Finding]]
RULES: Final[tuple[Rule, ...]] = (
    _operators,
    _custom_domains,
    _leftovers,
    _unfolded_batch_norms,
    _dead_nodes,
    _unused_initializers,
    _node_names,
    _double_types,
    _weights,
)
INTERFACE_RULES: Final[tuple[Rule, ...]] = (
    _shape_of_graph,
    _inputs_that_are_initializers,
    _interface_types,
    _interface_shapes,
    _interface_names,
)


# --- looking a graph over


def _scans(model: ModelProto, profile: ExportProfile | None) -> Iterator[Scan]:
    """The main graph and every graph inside a node, outermost first."""
    waiting = deque([("", model.graph, frozenset[str]())])
    while waiting:
        path, graph, outer = waiting.popleft()
        scan = _scan(model, profile, graph, path, outer)
        yield scan
        for node, label in zip(graph.node, scan.labels, strict=True):
            for name, inner in _subgraphs(node):
                waiting.append((f"{scan.at(label)}/{name}", inner, scan.constants))


def _scan(
    model: ModelProto, profile: ExportProfile | None, graph: GraphProto, path: str, outer: frozenset[str]
) -> Scan:
    uses = tuple(frozenset(_reads(node)) for node in graph.node)
    readers: dict[str, list[int]] = {}
    for i, names in enumerate(uses):
        for name in names:
            readers.setdefault(name, []).append(i)
    initializers = frozenset(_initializer_names(graph))
    return Scan(
        model=model,
        profile=profile,
        graph=graph,
        path=path,
        labels=tuple(_label(node) for node in graph.node),
        uses=uses,
        readers=readers,
        makers={name: i for i, node in enumerate(graph.node) for name in node.output if name},
        inputs=tuple(value for value in graph.input if value.name not in initializers),
        initializers=initializers,
        constants=outer | initializers | {name for node in graph.node for name in _constant_outputs(node)},
        outputs=frozenset(value.name for value in graph.output),
    )


def _reads(node: NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, also from inside its subgraphs. ONNX forbids inner names that hide outer ones."""
    yield from (name for name in node.input if name)
    for _, inner in _subgraphs(node):
        yield from (value.name for value in inner.output)
        for nested in inner.node:
            yield from _reads(nested)


def _subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for i, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{i}]", graph


def _initializer_names(graph: GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)


def _constant_outputs(node: NodeProto) -> Iterable[str]:
    return node.output if node.op_type == "Constant" else ()


def _tensors(scan: Scan) -> Iterator[tuple[str, TensorProto]]:
    """All values that are stored in the graph, with the name to report them under."""
    yield from ((tensor.name, tensor) for tensor in scan.graph.initializer)
    yield from ((sparse.values.name, sparse.values) for sparse in scan.graph.sparse_initializer)
    for node, label in zip(scan.graph.node, scan.labels, strict=True):
        if node.op_type == "Constant":
            yield from ((label, a.t) for a in node.attribute if a.type == AttributeProto.TENSOR)


def _label(node: NodeProto) -> str:
    return node.name or f"{node.op_type or 'node'} -> {next(iter(node.output), 'nothing')}"


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else f"number {kind}"


def _error(rule: str, where: str, message: str, hint: str) -> Finding:
    return Finding("error", rule, where, message, hint)


def _warning(rule: str, where: str, message: str, hint: str) -> Finding:
    return Finding("warning", rule, where, message, hint)


def _target_finding(scan: Scan, rule: str, where: str, message: str, hint: str) -> Finding:
    """An error where the profile builds a TensorRT engine, a warning elsewhere."""
    return Finding("error" if scan.targets_tensorrt() else "warning", rule, where, message, hint)
