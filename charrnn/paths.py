"""What stands at a path: told without an exception where the system will not say."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

NO_SUCH = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}  # nothing can be there


def status(path: Path) -> os.stat_result | OSError:
    """Return what the system says of a path, or why it says nothing: gone, not permitted, too long a name."""
    try:
        return path.stat()
    except OSError as error:
        return error
    except ValueError as error:  # a NUL, which no name has
        return FileNotFoundError(errno.ENOENT, str(error))


def is_file(path: Path) -> bool:
    """Say whether a path is a regular file that one may look at."""
    found = status(path)
    return not isinstance(found, OSError) and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Say whether a path is a folder that one may look at."""
    found = status(path)
    return not isinstance(found, OSError) and stat.S_ISDIR(found.st_mode)
