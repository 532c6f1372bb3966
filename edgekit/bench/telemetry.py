"""What the machine does while it is measured: read between rounds, from files of the system. Nothing heavy is imported.

Everything can be read below another root, for tests. What a machine does not have is None, never 0.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Self

from edgekit.bench.record import Telemetry

if TYPE_CHECKING:
    from threading import Timer

ROOT = Path("/")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Of /proc/stat's columns: user, nice, system, irq, softirq are work; steal is the hypervisor's; guest is in user.
BUSY, STEAL, ALL = (0, 1, 2, 5, 6), 7, 8
# NVML's reasons for lower clocks that mean heat or power: SW power cap, HW slowdown, SW and HW thermal, power brake.
NVML_THROTTLED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
TEGRASTATS_LIMIT_S = 3.0


@dataclass(frozen=True)
class Reading:
    """What happened during one round. Seconds of processor time are over all processors together.

    `capacity_s`: all there was; `busy_s`: used by anybody; `own_s`: by this process and the measuring one;
    `pressure_s`: wall seconds in which something runnable had to wait. `clock_mhz`: of the fastest processor, or of the
    GPU. `throttles`: how often the hardware slowed itself down.
    """

    seconds: float
    capacity_s: float | None = None
    busy_s: float | None = None
    own_s: float | None = None
    steal_s: float | None = None
    pressure_s: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    throttles: int | None = None
    power_w: float | None = None


@dataclass(frozen=True)
class _Counters:
    """Sums since the machine was started; two of them make a Reading."""

    at: float
    ticks: tuple[int, ...] | None
    own_s: float
    pressure_us: int | None
    throttles: int | None
    energy_uj: int | None


@dataclass(frozen=True)
class Device:
    """What a GPU or a board says of itself at one moment."""

    clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: bool | None = None


class Watch:
    """Reads the machine once a round. `pids` are the processes that measure; what they use is no other load."""

    def __init__(self, pids: Iterable[int], root: Path = ROOT, device: DeviceReader | None = None) -> None:
        self.root, self.pids, self.device = root, (os.getpid(), *pids), device
        self._last = self._counters()

    def lap(self) -> Reading:
        """What happened since the last lap."""
        before, now = self._last, self._counters()
        seen = self.device.read() if self.device else Device()
        seconds = max(now.at - before.at, 1e-9)
        ticks = _differences(before.ticks, now.ticks)
        self._last = now
        return Reading(
            seconds,
            capacity_s=_seconds(ticks, range(ALL)),
            busy_s=_seconds(ticks, BUSY),
            own_s=now.own_s - before.own_s,
            steal_s=_seconds(ticks, (STEAL,)),
            pressure_s=_difference(before.pressure_us, now.pressure_us, 1e-6),
            clock_mhz=seen.clock_mhz or fastest_clock(self.root),
            temperature_c=seen.temperature_c or hottest(self.root),
            throttles=_throttles(before, now, seen),
            power_w=seen.power_w or _watts(before, now, seconds),
        )

    def _counters(self) -> _Counters:
        return _Counters(
            time.monotonic(),
            cpu_ticks(self.root),
            sum(process_seconds(self.root, pid) for pid in self.pids),
            pressure(self.root),
            throttle_count(self.root),
            energy(self.root),
        )


def _differences(before: tuple[int, ...] | None, now: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if before is None or now is None:
        return None
    return tuple(max(0, late - early) for early, late in zip(before, now, strict=False))


def _seconds(ticks: tuple[int, ...] | None, columns: Iterable[int]) -> float | None:
    if ticks is None:
        return None
    return sum(ticks[column] for column in columns if column < len(ticks)) / TICKS_PER_SECOND


def _difference(before: int | None, now: int | None, scale: float) -> float | None:
    return None if before is None or now is None else max(0, now - before) * scale


def _throttles(before: _Counters, now: _Counters, seen: Device) -> int | None:
    counted = _difference(before.throttles, now.throttles, 1)
    if counted is None and seen.throttled is None:
        return None
    return int(counted or 0) + int(seen.throttled or False)


def _watts(before: _Counters, now: _Counters, seconds: float) -> float | None:
    joules = _difference(before.energy_uj, now.energy_uj, 1e-6)
    return joules / seconds if joules else None  # 0: the counter went round, or stands still


# --- files of the system


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _numbers(root: Path, pattern: str) -> list[int]:
    found = (_number(path) for path in sorted(root.glob(pattern)))
    return [number for number in found if number is not None]


def cpu_ticks(root: Path) -> tuple[int, ...] | None:
    """The first line of /proc/stat: clock ticks of all processors since the start, by what they were spent on."""
    found = re.match(r"cpu +([\d ]+)\n", _text(root / "proc/stat") or "")
    return tuple(map(int, found[1].split()))[:ALL] if found else None


def process_seconds(root: Path, pid: int) -> float:
    """Processor time that a process has used, in seconds; 0 for one that is gone."""
    # The second field is the program's name, in brackets, and may hold anything.
    fields = (_text(root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if len(fields) > 12 else 0.0


def pressure(root: Path) -> int | None:
    """Microseconds in which some runnable thread waited for a processor, from /proc/pressure/cpu."""
    found = re.search(r"^some .*total=(\d+)", _text(root / "proc/pressure/cpu") or "", re.MULTILINE)
    return int(found[1]) if found else None


def load(root: Path = ROOT) -> float | None:
    """Threads that ran or waited to, averaged over the last minute."""
    found = re.match(r"[\d.]+", _text(root / "proc/loadavg") or "")
    return float(found[0]) if found else None


def fastest_clock(root: Path) -> float | None:
    """MHz of the fastest processor now: those that idle may stand at their slowest."""
    found = _numbers(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    return max(found) / 1000 if found else None


def hottest(root: Path) -> float | None:
    """Degrees Celsius of the hottest thermal zone."""
    found = _numbers(root, "sys/class/thermal/thermal_zone*/temp")
    return max(found) / 1000 if found else None


def throttle_count(root: Path) -> int | None:
    """How often the processors have slowed down because of heat."""
    found = _numbers(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(found) if found else None


def energy(root: Path) -> int | None:
    """Microjoules that the processor packages have used (Intel's and AMD's RAPL); root alone may read it on most."""
    found = _numbers(root, "sys/class/powercap/intel-rapl:[0-9]/energy_uj")
    return sum(found) if found else None


# --- GPUs and boards


class DeviceReader:
    """Something that says how a GPU or a board does; `read` takes a millisecond."""

    def read(self) -> Device:
        """Its state now."""
        return Device()


class Nvml(DeviceReader):
    """The first GPU by NVIDIA's management library. Not tried on a GPU yet: none was at hand."""

    def __init__(self, library: ModuleType) -> None:
        self.library = library
        self.handle = library.nvmlDeviceGetHandleByIndex(0)

    def read(self) -> Device:
        """SM clock, temperature, power, and whether heat or power hold the clock down."""
        it = self.library
        try:
            reasons = int(it.nvmlDeviceGetCurrentClocksThrottleReasons(self.handle))
            return Device(
                float(it.nvmlDeviceGetClockInfo(self.handle, it.NVML_CLOCK_SM)),
                float(it.nvmlDeviceGetTemperature(self.handle, it.NVML_TEMPERATURE_GPU)),
                it.nvmlDeviceGetPowerUsage(self.handle) / 1000,
                bool(reasons & NVML_THROTTLED),
            )
        except it.NVMLError:
            return Device()

    @classmethod
    def find(cls) -> Self | None:
        """The GPU, where there are pynvml and a driver."""
        library = nvml()
        if library is None:
            return None
        try:
            return cls(library)
        except library.NVMLError:  # a driver without a GPU
            return None


def nvml() -> ModuleType | None:
    """NVIDIA's management library, ready for use, where there are pynvml and a driver."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    return library


class Tegrastats(DeviceReader):
    """A Jetson, by its own tool, which prints a line in every interval. Not tried on a board yet: none was at hand."""

    def __init__(self, program: str) -> None:
        self.program = program

    def read(self) -> Device:
        """The state in one line of the tool, which runs for no longer, and so takes nothing from the next round."""
        command = [self.program, "--interval", "100"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tool:
            killer = _after(TEGRASTATS_LIMIT_S, tool)
            assert tool.stdout is not None
            line = tool.stdout.readline()
            killer.cancel()
            tool.kill()
        return parse_tegrastats(line)

    @classmethod
    def find(cls) -> Self | None:
        """The tool, where it is on the PATH."""
        program = shutil.which("tegrastats")
        return cls(program) if program else None


def _after(seconds: float, tool: subprocess.Popen[str]) -> Timer:
    from threading import Timer

    timer = Timer(seconds, tool.kill)
    timer.daemon = True
    timer.start()
    return timer


def parse_tegrastats(line: str) -> Device:
    """What one line of tegrastats says: the GPU's clock and the hottest sensor, and the board's input power.

    Clocks are MHz, as `GR3D_FREQ 35%@1134`, in newer releases `@[1134,1134]`; temperatures `GPU@41.5C`; powers
    `VDD_IN 4812mW/4700mW` (now / mean), on old boards `POM_5V_IN 2532/2532`. A sensor that is off reads -256 C.
    """
    clock = re.search(r"GR3D_FREQ \d+%@\[?(\d+)", line)
    heat = [float(found) for found in re.findall(r"@(-?\d+(?:\.\d+)?)C\b", line)]
    power = re.search(r"\b(?:VDD_IN|POM_5V_IN|VIN_SYS_5V0) (\d+)(?:mW)?/", line)
    real = [degrees for degrees in heat if degrees > -100]
    return Device(float(clock[1]) if clock else None, max(real, default=None), int(power[1]) / 1000 if power else None)


def device() -> DeviceReader | None:
    """The GPU or the board, where there is one that can be asked."""
    return Tegrastats.find() or Nvml.find()


# --- what the readings amount to


def summarise(readings: Sequence[Reading], load_before: float | None, round_spread: float | None) -> Telemetry:
    """All rounds together."""
    capacity = _total([it.capacity_s for it in readings])
    steal, pressed = _total([it.steal_s for it in readings]), _total([it.pressure_s for it in readings])
    seconds = sum(it.seconds for it in readings)
    throttles, powers = _total([it.throttles for it in readings]), _known([it.power_w for it in readings])
    return Telemetry(
        seconds=seconds,
        rounds=len(readings),
        steal=_share(steal, capacity),
        pressure_cpu=_share(pressed, seconds),
        load_before=load_before,
        clock_mhz=_range([it.clock_mhz for it in readings]),
        temperature_c=_range([it.temperature_c for it in readings]),
        throttled=None if throttles is None else throttles > 0,
        round_spread=round_spread,
        other_load=_share(_others(readings), capacity),
        power_w=sum(powers) / len(powers) if powers else None,
    )


def _others(readings: Sequence[Reading]) -> float | None:
    busy, own = _total([it.busy_s for it in readings]), _total([it.own_s for it in readings])
    return None if busy is None or own is None else max(0.0, busy - own)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _total(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, part / whole)


def _range(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = _known(values)
    return (min(known), max(known)) if known else None
