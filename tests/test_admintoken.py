import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import admintoken
from appliance.errors import CannotStart


def test_the_first_start_makes_a_token_for_its_owner_only(tmp_path: Path) -> None:
    token = admintoken.ensure(tmp_path / "state", "")
    path = tmp_path / "state" / "admin_token"
    assert len(token) >= 40
    assert path.read_text() == token + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_next_start_keeps_it(tmp_path: Path) -> None:
    assert admintoken.ensure(tmp_path, "") == admintoken.ensure(tmp_path, "")


def test_a_configured_token_wins_and_leaves_the_kept_one(tmp_path: Path) -> None:
    kept = admintoken.ensure(tmp_path, "")
    assert admintoken.ensure(tmp_path, "configured") == "configured"
    assert admintoken.ensure(tmp_path, "") == kept


def test_a_configured_token_is_not_written_down(tmp_path: Path) -> None:
    admintoken.ensure(tmp_path, "configured")
    assert not list(tmp_path.iterdir())


def test_two_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: admintoken.ensure(tmp_path, ""), range(8)))
    assert len(tokens) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["admin_token"]


def test_a_token_that_others_could_read_is_refused(tmp_path: Path) -> None:
    admintoken.ensure(tmp_path, "")
    (tmp_path / "admin_token").chmod(0o644)
    with pytest.raises(CannotStart, match=r"could be read by others \(mode 644\)"):
        admintoken.ensure(tmp_path, "")


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "admin_token"
    path.touch(mode=0o600)
    with pytest.raises(CannotStart, match="is empty"):
        admintoken.ensure(tmp_path, "")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("known")
    (tmp_path / "admin_token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotStart, match="can't be read"):
        admintoken.ensure(tmp_path, "")


def test_a_state_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="Not a directory"):
        admintoken.ensure(tmp_path / "file" / "state", "")
