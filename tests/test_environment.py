"""What a machine is said to be, and what is found on it: real libraries really used, everything else in fake trees."""

from __future__ import annotations

import getpass
import importlib.metadata
import math
import os
import re
import shutil
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import environment, schema
from edgekit.environment import CPU_PROVIDER, PACKAGES, Environment, Finding, Package, examine, stamp, usable_cores

ROOT = Path(__file__).parent.parent
CORES = len(os.sched_getaffinity(0))
HAS_GPU = shutil.which("nvidia-smi") is not None


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Examine nothing but the machine: no packages, no tools, and modules from a folder of the test's own first."""
    monkeypatch.setattr(environment, "PACKAGES", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "modules").mkdir()
    return monkeypatch


def found(environment: Environment, name: str) -> Finding:
    [finding] = [finding for finding in environment.findings if finding.name == name]
    return finding


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# --- the stamp


def test_the_stamp_says_what_the_machine_is_and_not_whose() -> None:
    made = stamp()
    assert list(made) == ["os", "kernel", "architecture", "cpu", "cores", "memory", "python"]
    assert all(made.values())
    assert made["python"] == sys.version.split()[0].rstrip("+")
    assert float(made["memory"].removesuffix(" GB")) > 0
    for secret in (os.uname().nodename, getpass.getuser()):
        assert not any(re.search(rf"\b{re.escape(secret)}\b", value) for value in made.values())


def test_the_stamp_is_light() -> None:
    stamp()
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        stamp()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.005


def test_the_stamp_of_an_intel_server(tmp_path: Path) -> None:
    files = {
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\nID=ubuntu\n',
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6338\n\nmodel name\t: other\n",
        "proc/meminfo": "MemTotal:       65536000 kB\nMemFree: 1 kB\n",
    }
    made = stamp(write(tmp_path, files))
    assert made["os"] == "Ubuntu 22.04.4 LTS"
    assert made["cpu"] == "Intel(R) Xeon(R) Gold 6338"
    assert made["memory"] == "67.1 GB"


def test_the_stamp_of_an_arm_board_gives_the_numbers_of_its_core(tmp_path: Path) -> None:
    cpu = "processor\t: 0\nBogoMIPS\t: 62.50\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd42\n"
    assert stamp(write(tmp_path, {"proc/cpuinfo": cpu}))["cpu"] == "ARM 0x41 0xd42"


def test_a_machine_that_tells_nothing_is_unknown_and_no_error(tmp_path: Path) -> None:
    made = stamp(tmp_path)
    assert (made["os"], made["cpu"], made["memory"]) == ("unknown", "unknown", "0.0 GB")


@given(quota=st.integers(1, 10**7), period=st.integers(1000, 10**6))
def test_a_containers_quota_limits_the_cores(tmp_path_factory: pytest.TempPathFactory, quota: int, period: int) -> None:
    root = write(tmp_path_factory.mktemp("root"), {"sys/fs/cgroup/cpu.max": f"{quota} {period}\n"})
    assert usable_cores(root) == min(CORES, math.ceil(quota / period))


def test_without_a_quota_the_cores_are_those_of_the_process(tmp_path: Path) -> None:
    assert usable_cores(write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000\n"})) == CORES
    assert usable_cores(tmp_path / "none") == CORES


# --- packages


def test_the_packages_are_those_of_the_project_with_the_same_versions() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = {}
    for line in declared:
        name, least = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
        wanted[name] = least
    assert {name: package.least for package in PACKAGES for name in package.names} == wanted


VERSIONS = [
    ("2.6", "2.6.0", "ok"),
    ("2.6", "2.14.1+cu130", "ok"),
    ("2.6", "2.5.9", "broken"),
    ("2.6", "2.6rc1", "ok"),
    ("1.20", "1.3.0", "broken"),
    ("0.49.26", "0.49.9", "broken"),
    ("10", "9.5", "broken"),
]


@pytest.mark.parametrize(("least", "installed", "status"), VERSIONS)
def test_a_version_is_compared_by_its_numbers(
    alone: pytest.MonkeyPatch, least: str, installed: str, status: str
) -> None:
    alone.setattr(environment, "PACKAGES", (Package(("some-package",), least, "a test"),))
    alone.setattr(importlib.metadata, "version", lambda name: installed)
    finding = found(examine(), "some-package")
    assert finding.status == status
    assert installed in finding.detail
    assert (finding.hint is None) == (status == "ok")


def test_a_package_that_is_not_there_is_missing_and_says_how_to_get_it(alone: pytest.MonkeyPatch) -> None:
    needed = Package(("no-such-package", "nor-this"), "1.2", "a test")
    spare = Package(("not-needed-either",), "3", "another", required=False)
    alone.setattr(environment, "PACKAGES", (needed, spare))
    examined = examine()
    finding = found(examined, "no-such-package")
    assert (finding.status, finding.hint) == ("missing", "pip install 'no-such-package>=1.2'")
    assert found(examined, "not-needed-either").status == "missing"
    assert examined.lacking() == ["no-such-package"]


def test_any_of_several_distributions_serves(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(environment, "PACKAGES", (Package(("no-such-package", "pytest"), "1", "a test"),))
    examined = examine()
    assert found(examined, "pytest").status == "ok"
    assert examined.lacking() == []


def test_a_package_that_is_installed_and_broken_is_found_by_trying_it(
    alone: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = next(package for package in PACKAGES if package.probe == "onnx")
    alone.setattr(environment, "PACKAGES", (package,))
    write(tmp_path / "modules", {"onnx/__init__.py": "raise ImportError('libprotobuf.so.99: cannot open')"})
    examined = examine()
    finding = found(examined, "onnx")
    assert finding.status == "broken"
    assert "libprotobuf.so.99" in finding.detail
    assert examined.lacking() == ["onnx"]


# --- what the libraries can do: one look at everything, for real


@pytest.fixture(scope="module")
def here() -> Environment:
    return examine()


def test_everything_that_is_required_works_here(here: Environment) -> None:
    """The tests cannot pass without it, so this holds wherever they run."""
    assert here.lacking() == []
    required = {finding.name for finding in here.findings if finding.required}
    assert {"torch", "onnx", "onnxsim", CPU_PROVIDER} < required
    assert here.machine == stamp()


def test_the_cpu_provider_is_seen_to_run_a_node(here: Environment) -> None:
    assert found(here, CPU_PROVIDER) == Finding("onnxruntime", CPU_PROVIDER, "ok", "ran a convolution", required=True)


@pytest.mark.skipif(HAS_GPU, reason="has a GPU: its providers may well work")
def test_a_provider_that_is_listed_and_falls_back_is_not_ok(here: Environment) -> None:
    import onnxruntime

    listed = set(onnxruntime.get_available_providers())
    findings = {finding.name: finding for finding in here.findings if finding.area == "onnxruntime"}
    assert set(findings) == listed
    for name in listed - {CPU_PROVIDER}:
        assert findings[name].status == "not here"
        assert f"run by {CPU_PROVIDER}" in findings[name].detail


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="TensorRT-RTX has no wheels here")
def test_tensorrt_rtx_is_seen_to_compile(here: Environment) -> None:
    finding = found(here, "TensorRT-RTX ahead of time")
    assert finding.status == "ok"
    assert {"sm80", "sm86", "sm89"} <= set(re.findall(r"sm\d+", finding.detail))


@pytest.mark.skipif(HAS_GPU, reason="has a GPU")
def test_without_a_gpu_what_needs_one_is_not_here_rather_than_broken(here: Environment) -> None:
    assert found(here, "NVIDIA GPU").status == "not here"
    assert found(here, "CUDA in PyTorch").status == "not here"
    assert not [finding.name for finding in here.findings if finding.status == "broken"]


def test_whatever_is_not_ok_says_why(here: Environment) -> None:
    assert all(finding.detail for finding in here.findings)
    assert all(finding.hint for finding in here.findings if finding.status in ("missing", "broken"))


def test_an_environment_survives_json(here: Environment) -> None:
    assert schema.read(Environment, schema.to_json(here)) == here


# A library with providers of every character: one works, one leaves its node to the CPU, one takes the process along.
ONNXRUNTIME = """
import json, os, signal
import numpy as np

class SessionOptions:
    pass

def get_available_providers():
    return ["GoodExecutionProvider", "CrashExecutionProvider", "LazyExecutionProvider", "CPUExecutionProvider"]

class InferenceSession:
    def __init__(self, model, options, providers):
        [asked] = providers
        if asked.startswith("Crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        self.ran = "CPUExecutionProvider" if asked.startswith("Lazy") else asked
        if asked.startswith("Lazy"):
            os.write(2, b"[E] Failed to load library with error: libneeded.so: not found\\n")
        self.profile = options.profile_file_prefix + ".json"

    def run(self, names, feeds):
        return [np.full((1, 1, 2, 2), 9.0, np.float32)]

    def end_profiling(self):
        events = [{"name": "session", "args": {}}, {"name": "conv", "args": {"provider": self.ran}}]
        with open(self.profile, "w") as file:
            json.dump(events, file)
        return self.profile
"""


def test_each_provider_is_judged_by_what_it_ran(alone: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone.setattr(environment, "PACKAGES", tuple(package for package in PACKAGES if package.probe == "onnxruntime"))
    write(tmp_path / "modules", {"onnxruntime/__init__.py": ONNXRUNTIME})
    examined = examine()
    assert found(examined, "GoodExecutionProvider").status == "ok"
    assert found(examined, CPU_PROVIDER).status == "ok"
    lazy = found(examined, "LazyExecutionProvider")
    assert (lazy.status, lazy.hint) == ("not here", None)
    assert f"run by {CPU_PROVIDER}: libneeded.so: not found" in lazy.detail
    crash = found(examined, "CrashExecutionProvider")
    assert crash.status == "broken"
    assert "SIGSEGV" in crash.detail
    tool(tmp_path, "nvidia-smi", "echo 'NVIDIA L4, 550.54.14, 23034 MiB, 8.9'")
    assert found(examine(), "LazyExecutionProvider").status == "broken"  # with a GPU there is no excuse


# --- full TensorRT, played by modules of our own in the isolated process


def tensorrt(tmp_path: Path, source: str | None) -> Finding:
    if source is None:
        (tmp_path / "modules" / "tensorrt").mkdir()
    else:
        write(tmp_path / "modules", {"tensorrt/__init__.py": source})
    return found(examine(), "TensorRT")


FULL = """
__version__ = "10.3.0"
class Logger:
    ERROR = 1
    def __init__(self, severity): pass
class Builder:
    def __init__(self, logger): {body}
"""


@pytest.mark.usefixtures("alone")
def test_an_empty_namespace_is_not_tensorrt(tmp_path: Path) -> None:
    finding = tensorrt(tmp_path, None)
    assert finding.status == "broken"
    assert "empty namespace" in finding.detail


@pytest.mark.usefixtures("alone")
def test_a_tensorrt_that_makes_a_builder_is_ok(tmp_path: Path) -> None:
    assert tensorrt(tmp_path, FULL.format(body="pass")) == Finding("tensorrt", "TensorRT", "ok", "10.3.0")


@pytest.mark.usefixtures("alone")
def test_a_tensorrt_without_a_driver_makes_no_builder(tmp_path: Path) -> None:
    finding = tensorrt(tmp_path, FULL.format(body="raise TypeError('factory function returned nullptr')"))
    assert finding.status == "not here"
    assert "10.3.0" in finding.detail
    assert "nullptr" in finding.detail


@pytest.mark.usefixtures("alone")
def test_a_library_that_crashes_is_a_finding(tmp_path: Path) -> None:
    finding = tensorrt(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert finding.status == "broken"
    assert "SIGSEGV" in finding.detail


def test_a_library_that_hangs_is_a_finding(alone: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone.setattr(environment, "TIME_LIMIT_S", 0.5)
    finding = tensorrt(tmp_path, "import time; time.sleep(600)")
    assert finding.status == "broken"
    assert "took longer" in finding.detail


@pytest.mark.usefixtures("alone")
def test_a_tensorrt_that_is_not_installed_is_not_here_without_a_gpu_and_missing_with_one(tmp_path: Path) -> None:
    assert found(examine(), "TensorRT").status == "not here"
    tool(tmp_path, "nvidia-smi", "echo 'NVIDIA RTX A4000, 550.54.14, 16376 MiB, 8.6'")
    finding = found(examine(), "TensorRT")
    assert finding.status == "missing"
    assert "edgekit-trt[tensorrt]" in str(finding.hint)


# --- GPUs, boards and tools


@pytest.mark.usefixtures("alone")
def test_every_gpu_of_the_driver_is_a_finding(tmp_path: Path) -> None:
    tool(
        tmp_path,
        "nvidia-smi",
        "echo 'Tesla T4, 550.54.14, 15360 MiB, 7.5'\necho 'NVIDIA L4, 550.54.14, 23034 MiB, 8.9'",
    )
    gpus = [finding for finding in examine().findings if finding.area == "gpu"]
    assert gpus == [
        Finding("gpu", "Tesla T4", "ok", "driver 550.54.14, 15360 MiB, sm75"),
        Finding("gpu", "NVIDIA L4", "ok", "driver 550.54.14, 23034 MiB, sm89"),
    ]


@pytest.mark.usefixtures("alone")
def test_a_driver_that_does_not_know_compute_cap_is_asked_without(tmp_path: Path) -> None:
    refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
    tool(tmp_path, "nvidia-smi", f'case "$1" in *compute_cap*) {refusal};; esac\necho "Tesla K80, 418.87, 11441 MiB"')
    assert found(examine(), "Tesla K80").detail == "driver 418.87, 11441 MiB"


@pytest.mark.usefixtures("alone")
def test_a_driver_that_fails_is_broken_in_its_own_words(tmp_path: Path) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    tool(tmp_path, "nvidia-smi", f'echo "{said}"; exit 9')
    finding = found(examine(), "NVIDIA GPU")
    assert finding.status == "broken"
    assert said in finding.detail


def test_a_driver_that_hangs_is_broken(alone: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone.setattr(environment, "NVIDIA_SMI_LIMIT_S", 0.2)
    tool(tmp_path, "nvidia-smi", "exec /bin/sleep 60")
    assert "did not answer" in found(examine(), "NVIDIA GPU").detail


def test_a_jetson_is_known_by_its_files(alone: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
        "usr/src/tensorrt/bin/trtexec": "",
    }
    alone.setattr(environment, "ROOT", write(tmp_path / "board", files))
    examined = examine()
    board = found(examined, "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit")
    assert (board.status, board.detail) == ("ok", "Jetson Linux 36.4.3")
    assert found(examined, "trtexec").detail == str(tmp_path / "board/usr/src/tensorrt/bin/trtexec")
    assert found(examined, "TensorRT").status == "missing"  # a board has a GPU, so it could be there


@pytest.mark.usefixtures("alone")
def test_trtexec_is_looked_for_on_the_path(tmp_path: Path) -> None:
    tool(tmp_path, "trtexec", "exit 0")
    finding = found(examine(), "trtexec")
    assert (finding.status, finding.detail) == ("ok", str(tmp_path / "bin" / "trtexec"))


def test_a_busy_machine_and_a_full_disk_are_told(alone: pytest.MonkeyPatch) -> None:
    alone.setattr(os, "getloadavg", lambda: (4.0 * CORES, 0.0, 0.0))
    alone.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 10**10 - 10**8, 10**8))
    examined = examine()
    assert found(examined, "quiet").status == "not here"
    assert (found(examined, "disk").status, found(examined, "disk").detail[:6]) == ("missing", "0.1 GB")
    alone.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert found(examine(), "quiet").status == "ok"
