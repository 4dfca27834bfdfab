"""The attacks in Go, but for those that meet the parent which a run of Go has beside it in its cage, and the threads that its
runtime ends a program for.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from engines.go.build import settings_of_toolchain
from tests.attacks.table import MARK
from tests.golang import FILL_GUARD, go_program, toolchain_cache

HEAD = """package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

var names = map[syscall.Errno]string{
	syscall.EPERM: "EPERM", syscall.ENOENT: "ENOENT", syscall.ESRCH: "ESRCH", syscall.EAGAIN: "EAGAIN", syscall.EACCES: "EACCES",
	syscall.EMFILE: "EMFILE", syscall.ENOSPC: "ENOSPC", syscall.EROFS: "EROFS", syscall.EAFNOSUPPORT: "EAFNOSUPPORT",
	syscall.ECONNREFUSED: "ECONNREFUSED",
}

func outcome(err error) string {
	var code syscall.Errno
	if err == nil {
		return "it worked"
	}
	if errors.As(err, &code) && names[code] != "" {
		return names[code]
	}
	return err.Error()
}

func many(times int, attempt func(int) error) string {
	for number := 0; number < times; number++ {
		if err := attempt(number); err != nil {
			return outcome(err)
		}
	}
	return "it worked"
}

func inTmp(number int) string { return "/tmp/" + strconv.Itoa(number) }

func open(path string, flags int) error { _, err := syscall.Open(path, flags, 0o600); return err }

func list(path string) error { _, err := os.ReadDir(path); return err }

func call(number, first, second uintptr) error {
	if _, _, code := syscall.RawSyscall(number, first, second, 0); code != 0 {
		return code
	}
	return nil
}

func child(words ...string) error {
	_, err := os.StartProcess(words[0], words, &os.ProcAttr{})
	return err
}

func connect(name string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: name})
	}
	return err
}

func listen(name string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: name})
	}
	if err == nil {
		err = syscall.Listen(fd, 1)
	}
	if err == nil {
		err = connect(name)
	}
	return err
}

func fill(path string) string {
	file, err := os.Create(path)
	if err != nil {
		return outcome(err)
	}
	return many(100, func(int) error { _, err := file.Write(make([]byte, 1<<20)); return err })
}

func given(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Chown(path, 1, 1)
}

func cgroup() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(text), "\\n") {
		if strings.Contains(line, " - cgroup") {
			return strings.Fields(line)[4]
		}
	}
	return "/sys/fs/cgroup"
}

func heap() string {
	var kept [][]byte
	for number := 0; number < 400; number++ {
		kept = append(kept, []byte(strings.Repeat("x", 1<<20)))
	}
	return "it worked" + strings.Repeat(" ", len(kept)&1)
}

func pages(kind int) string {
	data, err := syscall.Mmap(-1, 0, 400<<20, syscall.PROT_READ|syscall.PROT_WRITE, kind|syscall.MAP_ANON)
	if err != nil {
		panic(err)
	}
	for place := 0; place < len(data); place += 4096 {
		data[place] = 1
	}
	return "it worked"
}

func files() string {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		fd, _ := strconv.Atoi(entry.Name())
		if path, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && fd > 2 && strings.HasPrefix(path, "/") {
			if !strings.HasPrefix(path, "/proc/") { // the listing's own
				return "a file"
			}
		}
	}
	return "none"
}

func outlive(mark string) string {
	words := []string{"/bin/sh", "-c", "trap '' TERM HUP; exec /usr/bin/sleep " + mark}
	process, err := os.StartProcess(words[0], words, &os.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return outcome(err)
	}
	path := "/proc/" + strconv.Itoa(process.Pid) + "/cmdline"
	for text := []byte{}; !strings.HasPrefix(string(text), "/usr/bin/sleep"); text, _ = os.ReadFile(path) {
	}
	return "left behind"
}
"""


@functools.cache
def _workshop() -> tempfile.TemporaryDirectory[str]:
    """Not below /tmp, where a control can't see it; it goes at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="codeactions-attacks-", dir="/var/tmp")


@functools.cache
def _cache() -> Path:
    folder = Path(_workshop().name) / "cache"
    shutil.copytree(toolchain_cache(), folder)
    return folder


def command(source: str) -> list[str]:
    """The program that the source is compiled to, by the host's own toolchain."""
    folder = Path(_workshop().name) / hashlib.sha256(source.encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    (folder / "main.go").write_text(source)
    environment = settings_of_toolchain(_cache()) | {"PATH": os.environ["PATH"], "GO111MODULE": "off"}
    build = [go_program(), "build", "-trimpath", "-o", "program", "main.go"]
    subprocess.run(build, cwd=folder, env=environment, check=True, timeout=FILL_GUARD)
    return [str(folder / "program")]


def prints(expression: str) -> str:
    return f"{HEAD}\nfunc main() {{\n\tfmt.Println({expression})\n}}\n"


def tries(expression: str) -> str:
    return prints(f"outcome({expression})")


def repeats(times: int, expression: str) -> str:
    return prints(f"many({times}, func(number int) error {{ return {expression} }})")


def opens(path: str, flags: str = "syscall.O_RDONLY") -> str:
    """What is opened for writing isn't written to: outside of the cage it is the host's."""
    return tries(f"open({json.dumps(path)}, {flags})")


def lists(path: str) -> str:
    return tries(f"list({json.dumps(path)})")


OUTLIVES = prints(f"outlive({json.dumps(MARK)})")

PAYLOADS = {
    "a flood of descriptors": repeats(2000, 'open("/dev/null", syscall.O_RDONLY)'),
    "a flood of pipes": repeats(1000, "syscall.Pipe(make([]int, 2))"),
    "a flood of files": repeats(20_000, "os.WriteFile(inTmp(number), nil, 0o600)"),
    "a flood of folders": repeats(20_000, "os.Mkdir(inTmp(number), 0o700)"),
    "a flood of links": repeats(20_000, 'os.Symlink("/", inTmp(number))'),
    "a flood of processes": repeats(100, 'child("/bin/sleep", "20")'),
    "a flood of zombies": repeats(100, 'child("/bin/true")'),
    "a file without end": prints('fill("/tmp/big")'),
    "shared memory without end": prints('fill("/dev/shm/big")'),
    "a heap without end": prints("heap()"),
    "private pages without end": prints("pages(syscall.MAP_PRIVATE)"),
    "shared pages without end": prints("pages(syscall.MAP_SHARED)"),
    "the superuser's uid": tries("call(syscall.SYS_SETUID, 0, 0)"),
    "the superuser's gid": tries("call(syscall.SYS_SETGID, 0, 0)"),
    "another group": tries("syscall.Setgroups([]int{0, 1})"),
    "a file given away": tries('given("/tmp/mine")'),
    "a higher limit of descriptors": tries("syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 2000, Max: 2000})"),
    "a character device": tries('syscall.Mknod("/tmp/device", syscall.S_IFCHR|0o666, 1<<8|1)'),
    "a block device": tries('syscall.Mknod("/tmp/device", syscall.S_IFBLK|0o666, 8<<8)'),
    "a socket as a file": tries('listen("/tmp/socket")'),
    "an abstract socket": tries('listen("@of an attack")'),
    "the system bus": tries('connect("/run/dbus/system_bus_socket")'),
    "the socket of Docker": tries('connect("/run/docker.sock")'),
    "a cgroup's processes": tries('open(cgroup()+"/cgroup.procs", syscall.O_WRONLY)'),
    "the settings of the kernel": opens("/proc/sys/kernel/core_pattern", "syscall.O_WRONLY"),
    "the symbols of the kernel": opens("/proc/kallsyms"),
    "the command line of the kernel": opens("/proc/cmdline"),
    "the keys of the kernel": opens("/proc/keys"),
    "the mounts of all": opens("/proc/filesystems"),
    "the devices of the kernel": opens("/sys/devices"),
    "the host's passwords": opens("/etc/shadow"),
    "the host's homes": lists("/root"),
    "the host's state": lists("/var/lib"),
    "a file of the system": opens("/usr/lib/os-release", "syscall.O_WRONLY|syscall.O_APPEND"),
    "the memory of pid 1": opens("/proc/1/mem", "syscall.O_RDWR"),
    "the environment of pid 1": opens("/proc/1/environ"),
    "the descriptors of pid 1": lists("/proc/1/fd"),
    "the root of pid 1": lists("/proc/1/root/"),
    "a signal to pid 1": tries("syscall.Kill(1, syscall.SIGCHLD)"),
    "a descriptor left open": prints("files()"),
}
