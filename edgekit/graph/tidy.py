"""What no simplifier should leave behind, removed: one small pass per kind of litter, each exact.

Every pass changes the model in place and leaves what it computes, its inputs and its outputs as they are. Together
they make the bytes of a graph a function of what it computes, not of the run that wrote it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.errors import InputUnusable

T = TypeVar("T")


def tidy(model: ModelProto) -> None:
    """All passes, in the order in which one makes work for the next. Raises InputUnusable when the graph is cyclic."""
    for tidy_pass in (
        drop_provenance,
        sort_nodes,
        drop_dead_nodes,
        constants_to_initializers,
        merge_equal_initializers,
        drop_unused_initializers,
        drop_stale_value_info,
        order_initializers,
        spell_out_domains,
    ):
        tidy_pass(model)


def order_initializers(model: ModelProto) -> None:
    """Sort the initializers by their first use, so that two ways to the same graph end in the same bytes."""
    used: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            used.setdefault(name, len(used))
    ordered = sorted(model.graph.initializer, key=lambda tensor: used.get(tensor.name, len(used)))
    names = [tensor.name for tensor in ordered]
    if names != [tensor.name for tensor in model.graph.initializer]:
        kept = GraphProto(initializer=ordered)
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept.initializer)


def spell_out_domains(model: ModelProto) -> None:
    """Write the default domain as "" where it is left out: the same, in other bytes."""
    for entry in model.opset_import:
        entry.domain = str(entry.domain)


def drop_provenance(model: ModelProto) -> None:
    """Remove onnxsim's own records (hundreds of lines of removed node names), doc strings and per-node metadata.

    Exporters write source paths and stack traces of the exporting machine into the latter two. Metadata that others
    put on the model as a whole stays.
    """
    model.ClearField("doc_string")
    _keep(model.metadata_props, lambda entry: not entry.key.startswith("onnxsim."))
    for function in model.functions:
        function.ClearField("doc_string")
        _forget_origin(function.node)
    for graph in _graphs(model.graph):
        graph.ClearField("doc_string")
        del graph.metadata_props[:]
        for items in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
            _forget_origin(items)


def sort_nodes(model: ModelProto) -> None:
    """Bring the main graph's nodes into topological order, the earlier first where there is a choice."""
    nodes = list(model.graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits_for = [{maker[name] for name in _reads(node) if name in maker} for node in nodes]
    if all(max(needed, default=-1) < index for index, needed in enumerate(waits_for)):
        return
    order = _topological(waits_for)
    if len(order) < len(nodes):
        stuck = min(set(range(len(nodes))) - set(order))
        raise InputUnusable("the graph has a cycle", where=_label(nodes[stuck]), wanted="an ONNX graph without one")
    del model.graph.node[:]
    model.graph.node.extend(nodes[index] for index in order)


def drop_dead_nodes(model: ModelProto) -> None:
    """Remove nodes whose results nothing reads. The nodes are in topological order."""
    needed = {output.name for output in model.graph.output}
    for index in reversed(range(len(model.graph.node))):
        if needed.isdisjoint(model.graph.node[index].output):
            del model.graph.node[index]
        else:
            needed.update(_reads(model.graph.node[index]))


def constants_to_initializers(model: ModelProto) -> None:
    """Turn Constant nodes of the main graph into initializers; a graph output stays a node, sparse ones stay too."""
    graph = model.graph
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in outputs:
            tensor = _constant_value(node)
            if tensor is not None:
                tensor.name = node.output[0]
                graph.initializer.append(tensor)
    held = {tensor.name for tensor in graph.initializer}
    _keep(graph.node, lambda node: node.output[0] not in held)


def merge_equal_initializers(model: ModelProto) -> None:
    """Keep one of several initializers that are equal bit for bit, and let everything read that one."""
    graph = model.graph
    interface = {value.name for value in (*graph.input, *graph.output)}
    first: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name not in interface:
            kept = first.setdefault(_content(tensor), tensor.name)
            if kept != tensor.name:
                renamed[tensor.name] = kept
    if renamed:
        _rename_reads(graph, renamed)
        _keep(graph.initializer, lambda tensor: tensor.name not in renamed)


def drop_unused_initializers(model: ModelProto) -> None:
    """Remove weights that nothing reads; those that are graph inputs or outputs too belong to the interface."""
    graph = model.graph
    used = {value.name for value in (*graph.input, *graph.output)}
    used.update(name for node in graph.node for name in _reads(node))
    used.update(entry.value for note in graph.quantization_annotation for entry in note.quant_parameter_tensor_names)
    _keep(graph.initializer, lambda tensor: tensor.name in used)


def drop_stale_value_info(model: ModelProto) -> None:
    """Keep recorded shapes only of tensors that a node still makes."""
    made = {name for node in model.graph.node for name in node.output}
    _keep(model.graph.value_info, lambda value: value.name in made)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in _subgraphs(node):
            yield from _graphs(inner)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs take from outside included (and their own with them)."""
    yield from (name for name in node.input if name)
    for inner in _subgraphs(node):
        yield from (output.name for output in inner.output)
        for inner_node in inner.node:
            yield from _reads(inner_node)


def _rename_reads(graph: GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
        for inner in _subgraphs(node):  # ONNX lets no inner tensor bear an outer one's name
            _rename_reads(inner, renamed)
    for note in graph.quantization_annotation:
        for entry in note.quant_parameter_tensor_names:
            entry.value = renamed.get(entry.value, entry.value)


def _topological(waits_for: list[set[int]]) -> list[int]:
    """Indices so that each comes after those it waits for, the smallest first; those in a cycle are missing."""
    readers = defaultdict(list)
    for index, needed in enumerate(waits_for):
        for earlier in needed:
            readers[earlier].append(index)
    missing = [len(needed) for needed in waits_for]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _constant_value(node: NodeProto) -> TensorProto | None:
    """What a Constant node holds, None for a sparse tensor."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    tensor: TensorProto | None = None
    match attribute.name:
        case "value":
            tensor = value
        case "value_float" | "value_floats":
            tensor = numpy_helper.from_array(np.array(value, np.float32))
        case "value_int" | "value_ints":
            tensor = numpy_helper.from_array(np.array(value, np.int64))
        case "value_string":
            tensor = onnx.helper.make_tensor("", TensorProto.STRING, [], [value])
        case "value_strings":
            tensor = onnx.helper.make_tensor("", TensorProto.STRING, [len(value)], value)
    return tensor


def _content(tensor: TensorProto) -> tuple[object, ...]:
    """What makes two tensors equal: element type, shape and bits, however they are encoded."""
    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        nameless = TensorProto()
        nameless.CopyFrom(tensor)
        nameless.name = ""
        return (nameless.SerializeToString(deterministic=True),)
    bits = tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
    return (tensor.data_type, tuple(tensor.dims), bits)


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or '-> ' + ', '.join(node.output)}"


def _forget_origin(items: Iterable[onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto]) -> None:
    for item in items:
        item.ClearField("doc_string")
        del item.metadata_props[:]


def _keep(items: MutableSequence[T], wanted: Callable[[T], bool]) -> None:
    """Delete the others in place; a new list would copy every weight."""
    for index in reversed(range(len(items))):
        if not wanted(items[index]):
            del items[index]
