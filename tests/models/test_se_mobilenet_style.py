"""The style network: image in, image out, of any size."""

from __future__ import annotations

import io
import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekit.graph.from_torch import export_onnx, fold_batch_norms
from edgekit.models import _create

ALPHA = 0.25


def network(**options: object) -> nn.Module:
    return _create.seeded("se_mobilenet_style", ALPHA, None, options, seed=0)  # type: ignore[arg-type]


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def run(model: bytes, x: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def close(found: np.ndarray, wanted: Tensor) -> bool:  # type: ignore[type-arg]
    error = np.sqrt(np.square(found - wanted.numpy()).mean()) / float(wanted.square().mean().sqrt())
    return bool(found.shape == tuple(wanted.shape) and error < 1e-4)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


@pytest.mark.parametrize("shape", [(1, 3, 17, 17), (2, 3, 64, 48), (3, 3, 33, 50), (1, 3, 20, 81)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_image_of_any_size_comes_back_in_its_size(shape: tuple[int, ...], dynamic: bool) -> None:
    module = network(dynamic_size=dynamic)
    assert module(images(*shape)).shape == shape
    assert torch.equal(module(images(*shape)), network()(images(*shape)))


def test_an_odd_size_is_the_middle_of_the_image_reflected_beyond_its_border() -> None:
    module, x = network(), images(1, 3, 50, 61)
    reflected = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (7, 7), (1, 2)), mode="reflect"))
    assert torch.equal(module(x), module(reflected)[..., 7:57, 1:62])


def test_different_images_give_different_images() -> None:
    out = network()(images(4, 3, 64, 64))
    assert float(out.std(0).mean()) > 0.1 * float(out.square().mean().sqrt())


def test_norms_are_instance_norms_and_borders_are_reflected() -> None:
    module = _create.skeleton("se_mobilenet_style", 1.0, None, {})
    kinds = Counter(type(child).__name__ for child in module.modules())
    assert (kinds["InstanceNorm2d"], kinds["BatchNorm2d"]) == (1 + 2 * 11 + 4, 0)
    assert kinds["ReflectionPad2d"] == 1 + 11
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            assert child.padding == (0, 0)


def test_layers_have_names_that_say_where_they_are() -> None:
    names = set(dict(network().named_modules()))
    assert {"stem.conv", "blocks.0.depthwise.conv", "blocks.2.expand", "blocks.3.body.pointwise.norm"} <= names
    assert {"blocks.15.conv", "tail.conv"} <= names


class TestTails:
    def test_the_plain_one_is_a_convolution(self) -> None:
        assert [name for name, _ in network().tail.named_children()] == ["conv"]
        assert network().tail.conv.bias is not None

    def test_the_bounded_one_stays_within_an_image(self) -> None:
        plain, bounded = network()(images(2, 3, 64, 64)), network(tail="bounded")(images(2, 3, 64, 64))
        assert float(plain.max()) > 1
        assert 0 <= float(bounded.min()) < float(bounded.max()) <= 1
        assert torch.allclose(bounded, plain.sigmoid())

    def test_the_published_one_gives_every_colour_the_same_statistics(self) -> None:
        module, before = network(tail="published"), []
        module.tail.norm.register_forward_hook(lambda layer, args, output: before.append(output))
        out = module(images(3, 3, 64, 64))
        assert float(out.min()) >= 0
        means, deviations = before[0].mean((2, 3)), before[0].std((2, 3), correction=0)
        assert torch.allclose(means, means[:1, :1].expand_as(means), atol=1e-3)
        assert torch.allclose(deviations, torch.ones_like(deviations), atol=1e-2)


class TestGraphs:
    def test_the_size_is_in_the_graph_and_a_multiple_of_16_leaves_no_trace(self) -> None:
        module = network()
        pads = sum(isinstance(child, nn.ReflectionPad2d) for child in module.modules())
        fitting, odd = (operators(export_onnx(fold_batch_norms(module), images(1, 3, n, n), 17)) for n in (64, 50))
        assert fitting["Pad"] == pads
        assert odd["Pad"] == pads + 1
        assert odd["Slice"] > fitting["Slice"] == pads  # the exporter's own way to write a reflection
        assert not {"Shape", "Gather"} & set(fitting) | {"Shape"} & set(odd)

    @pytest.mark.parametrize("side", [64, 50])
    def test_onnx_runtime_agrees_at_any_batch_size(self, side: int) -> None:
        module = network()
        model = export_onnx(fold_batch_norms(module), images(1, 3, side, side), 17, dynamic_batch=True)
        for batch in (1, 3):
            assert close(run(model, images(batch, 3, side, side)), module(images(batch, 3, side, side)))

    def test_height_and_width_can_be_left_open(self) -> None:
        module, buffer = network(dynamic_size=True), io.BytesIO()
        axes = {0: "batch", 2: "height", 3: "width"}
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter's own remarks on instance norms, and that it is deprecated
            torch.onnx.export(
                module,
                (images(1, 3, 48, 64),),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=17,
                input_names=["input"],
                output_names=["image"],
                dynamic_axes={"input": axes, "image": axes},
            )
        for shape in [(1, 3, 48, 64), (2, 3, 50, 70), (1, 3, 33, 33), (1, 3, 64, 31)]:
            assert close(run(buffer.getvalue(), images(*shape)), module(images(*shape)))
