"""The network that a training run left, as a source: `edgekit export RUN_DIR`.

Its model, width, options and classes are those of the run, its weights the best ones unless another file is named, and
its preprocessing is what it was trained on. The resolution is the run's, too; another may be asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit import schema
from edgekit.errors import UsageError
from edgekit.manifest import cache_key
from edgekit.schema import JSON
from edgekit.sources import reference
from edgekit.sources.weights import CheckpointWeights, Weights, identity
from edgekit.variant import Variant

if TYPE_CHECKING:
    from edgekit.sources.loaded import Loaded
    from edgekit.sources.naming import Source
    from edgekit.training.run_folder import Run


def describe(source: Source) -> Run:
    """What the run's folder says. Raises InputUnusable where it holds no run."""
    from edgekit.training import run_folder

    assert source.path is not None
    return run_folder.read(source.path)


def best(source: Source) -> CheckpointWeights:
    """The run's best weights. Raises InputUnusable where there are none yet, and where they have been changed."""
    from edgekit.training import run_folder

    assert source.path is not None
    return CheckpointWeights(run_folder.weights_of(source.path))


def check(source: Source, variant: Variant, weights: Weights) -> None:
    """Raise UsageError for what the run's network is not."""
    run = describe(source)
    if not isinstance(weights, CheckpointWeights):
        raise UsageError("a run has its weights in it", where="--weights", got=identity(weights), hint="leave it out")
    given = {
        "--alpha": (variant.alpha, run.alpha),
        "--num-classes": (variant.num_classes, run.num_classes),
        "--option": (dict(variant.options) or None, run.options),
    }
    for option, (asked, trained) in given.items():
        if asked is not None and asked != trained:
            raise UsageError(
                "the run was trained otherwise", where=option, got=str(asked), wanted=str(trained), hint="leave it out"
            )
    reference.check(_as_reference(run, variant), weights)


def source_identity(source: Source) -> str:
    """All that counts of the run but its weights, which have an identity of their own."""
    run = describe(source)
    parts: dict[str, JSON] = {
        "model": run.model,
        "alpha": run.alpha,
        "options": dict(run.options),
        "preprocessing": schema.to_json(run.preprocessing),
    }
    return f"run:{cache_key(parts)}"


def load(source: Source, variant: Variant, weights: Weights) -> Loaded:
    """The run's network, with what is known about it. Raises as `reference.load` does."""
    run = describe(source)
    loaded = reference.load(_as_reference(run, variant), weights)
    return replace(loaded, preprocessing=run.preprocessing)


def _as_reference(run: Run, variant: Variant) -> Variant:
    return replace(
        variant,
        model=run.model,
        alpha=run.alpha,
        resolution=variant.resolution or run.resolution,
        num_classes=run.num_classes,
        options=tuple(sorted(run.options.items())),
    )
