"""What a hostile action in JavaScript tries: each is refused in a run, and works outside the cage."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.appliance import HANG_GUARD, Appliance, alive, eventually

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on PATH: attacks in JavaScript are not tried")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do outside what the cage refuses")

TOOLS = """
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const { execFileSync, spawn } = require("node:child_process");
const inTmp = (name) => fs.mkdtempSync("/tmp/attack-") + "/" + name;
const sh = (...words) => execFileSync(words[0], words.slice(1), { stdio: "pipe" });
const must = (found) => { if (!found) throw Object.assign(new Error(), { code: "nothing" }); };
const listening = (where) => new Promise((resolve, reject) => {
  const server = net.createServer().on("error", reject).listen(where, () => server.close(resolve));
});
async function outcome(attack) {
  try {
    await attack();
  } catch (error) {
    return error.info?.code ?? error.code ?? `status ${error.status}`;
  }
  return "it worked";
}
"""


class Attack(NamedTuple):
    """`attempt` is an expression that throws, or doesn't; `inside` what a run gets. `SERVER` and `STATE` are replaced."""

    attempt: str
    inside: str


ATTACKS = {
    "reading the host's passwords": Attack("fs.readFileSync('/etc/shadow')", "ENOENT"),
    "reading the appliance's database": Attack("fs.readFileSync('STATE/codeactions.db')", "ENOENT"),
    "listing the appliance's folder": Attack("fs.readdirSync('STATE')", "ENOENT"),
    "reading the server's environment": Attack("fs.readFileSync('/proc/SERVER/environ')", "ENOENT"),
    "opening the server's memory": Attack("fs.closeSync(fs.openSync('/proc/SERVER/mem'))", "ENOENT"),
    "entering the server's root": Attack("fs.readdirSync('/proc/SERVER/root/')", "ENOENT"),
    "signalling the server": Attack("process.kill(SERVER, 0)", "ESRCH"),
    "listing the host's processes": Attack("must(fs.readdirSync('/proc').filter(Number).length > 4)", "nothing"),
    "reading what the host is made of": Attack("fs.readFileSync('/proc/cpuinfo')", "ENOENT"),
    "reading the host's memory in use": Attack("fs.readFileSync('/proc/meminfo')", "ENOENT"),
    "setting the kernel": Attack("fs.accessSync('/proc/sys/kernel/core_pattern', fs.constants.R_OK)", "ENOENT"),
    "reading the kernel's log": Attack("fs.closeSync(fs.openSync('/proc/kmsg'))", "ENOENT"),
    "looking at the host's devices": Attack("fs.readdirSync('/sys/class')", "ENOENT"),
    "writing to the host's terminals": Attack("fs.readdirSync('/dev/pts')", "ENOENT"),
    "learning the host's name": Attack("must(os.hostname() !== 'action')", "nothing"),
    "changing programs": Attack("fs.accessSync('/usr/bin', fs.constants.W_OK)", "EACCES"),
    "changing the root": Attack("fs.accessSync('/', fs.constants.W_OK)", "EACCES"),
    "changing what programs read": Attack("fs.accessSync('/etc', fs.constants.W_OK)", "EACCES"),
    "becoming root": Attack("process.setuid(0)", "EPERM"),
    "becoming root's group": Attack("process.setgid(0)", "EPERM"),
    "joining groups": Attack("process.setgroups([0])", "EPERM"),
    "giving a file to root": Attack("{ const f = inTmp('f'); fs.writeFileSync(f, ''); fs.chownSync(f, 0, 0); }", "EPERM"),
    "going first": Attack("os.setPriority(0, -5)", "EACCES"),
    "raising its limits": Attack("sh('/usr/bin/prlimit', '--nofile=8192:8192', '/bin/true')", "status 1"),
    "making a device": Attack("sh('/bin/mknod', inTmp('disk'), 'b', '8', '0')", "status 1"),
    "mounting": Attack("sh('/bin/mount', '-t', 'tmpfs', 'none', '/mnt')", "status 32"),
    "a namespace of users": Attack("sh('/usr/bin/unshare', '--user', '/bin/true')", "status 1"),
    "a namespace of mounts": Attack("sh('/usr/bin/unshare', '--mount', '/bin/true')", "status 1"),
    "another root": Attack("sh('/usr/sbin/chroot', '/', '/bin/true')", "status 125"),
    "another name for the host": Attack("sh('/bin/hostname', 'attacked')", "status 1"),
    "serving by TCP": Attack("await listening({ port: 0, host: '0.0.0.0' })", "EPERM"),
    "serving by a unix socket": Attack("await listening({ path: inTmp('socket') })", "EAFNOSUPPORT"),
    "a debugger for others": Attack(
        "{ const i = require('inspector'); i.open(0, '127.0.0.1'); must(i.url()); i.close(); }", "nothing"
    ),
}


def attempts(appliance: Appliance) -> str:
    """A function that makes all of them, and returns what came of each by its name."""
    names = "".join(f"  found[{json.dumps(name)}] = await outcome(async () => {one.attempt});\n" for name, one in ATTACKS.items())
    text = names.replace("SERVER", str(appliance.process.pid)).replace("STATE", str(appliance.state_dir))
    return f"{TOOLS}\nasync function attempts() {{\n  const found = {{}};\n{text}  return found;\n}}\n"


@pytest.fixture(scope="module")
def inside(appliance: Appliance) -> dict[str, str]:
    source = attempts(appliance) + "async function Run(engine) {\n  engine.result.set(await attempts());\n}\n"
    answer = appliance.run(source, language="javascript")
    assert answer.status == 200, answer.body
    return dict(answer.json())


@pytest.fixture(scope="module")
def outside(appliance: Appliance) -> dict[str, str]:
    """By root, in mount, network and uts namespaces of the control's own, so that it changes nothing of the host."""
    code = attempts(appliance) + "attempts().then((found) => console.log(JSON.stringify(found)));"
    command = ["unshare", "--mount", "--net", "--uts", str(NODE), "-e", code]
    done = subprocess.run(command, capture_output=True, timeout=HANG_GUARD, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_run_is_refused(name: str, inside: dict[str, str]) -> None:
    assert inside[name] == ATTACKS[name].inside


@needs_root
@pytest.mark.parametrize("name", ATTACKS)
def test_outside_the_cage_it_works(name: str, outside: dict[str, str]) -> None:
    assert outside[name] == "it worked"


CHANNEL = """
const fs = require("node:fs");
const fds = fs.readdirSync("/proc/self/fd").map(Number).filter((fd) => fd > 2);
const flagsOf = (fd) => parseInt(/flags:\\s+(\\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))[1], 8);
// Open for writing only, and blocking: the others are node's own, and it ends when they bring nonsense.
const isTheOne = (fd) => { try { return (flagsOf(fd) & 0o4003) === 1; } catch { return false; } };
function send(header, blob = "") {
  const sizes = Buffer.alloc(8);
  sizes.writeUInt32BE(Buffer.byteLength(header), 0);
  sizes.writeUInt32BE(Buffer.byteLength(blob), 4);
  const fd = fds.find(isTheOne);
  fs.writeSync(fd, Buffer.concat([sizes, Buffer.from(header), Buffer.from(blob)]));
}
"""
FORGERIES = {
    "no frame at all": ("send('x'.repeat(100))", (500, "error")),
    "a status that is none": (
        """send('{"type":"result","status_code":99,"content_type":"text","headers":[]}')""",
        (500, "error"),
    ),
    "a header that it may not set": (
        """send('{"type":"result","status_code":200,"content_type":"text","headers":[["X-Run-Id","x"]]}')""",
        (500, "error"),
    ),
    "an end before its end": ("""send('{"type":"done","dropped":0}'); process.kill(process.pid, "SIGKILL")""", (500, "killed")),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_it_forges_on_the_channel_harms_only_itself(appliance: Appliance, name: str) -> None:
    statement, expected = FORGERIES[name]
    answer = appliance.run(f"{CHANNEL}\nfunction Run(engine) {{ {statement}; }}\n", language="javascript")
    assert (answer.status, appliance.run_of(answer)["extra"]["outcome"]) == expected
    assert appliance.run("function Run(engine) { engine.result.set('unhurt'); }", language="javascript").body == b"unhurt"


def test_a_frame_that_is_one_is_taken_from_it(appliance: Appliance) -> None:
    """The control of the forgeries: this is the channel."""
    head = '{"type":"result","status_code":201,"content_type":"text","headers":[]}'
    answer = appliance.run(f"{CHANNEL}\nfunction Run(engine) {{ send('{head}', 'by hand'); }}\n", language="javascript")
    assert (answer.status, answer.body) == (201, b"by hand")


LEFT_BEHIND = """
const { spawn } = require("node:child_process");
function Run(engine) {
  const stubborn = "trap '' TERM HUP INT; while :; do sleep 100; done";
  const child = spawn("/bin/sh", ["-c", stubborn], { detached: true, stdio: "ignore" });
  child.unref();
  engine.result.set("left");
}
"""


def test_a_detached_child_ends_with_its_run(appliance: Appliance) -> None:
    before = set(appliance.sandboxes_of("javascript"))
    assert appliance.run(LEFT_BEHIND, language="javascript").body == b"left"
    assert eventually(
        lambda: not alive([pid for pid in appliance.sandboxes_of("javascript") if _is_left_behind(pid) and pid not in before])
    )


def _is_left_behind(pid: int) -> bool:
    try:
        return b"trap" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_runs_in_a_row_do_not_see_each_others_files(appliance: Appliance) -> None:
    code_id = appliance.create(
        "const fs = require('fs');\nfunction Run(engine) {\n"
        "  const before = fs.readdirSync('/tmp');\n  fs.writeFileSync('/tmp/mark', '');\n"
        "  engine.result.set([before, fs.readdirSync('/tmp')]);\n}\n",
        language="javascript",
    )
    assert [appliance.call(code_id).json() for _ in range(2)] == [[[], ["mark"]]] * 2


def test_a_thread_that_never_yields_ends_at_its_timeout(appliance: Appliance) -> None:
    answer = appliance.run("function Run(engine) { for (;;); }", language="javascript", timeout=5)
    assert answer.status == 408
