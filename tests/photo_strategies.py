"""Photos for schemathesis: real image files wherever a description asks for one.

A description can say that something is an image, but not that it can be read: without these
strategies a generated request would hardly ever get past the first bytes of its photo.
"""

from __future__ import annotations

import base64
import textwrap
from typing import Any

import schemathesis
from factories import encode, picture
from hypothesis import strategies as st

__all__ = ["MIN_SIDE", "photos", "register", "with_formats"]

# Every box that is generated lies on every photo that is generated.
MIN_SIDE = 16
_MAX_SIDE = 96
_MEDIA_TYPES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/heic": "HEIF",
}

_colours = st.tuples(*[st.integers(0, 255)] * 3)
_sizes = st.tuples(*[st.integers(MIN_SIDE, _MAX_SIDE)] * 2)


def photos(*formats: str) -> st.SearchStrategy[bytes]:
    """Files of one colour in one of Pillow's formats: of any that the service reads, by default."""
    one_of_them = st.sampled_from(formats or tuple(_MEDIA_TYPES.values()))
    return st.builds(encode, st.builds(picture, _colours, _sizes), one_of_them)


def _as_text(photo: bytes, *, wrapped: bool, prefixed: bool) -> str:
    text = base64.b64encode(photo).decode("ascii")
    if wrapped:
        text = "\n".join(textwrap.wrap(text, 76))
    return f"data:image/jpeg;base64,{text}" if prefixed else text


@st.composite
def _boxes(draw: st.DrawFn) -> str:
    left, right = sorted(draw(st.lists(_edges, min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(_edges, min_size=2, max_size=2, unique=True)))
    return f"{left},{top},{right},{bottom}"


_edges = st.integers(0, MIN_SIDE)


def register() -> None:
    """Let schemathesis use them, in this process from now on."""
    for media_type, image_format in _MEDIA_TYPES.items():
        schemathesis.openapi.media_type(media_type, photos(image_format))
    schemathesis.openapi.media_type("application/octet-stream", photos())
    schemathesis.openapi.format("binary", photos())
    schemathesis.openapi.format(
        "photo-as-text",
        st.builds(_as_text, photos(), wrapped=st.booleans(), prefixed=st.booleans()),
    )
    schemathesis.openapi.format("box", _boxes())


def with_formats(node: Any) -> Any:
    """A description in which every image names the strategy that makes it.

    Nothing is taken away or relaxed: a `format` says only what to generate.
    """
    if isinstance(node, list):
        return [with_formats(item) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {key: with_formats(value) for key, value in node.items()}
    if str(node.get("contentMediaType", "")).startswith("image/"):
        changed["format"] = "photo-as-text" if "contentEncoding" in node else "binary"
    return changed
