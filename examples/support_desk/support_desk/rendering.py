"""How answers look in a browser: templates, problems as pages, and the headers of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.templating import Jinja2Templates
from starlette.responses import RedirectResponse, Response

from support_desk.plots import short
from tenantry import TenantSession
from tenantry.auth import Principal
from tenantry.fastapi import SessionPrincipal, TenantTx
from tenantry.schema import Tenant, User

HEADERS: Final = {
    # Nothing but our own files, and no script at all.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    # No page of another site holds our windows, to turn them elsewhere, or has our answers.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

# Templates whose names end in .html escape what they are given.
templates: Final = Jinja2Templates(Path(__file__).parent / "templates")


def _when(time: datetime) -> str:
    return f"{time:%d %b %Y, %H:%M} UTC"


templates.env.filters["when"] = _when
templates.env.filters["short"] = short


@dataclass(frozen=True)
class Desk:
    """A page of somebody who is signed in: who it is, and a session of the tenant."""

    request: Request
    principal: Principal
    tx: TenantSession
    user: User
    tenant: Tenant

    @property
    def is_admin(self) -> bool:
        """Whether the user may configure widgets."""
        return self.principal.role in {"admin", "owner"}

    def page(self, name: str, *, status: int = 200, **context: Any) -> Response:
        """Return the page ``name``."""
        return templates.TemplateResponse(
            self.request, name, {"desk": self, **context}, status_code=status
        )


async def _desk(request: Request, principal: SessionPrincipal, tx: TenantTx) -> Desk:
    user = await tx.get_one(User, principal.user_id)
    tenant = await tx.get_one(Tenant, principal.tenant_id)
    return Desk(request, principal, tx, user, tenant)


CurrentDesk = Annotated[Desk, Depends(_desk)]


def go_to(path: str) -> Response:
    """Answer a form: have the browser load a page, so that a reload does not send it again."""
    return RedirectResponse(path, status_code=303)


def problem_page(problem: Mapping[str, Any]) -> str:
    """Return the page that people see of what programs are told in JSON."""
    return templates.get_template("problem.html").render(problem=problem)
