from __future__ import annotations

import dataclasses
from pathlib import Path

import asyncpg
import pytest

import tenantry
from tenantry import Settings
from tenantry.errors import ConfigurationError
from tenantry.settings import parse_url, url_text
from tests.conftest import Urls


def test_empty_variables_count_as_unset() -> None:
    """`TENANTRY_DATABASE_URL=` is how a shell says "not set"."""
    settings = Settings.from_environment(
        {"TENANTRY_DATABASE_URL": "", "TENANTRY_ADMIN_URL": "", "TENANTRY_DATA_DIR": ""}
    )
    assert settings == Settings()


def test_everything_is_read(tmp_path: Path) -> None:
    """All three variables arrive."""
    settings = Settings.from_environment(
        {
            "TENANTRY_DATABASE_URL": "postgres://app:a@h/d",
            "TENANTRY_ADMIN_URL": "postgresql+psycopg://admin:b@h/d",
            "TENANTRY_DATA_DIR": str(tmp_path),
        }
    )
    assert settings.database_url == parse_url("postgresql://app:a@h/d")
    assert settings.admin_url == parse_url("postgresql://admin:b@h/d")
    assert settings.data_dir == tmp_path


def test_passwords_are_masked() -> None:
    """No repr or str of settings or of a URL in them shows a password."""
    for text in ("postgresql://app:hunter2@h/d", "postgresql://app@h/d?password=hunter2"):
        settings = Settings(database_url=parse_url(text))
        assert settings.database_url is not None
        assert settings.database_url.password == "hunter2"
        assert "hunter2" not in f"{settings} {settings!r} {settings.database_url}"


def test_settings_are_frozen() -> None:
    """What was built at the edge does not change on its way down."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().pool_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hunter2", "is not a URL"),
        ("postgresql://app:hunter2@h:port/d", "is not a URL"),
        ("mysql://app:hunter2@h/d", "is for 'mysql'"),
        ("postgresql://app:hunter2@h", "names no database"),
        ("postgresql://app:hunter2@h:99999/d", "has port 99999; 1 to 65535"),
        ("postgresql://app:a@hunter2@h/d", "has an @ in its password"),
        ("postgresql://app@h/d?sslpassword=hunter2", "has sslpassword"),
    ],
)
def test_a_url_that_cannot_be_used_is_not_repeated(url: str, message: str) -> None:
    """The message says what is required, and never shows the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match=f"^TENANTRY_DATABASE_URL {message}") as caught:
        Settings.from_environment({"TENANTRY_DATABASE_URL": url})
    assert "hunter2" not in str(caught.value)
    assert "required" in str(caught.value)


def test_an_admin_url_alone_is_refused() -> None:
    """Otherwise the application would silently use another database than the administrator."""
    with pytest.raises(ConfigurationError, match="TENANTRY_DATABASE_URL is not"):
        Settings.from_environment({"TENANTRY_ADMIN_URL": "postgresql://a@h/d"})


def test_a_replica_url_alone_is_refused() -> None:
    """A replica is of something."""
    with pytest.raises(ConfigurationError, match="TENANTRY_REPLICA_URL is set"):
        Settings.from_environment({"TENANTRY_REPLICA_URL": "postgresql://a@h/d"}, admin_alone=True)


async def test_a_printed_url_is_read_by_the_driver(urls: Urls) -> None:
    """Options survive the way through text: no plus sign for a space."""
    url = urls.admin.update_query_dict({"options": "-c role=tenantry_operator"})
    assert "+" not in url_text(url)
    connection = await asyncpg.connect(url_text(url))
    assert await connection.fetchval("SELECT current_user::text") == "tenantry_operator"
    await connection.close()


def test_the_package_exports_what_the_documentation_names() -> None:
    """The public names, and no more."""
    assert tenantry.__all__ == [
        "Database",
        "Settings",
        "TenantSession",
        "TenantryError",
        "__version__",
    ]
