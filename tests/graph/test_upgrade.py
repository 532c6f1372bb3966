"""Graphs of old opsets, converted up in a process of its own."""

from __future__ import annotations

import resource

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import InputUnusable
from edgekit.graph.upgrade import upgraded
from edgekit.isolation import IsolationFailed
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = pytest.mark.xdist_group("upgrade")


def model(op: str = "Softmax", opset: int = 6, **attributes: object) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_an_operator_that_meant_something_else_is_written_otherwise() -> None:
    """Until opset 12, Softmax went over all axes from the given one on."""
    old = model(axis=1)
    new = upgraded(old, 17)
    assert [entry.version for entry in new.opset_import] == [17]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    before, after = (CpuSession(one.SerializeToString())({"x": x})["y"] for one in (old, new))
    assert np.array_equal(before, after)
    relabelled = model(opset=17, axis=1)  # the same words mean something else there
    assert not np.allclose(CpuSession(relabelled.SerializeToString())({"x": x})["y"], before)


def test_what_cannot_be_converted_is_refused_with_the_converters_reason() -> None:
    unknown = model("Frobnicate")
    with pytest.raises(InputUnusable, match="cannot be converted to opset 17") as caught:
        upgraded(unknown, 17)
    assert caught.value.got


def test_its_death_is_an_error_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.graph.upgrade.TIMEOUT_S", 1e-3)
    with pytest.raises(IsolationFailed, match="version converter"):
        upgraded(model(), 17)


def test_the_callers_own_limits_stay() -> None:
    """The limit on memory is the converter's process's."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    upgraded(model(), 13)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
