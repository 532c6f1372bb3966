"""Every network becomes an ONNX graph that ONNX Runtime computes as PyTorch does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgekit.graph.from_torch import export_onnx, find_anchors, fold_batch_norms, name_anchors
from edgekit.images import normalise
from edgekit.models import info
from edgekit.models._options import Value
from edgekit.preprocessing import CONTRACTS
from edgekit.synthetic import natural_image

SMALL: list[tuple[str, dict[str, Value], int]] = [
    ("densenet_bc", {}, 16),
    ("densenet_bc", {"depth": 13, "bottleneck": False, "reduction": 1.0}, 16),
    ("inception_resnet_v2", {}, 107),
    ("inception_v3", {}, 107),
    ("inception_v4", {}, 107),
    ("resnet50_transfer", {}, 64),
]


@pytest.mark.parametrize(("name", "options", "side"), SMALL, ids=str)
def test_the_exported_graph_computes_the_network_at_any_batch_size(
    name: str, options: dict[str, Value], side: int, seeded: Callable[..., nn.Module]
) -> None:
    module = seeded(name, options)
    contract = CONTRACTS[info(name).preprocessing]
    images = torch.from_numpy(np.concatenate([normalise(natural_image(side, seed), contract) for seed in range(2)]))
    folded = fold_batch_norms(module)
    graph = onnx.load_model_from_string(export_onnx(folded, images[:1], 17, dynamic_batch=True))
    anchors = find_anchors(module, images[:1])
    named = name_anchors(graph, folded, anchors)
    assert named == anchors
    assert len(anchors) == sum(node.op_type in {"Conv", "Gemm"} for node in graph.graph.node)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (2, 1):
        wanted = module(images[:batch])
        found = torch.from_numpy(session.run(None, {"input": images[:batch].numpy()})[0])
        assert found.shape == wanted.shape
        assert float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 2e-4
