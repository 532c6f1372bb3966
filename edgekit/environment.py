"""What this machine is and what it can do: the stamp on every manifest, and the findings of `edgekit doctor`.

Nothing heavy is imported. A library is examined in a process of its own (`probes`), so one that crashes or hangs is a
finding like any other, and all of them are examined at the same time.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.isolation import Isolated
    from edgekit.probes import RtxFound, TorchFound

ROOT = Path("/")
TIME_LIMIT_S = 60.0  # for one probe: the first use of a GPU can take tens of seconds
NVIDIA_SMI_LIMIT_S = 15.0
LEAST_DISK_BYTES = 10**9
QUIET_LOAD = 0.25  # runnable processes for each core; above it, something else is at work
CPU_PROVIDER = "CPUExecutionProvider"

Status = Literal["ok", "missing", "broken", "not here"]
Area = Literal["package", "onnxruntime", "tensorrt", "gpu", "machine"]
AREAS: tuple[Area, ...] = ("package", "onnxruntime", "tensorrt", "gpu", "machine")  # in the order of a report


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `missing` can be installed here, `broken` is here and does not work, `not here` is nothing that this machine could
    have. Without what is `required`, no export can be made.
    """

    area: Area
    name: str
    status: Status
    detail: str
    hint: str | None = None
    required: bool = False


@dataclass(frozen=True)
class Environment:
    """The machine as `stamp` describes it, and everything that `examine` found."""

    machine: dict[str, str]
    findings: tuple[Finding, ...]

    def lacking(self) -> list[str]:
        """The names of what an export needs and cannot have here; empty when the journey can be made."""
        return [finding.name for finding in self.findings if finding.required and finding.status != "ok"]


@dataclass(frozen=True)
class Package:
    """A distribution that edgekit uses: `names` has any that serve, the one to install first.

    `probe` is what it is called where it is tried out; without one, being installed is enough.
    """

    names: tuple[str, ...]
    least: str
    needed_for: str
    required: bool = True
    probe: str | None = None


# The versions are those of pyproject.toml; a test holds them to it.
PACKAGES = (
    Package(("torch",), "2.6", "networks", probe="torch"),
    Package(("torchvision",), "0.21", "published weights", required=False),
    Package(("onnx",), "1.17", "graphs", probe="onnx"),
    Package(("onnxscript",), "0.3", "torch.onnx's newer exporter", required=False),
    Package(("onnxruntime-gpu", "onnxruntime"), "1.20", "running graphs", probe="onnxruntime"),
    Package(("onnxsim",), "0.4.36", "simplification", probe="onnxsim"),
    Package(("onnxconverter-common",), "1.14", "FP16 graphs"),
    Package(("polygraphy",), "0.49.26", "building engines"),
    Package(("tensorrt-rtx",), "1.2", "engines without a GPU", probe="tensorrt-rtx"),
    Package(("safetensors",), "0.5", "checkpoints in .safetensors", required=False),
    Package(("pillow",), "10", "images as inputs", required=False),
    Package(("typer",), "0.15", "this command line"),
    Package(("rich",), "13", "progress displays", required=False),
    Package(("jinja2",), "3.1", "reports", required=False),
    Package(("numpy",), "1.26", "everything"),
)


def stamp(root: Path = ROOT) -> dict[str, str]:
    """What a manifest says about the machine that made it; takes a millisecond, and names no host and no user.

    os, kernel, architecture, cpu, cores (that this process may use), memory (in GB of 10^9 bytes), python.
    """
    system = os.uname()
    return {
        "os": _os_name(root),
        "kernel": f"{system.sysname} {system.release}",
        "architecture": system.machine,
        "cpu": _cpu_model(root),
        "cores": str(usable_cores(root)),
        "memory": f"{_memory_bytes(root) / 1e9:.1f} GB",
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def usable_cores(root: Path = ROOT) -> int:
    """The cores that this process may use: its affinity, or a container's quota where that is less."""
    cores = len(os.sched_getaffinity(0))
    quota = re.fullmatch(r"(\d+) (\d+)\s*", _text(root / "sys/fs/cgroup/cpu.max"))
    return min(cores, max(1, math.ceil(int(quota[1]) / int(quota[2])))) if quota else cores


def examine() -> Environment:
    """Look at everything, in a few seconds: libraries by using them, the GPU by asking its driver."""
    from edgekit.isolation import Isolated

    installed = {package: _installed(package) for package in PACKAGES}
    wanted = [package.probe for package in PACKAGES if package.probe and installed[package]]
    wanted += ["tensorrt"] if _can_be_imported("tensorrt") else []
    with contextlib.ExitStack() as stack:
        probes = {name: stack.enter_context(Isolated("edgekit.probes:probe", what=name)) for name in wanted}
        for name, isolated in probes.items():
            isolated.submit(name)
        gpus = [*_nvidia_gpus(), *_jetson(ROOT)]
        gpu = any(finding.status == "ok" for finding in gpus)
        findings = [*gpus, _disk(), _load(), _trtexec(ROOT), *_tensorrt(probes.get("tensorrt"), gpu)]
        for package, version in installed.items():
            findings += _tried(_package(package, version), probes.get(package.probe or ""), gpu)
    return Environment(stamp(), tuple(sorted(findings, key=lambda finding: AREAS.index(finding.area))))


# --- the machine


def _text(path: Path) -> str:
    """The beginning of a small file of the system's; "" where there is none. /proc/cpuinfo repeats itself per core."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode(errors="replace").rstrip("\0")
    except OSError:
        return ""


def _os_name(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release"), re.MULTILINE)
    return found[1] if found else "unknown"


def _cpu_model(root: Path) -> str:
    text = _text(root / "proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    if found:
        return found[1].strip()
    # ARM gives numbers only: who designed the core, and which one it is.
    numbers = [re.search(rf"^CPU {word}\s*: (\S+)$", text, re.MULTILINE) for word in ("implementer", "part")]
    return "ARM " + " ".join(number[1] for number in numbers if number) if all(numbers) else "unknown"


def _memory_bytes(root: Path) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _disk() -> Finding:
    try:
        free = shutil.disk_usage(".").free
    except OSError as error:
        return Finding("machine", "disk", "broken", f"the current folder cannot be used: {error.strerror}")
    detail = f"{free / 1e9:.1f} GB free in the current folder"
    if free < LEAST_DISK_BYTES:
        return Finding("machine", "disk", "missing", detail, "free some space, or give export another --out")
    return Finding("machine", "disk", "ok", detail)


def _load() -> Finding:
    load, cores = os.getloadavg()[0], usable_cores()
    detail = f"load {load:.2f} on {cores} {'core' if cores == 1 else 'cores'}"
    if load > QUIET_LOAD * cores:
        hint = "exports are not harmed; measure when nothing else runs"
        return Finding("machine", "quiet", "not here", f"{detail}: latencies measured now would not be true", hint)
    return Finding("machine", "quiet", "ok", detail)


# --- GPUs


def _nvidia_gpus() -> tuple[Finding, ...]:
    """A finding for each GPU that the driver lists, or one that says why there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        hint = "nothing up to the engine needs one; running engines does (edgekit bundle takes them to a board)"
        return (Finding("gpu", "NVIDIA GPU", "not here", "no nvidia-smi on the PATH", hint),)
    reason = ""
    # Older drivers do not know compute_cap, and refuse the whole question.
    for fields in ("name,driver_version,memory.total,compute_cap", "name,driver_version,memory.total"):
        answer, reason = _ask_nvidia_smi(tool, fields)
        if answer:
            return tuple(_gpu(row) for row in csv.reader(answer.splitlines(), skipinitialspace=True))
    return (Finding("gpu", "NVIDIA GPU", "broken", reason, "install or update the NVIDIA driver, and restart"),)


def _ask_nvidia_smi(tool: str, fields: str) -> tuple[str, str]:
    """Its answer, or "" and the reason."""
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "", f"nvidia-smi did not answer within {NVIDIA_SMI_LIMIT_S:.0f} s"
    except OSError as error:
        return "", f"nvidia-smi cannot be run: {error.strerror}"
    if done.returncode or not done.stdout.strip():
        said = (done.stdout + done.stderr).strip() or "nothing"
        return "", f"nvidia-smi says: {' '.join(said.split())[:300]}"
    return done.stdout.strip(), ""


def _gpu(row: list[str]) -> Finding:
    name, driver, memory, *capability = row
    sm = f", sm{capability[0].replace('.', '')}" if capability else ""
    return Finding("gpu", name, "ok", f"driver {driver}, {memory}{sm}")


def _jetson(root: Path) -> tuple[Finding, ...]:
    """The board and its Jetson Linux release; nothing on any other machine."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    model = _text(root / "proc/device-tree/model").strip()
    if release is None and "jetson" not in model.lower():
        return ()
    l4t = f"Jetson Linux {release[1]}.{release[2]}" if release else "no /etc/nv_tegra_release"
    return (Finding("gpu", model or "Jetson", "ok", l4t),)


# --- libraries


def _installed(package: Package) -> str | None:
    """`name version` of the first of the package's distributions that is installed."""
    for name in package.names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}"
    return None


def _can_be_imported(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # what stands in sys.modules under that name is no module
        return False


def _package(package: Package, installed: str | None) -> Finding:
    """The package as its metadata have it, before it is tried out."""
    name = package.names[0]
    hint = f"pip install '{name}>={package.least}'"
    if installed is None:
        detail = f"not installed; needed for {package.needed_for}"
        if name == "tensorrt-rtx" and os.uname().machine != "x86_64":
            hint = "it has wheels for x86-64 only: export with --no-engine, and build with the board's own TensorRT"
            return Finding("package", name, "not here", detail, hint, package.required)
        return Finding("package", name, "missing", detail, hint, package.required)
    name, version = installed.split()
    if _numbers(version) < _numbers(package.least):
        detail = f"{version} is too old: {package.least} or newer is needed"
        return Finding("package", name, "broken", detail, f"pip install -U '{name}>={package.least}'", package.required)
    return Finding("package", name, "ok", version, None, package.required)


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, as numbers that compare: "2.14.1+cu130" is (2, 14, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _tried(package: Finding, probe: Isolated | None, gpu: bool) -> Iterator[Finding]:
    """The package with what its probe, if any, had to say; then what the package can do here."""
    if probe is None:
        yield package
        return
    try:
        answer = probe.result(TIME_LIMIT_S)
    except EdgekitError as error:
        detail = f"{package.detail} is installed and does not work: {_in_one_line(error)}"
        hint = f"pip install --force-reinstall '{package.name}'"
        yield replace(package, status="broken", detail=detail, hint=hint)
        return
    yield package
    yield from _abilities(answer, probe, gpu)


def _abilities(answer: object, probe: Isolated, gpu: bool) -> Iterator[Finding]:
    from edgekit.probes import Providers, RtxFound, TorchFound

    if isinstance(answer, TorchFound):
        yield _cuda(answer, gpu)
    elif isinstance(answer, Providers):
        for name in answer.names:
            yield _provider(name, probe, gpu)
    elif isinstance(answer, RtxFound):
        yield _rtx(answer)


def _in_one_line(error: EdgekitError) -> str:
    return " ".join(f"{error.what} {error.got or ''}".split())[:300]


def _cuda(found: TorchFound, gpu: bool) -> Finding:
    if found.devices:
        return Finding("gpu", "CUDA in PyTorch", "ok", f"CUDA {found.cuda}: {', '.join(found.devices)}")
    if found.cuda is None:
        hint = "install a PyTorch build with CUDA to use the GPU" if gpu else None
        return Finding("gpu", "CUDA in PyTorch", "missing" if gpu else "not here", "a build for the CPU only", hint)
    detail = f"built for CUDA {found.cuda}, and finds no GPU that it can use"
    hint = "its CUDA may be too new for the driver: update one or the other" if gpu else None
    return Finding("gpu", "CUDA in PyTorch", "broken" if gpu else "not here", detail, hint)


def _provider(name: str, probe: Isolated, gpu: bool) -> Finding:
    """Whether the execution provider really runs a node; being listed as available means nothing."""
    from edgekit.probes import Provider, ProviderFound

    required = name == CPU_PROVIDER
    try:
        found = probe.call(Provider(name), TIME_LIMIT_S)
    except EdgekitError as error:
        return Finding("onnxruntime", name, "broken", _in_one_line(error), "reinstall onnxruntime", required)
    assert isinstance(found, ProviderFound)
    if found.ran_on == name:
        return Finding("onnxruntime", name, "ok", "ran a convolution", required=required)
    detail = f"listed, but its node was run by {found.ran_on}" + (f": {found.complaint}" if found.complaint else "")
    if gpu:
        hint = "its CUDA, cuDNN or TensorRT libraries are not found: install them, or call onnxruntime.preload_dlls()"
        return Finding("onnxruntime", name, "broken", detail, hint, required)
    return Finding("onnxruntime", name, "not here", detail, None, required)


def _rtx(found: RtxFound) -> Finding:
    name = "TensorRT-RTX ahead of time"
    if not found.targets:
        return Finding("tensorrt", name, "broken", "it compiled nothing", "reinstall tensorrt-rtx", required=True)
    return Finding("tensorrt", name, "ok", f"compiled for {', '.join(found.targets)}", required=True)


def _tensorrt(probe: Isolated | None, gpu: bool) -> Iterator[Finding]:
    """Full TensorRT, which builds on the GPU that will run the engine."""
    from edgekit.probes import TensorRTFound

    hint = "pip install 'edgekit-trt[tensorrt]'; a Jetson has it from JetPack"
    if probe is None:
        detail = "not installed" if gpu else "not installed; it needs an NVIDIA GPU"
        yield Finding("tensorrt", "TensorRT", "missing" if gpu else "not here", detail, hint)
        return
    try:
        found = probe.result(TIME_LIMIT_S)
    except EdgekitError as error:
        yield Finding("tensorrt", "TensorRT", "broken", _in_one_line(error), hint)
        return
    assert isinstance(found, TensorRTFound)
    if found.version is None:
        yield Finding("tensorrt", "TensorRT", "broken", "an empty namespace: stubs without the library", hint)
    elif found.complaint:
        detail = f"{found.version}, but it makes no builder: {found.complaint}"
        yield Finding("tensorrt", "TensorRT", "broken" if gpu else "not here", detail, "it needs a GPU and its driver")
    else:
        yield Finding("tensorrt", "TensorRT", "ok", found.version)


def _trtexec(root: Path) -> Finding:
    beside = root / "usr/src/tensorrt/bin/trtexec"
    path = shutil.which("trtexec") or (str(beside) if beside.is_file() else None)
    if path is None:
        detail = "neither on the PATH nor in /usr/src/tensorrt/bin"
        return Finding("tensorrt", "trtexec", "not here", detail, "it comes with TensorRT; every JetPack has it")
    return Finding("tensorrt", "trtexec", "ok", path)
