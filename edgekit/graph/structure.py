"""Whether a model is a graph at all: names, order, operators, functions. Refused by name before native code sees it.

What is only unusual is no fault: it is in the Traits, for whoever carries the model further. Linear in the number of
nodes, and nothing recurses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import onnx
from onnx import AttributeProto, ModelProto, NodeProto
from onnx.defs import OpSchema, SchemaError

from edgekit.errors import InputUnusable
from edgekit.graph.scopes import FunctionKey, Scope, called, domain, function_key, scopes
from edgekit.profile import MAX_OPSET

# Large language models have 20,000. On a plain chain of 100,000 onnxsim takes 22 s and ONNX Runtime 8 s, and
# TensorRT-RTX takes 50 s for 6,000: beyond this, every later step ends in its time limit.
MAX_NODES = 50_000
ANY_VERSION = 1 << 20  # of a domain: newer than any
MIN_IR_VERSION = 3  # the first with opsets
OLDEST_OPSET = 1  # what is older than a target's oldest can be converted up (graph/upgrade.py)
RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
QUANTISED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
    | {"MatMulInteger"}
)
MAX_NAMED = 4

K = TypeVar("K")


@dataclass(frozen=True)
class Traits:
    """What is unusual about a sound model, and may end its journey later. Tuples name operators or functions.

    `foreign` are operators outside ONNX that ONNX Runtime has all the same ("com.microsoft::FusedConv"): it runs them,
    and no target takes them. `random` graphs give other outputs on every run. `nodes` counts those of all graphs, with
    functions expanded. `training` is what the file holds besides the network, and nothing here uses.
    """

    opset: int
    nodes: int
    subgraphs: int
    functions: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    classical: tuple[str, ...] = ()  # of ai.onnx.ml: trees, encoders and the like
    random: tuple[str, ...] = ()
    quantised: bool = False
    training: bool = False

    def notes(self) -> tuple[str, ...]:
        """The same in sentences."""
        told = (
            (self.foreign, "operators that only ONNX Runtime has, and no target takes: "),
            (self.classical, "operators of ai.onnx.ml, which no target takes: "),
            (self.random, "operators that draw random numbers: "),
            (self.functions, "functions of the model's own: "),
        )
        notes = [text + listed(names) for names, text in told if names]
        if self.training:
            notes.append("what the file holds for training is left out")
        return tuple(notes)


def check_structure(model: ModelProto, where: str) -> Traits:
    """What is unusual about a model that is sound. Raises InputUnusable naming the first thing that is not.

    Sound: of a known format and opset, with nodes and outputs, not too large, every name text and defined once, every
    input made by something, no cycle, functions that end, and operators that somebody knows, used as they are meant.
    """
    found, nodes = check_graph(model, where)
    opset = _check_opset(model, found, where)
    foreign = _check_operators(model, found, where)
    return _traits(model, found, opset, nodes, foreign)


def check_graph(model: ModelProto, where: str) -> tuple[list[Scope], int]:
    """All graphs of a model whose structure is sound, whatever its operators are, and how many nodes they have.

    Raises InputUnusable for everything that `check_structure` does, but for opsets and operators.
    """
    _check_format(model, where)
    _check_size(model, where)
    found = list(scopes(model))
    nodes = _expanded_size(model, found, where)
    _check_names(found, where)
    return found, nodes


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


# --- the model as a whole


def _check_format(model: ModelProto, where: str) -> None:
    for what, count in (("nodes", len(model.graph.node)), ("outputs", len(model.graph.output))):
        if not count:
            raise InputUnusable(f"the ONNX graph has no {what}", where=where, wanted="a network with nodes and outputs")
    if not MIN_IR_VERSION <= model.ir_version <= onnx.IR_VERSION:
        raise InputUnusable(
            "the ONNX file is of another version of the format",
            where=where,
            got=f"IR version {model.ir_version}",
            wanted=f"{MIN_IR_VERSION} to {onnx.IR_VERSION}, which onnx {onnx.__version__} knows",
            hint="export it again with an older onnx, or update onnx here",
        )
    names = [domain(entry.domain) for entry in model.opset_import]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputUnusable("the model imports a domain twice", where=where, got=repr(twice[0]), wanted="one opset")


def _check_size(model: ModelProto, where: str) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise _too_many(len(model.graph.node), where)


def _check_opset(model: ModelProto, found: Sequence[Scope], where: str) -> int:
    """The version of ONNX's own operators; a model that uses none of them may leave it out (then 0)."""
    opset = next((entry.version for entry in model.opset_import if domain(entry.domain) == ""), 0)
    used = any(domain(node.domain) == "" for scope in found for node in scope.nodes)
    if (used or opset) and not OLDEST_OPSET <= opset <= MAX_OPSET:
        raise InputUnusable(
            "the model's opset is out of range",
            where=where,
            got=f"opset {opset}" if opset else "no opset for ONNX's own operators",
            wanted=f"opset {OLDEST_OPSET} to {MAX_OPSET}",
            hint="export it again at opset 17",
        )
    return opset


def _too_many(count: int, where: str) -> InputUnusable:
    hint = "export a part of the network, or one without unrolled loops"
    return InputUnusable(
        "the graph has too many nodes", where=where, got=f"{count} nodes", wanted=f"at most {MAX_NODES}", hint=hint
    )


# --- functions: they may call each other, and must come to an end


def _expanded_size(model: ModelProto, found: Sequence[Scope], where: str) -> int:
    """How many nodes there are when every call of a function is replaced by its body."""
    keys = [function_key(function) for function in model.functions]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise InputUnusable("a function is defined twice", where=where, got=twice[0][1], wanted="one body for each")
    calls = _calls(found, set(keys))
    sizes: dict[FunctionKey | None, int] = {}
    for key in [*_callees_first(calls, keys, where), None]:
        sizes[key] = sum(count * sizes.get(callee, 1) for callee, count in calls[key].items())
    if sizes[None] > MAX_NODES:
        raise _too_many(sizes[None], where)
    return sizes[None]


def _calls(
    found: Sequence[Scope], functions: set[FunctionKey]
) -> dict[FunctionKey | None, Counter[FunctionKey | None]]:
    """For each function, and None for the model: how often each function is called; None counts the other nodes."""
    calls: dict[FunctionKey | None, Counter[FunctionKey | None]] = defaultdict(Counter)
    for scope in found:
        for node in scope.nodes:
            calls[scope.function][called(node) if called(node) in functions else None] += 1
    return calls


def _callees_first(
    calls: Mapping[FunctionKey | None, Counter[FunctionKey | None]], keys: Sequence[FunctionKey], where: str
) -> list[FunctionKey]:
    """The functions in an order in which each comes after those it calls. Raises InputUnusable when there is none."""
    waits_for = {key: {callee for callee in calls[key] if callee is not None} for key in keys}
    order = in_order(waits_for)
    if len(order) < len(keys):
        name = next(key for key in keys if key not in set(order))[1]
        raise InputUnusable("a function calls itself", where=f"{where}: function {name}", wanted="one that ends")
    return order


def in_order(waits_for: Mapping[K, set[K]]) -> list[K]:
    """The keys so that each comes after those it waits for; those in a cycle, and all behind it, are missing."""
    readers: dict[K, list[K]] = defaultdict(list)
    for key, needed in waits_for.items():
        for other in needed:
            readers[other].append(key)
    missing = {key: len(needed) for key, needed in waits_for.items()}
    ready = [key for key, count in missing.items() if count == 0]
    order = []
    while ready:
        key = ready.pop()
        order.append(key)
        for reader in readers[key]:
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)
    return order


# --- names: every tensor is made once, before it is read, by something


def _check_names(found: Sequence[Scope], where: str) -> None:
    visible: dict[int, set[str]] = {}
    for scope in found:
        visible[id(scope)] = _definitions(scope, visible, where)
    taken: dict[int, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))  # scope, node: read by its graphs
    for scope in reversed(found):  # inner ones first: what they take from outside is read by the node that holds them
        outside = _check_reads(scope, visible, taken[id(scope)], where)
        if scope.parent is not None:
            taken[id(scope.parent)][scope.owner] |= outside


def _definitions(scope: Scope, visible: Mapping[int, set[str]], where: str) -> set[str]:
    """The names that a graph defines; each must be text, and stand for one thing."""
    stored = [*(tensor.name for tensor in scope.initializers), *scope.sparse]
    made = [name for node in scope.nodes for name in node.output if name]
    for name in (*scope.inputs, *scope.outputs, *stored, *_words(scope)):
        if type(name) is not str:  # protobuf hands over what it cannot decode as bytes
            what, hint = "a name in the model is not UTF-8 text", "the file is damaged: export it again"
            raise InputUnusable(what, where=_place(where, scope), got=repr(name), wanted="text", hint=hint)
    # An initializer may have an input's name, as its default; nothing else may share one.
    given = dict.fromkeys((*scope.inputs, *stored))
    repeated = [*_repeated(scope.inputs), *_repeated(stored), *_repeated([*given, *made])]
    repeated += [name for name in (*given, *made) if _hides(name, scope, visible)]
    if repeated:
        raise _made_twice(repeated[0], scope, where)
    return {*given, *made}


def _words(scope: Scope) -> Iterator[str]:
    for node in scope.nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _hides(name: str, scope: Scope, visible: Mapping[int, set[str]]) -> bool:
    outer = scope.parent
    while outer is not None:
        if name in visible[id(outer)]:
            return True
        outer = outer.parent
    return False


def _check_reads(scope: Scope, visible: Mapping[int, set[str]], taken: Mapping[int, set[str]], where: str) -> set[str]:
    """Every tensor that is read must be there, and not wait for itself; returns the names read from outer graphs."""
    own = visible[id(scope)]
    outside: set[str] = set()
    reads: list[set[str]] = []
    for number, node in enumerate(scope.nodes):
        read = {name for name in node.input if name} | taken.get(number, set())
        for name in sorted(read - own):
            if not _hides(name, scope, visible):
                raise _missing(name, f"node {scope.at(node)}", where)
        outside |= read - own
        reads.append(read)
    for name in scope.outputs:
        if name not in own and not _hides(name, scope, visible):
            raise _missing(name, f"the outputs of {scope.path or 'the graph'}", where)
    outside |= set(scope.outputs) - own
    _check_cycles(scope, reads, where)
    return outside


def _check_cycles(scope: Scope, reads: Sequence[set[str]], where: str) -> None:
    maker = {name: number for number, node in enumerate(scope.nodes) for name in node.output if name}
    waits_for = {number: {maker[name] for name in read if name in maker} for number, read in enumerate(reads)}
    if all(max(needed, default=-1) < number for number, needed in waits_for.items()):
        return  # the usual case: already in order
    done = set(in_order(waits_for))
    if len(done) < len(reads):
        stuck = [number for number in waits_for if number not in done]
        raise InputUnusable(
            "the graph has a cycle",
            where=_place(where, scope),
            got=f"node {scope.at(scope.nodes[stuck[0]])} waits for its own output",
            wanted="a graph without one",
            hint="export the model again",
        )


def _place(where: str, scope: Scope) -> str:
    return f"{where}: {scope.path}" if scope.path else where


def _made_twice(name: str, scope: Scope, where: str) -> InputUnusable:
    return InputUnusable(
        "two tensors of the model have the same name",
        where=_place(where, scope),
        got=f"{name!r}, defined twice",
        wanted="a name of its own for each: ONNX is in single assignment form",
        hint="export the model again",
    )


def _missing(name: str, reader: str, where: str) -> InputUnusable:
    return InputUnusable(
        "the model reads a tensor that nothing makes",
        where=where,
        got=f"{name!r}, read by {reader}",
        wanted="an input, an initializer or a node's output of that name",
        hint="export the model again: a weight or a node is missing from the file",
    )


# --- operators


@dataclass(frozen=True)
class Signature:
    """How an operator may be used: how many inputs and outputs, and its attributes' types, which of them required."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    required: frozenset[str]
    deprecated: bool


def _check_operators(model: ModelProto, found: Iterable[Scope], where: str) -> tuple[str, ...]:
    """The operators that only ONNX Runtime knows."""
    functions = {function_key(function) for function in model.functions}
    foreign: dict[str, None] = {}
    for scope in found:
        for node in scope.nodes:
            if called(node) not in functions and not _check_node(node, scope, where):
                foreign[f"{node.domain or 'ai.onnx'}::{node.op_type}"] = None
    return tuple(foreign)


def _check_node(node: NodeProto, scope: Scope, where: str) -> bool:
    """Whether ONNX itself knows the operator. Raises InputUnusable where nobody does, and for a wrong use of it."""
    name = domain(node.domain)
    version = scope.opsets.get(name)
    use = None if version is None else signature(node.op_type, version, name)
    if use is None:
        elsewhere = signature(node.op_type, ANY_VERSION, name) is not None
        if elsewhere or not _onnx_runtime_has(name, node.op_type):
            raise _unknown(node, scope, version, where, elsewhere)
        return False
    _check_use(node, use, scope, where)
    return True


@lru_cache(maxsize=4096)
def signature(op: str, version: int, domain_name: str) -> Signature | None:
    """How ONNX says that the operator is used at that version of its domain; None for one that ONNX does not have."""
    try:
        schema = onnx.defs.get_schema(op, version, domain_name)
    except SchemaError:
        return None
    return Signature(
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        attributes={name: _number(attribute.type) for name, attribute in schema.attributes.items()},
        required=frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
        deprecated=schema.deprecated,
    )


def _number(kind: OpSchema.AttrType) -> int:
    return int(AttributeProto.AttributeType.Value(str(kind).rpartition(".")[2]))


def _onnx_runtime_has(name: str, op: str) -> bool:
    # Imported here, because a model without such operators needs nothing of it.
    from edgekit.runtimes.onnxruntime_cpu import operators

    return (name, op) in operators()


def _unknown(node: NodeProto, scope: Scope, version: int | None, where: str, elsewhere: bool) -> InputUnusable:
    name = domain(node.domain)
    got = f"{node.op_type} of {name or 'ai.onnx'}" + (f" at opset {version}" if version is not None else "")
    hint = "export it with ONNX's own operators, or as a function of the model"
    if elsewhere:
        newer = "the operator exists at another opset: export the model at a newer one"
        hint = newer if version is not None else "the model does not import that domain: export it again"
    return InputUnusable(
        "the model has an operator that nobody knows",
        where=f"{where}: node {scope.at(node)}",
        got=got,
        wanted="operators of ONNX or of ONNX Runtime",
        hint=hint,
    )


def _check_use(node: NodeProto, use: Signature, scope: Scope, where: str) -> None:
    if use.deprecated:
        raise _misused(node, scope, where, "the operator was taken out of ONNX", "one that its opset still has")
    for kind, count, (least, most) in (
        ("inputs", len(node.input), use.inputs),
        ("outputs", len(node.output), use.outputs),
    ):
        if not least <= count <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}" if most < 1000 else f"at least {least}"
            raise _misused(node, scope, where, f"{count} {kind}", wanted)
    for got, wanted in _wrong_attributes(node, use):
        raise _misused(node, scope, where, got, wanted)


def _wrong_attributes(node: NodeProto, use: Signature) -> Iterator[tuple[str, str]]:
    given = {attribute.name: attribute for attribute in node.attribute}
    if len(given) < len(node.attribute):
        yield "an attribute that is given twice", "each attribute once"
    for name in sorted(use.required - set(given)):
        yield f"no attribute {name}", "it, since it has no default"
    for name, attribute in given.items():
        wanted = use.attributes.get(name)
        if wanted is None:
            yield f"an attribute {name}", f"some of {', '.join(sorted(use.attributes)) or 'none'}"
        elif attribute.type != wanted and not attribute.ref_attr_name:
            yield f"attribute {name} of type {_type_name(attribute.type)}", _type_name(wanted)


def _type_name(kind: int) -> str:
    known = kind in AttributeProto.AttributeType.values()
    return AttributeProto.AttributeType.Name(kind).lower() if known else f"number {kind}"


def _misused(node: NodeProto, scope: Scope, where: str, got: str, wanted: str) -> InputUnusable:
    return InputUnusable(
        f"operator {node.op_type} is not used as ONNX defines it",
        where=f"{where}: node {scope.at(node)}",
        got=got,
        wanted=wanted,
        hint="export the model again",
    )


# --- what is unusual


def _traits(model: ModelProto, found: Sequence[Scope], opset: int, nodes: int, foreign: tuple[str, ...]) -> Traits:
    ops = {(domain(node.domain), node.op_type) for scope in found for node in scope.nodes}
    return Traits(
        opset=opset,
        nodes=nodes,
        subgraphs=sum(scope.parent is not None for scope in found),
        functions=tuple(function.name for function in model.functions),
        foreign=foreign,
        classical=tuple(sorted(op for name, op in ops if name == "ai.onnx.ml")),
        random=tuple(sorted(op for name, op in ops if name == "" and op in RANDOM_OPS)),
        quantised=any(name == "" and op in QUANTISED_OPS for name, op in ops),
        training=len(model.training_info) > 0,
    )
