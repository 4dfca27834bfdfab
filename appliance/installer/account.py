"""The server's user."""

import pwd

from appliance.installer import layout
from appliance.installer.changes import StepFailed, failure_of

_LAST_SYSTEM_UID = 999  # login.defs(5), SYS_UID_MAX


def require_own() -> None:
    if exists() and not is_of_system():
        uid = pwd.getpwnam(layout.USER).pw_uid
        raise StepFailed(
            f"the user {layout.USER} is somebody's (uid {uid}), and the service would have his name: rename him (usermod "
            "--login), and install again"
        )


def is_of_system() -> bool:
    return pwd.getpwnam(layout.USER).pw_uid <= _LAST_SYSTEM_UID


def exists() -> bool:
    try:
        pwd.getpwnam(layout.USER)
    except KeyError:
        return False
    return True


def remove() -> str:
    return failure_of("userdel", layout.USER)
