"""The receipt: the precision that was asked for, against the precision that the network to be built declares.

A builder that falls back to FP32 says nothing and exits with 0. Here it fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgekit.errors import GateFailed
from edgekit.manifest import EnginePrecision, Receipt

# The graph declares layers that are meant to stay in FP32 by node name, one a line, under this key of its metadata.
KEPT_FP32_KEY = "edgekit.kept_fp32"

HALF = ("fp16", "bf16")
FLOATS = ("fp32", *HALF)
LISTED = 5


@dataclass(frozen=True)
class Layer:
    """A layer of the ONNX graph or of the TensorRT network: its node's name, its kind, its output's dtype ("fp16").

    `computes` marks the layers that carry weights or multiply matrices; casts, activations and the like do not.
    """

    name: str
    kind: str
    dtype: str
    computes: bool


class PrecisionMismatch(GateFailed):
    """The network is not in the precision asked for; nothing was built. Exit code 1."""

    def __init__(self, receipt: Receipt, where: str) -> None:
        found = ", ".join(f"{count} layers in {dtype}" for dtype, count in receipt.found.items()) or "no layers"
        super().__init__(
            "the network is not in the precision that was asked for",
            where=where,
            got=f"{found}: {receipt.reason}",
            wanted=receipt.requested,
            hint="build from the graph of that precision; an FP16 engine needs the FP16 ONNX model",
        )
        self.receipt = receipt

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.receipt, self.where))


def judge(
    requested: EnginePrecision, graph: Sequence[Layer], network: Sequence[Layer], kept_fp32: Collection[str] = ()
) -> Receipt:
    """Compare what was asked with what the ONNX graph declares and what TensorRT made of it.

    FP16 asked and a compute layer in FP32 that the graph does not declare as kept fails, and so does the reverse.
    A network without compute layers is judged by all its floating-point layers but casts.
    """
    judged = _judged(network)
    found = dict(sorted(Counter(layer.dtype for layer in judged).items()))
    reason = (
        _missing(judged)
        or _wrong("the TensorRT network", requested, judged, kept_fp32)
        or _wrong("the ONNX graph", requested, _judged(graph), kept_fp32)
    )
    return Receipt(requested, found, reason is None, reason)


def allowed_by_flag(network: Sequence[Layer]) -> Receipt:
    """The receipt of a weakly typed FP16 build, where TensorRT chooses for each layer and the network cannot tell."""
    count = len(_judged(network))
    reason = (
        "TensorRT below 10 was allowed fp16 and chooses layer by layer: trtexec --exportLayerInfo shows what it took"
    )
    return Receipt("fp16", {"fp16 or fp32": count}, count > 0, reason)


def _judged(layers: Sequence[Layer]) -> list[Layer]:
    floats = [layer for layer in layers if layer.dtype in FLOATS]
    return [layer for layer in floats if layer.computes] or [layer for layer in floats if layer.kind.upper() != "CAST"]


def _missing(judged: Sequence[Layer]) -> str | None:
    return None if judged else "no floating-point layer was found to judge by"


def _wrong(what: str, requested: EnginePrecision, layers: Sequence[Layer], kept_fp32: Collection[str]) -> str | None:
    kept = [layer for layer in layers if layer.name in kept_fp32 and layer.dtype == "fp32"]
    wrong = [layer for layer in layers if layer.dtype != requested and layer not in kept]
    if requested == "fp16" and layers and len(kept) == len(layers):
        return f"{what} keeps every layer in fp32"
    if not wrong:
        return None
    names = ", ".join(f"{layer.kind} {layer.name} in {layer.dtype}" for layer in wrong[:LISTED])
    more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
    return f"{what} has {names}{more}"
