"""Networks ready for inference, without paying for the random initialisation that torch's layers start with.

A network is built on the meta device (shapes only, about 20 ms) and then given its weights, from a seed or a state
dict.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekit.models import check_width, load
from edgekit.models._calibrate import calibrate
from edgekit.models._init import initialise
from edgekit.models._options import Value


def skeleton(name: str, alpha: float | None, num_classes: int, options: Mapping[str, Value]) -> nn.Module:
    """The network on the meta device, in eval mode: shapes and no weights.

    `alpha` None is the network's default width. Raises UsageError for an unknown network, a width for a network that
    has none, and a width that leaves a layer without a channel.
    """
    check_width(name, alpha)
    width = {} if alpha is None else {"alpha": alpha}
    with torch.device("meta"):
        module: nn.Module = load(name).build(**width, num_classes=num_classes, **options)
    return module.eval().requires_grad_(False)


def seeded(name: str, alpha: float | None, num_classes: int, options: Mapping[str, Value], seed: int) -> nn.Module:
    """The network in eval mode with random weights from `seed` and calibrated statistics, so that it is alive.

    The weights depend on the arguments alone, not on any resolution. Raises as `skeleton` does.
    """
    module = skeleton(name, alpha, num_classes, options)
    empty: dict[str, Tensor] = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(empty, assign=True)  # Module.to_empty does the same with 0.4 s and 45 MB of imports
    initialise(module, seed)
    calibrate(module, seed)
    return module
