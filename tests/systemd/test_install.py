"""What install and uninstall do with what is in the way: the binary in a box of its own for each test."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, eventually
from tests.installed import steps
from tests.installed.box import BoxHost, host_with, installed_on
from tests.installed.steps import LAUNCHER_DROP_IN, PORT, PROGRAM, examined, listing, refused

CHECKOUT = str(Path(sys.executable).with_name("codeactions"))


@pytest.fixture
def host(possible_box: None, binary: Path) -> Iterator[BoxHost]:
    """Fresh for each test."""
    with host_with(binary) as host:
        yield host


def units(host: BoxHost) -> str:
    return host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*")


def is_as_before(host: BoxHost, before: set[str]) -> bool:
    """But for the program, which has unpacked itself when it was started."""
    left = {path for path in listing(host) - before if not path.startswith("/usr/local/lib/codeactions")}
    assert left == set()
    assert units(host) == ""
    return "codeactions" not in host.run("getent", "passwd")


def test_install_on_a_host_that_the_doctor_isn_t_content_with_is_taken_back(host: BoxHost) -> None:
    host.run("ip", "address", "add", "198.18.77.1/32", "dev", "eth0")
    before = listing(host)
    told = refused(host, PROGRAM, "install")
    assert "`codeactions doctor` isn't content: addresses of 198.18.0.0/15: the host uses 198.18.77.1/32; to do: give" in told
    assert is_as_before(host, before)


def test_install_says_what_the_host_lacks_and_goes_on(host: BoxHost) -> None:
    host.run("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    told = host.run(PROGRAM, "install")
    assert "warning: no network_filter: a run with network internet reaches all that this host reaches" in told
    assert "is ready at http://127.0.0.1:8050" in told


def test_a_dry_run_changes_nothing(host: BoxHost) -> None:
    host.run(PROGRAM, "version")
    before = listing(host)
    assert "would write /etc/systemd/system/codeactions.service" in host.run(PROGRAM, "install", "--dry-run")
    assert listing(host) == before


def test_without_a_start_it_is_prepared_for_a_boot(host: BoxHost) -> None:
    assert "will be at http://127.0.0.1:8050" in host.run(PROGRAM, "install", "--no-start", "--prefix", "/opt/there")
    assert host.run("systemctl", "list-units", "--state=active", "--no-legend", "--plain", "codeactions*") == ""
    assert host.run("readlink", "/opt/there/bin/codeactions").strip() == "/opt/there/lib/codeactions/current/codeactions"
    host.run("systemctl", "daemon-reload")
    assert host.run("systemctl", "is-enabled", "codeactions.service", "codeactions.socket") == "enabled\nenabled\n"


def test_a_change_of_the_configuration_survives_an_upgrade_from_another_version(host: BoxHost) -> None:
    """The checkout is another version than the binary; both are there afterwards."""
    steps.give_token(host)
    host.run(CHECKOUT, "install")
    host.run("sh", "-c", "echo 'worker_pool_size = 3' >/etc/codeactions/config.toml")
    with installed_on(host) as installed:
        code_id = installed.create("print('works')")
        told = host.run(PROGRAM, "install")
        assert "link /usr/local/lib/codeactions/current to" in told
        assert installed.call(code_id).body == b"works\n"
    assert host.run("cat", "/etc/codeactions/config.toml") == "worker_pool_size = 3\n"
    assert len(host.run("sh", "-c", "ls -d /usr/local/lib/codeactions/0.*").split()) == 2
    assert host.status("test", "-e", f"{LAUNCHER_DROP_IN}/checkout.conf")[0] == 1


def test_an_upgrade_that_fails_leaves_the_version_before_running(host: BoxHost) -> None:
    steps.give_token(host)
    host.run(CHECKOUT, "install")
    before = host.run("readlink", "/usr/local/lib/codeactions/current")
    host.run("ip", "address", "add", "198.18.77.1/32", "dev", "eth0")
    assert "`codeactions doctor` isn't content" in refused(host, PROGRAM, "install")
    assert host.run("readlink", "/usr/local/lib/codeactions/current") == before
    assert host.status("test", "-e", f"{LAUNCHER_DROP_IN}/checkout.conf")[0] == 0
    with installed_on(host) as installed:
        assert installed.run("print('works')").body == b"works\n"


def of_systemd(host: BoxHost, port: int) -> bool:
    return '"systemd"' in host.run("ss", "--listening", "--tcp", "--processes", "--numeric", "sport", "=", f":{port}")


@pytest.mark.parametrize("state", ["start", "stop"])
def test_another_port_is_systemd_s_after_an_install(host: BoxHost, state: str) -> None:
    host.run(PROGRAM, "install")
    host.run("systemctl", state, "codeactions.service")
    host.run("sh", "-c", "echo 'port = 9000' >/etc/codeactions/config.toml")
    assert "stop codeactions.service codeactions.socket" in host.run(PROGRAM, "install")
    assert of_systemd(host, 9000)
    assert examined(host)["port 9000 of 127.0.0.1"]["verdict"] == "ok"


def test_a_port_that_systemd_has_closed_is_found_and_opened_again(host: BoxHost) -> None:
    """Which it does when a socket's file is changed while it runs."""
    host.run(PROGRAM, "install")
    host.run("sh", "-c", "echo 'port = 9000' >/etc/codeactions/config.toml")
    host.run("sed", "-i", "s/:8050/:9000/", "/etc/systemd/system/codeactions.socket")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "codeactions.service")
    assert not of_systemd(host, 9000)
    assert examined(host)["port 9000 of 127.0.0.1"]["happened"] == "systemd has closed it"
    host.run(PROGRAM, "install")
    assert of_systemd(host, 9000)


def test_uninstall_keeps_what_people_wrote(host: BoxHost) -> None:
    host.run(PROGRAM, "install")
    assert "kept /etc/codeactions, /var/lib/codeactions and the user codeactions" in host.run(PROGRAM, "uninstall")
    host.run("test", "-f", "/var/lib/codeactions/codeactions.db")
    assert units(host) == ""


def test_uninstall_with_purge_leaves_nothing_even_of_killed_processes(host: BoxHost) -> None:
    before = listing(host)
    forwards = host.run("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/all/forwarding")
    host.run(PROGRAM, "install")
    assert listing(host) > before
    host.run("systemctl", "kill", "--signal=KILL", "codeactions-launcher.service", "codeactions.service")
    assert steps.uninstall(host, before)
    assert host.run("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/all/forwarding") == forwards


def test_a_taken_port_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    taker = f"import socket, time\nsock = socket.create_server(('127.0.0.1', {PORT}))\ntime.sleep(600)\n"
    host.run("systemd-run", "--quiet", "--unit=taker", "/usr/bin/python3", "-c", taker)
    eventually(lambda: str(PORT) in host.run("ss", "-ltn"))
    before = listing(host)
    assert f"PORT {PORT}: can't listen there: Address already in use; write another" in refused(host, PROGRAM, "install")
    assert is_as_before(host, before)


def test_without_systemd_it_says_what_works_and_changes_nothing(host: BoxHost) -> None:
    before = listing(host)
    told = refused(host, "unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /run && exec {PROGRAM} install")
    assert "systemd doesn't run this host: `codeactions serve` works without" in told
    assert is_as_before(host, before)


def test_a_somebody_of_its_user_s_name_is_left_alone(host: BoxHost) -> None:
    host.run("useradd", "--uid", "4321", "codeactions")
    before = listing(host)
    assert "the user codeactions is somebody's (uid 4321)" in refused(host, PROGRAM, "install")
    host.run(PROGRAM, "uninstall", "--purge")
    assert host.run("id", "-u", "codeactions") == "4321\n"
    assert listing(host) == before


def test_a_full_disk_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir /opt/small && mount -t tmpfs -o size=8m tmpfs /opt/small")
    before = listing(host)
    told = refused(host, PROGRAM, "install", "--prefix", "/opt/small")
    assert "can't be made: No space left on device; is its file system full?" in told
    assert len(told) < 400
    assert is_as_before(host, before)
    assert host.run("find", "/opt/small", "-type", "f") == ""


def test_a_file_in_the_way_is_said_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("touch", "/usr/local/bin/codeactions")
    before = listing(host)
    assert "/usr/local/bin/codeactions is there and isn't a link of ours" in refused(host, PROGRAM, "install")
    assert is_as_before(host, before)


def test_the_program_s_own_file_makes_way_for_the_link(host: BoxHost) -> None:
    host.run("mv", PROGRAM, "/usr/local/bin/codeactions")
    host.run("codeactions", "version")
    before = listing(host)
    host.run("sh", "-c", "mkdir /etc/codeactions; echo 'keeps = 4' >/etc/codeactions/launcher.toml")
    assert "what was done before is taken back" in refused(host, "codeactions", "install")
    host.run("rm", "-r", "/etc/codeactions")
    assert is_as_before(host, before)
    assert "move /usr/local/bin/codeactions to /usr/local/lib/codeactions/0." in host.run("codeactions", "install")
    assert host.run("codeactions", "install").startswith("nothing to change")
    assert host.run("readlink", "/usr/local/bin/codeactions").strip() == "/usr/local/lib/codeactions/current/codeactions"


def test_a_folder_that_others_can_write_is_no_place_for_it(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir -p /opt/open/lib && chmod g+w /opt/open/lib")
    before = listing(host)
    told = refused(host, PROGRAM, "install", "--prefix", "/opt/open")
    assert "others than root can write /opt/open/lib: `chmod go-w /opt/open/lib`, or install with --prefix" in told
    assert is_as_before(host, before)


def test_a_service_that_does_not_start_says_why_and_the_host_is_as_it_was(host: BoxHost) -> None:
    host.run("sh", "-c", "mkdir /etc/codeactions; echo 'require_isolation = \"full\"' >/etc/codeactions/config.toml")
    host.run("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    before = listing(host)
    told = refused(host, PROGRAM, "install")
    assert "codeactions.service said last: codeactions: REQUIRE_ISOLATION is full, and this host lacks network_filter" in told
    assert "see `journalctl -u codeactions.service" in told
    assert is_as_before(host, before)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("echo 'keeps = 4' >/etc/codeactions/launcher.toml", "launcher.toml: keeps is no key of this file; it takes max_memory"),
        ("echo 'node' >/etc/codeactions/launcher.toml", "/etc/codeactions/launcher.toml can't be read: Expected '='"),
        ("mkdir -p DROP_IN; printf '[Service]\\nExecStartPre=/bin/false\\n' >DROP_IN/broken.conf", "status=1/FAILURE"),
    ],
)
def test_a_launcher_that_can_t_start_is_not_waited_for(host: BoxHost, broken: str, reason: str) -> None:
    """The server would wait for it, for two minutes; the host is as it was."""
    host.run("sh", "-c", f"mkdir /etc/codeactions; {broken.replace('DROP_IN', LAUNCHER_DROP_IN)}")
    before = listing(host)
    began = time.monotonic()
    told = refused(host, PROGRAM, "install")
    assert time.monotonic() - began < HANG_GUARD
    assert "codeactions-launcher.service fails again and again (2 restarts)" in told
    assert "codeactions-launcher.service said last: " in told
    assert reason in told
    assert is_as_before(host, before)


def test_an_upgrade_whose_launcher_can_t_start_leaves_the_version_before(host: BoxHost) -> None:
    host.run(CHECKOUT, "install")
    before = host.run("readlink", "/usr/local/lib/codeactions/current")
    host.run("sh", "-c", "echo 'keeps = 4' >/etc/codeactions/launcher.toml")
    assert "launcher.toml: keeps is no key of this file" in refused(host, PROGRAM, "install")
    assert host.run("readlink", "/usr/local/lib/codeactions/current") == before
