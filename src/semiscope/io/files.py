"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from semiscope.errors import SemiscopeError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a file so that readers, and a kill at any moment, find the old file or the new one.

    Args:
        path: Where; its folder is made when missing.
        data: Bytes, or text that is written as UTF-8.

    Raises:
        SemiscopeError: The folder cannot be written or the disk is full; the old file is untouched.
    """
    with open_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """The same for a file too large for memory: it appears when the block ends without error.

    Args:
        path: Where; its folder is made when missing.

    Yields:
        The binary file to write to.

    Raises:
        SemiscopeError: The folder cannot be written or the disk is full; the old file is untouched.
    """
    beside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; others in the fab's group must be able to read results
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
        beside = None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if beside is not None and os.path.exists(beside):
            os.unlink(beside)


def cannot_write(path: Path, error: OSError) -> SemiscopeError:
    """What to tell when a file, or the folder it should lie in, cannot be written."""
    return SemiscopeError(
        f"{path}: cannot be written: {error.strerror}. "
        "Free some space or choose another output folder."
    )
