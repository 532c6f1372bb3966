"""The page as one HTML file that needs nothing else: style and script are inside, and nothing may be loaded.

A policy in the page lets only its own script run, known by its hash: whatever a file smuggled in stays text.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgekit.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from edgekit.report.heat import STEPS
from edgekit.report.page import Page

HERE = Path(__file__).parent

# Shapes of 10 units around the origin; a point is known by its shape as well as by its colour.
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",  # circle
    "M-4-4h8v8h-8Z",  # square
    "M0-5.5L5 4h-10Z",  # triangle
    "M0-5.8L5.2 0L0 5.8L-5.2 0Z",  # diamond
    "M-2-5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5Z",  # cross
    "M0 5.5L5-4h-10Z",  # triangle that points down
    "M0-5.5L5.2-1.7L3.2 4.5h-6.4L-5.2-1.7Z",  # pentagon
)
COLOURS = 8  # in the style sheet; no divisor of the number of shapes, so that 56 series differ


def render(page: Page) -> str:
    """The whole file."""
    return _environment().get_template("page.html").render(page=page, steps=STEPS, **shell())


def shell() -> dict[str, object]:
    """What every page of this look is made with: style, script, their hashes, the shapes, and the frame of a chart."""
    style, script = _own("style.css"), _own("script.js")
    frame = {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
    }
    return {
        "style": Markup(style),  # noqa: S704 (this package's own file, no data in it)
        "script": Markup(script),  # noqa: S704
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "shapes": SHAPES,
        "colours": COLOURS,
        "frame": frame,
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def _own(name: str) -> str:
    return (HERE / name).read_text()


def _hash(text: str) -> str:
    """What a content security policy calls a piece of script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
