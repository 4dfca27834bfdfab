"""What a hostile action in Go tries: each is refused in a run, and works outside the cage."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.appliance import Appliance
from tests.golang import FILL_GUARD, compiling, go_program

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do outside what the cage refuses")

IMPORTS = """
import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"
)
"""
TOOLS = """
var errNothing = errors.New("nothing")

func read(path string) error { _, err := os.ReadFile(path); return err }

func list(path string) error { _, err := os.ReadDir(path); return err }

func open(path string) error {
	file, err := os.Open(path)
	if err == nil {
		file.Close()
	}
	return err
}

func must(found bool) error {
	if found {
		return nil
	}
	return errNothing
}

func inTmp(name string) string {
	folder, _ := os.MkdirTemp("/tmp", "attack-")
	return filepath.Join(folder, name)
}

func writable(path string) error { return syscall.Access(path, 2) }

func call(number, first, second, third uintptr) error {
	if _, _, code := syscall.RawSyscall(number, first, second, third); code != 0 {
		return code
	}
	return nil
}

func ring() error {
	var parameters [120]byte
	return call(425, 1, uintptr(unsafe.Pointer(&parameters)), 0) // io_uring_setup
}

func processes() int {
	count := 0
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err == nil {
			count++
		}
	}
	return count
}

func listening(network, address string) error {
	listener, err := net.Listen(network, address)
	if err == nil {
		listener.Close()
	}
	return err
}

func child(flags uintptr) error {
	attributes := &os.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flags}}
	process, err := os.StartProcess("/bin/true", []string{"true"}, attributes)
	if err == nil {
		process.Wait()
	}
	return err
}

func raw(domain, kind, protocol int) error {
	fd, err := syscall.Socket(domain, kind, protocol)
	if err == nil {
		syscall.Close(fd)
	}
	return err
}

func said(err error) string {
	var code syscall.Errno
	if err == nil {
		return "it worked"
	}
	if errors.As(err, &code) {
		return strconv.Itoa(int(code))
	}
	return err.Error()
}
"""
EPERM, ENOENT, ESRCH, EACCES, EINVAL, ENOSYS, EAFNOSUPPORT = "1", "2", "3", "13", "22", "38", "97"


class Attack(NamedTuple):
    """`attempt` is an expression of type error; `inside` the number of the error that a run gets. `SERVER` and `STATE` are
    replaced."""

    attempt: str
    inside: str


ATTACKS = {
    "reading the host's passwords": Attack('read("/etc/shadow")', ENOENT),
    "reading the appliance's database": Attack('read("STATE/codeactions.db")', ENOENT),
    "listing other authors' programs": Attack('list("STATE/builds")', ENOENT),
    "reading the server's environment": Attack('read("/proc/SERVER/environ")', ENOENT),
    "opening the server's memory": Attack('open("/proc/SERVER/mem")', ENOENT),
    "entering the server's root": Attack('list("/proc/SERVER/root/")', ENOENT),
    "signalling the server": Attack("syscall.Kill(SERVER, 0)", ESRCH),
    "listing the host's processes": Attack("must(processes() > 4)", "nothing"),
    "reading what the host is made of": Attack('read("/proc/cpuinfo")', ENOENT),
    "reading the kernel's log": Attack('open("/proc/kmsg")', ENOENT),
    "looking at the host's devices": Attack('list("/sys/class")', ENOENT),
    "changing programs": Attack('writable("/usr/bin")', EACCES),
    "changing the root": Attack('writable("/")', EACCES),
    "becoming root": Attack("call(syscall.SYS_SETUID, 0, 0, 0)", EPERM),
    "becoming root's group": Attack("call(syscall.SYS_SETGID, 0, 0, 0)", EPERM),
    "joining groups": Attack("call(syscall.SYS_SETGROUPS, 0, 0, 0)", EPERM),
    "going first": Attack("syscall.Setpriority(0, 0, -5)", EACCES),
    "mounting": Attack('syscall.Mount("none", "/tmp", "tmpfs", 0, "")', EPERM),
    "making a device": Attack('syscall.Mknod(inTmp("disk"), syscall.S_IFBLK, 8)', EPERM),
    "another root": Attack('syscall.Chroot("/")', EPERM),
    "a namespace of mounts": Attack("call(syscall.SYS_UNSHARE, syscall.CLONE_NEWNS, 0, 0)", EPERM),
    "a child in a namespace of users": Attack("child(syscall.CLONE_NEWUSER)", EPERM),
    "a child in a namespace of pids": Attack("child(syscall.CLONE_NEWPID)", EPERM),
    "another name for the host": Attack('syscall.Sethostname([]byte("attacked"))', EPERM),
    "a key in the kernel": Attack("call(syscall.SYS_KEYCTL, 0, ^uintptr(2), 0)", EPERM),
    "a raw socket": Attack("raw(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)", EPERM),
    "a socket to the kernel": Attack("raw(syscall.AF_NETLINK, syscall.SOCK_RAW, 0)", EAFNOSUPPORT),
    "a unix socket": Attack("raw(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)", EAFNOSUPPORT),
    "serving by TCP": Attack('listening("tcp4", "0.0.0.0:0")', EPERM),
    "a ring of calls": Attack("ring()", ENOSYS),
}


def attempts(appliance: Appliance, package: str, rest: str) -> str:
    """A source that makes all of them; `found` has what came of each by its name."""
    lines = "".join(f"\tfound[{json.dumps(name)}] = said({one.attempt})\n" for name, one in ATTACKS.items())
    text = lines.replace("SERVER", str(appliance.process.pid)).replace("STATE", str(appliance.state_dir))
    end = "\ttext, _ := json.Marshal(found)\n\treturn string(text)\n}\n"
    function = f"func attempts() string {{\n\tfound := map[string]string{{}}\n{text}{end}"
    return f"package {package}\n{IMPORTS}{TOOLS}\n{function}\n{rest}"


@pytest.fixture(scope="module")
def go_appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with compiling(tmp_path_factory.mktemp("attacks") / "state") as appliance:
        yield appliance


@pytest.fixture(scope="module")
def inside(go_appliance: Appliance) -> dict[str, str]:
    source = attempts(go_appliance, "actions", "func Run(engine *Engine) {\n\tengine.Result.Set(attempts())\n}\n")
    answer = go_appliance.run(source, language="go")
    assert answer.status == 200, answer.body
    return dict(answer.json())


@pytest.fixture(scope="module")
def outside(go_appliance: Appliance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By root, in namespaces of the control's own, so that it changes nothing of the host."""
    folder = tmp_path_factory.mktemp("control")
    source = folder / "main.go"
    source.write_text(attempts(go_appliance, "main", "func main() {\n\tos.Stdout.WriteString(attempts())\n}\n"))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "GOCACHE": str(folder / "cache"), "CGO_ENABLED": "0"}
    build = [go_program(), "build", "-o", str(folder / "control"), str(source)]
    subprocess.run(build, env=environment, cwd=folder, check=True, timeout=FILL_GUARD)
    command = ["unshare", "--mount", "--net", "--uts", "--ipc", str(Path(folder / "control"))]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_is_refused(name: str, inside: dict[str, str]) -> None:
    assert inside[name] == ATTACKS[name].inside


@needs_root
@pytest.mark.parametrize("name", ATTACKS)
def test_outside_the_cage_it_works(name: str, outside: dict[str, str]) -> None:
    assert outside[name] == "it worked"
