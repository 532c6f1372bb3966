"""What a benchmark leaves behind: raw samples, what they mean, where they were taken. Everything else is derived.

A bench file is one JSON object, a `BenchFile`. Samples are in seconds. Nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgekit.manifest import VariantRecord

SCHEMA = 1
FILE = "bench.json"  # in the folder that was measured, where --out names no other

Clock = Literal["host", "device"]
Transfers = Literal["included", "excluded", "none"]
Scenario = Literal["rounds", "paced", "soak", "single-stream", "multi-stream", "offline"]


@dataclass(frozen=True)
class Contract:
    """What exactly a latency means; two latencies with different contracts are never compared.

    `clock`: the host's, around the call, or the device's own. `transfers` to and from a device are in the time, left
    out, or there are none. `spin`: whether waiting threads keep their cores busy. `threads`: that one inference may
    use, None where the runtime does not say. `warmup`: runs before the first sample. `inputs`: made up, or images
    through the preprocessing contract. `versions` are those of the runtime's packages.
    """

    runtime: str
    clock: Clock
    transfers: Transfers
    cuda_graph: bool | None
    spin: bool | None
    threads: int | None
    batch: int
    precision: str
    warmup: int
    inputs: Literal["synthetic", "images"]
    scenario: Scenario = "rounds"
    compiled: bool = False
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """How many of a graph's nodes each execution provider took, after the runtime's own optimisation."""

    nodes: dict[str, int]

    def share(self, provider: str) -> float:
        """The share of nodes that `provider` took, 0 to 1."""
        total = sum(self.nodes.values())
        return self.nodes.get(provider, 0) / total if total else 0.0


@dataclass(frozen=True)
class Subject:
    """What was measured: a file of an exported variant. `dir` is relative to the bench file where that is possible."""

    variant: VariantRecord
    slug: str
    dir: str
    kind: str
    sha256: str
    bytes: int
    params: int
    macs: int | None
    profile: str | None = None


@dataclass(frozen=True)
class Memory:
    """In bytes; None where it cannot be read. `rss_peak`: of the runtime's process with this artifact alone loaded and
    run; `rss_base`: of the same process before it was loaded.
    """

    artifact: int
    rss_base: int | None = None
    rss_peak: int | None = None
    device: int | None = None


@dataclass(frozen=True)
class ParityCheck:
    """The runtime's outputs against the manifest's golden ones: before the first sample and after the last."""

    when: Literal["before", "after"]
    passed: bool
    error: float | None
    tolerance: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the measurement can be relied on, and every reason why not."""

    valid: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """Milliseconds on this machine at that time; `ci95` is the interval of the median."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Ratio:
    """The latency as a multiple of the reference's, from rounds in which both ran; `ci95` bootstrapped over rounds."""

    reference: str
    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Result:
    """One artifact under one runtime. `samples` has for every round the seconds of each run in it.

    `latency`, `ratio`, `throughput_per_s` and `verdict` are derived from the samples, and stored so that a reader need
    not do it again. `power_w`: mean watts while it ran, where a sensor exists.
    """

    subject: Subject
    contract: Contract
    samples: tuple[tuple[float, ...], ...]
    latency: Latency
    ratio: Ratio | None
    throughput_per_s: float
    verdict: Verdict
    placement: Placement | None = None
    memory: Memory | None = None
    parity: tuple[ParityCheck, ...] = ()
    power_w: float | None = None

    @property
    def name(self) -> str:
        """The same for the same variant, precision and runtime in every file."""
        return f"{self.subject.slug}/{self.subject.kind}/{self.contract.runtime}"


@dataclass(frozen=True)
class NotMeasured:
    """What was asked for, or could have been, and why there is no figure."""

    slug: str
    kind: str
    runtime: str
    needs: str


@dataclass(frozen=True)
class Telemetry:
    """What the machine did meanwhile. Shares are 0 to 1, temperatures in degrees Celsius; None: cannot be read here."""

    seconds: float
    rounds: int
    steal: float | None = None
    pressure_cpu: float | None = None
    load_before: float | None = None
    clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    throttled: bool | None = None
    round_spread: float | None = None


@dataclass(frozen=True)
class BenchFile:
    """A whole benchmark. `machine` and `environment` are `environment.stamp()` and what else tells machines apart."""

    created: str
    edgekit: str
    command: str
    machine: dict[str, str]
    telemetry: Telemetry
    results: tuple[Result, ...]
    not_measured: tuple[NotMeasured, ...] = ()
    advice: tuple[str, ...] = ()
    seed: int = 0
    schema: int = field(default=SCHEMA)
