"""What a journey holds until it is needed: graphs that are still being simplified, and are asked for again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx
import pytest
from subjects import Subject

from edgekit.errors import EdgekitError, InputUnusable
from edgekit.graph.simplify import Simplified
from edgekit.helpers import Helpers
from edgekit.isolation import IsolationFailed
from edgekit.proof import Reference
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.subjects import Exported, Simplification

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    started = Helpers(())
    yield started
    started.close()


@dataclass
class Recorded(Helpers):
    """Helpers that hand back the graph itself, after as many failures as wanted; `log` says what was asked when."""

    failures: int = 0
    log: list[str] = field(default_factory=list)

    def simplify(self, model: bytes) -> Callable[[], Simplified]:
        self.log.append("begun")

        def wait() -> Simplified:
            self.log.append("waited for")
            if self.failures:
                self.failures -= 1
                raise InputUnusable("no way")
            return Simplified(model, 1, 1)

        return wait


# Simplification


def test_a_graph_is_simplified_from_the_start_and_waited_for_when_it_is_asked_for(network: Network) -> None:
    recorded = Recorded()
    simplification = Simplification(recorded, network("mobilenet_v2").graph())
    assert recorded.log == ["begun"]
    assert simplification.result() == network("mobilenet_v2").graph()
    assert recorded.log == ["begun", "waited for"]


@pytest.mark.parametrize("failures", [1, 2])
def test_after_a_failure_it_begins_anew_when_it_is_asked_again(network: Network, failures: int) -> None:
    recorded = Recorded(failures=failures)
    simplification = Simplification(recorded, network("mobilenet_v2").graph())
    for _ in range(failures):
        with pytest.raises(InputUnusable, match="no way"):
            simplification.result()
    assert recorded.log == ["begun", "waited for"] * failures  # nobody has asked again
    assert simplification.result() == network("mobilenet_v2").graph()
    assert recorded.log == ["begun", "waited for"] * (failures + 1)


def test_a_simplifier_that_died_is_started_again(network: Network, helpers: Helpers) -> None:
    """The real one: the variants that follow must not all fail with the first."""
    subject = network("mobilenet_v2")
    simplification = Simplification(helpers, subject.graph())
    pid = helpers.simplifier.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(IsolationFailed):
        simplification.result()
    found = simplification.result()
    assert helpers.simplifier.pid not in (None, pid)
    feeds = subject.inputs[0].feeds
    wanted = CpuSession(subject.exported)(feeds)["logits"]
    assert abs(CpuSession(found)(feeds)["logits"] - wanted).max() < 1e-5 * abs(wanted).max()


# Exported graphs


@dataclass
class Waiting:
    """Hands the graph back, and counts how often it was asked to; fails at first as often as wanted."""

    graph: onnx.ModelProto
    failures: int = 0
    asked: int = 0

    def __call__(self) -> onnx.ModelProto:
        self.asked += 1
        if self.asked <= self.failures:
            raise EdgekitError("not yet")
        return self.graph


def exported(
    subject: Subject, simplify: Callable[[], onnx.ModelProto], quick: bool = False, half: bool = False
) -> Exported:
    reference = Reference(subject.module, subject.folded, subject.anchors, quick, half)
    wanted: Literal["yes", "no"] = "yes" if half else "no"
    return Exported("torchscript", subject.variant, True, subject.graph(), simplify, wanted, reference)


@pytest.mark.parametrize("half", [True, False])
def test_the_simplified_graph_is_waited_for_once_and_when_it_is_needed(network: Network, half: bool) -> None:
    subject = network("mobilenet_v1")
    waiting = Waiting(subject.graph())
    made = exported(subject, waiting, half=half)
    assert made.raw.graph.node
    assert waiting.asked == 0
    for resolution in (96, 64, 96):
        graphs = made.at(replace(subject.variant, resolution=resolution))
        assert graphs.simplified is not None
        assert (graphs.fp16 is not None) is half
    assert waiting.asked == 1
    assert made.fp16 is made.fp16  # converted once, too


def test_after_a_failure_it_is_waited_for_again(network: Network) -> None:
    """The next variant may be luckier; and what failed is not kept."""
    subject = network("mobilenet_v1")
    waiting = Waiting(subject.graph(), failures=1)
    made = exported(subject, waiting, half=True)
    with pytest.raises(EdgekitError, match="not yet"):
        made.at(subject.variant)
    graphs = made.at(subject.variant)
    assert None not in (graphs.simplified, graphs.fp16)
    assert waiting.asked == 2


@pytest.mark.parametrize("batch", [1, 4, None])
@pytest.mark.parametrize("resolution", [32, 160])
def test_every_graph_is_for_the_size_that_is_asked_for(network: Network, resolution: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    graphs = exported(subject, subject.graph, half=True).at(
        replace(subject.variant, resolution=resolution, batch=batch)
    )
    for _, model, _ in graphs.rungs():
        dims = onnx.load_model_from_string(model).graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == [batch or "batch", 3, resolution, resolution]


def test_a_graph_that_simplification_left_alone_is_one_graph_on_both_rungs(network: Network) -> None:
    subject = network("mobilenet_v1")
    same = exported(subject, subject.graph).at(subject.variant)
    assert same.onnx is same.simplified
    changed = subject.graph()
    changed.graph.doc_string = "another"
    graphs = exported(subject, lambda: changed).at(subject.variant)
    assert graphs.onnx != graphs.simplified
    assert [name for name, _, _ in graphs.rungs()] == ["onnx", "simplified"]


def test_a_quick_climb_has_no_rung_before_simplification(network: Network) -> None:
    subject = network("mobilenet_v1")
    graphs = exported(subject, subject.graph, quick=True, half=True).at(subject.variant)
    assert [name for name, _, _ in graphs.rungs()] == ["simplified", "fp16"]
