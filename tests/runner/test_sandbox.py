"""What a run sees and what it doesn't: each action looks or attacks, and says what it found."""

import os
import re
import subprocess
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.appliance import INTERPRETER, INTERPRETER_HOME, ROOT, Appliance, at_once, eventually, status_of

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="without root a sandbox has no uid of its own")


def action(program: str) -> str:
    """An action that answers what the program leaves in `seen`."""
    head = "import ctypes, errno, json, os, socket, subprocess, sys\n"
    tail = "    engine.result.set([seen], content_type='json')\n"
    return f"{head}def Run(engine):\n{textwrap.indent(textwrap.dedent(program), '    ')}\n{tail}"


def look(appliance: Appliance, program: str, **query: str | int) -> Any:
    answer = appliance.call(appliance.create(action(program), **query))
    assert answer.status == 200, (answer, appliance.logs_of(answer))
    return answer.json()[0]


REFUSED = """
def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "it worked"
"""
LIBC = """
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    return "it worked" if getattr(libc, name)(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
"""


def test_the_environment_is_what_was_constructed_for_it(appliance: Appliance) -> None:
    seen = look(appliance, "seen = dict(os.environ)")
    assert set(seen) == {"PATH", "HOME", "TMPDIR", "LANG", "TZ"}
    assert (seen["HOME"], seen["TMPDIR"], seen["LANG"]) == ("/tmp", "/tmp", "C.UTF-8")


def test_no_process_that_it_sees_has_another_environment(appliance: Appliance) -> None:
    program = """
    seen = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            seen[pid] = open(f"/proc/{pid}/environ").read()
        except OSError as error:
            seen[pid] = errno.errorcode[error.errno]
    """
    seen = look(appliance, program)
    assert seen.pop("1") == "EACCES"
    assert all("TMPDIR=/tmp" in text and "FLOWS" not in text for text in seen.values())


def test_memory_holds_no_secret_of_the_appliance(appliance: Appliance) -> None:
    """The admin token is in the server's environment: a fork of the server would still have it."""
    program = """
    import re
    seen = {"secret": False, "own": False}
    own = "".join(["own", "-marker"])
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if " rw" in line:
                memory.seek(low)
                data = memory.read(high - low)
                # A pattern, since the text that is searched for would be found.
                seen["secret"] |= re.search(rb"an-admi[n]-toke[n]", data) is not None
                seen["own"] |= re.search(rb"own-marke[r]", data) is not None
    """
    assert look(appliance, program) == {"secret": False, "own": True}


def test_it_holds_no_descriptor_but_its_own(appliance: Appliance) -> None:
    program = """
    held = {int(fd): f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    seen = {fd: os.readlink(path).split(":")[0] for fd, path in held.items() if os.path.lexists(path)}
    """
    seen = look(appliance, program)
    assert [seen.pop(fd) for fd in ("0", "1", "2")] == ["/dev/null", "pipe", "pipe"]
    assert list(seen.values()) == ["pipe"]


def test_a_child_inherits_nothing_but_its_output(appliance: Appliance) -> None:
    program = """
    script = "import os; print([fd for fd in range(3, 1024) if os.path.exists(f'/proc/self/fd/{fd}')])"
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, close_fds=False).stdout
    """
    assert look(appliance, program) == "[]\n"


def test_two_runs_in_a_row_do_not_see_each_others_files(appliance: Appliance) -> None:
    program = """
    seen = os.listdir("/tmp") + os.listdir("/dev/shm")
    for folder in ("/tmp", "/dev/shm"):
        open(f"{folder}/left behind", "w").write("x")
    """
    code_id = appliance.create(action(program))
    assert [appliance.call(code_id).json() for _ in range(8)] == [[[]]] * 8


def test_two_runs_at_once_do_not_see_each_others_files(appliance: Appliance) -> None:
    program = """
    import time
    name = engine.params.get("name")
    for folder in ("/tmp", "/dev/shm"):
        open(f"{folder}/{name}", "w").write("x")
    time.sleep(0.3)
    seen = [os.listdir("/tmp"), os.listdir("/dev/shm")]
    """
    code_id = appliance.create(action(program))
    names = ["one", "two", "three"]
    answers = at_once([partial(appliance.call, code_id, name=name) for name in names])
    assert [answer.json() for answer in answers] == [[[[name], [name]]] for name in names]


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_its_files_are_limited_to_64_mib(appliance: Appliance, folder: str) -> None:
    program = f"""
    block, seen = bytes(1 << 20), [0, ""]
    with open("{folder}/big", "wb", 0) as file:
        try:
            while seen[0] < 100:
                seen[0] += file.write(block) == len(block)
        except OSError as error:
            seen[1] = errno.errorcode[error.errno]
    """
    assert look(appliance, program) in ([64, "ENOSPC"], [63, "ENOSPC"])


def test_the_number_of_its_files_is_limited(appliance: Appliance) -> None:
    program = """
    seen = 0
    try:
        while seen < 20_000:
            open(f"/tmp/{seen}", "x").close()
            seen += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
    """
    assert 16_000 < look(appliance, program) < 16_384


def test_the_root_has_only_what_programs_need(appliance: Appliance) -> None:
    allowed = {"bin", "dev", "engine", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "tmp", "usr"}
    seen = look(appliance, 'seen = {name: os.listdir(name) for name in ("/", "/dev", "/run", "/usr/local", "/usr/src")}')
    assert set(seen["/"]) <= allowed
    assert look(appliance, 'seen = os.path.exists("/opt") and os.listdir("/opt")') in (False, ["python"])
    assert set(seen["/dev"]) == {"null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm"}
    assert sorted(seen["/run"]) == ["group", "passwd"]
    assert seen["/usr/local"] == seen["/usr/src"] == []


def test_no_file_gives_a_privilege(appliance: Appliance) -> None:
    """There are such files in /usr; without nosuid on every mount they would be a way up."""
    program = """
    import stat
    found = [path for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount") if os.path.exists(path)]
    seen = [[bool(os.stat(path).st_mode & stat.S_ISUID) for path in found]]
    seen += [bool(os.statvfs(path).f_flag & os.ST_NOSUID) for path in [*found, "/", "/tmp", "/dev/shm", "/engine"]]
    """
    modes, *flags = look(appliance, program)
    assert any(modes)
    assert all(flags)


def test_every_mount_but_its_own_is_read_only(appliance: Appliance) -> None:
    seen = look(appliance, 'seen = open("/proc/self/mountinfo").read().splitlines()')
    mounts = {fields[4]: fields[5].split(",") for fields in map(str.split, seen)}
    assert {place for place, flags in mounts.items() if "ro" not in flags} == {"/tmp", "/dev/shm", "/proc"}
    assert [place for place, flags in mounts.items() if "nosuid" not in flags] == []
    devices = {place for place, flags in mounts.items() if "nodev" not in flags}
    bound = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    assert devices in ({"/"}, {"/"} | bound)  # root makes the nodes in the sandbox's own root, others bind the host's into it


@pytest.mark.parametrize("folder", ["/", "/engine", "/usr", "/usr/local", "/usr/lib", "/etc", "/dev", "/run", "/proc", "/lib"])
def test_nothing_can_be_written_outside_its_own_folders(appliance: Appliance, folder: str) -> None:
    seen = look(appliance, f'{REFUSED}seen = refused(open, "{folder}/new", "w")')
    assert seen in ("EROFS", "EACCES", "EPERM", "ENOENT")


def test_a_mount_can_not_be_changed_from_a_user_namespace_of_its_own(appliance: Appliance) -> None:
    """Without a system call filter an action may become root of a namespace; it mustn't uncover or open anything by that."""
    program = f"""
    {textwrap.indent(LIBC, "    ").strip()}
    seen = {{}}
    seen["unshare"] = call("unshare", 0x10000000 | 0x20000)
    for place in (b"/proc", b"/tmp", b"/usr/local", b"/run"):
        seen[f"umount {{place.decode()}}"] = call("umount2", place, 2)
    remount = ctypes.c_ulong(0x20 | 0x1000)
    for place in (b"/", b"/usr", b"/etc/ssl", b"/run"):
        seen[f"remount {{place.decode()}}"] = call("mount", b"none", place, None, remount, None)
    """
    seen = look(appliance, program)
    seen.pop("unshare")
    assert "it worked" not in seen.values(), seen


def test_nothing_says_where_the_appliance_lies(appliance: Appliance) -> None:
    program = """
    import engines.python.worker, traceback
    seen = [open("/proc/self/mountinfo").read(), open("/proc/self/maps").read(), str(sys.path), engines.python.worker.__file__]
    seen += [open(f"/proc/{pid}/cmdline").read() for pid in ("1", "self")] + [str(sys.argv), sys.executable, sys.prefix]
    seen += [module.__file__ or "" for module in list(sys.modules.values()) if hasattr(module, "__file__")]
    try:
        subprocess.run(["/nonexistent"])
    except OSError:
        seen.append(traceback.format_exc())
    seen = "\\n".join(seen)
    """
    answer = appliance.run(action(program))
    source = answer.json()[0]
    # What is mounted says from where: the interpreter's prefix, and the interpreter itself where it has the place of the host's.
    source = re.sub(rf" {re.escape(str(INTERPRETER_HOME))}(/bin/python3)? (/opt/python|/usr/bin/python3[.\d]*) ", " ", source)
    for place in (str(ROOT), str(appliance.state_dir), str(Path.home())):
        # Where a path begins: a host whose root is itself in a folder named root isn't meant.
        shown = re.findall(rf"(?<![\w.]){re.escape(place)}\b", source)
        assert shown == [], place


def test_an_uncaught_exception_shows_no_path_of_the_host(appliance: Appliance) -> None:
    answer = appliance.run("import json\ndef Run(engine):\n    json.loads('{')\n")
    text = str(appliance.logs_of(answer)) + answer.body.decode()
    assert "JSONDecodeError" in text
    assert all(place not in text for place in (str(ROOT), str(Path.home()), "/engine", "/opt/python", "/usr/lib"))


def test_its_host_is_named_action(appliance: Appliance) -> None:
    assert look(appliance, "seen = [socket.gethostname(), os.uname().nodename]") == ["action", "action"]


@needs_root
def test_it_has_a_uid_of_its_own_and_no_privilege(appliance: Appliance) -> None:
    program = "seen = [os.getresuid(), os.getresgid(), os.getgroups(), open('/proc/self/status').read()]"
    uids, gids, groups, text = look(appliance, program)
    assert len({*uids, *gids}) == 1
    assert uids[0] >= 1_900_000_000
    assert groups == []
    status = {line.partition(":")[0]: line.split()[1:] for line in text.splitlines()}
    assert all(int(status[f"Cap{name}"][0], 16) == 0 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    assert status["NoNewPrivs"] == ["1"]


def parked(appliance: Appliance) -> list[dict[str, str]]:
    """All processes of sandboxes; none while one is being made (it has its maker's privileges then) or ends."""
    try:
        statuses = [status_of(pid) for pid in appliance.sandboxes]
    except (FileNotFoundError, ProcessLookupError):
        return []
    guards = [status for status in statuses if status["NSpid"].endswith("\t1")]
    is_quiet = len(statuses) == 2 * len(guards) and all(int(status["CapEff"], 16) == 0 for status in statuses)
    return statuses if is_quiet else []


@needs_root
def test_its_guard_has_another_uid_and_no_privilege(appliance: Appliance) -> None:
    statuses = eventually(lambda: parked(appliance))
    uids_of_guards = {status["Uid"].split()[0] for status in statuses if status["NSpid"].endswith("\t1")}
    uids_of_workers = {status["Uid"].split()[0] for status in statuses if not status["NSpid"].endswith("\t1")}
    assert len(uids_of_guards) == len(uids_of_workers) == len(statuses) / 2
    assert not uids_of_guards & uids_of_workers
    assert all(int(status["CapBnd"], 16) == 0 for status in statuses)


def test_it_sees_only_its_own_processes(appliance: Appliance) -> None:
    assert look(appliance, "seen = [os.getpid(), sorted(filter(str.isdigit, os.listdir('/proc')))]") == [2, ["1", "2"]]


@needs_root
def test_it_can_not_signal_its_guard(appliance: Appliance) -> None:
    program = f"""
    {textwrap.indent(REFUSED, "    ").strip()}
    seen = sorted({{refused(os.kill, 1, number) for number in range(1, 65)}})
    """
    assert look(appliance, program) == ["EPERM"]


@needs_root
@pytest.mark.parametrize(
    "attack",
    [
        'call("ptrace", 16, 1, 0, 0)',  # PTRACE_ATTACH
        'call("ptrace", 0x4206, 1, 0, 0)',  # PTRACE_SEIZE
        'call("prlimit", 1, 7, (ctypes.c_ulong * 2)(0, 0), None)',  # RLIMIT_NOFILE
        'refused(open, "/proc/1/mem", "rb")',
        'refused(open, "/proc/1/oom_score_adj", "w")',
        'refused(os.listdir, "/proc/1/fd")',
        'refused(os.listdir, "/proc/1/root/")',
        'refused(os.stat, "/proc/1/ns/mnt")',
        "refused(os.setpriority, os.PRIO_PROCESS, 1, 19)",
        "refused(os.sched_setaffinity, 1, [0])",
    ],
)
def test_it_can_not_touch_its_guard(appliance: Appliance, attack: str) -> None:
    program = REFUSED + LIBC + f"seen = {attack}"
    assert look(appliance, program) in ("EPERM", "EACCES")


def test_the_same_attacks_work_on_its_own_child(appliance: Appliance) -> None:
    """Else the tests above would prove nothing."""
    program = f"""
    {textwrap.indent(LIBC, "    ").strip()}
    child = subprocess.Popen(["sleep", "60"])
    seen = [call("prlimit", child.pid, 7, (ctypes.c_ulong * 2)(8, 8), None), len(os.listdir(f"/proc/{{child.pid}}/root/")) > 0]
    child.kill()
    seen.append(child.wait())
    """
    assert look(appliance, program) == ["it worked", True, -9]


def test_a_kill_of_everybody_ends_only_itself(appliance: Appliance) -> None:
    neighbour = appliance.create(action('engine.log.info("up")\nimport time\ntime.sleep(1)\nseen = "unhurt"'))
    beside = appliance.calling(neighbour)
    appliance.until_logged(neighbour)
    program = 'child = subprocess.Popen(["sleep", "60"])\nos.kill(-1, 9)\nseen = child.wait()'
    assert look(appliance, program) == -9
    assert beside.result().json() == ["unhurt"]


def test_a_kill_of_its_group_ends_only_itself(appliance: Appliance) -> None:
    answer = appliance.run(action("os.kill(0, 9)\nseen = 'still here'"))
    assert answer.json() == {"message": "the run was killed: SIGKILL"}
    assert appliance.run("print('next')").body == b"next\n"


def test_what_tells_about_the_host_is_not_there(appliance: Appliance) -> None:
    places = ["/sys", "/etc/machine-id", "/etc/hostname", "/etc/shadow", "/proc/cmdline", "/proc/kallsyms", "/proc/meminfo"]
    places += [
        "/proc/net/arp",
        "/proc/keys",
        "/var",
        "/home",
        "/root",
        "/boot",
        "/dev/kmsg",
        "/dev/mem",
        "/proc/sys",
        "/proc/kmsg",
    ]
    assert look(appliance, f"seen = [place for place in {places} if os.path.exists(place)]") == []


def test_the_user_has_a_name(appliance: Appliance) -> None:
    program = """
    import getpass, grp, pwd
    seen = [getpass.getuser(), pwd.getpwuid(os.getuid()).pw_dir, [line.pw_name for line in pwd.getpwall()]]
    seen += [[line.gr_name for line in grp.getgrall()], os.path.expanduser("~")]
    """
    assert look(appliance, program) == ["action", "/tmp", ["action"], ["action"], "/tmp"]


IMPORT_ALL = """
import contextlib, io, sys
missing = []
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for name in sorted(sys.stdlib_module_names - {"antigravity", "this"}):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_module_of_the_standard_library_that_imports_outside_imports_inside(appliance: Appliance) -> None:
    outside = subprocess.run([INTERPRETER, "-I", "-S", "-c", f"{IMPORT_ALL}\nprint(missing)"], capture_output=True, check=True)
    inside = appliance.run(f"{IMPORT_ALL}\nprint(missing)")
    assert inside.body == outside.stdout


def test_programs_interpreters_forks_and_threads_work(appliance: Appliance) -> None:
    program = """
    import multiprocessing, threading
    seen = [subprocess.run(["echo", "a program"], capture_output=True, text=True).stdout]
    seen += [subprocess.run([sys.executable, "-c", "print(40 + 2)"], capture_output=True, text=True).stdout]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        seen.append(pool.map(abs, [-1, 2]))
    if (pid := os.fork()) == 0:
        os._exit(7)
    seen.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert look(appliance, program) == ["a program\n", "42\n", [1, 2], 7]


def test_sixty_threads_work(appliance: Appliance) -> None:
    program = """
    import threading
    barrier = threading.Barrier(61)
    threads = [threading.Thread(target=barrier.wait) for _ in range(60)]
    for thread in threads:
        thread.start()
    barrier.wait(30)
    seen = "met"
    """
    assert look(appliance, program) == "met"


def test_two_runs_draw_different_random_numbers(appliance: Appliance) -> None:
    """They are forked from one process."""
    code_id = appliance.create(action("import random, uuid\nseen = [random.random(), uuid.uuid4().hex, os.urandom(8).hex()]"))
    first, second = appliance.call(code_id).json()[0], appliance.call(code_id).json()[0]
    assert not set(first) & set(second)


def test_its_limits_are_set(appliance: Appliance) -> None:
    program = """
    import resource
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_DATA)
    seen = [resource.getrlimit(kind) for kind in kinds]
    """
    files, core, *by_process = look(appliance, program)
    assert (files, core) == ([1024, 1024], [1, 1])
    if not appliance.has_scopes:  # else they are the whole sandbox's: tests/systemd
        # Where worker and guard have one uid the guard is counted too, and isn't the action's.
        tasks = 64 if os.geteuid() == 0 else 65
        assert by_process == [[tasks, tasks], [256 * MIB, 256 * MIB]]


def test_it_can_not_open_more_than_1024_files(appliance: Appliance) -> None:
    program = """
    files = []
    try:
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        seen = [errno.errorcode[error.errno], files[-1]]
    """
    assert look(appliance, program) == ["EMFILE", 1023]


def test_more_processes_than_allowed_fail_the_run_by_name(appliance: Appliance) -> None:
    answer = appliance.run(
        "import os, time\ndef Run(engine):\n    while True:\n        if os.fork() == 0:\n            time.sleep(60)\n"
    )
    assert answer.status == 500
    assert answer.json() == {"message": "too many processes or threads: the limit is 64 (line 4)"}
    assert appliance.run_of(answer)["extra"]["outcome"] == "too_many_processes"


def test_a_fork_bomb_ends_at_its_timeout_and_leaves_nothing(appliance: Appliance) -> None:
    bomb = "import contextlib, os\nwhile True:\n    with contextlib.suppress(OSError):\n        os.fork()\n"
    code_id = appliance.create(bomb, timeout=5)
    call = appliance.calling(code_id)
    assert appliance.run("print('a neighbour')").body == b"a neighbour\n"
    assert call.result().status == 408
    eventually(lambda: len(appliance.sandboxes) <= 2 * 4, 1)


def test_an_action_that_copes_with_a_refused_fork_has_completed(appliance: Appliance) -> None:
    program = """
    children = []
    try:
        while True:
            if (pid := os.fork()) == 0:
                import time
                time.sleep(60)
            children.append(pid)
    except OSError as error:
        seen = [errno.errorcode[error.errno], len(children)]
    """
    assert look(appliance, program) == ["EAGAIN", 63]


def test_more_memory_than_allowed_fails_the_run_by_name(appliance: Appliance) -> None:
    answer = appliance.run("def Run(engine):\n    bytearray(1 << 30)\n")
    place = "" if appliance.has_scopes else " (line 2)"  # the kernel's word, or the interpreter's
    message = f"out of memory: the limit is 256 MiB; raise memory or use less{place}"
    assert (answer.status, answer.json()) == (500, {"message": message})
    assert appliance.run_of(answer)["extra"]["outcome"] == "out_of_memory"


def test_a_code_may_have_a_smaller_memory(appliance: Appliance) -> None:
    answer = appliance.run("def Run(engine):\n    bytearray(100 << 20)\n", memory="64M")
    assert answer.json()["message"].startswith("out of memory: the limit is 64 MiB")


INTERFACES = """
    import contextlib, fcntl, struct
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flags = lambda name: struct.unpack("16xh14x", fcntl.ioctl(sock, 0x8913, struct.pack("16sh14x", name.encode(), 0)))[0]
    seen = {}
    for index in range(1, 256):  # SIOCGIFNAME: if_nameindex() would ask by netlink, which a sandbox hasn't
        with contextlib.suppress(OSError):
            name = fcntl.ioctl(sock, 0x8910, struct.pack("16xi20x", index))[:16].rstrip(b"\\0").decode()
            seen[name] = flags(name) & 1
"""


def test_without_network_nothing_can_be_reached(appliance: Appliance) -> None:
    assert look(appliance, INTERFACES, network="none").get("lo") == 0
    assert not any(look(appliance, INTERFACES, network="none").values())
    program = f"""
    {textwrap.indent(REFUSED, "    ").strip()}
    seen = [refused(socket.create_connection, (host, {appliance.port}), 1) for host in ("127.0.0.1", "1.1.1.1")]
    """
    assert look(appliance, program, network="none") == ["ENETUNREACH", "ENETUNREACH"]


def test_a_network_is_the_slots_own_or_said_to_be_missing_a_filter(appliance: Appliance) -> None:
    extra = appliance.run_of(appliance.run("print()"))["extra"]
    devices = look(appliance, INTERFACES)
    if "network_filter" in extra["isolation_missing"]:
        assert extra["isolation"] == "reduced"
        assert any(devices.values())
    else:
        assert devices == {"lo": 0, "eth0": 1}
    assert "seccomp" not in extra["isolation_missing"]
