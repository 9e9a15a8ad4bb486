"""The user's project: which models it declares, and where its migrations are."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData

from tenantry.errors import ConfigurationError
from tenantry.schema import Base

__all__ = ["Project", "load_project"]

_TABLE: Final = "[tool.tenantry] in pyproject.toml"
_KEYS: Final = frozenset({"models", "migrations"})


@dataclass(frozen=True, slots=True)
class Project:
    """What is declared beyond tenantry's own tables.

    Args:
        migrations: The folder of the project's own migrations, which need not exist yet.
        metadata: Every declared table, tenantry's included.
        models: Where the models came from, for messages.
    """

    migrations: Path | None = None
    metadata: MetaData = field(default=Base.metadata)
    models: tuple[str, ...] = ()


def load_project(
    directory: Path | None = None,
    *,
    models: tuple[str, ...] = (),
    migrations: Path | None = None,
    import_models: bool = True,
) -> Project:
    """Import the project's models and find its migrations.

    Args:
        directory: Where to look for pyproject.toml, and upwards. None: the current folder.
        models: Modules (``shop.models``) or files (``models.py``) instead of those in
            pyproject.toml.
        migrations: The folder instead of the one in pyproject.toml.
        import_models: False where only the migrations matter.

    Raises:
        ConfigurationError: pyproject.toml cannot be read, or a module cannot be imported.
    """
    directory = (directory or Path.cwd()).resolve()
    root, configured = _configuration(directory)
    if not models:
        models = _strings(configured.get("models", []), "models")
        base = root
    else:
        base = directory
    if migrations is None:
        folder = configured.get("migrations", "migrations")
        if not isinstance(folder, str):
            raise ConfigurationError(f"migrations of {_TABLE} must be a path in quotes.")
        migrations = root / folder
    if import_models:
        for name in models:
            _import(name, base)
    return Project(migrations=migrations.resolve(), models=models)


def _configuration(directory: Path) -> tuple[Path, dict[str, Any]]:
    for folder in (directory, *directory.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            try:
                table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise ConfigurationError(f"Cannot read {file}: {error}.") from error
            return folder, _known(table.get("tenantry", {}), file)
    return directory, {}


def _known(table: object, file: Path) -> dict[str, Any]:
    # A misspelled key would leave models out, and what is not declared is dropped by a push.
    if not isinstance(table, dict) or not table.keys() <= _KEYS:
        found = ", ".join(sorted(table.keys() - _KEYS)) if isinstance(table, dict) else repr(table)
        raise ConfigurationError(
            f"[tool.tenantry] in {file} has {found}; only {' and '.join(sorted(_KEYS))} are known."
        )
    return dict(table)


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError(f'{name} of {_TABLE} must be a list, as in ["shop.models"].')
    return tuple(value)


def _import(name: str, base: Path) -> None:
    if str(base) not in sys.path:
        sys.path.insert(0, str(base))
    try:
        if name.endswith(".py"):
            _import_file((base / name).resolve(), base)
        else:
            importlib.import_module(name)
    except (Exception, SystemExit) as error:  # of a script without a guard
        raise ConfigurationError(
            f"Cannot import the models {name!r}: {type(error).__name__}: {error}"
        ) from error


def _import_file(file: Path, base: Path) -> None:
    if any(getattr(each, "__file__", None) == str(file) for each in [*sys.modules.values()]):
        return
    if (name := _name_in_package(file, base)) is not None:
        importlib.import_module(name)
        return
    module_name = file.stem
    specification = importlib.util.spec_from_file_location(module_name, file)
    if specification is None or specification.loader is None or not file.is_file():
        raise ConfigurationError(f"there is no file {file}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module
    specification.loader.exec_module(module)


def _name_in_package(file: Path, base: Path) -> str | None:
    """Return the name by which an application imports a file of a package of its own, or None.

    Under another name its tables would be declared a second time.
    """
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if root == file.parent and file.is_relative_to(base):
        root = base  # a package may do without the file
    parts = file.relative_to(root).with_suffix("").parts
    if len(parts) == 1 or not all(part.isidentifier() for part in parts):
        return None
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    name = ".".join(parts)
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None  # another package has the name of the folder
    return name if found is not None and found.origin == str(file) else None
