"""Where and how the one file unpacks itself. What changes the host's folders happens in a mount namespace of the test's own."""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import __version__
from tests.appliance import HANG_GUARD, at_once, eventually

SAID = f"codeactions {__version__}\n"
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can mount, and be another user")

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def room(shelf: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder that every user can enter."""
    folder = shelf / "room"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def start(binary: Path, user: int | None = None, **environment: str | Path) -> Done:
    """`codeactions version`; as `user` in no group."""
    return subprocess.run(
        [binary, "version"],
        env={name: str(value) for name, value in environment.items()},
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
        check=False,
    )


# A host like many: root's own files, an ordinary user's home, /tmp noexec, and the file on a disk that is mounted read-only.
HOST = """
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -m 755 /mnt/bin /mnt/home
cp {binary} /mnt/bin/codeactions
chown 65534:65534 /mnt/home
mount --bind /mnt/bin /mnt/bin
mount -o remount,bind,ro /mnt/bin
mount -t tmpfs -o mode=1777,noexec tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=755 tmpfs /usr/local/lib
"""
FOUND = "find /usr/local/lib /mnt/home /var/tmp /mnt/disk -name codeactions -type f -printf '%h %U %m\\n' 2>/dev/null || true\n"


def start_on_host(binary: Path, *preparation: str, user: int = NOBODY, **environment: str) -> Done:
    """`codeactions version` on such a host, after more lines of shell; then where trees are, with their owners and modes."""
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", "-i"]
    command = shlex.join([*drop, *(f"{name}={value}" for name, value in environment.items()), "/mnt/bin/codeactions", "version"])
    script = "\n".join([HOST.format(binary=binary), *preparation, "status=0", f"{command} || status=$?", f"{FOUND}exit $status"])
    namespace = ["unshare", "--mount", "--propagation=private", "sh", "-euc", script]
    return subprocess.run(namespace, capture_output=True, text=True, timeout=HANG_GUARD, check=False)


def where(done: Done) -> list[str]:
    """The folders with a tree, without the tree's name."""
    assert done.returncode == 0, done.stderr
    said, *places = done.stdout.splitlines()
    assert said + "\n" == SAID
    return [str(Path(place.split()[0]).parent) for place in places]


def refusal(done: Done) -> str:
    """The one line that it says."""
    assert done.returncode == 1
    assert SAID not in done.stdout
    [line] = done.stderr.splitlines()
    return line


def trees(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def the_tree(folder: Path) -> Path:
    [tree] = trees(folder)
    return tree


def test_it_unpacks_once_and_starts_from_there(binary: Path, room: Path) -> None:
    assert start(binary, CODEACTIONS_UNPACK=room).stdout == SAID
    tree = the_tree(room)
    made = tree.stat().st_mtime_ns
    assert start(binary, CODEACTIONS_UNPACK=room).stdout == SAID
    assert the_tree(room).stat().st_mtime_ns == made
    assert tree.name.startswith(f"{__version__}-")


def test_nobody_but_its_owner_can_write_what_it_unpacks(binary: Path, room: Path) -> None:
    before = os.umask(0)
    try:
        assert start(binary, CODEACTIONS_UNPACK=room).stdout == SAID
    finally:
        os.umask(before)
    for path in [the_tree(room), *the_tree(room).rglob("*")]:
        assert path.is_symlink() or path.stat().st_mode & 0o022 == 0, path
        assert path.lstat().st_uid == os.geteuid()


def remove_a_file(tree: Path) -> None:
    (tree / "_internal/appliance/cli.py").unlink()


def cut_a_file(tree: Path) -> None:
    os.truncate(tree / "_internal/python/lib/codeactions-python/libssl.so.3", 4096)


def remove_a_link(tree: Path) -> None:
    (tree / "_internal/libssl.so.3").unlink()


def open_a_file(tree: Path) -> None:
    (tree / "codeactions").chmod(0o777)


@pytest.mark.parametrize("damage", [remove_a_file, cut_a_file, remove_a_link, open_a_file])
def test_a_damaged_tree_is_made_again(binary: Path, room: Path, damage: Callable[[Path], None]) -> None:
    start(binary, CODEACTIONS_UNPACK=room)
    made = the_tree(room).stat().st_mtime_ns
    damage(the_tree(room))
    assert start(binary, CODEACTIONS_UNPACK=room).stdout == SAID
    assert the_tree(room).stat().st_mtime_ns != made


def test_a_start_killed_in_the_middle_leaves_nothing_that_is_taken_for_a_tree(binary: Path, room: Path) -> None:
    with subprocess.Popen([binary, "version"], env={"CODEACTIONS_UNPACK": str(room)}, stdout=subprocess.PIPE) as process:
        eventually(lambda: [path for tree in trees(room) for path in tree.iterdir()])
        process.send_signal(signal.SIGKILL)
    [half] = trees(room)
    assert half.name.endswith(".partial"), "it was ready before it was killed"
    assert start(binary, CODEACTIONS_UNPACK=room).stdout == SAID
    assert not the_tree(room).name.endswith(".partial")


def test_starts_at_once_unpack_once(binary: Path, room: Path) -> None:
    """Each that unpacked would replace the others' tree, and be seen to."""
    made = set()

    def start_and_look() -> str:
        said = start(binary, CODEACTIONS_UNPACK=room).stdout
        made.add(the_tree(room).stat().st_mtime_ns)
        return said

    assert at_once([start_and_look] * 4) == [SAID] * 4
    assert len(made) == 1


def test_a_file_that_was_cut_or_changed_says_so(binary: Path, room: Path) -> None:
    content = binary.read_bytes()
    for name, data in (("cut", content[:-100]), ("changed", content[:-4_000_000] + b"x" * 100 + content[-3_999_900:])):
        (room / name).write_bytes(data)
        (room / name).chmod(0o755)
        done = start(room / name, CODEACTIONS_UNPACK=room / f"{name}-tree")
        verb = {"cut": "cut", "changed": "damaged"}[name]
        assert (done.returncode, done.stderr) == (1, f"codeactions: this file is {verb}: copy it again\n")
    assert trees(room / "changed-tree") == []


def test_the_named_folder_must_be_an_absolute_path(binary: Path) -> None:
    done = start(binary, CODEACTIONS_UNPACK="here")
    assert (done.returncode, done.stderr) == (1, "codeactions: CODEACTIONS_UNPACK here: an absolute path is needed\n")


@needs_root
def test_root_unpacks_for_all(binary: Path) -> None:
    again = "setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME=/mnt/home /mnt/bin/codeactions version >/dev/null"
    done = start_on_host(binary, "umask 0", "env -i /mnt/bin/codeactions version >/dev/null", again, user=0)
    assert where(done) == ["/usr/local/lib/codeactions"]
    assert done.stdout.split()[-2:] == ["0", "755"]


@needs_root
def test_an_ordinary_user_unpacks_into_his_cache_folder(binary: Path) -> None:
    assert where(start_on_host(binary, HOME="/mnt/home")) == ["/mnt/home/.cache/codeactions"]
    assert where(start_on_host(binary, HOME="/mnt/home", XDG_CACHE_HOME="/mnt/home/c")) == ["/mnt/home/c/codeactions"]


@needs_root
@pytest.mark.parametrize(
    "preparation",
    [
        "",
        "mount -t tmpfs -o mode=777,noexec tmpfs /mnt/home",
        "mount -t tmpfs -o mode=777,size=20m tmpfs /mnt/home",
        "mount -t tmpfs -o mode=777,nr_inodes=500 tmpfs /mnt/home",
        "mount -t tmpfs -o mode=755 tmpfs /mnt/home",
        "mkdir -p /mnt/home/.cache/codeactions; chmod 777 /mnt/home/.cache/codeactions",
    ],
    ids=["no home", "noexec", "full", "full in the middle", "not his", "others can write there"],
)
def test_without_a_cache_folder_of_use_he_unpacks_into_one_of_his_in_var_tmp(binary: Path, preparation: str) -> None:
    home = "/mnt/home" if preparation else ""
    assert where(start_on_host(binary, preparation, HOME=home)) == [f"/var/tmp/codeactions-{NOBODY}"]


@needs_root
@pytest.mark.parametrize(
    ("preparation", "reason"),
    [
        ("mkdir -m 777 /var/tmp/codeactions-65534; chown 1234 /var/tmp/codeactions-65534", "others can write there"),
        ("mkdir -m 770 /var/tmp/codeactions-65534; chown 65534 /var/tmp/codeactions-65534", "others can write there"),
        (
            "ln -s /mnt/home /var/tmp/codeactions-65534",
            "not a folder itself",
        ),
        ("mount -o remount,noexec /var/tmp", "mounted noexec"),
        ("mount -o remount,ro /var/tmp", "Read-only file system"),
        ("mount -o remount,size=20m /var/tmp", "20 MiB free"),
        ("mount -o remount,nr_inodes=500 /var/tmp", "No space left on device"),
    ],
)
def test_where_no_folder_fits_one_line_says_why_and_what_to_do(binary: Path, preparation: str, reason: str) -> None:
    done = start_on_host(binary, preparation)
    line = refusal(done)
    assert done.stdout == "", "something is left"
    assert line.startswith("codeactions: nowhere to unpack this program, which takes ")
    assert line.endswith(f"(/var/tmp/codeactions-65534: {reason}): name a folder in CODEACTIONS_UNPACK")


@needs_root
def test_a_named_folder_that_does_not_fit_is_not_replaced_by_another(binary: Path) -> None:
    line = refusal(start_on_host(binary, "mount -t tmpfs -o mode=755,noexec tmpfs /mnt/home", CODEACTIONS_UNPACK="/mnt/home"))
    assert line == "codeactions: can't unpack to the folder that CODEACTIONS_UNPACK names: /mnt/home: mounted noexec"


@needs_root
def test_root_does_not_take_a_tree_that_somebody_else_has_made(binary: Path) -> None:
    theirs = "env -i HOME=/mnt/home setpriv --reuid=65534 --regid=65534 --clear-groups /mnt/bin/codeactions version >/dev/null"
    line = refusal(start_on_host(binary, theirs, user=0, CODEACTIONS_UNPACK="/mnt/home/.cache/codeactions"))
    assert line.endswith("/mnt/home/.cache/codeactions: others can write there")
