"""What every source that gives a PyTorch module ends in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.manifest import TensorSpec
from edgekit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

Task = Literal["classification", "image", "other"]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network that can run: on the CPU, in eval mode, in float32, and no parameter asks for a gradient.

    `module(*tensors)` takes the `inputs` in their order and returns one tensor, or a tuple of as many tensors as there
    are `outputs`; the dimension "batch" of an input may have any size. `examples` has a tensor for each input, with
    which the module has run (none for a reference network). `resolution` is the side of the image where a square image
    is the only input, and `any_size` says whether the same module takes other sizes, too. `alpha` and `num_classes`
    are what the network was made with where that is known. `weights` names them for the record. `preprocessing` is
    None where nobody has said what the network wants. `norm_pairs` are the paths of layers and of the batch norms that
    were seen to take their outputs, which nothing else did: those can be folded. `notes` are for the user to hear.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    task: Task
    preprocessing: Preprocessing | None
    weights: str
    resolution: int | None = None
    any_size: bool = True
    alpha: float | None = None
    num_classes: int | None = None
    examples: tuple[Tensor, ...] = ()
    norm_pairs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
