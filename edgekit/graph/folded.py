"""Tensors that simplification folds into others: their names stay behind on something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import ModelProto, helper

from edgekit.graph.alignment import align

FOLDED_KEY = "edgekit.folded"


def set_folded_apart(original: ModelProto, changed: ModelProto, names: Collection[str]) -> None:
    """Rename those of the tensors `names` that stand for something else in the changed graph, and declare them there.

    A scale that is folded into the convolution before it leaves the scaled values under the convolution's name.
    """
    meant = align(original, changed)
    made = {name for node in changed.graph.node for name in node.output}
    folded = [name for name in names if name in made and meant.get(name) != name]
    for name in folded:
        for node in changed.graph.node:
            for ends in (node.input, node.output):
                for index, end in enumerate(ends):
                    if end == name:
                        ends[index] = f"{name}:folded"
    if folded:
        props = {entry.key: entry.value for entry in changed.metadata_props}
        helper.set_model_props(changed, props | {FOLDED_KEY: "\n".join(folded)})


def folded(metadata: Mapping[str, str]) -> frozenset[str]:
    """The tensors that a graph's metadata declares as folded into others."""
    return frozenset(metadata.get(FOLDED_KEY, "").split("\n")) - {""}
