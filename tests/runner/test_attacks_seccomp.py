"""Attacks by system call, named by what must happen: each is refused in a run and reaches the kernel outside the cage."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.runner.sandbox.seccomp import MACHINES
from tests.appliance import SERVE, Appliance, running
from tests.runner.test_sandbox import action, look
from tests.test_serve import NOBODY, program_of, state_of

NUMBERS = MACHINES[os.uname().machine].numbers
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can start an appliance as somebody else")
needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="another machine's calls are those of x86-64 here")

TOOLS = f"""
import ctypes, errno, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {NUMBERS}
buffer = ctypes.create_string_buffer(256)
at = ctypes.addressof(buffer)
def call(name, *arguments):
    filled = [ctypes.c_char_p(one) if isinstance(one, bytes) else ctypes.c_long(one) for one in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *filled)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
def open_socket(*kind):
    socket.socket(*kind).close()
def made_by_clone(flags):
    pid = call("clone", flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
def outcome(attack):
    try:
        attack()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "it worked"
"""


class Attack(NamedTuple):
    """`attempt` is an expression. `outside`: what it comes to without the cage, by root of namespaces made for it; some kernels
    are built or set up without the thing, so others are told by not being what a run gets. `inside`: what a run gets."""

    attempt: str
    inside: str = "EPERM"
    outside: tuple[str, ...] = ("it worked",)


REACHED = ("EFAULT", "EINVAL", "ENOSYS", "EBADF", "ENOEXEC", "ENOTTY", "ENOENT", "ENOKEY", "ESTALE", "EOPNOTSUPP", "ENODEV")
UNLESS_SET_UP = ("it worked",) if IS_ROOT else ("it worked", "EACCES", "EPERM")
OR_NOT_BUILT = ("it worked", "ENOSYS", "EOPNOTSUPP", "EINVAL")

ATTACKS = {
    "ptrace": Attack('call("ptrace", 0, 0, 0, 0)'),
    "mount": Attack('call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)'),
    "mount by the new interface": Attack('os.close(call("fsopen", b"tmpfs", 0))'),
    "a copy of a mount": Attack('os.close(call("open_tree", -100, b"/", 0x8001))'),
    "a mount made writable": Attack('call("mount_setattr", -100, b"/", 0x8000, at, 32)'),
    "umount": Attack('call("umount2", b"/nowhere", 2)', outside=REACHED),
    "pivot_root": Attack('call("pivot_root", b"/nowhere", b"/nowhere")', outside=REACHED),
    "chroot": Attack('call("chroot", b"/")'),
    "a user namespace by unshare": Attack('call("unshare", 0x10000000)'),
    "a mount namespace by unshare": Attack('call("unshare", 0x20000)'),
    "a network namespace by unshare": Attack('call("unshare", 0x40000000)'),
    "a user namespace by clone": Attack("made_by_clone(0x10000000)"),
    "a mount namespace by clone": Attack("made_by_clone(0x20000)"),
    "a cgroup namespace by clone": Attack("made_by_clone(0x02000000)"),
    "a uts namespace by clone": Attack("made_by_clone(0x04000000)"),
    "an ipc namespace by clone": Attack("made_by_clone(0x08000000)"),
    "a pid namespace by clone": Attack("made_by_clone(0x20000000)"),
    "a network namespace by clone": Attack("made_by_clone(0x40000000)"),
    "a user namespace by clone3": Attack('call("clone3", at, 4)', "ENOSYS", ("EINVAL",)),
    "setns": Attack('call("setns", os.open("/proc/self/ns/uts", 0), 0)', outside=("it worked",)),
    "a kernel key": Attack('call("add_key", b"user", b"a-key", b"x", 1, -2)'),
    "a key of somebody else's": Attack('call("request_key", b"user", b"no-such-key", 0, 0)', outside=("ENOKEY",)),
    "keyctl": Attack('call("keyctl", 0, -3, 1)'),
    "a bpf map": Attack('call("bpf", 0, at, 72)', outside=("EINVAL",) if IS_ROOT else ("EINVAL", "EPERM")),
    "io_uring": Attack('os.close(call("io_uring_setup", 1, at))', "ENOSYS", ("it worked", "EPERM")),
    "io_uring, to go on with": Attack('call("io_uring_enter", -1, 0, 0, 0, 0)', "ENOSYS", ("EBADF", "EOPNOTSUPP")),
    "userfaultfd": Attack('os.close(call("userfaultfd", 1))', outside=("it worked", "ENOSYS")),
    "perf": Attack(
        'struct.pack_into("II32xQ", buffer, 0, 1, 112, 0x60) or os.close(call("perf_event_open", at, 0, -1, -1, 0))',
        outside=UNLESS_SET_UP,
    ),
    "reading a process's memory": Attack('call("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0)'),
    "writing a process's memory": Attack('call("process_vm_writev", os.getpid(), 0, 0, 0, 0, 0)'),
    "advice about another's memory": Attack('call("process_madvise", -1, 0, 0, 20, 0)', outside=("EBADF",)),
    "another's descriptor": Attack('os.close(call("pidfd_getfd", os.pidfd_open(os.getpid()), 0, 0))'),
    "comparing two processes": Attack('call("kcmp", os.getpid(), os.getpid(), 1, 0, 0)', outside=OR_NOT_BUILT),
    "the clock set": Attack('call("clock_settime", 0, 0)', outside=("EFAULT",)),
    "the time of day set": Attack('call("settimeofday", 8, 0)', outside=("EFAULT",)),
    "the clock's adjustment": Attack('call("adjtimex", at)'),
    "another clock's adjustment": Attack('call("clock_adjtime", 0, at)'),
    "another host name": Attack('call("sethostname", b"other", 5)'),
    "another domain name": Attack('call("setdomainname", b"other", 5)'),
    "addresses that aren't random": Attack('call("personality", 0x40000)'),
    "a module": Attack('call("init_module", 0, 0, b"")', outside=("EFAULT", "ENOEXEC", "ENOSYS", "EPERM")[: 3 if IS_ROOT else 4]),
    "another kernel": Attack('call("kexec_load", 0, -1, 0, 0)', outside=(*REACHED, *(() if IS_ROOT else ("EPERM",)))),
    "fanotify": Attack('os.close(call("fanotify_init", 0x200, 0))', outside=OR_NOT_BUILT),
    "a mark of fanotify": Attack('call("fanotify_mark", -1, 1, 0, -1, 0)', outside=REACHED),
    "a file by its handle": Attack('call("open_by_handle_at", -1, 0, 0)', outside=(*REACHED, *(() if IS_ROOT else ("EPERM",)))),
    "the handle of a file": Attack('call("name_to_handle_at", -100, b"/", at, at + 200, 0)', "ENOSYS", ("EOVERFLOW", *REACHED)),
    "the kernel's log": Attack('call("syslog", 10, 0, 0)', outside=("it worked", "EPERM")[: 1 if IS_ROOT else 2]),
    "restarting the host": Attack('call("reboot", 0, 0, 0, 0)', outside=("EINVAL",)),
    "a raw socket": Attack("open_socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    "a raw socket of IPv6": Attack("open_socket(socket.AF_INET6, socket.SOCK_RAW, 58)"),
    "a packet socket": Attack("open_socket(17, socket.SOCK_RAW, 3)", "EAFNOSUPPORT"),
    "a packet socket by its old name": Attack("open_socket(socket.AF_INET, 10, 3)"),
    "a netlink socket": Attack("open_socket(16, socket.SOCK_RAW, 0)", "EAFNOSUPPORT"),
    "an audit socket": Attack("open_socket(16, socket.SOCK_RAW, 9)", "EAFNOSUPPORT", ("it worked", "EPROTONOSUPPORT")),
    "a vsock": Attack("open_socket(40, socket.SOCK_STREAM, 0)", "EAFNOSUPPORT", ("it worked", "ENODEV")),
    "a unix socket": Attack("open_socket(socket.AF_UNIX, socket.SOCK_STREAM)", "EAFNOSUPPORT"),
    "a unix datagram socket": Attack("open_socket(socket.AF_UNIX, socket.SOCK_DGRAM)", "EAFNOSUPPORT"),
    "a pair of unix datagram sockets": Attack("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "ESOCKTNOSUPPORT"),
    "a pair of raw unix sockets": Attack("socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)", "ESOCKTNOSUPPORT"),
    "a listening socket": Attack('listener = socket.socket(); listener.bind(("", 0)); listener.listen()'),
    "a socket that listens unbound": Attack("socket.socket().listen()"),
    "a program on a socket": Attack('socket.socket().setsockopt(1, 26, struct.pack("HxxxxxxQ", 0, 0))', outside=("EINVAL",)),
    "a protocol above TCP": Attack('socket.socket().setsockopt(6, 31, b"tls")', "ENOPROTOOPT", ("ENOTCONN", "ENOENT")),
    "input for a terminal": Attack('import fcntl; fcntl.ioctl(os.open("/dev/null", 2), 0x5412, b"x")', outside=("ENOTTY",)),
    "a segment table": Attack('call("modify_ldt", 0, at, 16)', "ENOSYS", ("it worked", "ENOSYS")),
    "the rights of a port": Attack('call("iopl", 0)', outside=OR_NOT_BUILT),
    "memory that nothing counts, by shmget": Attack('call("shmctl", call("shmget", 0, 4096, 0o1600), 0, 0)', "ENOSYS"),
    "a message queue": Attack('call("msgctl", call("msgget", 0, 0o1600), 0, 0)', "ENOSYS"),
    "secret memory": Attack('os.close(call("memfd_secret", 0))', "ENOSYS", OR_NOT_BUILT),
    "asynchronous input and output": Attack('call("io_setup", 1, at)', "ENOSYS"),
    "another filter": Attack('call("prctl", 22, 2, 0, 0, 0)', "EINVAL", ("EFAULT",)),
    "a tracer of its choice": Attack('call("prctl", 0x59616d61, -1, 0, 0, 0)', "EINVAL", ("it worked", "EINVAL")),
    "its own call dispatch": Attack('call("prctl", 59, 0, 0, 0, 0)', "EINVAL", OR_NOT_BUILT),
}
if os.uname().machine != "x86_64":
    del ATTACKS["a segment table"], ATTACKS["the rights of a port"]


# Each in a process of its own: one attack's success is not to help the next one.
ALL_OF_THEM = f"""{TOOLS}
seen = {{}}
for name, attempt in { ({name: attack.attempt.replace("; ", chr(10)) for name, attack in ATTACKS.items()})!r}.items():
    space = globals() | locals()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, outcome(lambda: exec(attempt, space)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    seen[name] = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def outside() -> dict[str, str]:
    """As root of namespaces that were made for it, where nothing of the host's is harmed."""
    namespaces = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", *([] if IS_ROOT else ["--map-root-user"])]
    script = f"{ALL_OF_THEM}\nimport json\nprint(json.dumps(seen))\n"
    done = subprocess.run([*namespaces, sys.executable, "-"], input=script, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def inside(appliance: Appliance) -> dict[str, str]:
    return dict(look(appliance, ALL_OF_THEM))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_is_refused(name: str, inside: dict[str, str]) -> None:
    assert inside[name] == ATTACKS[name].inside


@pytest.mark.parametrize("name", ATTACKS)
def test_outside_the_cage_the_kernel_is_reached_by(name: str, outside: dict[str, str]) -> None:
    assert outside[name] in ATTACKS[name].outside


FOREIGN_CODE = f"""{TOOLS}
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))  # push rbx; mov eax, getpid; int 0x80; pop rbx; ret
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
seen = run() == os.getpid()
"""


def outside_the_cage(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{program}\nprint(seen)"], capture_output=True, text=True, check=False)


@needs_x86
def test_a_call_of_the_32_bit_table_kills_the_run(appliance: Appliance) -> None:
    """Its numbers mean other calls: what is getpid there is writev here."""
    answer = appliance.run(action(FOREIGN_CODE))
    assert (answer.status, answer.json()) == (500, {"message": "the run was killed: SIGSYS"})
    assert appliance.run_of(answer)["extra"]["outcome"] == "killed"
    control = outside_the_cage(FOREIGN_CODE)
    assert control.stdout == "True\n" or control.returncode < 0, "a kernel without 32-bit programs ends it by a signal of its own"


@needs_x86
def test_a_call_by_an_x32_number_kills_the_run(appliance: Appliance) -> None:
    program = f"{TOOLS}\nNUMBERS['x32'] = 0x40000000 + NUMBERS['getpid']\nseen = outcome(lambda: call('x32'))\n"
    assert appliance.run(action(program)).json() == {"message": "the run was killed: SIGSYS"}
    assert outside_the_cage(program).stdout in ("ENOSYS\n", "it worked\n")


@needs_x86
def test_a_child_that_is_killed_for_it_does_not_end_the_run(appliance: Appliance) -> None:
    program = f"{TOOLS}\nNUMBERS['x32'] = 0x40000000 + NUMBERS['getpid']\npid = os.fork()\nif pid == 0:\n    call('x32')\n"
    program += "seen = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    assert look(appliance, program) == -signal.SIGSYS


CHROOT_OF_A_PROGRAM = "import os\ntry:\n    os.chroot('/')\nexcept OSError as error:\n    print(error.errno)\n"


def test_a_program_that_a_run_starts_is_refused_too(appliance: Appliance) -> None:
    program = f"seen = subprocess.run([sys.executable, '-c', {CHROOT_OF_A_PROGRAM!r}], capture_output=True, text=True).stdout"
    assert look(appliance, program) == "1\n"


def test_a_thread_of_a_run_is_refused_too(appliance: Appliance) -> None:
    program = f"{TOOLS}\nfrom concurrent.futures import ThreadPoolExecutor\n"
    program += "seen = ThreadPoolExecutor(1).submit(outcome, lambda: call('unshare', 0x10000000)).result()\n"
    assert look(appliance, program) == "EPERM"


def test_a_storm_of_syncs_reaches_no_disk(appliance: Appliance) -> None:
    """A descriptor that doesn't exist shows it: the kernel would say so, were it asked."""
    program = f"{TOOLS}\nseen = [outcome(lambda: call('syncfs', -1)), outcome(lambda: call('fsync', -1)), outcome(os.sync)]\n"
    assert look(appliance, program) == ["it worked"] * 3
    assert outside_the_cage(program.replace(", outcome(os.sync)", "")).stdout == "['EBADF', 'EBADF']\n"


ON_ANOTHER = {
    "a signal": 'call("kill", target, 17)',
    "a signal of a thread": 'call("tkill", target, 17)',
    "a signal of a thread of a process": 'call("tgkill", target, target, 17)',
    "a signal with a value": 'struct.pack_into("iii", buffer, 0, 17, 0, -1) or call("rt_sigqueueinfo", target, 17, at)',
    "a limit": 'call("prlimit64", target, 7, 0, at)',
    "a processor": 'call("sched_setaffinity", target, 8, struct.pack("Q", 1))',
    "a scheduler": 'call("sched_setscheduler", target, 5, bytes(4))',
    "a priority": 'call("setpriority", 0, target, 19)',
    "its disk's priority": 'call("ioprio_set", 1, target, 3 << 13)',
    "its memory": 'call("process_vm_readv", target, 0, 0, 0, 0, 0)',
    "a trace": 'call("ptrace", 0x4206, target, 0, 0)',
}


@pytest.mark.parametrize("name", ON_ANOTHER)
def test_its_guard_can_not_be_hurt_by(appliance: Appliance, name: str) -> None:
    assert look(appliance, f"{TOOLS}\ntarget = 1\nseen = outcome(lambda: {ON_ANOTHER[name]})") == "EPERM"


@pytest.mark.parametrize("name", ON_ANOTHER)
def test_outside_the_cage_a_process_can_be_hurt_by(name: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        control = outside_the_cage(f"{TOOLS}\ntarget = {process.pid}\nseen = outcome(lambda: {ON_ANOTHER[name]})")
        process.kill()
    assert control.stdout == "it worked\n", control


@pytest.fixture(scope="module")
def one_uid() -> Iterator[Appliance]:
    """An appliance of an ordinary user, where guard and worker have the same uid."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [program_of(Path(folder)), "-P", "-m", "appliance", "serve"]
        with running(state_of(Path(folder)), user=NOBODY, command=command) as appliance:
            yield appliance


@needs_root
@pytest.mark.parametrize("name", ON_ANOTHER)
def test_with_one_uid_its_guard_can_not_be_hurt_by(one_uid: Appliance, name: str) -> None:
    assert look(one_uid, f"{TOOLS}\ntarget = 1\nseen = outcome(lambda: {ON_ANOTHER[name]})") == "EPERM"


@needs_root
def test_with_one_uid_no_descriptor_of_a_process_can_be_had(one_uid: Appliance) -> None:
    signalled = "signal.pidfd_send_signal(os.open('/proc/self', 0), 0)"
    program = f"import signal\n{TOOLS}\nseen = [outcome(lambda: os.pidfd_open(1)), outcome(lambda: {signalled})]"
    assert look(one_uid, program) == ["EPERM", "EPERM"]


@needs_root
def test_with_one_uid_nothing_of_its_guard_is_to_be_seen(one_uid: Appliance) -> None:
    program = f"{TOOLS}\nseen = [os.listdir('/proc'), outcome(lambda: open('/proc/1/oom_score_adj', 'w'))]"
    names, written = look(one_uid, program)
    assert (len([name for name in names if name.isdigit()]), written) == (1, "ENOENT")


@needs_root
def test_with_one_uid_a_run_is_refused_the_same(one_uid: Appliance) -> None:
    seen = look(one_uid, ALL_OF_THEM)
    assert {name: seen[name] for name in ATTACKS} == {name: attack.inside for name, attack in ATTACKS.items()}


@needs_root
def test_with_one_uid_programs_and_signals_work(one_uid: Appliance) -> None:
    program = """
    import signal
    child = subprocess.Popen(["sleep", "60"])
    child.terminate()
    seen = [child.wait(), subprocess.run(["sh", "-c", "kill -9 $$"]).returncode]
    """
    assert look(one_uid, program) == [-15, -9]


WITHOUT = """
import sys, os
from appliance.runner.sandbox import seccomp
from appliance.runner.sandbox.steps import steps, take
from tests.runner.test_seccomp_kernel import without
take(steps("filter", [seccomp.Filter(without(sys.argv[1])).putting_on()]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def on_a_host_without(name: str, *verb: str) -> list[str]:
    command = [*SERVE[:-1], *verb] if verb else SERVE
    return [sys.executable, "-c", WITHOUT, name, *command]


@needs_root
@pytest.mark.parametrize("name", ["listeners", "a free listener"])
def test_on_a_host_whose_filters_tell_nobody_a_run_ends_all_the_same(tmp_path: Path, name: str) -> None:
    with running(tmp_path, command=on_a_host_without(name)) as appliance:
        assert appliance.run("print('it ran')").body == b"it ran\n"
        assert appliance.run("import sys\nsys.exit('no luck')").json() == {"message": "no luck"}
        assert appliance.run("import os\nos.kill(os.getpid(), 9)").json() == {"message": "the run was killed: SIGKILL"}


@needs_root
def test_on_a_host_without_filters_no_action_runs_and_it_is_said_why(tmp_path: Path) -> None:
    with running(tmp_path) as appliance:
        code_id = appliance.create("print('it ran')")
        assert appliance.call(code_id).body == b"it ran\n"
        assert appliance.stop() == 0
    with running(tmp_path, command=on_a_host_without("seccomp")) as appliance:
        answer = appliance.call(code_id)
        assert (answer.status, appliance.run_of(answer)["extra"]["outcome"]) == (503, "could_not_start")
        assert "seccomp" in answer.json()["message"]
        assert "seccomp" in appliance.run_of(answer)["extra"]["isolation_missing"]
        health = appliance.request("GET", "/health").json()
        assert "seccomp" in health["services"]["engine_python"]["message"]
        assert appliance.stop() == 0


@needs_root
def test_on_a_host_without_namespaces_no_action_runs_and_it_is_said_why(tmp_path: Path) -> None:
    with running(tmp_path, command=on_a_host_without("namespaces")) as appliance:
        answer = appliance.run("print('it ran')")  # the source is kept: it isn't at fault
        reason = "this host refuses root's namespaces: unshare: Operation not permitted"
        assert (answer.status, answer.json()) == (503, {"message": f"the run could not start: {reason}"})
        assert int(answer.headers["retry-after"]) > 0
        assert "namespaces" in appliance.run_of(answer)["extra"]["isolation_missing"]
        assert reason in appliance.request("GET", "/health").json()["services"]["engine_python"]["message"]
        assert appliance.stop() == 0


@needs_root
def test_a_host_without_landlock_runs_actions_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path, command=on_a_host_without("landlock")) as appliance:
        answer = appliance.run("print('it ran')")
        assert answer.body == b"it ran\n"
        assert "landlock" not in appliance.run_of(answer)["extra"]["isolation_missing"]
        assert "landlock" in appliance.request("GET", "/health").json()["system"]["isolation"]["absent"]
