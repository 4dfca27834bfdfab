"""The attacks in JavaScript, those that node has a function for; not those that a helper of the engine's own may meet, which puts
the run's limits on node where there is no scope.
"""

import shutil

from tests.attacks.table import MARK

HEAD = """
const fs = require("node:fs");
const net = require("node:net");
const { spawn } = require("node:child_process");
const { O_WRONLY, O_RDWR, O_APPEND } = fs.constants;
function outcome(attempt) {
  try {
    attempt();
  } catch (error) {
    return error.code ?? error.info?.code ?? String(error);
  }
  return "it worked";
}
const many = (times, attempt) => outcome(() => {
  for (let number = 0; number < times; number += 1) attempt(number);
});
const print = (word) => {
  fs.writeSync(1, `${word}\\n`);
  process.exit();
};
"""
LISTENS = """
const server = net.createServer().on("error", (error) => print(error.code));
server.listen("/tmp/socket", () => net.connect("/tmp/socket", () => print("it worked")));
"""
PROCESSES = """
const refused = [];
for (let number = 0; number < 100; number += 1) {
  spawn("/bin/sleep", ["20"], { stdio: "ignore" }).on("error", (error) => refused.push(error.code)).unref();
}
setImmediate(() => print(refused[0] ?? "it worked"));
"""
CGROUP = """
const mounted = fs.readFileSync("/proc/self/mountinfo", "utf8").split("\\n").filter((line) => line.includes(" - cgroup"));
const place = mounted.length > 0 ? mounted[0].split(" ")[4] : "/sys/fs/cgroup";
"""
HEAP = "const kept = [];\nfor (let number = 0; number < 400; number += 1) kept.push(new Array(1 << 17).fill(number + 0.5));\n"
SEEN = """
const held = fs.readdirSync("/proc/self/fd").filter((fd) => Number(fd) > 2).flatMap((fd) => {
  try { return [fs.readlinkSync(`/proc/self/fd/${fd}`)]; } catch { return []; }
});
"""
# A trap that ignores a signal is inherited by what is executed.
OUTLIVES = f"""{HEAD}
const child = spawn("/bin/sh", ["-c", "trap '' TERM HUP; exec /usr/bin/sleep {MARK}"], {{ detached: true, stdio: "ignore" }});
child.unref();
while (!fs.readFileSync(`/proc/${{child.pid}}/cmdline`, "latin1").startsWith("/usr/bin/sleep")) continue;
print("left behind");
"""


def command(source: str) -> list[str]:
    """node is not below /tmp on any host that has it from a package."""
    return [shutil.which("node") or "node", "-e", source]


def prints(expression: str, before: str = "") -> str:
    return f"{HEAD}{before}\nprint({expression});\n"


def tries(statement: str) -> str:
    return prints(f"outcome(() => {{ {statement}; }})")


def opens(path: str, flags: str = "'r'") -> str:
    """What is opened for writing isn't written to: outside of the cage it is the host's."""
    return tries(f"fs.openSync({path!r}, {flags})")


def lists(path: str) -> str:
    return tries(f"fs.readdirSync({path!r})")


def connects(address: str) -> str:
    return f"{HEAD}\nnet.connect({address!r}, () => print('it worked')).on('error', (error) => print(error.code));\n"


def fills(path: str) -> str:
    return prints("many(100, () => fs.writeSync(file, Buffer.alloc(1 << 20)))", f"const file = fs.openSync({path!r}, 'w');")


PAYLOADS = {
    "a flood of descriptors": prints("many(1100, () => fs.openSync('/dev/null'))"),
    "a flood of files": prints("many(20_000, (number) => fs.closeSync(fs.openSync(`/tmp/${number}`, 'w')))"),
    "a flood of folders": prints("many(20_000, (number) => fs.mkdirSync(`/tmp/${number}`))"),
    "a flood of links": prints("many(20_000, (number) => fs.symlinkSync('/', `/tmp/${number}`))"),
    "a flood of processes": HEAD + PROCESSES,
    "a file without end": fills("/tmp/big"),
    "shared memory without end": fills("/dev/shm/big"),
    "a heap without end": prints("'it worked'", HEAP),
    "private pages without end": prints("'it worked'", "const pages = Buffer.alloc(400 << 20, 1);"),
    "the superuser's uid": tries("process.setuid(0)"),
    "the superuser's gid": tries("process.setgid(0)"),
    "another group": tries("process.setgroups([0, 1])"),
    "a file given away": tries("fs.writeFileSync('/tmp/mine', ''); fs.chownSync('/tmp/mine', 1, 1)"),
    "a socket as a file": HEAD + LISTENS,
    "the system bus": connects("/run/dbus/system_bus_socket"),
    "the socket of Docker": connects("/run/docker.sock"),
    "a cgroup's processes": prints("outcome(() => fs.openSync(`${place}/cgroup.procs`, O_WRONLY))", CGROUP),
    "the settings of the kernel": opens("/proc/sys/kernel/core_pattern", "O_WRONLY"),
    "the symbols of the kernel": opens("/proc/kallsyms"),
    "the command line of the kernel": opens("/proc/cmdline"),
    "the keys of the kernel": opens("/proc/keys"),
    "the mounts of all": opens("/proc/filesystems"),
    "the devices of the kernel": opens("/sys/devices"),
    "the host's passwords": opens("/etc/shadow"),
    "the host's homes": lists("/root"),
    "the host's state": lists("/var/lib"),
    "a file of the system": opens("/usr/lib/os-release", "O_WRONLY | O_APPEND"),
    "the memory of pid 1": opens("/proc/1/mem", "O_RDWR"),
    "the environment of pid 1": opens("/proc/1/environ"),
    "the descriptors of pid 1": lists("/proc/1/fd"),
    "the root of pid 1": lists("/proc/1/root/"),
    "a signal to pid 1": tries("process.kill(1, 'SIGCHLD')"),
    "a descriptor left open": prints("held.some((path) => path.startsWith('/')) ? 'a file' : 'none'", SEEN),
}
