"""Visitors are kept apart, and what they brought goes when they go."""

import stat

import pytest

from coronary.viewer.settings import ViewerSettings, settings
from coronary.viewer.store import Store, new_token
from shared.errors import SetupError


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    made = Store(ViewerSettings(folder=tmp_path, leave_minutes=5, keep_minutes=60, max_scans=3), clock)
    yield made
    made.close()
    assert not made.root.exists()


def add_case(visitor, case_id):
    folder = visitor.folder / case_id
    folder.mkdir()
    return visitor.save(folder, {"scan": "somewhere", "name": "scan.nii.gz"})


def test_a_visitor_has_a_folder_that_the_token_cannot_be_read_from(store):
    token = new_token()
    visitor = store.visitor(token)
    assert token not in str(visitor.folder)
    assert store.visitor(token).folder == visitor.folder
    assert stat.S_IMODE(visitor.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("token", [None, "", "short", "../" * 14 + "x", "a" * 44, "a" * 42 + "/"])
def test_what_is_no_token_has_no_folder(store, token):
    assert store.visitor(token) is None
    assert not list(store.root.iterdir())


def test_nobody_opens_another_s_case(store):
    one, other = store.visitor(new_token()), store.visitor(new_token())
    add_case(one, "0" * 16)
    assert one.case("0" * 16).info["name"] == "scan.nii.gz"
    assert other.case("0" * 16) is None
    for wrong in (None, "", "..", f"../{one.folder.name}/{'0' * 16}", "0" * 15, "g" * 16):
        assert other.case(wrong) is None


def test_a_case_that_was_not_opened_whole_is_not_there(store):
    visitor = store.visitor(new_token())
    (visitor.folder / ("1" * 16)).mkdir()
    assert visitor.case("1" * 16) is None
    (visitor.folder / ("1" * 16) / "case.json").write_text("{half")
    assert visitor.case("1" * 16) is None


def test_files_outlive_a_reload_but_not_the_visitor(store, clock):
    visitor = store.visitor(new_token())
    closed = store.page_opened(visitor)
    clock.now = 30 * 60
    store.sweep()
    assert visitor.folder.exists()  # the page is open
    closed()
    opened_again = store.page_opened(visitor)
    clock.now += 6 * 60
    store.sweep()
    assert visitor.folder.exists()
    opened_again()
    clock.now += 4 * 60
    store.sweep()
    assert visitor.folder.exists()  # a reload may take its time
    clock.now += 2 * 60
    store.sweep()
    assert not visitor.folder.exists()


def test_a_page_left_open_does_not_keep_files_for_ever(store, clock):
    token, told = new_token(), []
    store.on_delete(told.append)
    visitor = store.visitor(token)
    store.page_opened(visitor)
    clock.now = 59 * 60
    store.visitor(token)  # still looks at it
    clock.now = 118 * 60
    store.sweep()
    assert visitor.folder.exists()
    clock.now = 120 * 60
    store.sweep()
    assert not visitor.folder.exists()
    assert told == [visitor.folder]
    assert store.visitor(token).folder.exists()  # and may come again


def test_the_scan_opened_longest_ago_makes_room(store):
    import os

    visitor = store.visitor(new_token())
    for n in range(4):
        case = add_case(visitor, f"{n:016x}")
        os.utime(case.folder, (n, n))
    visitor.make_room(3, keep=f"{3:016x}")
    assert sorted(path.name for path in visitor.folder.iterdir()) == [f"{n:016x}" for n in (1, 2, 3)]


def test_what_a_killed_server_left_is_deleted_by_the_next(tmp_path, monkeypatch):
    import os
    import subprocess
    import sys
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    orphan, mine = (tmp_path / f"skiagram-viewer-{pid}-x" for pid in (gone.pid, os.getpid()))
    orphan.mkdir()
    mine.mkdir()
    made = Store(ViewerSettings())
    assert not orphan.exists()
    assert mine.exists()  # its process lives
    made.close()


def test_settings_come_from_the_environment(monkeypatch):
    settings.cache_clear()
    monkeypatch.setenv("SKIAGRAM_VIEWER_MAX_UPLOAD_MB", "100")
    monkeypatch.setenv("SKIAGRAM_VIEWER_SERVER_PATHS", "false")
    try:
        assert settings().max_upload_mb == 100
        assert settings().server_paths is False
        settings.cache_clear()
        monkeypatch.setenv("SKIAGRAM_VIEWER_MAX_UPLOAD_MB", "plenty")
        with pytest.raises(SetupError, match=r"SKIAGRAM_VIEWER_MAX_UPLOAD_MB.*'plenty'"):
            settings()
        monkeypatch.delenv("SKIAGRAM_VIEWER_MAX_UPLOAD_MB")
        monkeypatch.setenv("SKIAGRAM_VIEWER_COLOUR", "green")
        with pytest.raises(SetupError, match="SKIAGRAM_VIEWER_COLOUR"):
            settings()
    finally:
        settings.cache_clear()
