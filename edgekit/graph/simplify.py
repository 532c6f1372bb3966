"""Simplify an ONNX graph with onnxsim, crash-isolated; nothing heavy is imported in the caller's process.

onnxsim runs optimiser passes and an inference engine of its own, in C++, on whatever graph it is given: it has its own
process (edgekit/isolation.py), where `simplify_worker` serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgekit.errors import InputUnusable
from edgekit.isolation import Isolated, Turns

MAX_PROTOBUF_BYTES = 2**31 - 1  # a limit of the format; such models keep their weights beside the file
# Folding may copy a weight (transposed, reshaped), but never make a large file of a small one.
MAX_GROWTH = 2
SPARE_BYTES = 4 << 20


@dataclass(frozen=True)
class SimplifyRequest:
    """A serialised ModelProto, and how large the simplified one may be in bytes."""

    model_bytes: bytes
    size_limit: int


@dataclass(frozen=True)
class Simplified:
    """The simplified ModelProto, serialised, with node counts; the same input gives the same bytes.

    `constants_folded` is False where folding would have blown the file up and was left out.
    """

    model_bytes: bytes
    nodes_before: int
    nodes_after: int
    constants_folded: bool = True


class Simplifier:
    """onnxsim in a process of its own, which starts at `start` (or on first use) and serves one graph after another."""

    def __init__(self, timeout_s: float = 120.0) -> None:
        self.timeout_s = timeout_s
        self._isolated = Isolated("edgekit.graph.simplify_worker:serve_request", what="the simplifier (onnxsim)")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        return self._isolated.pid

    def start(self, turns: Turns | None = None) -> None:
        """Let the process import onnxsim while this one does something else; with `turns`, in its turn."""
        self._isolated.start(turns)

    def submit(self, model_bytes: bytes) -> None:
        """Begin to simplify a serialised ModelProto; returns at once. Raises InputUnusable above 2 GB."""
        if len(model_bytes) > MAX_PROTOBUF_BYTES:
            raise InputUnusable(
                "the ONNX model is too large to simplify",
                got=f"{len(model_bytes)} bytes",
                wanted=f"at most {MAX_PROTOBUF_BYTES}: a protobuf ends at 2 GB",
                hint="keep the weights as external data, or export without simplification",
            )
        limit = min(MAX_GROWTH * len(model_bytes) + SPARE_BYTES, MAX_PROTOBUF_BYTES)
        self._isolated.submit(SimplifyRequest(model_bytes, limit))

    def drop(self) -> None:
        """Forget what was submitted and not asked for."""
        self._isolated.drop(self.timeout_s)

    def result(self) -> Simplified:
        """The simplified graph of what was submitted.

        Inputs, outputs and their order are as before; parity is the caller's to check. Raises InputUnusable where
        onnxsim refuses the graph, IsolationFailed where it crashes or takes longer than `timeout_s` seconds.
        """
        simplified = self._isolated.result(self.timeout_s)
        assert isinstance(simplified, Simplified)
        return simplified

    def release(self) -> None:
        """Let go of the process without ending it: a worker forked after `start` has it from now on."""
        self._isolated.release()

    def close(self) -> None:
        """End the process at once."""
        self._isolated.close()
