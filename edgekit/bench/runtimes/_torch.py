"""The module of a manifest as something to be timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import torch
from torch import Tensor

from edgekit import checkpoints, manifest, sources
from edgekit.bench.record import Placement, Transfers
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes._arrays import check_names, copy_out
from edgekit.bench.runtimes._settings import refuse, refuse_transfers, usable_cores
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.manifest import Manifest
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.recheck import as_asked, recorded_weights, source_of
from edgekit.sources import Loaded

NAMED_INPUTS = ("factory", "torchscript")  # the sources that are told what goes in


def open_module(directory: Path, settings: Settings) -> TorchRunner:
    """The module, ready to run."""
    refuse(settings, "cuda_graph")
    refuse_transfers(settings)
    return TorchRunner(make_again(manifest.read(directory)), settings)


def make_again(described: Manifest) -> Loaded:
    """The network that a manifest describes, with its own weights.

    Weights from a seed may differ in their last bits from one machine to another, and are accepted as they are. Raises
    InputUnusable for other weights, and what loading raises.
    """
    source, weights = source_of(described), recorded_weights(described)
    fp32 = described.artifact("onnx-fp32")
    inputs = fp32.inputs if fp32 and source.kind in NAMED_INPUTS else ()
    loaded = as_asked(described, lambda variant: sources.load(source, variant, weights, inputs))
    if described.weights.kind != "seed" and checkpoints.digest(loaded.module.state_dict()) != described.weights.sha256:
        raise InputUnusable("these are not the weights that were exported", wanted=described.weights.identity)
    return loaded


class TorchRunner:
    """A module with its inputs in place. See `Runner`."""

    placement: Placement | None = None
    transfers: Transfers = "none"
    cuda_graph: bool | None = None

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.threads: int | None = settings.threads or usable_cores()
        # How its threads wait is decided by the OpenMP that PyTorch was built with, which cannot be asked.
        self.spin: bool | None = False if self.threads == 1 else None
        self._inputs, self._outputs = tuple(spec.name for spec in loaded.inputs), loaded.outputs
        module = loaded.module.to(memory_format=torch.channels_last)
        self._module: Callable[..., Any] = torch.compile(module, dynamic=False) if settings.compiled else module
        self._examples: tuple[Tensor, ...] | None = None

    def feed(self, feeds: Feeds) -> None:
        """Copy the inputs, and run once on them. Raises InputUnusable where the network cannot be run on them,
        MachineLacks where it cannot be compiled here.
        """
        check_names(feeds, self._inputs)
        examples = tuple(_channels_last(torch.tensor(feeds[name])) for name in self._inputs)
        self._first_run(examples)
        self._examples = examples

    def _first_run(self, examples: tuple[Tensor, ...]) -> None:
        try:
            self._run(examples)
        except (torch._dynamo.exc.TorchDynamoException, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise MachineLacks(
                "PyTorch cannot compile the network here",
                got=first,
                hint="it needs a C++ compiler (apt-get install g++), and a network that can be traced",
            ) from error
        except Exception as error:  # it is anybody's module, and may raise anything
            raise InputUnusable("PyTorch cannot run the network", got=str(error).strip()) from error

    def _run(self, examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self.threads is not None
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            result = self._module(*examples)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def sample(self, count: int) -> Sequence[float]:
        """Seconds of `count` runs by the host's clock."""
        assert self.threads is not None
        torch.set_num_threads(self.threads)  # the process has one number, and others may have changed it
        run, examples, clock = self._module, self._fed(), perf_counter_ns
        starts, ends = [0] * count, [0] * count
        with torch.inference_mode():
            for number in range(count):
                starts[number] = clock()
                run(*examples)
                ends[number] = clock()
        return [(end - start) * 1e-9 for start, end in zip(starts, ends, strict=True)]

    def outputs(self) -> Mapping[str, AnyArray]:
        """One more run's outputs by name."""
        results = self._run(self._fed())
        return {name: copy_out(result.numpy()) for name, result in zip(self._outputs, results, strict=True)}

    def _fed(self) -> tuple[Tensor, ...]:
        if self._examples is None:
            raise UsageError("nothing was fed yet", wanted="feed() before the first run")
        return self._examples

    def close(self) -> None:
        """Let go of the module and its inputs."""
        del self._module, self._examples


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
