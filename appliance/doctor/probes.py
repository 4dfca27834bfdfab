"""The programs that are run in a sandbox, each of which tries one thing that must not succeed.

A program defines `attempt(params)`: it returns what it got, in words, when it got through; None when there was nothing to get;
and raises when it was refused. Outside a sandbox the same program must get through: that shows that it is the cage that holds it
(tests/doctor). `params` are texts: what this host has that is to be tried (facts.py).
"""

from textwrap import dedent
from typing import NamedTuple

from appliance.entities import Network
from appliance.runner.outcome import NETWORK_FILTER, SCOPE, OutcomeKind

MEMORY_MIB = 64
TASKS = 16
_TMP_MIB, _TMP_FILES = 64, 16384  # as sandbox/plans.py mounts it

_REPORT = """
def Run(engine):
    try:
        seen = {"got": attempt(dict(engine.params.items()))}
    except Exception as error:
        seen = {"refused": getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".rstrip(": ")}
    engine.result.set(seen, content_type="json")
"""

_CALL = """
import ctypes, os

def call(function, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    result = getattr(libc, function)(*(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
"""


class Probe(NamedTuple):
    """`name` goes on after "a run tries to". `held_by`: what on this host holds it, by the names of the degrees; nothing is named
    where the floor does. `ended_by`: ends of the whole run that count as held. `targets`: the parameter with what is to be
    reached, without which there is nothing to try. `memory_mib` is the run's limit."""

    name: str
    expected: str
    attempt: str
    held_by: tuple[str, ...] = ()
    ended_by: tuple[OutcomeKind, ...] = ()
    network: Network = Network.NONE
    memory_mib: int = MEMORY_MIB
    targets: str = ""

    @property
    def source(self) -> str:
        return dedent(self.attempt) + _REPORT


# All at once, since a packet that is dropped costs the whole second; in one thread, since a run may have few tasks.
_REACH = """
import os, select, socket, time

def attempt(params):
    waiting, reached, refusal = {}, [], None
    poll = select.poll()
    for target in params[TARGETS].split():
        host, _, port = target.rpartition("|")
        try:
            [(family, kind, number, _, address)] = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            connection = socket.socket(family, kind, number)
            connection.setblocking(False)
            connection.connect(address)
            reached.append(host)
        except BlockingIOError:
            waiting[connection.fileno()] = host, connection
            poll.register(connection, select.POLLOUT)
        except OSError as error:
            refusal = error
    ends_at = time.monotonic() + 1
    while waiting and (left := ends_at - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            host, connection = waiting.pop(fd)
            if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                refusal = OSError(number, os.strerror(number))
            else:
                reached.append(host)
    if not reached and (waiting or refusal):
        raise refusal or TimeoutError("timed out")
    return f"reached {', '.join(reached)}" if reached else None
"""


def _reaching(name: str, targets: str) -> Probe:
    """By way of the network of a run that has one, which the packet filter is to keep from this host."""
    attempt = _REACH.replace("TARGETS", repr(targets))
    return Probe(name, "unreachable", attempt, held_by=(NETWORK_FILTER,), network=Network.INTERNET, targets=targets)


PROBES = (
    Probe(
        "write more than /tmp holds",
        f"refused at {_TMP_MIB} MiB",
        f"""
        import tempfile

        def attempt(params):
            with tempfile.TemporaryFile() as file:
                for _ in range({_TMP_MIB} + 16):
                    file.write(bytes(1 << 20))
                    file.flush()
                return f"wrote {{file.tell() >> 20}} MiB"
        """,
        memory_mib=4 * _TMP_MIB,
    ),
    Probe(
        "make more files than /tmp holds",
        f"refused at {_TMP_FILES}",
        f"""
        import os, tempfile

        def attempt(params):
            with tempfile.TemporaryDirectory() as folder:
                for number in range({_TMP_FILES} + 16):
                    os.close(os.open(f"{{folder}}/{{number}}", os.O_CREAT | os.O_WRONLY))
            return f"made {{number + 1}} files"
        """,
        memory_mib=4 * _TMP_MIB,
    ),
    Probe(
        "read a file in the host's /tmp",
        "not there",
        """
        def attempt(params):
            with open(params["host_file"]) as file:
                return f"read {file.name}"
        """,
    ),
    Probe(
        "write outside of /tmp",
        "refused",
        """
        import os

        def attempt(params):
            wrote = []
            for folder in filter(os.path.isdir, params["folders"].split()):
                path = os.path.join(folder, f".codeactions-doctor-{os.getpid()}")
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                    os.unlink(path)
                    wrote.append(folder)
                except OSError as error:
                    refusal = error
            if not wrote:
                raise refusal
            return f"wrote in {', '.join(wrote)}"
        """,
    ),
    Probe(
        "see another process",
        "only its own",
        """
        import os

        def attempt(params):
            others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, os.getpid()}
            return f"saw {len(others)} others" if others else None
        """,
    ),
    Probe(
        "trace its guard",
        "refused",
        f"""{_CALL}
PTRACE_SEIZE = 0x4206

def attempt(params):
    call("ptrace", PTRACE_SEIZE, os.getppid(), 0, 0)
    return "traced it"
""",
    ),
    Probe(
        "signal its guard",
        "refused",
        """
        import os

        def attempt(params):
            os.kill(os.getppid(), 0)
            return "may signal it"
        """,
    ),
    Probe(
        "become root",
        "refused",
        """
        import os

        def attempt(params):
            os.setuid(0)
            return f"uid {os.getuid()}"
        """,
    ),
    Probe(
        "make a user namespace",
        "refused",
        f"""{_CALL}
CLONE_NEWUSER = 0x10000000

def attempt(params):
    call("unshare", CLONE_NEWUSER)
    return "made one"
""",
    ),
    Probe(
        "mount a file system",
        "refused",
        f"""{_CALL}
import tempfile

def attempt(params):
    folder = tempfile.mkdtemp()
    try:
        call("mount", b"none", folder.encode(), b"tmpfs", 0, b"size=4k")
        call("umount2", folder.encode(), 0)
    finally:
        os.rmdir(folder)
    return "mounted a tmpfs"
""",
    ),
    Probe(
        "use more memory than it may",
        f"refused, or ended, at {MEMORY_MIB} MiB",
        f"""
        def attempt(params):
            held = bytearray(b"x") * (2 * {MEMORY_MIB} << 20)
            return f"holds {{len(held) >> 20}} MiB"
        """,
        ended_by=(OutcomeKind.OUT_OF_MEMORY,),
    ),
    Probe(
        "use more memory in several processes",
        f"refused, or ended, at {MEMORY_MIB} MiB",
        f"""
        import os, signal, socket

        def attempt(params):
            children = dict(fill() for _ in range(4))
            # One that was full may be ended for the next one's memory: what counts is who holds it at the same time.
            for _ in range(2):
                holding = [pid for pid, ours in children.items() if says(ours)]
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            if len(holding) < len(children):
                raise MemoryError(f"{{len(children) - len(holding)}} of {{len(children)}} were ended")
            return f"held {{len(holding) * {MEMORY_MIB} // 2}} MiB in {{len(holding)}}"

        def fill():
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid:
                theirs.close()
                return pid, ours
            held = bytearray(b"x") * ({MEMORY_MIB} // 2 << 20)
            while theirs.recv(1):
                theirs.send(held[:1])
            os._exit(0)

        def says(ours):
            try:
                ours.send(b"?")
                return ours.recv(1) == b"x"
            except OSError:
                return False
        """,
        held_by=(SCOPE,),
        ended_by=(OutcomeKind.OUT_OF_MEMORY,),
    ),
    Probe(
        "start more processes than it may",
        f"refused at {TASKS}",
        f"""
        import os, signal

        def attempt(params):
            children = []
            try:
                for _ in range(2 * {TASKS}):
                    pid = os.fork()
                    if pid == 0:
                        signal.pause()
                    children.append(pid)
                return f"started {{len(children)}}"
            finally:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        """,
    ),
    _reaching("reach the host's loopback", "loopback"),
    _reaching("reach the host's addresses", "addresses"),
    _reaching("reach the cloud's metadata", "metadata"),
    _reaching("reach anything with network none", "everything")._replace(held_by=(), network=Network.NONE),
    Probe(
        "open a raw socket",
        "refused",
        """
        import socket

        def attempt(params):
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
            return "opened one"
        """,
    ),
    Probe(
        "open a packet socket",
        "refused",
        """
        import socket

        def attempt(params):
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
            return "opened one"
        """,
    ),
    Probe(
        "open a unix socket to a service",
        "refused",
        """
        import socket

        def attempt(params):
            socket.socket(socket.AF_UNIX).close()
            return "opened one"
        """,
    ),
    Probe(
        "listen on a port",
        "refused",
        """
        import socket

        def attempt(params):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
            return "listened"
        """,
    ),
    Probe(
        "see the host's name",
        "another name",
        """
        import os

        def attempt(params):
            return f"saw {params['host_name']}" if os.uname().nodename == params["host_name"] else None
        """,
    ),
    Probe(
        "see which machine this is",
        "not there",
        """
        from pathlib import Path

        def attempt(params):
            seen = []
            for path in params["identities"].split():
                try:
                    Path(path).read_bytes()
                    seen.append(path)
                except OSError as error:
                    refusal = error
            if not seen:
                raise refusal
            return f"read {', '.join(seen)}"
        """,
    ),
    Probe(
        "see secrets in an environment",
        "none",
        """
        import os
        from pathlib import Path

        def attempt(params):
            texts = ["\\0".join(f"{name}={value}" for name, value in os.environ.items())]
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    texts.append(Path("/proc", pid, "environ").read_text(errors="replace"))
                except OSError:
                    pass
            names = {one.partition("=")[0] for text in texts for one in text.split("\\0") if one}
            foreign = sorted(names - {"PATH", "HOME", "TMPDIR", "LANG", "TZ"})
            return f"saw {len(foreign)} variables, {foreign[0]} among them" if foreign else None
        """,
    ),
    Probe(
        "use io_uring",
        "refused",
        f"""{_CALL}
def attempt(params):
    os.close(call("syscall", int(params["io_uring_setup"]), 1, ctypes.create_string_buffer(256)))
    return "made a ring"
""",
    ),
    Probe(
        "use bpf",
        "refused",
        f"""{_CALL}
import struct

def attempt(params):
    of_an_array = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1), 128)
    os.close(call("syscall", int(params["bpf"]), 0, of_an_array, 128))
    return "made a map"
""",
    ),
    Probe(
        "use the kernel's keys",
        "refused",
        f"""{_CALL}
def attempt(params):
    session_keyring = -3
    call("syscall", int(params["keyctl"]), 0, session_keyring, 1)
    return "has a keyring"
""",
    ),
)
