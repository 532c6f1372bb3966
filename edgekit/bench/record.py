"""What a benchmark leaves behind: raw samples, what they mean, where they were taken. Everything else is derived.

A bench file is one JSON object, a `BenchFile`. Samples are in seconds. Nothing heavy is imported.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgekit import schema as schemas
from edgekit.errors import InputUnusable
from edgekit.manifest import VariantRecord, disk_errors

SCHEMA = 1
LARGEST = 512 * 2**20
FILE = "bench.json"  # in the folder that was measured, where --out names no other

Clock = Literal["host", "device"]
Transfers = Literal["included", "excluded", "none"]
Priority = Literal["realtime", "normal"]
Scenario = Literal["rounds", "paced", "soak", "single-stream", "multi-stream", "offline"]


@dataclass(frozen=True)
class Contract:
    """What exactly a latency means; two latencies with different contracts are never compared.

    `clock`: the host's, around the call, or the device's own. `transfers` to and from a device are in the time, left
    out, or there are none. `spin`: whether waiting threads keep their cores busy. `threads`: that one inference may
    use, None where the runtime does not say. `warmup`: the least runs before the first sample; more where it takes
    longer until the time is steady. `inputs`: made up, or images
    through the preprocessing contract. `versions` are those of the runtime's packages. `terms` are the figures that a
    scenario was played by, as its rate and its deadline; rounds have none.
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
    terms: dict[str, float] = field(default_factory=dict)


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
    run; `rss_base`: of the same process before the runtime and the artifact were loaded.
    """

    artifact: int
    rss_base: int | None = None
    rss_peak: int | None = None
    device: int | None = None


@dataclass(frozen=True)
class Stages:
    """Where the time of one inference goes, in milliseconds (medians): the host's, to enqueue it, and the device's.

    Known of trtexec only.
    """

    enqueue: float
    h2d: float
    compute: float
    d2h: float


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
    not do it again. `power_w`: mean watts of the whole board or package while its runtime was measured, where a sensor
    exists. `warmup_s`: seconds spent on warming up, `load_s` on loading. Where a scenario was played, `samples` has its
    windows instead of rounds, or all runs in one, there is no ratio, `figures` are what the scenario is judged by, and
    `logs` is the folder of LoadGen's own files, relative to the bench file.
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
    warmup_s: float | None = None
    load_s: float | None = None
    stages: Stages | None = None
    figures: dict[str, float] = field(default_factory=dict)
    logs: str | None = None

    @property
    def name(self) -> str:
        """The same for the same variant, precision and runtime in every file."""
        return f"{self.subject.slug}/{self.subject.kind}/{self.contract.runtime}"


@dataclass(frozen=True)
class Reference:
    """What the ratios of one runtime's results are ratios to.

    `name` is `reference-1` for edgekit's own small graph, else that of a result. `samples` as a result's, of the same
    rounds. `launches` has for every round the number of the process that measured it: each lays out its memory anew.
    """

    runtime: str
    name: str
    sha256: str
    samples: tuple[tuple[float, ...], ...]
    launches: tuple[int, ...]


@dataclass(frozen=True)
class NotMeasured:
    """What was asked for, or could have been, and why there is no figure."""

    slug: str
    kind: str
    runtime: str
    needs: str


@dataclass(frozen=True)
class Telemetry:
    """What the machine did meanwhile. Shares are 0 to 1, temperatures in degrees Celsius; None: cannot be read here.

    `other_load`: the share of the machine's processor time that other processes took. `round_spread`: how much slower
    the round at the 90th percentile was than the one at the 10th, as a share. `priority`: whether the measuring
    threads went before all others during a round ("realtime"), or waited their turn.
    """

    seconds: float
    rounds: int
    steal: float | None = None
    pressure_cpu: float | None = None
    load_before: float | None = None
    clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None
    throttled: bool | None = None
    round_spread: float | None = None
    other_load: float | None = None
    priority: Priority | None = None
    power_w: float | None = None


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
    references: tuple[Reference, ...] = ()
    schema: int = field(default=SCHEMA)


def file_of(scenario: Scenario) -> str:
    """The name of a bench file in the folder that was measured: rounds have their own, and so has each scenario."""
    return FILE if scenario == "rounds" else f"bench.{scenario}.json"


def encode(file: BenchFile) -> bytes:
    """The file as it stands on disk."""
    return (json.dumps(schemas.to_json(file), allow_nan=False) + "\n").encode()


def write(file: BenchFile, path: Path) -> None:
    """Write it whole or not at all. Raises UsageError or MachineLacks where the disk refuses."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            out.write(encode(file))
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)


def read(path: Path) -> BenchFile:
    """Read a bench file. Raises InputUnusable for what is none."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputUnusable("the file is too large for a benchmark", where=str(path))
        data = json.loads(path.read_bytes())
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputUnusable("cannot read the benchmark", where=str(path), got=reason, hint="edgekit bench") from error
    except (ValueError, RecursionError) as error:
        raise InputUnusable("the benchmark is not JSON", where=str(path), got=str(error)) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputUnusable("this is not a bench file of this edgekit", where=str(path), wanted=f"schema {SCHEMA}")
    try:
        return schemas.read(BenchFile, data)
    except schemas.SchemaError as error:
        raise InputUnusable("the benchmark does not fit its schema", where=str(path), got=str(error)) from error
