"""Limits → properties for systemd → what the kernel's files must say; on cgroup v1, v2 and both."""

from pathlib import Path

import pytest

from appliance.runner import wire
from appliance.runner.execution import Bounds, Cause, Memory, conclude
from appliance.runner.launch import cgroups
from appliance.runner.launch.limits import Limits, expected_files, limit_properties, unit_properties
from appliance.runner.outcome import OutcomeKind, Result

MIB = 1 << 20
LIMITS = Limits(memory_bytes=64 * MIB, cpu_percent=50, tasks=20, memory_reservation=0, cpu_weight=None)
MORE = LIMITS._replace(memory_reservation=32 * MIB, cpu_weight=200)

V2 = "28 21 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
HYBRID = """
30 28 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
31 28 0:28 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,name=systemd
32 28 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
33 28 0:30 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
34 28 0:31 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
"""
SLICES = "codeactions.slice/codeactions-runs.slice"


def files(limits: Limits, mountinfo: str) -> dict[str, str]:
    return {file: value for _, file, value in expected_files(limits, cgroups.hierarchies(mountinfo.lstrip()))}


def test_limits_become_properties() -> None:
    values = {name: value for name, (_, value) in limit_properties(MORE).values()}
    assert values == {
        "MemoryMax": 64 * MIB,
        "MemoryLow": 32 * MIB,
        "MemorySwapMax": 0,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUWeight": 200,
        "TasksMax": 21,
    }


def test_what_is_unset_is_not_sent() -> None:
    assert "CPUWeight" not in limit_properties(LIMITS)


def test_a_reservation_is_never_over_the_limit() -> None:
    assert limit_properties(MORE._replace(memory_bytes=16 * MIB))["MemoryLow"] == ("MemoryLow", ("t", 16 * MIB))


def test_a_scope_is_bound_to_the_launchers_own_service_where_there_is_one() -> None:
    bound = dict(unit_properties(LIMITS, "launcher.service"))
    assert bound["BindsTo"] == bound["After"] == ("as", ["launcher.service"])
    assert not {"BindsTo", "After"} & set(dict(unit_properties(LIMITS, None)))


def test_each_limit_has_its_file_on_cgroup_v2() -> None:
    assert files(MORE, V2) == {
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "memory.swap.max": "0",
        "pids.max": "21",
        "cpu.max": "50000 100000",
        "cpu.weight": "200",
    }


def test_each_limit_has_its_file_on_cgroup_v1() -> None:
    assert files(MORE, HYBRID) == {
        "memory.limit_in_bytes": str(64 * MIB),
        "memory.memsw.limit_in_bytes": str(64 * MIB),
        "memory.soft_limit_in_bytes": str(32 * MIB),
        "pids.max": "21",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpu.shares": "2048",
    }


def test_a_limit_is_expected_as_the_kernel_keeps_it() -> None:
    assert files(LIMITS._replace(memory_bytes=100_000_001), V2)["memory.max"] == "99999744"


def test_the_one_hierarchy_of_v2_holds_every_controller() -> None:
    hierarchies = cgroups.hierarchies(V2)
    assert hierarchies.required() == [cgroups.UNIFIED]
    folders = hierarchies.folders(cgroups.parse_paths(f"0::/{SLICES}/one.scope\n"))
    assert set(folders) == {Path(f"/sys/fs/cgroup/{SLICES}/one.scope")}


def test_joined_controllers_are_one_hierarchy() -> None:
    hierarchies = cgroups.hierarchies(HYBRID.lstrip())
    assert hierarchies.required() == ["name=systemd", "memory", "pids", "cpu", cgroups.UNIFIED]
    lines = ["5:cpu,cpuacct:/one", "4:memory:/two", "3:pids:/three", "1:name=systemd:/four", "0::/five"]
    folders = hierarchies.folders(cgroups.parse_paths("\n".join(lines)))
    assert folders.cpu == Path("/sys/fs/cgroup/cpu,cpuacct/one")
    assert (folders.memory, folders.unified) == (Path("/sys/fs/cgroup/memory/two"), Path("/sys/fs/cgroup/unified/five"))


def test_a_hierarchy_may_be_mounted_from_below_its_root() -> None:
    hierarchies = cgroups.hierarchies("28 21 0:25 /inner /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert hierarchies.folders({cgroups.UNIFIED: "/inner/one.scope"}).memory == Path("/sys/fs/cgroup/one.scope")


def test_counters_of_v2(tmp_path: Path) -> None:
    (tmp_path / "memory.peak").write_text("1048576\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\n")
    (tmp_path / "pids.peak").write_text("3\n")
    assert cgroups.read_counters(cgroups.Folders(tmp_path, tmp_path, tmp_path, tmp_path)) == (1500, 1048576, 3, 1)


def test_counters_of_v1(tmp_path: Path) -> None:
    (tmp_path / "memory.max_usage_in_bytes").write_text("1048576\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert cgroups.read_counters(cgroups.Folders(tmp_path, tmp_path, tmp_path, None)) == (None, 1048576, None, 1)


def test_a_scope_that_has_gone_has_no_counters(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert cgroups.read_counters(cgroups.Folders(gone, gone, gone, gone)) == cgroups.NO_COUNTERS


def ended(wait_status: int | None, oom_kills: int | None) -> wire.Ended:
    return wire.Ended(sandbox=1, wait_status=wait_status, cpu_us=1500, memory_peak_bytes=MIB, tasks_peak=1, oom_kills=oom_kills)


@pytest.mark.parametrize(
    ("wait_status", "oom_kills", "kind"),
    [
        (9, 1, OutcomeKind.OUT_OF_MEMORY),
        (None, 1, OutcomeKind.OUT_OF_MEMORY),  # with its guard
        (9, 0, OutcomeKind.KILLED),
        (9, None, OutcomeKind.KILLED),  # a host that can't tell
        (11, 1, OutcomeKind.KILLED),
        (0, 1, OutcomeKind.COMPLETED),
    ],
)
def test_a_kill_with_an_oom_kill_is_out_of_memory(wait_status: int | None, oom_kills: int | None, kind: OutcomeKind) -> None:
    end, bounds = ended(wait_status, oom_kills), Bounds(max_log_bytes=1, max_result_bytes=1)
    outcome = conclude(None, end, None, Result(), 1.0, bounds, Memory(128 * MIB))
    assert outcome.kind is kind
    assert outcome.usage.oom_kills == (oom_kills or None)
    if kind is OutcomeKind.OUT_OF_MEMORY:
        assert outcome.message == "out of memory: the limit is 128 MiB; raise memory or use less"


def test_our_own_cause_comes_first() -> None:
    bounds = Bounds(max_log_bytes=1, max_result_bytes=1)
    assert conclude(Cause.TIMEOUT, ended(9, 1), None, Result(), 1.0, bounds, Memory(MIB)).kind is OutcomeKind.TIMEOUT
