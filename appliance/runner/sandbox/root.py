"""The root file system that a zygote and its sandboxes see: a small tmpfs, with the host's programs mounted read-only.

THEORY OF OPERATION

Runs in a process that has just made its own mount namespace and is alone in it. Every source is opened (O_PATH) first, since
the new root is then mounted over a folder of the host that may hide some of them. The sources are bound in by descriptor,
made read-only, nosuid and nodev with everything mounted below them, the process pivots into the new root and lets go of the
old one. At last the root itself becomes read-only: from then on only what a sandbox mounts for itself (/tmp, /dev/shm, /run)
can be written.

What is in it, and nothing else: the host's /usr without /usr/local and /usr/src, /bin and /lib*; a copy of the engines in
/engine; the interpreter and the language's program, if they live elsewhere, below /opt; six devices; of /etc what programs
need; /proc of the zygote's own pid namespace.
"""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from appliance.runner.sandbox import syscalls

INTERPRETER_HOME = "/opt/python"
_SANDBOX = "appliance/runner/sandbox"
_PROGRAM_SUFFIXES = {".py", ".pyc", ".js", ".go", ".mod"}
_STAGING = "/tmp"  # any folder that is always there; what it holds on the host can't be seen from inside
_PROGRAM_LINKS = ("bin", "lib", "lib32", "lib64", "libx32")
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
# Not the folders above them: a host keeps its private keys there.
_CERTIFICATES = ("/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/ca-trust")
_OF_CERTIFICATES = ("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/pki/tls/cert.pem")
_RESOLV_CONF = "/etc/resolv.conf"
_COPIED = (_RESOLV_CONF, "/etc/localtime", "/etc/mime.types", "/etc/services", "/etc/protocols")
_ALTERNATIVES = "/etc/alternatives"  # which awk is `awk`: programs in /usr/bin are links to here
_HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"


class RootSpec(NamedTuple):
    """`engine` is the folder with the languages' engines, `sandbox` this folder; `interpreter` the Python to run, with its
    prefix; `library` the folder of its shared library, or None when the dynamic linker finds that by itself; `alias` the path in
    /usr at which it is to appear, or None; `mounts` what the language needs beside that, as pairs of a path on the host and one
    in the root; `nameserver`: whom runs ask."""

    engine: str
    sandbox: str
    interpreter: str
    prefix: str
    library: str | None
    alias: str | None
    mounts: tuple[tuple[str, str], ...]
    nameserver: str | None

    @property
    def interpreter_inside(self) -> str:
        if self.prefix == "/usr":
            return self.interpreter
        return f"{INTERPRETER_HOME}/{os.path.relpath(self.interpreter, self.prefix)}"


def build(spec: RootSpec) -> str:
    """Builds the root and makes it this process's own; returns the interpreter's path in it.

    Needs CAP_SYS_ADMIN in its user namespace.
    """
    sources = _open_sources(spec)
    alternatives = _links(_ALTERNATIVES)
    files = {path: content for path in (*_COPIED, *_OF_CERTIFICATES) if (content := _content(path)) is not None}
    if spec.nameserver is not None:
        files[_RESOLV_CONF] = f"nameserver {spec.nameserver}\n".encode()
    programs = {name: _read_tree(Path(folder)) for name, folder in (("engines", spec.engine), (_SANDBOX, spec.sandbox))}
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", _STAGING, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=16m,nr_inodes=2048")
    root = Path(_STAGING)
    for target, source in sources.items():
        _bind(source, root / target)
    for name in ("local", "src"):
        if (root / "usr" / name).is_dir():
            flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
            syscalls.mount("tmpfs", str(root / "usr" / name), "tmpfs", flags, "mode=755,size=4k")
    for name, tree in programs.items():
        _write_tree(root / "engine" / name, tree)
    _make_dev(root)
    _make_etc(root, files, spec)
    _write_links(root / _ALTERNATIVES.lstrip("/"), alternatives)
    for name in ("tmp", "run", "proc"):
        (root / name).mkdir()
    syscalls.mount("proc", str(root / "proc"), "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.pivot_into(_STAGING)
    if spec.library is not None and spec.prefix != "/usr":
        _teach_linker()
    interpreter = spec.interpreter_inside if spec.alias is None else _give_alias(spec.interpreter_inside, spec.alias)
    # Not nodev: its devices are on it. Nobody in a sandbox may make others.
    syscalls.mount("none", "/", None, syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID)
    return interpreter


class _Source(NamedTuple):
    fd: int
    is_folder: bool


def _open_sources(spec: RootSpec) -> dict[str, _Source | str]:
    """Target below the root → an open source, or the text of a symbolic link."""
    wanted = {"usr": "/usr"}
    if spec.prefix != "/usr":
        wanted[INTERPRETER_HOME.lstrip("/")] = spec.prefix
    wanted |= {inside.lstrip("/"): host for host, inside in spec.mounts}
    if not _may_make_devices():
        wanted |= {f"dev/{name}": f"/dev/{name}" for name in _DEVICES}
    wanted |= {path.lstrip("/"): path for path in _CERTIFICATES if os.path.isdir(path)}
    links: dict[str, _Source | str] = {}
    for name in _PROGRAM_LINKS:
        if os.path.islink(f"/{name}"):
            links[name] = os.readlink(f"/{name}")
        elif os.path.isdir(f"/{name}"):
            wanted[name] = f"/{name}"
    opened: dict[str, _Source | str] = {
        target: _Source(os.open(path, os.O_PATH | os.O_CLOEXEC), os.path.isdir(path)) for target, path in wanted.items()
    }
    return opened | links


def _bind(source: _Source | str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, str):
        target.symlink_to(source)
        return
    if source.is_folder:
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    syscalls.mount(f"/proc/self/fd/{source.fd}", str(target), None, syscalls.MS_BIND | syscalls.MS_REC)
    attributes = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID
    if source.is_folder:  # a device node under nodev couldn't be opened
        attributes |= syscalls.MOUNT_ATTR_NODEV
    syscalls.restrict_mount(str(target), attributes)
    os.close(source.fd)


def _read_tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Relative path → content and time of change. Copied rather than mounted: a mount would show where the program lies."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in _PROGRAM_SUFFIXES:
            found[str(path.relative_to(folder))] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def _write_tree(folder: Path, tree: dict[str, tuple[bytes, int]]) -> None:
    for name, (content, changed) in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(changed, changed))  # compiled modules are checked against it


def _make_dev(root: Path) -> None:
    dev = root / "dev"
    (dev / "shm").mkdir(parents=True)
    if _may_make_devices():  # each mount less is a mount less to copy for every sandbox
        for name, numbers in _DEVICES.items():
            os.mknod(dev / name, 0o666 | stat.S_IFCHR, os.makedev(*numbers))
            (dev / name).chmod(0o666)  # whatever the umask is
    for name, link in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(link)


def _may_make_devices() -> bool:
    """Not in a user namespace: there they are bound in from the host."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _make_etc(root: Path, files: dict[str, bytes], spec: RootSpec) -> None:
    etc = root / "etc"
    etc.mkdir(exist_ok=True)
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (etc / "hosts").write_text(_HOSTS)
    (etc / "nsswitch.conf").write_text(_NSSWITCH)
    for name in ("passwd", "group"):  # a sandbox's own line, in its own /run
        (etc / name).symlink_to(f"/run/{name}")
    if spec.library is not None:
        inside = f"{INTERPRETER_HOME}/{os.path.relpath(spec.library, spec.prefix)}"
        (etc / "ld.so.conf").write_text(f"{inside}\n")


def _give_alias(interpreter: str, alias: str) -> str:
    """Has the interpreter appear at `alias`, where programs look for it; returns the path to execute it by.

    It covers the host's own. Where there is none, nothing can be mounted there, and the folder is covered by itself with the
    alias added. A kernel that can't (root already an overlay of overlays) leaves it at its place.
    """
    try:
        if os.path.exists(alias):
            syscalls.mount(interpreter, alias, None, syscalls.MS_BIND)
        else:
            _add_to_folder(interpreter, alias)
    except OSError:
        return interpreter
    return alias


def _add_to_folder(interpreter: str, alias: str) -> None:
    folder, name = os.path.split(alias)
    added = Path("/opt/added")
    added.mkdir()
    syscalls.mount("tmpfs", str(added), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=4k")
    (added / name).symlink_to(interpreter)
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
    try:
        syscalls.mount("overlay", folder, "overlay", flags, f"lowerdir={added}:{folder}")
    finally:
        syscalls.umount(str(added), syscalls.MNT_DETACH)  # the overlay holds it
        added.rmdir()


def _links(folder: str) -> dict[str, str]:
    """Name → where it leads, of the links that lead to the host's programs."""
    try:
        links = {entry.name: os.readlink(entry.path) for entry in os.scandir(folder) if entry.is_symlink()}
    except FileNotFoundError:
        return {}
    is_there = re.compile("/usr/(?!local/)").match
    return {name: target for name, target in links.items() if is_there(target)}


def _write_links(folder: Path, links: dict[str, str]) -> None:
    folder.mkdir()
    for name, target in links.items():
        (folder / name).symlink_to(target)


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _teach_linker() -> None:
    """An interpreter built as a shared library (pyenv) names its library by a path that doesn't exist in here."""
    subprocess.run(["/usr/sbin/ldconfig", "-X"], check=True, stdin=subprocess.DEVNULL, close_fds=True)
