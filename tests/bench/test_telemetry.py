"""What the machine did, read from a made-up /proc and /sys: figures where there are some, None where there are none."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bench import telemetry
from edgekit.bench.telemetry import Device, DeviceReader, Nvml, Reading, Watch, parse_tegrastats, summarise

TICK = 1 / telemetry.TICKS_PER_SECOND
ORIN = (
    "11-28-2026 12:00:01 RAM 2722/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) CPU [12%@1510,3%@1510,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 99%@[611] NVDEC off cpu@47.5C soc2@46.2C tj@48.9C gpu@-256C "
    "VDD_IN 5012mW/4900mW VDD_CPU_GPU_CV 1212mW/1100mW"
)
NANO = (
    "RAM 1500/3956MB (lfb 2x4MB) CPU [10%@1479,5%@1479,3%@1479,2%@1479] EMC_FREQ 8%@1600 GR3D_FREQ 35%@921 "
    "APE 25 PLL@38C CPU@41.5C PMIC@100C GPU@39C AO@45.5C thermal@40C POM_5V_IN 2532/2500 POM_5V_GPU 121/100"
)


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two processors and every sensor there is."""
    ticks(tmp_path, user=100, idle=900, steal=0)
    write(tmp_path, "proc/pressure/cpu", "some avg10=0.00 avg60=0.00 total=1000\nfull avg10=0.0 total=0\n")
    write(tmp_path, "proc/loadavg", "0.50 0.10 0.00 1/90 8712\n")
    own(tmp_path, 50)
    for cpu, mhz in ((0, 1200), (1, 3000)):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", f"{mhz}000\n")
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", "3\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "67500\n")
    write(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "1000000\n")
    return tmp_path


def ticks(root: Path, user: int, idle: int, steal: int) -> None:
    write(root, "proc/stat", f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")


def own(root: Path, used: int) -> None:
    # The name of a program may hold brackets and blanks.
    write(root, f"proc/{os.getpid()}/stat", f"7 (py (x) 3) R 1 1 1 0 -1 4194560 1 0 0 0 {used} 0 0 0 20 0 1 0 1 1 1\n")


class TestWatch:
    def test_a_lap_is_what_changed(self, root):
        watch = Watch([], root)
        ticks(root, user=180, idle=1000, steal=20)
        own(root, 110)
        write(root, "proc/pressure/cpu", "some avg10=0.00 total=501000\n")
        write(root, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "5\n")
        lap = watch.lap()
        assert lap.capacity_s == pytest.approx(200 * TICK)
        assert lap.busy_s == pytest.approx(80 * TICK)
        assert lap.own_s == pytest.approx(60 * TICK)
        assert lap.steal_s == pytest.approx(20 * TICK)
        assert lap.pressure_s == pytest.approx(0.5)
        assert (lap.clock_mhz, lap.temperature_c, lap.throttles) == (3000, 67.5, 2)

    def test_the_next_lap_begins_there(self, root):
        watch = Watch([], root)
        ticks(root, user=180, idle=1000, steal=20)
        watch.lap()
        assert watch.lap().busy_s == 0.0

    def test_power_is_energy_over_time(self, root):
        watch = Watch([], root)
        write(root, "sys/class/powercap/intel-rapl:0/energy_uj", "3000000\n")
        lap = watch.lap()
        assert lap.power_w == pytest.approx(2.0 / lap.seconds)

    def test_a_machine_without_sensors_has_none(self, tmp_path):
        lap = Watch([], tmp_path).lap()
        known = (lap.capacity_s, lap.busy_s, lap.steal_s, lap.pressure_s, lap.clock_mhz, lap.temperature_c)
        assert known == (None,) * 6
        assert (lap.throttles, lap.power_w) == (None, None)

    @settings(deadline=None)
    @given(st.text())
    def test_nonsense_in_the_files_is_no_figure(self, tmp_path_factory, text):
        root = tmp_path_factory.mktemp("nonsense")
        for name in ("proc/stat", "proc/pressure/cpu", "proc/loadavg", "sys/class/thermal/thermal_zone0/temp"):
            write(root, name, "x" + text)
        assert Watch([], root).lap().capacity_s is None
        assert telemetry.load(root) is None

    def test_a_device_is_asked_first(self, root):
        class Gpu(DeviceReader):
            def read(self) -> Device:
                return Device(1500.0, 80.0, 30.0, True)

        lap = Watch([], root, Gpu()).lap()
        assert (lap.clock_mhz, lap.temperature_c, lap.power_w, lap.throttles) == (1500, 80, 30, 1)

    def test_this_machine_can_be_read(self):
        watch = Watch([])
        sum(range(2_000_000))
        lap = watch.lap()
        assert lap.seconds > 0
        assert lap.own_s is not None
        assert telemetry.load() is not None


class TestTegrastats:
    def test_an_orin(self):
        assert parse_tegrastats(ORIN) == Device(611.0, 48.9, 5.012)

    def test_a_nano(self):
        assert parse_tegrastats(NANO) == Device(921.0, 100.0, 2.532)

    def test_nothing(self):
        assert parse_tegrastats("") == Device()

    def test_the_tool_is_run_for_one_line(self, tmp_path):
        tool = tmp_path / "tegrastats"
        tool.write_text(f"#!/bin/sh\necho '{NANO}'\nexec sleep 60\n")
        tool.chmod(0o755)
        assert telemetry.Tegrastats(str(tool)).read().clock_mhz == 921.0


class TestNvml:
    def library(self, reasons: int) -> SimpleNamespace:
        """The functions of pynvml that are used, as its documentation has them: no GPU was at hand."""
        return SimpleNamespace(
            NVMLError=RuntimeError,
            NVML_CLOCK_SM=1,
            NVML_TEMPERATURE_GPU=0,
            nvmlDeviceGetHandleByIndex=lambda number: ("gpu", number),
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: reasons,
            nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
            nvmlDeviceGetTemperature=lambda handle, kind: 71,
            nvmlDeviceGetPowerUsage=lambda handle: 250_000,
        )

    @pytest.mark.parametrize(
        ("reasons", "throttled"), [(0x0, False), (0x1, False), (0x4, True), (0x8, True), (0x20, True), (0x40, True)]
    )
    def test_units_and_reasons(self, reasons, throttled):
        assert Nvml(self.library(reasons)).read() == Device(1980.0, 71.0, 250.0, throttled)

    def test_an_error_is_no_figure(self):
        library = self.library(0)

        def fails(_handle: object) -> int:
            raise RuntimeError("lost")

        library.nvmlDeviceGetCurrentClocksThrottleReasons = fails
        assert Nvml(library).read() == Device()


class TestSummary:
    def test_shares_are_of_all_rounds_together(self):
        readings = [
            Reading(1.0, 2.0, 1.0, 0.8, 0.1, 0.5, 3000, 60.0, 0, 10.0),
            Reading(3.0, 6.0, 5.0, 3.0, 0.3, 0.5, 2500, 70.0, 1, 30.0),
        ]
        found = summarise(readings, 0.7, 0.2)
        assert found.seconds == 4.0
        assert found.other_load == pytest.approx(2.2 / 8)
        assert found.steal == pytest.approx(0.05)
        assert found.pressure_cpu == pytest.approx(0.25)
        assert (found.clock_mhz, found.temperature_c) == ((2500, 3000), (60.0, 70.0))
        assert (found.throttled, found.power_w, found.load_before, found.round_spread) == (True, 20.0, 0.7, 0.2)

    def test_what_was_never_read_is_not_known(self):
        found = summarise([Reading(1.0)], None, None)
        assert (found.steal, found.other_load, found.clock_mhz, found.throttled) == (None,) * 4

    def test_ticks_of_our_own_that_come_late_are_no_negative_load(self):
        assert summarise([Reading(1.0, 2.0, 0.9, 1.0)], None, None).other_load == 0.0
