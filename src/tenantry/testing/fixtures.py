"""The fixtures. Those that need an event loop run on the test's own, whatever its scope is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from tenantry.auth import Auth, UserInfo
from tenantry.auth.profiles import TESTING
from tenantry.database import Database
from tenantry.ops.project import Project, load_project
from tenantry.schema import Tenant
from tenantry.settings import ADMIN_URL, DATABASE_URL, REPLICA_URL, Settings, url_text
from tenantry.testing.administrator import Administrator
from tenantry.testing.applications import App
from tenantry.testing.isolation import assert_isolated as check_isolation
from tenantry.testing.plugin import CLONES, RUN
from tenantry.testing.recording import RecordedSql
from tenantry.testing.recording import recorded_sql as record_sql
from tenantry.testing.report import IsolationReport
from tenantry.testing.templates import hold
from tenantry.testing.workbench import Credentials, Workbench, bearer

__all__: list[str] = []

_POOL: Final = 3
"""Connections of each pool: many tests at once share a server that has 100 or 200."""


@pytest.fixture(scope="session")
def tenantry_project(pytestconfig: pytest.Config) -> Project:
    """Your models and migrations: those of the option, else of pyproject.toml. Override at will."""
    models = tuple(pytestconfig.getini("tenantry_models"))
    return load_project(pytestconfig.rootpath, models=models)


@pytest.fixture(scope="session")
def _tenantry_clone(
    pytestconfig: pytest.Config, tenantry_project: Project
) -> Iterator[Callable[[], Iterator[Settings]]]:
    template = pytestconfig.stash[RUN].template(tenantry_project)
    with closing(Administrator(template.server)) as administrator:
        hold(administrator, template.run)

        def clone() -> Iterator[Settings]:
            began = time.perf_counter()
            name = template.clone(administrator)
            pytestconfig.stash[CLONES].append(time.perf_counter() - began)
            yield Settings(
                database_url=template.app_url(name),
                admin_url=template.admin_url(name),
                pool_size=_POOL,
                pooler=False,
            )
            administrator.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

        yield clone


@pytest.fixture
def tenantry_settings(
    _tenantry_clone: Callable[[], Iterator[Settings]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A database of the test's own, as settings, and as what ``Database.connect()`` finds."""
    clone = _tenantry_clone()
    settings = next(clone)
    assert settings.database_url is not None  # noqa: S101 - for the type checker
    assert settings.admin_url is not None  # noqa: S101
    # Your application must find this database, and never the one that you develop with.
    monkeypatch.setenv(DATABASE_URL, url_text(settings.database_url))
    monkeypatch.setenv(ADMIN_URL, url_text(settings.admin_url))
    monkeypatch.delenv(REPLICA_URL, raising=False)
    yield settings
    next(clone, None)


@pytest.fixture
def tenantry_credentials() -> Credentials:
    """How clients show their session tokens: ``Authorization: Bearer``. Override for cookies."""
    return bearer


@pytest.fixture
def tenantry_app() -> App | None:
    """Your ASGI application. Override it."""
    return None


def _bench_on(scope: Any) -> Any:
    async def opened(
        tenantry_settings: Settings, tenantry_credentials: Credentials
    ) -> AsyncIterator[Workbench]:
        async with Database.connect(settings=tenantry_settings) as db:
            auth = Auth(db, profile=TESTING, validation_connections=1)
            bench = Workbench(db, auth, credentials=tenantry_credentials)
            try:
                yield bench
            finally:
                await bench.close()

    return pytest_asyncio.fixture(opened, loop_scope=scope, name=f"_tenantry_bench_{scope}")


def _attacker_on(scope: Any) -> Any:
    async def signed_in(
        _tenantry_bench: Workbench, tenantry_app: App | None
    ) -> AsyncIterator[httpx.AsyncClient]:
        tenant = await _tenantry_bench.make_tenant("Attacker")
        user = await _tenantry_bench.make_user(tenant, role="owner", email="eve@attacker.example")
        yield await _tenantry_bench.client_of(user, app=tenantry_app)

    return pytest_asyncio.fixture(signed_in, loop_scope=scope, name=f"_tenantry_attacker_{scope}")


# A Database belongs to one event loop. pytest-asyncio wants to know the loop of a fixture when it
# is declared, and a test chooses its own; so there is one of each, and the test's is taken.
for _scope in ("function", "class", "module", "package", "session"):
    globals()[f"_tenantry_bench_{_scope}"] = _bench_on(_scope)
    globals()[f"_tenantry_attacker_{_scope}"] = _attacker_on(_scope)


def _loop_scope(request: pytest.FixtureRequest) -> str:
    marker = request.node.get_closest_marker("asyncio")
    given = marker and (marker.kwargs.get("loop_scope") or marker.kwargs.get("scope"))
    return given or request.config.getini("asyncio_default_test_loop_scope") or "function"


@pytest.fixture
def _tenantry_bench(request: pytest.FixtureRequest) -> Workbench:
    bench: Workbench = request.getfixturevalue(f"_tenantry_bench_{_loop_scope(request)}")
    return bench


@pytest.fixture
def tenantry_db(_tenantry_bench: Workbench) -> Database:
    """A database of the test's own, opened as the application's role."""
    return _tenantry_bench.db


@pytest.fixture
def tenantry_auth(_tenantry_bench: Workbench) -> Auth:
    """Signing in on it, with hashes that cost nothing."""
    return _tenantry_bench.auth


@pytest.fixture
def make_tenant(_tenantry_bench: Workbench) -> Callable[..., Awaitable[Tenant]]:
    """Makes a tenant, see `Workbench.make_tenant`."""
    return _tenantry_bench.make_tenant


@pytest.fixture
def make_user(_tenantry_bench: Workbench) -> Callable[..., Awaitable[UserInfo]]:
    """Makes a user, see `Workbench.make_user`."""
    return _tenantry_bench.make_user


@pytest.fixture
def client_of(
    _tenantry_bench: Workbench, tenantry_app: App | None
) -> Callable[..., Awaitable[httpx.AsyncClient]]:
    """Signs a user in, see `Workbench.client_of`; by default, to ``tenantry_app``."""
    return partial(_tenantry_bench.client_of, app=tenantry_app)


@pytest.fixture
def anonymous_client(
    _tenantry_bench: Workbench, tenantry_app: App | None
) -> Callable[..., Awaitable[httpx.AsyncClient]]:
    """Makes a client that is not signed in; by default, of ``tenantry_app``."""
    return partial(_tenantry_bench.anonymous_client, app=tenantry_app)


@pytest.fixture
def attacker(request: pytest.FixtureRequest) -> httpx.AsyncClient:
    """A client of another tenant's owner, for which nothing of your test's tenants may be there."""
    client: httpx.AsyncClient = request.getfixturevalue(
        f"_tenantry_attacker_{_loop_scope(request)}"
    )
    return client


@pytest.fixture
def assert_isolated(
    _tenantry_bench: Workbench, tenantry_project: Project
) -> Callable[..., Awaitable[IsolationReport]]:
    """Walks an application with two tenants, see `tenantry.testing.assert_isolated`."""
    return partial(check_isolation, bench=_tenantry_bench, metadata=tenantry_project.metadata)


@pytest.fixture
def recorded_sql() -> Iterator[RecordedSql]:
    """The SQL that is sent from here to the end of the test."""
    with record_sql() as recorded:
        yield recorded
