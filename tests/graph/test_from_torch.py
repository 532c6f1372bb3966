"""From a module to a graph: folding that is exact, names that mean something, and the opset that was asked for."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from subjects import Subject, reference_of, rung
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgekit.errors import InputUnusable
from edgekit.graph.from_torch import (
    IMAGE,
    Anchor,
    Exporter,
    Signature,
    export_onnx,
    find_anchors,
    fold_batch_norms,
    name_anchors,
    norm_pairs,
    observe,
)
from edgekit.models._blocks import ConvNorm
from edgekit.parity.ladder import Input
from edgekit.proof import Graphs, prove
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]


def lived(norm: nn.Module) -> nn.Module:
    """A norm with statistics, scale and shift that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in norm.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if name != "running_mean" else -0.5))
    return norm


def small(classes: int = 5) -> nn.Module:
    """Two blocks with their norms, and a head: exported in a moment."""
    torch.manual_seed(0)
    module = nn.Sequential(
        OrderedDict(
            stem=ConvNorm(3, 8, 3, stride=2),
            block=ConvNorm(8, 16),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(16, classes),
        )
    )
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            lived(layer)
    return module.eval().requires_grad_(False)


def images(rows: int = 1, side: int = 16) -> Tensor:
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(3))


# Which norm belongs to which layer


def test_every_convolution_of_a_reference_network_has_its_norm(network: Network) -> None:
    subject = network("mobilenet_v2")
    pairs = norm_pairs(subject.module)
    convolutions = [path for path, layer in subject.module.named_modules() if isinstance(layer, nn.Conv2d)]
    assert pairs == {path: path.replace(".conv", ".norm") for path in convolutions}


def test_only_a_norm_that_directly_follows_in_a_sequential_is_paired() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
            self.head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    assert norm_pairs(Loose()) == {"head.0": "head.1"}


def test_a_norm_without_running_statistics_cannot_be_folded_and_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert norm_pairs(module) == {}
    folded = fold_batch_norms(module)
    assert torch.equal(folded(images()), module(images()))


# Folding


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda bias: nn.Conv1d(6, 8, 3, groups=2, bias=bias), nn.BatchNorm1d, (2, 6, 9)),
        (lambda bias: nn.Conv2d(6, 8, 3, bias=bias), nn.BatchNorm2d, (2, 6, 7, 7)),
        (lambda bias: nn.Conv2d(8, 8, 3, groups=8, bias=bias), nn.BatchNorm2d, (2, 8, 7, 7)),
        (lambda bias: nn.Conv3d(3, 8, 2, bias=bias), nn.BatchNorm3d, (2, 3, 4, 4, 4)),
        (lambda bias: nn.ConvTranspose2d(6, 8, 3, stride=2, bias=bias), nn.BatchNorm2d, (2, 6, 5, 5)),
        (lambda bias: nn.ConvTranspose2d(6, 8, 3, groups=2, bias=bias), nn.BatchNorm2d, (2, 6, 5, 5)),
        (lambda bias: nn.Linear(6, 8, bias=bias), nn.BatchNorm1d, (4, 6)),
    ],
    ids=["conv1d", "conv2d", "depthwise", "conv3d", "transposed", "transposed-grouped", "linear"],
)
def test_folding_changes_nothing_but_the_last_bits(
    layer: Callable[[bool], nn.Module], norm: Callable[..., nn.Module], shape: tuple[int, ...], bias: bool, affine: bool
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(layer(bias), lived(norm(8, affine=affine))).double().eval()
    values = torch.randn(shape, dtype=torch.float64)
    folded = fold_batch_norms(module)
    assert isinstance(folded.get_submodule("1"), nn.Identity)
    assert torch.allclose(folded(values), module(values), rtol=1e-12, atol=1e-12)


def test_folding_in_float64_gives_the_nearest_float32_weights(network: Network) -> None:
    """Each is the exact product, rounded once; torch's own folding rounds three times on the way."""
    subject = network("mobilenet_v2")
    ours, theirs = [], []
    for layer_path, norm_path in norm_pairs(subject.module).items():
        layer, norm = subject.module.get_submodule(layer_path), subject.module.get_submodule(norm_path)
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        exact = fuse_conv_bn_eval(copy.deepcopy(layer).double(), copy.deepcopy(norm).double())
        folded = subject.folded.get_submodule(layer_path)
        assert torch.equal(folded.get_parameter("weight"), exact.weight.float())
        ours.append(error(folded.get_parameter("weight"), exact.weight))
        theirs.append(error(fuse_conv_bn_eval(layer, norm).weight, exact.weight))
    assert all(one <= other for one, other in zip(ours, theirs, strict=True))
    assert np.mean(ours) < 0.7 * np.mean(theirs)


def error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def test_folding_leaves_the_module_as_it_is() -> None:
    module = small().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded = fold_batch_norms(module)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(layer.training for layer in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


# Anchors


@pytest.mark.parametrize("model", NETWORKS)
def test_every_weighted_layer_is_an_anchor_in_the_order_of_execution(network: Network, model: str) -> None:
    subject = network(model)
    layers = {path for path, layer in subject.module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert {anchor.name for anchor in subject.anchors} == layers
    calls: list[str] = []
    handles = [
        subject.module.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
        for path in layers
    ]
    subject.module(torch.from_numpy(subject.inputs[0].feeds[IMAGE]))
    for handle in handles:
        handle.remove()
    assert [anchor.name for anchor in subject.anchors] == calls


def test_an_anchor_is_observed_behind_its_norm_and_the_last_one_is_the_output() -> None:
    assert find_anchors(small(), images()) == [
        Anchor("stem.conv", "stem.norm"),
        Anchor("block.conv", "block.norm"),
        Anchor("classifier", "classifier", is_output=True),
    ]


def test_a_layer_that_is_called_twice_is_no_anchor() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.shared(self.shared(x)))
            return out

    assert find_anchors(Twice().eval(), torch.zeros(1, 4)) == [Anchor("last", "last", is_output=True)]


def test_a_network_that_is_one_layer_has_no_anchor_within_it() -> None:
    assert find_anchors(nn.Conv2d(3, 4, 1).eval(), images()) == []


class Pair(nn.Module):
    """An image and a row of numbers in; scores, and what the image's features are, out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(ConvNorm(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.side, self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, image: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        features = self.side(extra) + self.body(image)
        return self.head(self.inner(features)), features


class Branches(Pair):
    """Both outputs are layers' own."""

    def forward(self, image: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
        features = self.inner(self.body(image))
        return self.head(features), self.side(extra)


PAIR = Signature(("image", "extra"), ("scores", "features"))


def pair_feeds(rows: int = 2) -> tuple[Tensor, Tensor]:
    return images(rows), torch.randn(rows, 5, generator=torch.Generator().manual_seed(4))


def test_anchors_of_several_inputs_and_outputs() -> None:
    assert find_anchors(Pair().eval(), *pair_feeds()) == [
        Anchor("side", "side"),
        Anchor("body.0.conv", "body.0.norm"),
        Anchor("inner", "inner"),
        Anchor("head", "head", is_output=True),
    ]
    found = find_anchors(Branches().eval(), *pair_feeds())
    assert [anchor.name for anchor in found if anchor.is_output] == ["head", "side"]


@pytest.mark.parametrize(("kind", "count"), [(lambda x: x, 1), (lambda x: (x, x + 1), 2), (lambda x: [x, x, x], 3)])
def test_what_a_network_hands_back_is_a_tuple(kind: Callable[[Tensor], object], count: int) -> None:
    class Handing(nn.Module):
        def forward(self, x: Tensor) -> object:
            return kind(x)

    values = images()
    found = observe(Handing(), [], (values,), lambda name, output: None)
    assert isinstance(found, tuple)
    assert len(found) == count
    assert torch.equal(found[0], values)


def test_looking_for_anchors_leaves_no_hook_behind() -> None:
    module = small()
    find_anchors(module, images())
    assert not any(layer._forward_hooks for layer in module.modules())


# The graph


@pytest.mark.parametrize("model", NETWORKS)
def test_nodes_and_tensors_carry_the_names_of_their_layers_with_their_weights(network: Network, model: str) -> None:
    subject = network(model)
    graph = subject.graph().graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.name for node in weighted] == [anchor.name for anchor in subject.anchors]
    for node in weighted:
        layer = subject.folded.get_submodule(node.name)
        assert np.array_equal(held[node.input[1]], layer.get_parameter("weight").numpy())
        assert np.array_equal(held[node.input[2]], layer.get_parameter("bias").numpy())
        assert node.output[0] == ("logits" if node.name == "classifier" else node.name)


@pytest.mark.parametrize("model", NETWORKS)
def test_the_graph_is_valid_and_free_of_litter(network: Network, model: str) -> None:
    graph = network(model).graph()
    onnx.checker.check_model(graph, full_check=True)
    assert not {"BatchNormalization", "Identity", "Dropout"} & {node.op_type for node in graph.graph.node}
    assert [value.name for value in graph.graph.input] == ["input"]
    assert [value.name for value in graph.graph.output] == ["logits"]


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    graph = onnx.load_model_from_string(export_onnx(fold_batch_norms(small()), images(), opset))
    assert [(used.domain, used.version) for used in graph.opset_import] == [("", opset)]


def test_the_same_network_gives_the_same_bytes() -> None:
    assert export_onnx(fold_batch_norms(small()), images(), 17) == export_onnx(fold_batch_norms(small()), images(), 17)


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.timeout(120))])
def test_a_dynamic_batch_takes_any_number_of_rows(exporter: Exporter) -> None:
    module = small()
    exported = export_onnx(fold_batch_norms(module), images(), 18, exporter, dynamic_batch=True)
    session = CpuSession(exported)
    for rows in (1, 2, 5):
        wanted = module(images(rows)).numpy()
        assert np.allclose(session({IMAGE: images(rows).numpy()})["logits"], wanted, atol=1e-5)
    dims = onnx.load_model_from_string(exported).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [3, 16, 16]


@pytest.mark.parametrize(
    ("exporter", "dynamic"),
    [("torchscript", False), ("torchscript", True), pytest.param("dynamo", True, marks=pytest.mark.timeout(120))],
)
@pytest.mark.parametrize("network_class", [Pair, Branches])
def test_several_inputs_and_outputs_keep_their_names_and_order(
    network_class: type[Pair], exporter: Exporter, dynamic: bool
) -> None:
    module = network_class().eval().requires_grad_(False)
    folded, example = fold_batch_norms(module), pair_feeds(1 if dynamic else 2)
    exported = onnx.load_model_from_string(export_onnx(folded, example, 18, exporter, dynamic, PAIR))
    assert tuple(value.name for value in exported.graph.input) == PAIR.inputs
    assert tuple(value.name for value in exported.graph.output) == PAIR.outputs
    first = [value.type.tensor_type.shape.dim[0] for value in (*exported.graph.input, *exported.graph.output)]
    assert [bool(dim.dim_param) for dim in first] == [dynamic] * 4
    anchors = find_anchors(module, *example)
    assert name_anchors(exported, folded, anchors) == anchors
    onnx.checker.check_model(exported, full_check=True)
    session = CpuSession(exported, [anchor.name for anchor in anchors if not anchor.is_output])
    for rows in (1, 3) if dynamic else (2,):
        feeds = pair_feeds(rows)
        found = session({name: values.numpy() for name, values in zip(PAIR.inputs, feeds, strict=True)})
        assert {"body.0.conv", "inner", *PAIR.outputs} <= set(found)
        for name, values in zip(PAIR.outputs, module(*feeds), strict=True):
            assert np.allclose(found[name], values.numpy(), atol=1e-5)


@pytest.mark.parametrize(("exporter", "opset"), [("torchscript", 24), ("dynamo", 17)])
def test_an_opset_that_the_exporter_does_not_write_is_refused_in_silence(
    exporter: Exporter, opset: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputUnusable, match="does not write this opset") as refused:
        export_onnx(fold_batch_norms(small()), images(), opset, exporter)
    assert refused.value.wanted == f"opset {opset}"
    assert "--exporter" in (refused.value.hint or "")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").level == logging.NOTSET  # others may want to hear it


def test_a_network_that_cannot_be_exported_says_so() -> None:
    class Undecided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise TypeError("no\nway")

    with pytest.raises(InputUnusable, match="cannot export this network") as refused:
        export_onnx(Undecided(), images(), 17)
    assert refused.value.got == "no"


# Names for a graph


def unnamed(module: nn.Module) -> tuple[onnx.ModelProto, nn.Module, list[Anchor]]:
    folded = fold_batch_norms(module)
    graph = onnx.load_model_from_string(export_onnx(folded, images(), 17))
    return graph, folded, find_anchors(module, images())


def test_naming_changes_no_result() -> None:
    graph, folded, anchors = unnamed(small())
    before = CpuSession(graph.SerializeToString())({IMAGE: images().numpy()})["logits"]
    assert name_anchors(graph, folded, anchors) == anchors
    onnx.checker.check_model(graph, full_check=True)
    assert np.array_equal(CpuSession(graph.SerializeToString())({IMAGE: images().numpy()})["logits"], before)


@pytest.mark.parametrize("layer", ["stem.conv", "block.conv"])
def test_a_layer_with_other_weights_is_left_out_and_only_that_one(layer: str) -> None:
    """One bit is enough: a name is given to nothing but the layer itself."""
    graph, folded, anchors = unnamed(small())
    with torch.no_grad():
        weight = folded.get_submodule(layer).get_parameter("weight")
        weight.flatten()[0] = torch.nextafter(weight.flatten()[0], torch.tensor(9.0))
    named = name_anchors(graph, folded, anchors)
    assert [anchor.name for anchor in named] == [anchor.name for anchor in anchors if anchor.name != layer]
    assert layer not in {node.name for node in graph.graph.node}


def test_a_transposed_linear_weight_is_recognised() -> None:
    graph, folded, anchors = unnamed(small())
    gemm = graph.graph.node[-1]
    weight = next(tensor for tensor in graph.graph.initializer if tensor.name == gemm.input[1])
    turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    assert name_anchors(graph, folded, anchors)[-1].name == "classifier"


# The other exporter


@pytest.mark.timeout(200)
def test_the_dynamo_exporter_agrees_through_the_ladder(network: Network) -> None:
    subject = network("mobilenet_v2")
    example = torch.from_numpy(subject.inputs[0].feeds[IMAGE])
    graph = onnx.load_model_from_string(export_onnx(subject.folded, example, 18, "dynamo"))
    assert name_anchors(graph, subject.folded, subject.anchors) == subject.anchors
    report = subject.climb(onnx=subject.exported, simplified=graph.SerializeToString())
    assert report.passed, report
    assert rung(report, "simplified").tensors == len(subject.anchors)


def test_a_bad_export_fails_the_ladder() -> None:
    """The gate that the choice of an exporter rests on: export one network, compare with another."""
    module, other = small(), small()
    with torch.no_grad():
        other.get_submodule("block.conv").get_parameter("weight").mul_(1.001)
    example = images().numpy()
    graph, folded, anchors = unnamed(other)
    name_anchors(graph, folded, anchors)
    inputs = [Input(str(seed), {IMAGE: example * np.float32(seed + 1)}) for seed in range(3)]
    reference = reference_of(module, inputs[0].feeds, fp16=False)
    report = prove(reference, Graphs(graph.SerializeToString()), inputs, 1).report
    assert (report.first_failure(), rung(report, "onnx").tensor) == ("onnx", "block.conv")
