"""What `--data` can name, as a value; nothing is read yet. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import InputUnusable, UsageError, did_you_mean

Kind = Literal["folder", "digits", "fashion-mnist", "cifar10"]
NAMES = ("digits", "fashion-mnist", "cifar10")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
WANTED = "a folder of images, digits, fashion-mnist, fashion-mnist:DIR, or cifar10:DIR"


@dataclass(frozen=True)
class DataSource:
    """Labelled images by name. `path` is their folder, None for what a package brings along; `text` is as typed."""

    kind: Kind
    path: Path | None
    text: str


def parse_data(text: str) -> DataSource:
    """`digits`, `fashion-mnist`, `fashion-mnist:DIR`, `cifar10:DIR`, or a folder of images; `./digits` is a folder.

    Raises UsageError for a name that is used wrongly, InputUnusable for a folder that is not there.
    """
    name, colon, place = text.partition(":")
    match name, colon:
        case "digits", "":
            return DataSource("digits", None, text)
        case "digits", _:
            raise UsageError("digits come with scikit-learn, not from a folder", where="--data", got=text)
        case "fashion-mnist", "":
            return DataSource("fashion-mnist", FASHION_MNIST, text)
        case "cifar10", "":
            raise UsageError("which folder?", where="--data", got=text, wanted="cifar10:DIR")
        case ("fashion-mnist" | "cifar10") as kind, _:
            return DataSource(kind, _folder(place, text), text)
    return DataSource("folder", _folder(text, text), text)


def _folder(place: str, text: str) -> Path:
    path = Path(place)
    try:
        if place and path.is_dir():
            return path
        got = "a file" if place and path.exists() else text
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputUnusable("cannot look into the folder", where="--data", got=str(error), wanted=WANTED) from error
    raise InputUnusable("no such data", where=f"--data {text}", got=got, wanted=WANTED, hint=_near(text))


def _near(text: str) -> str | None:
    """The nearest name, or folder beside the one that is missing; None where nothing is near."""
    above = Path(text).parent
    there = above.iterdir() if above.is_dir() else ()
    beside = [str(path) for path in there if path.is_dir() and not path.name.startswith(".")]
    hint = did_you_mean(text, [*NAMES, *beside])
    return hint if hint and hint.startswith("did you mean") else None
