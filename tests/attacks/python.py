"""The attacks in Python."""

import os
import sys

from tests.attacks.table import MARK

HEAD = """
import errno, os, signal, socket, stat, subprocess, sys, time
def outcome(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "it worked"
def many(times, attempt):
    def repeat():
        for number in range(times):
            attempt(number)
    return outcome(repeat)
"""
CHILD = """
def child(sleeps):
    pid = os.fork()
    if pid == 0:
        time.sleep(sleeps)
        os._exit(0)
    children.append(pid)
children = []
"""
SEEN = """
def files():
    held = {fd: f"/proc/self/fd/{fd}" for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2}
    return [fd for fd, path in held.items() if os.path.lexists(path) and os.readlink(path).startswith("/")]
"""


def command(source: str) -> list[str]:
    """By the interpreter that a venv was made from: the venv may lie below /tmp."""
    return [os.path.realpath(getattr(sys, "_base_executable", sys.executable)), "-I", "-S", "-c", source]


def prints(expression: str, before: str = "") -> str:
    return f"{HEAD}{before}\nprint({expression})\n"


def opens(path: str, flags: str = "os.O_RDONLY") -> str:
    """What is opened for writing isn't written to: outside of the cage it is the host's."""
    return prints(f"outcome(os.open, {path!r}, {flags})")


def connects(address: str) -> str:
    return prints(f"outcome(lambda: socket.socket(socket.AF_UNIX).connect({address!r}))")


def fills(path: str) -> str:
    return prints("many(100, lambda number: file.write(bytes(1 << 20)))", f"file = open({path!r}, 'wb', 0)")


def maps(kind: str) -> str:
    before = f"import mmap\npages = mmap.mmap(-1, 400 << 20, mmap.{kind} | mmap.MAP_ANONYMOUS)\n"
    return prints("'it worked'", f"{before}for place in range(0, len(pages), 4096):\n    pages[place] = 1")


CGROUP = """
places = [line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup" in line] or ["/sys/fs/cgroup"]
def attempt():
    os.open(f"{places[0]}/cgroup.procs", os.O_WRONLY)
"""
# Who has ended and wasn't waited for still has the uid that it had.
SETUID = """
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
with open(os.devnull) as null:
    child = subprocess.Popen(["su", "-c", "true"], stdin=null, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
def effective():
    status = open(f"/proc/{child.pid}/status").read()
    return status.split("Uid:")[1].split()[1], "State:\\tZ" in status
ends_at = time.monotonic() + 20
while (seen := effective())[0] != "0" and not seen[1] and time.monotonic() < ends_at:
    pass
"""
EACH_A_PIECE = """
program = "import sys; kept = b'x' * (60 << 20); print(flush=True); sys.stdin.readline(); print(flush=True)"
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
children = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(8)]
def holds(child):
    # One that had its piece may have been killed for another's: it must hold it when all have had theirs.
    try:
        child.stdin.write(b"\\n")
        child.stdin.flush()
    except BrokenPipeError:
        return False
    return child.stdout.readline() != b""
had = [child.stdout.readline() for child in children]
begun = [holds(child) for child in children]
for child in children:
    child.kill()
"""
INHERITED = f"""{HEAD}{SEEN}
program = {f'import os{SEEN}print("a file" if files() else "none")'!r}
print(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, close_fds=False).stdout.strip())
"""
THREADS = """
import threading
enough = threading.Event()
def thread(number):
    try:
        threading.Thread(target=enough.wait, daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread")
"""
LIMIT = """
import resource
def attempt():
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
    except ValueError:
        raise OSError(errno.EPERM, "no higher limit")
"""
OTHERS = "others = set(filter(str.isdigit, os.listdir('/proc'))) - {'1', str(os.getpid())}"
LISTENS = """
listener = None
def attempt():
    global listener
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    socket.socket(socket.AF_UNIX).connect(address)
"""

OUTLIVES = f"""{HEAD}
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        os.execv("/usr/bin/sleep", ["sleep", {MARK!r}])
    os._exit(0)
os.close(writer)
os.read(reader, 1)  # its end: the program has been executed
print("left behind")
"""

PAYLOADS = {
    "a flood of descriptors": prints("many(1100, lambda number: os.open('/dev/null', os.O_RDONLY))"),
    "a flood of pipes": prints("many(600, lambda number: os.pipe())"),
    "a flood of files": prints("many(20_000, lambda number: os.close(os.open(f'/tmp/{number}', os.O_CREAT)))"),
    "a flood of folders": prints("many(20_000, lambda number: os.mkdir(f'/tmp/{number}'))"),
    "a flood of links": prints("many(20_000, lambda number: os.symlink('/', f'/tmp/{number}'))"),
    "a flood of processes": prints("many(100, lambda number: child(20))", CHILD),
    "a flood of zombies": prints("many(100, lambda number: child(0))", CHILD),
    "a flood of threads": prints("many(100, thread)", THREADS) + "sys.stdout.flush()\nos._exit(0)\n",
    "a file without end": fills("/tmp/big"),
    "shared memory without end": fills("/dev/shm/big"),
    "a heap without end": prints("'it worked'", "kept = [bytes([1]) * (1 << 20) for _ in range(400)]"),
    "private pages without end": maps("MAP_PRIVATE"),
    "shared pages without end": maps("MAP_SHARED"),
    "a file in memory without end": prints(
        "many(400, lambda number: os.write(file, bytes(1 << 20)))", "file = os.memfd_create('big')"
    ),
    "a child for each piece of memory": prints("'it worked' if all(begun) else 'a child was killed'", EACH_A_PIECE),
    "a privilege by a setuid program": prints("'it is root' if seen[0] == '0' else 'none'", SETUID),
    "the superuser's uid": prints("outcome(os.setuid, 0)"),
    "the superuser's gid": prints("outcome(os.setgid, 0)"),
    "another group": prints("outcome(os.setgroups, [0, 1])"),
    "a file given away": prints("outcome(os.chown, '/tmp/mine', 1, 1)", "open('/tmp/mine', 'w').close()"),
    "a higher limit of descriptors": prints("outcome(attempt)", LIMIT),
    "a character device": prints("outcome(os.mknod, '/tmp/device', 0o666 | stat.S_IFCHR, os.makedev(1, 1))"),
    "a block device": prints("outcome(os.mknod, '/tmp/device', 0o666 | stat.S_IFBLK, os.makedev(8, 0))"),
    "a socket as a file": prints("outcome(attempt)", f"address = '/tmp/socket'{LISTENS}"),
    "an abstract socket": prints("outcome(attempt)", f"address = '\\0of an attack'{LISTENS}"),
    "the system bus": connects("/run/dbus/system_bus_socket"),
    "the socket of Docker": connects("/run/docker.sock"),
    "a cgroup's processes": prints("outcome(attempt)", CGROUP),
    "the settings of the kernel": opens("/proc/sys/kernel/core_pattern", "os.O_WRONLY"),
    "the symbols of the kernel": opens("/proc/kallsyms"),
    "the command line of the kernel": opens("/proc/cmdline"),
    "the keys of the kernel": opens("/proc/keys"),
    "the mounts of all": opens("/proc/filesystems"),
    "the devices of the kernel": opens("/sys/devices"),
    "the host's passwords": opens("/etc/shadow"),
    "the host's homes": prints("outcome(os.listdir, '/root')"),
    "the host's state": prints("outcome(os.listdir, '/var/lib')"),
    "a file of the system": opens("/usr/lib/os-release", "os.O_WRONLY | os.O_APPEND"),
    "a file of its library": prints("outcome(os.open, os.__file__, os.O_WRONLY | os.O_APPEND)"),
    "a new file beside its library": prints("outcome(os.open, os.path.dirname(os.__file__), os.O_TMPFILE | os.O_WRONLY)"),
    "a process in sight": prints("\"another's\" if others else 'none'", OTHERS),
    "a kill of everybody": prints("outcome(os.kill, -1, 9)"),
    "a stop of everybody": prints("outcome(os.kill, -1, signal.SIGSTOP)"),
    "the memory of pid 1": opens("/proc/1/mem", "os.O_RDWR"),
    "the environment of pid 1": opens("/proc/1/environ"),
    "the descriptors of pid 1": prints("outcome(os.listdir, '/proc/1/fd')"),
    "the root of pid 1": prints("outcome(os.listdir, '/proc/1/root/')"),
    "a signal to pid 1": prints("outcome(os.kill, 1, signal.SIGCHLD)"),
    "a descriptor left open": prints("'a file' if files() else 'none'", SEEN),
    "a descriptor left to a child": INHERITED,
}
