"""What an export run is asked for, and the key that says whether it was already done. Nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from edgekit import __version__, manifest, profile, schema, sources
from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import TensorSpec
from edgekit.profile import ExportProfile
from edgekit.sources import Source, Weights
from edgekit.variant import Variant

Exporter = Literal["auto", "torchscript", "dynamo"]
EXPORTERS: tuple[Exporter, ...] = ("auto", "torchscript", "dynamo")
Parity = Literal["full", "quick"]
PARITIES: tuple[Parity, ...] = ("full", "quick")
Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
FASTEST_FIRST: tuple[Precision, ...] = ("fp16", "fp32")
MAX_IMAGES = 8  # inputs of the ladder; float64 takes its time

# Distributions whose version can change what an export writes.
TOOLS = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnxsim",
    "onnxconverter-common",
    "polygraphy",
    "tensorrt-rtx",
    "tensorrt",
    "numpy",
)


@dataclass(frozen=True)
class Plan:
    """What to do with every variant of a run; `images` replace the synthetic inputs of the parity ladder.

    `sources` are what the variants' `model` names stand for, where they are no reference networks, and
    `weights_by_model` their weights where they are not `weights`; `inputs` describe what a network takes that is fed
    with something else than one image. Without `insists` on the precisions, one that cannot be had of a network from
    elsewhere is left out, and that is noted.
    """

    weights: Weights
    profiles: tuple[ExportProfile, ...]
    precisions: tuple[Precision, ...] = PRECISIONS
    engines: bool = True
    parity: Parity = "full"
    exporter: Exporter = "auto"
    images: tuple[Path, ...] = ()
    out: Path = Path("artifacts")
    force: bool = False
    sources: tuple[Source, ...] = ()
    weights_by_model: tuple[tuple[str, Weights], ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    insists: bool = True

    def source(self, variant: Variant) -> Source:
        """Where the variant's network comes from."""
        known = {source.slug: source for source in self.sources}
        return known.get(variant.model, Source("reference", variant.model))

    def weights_of(self, variant: Variant) -> Weights:
        """The weights of the variant's network."""
        return dict(self.weights_by_model).get(variant.model, self.weights)

    @property
    def opset(self) -> int:
        """The highest opset that every profile's target takes."""
        return min(used.opset for used in self.profiles)

    @property
    def quick(self) -> bool:
        """Whether only outputs are compared, with PyTorch in float32."""
        return self.parity == "quick"

    @property
    def half(self) -> bool:
        """Whether there is an FP16 graph to make."""
        return "fp16" in self.precisions

    @property
    def half_unless_impossible(self) -> Literal["yes", "try"]:
        """Whether an FP16 graph that cannot be made is the end of it."""
        return "yes" if self.insists else "try"

    def check(self) -> None:
        """Raise UsageError when a profile's target can run none of the precisions asked for."""
        for used in self.profiles:
            if self.engines and used.flavour != "none" and self.engine_precision(used) is None:
                raise UsageError(
                    f"profile {used.name} cannot run what was asked for",
                    where="--precision",
                    got=", ".join(self.precisions),
                    wanted=f"one of {', '.join(used.precisions)}",
                )

    def engine_precision(self, used: ExportProfile, half: bool = True) -> Precision | None:
        """The fastest precision that was asked for and that the profile's target runs; without `half`, not that."""
        there = [precision for precision in FASTEST_FIRST if half or precision != "fp16"]
        return next((p for p in there if p in self.precisions and p in used.precisions), None)

    def folder(self, variant: Variant) -> Path:
        """Where the variant's artifacts go."""
        return self.out / variant.slug

    def failed_folder(self, variant: Variant) -> Path:
        """Where they go when a gate failed: never where good ones are expected."""
        return self.out / f"{variant.slug}.failed"

    # The files are looked at once in a plan's life. What a training run writes to them meanwhile must not get into
    # the key of what was made from the old content; a new plan sees the new content.

    @cached_property
    def _identities(self) -> dict[Source | Weights, str]:
        return {}

    def weights_identity(self, variant: Variant) -> str:
        """What tells the weights from others. Raises InputUnusable for a file that cannot be read."""
        weights = self.weights_of(variant)
        if weights not in self._identities:
            self._identities[weights] = sources.identity(weights)
        return self._identities[weights]

    def source_identity(self, variant: Variant) -> str:
        """What tells the network's source from others. Raises InputUnusable for a file that cannot be read."""
        source = self.source(variant)
        if source not in self._identities:
            self._identities[source] = sources.source_identity(source)
        return self._identities[source]

    @cached_property
    def image_digests(self) -> tuple[str, ...]:
        """The sha256 of every image. Raises InputUnusable for a file that cannot be read."""
        try:
            return tuple(manifest.sha256_file(path) for path in self.images)
        except OSError as error:
            where = str(error.filename or "--images")
            raise InputUnusable("cannot read the image", where=where, got=error.strerror or str(error)) from error

    def key(self, variant: Variant) -> str:
        """The hash of everything that the variant's files depend on, found without loading any of it."""
        return manifest.cache_key(
            {
                "variant": schema.to_json(variant),
                "source": self.source_identity(variant),
                "inputs": [schema.to_json(spec) for spec in self.inputs],
                "weights": self.weights_identity(variant),
                "profiles": [profile.digest(used) for used in self.profiles],
                "precisions": list(self.precisions),
                "insists": self.insists,
                "engines": self.engines,
                "parity": self.parity,
                "exporter": self.exporter,
                "images": list(self.image_digests),
                "tools": dict(tool_versions()),
                "code": code_digest(),
            }
        )


@cache
def tool_versions() -> dict[str, str]:
    """Installed versions of what takes part in an export, by distribution name."""
    versions = {"edgekit-trt": __version__}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def code_digest() -> str:
    """One hash over edgekit's own source, the command line aside: a developer's change makes everything stale."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*.py") if path.relative_to(root).parts[0] != "cli")
    return manifest.cache_key({str(path.relative_to(root)): manifest.sha256_file(path) for path in files})
