"""A silent FP32 fails, wherever it hides; what the graph openly keeps in FP32 does not."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.engines.receipt import Layer, PrecisionMismatch, allowed_by_flag, judge
from edgekit.manifest import EnginePrecision, Receipt


def conv(name: str, dtype: str) -> Layer:
    return Layer(name, "CONVOLUTION", dtype, computes=True)


def other(name: str, kind: str, dtype: str) -> Layer:
    return Layer(name, kind, dtype, computes=False)


HALVES = [conv("a", "fp16"), conv("b", "fp16")]


def test_all_halves_pass_with_their_count() -> None:
    assert judge("fp16", HALVES, HALVES) == Receipt("fp16", {"fp16": 2}, passed=True)


def test_casts_and_activations_at_the_border_do_not_count() -> None:
    border = [other("in", "CAST", "fp16"), other("out", "CAST", "fp32"), other("softmax", "SOFTMAX", "fp32")]
    assert judge("fp16", HALVES, [*HALVES, *border]).found == {"fp16": 2}
    assert judge("fp16", HALVES, [*HALVES, *border]).passed


@pytest.mark.parametrize("requested", ["fp16", "fp32"])
def test_one_layer_in_another_precision_fails_and_is_named(requested: EnginePrecision) -> None:
    wrong = {"fp16": "fp32", "fp32": "fp16"}[requested]
    right = [conv("a", requested), conv("b", requested)]
    odd = [conv("a", requested), conv("b", wrong)]
    in_network = judge(requested, right, odd)
    assert not in_network.passed
    assert in_network.found == {"fp16": 1, "fp32": 1}
    assert in_network.reason == f"the TensorRT network has CONVOLUTION b in {wrong}"
    in_graph = judge(requested, odd, right)
    assert not in_graph.passed
    assert in_graph.reason == f"the ONNX graph has CONVOLUTION b in {wrong}"


def test_a_layer_that_the_graph_declares_as_kept_passes_and_is_counted() -> None:
    layers = [conv("a", "fp16"), conv("b", "fp32")]
    assert judge("fp16", layers, layers, kept_fp32={"b"}) == Receipt("fp16", {"fp16": 1, "fp32": 1}, passed=True)


def test_to_keep_everything_is_a_silent_fp32_by_declaration() -> None:
    layers = [conv("a", "fp32"), conv("b", "fp32")]
    assert not judge("fp16", layers, layers, kept_fp32={"a", "b"}).passed


def test_a_network_without_compute_layers_is_judged_by_the_others() -> None:
    relu = [other("r", "ACTIVATION", "fp32"), other("c", "CAST", "fp16")]
    assert not judge("fp16", relu, relu).passed
    assert judge("fp32", relu, relu).passed


def test_a_network_without_any_floats_proves_nothing() -> None:
    receipt = judge("fp16", [], [other("s", "SHAPE", "other")])
    assert not receipt.passed
    assert receipt.found == {}


def test_what_a_flag_allows_is_not_said_to_be_found() -> None:
    receipt = allowed_by_flag([conv("a", "fp32"), conv("b", "fp32"), other("c", "CAST", "fp32")])
    assert (receipt.requested, receipt.found, receipt.passed) == ("fp16", {"fp16 or fp32": 2}, True)
    assert "chooses layer by layer" in (receipt.reason or "")
    assert not allowed_by_flag([]).passed


@given(st.lists(st.sampled_from(["fp16", "fp32", "bf16"]), min_size=1, max_size=30))
def test_fp16_passes_exactly_when_every_compute_layer_is_fp16(dtypes: list[str]) -> None:
    layers = [conv(f"l{i}", dtype) for i, dtype in enumerate(dtypes)]
    receipt = judge("fp16", HALVES, layers)
    assert receipt.passed == (set(dtypes) == {"fp16"})
    assert sum(receipt.found.values()) == len(dtypes)


def test_a_long_list_of_offenders_is_cut() -> None:
    reason = judge("fp16", HALVES, [conv(f"l{i}", "fp32") for i in range(50)]).reason
    assert reason is not None
    assert reason.endswith("and 45 more")


def test_a_mismatch_crosses_process_borders_with_its_receipt() -> None:
    error = PrecisionMismatch(judge("fp16", HALVES, [conv("a", "fp32")]), "model.onnx")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, PrecisionMismatch)
    assert (copy.receipt, str(copy), copy.exit_code) == (error.receipt, str(error), 1)
