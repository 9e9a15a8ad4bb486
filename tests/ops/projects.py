"""A user's project, in a folder of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from uuid import uuid4

from sqlalchemy import MetaData

from tenantry.ops.project import Project
from tenantry.schema import Base


def declare(folder: Path, code: str) -> Project:
    """Declare models in a metadata of their own, so that one test's do not reach another's.

    ``code`` sees ``metadata``, a copy of tenantry's, for the base of its models.
    """
    name = f"models_{uuid4().hex[:8]}"
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata).info.update(table.info)
    module = ModuleType(name)
    module.__dict__["metadata"] = metadata
    sys.modules[name] = module
    exec(compile(dedent(code), name, "exec", dont_inherit=True), module.__dict__)
    return Project(migrations=folder / "migrations", metadata=metadata, models=(name,))


NOTES = """
    from uuid import UUID
    from sqlalchemy import ForeignKeyConstraint
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from tenantry.schema import Base, TenantScoped

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Note(TenantScoped, Mine):
        __tablename__ = "notes"
        __table_args__ = (
            ForeignKeyConstraint(
                ["tenant_id", "widget_id"], ["widgets.tenant_id", "widgets.id"]
            ),
        )
        widget_id: Mapped[UUID]
        body: Mapped[str]
        stars: Mapped[int | None]
"""

_ARGUMENTS = re.compile(r"        __table_args__ = \(.*?\n        \)\n", re.DOTALL)
NOTES_WITHOUT_KEY = _ARGUMENTS.sub("", NOTES)
assert "ForeignKeyConstraint(" not in NOTES_WITHOUT_KEY
