"""All that a run sees, compared with the list of what it may see: what is on neither side was forgotten or got in."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.appliance import TREE, Appliance
from tests.runner.test_sandbox import look

MIB = 1 << 20
IS_ROOT = os.geteuid() == 0
# Folders that are the host's or the engine's as a whole: what is in them isn't listed, but that they are there.
WHOLE = {"/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/engine", "/opt/python", "/proc", "/etc/alternatives"}
CERTIFICATES = {"/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/ca-trust"}
DEVICES = {"null", "zero", "full", "random", "urandom"}
ALWAYS = {"/bin", "/dev", "/engine", "/etc", "/lib", "/proc", "/run", "/run/group", "/run/passwd", "/tmp", "/usr"}
ALWAYS |= {f"/dev/{name}" for name in DEVICES | {"fd", "shm", "stdin", "stdout", "stderr"}}
ALWAYS |= {f"/etc/{name}" for name in ("group", "passwd", "hosts", "nsswitch.conf", "alternatives")}
# What a host may lack, or an interpreter may do without.
SOMETIMES = {"/lib32", "/lib64", "/libx32", "/opt", "/opt/python", "/etc/ld.so.conf", "/etc/ld.so.cache"}
SOMETIMES |= {f"/etc/{name}" for name in ("resolv.conf", "localtime", "mime.types", "services", "protocols")}
SOMETIMES |= CERTIFICATES | {"/etc/ssl", "/etc/ssl/openssl.cnf", "/etc/pki", "/etc/pki/tls"}
SOMETIMES |= {f"/etc/pki/tls/{name}" for name in ("openssl.cnf", "cert.pem")}

LOOK = f"""
import resource
whole = {WHOLE | CERTIFICATES}
files = []
def stop(error):
    raise error
for folder, folders, names in os.walk("/", onerror=stop):
    found = [os.path.join(folder, name) for name in names + folders]
    files += found
    folders[:] = [name for name in folders if os.path.join(folder, name) not in whole]
places = ("/tmp", "/dev/shm")
held = {{fd: f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")}}
seen = {{
    "files": files,
    "mounts": {{line.split()[4]: line.split()[5].split(",") for line in open("/proc/self/mountinfo")}},
    "environment": dict(os.environ),
    "descriptors": [os.readlink(path).split(":")[0] for path in held.values() if os.path.lexists(path)],
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "proc": [name for name in os.listdir("/proc") if not name.isdigit()],
    "names": [*os.uname()[:2], socket.gethostname()],
    "limits": {{name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}},
    "sizes": {{place: os.statvfs(place).f_blocks * os.statvfs(place).f_frsize for place in places}},
    "inodes": {{place: os.statvfs(place).f_files for place in places}},
    "devices": {{name: [os.major(n), os.minor(n)] for name in {DEVICES} if (n := os.stat(f"/dev/{{name}}").st_rdev)}},
    "status": {{name: value.strip() for name, _, value in (line.partition(":") for line in open("/proc/self/status"))}},
    "hosts": open("/etc/hosts").read(),
}}
"""


@pytest.fixture(scope="module")
def seen(appliance: Appliance) -> dict[str, Any]:
    return dict(look(appliance, LOOK, network="none"))


def test_the_files_are_those_of_the_list(seen: dict[str, Any]) -> None:
    files = set(seen["files"])
    assert files >= ALWAYS
    assert files <= ALWAYS | SOMETIMES


def test_the_mounts_are_those_of_the_list(seen: dict[str, Any]) -> None:
    mounts = set(seen["mounts"])
    own = {"/", "/usr", "/proc", "/proc/1/fdinfo", "/tmp", "/dev/shm", "/run"}
    assert mounts >= own
    covered = {"/usr/local", "/usr/src"}
    alias = {os.path.realpath("/usr/bin/python3")} if TREE else set()  # the binary's own Python stands in for the host's
    assert mounts <= own | covered | alias | CERTIFICATES | WHOLE | {f"/dev/{name}" for name in DEVICES if not IS_ROOT}


def test_what_it_may_write_is_its_own_memory(seen: dict[str, Any]) -> None:
    assert {place for place, flags in seen["mounts"].items() if "ro" not in flags} == {"/tmp", "/dev/shm", "/proc"}
    assert all("nosuid" in flags for flags in seen["mounts"].values())


def test_its_folders_have_a_size_and_a_number_of_files(seen: dict[str, Any]) -> None:
    assert seen["sizes"] == {"/tmp": 64 * MIB, "/dev/shm": 64 * MIB}
    assert seen["inodes"] == {"/tmp": 16_384, "/dev/shm": 16_384}


def test_the_environment_is_five_variables(seen: dict[str, Any]) -> None:
    assert set(seen["environment"]) == {"PATH", "HOME", "TMPDIR", "LANG", "TZ"}
    assert seen["environment"]["PATH"] == "/usr/bin:/bin"


def test_the_descriptors_are_its_streams_and_the_channel(seen: dict[str, Any]) -> None:
    assert sorted(seen["descriptors"]) == ["/dev/null", "pipe", "pipe", "pipe"]


def test_of_proc_it_sees_its_processes_only(seen: dict[str, Any]) -> None:
    assert sorted(seen["proc"]) == ["self", "thread-self"]
    assert sorted(seen["processes"]) == ["1", "2"]


def test_the_devices_are_those_that_hold_nothing(seen: dict[str, Any]) -> None:
    assert seen["devices"] == {"null": [1, 3], "zero": [1, 5], "full": [1, 7], "random": [1, 8], "urandom": [1, 9]}


def test_its_names_are_nobodys(seen: dict[str, Any]) -> None:
    assert seen["names"] == ["Linux", "action", "action"]
    assert seen["hosts"] == "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def test_its_limits_are_those_of_the_list(seen: dict[str, Any]) -> None:
    fixed = {"NOFILE": 1024, "CORE": 1, "MSGQUEUE": 0, "NICE": 0, "RTPRIO": 0, "MEMLOCK": 64 << 10, "SIGPENDING": 1024}
    assert {name: seen["limits"][f"RLIMIT_{name}"] for name in fixed} == {name: [value, value] for name, value in fixed.items()}
    assert seen["limits"]["RLIMIT_AS"] == [-1, -1], "it breaks V8 and Go"


def test_it_has_no_privilege(seen: dict[str, Any]) -> None:
    status = seen["status"]
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["TracerPid"]) == ("1", "2", "0")
    assert len({*status["Uid"].split(), *status["Gid"].split()}) == 1


def test_the_links_among_programs_lead_to_programs(appliance: Appliance) -> None:
    """awk of /usr/bin is one to /etc/alternatives. What such a link leads to elsewhere on the host isn't told."""
    program = 'seen = [os.readlink(f"/etc/alternatives/{name}") for name in os.listdir("/etc/alternatives")]'
    targets = look(appliance, program)
    assert [target for target in targets if not target.startswith("/usr/") or target.startswith("/usr/local/")] == []
    if Path("/usr/bin/awk").exists():
        program = "seen = subprocess.run(['awk', 'BEGIN { print 40 + 2 }'], capture_output=True, text=True).stdout"
        assert look(appliance, program) == "42\n"


def test_of_the_appliance_only_the_engine_is_there(appliance: Appliance) -> None:
    found = look(appliance, "seen = [[folder, *files] for folder, _, files in os.walk('/engine')]")
    assert set(look(appliance, "seen = os.listdir('/engine')")) == {"appliance", "engines"}
    own = {folder for folder, *names in found if names and folder.startswith("/engine/appliance")}
    assert {folder.removesuffix("/__pycache__") for folder in own} == {"/engine/appliance/runner/sandbox"}
    assert {Path(name).suffix for _, *names in found for name in names} <= {".py", ".pyc", ".js", ".go", ".mod"}


def test_no_private_key_of_the_host_is_there(appliance: Appliance) -> None:
    assert look(appliance, "seen = [os.path.exists(f'/etc/{place}/private') for place in ('ssl', 'pki/tls')]") == [False, False]


def test_certificates_are_there_as_outside(appliance: Appliance) -> None:
    outside = len(ssl.create_default_context().get_ca_certs())
    program = "import ssl\nseen = len(ssl.create_default_context().get_ca_certs())"
    assert look(appliance, program) == outside
