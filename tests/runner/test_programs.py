"""What honest actions do works behind the filter: the standard library, and programs that an action starts."""

import shutil
import textwrap

import pytest

from tests.appliance import Appliance
from tests.runner.test_sandbox import action, look

PYTHON = {
    "asyncio": """
        import asyncio
        async def main():
            process = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
            said, _ = await process.communicate()
            return [said.decode(), await asyncio.to_thread(lambda: 2), await asyncio.sleep(0.01, 3)]
        seen = asyncio.run(main()) == ["hi\\n", 2, 3]
        """,
    "threads and their end": """
        import threading
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        thread.start(); thread.join()
        seen = done.is_set()
        """,
    "pools of processes": """
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            seen = list(pool.map(abs, [-1, -2])) == [1, 2]
        """,
    "queues, pipes and locks of multiprocessing": """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        queue, (near, far), lock = context.Queue(), context.Pipe(), context.Lock()
        process = context.Process(target=lambda: (queue.put(1), far.send(2)))
        process.start()
        with lock:
            seen = [queue.get(), near.recv()] == [1, 2]
        process.join()
        """,
    "shared memory": """
        from multiprocessing import shared_memory
        memory = shared_memory.SharedMemory(create=True, size=4096)
        memory.buf[0] = 7
        beside = shared_memory.SharedMemory(memory.name)
        seen = beside.buf[0] == 7
        beside.close(); memory.close(); memory.unlink()
        """,
    "a program with a terminal's size, a group and a timeout": """
        try:
            subprocess.run(["sleep", "60"], timeout=0.05, start_new_session=True)
        except subprocess.TimeoutExpired:
            seen = True
        """,
    "sqlite": """
        import sqlite3
        for journal in ("wal", "delete"):
            connection = sqlite3.connect(f"/tmp/{journal}.db")
            connection.execute(f"pragma journal_mode={journal}")
            connection.execute("create table t (x)")
            with connection:
                connection.execute("insert into t values (1)")
            seen = connection.execute("select x from t").fetchall() == [(1,)]
        """,
    "tls": """
        import ssl
        near, far = socket.socketpair()
        with contextlib.suppress(ssl.SSLError):
            far.send(b"no tls at all\\n" * 3)
            ssl.create_default_context().wrap_socket(near, server_hostname="x")
        seen = len(ssl.RAND_bytes(8)) == 8
        """,
    "mapped files": """
        import mmap
        with open("/tmp/mapped", "w+b") as file:
            file.truncate(8192)
            with mmap.mmap(file.fileno(), 8192) as mapped:
                mapped[5000] = 7
                mapped.flush(); mapped.madvise(mmap.MADV_RANDOM); mapped.resize(4096)
                seen = len(mapped) == 4096
        """,
    "files and their attributes": """
        import shutil, tempfile, fcntl
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x" * 100_000); file.flush(); os.fsync(file.fileno()); fcntl.flock(file, fcntl.LOCK_EX)
            shutil.copy2(file.name, f"{folder}/copy"); shutil.copytree(folder, "/tmp/tree"); os.chmod(file.name, 0o600)
            os.link(file.name, f"{folder}/link"); os.symlink("copy", f"{folder}/symlink"); os.mkfifo(f"{folder}/fifo")
            os.utime(file.name, (1, 1)); os.truncate(f"{folder}/copy", 5); os.posix_fallocate(file.fileno(), 0, 200_000)
            os.rename(f"{folder}/copy", f"{folder}/renamed"); os.sync()
            seen = sorted(os.listdir("/tmp/tree")) != [] and shutil.disk_usage("/tmp").free > 0
        """,
    "descriptors that wait": """
        import select, selectors
        near, far = socket.socketpair()
        far.send(b"x")
        poll, epoll = select.poll(), select.epoll()
        poll.register(near, select.POLLIN); epoll.register(near, select.EPOLLIN)
        selector = selectors.DefaultSelector()
        selector.register(near, selectors.EVENT_READ)
        seen = bool(poll.poll(0) and epoll.poll(0) and selector.select(0) and select.select([near], [], [], 0)[0])
        """,
    "descriptors that count, watch and tell time": """
        libc = ctypes.CDLL(None, use_errno=True)
        watch = libc.inotify_init1(0)
        descriptors = [os.eventfd(1), os.memfd_create("x"), libc.timerfd_create(1, 0), watch]
        libc.inotify_add_watch(watch, b"/tmp", 0x100)
        open("/tmp/watched", "x").close()
        seen = min(descriptors) > 0 and len(os.read(watch, 4096)) > 0
        """,
    "copies within the kernel": """
        with open("/tmp/from", "w+b") as source, open("/tmp/to", "w+b") as target:
            source.write(b"x" * 1000); source.flush()
            reader, writer = os.pipe()
            counts = [os.copy_file_range(source.fileno(), target.fileno(), 10, 0)]
            counts += [os.sendfile(target.fileno(), source.fileno(), 0, 10), os.splice(source.fileno(), writer, 10, 0)]
        seen = counts == [10, 10, 10]
        """,
    "signals and timers": """
        import signal
        got = []
        signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.sigtimedwait([signal.SIGUSR1], 5) if not got else None
        signal.raise_signal(signal.SIGALRM); os.kill(os.getpid(), signal.SIGALRM)
        seen = len(got) >= 2
        """,
    "its own limits, niceness and processors": """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); os.nice(1); os.sched_setaffinity(0, os.sched_getaffinity(0))
        seen = len(os.sched_getaffinity(0)) >= 1 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
        """,
    "sockets of the internet": """
        import itertools
        for family, kind in itertools.product((socket.AF_INET, socket.AF_INET6), (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            with socket.socket(family, kind) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.setblocking(False); one.bind(("", 0)); one.getsockname()
        seen = socket.getaddrinfo("127.0.0.1", 80)[0][4] == ("127.0.0.1", 80)
        """,
    "names, users and the time zone": """
        import platform, pwd, time, uuid, locale
        time.tzset(); locale.setlocale(locale.LC_ALL, "")
        seen = bool(platform.platform() and pwd.getpwuid(os.getuid()) and uuid.uuid1() and os.getlogin is not None)
        """,
}  # fmt: skip

SHELL = {
    "pipes": "seq 100 | sort -rn | head -3 | wc -l | tr -d ' \\n' | grep -qx 3",
    "jobs": "sleep 0.01 & wait $!; trap 'echo bye' EXIT; kill -0 $$",
    "here documents": "cat <<END | grep -q x\nx\nEND\n",
    "files": "cd /tmp && mkdir -p a/b && cp -a a c && mv c d && ln -s d e && touch -d '2 days ago' a/f && rm -r a && ls -laR >x",
    "archives": "cd /tmp && mkdir t && date > t/x && tar czf t.tgz t && rm -r t && tar xzf t.tgz && test -s t/x",
    "coreutils": "df /tmp && du -s /tmp && stat /tmp && dd if=/dev/zero of=/tmp/z bs=1k count=8 conv=fsync && sync && nproc",
    "text": "printf 'b\\na\\n' | sort | uniq -c | sed s/a/x/ | tr -d ' 1' | xargs -n1 echo | paste -sd, | grep -q x,b",
    "find": "find /usr/bin -name 'env' -newermt 1980-01-01 -exec test -x {} \\; -print | grep -q env",
    "timeouts": "timeout 0.05 sleep 60 || test $? = 124",
    "a file that is made whole": "mktemp && mktemp -d && mkfifo /tmp/p && (echo x > /tmp/p & cat /tmp/p)",
    "git": "export HOME=/tmp && cd /tmp && git init -q r && cd r && git config user.email a@b && git config user.name a "
    "&& date > f && git add f && git commit -qm x && git clone -q . ../s && git -C ../s gc -q && git log | grep -q x",
    "perl": "perl -e 'use IO::Select; my $p = fork; if (!$p) { exit 3 } waitpid($p, 0); exit($? >> 8 == 3 ? 0 : 1)'",
    "sqlite3": "sqlite3 /tmp/x.db 'create table t(x); insert into t values (1); select x from t' | grep -q 1",
    "openssl": "openssl rand -hex 4 && openssl dgst -sha256 /etc/passwd",
    "curl": "curl -sS --max-time 1 http://127.0.0.1:1/ || test $? = 7",
}


@pytest.mark.parametrize("name", PYTHON)
def test_an_action_may_use(appliance: Appliance, name: str) -> None:
    assert look(appliance, f"import contextlib\n{textwrap.dedent(PYTHON[name])}") is True


@pytest.mark.parametrize("name", SHELL)
def test_a_shell_of_an_action_may_use(appliance: Appliance, name: str) -> None:
    if name in ("git", "perl", "sqlite3", "openssl", "curl") and not (shutil.which(name) or "").startswith("/usr/bin"):
        pytest.skip(f"NOT TESTED: {name} isn't installed here")
    program = f"""
done = subprocess.run(["sh", "-ec", {SHELL[name]!r}], capture_output=True, text=True)
seen = [done.returncode, "" if done.returncode == 0 else done.stdout + done.stderr]
"""
    assert look(appliance, program) == [0, ""]


def test_what_refuses_is_told_to_the_author(appliance: Appliance) -> None:
    answer = appliance.run(action("socket.create_server(('', 0))\nseen = 0"))
    assert answer.status == 500
    assert answer.json()["message"].startswith("PermissionError: [Errno 1] Operation not permitted")
