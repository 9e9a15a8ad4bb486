"""A program that types a page's Python into one interpreter, as a reader would.

The page sees what it makes itself and what is given to it, and nothing that the test imports.
``await`` may stand at the top. What does not await runs outside of the event loop, so that a page
may have one of its own.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import select

from tenantry import Database
from tenantry.schema import Tenant

Step = tuple[str, int, str]
"""The page's name and the line above the code, or an empty name for the test's own code."""


async def given(stack: AsyncExitStack) -> dict[str, Any]:
    """Return what every page takes for granted: an open database, and a tenant's id."""
    db = await stack.enter_async_context(Database.connect())
    async with db.operator(reason="test") as tx:
        tenant = await tx.scalar(select(Tenant.id).where(Tenant.slug == "acme"))
    return {"db": db, "tenant_id": tenant}


def read(steps: Iterable[Step]) -> None:
    """Run the steps one after the other."""
    stack = AsyncExitStack()
    page = sys.modules["page"] = ModuleType("page")
    with asyncio.Runner() as runner:
        own: dict[str, Any] = {"given": runner.run(given(stack)), "stack": stack}
        own.update(own["given"])
        for name, line, code in steps:
            if name:
                page.__dict__.update(own["given"])
            else:
                own.update({each: page.__dict__[each] for each in dir(page) if each[0] != "_"})
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            shown = "\n" * line + code  # so that an error names the page's line
            program = compile(shown, name or "around.py", "exec", flags, dont_inherit=True)
            made = eval(program, page.__dict__ if name else own)
            if inspect.iscoroutine(made):
                runner.run(made)
        runner.run(stack.aclose())


if __name__ == "__main__":
    read(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
