"""What the first bytes of a TensorRT plan say, read without TensorRT, a driver or a GPU.

Layout, little-endian: magic at 0, a zero at 4, the plan's size as u64 at 16, the version that wrote it as four bytes
at 24; TensorRT-RTX goes on with its magic again at 28 and a bit per compute capability as u32 at 32.
Sources: TensorRT-RTX 1.7.1's own plans for every target, compared byte by byte; for full TensorRT, magic and version
as trtexec's --getPlanVersionOnly reads them (its size field is believed to be the same, and so is not checked).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import InputUnusable

HEADER_BYTES = 36
FLAVOURS: dict[bytes, Literal["tensorrt-rtx", "tensorrt"]] = {b"vtrt": "tensorrt-rtx", b"ftrt": "tensorrt"}
RTX_TARGET_BITS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # bit 0 first
MAX_PREFIX_BYTES = 1 << 20  # metadata that other tools write in front of an engine is some hundred bytes


@dataclass(frozen=True)
class PlanHeader:
    """A plan's flavour, size in bytes, the version that built it ("1.7.1.116"), and what RTX compiled it for.

    `targets` is empty where the header does not say: full TensorRT, or bits that were unknown to RTX 1.7.1.
    """

    flavour: Literal["tensorrt-rtx", "tensorrt"]
    size: int
    version: str
    targets: tuple[str, ...] = ()


def read_plan_header(path: Path) -> PlanHeader:
    """The header of a plan file. Raises InputUnusable, saying what the file is instead, for anything else."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise InputUnusable("the plan cannot be read", where=str(path), got=error.strerror or str(error)) from error
    flavour = FLAVOURS.get(head[:4])
    if flavour is None or len(head) < HEADER_BYTES:
        raise _unusable(path, _what_it_is(path, head, size), "a TensorRT or TensorRT-RTX plan")
    if head[4:8] != bytes(4):
        layout = int.from_bytes(head[4:8], "little")
        raise _unusable(path, f"a plan in serialisation layout {layout}", "layout 0, the only one known")
    (declared,) = struct.unpack_from("<Q", head, 16)
    if flavour == "tensorrt-rtx" and declared != size:
        trouble = "cut short" if declared > size else "with bytes behind its end"
        raise _unusable(path, f"a plan {trouble}: {size} bytes", f"the {declared} bytes that its header declares")
    return PlanHeader(flavour, size, ".".join(map(str, head[24:28])), _targets(flavour, head))


def _targets(flavour: str, head: bytes) -> tuple[str, ...]:
    (bits,) = struct.unpack_from("<I", head, 32)
    if flavour != "tensorrt-rtx" or head[28:32] != b"vtrt" or bits >> len(RTX_TARGET_BITS):
        return ()
    return tuple(target for bit, target in enumerate(RTX_TARGET_BITS) if bits >> bit & 1)


def _what_it_is(path: Path, head: bytes, size: int) -> str:
    """What the file looks like, which is not a plan."""
    if not head:
        return "an empty file"
    if head[:4] in FLAVOURS:
        return f"the first {size} bytes of a plan"
    if _has_metadata_in_front(path, head):
        return "a plan with metadata in front of it (as Ultralytics writes it), which trtexec refuses as well"
    if head[:1] == b"\x08" and len(head) > 2 and head[2:3] in (b"\x12", b"\x3a", b"\x42", b"\x1a", b"\x22"):
        return "most likely an ONNX model"
    return f"a file that begins with {head[:8]!r}"


def _has_metadata_in_front(path: Path, head: bytes) -> bool:
    """A length as four bytes, that many bytes of JSON, then the plan."""
    length = int.from_bytes(head[:4], "little")
    if head[4:5] != b"{" or length > MAX_PREFIX_BYTES:
        return False
    with path.open("rb") as file:
        file.seek(4 + length)
        return file.read(4) in FLAVOURS


def _unusable(path: Path, got: str, wanted: str) -> InputUnusable:
    return InputUnusable("this is not a usable plan", where=str(path), got=got, wanted=wanted)
