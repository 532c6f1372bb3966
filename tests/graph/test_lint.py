"""Lint: every rule on a graph made for it, silence on clean graphs, and no crash on any graph at all."""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from edgekit.graph.lint import OPERATOR_LIMITS, Finding, lint
from edgekit.profile import ExportProfile, load, names

REFERENCE = Path(__file__).parent.parent / "reference" / "jetson.json"
BACKEND_DATA = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data").glob("**/*.onnx"))
DecodeError: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError  # it has no type stubs
SHAPE = [1, 3, 8, 8]


def value(name: str, shape: Sequence[int | str | None] | None = SHAPE, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, array: Any, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model_of(
    nodes: Sequence[NodeProto],
    *weights: TensorProto,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 13,
    domains: Sequence[str] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("image")] if inputs is None else inputs,
        [value("out")] if outputs is None else outputs,
        weights,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def node(op: str, inputs: str, outputs: str, name: str | None = None, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=name or f"the_{op.lower()}", **attributes)


RELU = node("Relu", "image", "out")


def only(model: ModelProto, profile: str | None = None) -> Finding:
    [finding] = lint(model, load(profile) if profile else None)
    return finding


def brief(model: ModelProto, profile: str | None = None) -> list[tuple[str, str, str]]:
    return [(f.severity, f.rule, f.where) for f in lint(model, load(profile) if profile else None)]


# --- real graphs


class Block(nn.Module):
    """conv, batch norm, ReLU6, dropout: what a classifier is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.drop(torch.clamp(self.norm(self.conv(x)), 0.0, 6.0))
        return y


def exported(path: Path, *, training: bool) -> ModelProto:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated
        torch.onnx.export(
            Block().train(training),
            (torch.zeros(SHAPE),),
            path,
            dynamo=False,
            opset_version=13,
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
            do_constant_folding=not training,
            input_names=["image"],
            output_names=["out"],
        )
    return onnx.load(path)


def test_an_exported_network_before_folding_is_full_of_findings(tmp_path: Path) -> None:
    rules = {finding.rule for finding in lint(exported(tmp_path / "m.onnx", training=True), load("rtx"))}
    assert {"unfolded-batchnorm", "leftover-dropout", "leftover-constant"} <= rules


def test_an_exported_network_after_folding_has_neither_batch_norm_nor_dropout(tmp_path: Path) -> None:
    findings = lint(exported(tmp_path / "m.onnx", training=False), load("rtx"))
    assert not {f.rule for f in findings} - {"leftover-constant", "leftover-identity"}
    assert all(f.severity == "warning" for f in findings)


@pytest.mark.parametrize("name", names())
def test_a_clean_graph_has_no_findings_on_any_target(name: str) -> None:
    nodes = [node("Conv", "image w b", "h"), node("Clip", "h low high", "out")]
    weights = [weight("w", np.full((3, 3, 1, 1), 0.1)), weight("b", [0.1, 0, 0.1]), weight("low", 0), weight("high", 6)]
    assert lint(model_of(nodes, *weights), load(name)) == []


# --- the model


def test_an_opset_that_the_target_does_not_parse_is_an_error() -> None:
    model = model_of([RELU], opset=14)
    assert brief(model, "jetson-nano-jp465") == [("error", "opset", "opset_import")]
    finding = only(model, "jetson-nano-jp465")
    assert "14 is above 13, the newest that TensorRT 8.2.1 parses" in finding.message
    assert finding.hint == "export at opset 13"
    assert lint(model, load("jetson-xavier-jp512")) == []


def test_an_opset_that_parses_but_is_not_the_profiles_is_a_warning() -> None:
    assert brief(model_of([RELU], opset=19), "jetson-orin-jp62") == [("warning", "opset", "opset_import")]
    assert brief(model_of([RELU], opset=19), "rtx") == [("warning", "opset", "opset_import")]


@pytest.mark.parametrize(
    ("opset", "profile"), [(6, None), (6, "rtx"), (26, "rtx"), (99, "rtx"), (99, None), (99, "cpu"), (99, "cuda")]
)
def test_an_opset_that_nothing_parses_is_an_error(opset: int, profile: str | None) -> None:
    assert brief(model_of([RELU], opset=opset), profile) == [("error", "opset", "opset_import")]


def test_a_missing_opset_is_an_error_and_another_name_of_the_default_domain_is_not() -> None:
    model = model_of([RELU])
    model.opset_import[0].domain = "ai.onnx"
    assert lint(model) == []
    model.opset_import[0].domain = "com.example"
    assert brief(model) == [("error", "opset", "opset_import")]


def test_local_functions_and_their_calls_are_one_finding() -> None:
    model = model_of([node("Twice", "image", "out", domain="mine")], domains=["mine"])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 13)]))
    assert brief(model, "rtx") == [("warning", "local-function", "functions")]


# --- operators


def unsupported(model: ModelProto, name: str) -> bool:
    return ("error", "operator") in [(f.severity, f.rule) for f in lint(model, load(name))]


PAD = model_of([node("Pad", "image pads", "out", mode="reflect")], weight("pads", [0] * 8, "int64"))
COMPUTED = model_of(
    [node("GlobalAveragePool", "scales", "s"), node("InstanceNormalization", "image s bias", "out")],
    weight("bias", [0.0] * 3),
    inputs=[value("image"), value("scales", [3, 1])],
)
HARDSWISH = model_of([node("HardSwish", "image", "out")], opset=14)


@pytest.mark.parametrize(
    ("model", "refusing", "taking"),
    [
        (PAD, ["jetson-nano-jp46"], ["jetson-nano-jp465", "jetson-orin-jp512", "rtx", "cpu", "cuda"]),
        (COMPUTED, ["jetson-nano-jp46", "jetson-nano-jp465", "jetson-orin-jp512"], ["jetson-orin-jp60", "rtx", "cpu"]),
        (HARDSWISH, ["jetson-nano-jp46", "jetson-nano-jp465"], ["jetson-orin-jp512", "jetson-orin-jp62", "rtx"]),
    ],
)
def test_operators_are_refused_by_the_tensorrt_versions_that_lack_them(
    model: ModelProto, refusing: list[str], taking: list[str]
) -> None:
    assert [name for name in refusing + taking if unsupported(model, name)] == refusing
    assert "operator" not in [finding.rule for finding in lint(model)]


def test_the_uses_of_these_operators_that_every_version_takes_pass() -> None:
    pad = model_of([node("Pad", "image pads", "out")], weight("pads", [0] * 8, "int64"))
    assert not unsupported(pad, "jetson-nano-jp46")
    norm = node("InstanceNormalization", "image scale bias", "out")
    stored = model_of([norm], weight("scale", [1.0] * 3), weight("bias", [0.0] * 3))
    assert not unsupported(stored, "jetson-nano-jp46")
    constant = node("Constant", "", "scale", value=weight("", [1.0] * 3))
    assert not unsupported(model_of([constant, norm], weight("bias", [0.0] * 3)), "jetson-nano-jp46")


def test_the_operator_table_is_that_of_the_reference() -> None:
    reference = json.loads(REFERENCE.read_text())["operators"]
    limits = {limit.op: ".".join(map(str, limit.below)) for limit in OPERATOR_LIMITS}
    assert {name.split("(")[0] for name in reference} == set(limits)
    assert limits["Pad"] == reference["Pad(mode=reflect)"]["unsupported_before"]
    assert limits["InstanceNormalization"] == reference["InstanceNormalization"]["native_from"]
    known = json.loads(REFERENCE.read_text())["opset_by_tensorrt"]
    assert limits["HardSwish"] == list(known)[list(known).index(reference["HardSwish"]["unsupported_up_to"]) + 1]


def test_an_operator_inside_a_subgraph_is_found_and_placed() -> None:
    model = conditional([node("Pad", "image pads", "then_out", mode="reflect")])
    model.graph.initializer.append(weight("pads", [0] * 8, "int64"))
    findings = {f.rule: f for f in lint(model, load("jetson-nano-jp46"))}
    assert findings["operator"].where == "the_if/then_branch/the_pad"


def test_weights_of_the_outer_graph_are_constants_inside_a_subgraph() -> None:
    model = conditional([node("InstanceNormalization", "image scale bias", "then_out")])
    model.graph.initializer.extend([weight("scale", [1.0] * 3), weight("bias", [0.0] * 3)])
    assert not unsupported(model, "jetson-nano-jp46")


def conditional(nodes: Sequence[NodeProto]) -> ModelProto:
    then = helper.make_graph(nodes, "then", [], [value("then_out")])
    other = helper.make_graph([node("Identity", "image", "else_out")], "else", [], [value("else_out")])
    choose = node("If", "which", "out", then_branch=then, else_branch=other)
    return model_of([choose], inputs=[value("image"), value("which", [], TensorProto.BOOL)])


def test_operators_of_a_foreign_domain_are_an_error_where_an_engine_is_built() -> None:
    nodes = [
        node("Magic", "image", "h", "a", domain="com.example"),
        node("Magic", "h", "out", "b", domain="com.example"),
    ]
    model = model_of(nodes, domains=["com.example"])
    assert brief(model, "rtx") == [("error", "custom-domain", "a, b")]
    assert brief(model) == [("warning", "custom-domain", "a, b")]
    assert "2 of operator Magic from the domain com.example" in only(model).message


# --- leftovers


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        (node("Identity", "h", "g", "left"), "leftover-identity"),
        (node("Dropout", "h", "g", "left"), "leftover-dropout"),
    ],
)
def test_nodes_that_do_nothing_are_leftovers(extra: NodeProto, rule: str) -> None:
    model = model_of([node("Relu", "image", "h", "r1"), extra, node("Relu", "g", "out", "r2")])
    assert brief(model) == [("warning", rule, "left")]


def test_constants_are_leftovers_counted_in_one_finding() -> None:
    names = "abcdef"
    constants = [node("Constant", "", name, f"c{name}", value=weight("", 1.0)) for name in names]
    finding = only(model_of([*constants, node("Sum", f"image {' '.join(names)}", "out")]))
    assert (finding.rule, finding.where) == ("leftover-constant", "ca, cb, cc, cd and 2 more")
    assert finding.message == "6 Constant nodes left in the graph"


def test_up_to_four_places_are_named_in_full() -> None:
    constants = [node("Constant", "", name, f"c{name}", value=weight("", 1.0)) for name in "abcd"]
    assert only(model_of([*constants, node("Sum", "image a b c d", "out")])).where == "ca, cb, cc, cd"


def test_an_identity_that_alone_can_name_an_output_is_none() -> None:
    assert lint(model_of([node("Identity", "image", "out")])) == []
    twice = model_of(
        [node("Relu", "image", "out"), node("Identity", "out", "again")], outputs=[value("out"), value("again")]
    )
    assert lint(twice) == []
    renamed = model_of([node("Relu", "image", "h"), node("Identity", "h", "out")])
    assert brief(renamed) == [("warning", "leftover-identity", "the_identity")]


def batch_norm_after(op: str, *, outputs: Sequence[Any] | None = None) -> ModelProto:
    first = node(op, "image w", "h") if op == "Conv" else node(op, "image", "h")
    weights = [weight(name, [1.0] * 3) for name in ("scale", "bias", "mean", "var")]
    nodes = [first, node("BatchNormalization", "h scale bias mean var", "out")]
    return model_of(nodes, *weights, *([weight("w", np.ones((3, 3, 1, 1)))] if op == "Conv" else []), outputs=outputs)


def test_a_batch_norm_is_unfolded_only_right_after_a_conv_that_feeds_nothing_else() -> None:
    assert brief(batch_norm_after("Conv")) == [("warning", "unfolded-batchnorm", "the_batchnormalization")]
    assert lint(batch_norm_after("Relu")) == []
    assert lint(batch_norm_after("Conv", outputs=[value("out"), value("h")])) == []
    shared = batch_norm_after("Conv", outputs=[value("out"), value("more")])
    shared.graph.node.append(node("Relu", "h", "more"))
    assert lint(shared) == []


def test_dead_nodes_are_found_also_where_they_feed_each_other() -> None:
    dead = [node("Relu", "image", "x", "d1"), node("Relu", "x", "y", "d2")]
    finding = only(model_of([*dead, RELU]))
    assert (finding.rule, finding.where) == ("dead-node", "d1, d2")
    assert finding.message == "2 of 3 nodes lead to no output"


def test_what_only_a_subgraph_reads_is_neither_dead_nor_unused() -> None:
    model = conditional([node("Add", "h w", "then_out")])
    model.graph.node.insert(0, node("Relu", "image", "h"))
    model.graph.initializer.append(weight("w", 1.0))
    assert {f.rule for f in lint(model)} == {"interface-type"}  # the BOOL input


def test_unused_initializers_are_found_and_those_that_are_outputs_are_not() -> None:
    assert brief(model_of([RELU], weight("spare", 1.0))) == [("warning", "unused-initializer", "spare")]
    assert lint(model_of([RELU], weight("c", 1.0), outputs=[value("out"), value("c", [])])) == []


def test_nodes_without_a_name_and_with_the_same_one_are_found() -> None:
    nameless = helper.make_node("Relu", ["image"], ["h"])
    assert brief(model_of([nameless, node("Relu", "h", "out")])) == [("warning", "unnamed-node", "Relu -> h")]
    same = model_of([node("Relu", "image", "h", "r"), node("Relu", "h", "out", "r")])
    assert brief(same) == [("warning", "duplicate-node-name", "r")]


# --- tensors


def test_float64_is_an_error_for_tensorrt_wherever_it_hides() -> None:
    cast = [node("Cast", "image", "d", to=TensorProto.DOUBLE), node("Cast", "d", "out", "back", to=TensorProto.FLOAT)]
    assert brief(model_of(cast), "rtx") == [("error", "float64", "the_cast")]
    stored = model_of([node("Add", "image w", "out")], weight("w", 1.0, "float64"))
    assert brief(stored, "rtx") == [("error", "float64", "w")]
    assert brief(stored, "cpu") == [("warning", "float64", "w")]
    faced = model_of([RELU], inputs=[value("image", kind=TensorProto.DOUBLE)])
    assert brief(faced) == [("warning", "float64", "image")]


def test_wide_integers_matter_where_there_is_no_int64() -> None:
    model = model_of([node("Expand", "image wide", "out")], weight("wide", [1, 2**31], "int64"))
    assert brief(model, "jetson-nano-jp46") == [("warning", "int64-range", "wide")]
    assert brief(model) == [("warning", "int64-range", "wide")]
    assert lint(model, load("rtx")) == lint(model, load("jetson-orin-jp62")) == lint(model, load("cpu")) == []
    edge = model_of([node("Expand", "image wide", "out")], weight("wide", [-(2**31), 2**31 - 1], "int64"))
    assert lint(edge, load("jetson-nano-jp46")) == []


def added(array: Any, dtype: str = "float32") -> ModelProto:
    return model_of([node("Add", "image w", "out")], weight("w", array, dtype))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_nan_weight_is_an_error(dtype: str) -> None:
    finding = only(added([1, np.nan, np.inf], dtype), "rtx")
    assert (finding.severity, finding.rule, finding.where) == ("error", "non-finite", "w")
    assert finding.message == "1 of 3 values are NaN"


def test_a_nan_in_a_constant_node_is_found_as_well() -> None:
    model = model_of([node("Constant", "", "w", value=weight("", [np.nan])), node("Add", "image w", "out")])
    assert ("error", "non-finite", "the_constant") in brief(model)


def test_infinite_weights_are_an_error_but_an_infinite_fill_value_a_warning() -> None:
    assert brief(added([1, -np.inf])) == [("error", "non-finite", "w")]
    assert brief(added(-np.inf)) == [("warning", "non-finite", "w")]


def test_an_infinite_float16_weight_is_named_as_an_overflow() -> None:
    finding = only(added([1, np.inf], "float16"))
    assert (finding.severity, finding.rule) == ("error", "fp16-infinite")


def test_weights_that_overflow_in_fp16_matter_only_to_a_target_with_fp16(tmp_path: Path) -> None:
    assert brief(added([1, 65504]), "rtx") == []
    assert brief(added([1, -65536]), "rtx") == [("warning", "fp16-overflow", "w")]
    assert brief(added([1, -65536])) == [("warning", "fp16-overflow", "w")]
    fp32_only = ExportProfile("mine", "x", "tensorrt", ("fp32",))
    assert lint(added([1, -65536]), fp32_only) == []


def test_weights_that_vanish_in_fp16_are_told_by_their_share_of_the_non_zero_ones() -> None:
    finding = only(added([0] * 96 + [1, 1, 1e-9, -1e-9]), "rtx")
    assert (finding.severity, finding.rule, finding.where) == ("warning", "fp16-vanish", "w")
    assert finding.message == "2 of 4 non-zero values (50%) become zero in FP16"
    assert lint(added([0] * 50 + [1] * 999 + [1e-9]), load("rtx")) == []
    assert lint(added([0.0] * 4), load("rtx")) == []


@given(st.floats(min_value=2.0**-30, max_value=2.0**-20, width=32))
def test_a_weight_vanishes_exactly_when_numpy_rounds_it_to_zero(number: float) -> None:
    vanishes = np.float32(number).astype(np.float16) == 0
    assert [f.rule for f in lint(added([number]))] == (["fp16-vanish"] if vanishes else [])


def test_a_tensor_whose_data_do_not_fit_is_an_error() -> None:
    model = added([1.0, 2.0])
    model.graph.initializer[0].dims[:] = [7]
    assert brief(model) == [("error", "broken-tensor", "w")]
    model.graph.initializer[0].dims[:] = [-1]
    assert brief(model) == [("error", "broken-tensor", "w")]


def test_weights_in_a_file_that_was_not_loaded_are_reported_not_read(tmp_path: Path) -> None:
    model = added(np.ones(5000))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    loaded = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    loaded.graph.initializer[0].external_data[0].value = "../outside.bin"
    assert brief(loaded) == [("warning", "external-data", "w")]


# --- the interface


def test_names_that_are_not_text_are_an_error_and_end_the_search() -> None:
    data = model_of([node("Relu", "image", "out", "QQQQ")]).SerializeToString().replace(b"QQQQ", b"QQ\x80Q")
    assert brief(onnx.load_from_string(data)) == [("error", "broken-name", r"b'QQ\x80Q'")]


def test_an_empty_graph_is_an_error() -> None:
    assert {f.rule for f in lint(ModelProto()) if f.severity == "error"} == {"opset", "empty-graph", "no-output"}


def test_inputs_that_are_initializers_are_found_and_not_taken_for_inputs() -> None:
    model = model_of([node("Add", "image 7", "out")], weight("7", 1.0), inputs=[value("image"), value("7", ["a", "b"])])
    assert brief(model) == [("warning", "input-is-initializer", "7")]


def test_a_float_network_has_float32_inputs_and_outputs() -> None:
    halves = [value("image", kind=TensorProto.FLOAT16)]
    assert brief(model_of([RELU], inputs=halves)) == [("warning", "interface-type", "image")]
    indices = [value("out"), value("best", [1], TensorProto.INT64)]
    model = model_of([RELU, node("ArgMax", "image", "best")], outputs=indices)
    assert "type int64" in only(model).message
    whole = [value("image", kind=TensorProto.INT32)], [value("out", kind=TensorProto.INT32)]
    assert lint(model_of([RELU], inputs=whole[0], outputs=whole[1])) == []


def test_only_the_batch_may_be_dynamic() -> None:
    assert lint(model_of([RELU], inputs=[value("image", ["n", 3, 8, 8])], outputs=[value("out", ["n", 3, 8, 8])])) == []
    moving = model_of([RELU], inputs=[value("image", [1, 3, "h", None])])
    assert only(moving).message == "dynamic axes other than the batch: 2, 3"
    assert only(moving).rule == "dynamic-axis"


def test_an_unknown_shape_is_a_warning() -> None:
    assert brief(model_of([RELU], inputs=[value("image", None)])) == [("warning", "no-shape", "image")]


def test_numbers_are_no_names_for_inputs_and_outputs() -> None:
    model = model_of([node("Relu", "0", "x1")], inputs=[value("0")], outputs=[value("x1")])
    assert brief(model) == [("warning", "meaningless-name", "0")]


def test_a_sequence_is_not_a_tensor() -> None:
    parts = helper.make_tensor_sequence_value_info("image", TensorProto.FLOAT, SHAPE)
    model = model_of([node("ConcatFromSequence", "image", "out", axis=0)], inputs=[parts])
    assert brief(model, "rtx") == [("error", "not-a-tensor", "image")]
    assert "a sequence instead of a tensor" in only(model).message


# --- any graph at all


def test_errors_come_first() -> None:
    model = model_of([helper.make_node("Relu", ["image"], ["out"])], weight("w", [np.nan]), opset=99)
    severities = [finding.severity for finding in lint(model)]
    assert severities == sorted(severities)
    assert set(severities) == {"error", "warning"}


def test_there_are_graphs_to_try() -> None:
    assert len(BACKEND_DATA) > 100


@pytest.mark.parametrize("profile", [None, "rtx", "jetson-nano-jp46"])
def test_the_graphs_of_onnxs_own_tests_pass_through_and_are_not_changed(profile: str | None) -> None:
    target = load(profile) if profile else None
    for path in BACKEND_DATA:
        model = onnx.load(path, load_external_data=False)
        before = model.SerializeToString(deterministic=True)
        findings = lint(model, target)
        assert all(f.rule and f.where and f.message and f.hint for f in findings), path
        assert model.SerializeToString(deterministic=True) == before, path


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BACKEND_DATA[::7]), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
def test_a_damaged_graph_that_still_parses_passes_through(path: Path, damage: list[tuple[int, int]]) -> None:
    data = bytearray(path.read_bytes())
    for place, byte in damage:
        data[place % len(data)] = byte
    try:
        model = onnx.load_from_string(bytes(data))
    except DecodeError:
        return
    lint(model, load("jetson-nano-jp46"))
    lint(model)


def test_a_graph_that_runs_in_circles_and_one_without_any_names_pass_through() -> None:
    lint(model_of([node("Relu", "b", "a"), node("Relu", "a", "b"), node("Relu", "a", "out")]))
    graph = GraphProto(node=[NodeProto(), NodeProto(op_type="Identity"), NodeProto(op_type="BatchNormalization")])
    lint(ModelProto(graph=graph), load("rtx"))


def test_the_time_grows_linearly_with_the_nodes() -> None:
    def seconds(count: int) -> float:
        chain = [node("Relu", f"t{i}" if i else "image", f"t{i + 1}", f"n{i}") for i in range(count)]
        model = model_of([*chain, node("Relu", f"t{count}", "out")])
        times = []
        for _ in range(3):
            start = time.process_time()
            lint(model, load("rtx"))
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(16_000) < 20 * seconds(2_000)
