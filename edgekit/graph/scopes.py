"""Every graph of a model, the outermost first: the main one, those inside nodes, and the bodies of local functions.

Nothing here recurses: how deep a stranger's graphs lie inside each other is the stranger's choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

ONNX_DOMAINS = ("", "ai.onnx")

FunctionKey = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True)
class Scope:
    """One graph: what names it holds, where it lies, and which graph's names it sees besides its own.

    `path` is "" for the main graph, "If_3/then_branch" for one inside a node, "function f" for a local function's body.
    `owner` is the node that holds it, as its number in `parent`. `opsets` are the versions by domain that hold here,
    `values` all declared types and shapes.
    """

    path: str
    nodes: Sequence[NodeProto]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[TensorProto, ...]
    sparse: tuple[str, ...]
    values: tuple[ValueInfoProto, ...]
    opsets: Mapping[str, int]
    parent: Scope | None = None
    owner: int = -1
    depth: int = 0
    function: FunctionKey | None = None

    def at(self, node: NodeProto) -> str:
        """What to call a node of this graph in a message."""
        return f"{self.path}/{label(node)}" if self.path else label(node)


def scopes(model: ModelProto) -> Iterator[Scope]:
    """The main graph and the bodies of functions, each followed by all the graphs inside its nodes; parents first."""
    main = _of_graph(model.graph, "", versions(model.opset_import))
    waiting = deque([main, *(_of_function(function) for function in model.functions)])
    while waiting:
        scope = waiting.popleft()
        yield scope
        for number, node in enumerate(scope.nodes):
            for name, inner in subgraphs(node):
                waiting.append(_of_graph(inner, f"{scope.at(node)}/{name}", scope.opsets, scope, number))


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs that a node holds in its attributes, by what is there and not by the type that an attribute claims."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{number}]", graph


def label(node: NodeProto) -> str:
    """A node's name; its operator and first output where it has none."""
    return str(node.name or f"{node.op_type or 'node'} -> {next(iter(node.output), 'nothing')}")


def versions(imports: Sequence[object]) -> dict[str, int]:
    """The imported version of each domain; ONNX's own is ""."""
    return {domain(str(getattr(entry, "domain", ""))): int(getattr(entry, "version", 0)) for entry in imports}


def domain(name: str) -> str:
    """The domain's one name: "ai.onnx" is the long form of ""."""
    return "" if name in ONNX_DOMAINS else name


def function_key(function: FunctionProto) -> FunctionKey:
    """What a node must say to call this function."""
    return domain(function.domain), function.name, function.overload


def called(node: NodeProto) -> FunctionKey:
    """The function that a node calls, if the model has one of that key."""
    return domain(node.domain), node.op_type, node.overload


def _of_graph(
    graph: GraphProto, path: str, opsets: Mapping[str, int], parent: Scope | None = None, owner: int = -1
) -> Scope:
    return Scope(
        path=path,
        nodes=graph.node,
        inputs=tuple(value.name for value in graph.input),
        outputs=tuple(value.name for value in graph.output),
        initializers=tuple(graph.initializer),
        sparse=tuple(sparse.values.name for sparse in graph.sparse_initializer),
        values=(*graph.input, *graph.value_info, *graph.output),
        opsets=opsets,
        parent=parent,
        owner=owner,
        depth=parent.depth + 1 if parent else 0,
        function=parent.function if parent else None,
    )


def _of_function(function: FunctionProto) -> Scope:
    return Scope(
        path=f"function {function.name}",
        nodes=function.node,
        inputs=tuple(function.input),
        outputs=tuple(function.output),
        initializers=(),
        sparse=(),
        values=tuple(function.value_info),
        opsets=versions(function.opset_import),
        function=function_key(function),
    )
