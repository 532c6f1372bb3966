"""Full TensorRT: plans for the GPU of this machine, a Jetson's own included.

Not measured here: building with it needs an NVIDIA GPU. What is tested without one: that its absence is named, and that
every attribute which the builder touches exists in 8.6.1, 10.3, 10.13, 10.16 and 11.4.
"""

from __future__ import annotations

from edgekit.engines.builder import Flavour

FLAVOUR = Flavour(
    flavour="tensorrt",
    name="TensorRT",
    package="tensorrt",
    install="JetPack brings it; elsewhere pip install 'edgekit-trt[tensorrt]', on a machine with an NVIDIA GPU",
    timeout_s=3600.0,  # it times every kernel that it could take
)
builder = FLAVOUR.builder
available = FLAVOUR.available
build = FLAVOUR.build
