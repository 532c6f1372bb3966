"""TensorRT-RTX: plans for GeForce and RTX GPUs (SM 75 - 121), compiled ahead of time on a machine without a GPU."""

from __future__ import annotations

from edgekit.engines.builder import Flavour

FLAVOUR = Flavour(
    flavour="tensorrt-rtx",
    name="TensorRT-RTX",
    package="tensorrt_rtx",
    install="pip install tensorrt-rtx (there are wheels for Linux x86-64)",
    timeout_s=600.0,  # a MobileNet takes half a second
)
builder = FLAVOUR.builder
available = FLAVOUR.available
build = FLAVOUR.build
