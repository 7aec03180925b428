"""Files that are written whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path

from anima.core.errors import InputError


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; raises `InputError` when the disk refuses."""
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        hint = "; make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise InputError(f"cannot write {path}: {error.strerror or error}{hint}") from error
