"""The making of a zygote: from the launcher's process to an interpreter that runs `zygote.main` in a root of its own.

THEORY OF OPERATION

`start_zygote` is called by the launcher, forks, and the child becomes the first process of a pid namespace (and, where the
launcher isn't root, of a user namespace), builds the sandbox's root, pivots into it and executes the interpreter there: a
fresh exec, with an environment that is constructed here. What is imported here takes no memory there.
"""

import os
import resource
import socket
from typing import NoReturn

from appliance.runner.sandbox import root, syscalls, zygote


class NamespacesRefused(Exception):
    """This host lets us make none; the message says which call said so."""


def start_zygote(spec: root.RootSpec, time_zone: str, preload: str, program: str, mark: str) -> tuple[int, socket.socket]:
    """Forks; returns the pid of a process that is to be waited for at once, and our end of the control socket.

    `preload` is the module that the zygote imports, `program` the path in its root of what that needs of the host, `mark`
    what says whose it is.

    The zygote itself says hello on the socket, with its pid as a credential. When its making fails, it says why and ends.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _become_zygote(spec, theirs, time_zone, (preload, program, mark))
        except BaseException as error:  # noqa: BLE001 - the process ends here, and the launcher is told
            theirs.send((zygote.NO_NAMESPACES if isinstance(error, NamespacesRefused) else zygote.BROKEN) + str(error).encode())
        finally:
            os._exit(1)
    theirs.close()
    return pid, ours


def _become_zygote(spec: root.RootSpec, control: socket.socket, time_zone: str, arguments: tuple[str, ...]) -> NoReturn:
    namespaces = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    if os.geteuid() == 0 and syscalls.holds_capability(syscalls.CAP_SYS_ADMIN):
        _unshare(namespaces)
    else:
        uid, gid = os.geteuid(), os.getegid()
        _unshare(namespaces | syscalls.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    if os.fork() != 0:
        os._exit(0)  # the launcher adopts the zygote: it is a subreaper
    os.umask(0o022)  # root's own may be narrower, and other uids are to read what we make
    interpreter = root.build(spec)
    os.dup2(control.fileno(), zygote.CONTROL)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):  # 2 stays the launcher's: a failing interpreter is to be heard
        os.dup2(null, fd)
    os.closerange(zygote.CONTROL + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TZ": time_zone}
    # -I -S: neither the environment, nor a folder, nor an installed package decides what is imported.
    os.execve(interpreter, [interpreter, "-I", "-S", "-c", zygote.BOOT, *arguments], environment)


def _unshare(flags: int) -> None:
    try:
        syscalls.unshare(flags)
    except OSError as error:
        whose = "an ordinary user's" if flags & syscalls.CLONE_NEWUSER else "root's"
        raise NamespacesRefused(f"this host refuses {whose} namespaces: {error.strerror}") from error


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
