"""The planted faults once more, in two families that are built otherwise than the MobileNets.

densenet_bc has its norms in front of its layers, where nothing can be folded, and concatenates. se_mobilenet_style
makes an image: it reflects at every border, normalises every image by itself, and has squeeze and excitation. Every
fault is planted in the graph as it was exported, and again in what the simplifier made of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from planted import (
    CIFAR_MEAN,
    EPSILON,
    HARD_GATE,
    INSTANCE_EPSILON,
    NAN,
    NO_GATE,
    NO_RELU,
    NO_RELU_BEFORE,
    PADDING,
    PIXEL_MEAN,
    PRE_EPSILON,
    REFLECTION,
    RELU6,
    RELU6_BEFORE,
    REORDERED,
    RESIDUAL,
    REVERSED,
    SCALED,
    SEED,
    SMALL_EPSILON,
    SMALL_INSTANCE_EPSILON,
    SMALL_PRE_EPSILON,
    STALE,
    SWAPPED,
    ZEROS,
    Fault,
    size_in_tolerances,
    times_tolerance,
)
from subjects import Subject, half, loaded_subject, rung

from edgekit.graph.from_torch import IMAGE
from edgekit.graph.simplify import Simplifier
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.preprocessing import IMAGENET
from edgekit.variant import Variant

# One worker, so that the networks are made once.
pytestmark = [pytest.mark.xdist_group("families"), pytest.mark.usefixtures("one_thread")]

VARIANTS = {
    "densenet_bc": Variant("densenet_bc", None, 32, options=(("depth", "22"),)),
    "style": Variant("se_mobilenet_style", 0.25, 64),
}


@dataclass(frozen=True)
class Family:
    """A network of the family, and its simplified graph."""

    subject: Subject
    simplified: bytes


@pytest.fixture(scope="module")
def family() -> Iterator[Callable[[str], Family]]:
    """A family by its name: the same one each time, not to be changed."""

    @functools.cache
    def get(name: str) -> Family:
        subject = loaded_subject(VARIANTS[name])
        simplifier.submit(subject.exported)
        return Family(subject, simplifier.result().model_bytes)

    with Simplifier() as simplifier:
        yield get


Families = Callable[[str], Family]

DENSENET = [
    "stem",
    "block1.0.new.reduce.conv",
    "block1.1.new.conv",
    "transition1.conv",
    "block3.2.new.conv",
    "classifier",
]
FOLDED = ["block1.0.new.reduce.conv", "block2.1.new.reduce.conv", "block3.2.new.reduce.conv"]  # a norm behind them
NORMED = ["block1.0.new.reduce.conv", "transition1.conv", "block3.2.new.reduce.conv", "classifier"]  # one before them
JOINED = ["block1.1.new.conv", "block2.1.new.conv", "block3.2.new.conv"]

STYLE = [
    "stem.conv",
    "blocks.1.depthwise.conv",
    "blocks.5.expand",
    "blocks.9.body.pointwise.conv",
    "blocks.15.conv",
    "tail.conv",
]
BEFORE_NORMS = [
    "stem.conv",
    "blocks.6.body.pointwise.conv",
    "blocks.13.body.depthwise.conv",
    "blocks.13.body.pointwise.conv",
    "blocks.15.conv",
    "blocks.18.conv",
]
RECTIFIED = ["stem.conv", "blocks.2.reduce", "blocks.13.body.depthwise.conv", "blocks.15.conv", "blocks.18.conv"]
REFLECTED = ["stem.conv", "blocks.6.body.depthwise.conv", "blocks.13.body.depthwise.conv"]
SUMS = ["blocks.3.body.pointwise.conv", "blocks.9.body.pointwise.conv", "blocks.13.body.pointwise.conv"]
GATES = ["blocks.2.expand", "blocks.14.expand"]

PLANTED: list[tuple[str, Fault, list[str]]] = [
    *(("densenet_bc", fault, DENSENET) for fault in (SCALED, SWAPPED, SEED, NAN)),
    *(("densenet_bc", fault, FOLDED) for fault in (EPSILON, NO_RELU, RELU6)),
    *(("densenet_bc", fault, NORMED) for fault in (PRE_EPSILON, NO_RELU_BEFORE, RELU6_BEFORE)),
    ("densenet_bc", SMALL_EPSILON, ["block1.0.new.reduce.conv"]),
    ("densenet_bc", SMALL_PRE_EPSILON, ["block1.0.new.reduce.conv", "transition1.conv"]),
    ("densenet_bc", PADDING, ["stem", "block1.1.new.conv", "block3.2.new.conv"]),
    ("densenet_bc", REORDERED, JOINED),
    ("densenet_bc", STALE, JOINED),
    ("densenet_bc", REVERSED, ["stem"]),
    ("densenet_bc", CIFAR_MEAN, ["stem"]),
    *(("style", fault, STYLE) for fault in (SCALED, SWAPPED, SEED, NAN)),
    ("style", SCALED, ["blocks.2.reduce"]),
    ("style", INSTANCE_EPSILON, BEFORE_NORMS),
    ("style", SMALL_INSTANCE_EPSILON, ["stem.conv", "blocks.1.depthwise.conv", "blocks.13.body.depthwise.conv"]),
    ("style", NO_RELU, RECTIFIED),
    ("style", ZEROS, REFLECTED),
    ("style", REFLECTION, REFLECTED),
    ("style", RESIDUAL, SUMS),
    ("style", NO_GATE, GATES),
    ("style", HARD_GATE, GATES),
    ("style", REVERSED, ["stem.conv"]),
    ("style", PIXEL_MEAN, ["stem.conv"]),
]


def each(planted: list[tuple[str, Fault, list[str]]]) -> pytest.MarkDecorator:
    """A test for every family, fault and layer."""
    cases = [(name, fault, layer) for name, fault, layers in planted for layer in layers]
    return pytest.mark.parametrize(("name", "fault", "layer"), cases, ids=lambda value: getattr(value, "name", value))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_correct_export_passes_every_rung_and_gate(family: Families, name: str) -> None:
    subject, simplified = family(name).subject, family(name).simplified
    fp16 = half(Subject.graph(replace(subject, exported=simplified)))
    report = subject.climb(onnx=subject.exported, simplified=simplified, fp16=fp16)
    assert report.passed, report
    assert [check.passed for check in report.batch] == [True, True]
    assert {"onnx", "simplified", "fp16"} <= {found.name for found in report.rungs}


@each(PLANTED)
def test_a_fault_in_the_exported_graph_is_caught_and_named(
    family: Families, name: str, fault: Fault, layer: str
) -> None:
    subject = family(name).subject
    report = subject.climb(onnx=fault.graph(subject, layer).SerializeToString())
    assert report.first_failure() == "onnx"
    found = rung(report, "onnx")
    assert found.tensor == fault.shows_at(subject, layer)
    assert found.tensor in (found.reason or "")
    assert times_tolerance(found) > 2  # a fault at the very edge would be luck


@each(PLANTED)
def test_a_fault_in_the_simplified_graph_is_caught_there(family: Families, name: str, fault: Fault, layer: str) -> None:
    subject, simplified = family(name).subject, family(name).simplified
    faulty = fault.graph(subject, layer, simplified).SerializeToString()
    report = subject.climb(onnx=subject.exported, simplified=faulty)
    assert report.first_failure() == "simplified"
    assert rung(report, "onnx").passed
    assert rung(report, "simplified").tensor == fault.shows_at(subject, layer)
    assert times_tolerance(rung(report, "simplified")) > 2


@pytest.mark.parametrize(
    ("fault", "norm"),
    [(SMALL_EPSILON, "block3.2.new.reduce.norm"), (SMALL_PRE_EPSILON, "block3.2.new.norm")],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_smallest_epsilon_in_the_last_densenet_layer_is_at_the_very_edge(
    family: Families, fault: Fault, norm: str
) -> None:
    """2e-5 for 1e-5, where the variance is 1.2 and more, changes values by some seventy roundings. The floor there is
    five to nine, and the tolerance eight floors: one to three tolerances, seen here by luck.
    """
    subject = family("densenet_bc").subject
    assert float(subject.module.get_submodule(norm).get_buffer("running_var").median()) > 1.2
    layer = "block3.2.new.reduce.conv"
    assert 0.5 < size_in_tolerances(subject, fault.graph(subject, layer), layer, "fp32") < 3


@pytest.mark.parametrize(
    "layer", ["blocks.6.body.pointwise.conv", "blocks.13.body.pointwise.conv", "blocks.15.conv", "blocks.18.conv"]
)
def test_the_smallest_epsilon_of_an_instance_norm_drowns_where_the_variance_is_large(
    family: Families, layer: str
) -> None:
    """2e-5 for 1e-5, where a channel's variance is 0.4 and more, changes its values by two hundred roundings at most.
    The floor there is 13 to 90, half of it and more from means in sequence, and the tolerance eight floors. 1e-3 is
    caught in the same places.
    """
    subject = family("style").subject
    truth = subject.reference.truth.trace(subject.inputs[0].feeds)[layer]
    assert np.median(truth.var((2, 3))) > 0.4
    faulty = SMALL_INSTANCE_EPSILON.graph(subject, layer)
    assert size_in_tolerances(subject, faulty, subject.after(layer), "fp32") < 1
    assert subject.climb(onnx=faulty.SerializeToString()).passed


@pytest.mark.parametrize("layer", ["stem.conv", "blocks.1.depthwise.conv"])
def test_an_upper_limit_behind_an_instance_norm_needs_an_image_that_reaches_it(family: Families, layer: str) -> None:
    """No input of the ladder drives such a network above 6, and contrast cannot: the norm takes it away again. Up to
    there ReLU6 is ReLU, and nothing that is run is wrong. A bright dot in the dark does it, and is caught.
    """
    subject = family("style").subject
    faulty = RELU6.graph(subject, layer).SerializeToString()
    assert max(_largest_normalised(subject, given, layer) for given in subject.inputs) < 6
    report = subject.climb(onnx=faulty)
    assert report.passed
    sound = subject.climb(onnx=subject.exported)
    assert [found.error for found in report.rungs] == [found.error for found in sound.rungs]
    watched = replace(subject, inputs=[*subject.inputs, _dot()])
    assert _largest_normalised(watched, _dot(), layer) > 6
    assert rung(watched.climb(onnx=faulty), "onnx").tensor == subject.after(layer)
    assert watched.climb(onnx=subject.exported).passed


def _dot() -> Input:
    values = np.zeros((1, 3, 64, 64), np.float32)
    values[..., 30:32, 30:32] = 1
    return Input("dot", {IMAGE: values}, ordinary=False)


def _largest_normalised(subject: Subject, given: Input, layer: str) -> float:
    truth = subject.reference.truth.trace(given.feeds)[layer]
    mean, variance = truth.mean((2, 3), keepdims=True), truth.var((2, 3), keepdims=True)
    return float(((truth - mean) / np.sqrt(variance + 1e-5)).max())


@pytest.mark.parametrize(
    ("fault", "layer"), [(PIXEL_MEAN, "stem.conv"), (SCALED, "stem.conv"), (SCALED, "blocks.18.conv")]
)
def test_what_an_instance_norm_takes_back_shows_in_its_own_layer_and_nowhere_else(
    family: Families, fault: Fault, layer: str
) -> None:
    """A constant added to a channel, or a factor on it, is gone behind the norm: the output is right all the same. Only
    the comparison of the layer itself sees that its weights, or its inputs, are not the network's.
    """
    subject = family("style").subject
    faulty = fault.graph(subject, layer)
    assert size_in_tolerances(subject, faulty, layer, "fp32") > 100
    assert size_in_tolerances(subject, faulty, subject.after(layer), "fp32") < 1
    assert size_in_tolerances(subject, faulty, "output", "fp32") < 1


@pytest.mark.parametrize("layer", ["stem.conv", "blocks.1.depthwise.conv"])
def test_a_limit_behind_an_instance_norm_is_seen_by_a_spot_in_the_dark(family: Families, layer: str) -> None:
    """ReLU6 for ReLU: whatever the contrast of an image, the norm takes it away, and nothing gets above 6."""
    subject = family("style").subject
    limited = RELU6.graph(subject, layer).SerializeToString()
    assert subject.climb(onnx=limited).passed
    spotted = replace(subject, inputs=ladder_inputs(IMAGENET, 64, 1, adapting=True))
    assert spotted.climb(onnx=subject.exported).passed
    report = spotted.climb(onnx=limited)
    assert report.first_failure() == "onnx"
    assert rung(report, "onnx").tensor == RELU6.shows_at(subject, layer)
    assert times_tolerance(rung(report, "onnx")) > 100
