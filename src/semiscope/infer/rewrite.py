"""What a model file says of itself, written anew, the network's bytes left as they are.

An ONNX file is one protocol buffer message; its metadata are entries of key and value, each a
field of its own at the top. So they are replaced without the onnx package, which inspecting does
not need.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from semiscope.errors import ModelError
from semiscope.infer.model import METADATA_KEY, ZOO, FileMeta
from semiscope.io.files import write_atomic

_METADATA = 14  # ModelProto.metadata_props
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class InFile(Protocol):
    """A model as loaded from its file."""

    @property
    def path(self) -> Path:
        """Where the file is."""

    @property
    def meta(self) -> FileMeta:
        """What the file says of itself."""


def rewrite_meta(path: Path, meta: FileMeta, further: Mapping[str, str] | None = None) -> None:
    """Replaces the metadata of a model file; the network stays as it is, to the byte.

    Args:
        path: The file.
        meta: What it says of itself.
        further: Entries beside that, by their keys.

    Raises:
        ModelError: The file is not ONNX.
        SemiscopeError: The file cannot be read or written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    entries = {METADATA_KEY: meta.model_dump_json(), **(further or {})}
    keys = {key.encode() for key in entries}
    try:
        kept = [
            data[start:end]
            for number, start, body, end in _fields(data)
            if number != _METADATA or _entry_key(data[body:end]) not in keys
        ]
    except (ValueError, IndexError):
        raise ModelError(f"{path}: expected an ONNX model, found a damaged file") from None
    for name, text in entries.items():
        entry = _field(_KEY, name.encode()) + _field(_VALUE, text.encode())
        kept.append(_field(_METADATA, entry))
    write_atomic(path, b"".join(kept))


def keep_in_file(model: InFile, further: Mapping[str, str] | None = None, **update: Any) -> bool:
    """Changes what a model file says of itself, unless the model is a shipped one.

    A shipped model belongs to the installation, not to the data set that the change comes from.

    Args:
        model: As loaded from its file.
        further: As ``rewrite_meta``.
        update: Fields of its metadata with their new values.

    Returns:
        Whether it was written.

    Raises:
        ModelError: As ``rewrite_meta``.
    """
    if model.path.parent == ZOO:
        return False
    rewrite_meta(model.path, model.meta.model_copy(update=update), further)
    return True


def read_task(path: Path) -> str | None:
    """What a model file is for, without loading the network; None where it is no such file."""
    try:
        data = path.read_bytes()
        for number, _, body, end in _fields(data):
            entry = data[body:end]
            if number == _METADATA and _entry_key(entry) == METADATA_KEY.encode():
                value = next(entry[b:e] for n, _, b, e in _fields(entry) if n == _VALUE)
                task = json.loads(value).get("task")
                return task if isinstance(task, str) else None
    except (OSError, ValueError, IndexError, StopIteration, AttributeError):
        pass  # whoever loads the file tells what is wrong with it
    return None


def _entry_key(entry: bytes) -> bytes:
    return next((entry[b:e] for number, _, b, e in _fields(entry) if number == _KEY), b"")


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of a message's fields."""
    place = 0
    while place < len(data):
        start = place
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        body = place
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _BYTES:
            length, body = _varint(data, place)
            place = body + length
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(kind)
        if place > len(data):
            raise ValueError(place)
        yield number, start, body, place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _field(number: int, content: bytes) -> bytes:
    length, head = len(content), bytearray([number << 3 | _BYTES])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
