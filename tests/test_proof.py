"""The ladder with PyTorch and ONNX Runtime as its rungs: what a report holds, and what each mode looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from planted import RELU, SMALL_EPSILON, SWAPPED
from subjects import Subject, reference_of, rung
from torch import Tensor, nn

from edgekit import proof
from edgekit.errors import InputUnusable
from edgekit.graph.fp16 import to_fp16
from edgekit.graph.from_torch import (
    IMAGE,
    LOGITS,
    Signature,
    export_onnx,
    find_anchors,
    fold_batch_norms,
    name_anchors,
)
from edgekit.graph.specialise import specialise
from edgekit.models._counting import count
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.parity.report import ParityReport, Saturation
from edgekit.preprocessing import IMAGENET
from edgekit.proof import Graphs, Proof, Reference, prove
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]
TRUTH = "pytorch-fp64"


def quick(subject: Subject, fp16: bool = False) -> Reference:
    return Reference(subject.module, subject.folded, subject.anchors, quick=True, fp16=fp16)


def for_one_row(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its first dimension written into a Reshape, as many exporters do."""
    flatten = next(node for node in graph.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("shape")
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 1280], np.int64), "shape"))
    return graph


# The full climb


@pytest.mark.parametrize("model", NETWORKS)
def test_a_full_climb_compares_every_layer_on_every_rung(network: Network, model: str) -> None:
    subject = network(model)
    report = subject.climb(onnx=subject.exported, simplified=subject.exported, fp16=subject.fp16)
    assert report.passed
    assert report.mode == "full"
    assert [(found.name, found.against) for found in report.rungs] == [
        ("pytorch-fp32", TRUTH),
        ("onnx", TRUTH),
        ("onnx", "pytorch-fp32"),
        ("simplified", TRUTH),
        ("simplified", "onnx"),
        ("fp16", TRUTH),
        ("fp16", "simplified"),
    ]
    layers = len(subject.anchors)  # the last of them is the output
    assert [found.tensors for found in report.rungs] == [layers, layers, 1, layers, 1, layers, 1]
    assert report.inputs == tuple(given.name for given in subject.inputs)
    assert report.notes == ()


@pytest.mark.parametrize("model", NETWORKS)
def test_the_inputs_saturate_every_clipped_activation(network: Network, model: str) -> None:
    subject = network(model)
    report = subject.climb(onnx=subject.exported)
    clips = sum(isinstance(layer, torch.nn.ReLU6) for layer in subject.module.modules())
    assert report.saturation == Saturation(clips, clips)


def test_activations_that_are_never_clipped_are_counted_and_said(network: Network) -> None:
    subject = network("mobilenet_v2")
    faint = [replace(given, feeds={IMAGE: given.feeds[IMAGE] * np.float32(0.01)}) for given in subject.inputs]
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=False, fp16=False)
    report = prove(reference, Graphs(onnx=subject.exported), faint, 1).report
    assert report.saturation is not None
    never = report.saturation.clips - report.saturation.exercised
    assert never > 0
    assert report.notes == (f"{never} clipped activations were never driven to their limit",)


def test_the_outputs_are_the_truths_in_float64_for_all_inputs_in_order(network: Network) -> None:
    subject = network("mobilenet_v1")
    outputs = prove(subject.reference, Graphs(onnx=subject.exported), subject.inputs, 1).outputs
    assert {name for found in outputs for name in found} == {LOGITS}
    for found, it in zip(outputs, subject.inputs, strict=True):
        with torch.inference_mode():
            wanted = subject.module(torch.from_numpy(it.feeds[IMAGE])).numpy()
        assert found[LOGITS].dtype == np.float64
        assert found[LOGITS].shape == wanted.shape == (1, 1000)
        assert np.abs(found[LOGITS] - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_the_float64_truth_is_not_the_float32_run(network: Network) -> None:
    subject = network("mobilenet_v1")
    base = rung(subject.climb(onnx=subject.exported), "pytorch-fp32")
    assert base.error is not None
    assert 1e-8 < base.error < 1e-3


def test_a_graph_without_the_layers_names_fails_by_the_first_that_is_missing(network: Network) -> None:
    subject = network("mobilenet_v2")
    graph = onnx.load_model_from_string(
        export_onnx(subject.folded, torch.from_numpy(subject.inputs[0].feeds[IMAGE]), 17)
    )
    report = subject.climb(onnx=graph.SerializeToString())
    assert report.first_failure() == "onnx"
    assert rung(report, "onnx").tensor == "stem.conv"
    assert "missing" in (rung(report, "onnx").reason or "")


def test_a_reference_finds_folding_and_anchors_by_itself(network: Network) -> None:
    subject = network("mobilenet_v1")
    found = reference_of(subject.module, subject.inputs[0].feeds, fp16=True)
    assert found.anchors == [anchor for anchor in subject.anchors if not anchor.is_output]
    assert set(found.floors) == {"fp32", "fp16"}
    assert prove(found, Graphs(simplified=subject.exported, fp16=subject.fp16), subject.inputs, 1).report.passed


@pytest.mark.parametrize("fp16", [True, False])
def test_the_rungs_are_the_graphs_there_are_in_their_order(network: Network, fp16: bool) -> None:
    graphs = Graphs(simplified=b"s", fp16=b"h" if fp16 else None)
    assert graphs.rungs() == [("simplified", b"s", "fp32"), ("fp16", b"h", "fp16")][: 2 if fp16 else 1]
    assert Graphs().rungs() == []


# The quick climb


def test_a_quick_climb_compares_outputs_with_pytorch_in_float32(network: Network) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    proof = prove(quick(subject), Graphs(simplified=subject.exported), inputs, 1)
    report = proof.report
    assert report.passed
    assert (report.mode, report.saturation, report.batch) == ("quick", None, ())
    assert [(found.name, found.against, found.tensors, found.tensor) for found in report.rungs] == [
        ("simplified", "pytorch-fp32", 1, "logits")
    ]
    assert [{name: array.shape for name, array in found.items()} for found in proof.outputs] == [
        {LOGITS: (1, 1000)}
    ] * 3


@pytest.mark.parametrize("layer", ["stem.conv", "blocks.8.project.conv", "tail.conv"])
def test_a_quick_climb_sees_what_reaches_the_outputs(network: Network, layer: str) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    faulty = SWAPPED.graph(subject, layer).SerializeToString()
    report = prove(quick(subject), Graphs(simplified=faulty), inputs, 1).report
    assert report.first_failure() == "simplified"
    assert rung(report, "simplified").tensor == "logits"


def test_a_quick_climb_is_blinder_than_a_full_one(network: Network) -> None:
    """The reason for the full one: this epsilon drowns on its way to the outputs."""
    subject = network("mobilenet_v2")
    faulty = SMALL_EPSILON.graph(subject, "blocks.8.expand.conv").SerializeToString()
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    assert prove(quick(subject), Graphs(simplified=faulty), inputs, 1).report.passed
    assert not subject.climb(simplified=faulty).passed


def test_a_quick_climb_can_look_at_the_fp16_graph(network: Network) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    good = Graphs(simplified=subject.exported, fp16=subject.fp16)
    assert prove(quick(subject, fp16=True), good, inputs, 1).report.passed
    faulty = to_fp16(RELU.graph(subject, "stem.conv")).SerializeToString()
    loud = [Input("loud", {IMAGE: inputs[0].feeds[IMAGE] * np.float32(8)}), *inputs[1:]]
    report = prove(quick(subject, fp16=True), replace(good, fp16=faulty), loud, 1).report
    assert report.first_failure() == "fp16"


# Batches


def climb_in_rows(subject: Subject, graph: onnx.ModelProto, rows: int, batch: int | None) -> ParityReport:
    """The full ladder for inputs of that many rows."""
    inputs = ladder_inputs(IMAGENET, 96, rows)
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=False, fp16=False)
    return prove(reference, Graphs(onnx=specialise(graph, 96, batch)), inputs, batch).report


@pytest.mark.parametrize(("rows", "batch"), [(4, 4), (1, None), (3, None)])
def test_a_batch_passes_with_its_rows_checked(network: Network, rows: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    report = climb_in_rows(subject, subject.graph(), rows, batch)
    assert report.passed
    assert [(check.name, check.passed) for check in report.batch] == [("onnx", True)]


@pytest.mark.parametrize(("rows", "batch"), [(1, None), (4, 4)])
def test_rows_that_mix_fail_at_every_batch(network: Network, rows: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    graph = subject.graph()
    graph.graph.node[-1].output[0] = "own"
    graph.graph.node.append(helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1))
    graph.graph.node.append(helper.make_node("Add", ["own", "mean"], ["sum"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    graph.graph.node.append(helper.make_node("Mul", ["sum", "half"], ["logits"]))
    report = climb_in_rows(subject, graph, rows, batch)
    assert not report.passed
    assert [check.passed for check in report.batch] == [False]
    assert report.first_failure() == ("batch:onnx" if rows == 1 else "onnx")


def test_both_deployed_graphs_are_checked_for_mixing(network: Network) -> None:
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=subject.exported, simplified=subject.exported, fp16=subject.fp16)
    assert [check.name for check in report.batch] == ["simplified", "fp16"]
    assert all(check.passed and check.error is not None and check.tolerance for check in report.batch)


def test_a_graph_for_one_row_only_is_said_to_be_that_and_passes(network: Network) -> None:
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=for_one_row(subject.graph()).SerializeToString())
    assert report.passed
    (check,) = report.batch
    assert (check.passed, check.error) == (None, None)
    assert "one row only" in (check.reason or "")


def test_a_graph_for_one_row_cannot_be_exported_for_more(network: Network) -> None:
    subject = network("mobilenet_v2")
    with pytest.raises(InputUnusable, match="ONNX Runtime cannot"):
        climb_in_rows(subject, for_one_row(subject.graph()), 2, 2)


def test_a_graph_that_stands_on_several_rungs_is_loaded_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch check runs the session that the climb ran."""
    subject = network("mobilenet_v2")
    loaded: list[Sequence[str]] = []

    class Counted(CpuSession):
        def __init__(self, model: bytes | onnx.ModelProto, extra: Sequence[str] = ()) -> None:
            loaded.append(extra)
            super().__init__(model, extra)

    monkeypatch.setattr(proof, "CpuSession", Counted)
    report = subject.climb(onnx=subject.exported, simplified=subject.exported, fp16=subject.fp16)
    assert report.passed
    assert [check.passed for check in report.batch] == [True, True]
    assert len(loaded) == 2


# Costs


@pytest.mark.parametrize("is_quick", [True, False])
def test_the_cost_is_that_at_the_size_of_the_latest_inputs(network: Network, is_quick: bool) -> None:
    subject = network("mobilenet_v1")
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=is_quick, fp16=False)
    for resolution in (96, 64):
        graphs = Graphs(simplified=specialise(subject.graph(), resolution, 1))
        prove(reference, graphs, ladder_inputs(IMAGENET, resolution, 1, quick=True), 1)
        assert reference.counts() == count(subject.module, resolution)


def test_the_truth_of_a_quick_climb_is_run_once_for_all_inputs_and_ahead(network: Network) -> None:
    subject = network("mobilenet_v1")
    reference = quick(subject)
    rows: list[int] = []
    truth = reference.truth.trace

    def counted(feeds: Feeds) -> Mapping[str, AnyArray]:
        rows.append(len(feeds[IMAGE]))
        return truth(feeds)

    reference.truth = replace(reference.truth, trace=counted)
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    reference.foresee(inputs)
    assert rows == [3]
    found = prove(reference, Graphs(simplified=subject.exported), inputs, 1)
    assert found.report.passed
    assert rows == [3]
    # Other inputs were not foreseen, and neither were the same ones once they are made again.
    prove(reference, Graphs(simplified=subject.exported), ladder_inputs(IMAGENET, 96, 1, quick=True), 1)
    assert rows == [3, 3]


def test_a_full_climb_foresees_nothing(network: Network) -> None:
    subject = network("mobilenet_v1")
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=False, fp16=False)

    def run(feeds: Feeds) -> Mapping[str, AnyArray]:
        raise AssertionError("run too early")

    reference.truth = replace(reference.truth, trace=run)
    reference.foresee(subject.inputs)


# Inputs run together


class Rows:
    """A network of which every row is its own: two tensors, and how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        self.runs.append(len(feeds["image"]))
        image = feeds["image"]
        return {"wide": np.repeat(image, 4, axis=1) * 2.0, "scores": (image.sum(axis=(1, 2)) + feeds["shift"])[:, None]}


def row_inputs(count: int, rows: int = 1, side: int = 8) -> list[Input]:
    """Floats without fractions: their sums do not depend on the order."""
    rng = np.random.default_rng(0)
    return [
        Input(str(n), {"image": rng.integers(-99, 99, (rows, 2, side)) / 1, "shift": rng.integers(0, 9, rows)})
        for n in range(count)
    ]


def equal(one: Mapping[str, AnyArray], other: Mapping[str, AnyArray]) -> bool:
    return set(one) == set(other) and all(np.array_equal(array, other[name]) for name, array in one.items())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 40_000), st.booleans())
def test_inputs_run_together_give_what_each_gives_alone(count: int, rows: int, room: int, bounded: bool) -> None:
    inputs, run = row_inputs(count, rows), Rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "ROOM", room)
        together = proof._Together(run, inputs, proof._Room() if bounded else None)
        found = [together(it.feeds) for it in inputs]
    assert all(equal(one, Rows()(it.feeds)) for one, it in zip(found, inputs, strict=True))
    assert sum(run.runs) == count * rows  # each once


ROW_BYTES = (2 * 4 * 8 + 1) * 8  # of the trace of one row of 2 x 8 values


@pytest.mark.parametrize(
    ("fit", "runs"), [(0.5, [1, 1, 1, 1, 1, 1, 1]), (2.5, [1, 2, 2, 2]), (5, [1, 5, 1]), (99, [1, 6])]
)
def test_as_many_inputs_run_together_as_there_is_room_for(
    fit: float, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first runs alone, as nothing is known of its size; and what was asked for is let go of."""
    monkeypatch.setattr(proof, "ROOM", int(fit * ROW_BYTES) + 1)
    inputs, run = row_inputs(7), Rows()
    together = proof._Together(run, inputs, proof._Room())
    kept = []
    for it in inputs:
        together(it.feeds)
        kept.append(len(together.ahead))
    assert run.runs == runs
    assert max(kept) == max(runs) - 1
    assert kept[-1] == 0


def test_the_room_that_an_input_takes_is_known_for_other_sizes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is how much a run grows by; images of four times the size leave room for a quarter."""
    monkeypatch.setattr(proof, "ROOM", 8 * ROW_BYTES + 500)
    room, run = proof._Room(), Rows()
    for side, runs in ((8, [1, 7]), (8, [8]), (32, [2, 2, 2, 2])):
        run.runs.clear()
        inputs = row_inputs(8, side=side)
        together = proof._Together(run, inputs, room)
        for it in inputs:
            together(it.feeds)
        assert run.runs == runs


def test_tracers_of_one_room_do_not_share_what_is_known_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "ROOM", 3 * ROW_BYTES + 1)
    room = proof._Room()
    for run in (Rows(), Rows()):
        inputs = row_inputs(4)
        together = proof._Together(run, inputs, room)
        for it in inputs:
            together(it.feeds)
        assert run.runs == [1, 3]


def test_without_bounds_all_run_at_once_and_may_be_asked_for_again() -> None:
    inputs, run = row_inputs(5, rows=2), Rows()
    together = proof._Together(run, inputs, None)
    first = [together(it.feeds) for it in inputs]
    again = [together(it.feeds) for it in reversed(inputs)]
    assert run.runs == [10]
    assert all(equal(one, other) for one, other in zip(first, reversed(again), strict=True))


class Grid(Rows):
    """Some of its tensors have no row for each image: a grid that is always the same, and one number."""

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        return {**super().__call__(feeds), "grid": np.arange(12.0).reshape(6, 2), "number": np.array(7.0)}


@pytest.mark.parametrize(("count", "bounded"), [(2, True), (3, True), (7, True), (2, False), (3, False), (4, False)])
def test_tensors_without_rows_are_the_same_together_and_alone(count: int, bounded: bool) -> None:
    inputs = row_inputs(count)
    together = proof._Together(Grid(), inputs, proof._Room() if bounded else None)
    for it in inputs:
        assert equal(together(it.feeds), Grid()(it.feeds))


class Sized(Rows):
    """As `Rows`, for images of any size and with one number for all of them."""

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        return super().__call__({**feeds, "shift": np.broadcast_to(feeds["shift"], len(feeds["image"]))})


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("shift", [np.array(3), np.array([3])], ids=["number", "list of one"])
def test_inputs_that_cannot_be_stacked_are_run_one_by_one(shift: AnyArray, bounded: bool) -> None:
    unlike = [Input(str(n), {"image": np.ones((1, 2, 8 + n)), "shift": np.array([n])}) for n in range(3)]
    numbers = [Input(str(n), {"image": np.full((2, 2, 8), n), "shift": shift + n}) for n in range(3)]
    for inputs in (unlike, numbers):
        together = proof._Together(Sized(), inputs, proof._Room() if bounded else None)
        for it in inputs:
            assert equal(together(it.feeds), Sized()(it.feeds))


# Several inputs and outputs


class Pair(nn.Module):
    """An image and a row of numbers in; scores, the largest class, and what was pooled, out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.side, self.head = nn.Conv2d(3, 8, 3), nn.Linear(5, 8), nn.Linear(8, 4, bias=False)

    def forward(self, image: Tensor, extra: Tensor) -> tuple[Tensor, ...]:
        pooled = self.conv(image).relu().mean((2, 3)) * self.side(extra)
        scores = self.head(pooled)
        return scores, scores.argmax(1), pooled


class Detector(Pair):
    """Hands its grid on, too, which is the same for every image and has no row for it."""

    def forward(self, image: Tensor, extra: Tensor) -> tuple[Tensor, ...]:
        scores, largest, _ = super().forward(image, extra)
        return scores, largest, torch.arange(1.0, 11.0).view(5, 2) + 0 * image.sum()


PAIR = Signature(("image", "extra"), ("scores", "largest", "pooled"))


def pair_inputs(rows: int) -> list[Input]:
    rng = np.random.default_rng(2)  # the largest class is not the same for all
    shapes = {"image": (rows, 3, 12, 12), "extra": (rows, 5)}
    return [
        Input(str(n), {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}, n < 2)
        for n in range(3)
    ]


def climb_pair(
    module: nn.Module,
    batch: int | None,
    is_quick: bool = False,
    change: Callable[[onnx.ModelProto], None] = lambda graph: None,
) -> Proof:
    """Export the network, change the graph, and climb."""
    module.eval().requires_grad_(False)
    inputs = pair_inputs(batch or 1)
    example = tuple(torch.from_numpy(inputs[0].feeds[name]) for name in PAIR.inputs)
    folded, anchors = fold_batch_norms(module), find_anchors(module, *example)
    graph = onnx.load_model_from_string(export_onnx(folded, example, 17, "torchscript", batch is None, PAIR))
    name_anchors(graph, folded, anchors)
    change(graph)
    reference = Reference(module, folded, anchors, is_quick, fp16=False, signature=PAIR)
    return prove(reference, Graphs(simplified=graph.SerializeToString()), inputs, batch)


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_a_network_of_several_inputs_and_outputs_climbs(batch: int | None, is_quick: bool) -> None:
    found = climb_pair(Pair(), batch, is_quick)
    assert found.report.passed, found.report
    assert found.report.notes == ()
    first = rung(found.report, "simplified")
    assert first.tensors == (3 if is_quick else 5)  # the head makes the scores
    assert first.top1_agreement == 1.0
    shapes = {name: array.shape for name, array in found.outputs[0].items()}
    assert shapes == {"scores": (batch or 1, 4), "largest": (batch or 1,), "pooled": (batch or 1, 8)}
    wanted = [] if is_quick and batch == 1 else [True]
    assert [check.passed for check in found.report.batch] == wanted


def scaled(node_name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    """The layer's weights are larger."""

    def change(graph: onnx.ModelProto) -> None:
        node = next(node for node in graph.graph.node if node.name == node_name)
        weight = next(tensor for tensor in graph.graph.initializer if tensor.name == node.input[1])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))

    return change


@pytest.mark.parametrize(
    ("layer", "shows_at", "at_the_outputs"),
    [("conv", "conv", "scores"), ("side", "side", "scores"), ("head", "scores", "scores")],
)
def test_a_fault_behind_either_input_is_named(layer: str, shows_at: str, at_the_outputs: str) -> None:
    found = climb_pair(Pair(), 1, change=scaled(layer, 1.01)).report
    assert (found.first_failure(), rung(found, "simplified").tensor) == ("simplified", shows_at)
    found = climb_pair(Pair(), 1, is_quick=True, change=scaled(layer, 1.01)).report
    assert (found.first_failure(), rung(found, "simplified").tensor) == ("simplified", at_the_outputs)


def another_largest(graph: onnx.ModelProto) -> None:
    """The smallest instead: only the whole numbers show it."""
    next(node for node in graph.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"


@pytest.mark.parametrize("is_quick", [True, False])
def test_whole_numbers_that_differ_are_named(is_quick: bool) -> None:
    found = climb_pair(Pair(), 1, is_quick, another_largest).report
    assert (found.first_failure(), rung(found, "simplified").tensor) == ("simplified", "largest")
    assert rung(found, "simplified").error == 1.0


def without_pooled(graph: onnx.ModelProto) -> None:
    del graph.graph.output[2]


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_an_output_that_the_graph_has_lost_fails_by_its_name(batch: int | None, is_quick: bool) -> None:
    """Whatever the batch is: the check of the batch has nothing to compare, and must not hide the reason."""
    found = climb_pair(Pair(), batch, is_quick, without_pooled).report
    assert found.first_failure() == "simplified"
    assert rung(found, "simplified").reason == "tensor pooled is missing from simplified"


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_an_output_without_rows_is_compared_as_a_whole_and_said_to_be_the_same(
    batch: int | None, is_quick: bool
) -> None:
    found = climb_pair(Detector(), batch, is_quick)
    assert found.report.passed, found.report
    assert found.report.notes == ("output pooled varies by no more than its noise: nothing is proven of it",)
    assert all(np.array_equal(one["pooled"], np.arange(1.0, 11.0).reshape(5, 2)) for one in found.outputs)


def test_a_dead_network_of_several_outputs_is_refused_without_further_notes() -> None:
    module = Pair()
    with torch.no_grad():
        for layer in (module.conv, module.side):
            layer.weight.zero_()
    found = climb_pair(module, 1).report
    assert all(rung.passed for rung in found.rungs)
    assert (found.passed, found.first_failure(), found.notes) == (False, "liveness", ())


# Networks with little to fold, in a quick climb


def plain(norms: int = 0) -> nn.Sequential:
    """Twenty convolutions, of which the first `norms` have something to fold."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(20):
        convolution = nn.Conv2d(48 if number else 3, 48, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [nn.Sequential(convolution, nn.BatchNorm2d(48)) if number < norms else convolution, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("norms", [0, 1, 20])
def test_without_norms_the_floor_is_the_distance_to_float64(norms: int) -> None:
    """Folding nothing changes nothing, and a floor of nothing lets no correct graph pass."""
    module = plain(norms)
    folded, inputs = fold_batch_norms(module), ladder_inputs(IMAGENET, 64, 1, quick=True)
    graph = onnx.load_model_from_string(export_onnx(folded, torch.from_numpy(inputs[0].feeds[IMAGE]), 17))
    reference = Reference(module, folded, [], quick=True, fp16=False, long_sums=True)
    report = prove(reference, Graphs(simplified=graph.SerializeToString()), inputs, 1).report
    assert report.passed
    weight = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    assert not prove(reference, Graphs(simplified=graph.SerializeToString()), inputs, 1).report.passed
