"""Which tensor of a changed graph is which of the original: a name may survive and mean something else.

Folding a batch norm into its convolution leaves the sum behind under the convolution's name. Who reads it tells: where
the original's Relu reads the norm, the changed graph's Relu of that name reads the convolution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from onnx import ModelProto, NodeProto

from edgekit.graph.scopes import domain

COMMUTATIVE = frozenset({"Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor"})


def align(original: ModelProto, changed: ModelProto) -> dict[str, str]:
    """For names of the changed main graph, the name of the original whose values they should have.

    In order of execution. A tensor is left out where nothing says what it stands for: those that read it contradict
    each other, or what made it is of another kind and nothing that reads it is known.
    """
    before, after = _makers(original), _makers(changed)
    evidence = _evidence(before, changed)
    outputs = {value.name for value in original.graph.output}
    found: dict[str, str] = {}
    for name, node in after.items():
        says = {name} if name in outputs else evidence[name]
        if len(says) == 1:
            found[name] = next(iter(says))
        elif not says and name in before and _same_kind(before[name], node):
            found[name] = name
    return {name: meant for name, meant in found.items() if meant in before}


def _makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output if name}


def _evidence(before: dict[str, NodeProto], changed: ModelProto) -> dict[str, set[str]]:
    """For each tensor of the changed graph: what the original's nodes read where the changed graph's read it."""
    evidence: dict[str, set[str]] = defaultdict(set)
    for node in changed.graph.node:
        twin = next((before[name] for name in node.output if name in before), None)
        if twin is not None and _same_kind(twin, node) and list(twin.output) == list(node.output):
            for ours, theirs in _pairs(node, twin):
                evidence[ours].add(theirs)
    return evidence


def _pairs(ours: NodeProto, theirs: NodeProto) -> Iterator[tuple[str, str]]:
    """Which input of one node is which of its twin: by place, unless their order means nothing."""
    shared = set(ours.input) & set(theirs.input) if ours.op_type in COMMUTATIVE else set()
    yield from ((name, name) for name in shared)
    yield from zip(
        [name for name in ours.input if name not in shared],
        [name for name in theirs.input if name not in shared],
        strict=False,
    )


def _same_kind(one: NodeProto, other: NodeProto) -> bool:
    return (
        one.op_type == other.op_type
        and domain(one.domain) == domain(other.domain)
        and len(one.input) == len(other.input)
    )
