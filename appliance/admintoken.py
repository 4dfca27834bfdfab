"""The admin token: made at the first start, kept 0600 in the state directory, never overwritten, shown on a terminal only."""

import os
import secrets
import stat
import sys
from pathlib import Path

from appliance.errors import CannotStart

FILE_NAME = "admin_token"


def ensure(state_dir: Path, configured: str) -> str:
    """The token in force: the configured one, else the kept one, else a new one, which is kept. Safe with two starts at once."""
    path = state_dir / FILE_NAME
    if configured:
        return configured
    try:
        return _read(path)
    except FileNotFoundError:
        _create(path, secrets.token_urlsafe(32))
    return _read(path)


def _create(path: Path, token: str) -> None:
    """Whole or not at all, by a link of a finished file; a token that came first stays."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(token + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(new, path)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    except OSError as error:
        raise CannotStart(f"the admin token can't be kept in {path}: {error.strerror}") from None


def _read(path: Path) -> str:
    """FileNotFoundError where there is none. A file that others can read or that holds nothing isn't a key any more."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read().strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise CannotStart(f"the admin token in {path} can't be read: {reason}") from None
    if mode & 0o077:
        raise CannotStart(f"the admin token in {path} could be read by others (mode {mode:o}): remove it, and a new one is made")
    if not token:
        raise CannotStart(f"the admin token in {path} is empty: remove it, and a new one is made")
    return token


def show(state_dir: Path, configured: str) -> int:
    """Prints the token to a terminal; to anything else, which may be a log, only where it is. The exit status."""
    path = state_dir / FILE_NAME
    if configured:
        sys.stderr.write("codeactions: the admin token is set by FLOWS_CODE_ACTIONS_ADMIN_TOKEN\n")
        return 0
    try:
        token = _read(path)
    except FileNotFoundError:
        raise CannotStart(f"there is no admin token yet: it is made at the first start, in {path}") from None
    if not sys.stdout.isatty():
        sys.stderr.write(f"codeactions: the admin token is in {path}; it is printed to a terminal only\n")
        return 1
    sys.stdout.write(token + "\n")
    return 0
