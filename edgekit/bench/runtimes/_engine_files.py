"""What has to be so before an engine is handed to any TensorRT."""

from __future__ import annotations

from pathlib import Path

from edgekit.engines.plan import read_plan_header
from edgekit.errors import InputUnusable, MachineLacks


def require(lacking: str | None, path: Path, flavour: str) -> None:
    """Raise InputUnusable unless the file is an engine of that flavour, MachineLacks where something is `lacking`."""
    found = read_plan_header(path).flavour
    if found != flavour:
        raise InputUnusable("this engine is another TensorRT's", where=str(path), got=found, wanted=flavour)
    if lacking is not None:
        raise MachineLacks("the engine cannot run here", where=str(path), wanted=lacking)
