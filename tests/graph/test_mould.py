"""A graph filled into a mould is the real export, byte for byte; a network of another make does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from edgekit import profile, sources, subjects
from edgekit.errors import GateFailed
from edgekit.graph.from_torch import export_onnx, fold_batch_norms
from edgekit.graph.mould import Cast, Mould
from edgekit.graph.specialise import specialise
from edgekit.helpers import Helpers
from edgekit.journey import Journey
from edgekit.plan import Plan
from edgekit.subjects import Exported, Subject
from edgekit.subjects.module import ModuleSubject
from edgekit.variant import Variant

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Change = Callable[[nn.Module], object]


@pytest.fixture(scope="module")
def helpers() -> Iterator[Helpers]:
    started = Helpers(())
    yield started
    started.close()


def plan(out: Path = Path("unused")) -> Plan:
    return Plan(sources.SeedWeights(0), (profile.load("cpu"),), engines=False, out=out)


def subject(variant: Variant, helpers: Helpers) -> Subject:
    return subjects.make(sources.Source("reference", variant.model), variant, plan(), helpers)


def files(made: Exported) -> list[bytes]:
    """As files have them: without shapes of intermediate tensors."""
    assert made.fp16 is not None
    return [specialise(graph, 96, 1) for graph in (made.raw, made.simplified, made.fp16)]


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (Variant("mobilenet_v1", 0.5, 64), Variant("mobilenet_v1", 0.25, 96)),
        (Variant("mobilenet_v2", 0.35, 64), Variant("mobilenet_v2", 0.5, 64)),
        (Variant("c_mobilenet_v2", 0.35, 96), Variant("c_mobilenet_v2", 0.5, 64)),
    ],
)
def test_what_comes_out_of_a_mould_is_the_real_export(wide: Variant, narrow: Variant, helpers: Helpers) -> None:
    first = subject(wide, helpers).export(wide, "torchscript")
    assert first.simplified.graph.node
    mould = first.mould()
    assert mould is not None
    assert max(len(mould.raw), len(mould.simplified)) < 100_000  # there are no weights in it
    size = replace(narrow, resolution=wide.resolution)
    real = subject(size, helpers).export(size, "torchscript")
    filled = subject(narrow, helpers).export(narrow, "torchscript", [mould])
    assert filled.made_at == wide  # it was not exported
    assert files(filled) == files(real)
    assert filled.reference.tensors == real.reference.tensors
    assert filled.mould() == mould  # for the one after that


def test_weights_that_fit_no_half_are_left_to_the_conversion_which_names_them(helpers: Helpers) -> None:
    first = Variant("mobilenet_v2", 0.35, 64)
    made = subject(first, helpers).export(first, "torchscript")
    assert made.fp16 is not None
    mould = made.mould()
    other = subject(Variant("mobilenet_v2", 0.5, 64), helpers)
    assert isinstance(other, ModuleSubject)
    with torch.no_grad():
        other.loaded.module.get_submodule("classifier").weight[0, 0] = 1e6
    filled = other.export(Variant("mobilenet_v2", 0.5, 64), "torchscript", [mould])
    assert filled.made_at == first
    with pytest.raises(GateFailed, match="FP16") as caught:
        assert filled.fp16
    assert "classifier.weight" in str(caught.value)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).eval()


def mould_of(module: nn.Module, change: Callable[[onnx.ModelProto], None] = lambda graph: None) -> Mould | None:
    raw = onnx.load_model_from_string(export_onnx(fold_batch_norms(module), torch.zeros(1, 3, 8, 8), 17))
    simplified = onnx.ModelProto()
    simplified.CopyFrom(raw)
    change(simplified)
    cast = Cast.of(fold_batch_norms(module), raw)
    assert cast is not None
    return Mould.of(cast, Variant("small", 1.0, 8), "torchscript", (), False, raw, simplified, None)


def wider(module: nn.Sequential) -> None:
    module[0], module[4] = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 2)


def test_other_widths_and_weights_fit() -> None:
    mould, other = mould_of(small()), small()
    wider(other)
    assert mould is not None
    assert mould.fits(fold_batch_norms(other.eval()), Variant("small", 0.5, 16))


OTHER_MAKES: dict[str, Change] = {
    "padding": lambda net: setattr(net[0], "padding", (0, 0)),
    "stride": lambda net: setattr(net[0], "stride", (2, 2)),
    "activation": lambda net: net.__setitem__(1, nn.ReLU()),
    "a limit": lambda net: setattr(net[1], "max_val", 5.0),
    "one layer more": lambda net: net.append(nn.ReLU()),
    "one layer less": lambda net: net.__delitem__(1),
    "something only itself knows": lambda net: setattr(net[0], "hook", lambda: None),
}


@pytest.mark.parametrize("change", OTHER_MAKES.values(), ids=OTHER_MAKES)
def test_another_make_does_not_fit(change: Change) -> None:
    mould, other = mould_of(small()), small()
    assert mould is not None
    change(other)
    assert not mould.fits(fold_batch_norms(other), Variant("small", 0.5, 16))


@pytest.mark.parametrize("other", [Variant("other", 1.0, 8), Variant("small", 1.0, 8, batch=2)])
def test_another_network_or_batch_does_not_fit(other: Variant) -> None:
    mould = mould_of(small())
    assert mould is not None
    assert not mould.fits(fold_batch_norms(small()), other)


def scaled(graph: onnx.ModelProto) -> None:
    """One weight changed by the last bit."""
    (tensor, *_) = (t for t in graph.graph.initializer if t.name == "0.weight")
    raw = bytearray(tensor.raw_data)
    raw[0] ^= 1
    tensor.raw_data = bytes(raw)


def renamed(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        tensor.name = f"other.{tensor.name}"


@pytest.mark.parametrize("change", [scaled, renamed])
def test_weights_that_were_folded_into_others_make_no_mould(change: Callable[[onnx.ModelProto], None]) -> None:
    assert mould_of(small(), change) is None


def test_a_graph_that_is_not_the_module_s_makes_no_mould() -> None:
    graph = onnx.load_model_from_string(export_onnx(fold_batch_norms(small()), torch.zeros(1, 3, 8, 8), 17))
    assert Cast.of(fold_batch_norms(small()), graph) is not None
    scaled(graph)
    assert Cast.of(fold_batch_norms(small()), graph) is None


def test_a_mould_that_does_not_suit_is_noticed_and_the_network_exported_on_its_own(
    helpers: Helpers, tmp_path: Path
) -> None:
    """As if something besides the widths had been different: every ReLU6 of the mould ends at 5."""
    first = Journey(Variant("mobilenet_v2", 0.35, 64), plan(tmp_path), helpers)
    first.walk(Variant("mobilenet_v2", 0.35, 64), lambda _: None)
    mould = first.mould
    assert mould is not None
    raw, simplified = (_ending_at_5(graph) for graph in (mould.raw, mould.simplified))
    variant = Variant("mobilenet_v2", 0.5, 64)
    other = Journey(variant, plan(tmp_path), helpers)
    other.export([replace(mould, raw=raw, simplified=simplified)])
    found, _ = other.walk(variant, lambda _: None)
    assert found.passed
    assert any("exported on its own (rung onnx had failed" in note for note in found.notes)


def _ending_at_5(emptied: bytes) -> bytes:
    graph = onnx.load_model_from_string(emptied)
    limits = {node.input[2] for node in graph.graph.node if node.op_type == "Clip"}
    for tensor in graph.graph.initializer:
        if tensor.name in limits:
            tensor.CopyFrom(onnx.numpy_helper.from_array(_five(), tensor.name))
    return bytes(graph.SerializeToString())


def _five() -> object:
    import numpy as np

    return np.float32(5.0).reshape(())
