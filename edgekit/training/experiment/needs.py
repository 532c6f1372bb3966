"""What not every installation has."""

from __future__ import annotations

from edgekit.errors import MachineLacks
from edgekit.training.experiment.scheduling import Runner


def on_ray(address: str, slots: int, threads: int) -> Runner:
    """Cells on a Ray cluster. Raises MachineLacks where Ray is not installed."""
    try:
        from edgekit.training.experiment.on_ray import OnRay
    except ImportError as error:
        raise MachineLacks(
            "Ray is not installed", where="--ray", got=str(error), hint='pip install "edgekit-trt[ray]"'
        ) from error
    return OnRay(address, slots, threads)
