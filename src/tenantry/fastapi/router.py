"""The routes of signing in, and those that say whether the application is alive."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.routing import Match

from tenantry.asgi import Exchange, Scope, bodies, path_of
from tenantry.asgi.callers import user_of
from tenantry.asgi.examples import DEVICES
from tenantry.asgi.openapi import OWN, references
from tenantry.auth import SessionInfo
from tenantry.errors import TenantUnknownError
from tenantry.fastapi.dependencies import CurrentDoor, SessionPrincipal

__all__ = ["Routes", "health", "mailing", "sign_up", "signing_in"]


class Routes(APIRouter):
    """Routes whose paths begin with one of ``starts``; for others FastAPI need not try each."""

    starts: tuple[str, ...]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `starlette.routing.BaseRoute.matches`."""
        is_ours = path_of(scope).startswith(self.starts)
        return super().matches(scope) if is_ours else (Match.NONE, {})


class _Visit:
    """A request to one of these routes."""

    def __init__(self, request: Request) -> None:
        self.exchange = Exchange.of(request.scope)
        self.door = self.exchange.door
        self.auth = self.door.auth
        self.address = self.door.settings.client_address(request)
        self.request = request

    async def tenant(self, named: str | None) -> UUID:
        return await self.door.tenant(self.request, named)


async def _visit(request: Request) -> _Visit:
    return _Visit(request)


Visit = Annotated[_Visit, Depends(_visit)]


signing_in, mailing, sign_up = (APIRouter(tags=["sign-in"]) for _ in range(3))
health: Final = APIRouter(tags=["health"])


@signing_in.post("/sign-in", responses=references(401, 429))
async def sign_in(body: bodies.SignIn, visit: Visit) -> bodies.NewSession:
    """Sign in, on a new session; the one that the browser had before ends."""
    signed_in = await visit.door.sign_in(
        visit.request,
        tenant=body.tenant,
        email=body.email,
        password=body.password.get_secret_value(),
        transport=body.transport,
        device_token=body.device(),
    )
    return bodies.NewSession.made(signed_in, with_tokens=body.transport == "bearer")


@signing_in.post("/sign-out", status_code=204)
async def sign_out(visit: Visit) -> None:
    """End the session that the request shows. Whoever has none is signed out already."""
    await visit.door.sign_out(visit.request)


@signing_in.get("/session")
async def session(principal: SessionPrincipal, visit: Visit) -> bodies.Session:
    """Say who is signed in."""
    return bodies.Session.of(await visit.auth.user(*user_of(principal)), principal)


@signing_in.get("/sessions", responses={200: DEVICES})
async def sessions(principal: SessionPrincipal, visit: Visit) -> list[SessionInfo]:
    """List the devices on which the user is signed in, the newest first."""
    return await visit.auth.sessions(*user_of(principal))


@signing_in.delete("/sessions", status_code=204)
async def revoke_others(principal: SessionPrincipal, visit: Visit) -> None:
    """Sign out everywhere else."""
    await visit.auth.revoke_all(*user_of(principal), except_session=principal.session_id)


@signing_in.delete("/sessions/{session_id}", status_code=204)
async def revoke(session_id: str, principal: SessionPrincipal, visit: Visit) -> None:
    """Sign out there."""
    if not await visit.auth.revoke(*user_of(principal), session_id):
        raise HTTPException(404, "You have no such session.")
    visit.exchange.drops_cookie = session_id == principal.session_id


@signing_in.post("/password", status_code=204, responses=references(429))
async def change_password(
    body: bodies.PasswordChange, principal: SessionPrincipal, visit: Visit
) -> None:
    """Change the password; the user's other sessions end, and copies of this one's cookie."""
    await visit.door.change_password(
        visit.request,
        principal,
        current=body.current.get_secret_value(),
        new=body.new.get_secret_value(),
    )


@mailing.post("/password-reset", status_code=202, responses=references(429))
async def request_password_reset(body: bodies.Account, visit: Visit) -> None:
    """Have a token mailed, if there is such an account; the answer does not tell."""
    with suppress(TenantUnknownError):
        tenant = await visit.tenant(body.tenant)
        await visit.auth.request_password_reset(tenant, body.email, address=visit.address)


@mailing.post("/password-reset/redeem", status_code=204, responses=references(401))
async def reset_password(body: bodies.PasswordReset, visit: Visit) -> None:
    """Choose a new password with a mailed token; all the user's sessions end."""
    await visit.auth.reset_password(body.token.get_secret_value(), body.new.get_secret_value())


@mailing.post("/email-verification", status_code=202, responses=references(429))
async def request_email_verification(principal: SessionPrincipal, visit: Visit) -> None:
    """Have a token mailed that shows that the address is the user's."""
    await visit.auth.request_email_verification(*user_of(principal))


@mailing.post("/email-verification/redeem", status_code=204, responses=references(401))
async def verify_email(body: bodies.EmailProof, visit: Visit) -> None:
    """Show with a mailed token that the address is the user's."""
    await visit.auth.verify_email(body.token.get_secret_value())


@sign_up.post("/sign-up", status_code=202, responses=references(429))
async def become_member(body: bodies.SignUp, visit: Visit) -> None:
    """Become a member, and choose the password with a mailed token; no answer tells who is one."""
    with suppress(TenantUnknownError):
        tenant = await visit.tenant(body.tenant)
        await visit.auth.sign_up(tenant, body.email, name=body.name, address=visit.address)


@health.get("/healthz", status_code=204)
async def is_alive() -> None:
    """Say that the process is alive."""


@health.get("/readyz", status_code=204)
async def is_ready(door: CurrentDoor) -> None:
    """Say whether the database answers."""
    await door.ready()


for route in (*signing_in.routes, *mailing.routes, *sign_up.routes, *health.routes):
    route.openapi_extra = OWN  # type: ignore[attr-defined]
