"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from semiscope.errors import SemiscopeError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a file so that a reader, or a kill at any moment, sees the old file or the whole new one.

    Args:
        path: Where; its folder is made when missing.
        data: Bytes, or text that is written as UTF-8.

    Raises:
        SemiscopeError: The folder cannot be written or the disk is full; the old file is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    beside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; others in the fab's group must be able to read results
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except OSError as error:
        if beside is not None and os.path.exists(beside):
            os.unlink(beside)
        raise SemiscopeError(
            f"{path}: cannot be written: {error.strerror}. "
            "Free some space or choose another output folder."
        ) from error
