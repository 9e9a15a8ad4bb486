"""Has sqlmap try every parameter of the support desk, and first some that are made to be found.

    pip install sqlmap        # anywhere; it is not in our locks
    .venv/bin/python -m scripts.sql_injection path/to/sqlmap

The requests are made from the application's OpenAPI, each sent by a signed-in owner of its own; one
for each way to show a credential is added. The desk runs as the application's role on an embedded
PostgreSQL, over plain HTTP on this machine, with hashes that cost nothing and no throttling: else
most of what is sent would never come as far as a statement. It ends with 1 when a parameter can be
injected into, was not tried, or makes the application fail, and when a flaw is not found: then
nothing was proven. ``--only`` tries again what names a text, such as ``/auth/sign-in``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import make_url, select
from starlette.types import Message, Receive, Scope, Send

from scripts.sql_flaws import flaws
from tenantry import Database, Settings
from tenantry.auth import Auth, Mail
from tenantry.auth.profiles import TESTING
from tenantry.fastapi import DoorSettings
from tenantry.ops import embedded
from tenantry.ops.migrations import migrate
from tenantry.ops.project import load_project
from tenantry.schema import ConversationSession, Tenant, Widget
from tenantry.schema.row_security import APP_ROLE

EXAMPLE: Final = Path(__file__).parents[1] / "examples" / "support_desk"
sys.path.insert(0, str(EXAMPLE))

from support_desk.app import create_app  # noqa: E402
from support_desk.demo import fill  # noqa: E402

PASSWORD: Final = "seven ducks crossed a bridge"
UNTHROTTLED: Final = replace(TESTING, account_attempts=10**6, address_attempts=10**6)
MARK: Final = "*"
"""Where sqlmap injects."""


@dataclass
class Case:
    """A request whose marked parameters are tried.

    Args:
        method: The HTTP method.
        path: The template, as in the OpenAPI.
        target: The path and query that are sent.
        headers: All but the length.
        body: In the form of its content type.
    """

    method: str
    path: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return f"{self.method.upper()} {self.path}"

    @property
    def is_flaw(self) -> bool:
        """Whether it has to be found."""
        return self.path.startswith("/flaws/")

    @property
    def marks(self) -> int:
        """How many parameters are to be tried."""
        return sum(each.count(MARK) for each in (self.target, self.body, *self.headers.values()))

    def raw(self) -> str:
        """The request as sqlmap reads it."""
        lines = [f"{self.method.upper()} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", self.body])


@dataclass
class Recorded:
    """The application, and how often it has answered with which status."""

    app: FastAPI
    statuses: Counter[int] = field(default_factory=Counter)
    failures: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
                if message["status"] in {500, 503} and not scope["path"].startswith("/flaws/"):
                    self.failures.add(f"{scope['method']} {scope['path']}: {message['status']}")
            await send(message)

        await self.app(scope, receive, noting)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Recorded, str]]:
    """Serve the desk, with the flaws in it, on a database of its own."""
    folder = Path(tempfile.mkdtemp(prefix="sql-injection-"))
    await asyncio.to_thread(folder.chmod, 0o755)  # as root the server runs as another user
    try:
        started = embedded.start(folder / "data", settings={"fsync": "off"})
        admin = make_url(started.url())
        await migrate(admin, project=load_project(EXAMPLE))
        settings = Settings(database_url=admin.set(username=APP_ROLE), admin_url=admin)
        async with Database.connect(settings=settings) as db:
            await fill(db, Auth(db, profile=UNTHROTTLED))
        options: dict[str, Any] = {"insecure_http": True, "send": _send, "sign_up": True}
        app = create_app(DoorSettings(database=settings, profile=UNTHROTTLED, **options))
        app.include_router(flaws)
        recorded = Recorded(app)
        config = uvicorn.Config(recorded, port=0, log_level="critical", ws="none")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        try:
            yield recorded, f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


async def _send(mail: Mail) -> None:
    pass


class Cases:
    """Makes the requests.

    Args:
        app: The running application.
        host: Where it listens.
    """

    def __init__(self, app: FastAPI, host: str) -> None:
        self.app = app
        self.host = host
        self.auth: Auth = app.state.tenantry.auth
        self.db: Database = app.state.tenantry.db
        self.users = 0

    async def all(self) -> list[Case]:
        """Return one for each operation that has parameters, and one for each credential."""
        async with self.db.operator(reason="sqlmap") as tx:
            self.tenant = (await tx.scalars(select(Tenant.id).where(Tenant.slug == "acme"))).one()
        async with self.db.tenant(self.tenant) as tx:
            self.widget = await tx.scalar(select(Widget.id).limit(1))
            self.conversation = await tx.scalar(select(ConversationSession.id).limit(1))
        spec = self.app.openapi()
        cases = [
            await self._of(spec, path, method, operation)
            for path, item in spec["paths"].items()
            for method, operation in item.items()
        ]
        cases += await self._credentials()
        return sorted((case for case in cases if case.marks), key=lambda case: not case.is_flaw)

    async def _user(self) -> tuple[str, dict[str, str]]:
        """Make a user who is signed in."""
        self.users += 1
        email = f"user{self.users}@acme.example"
        await self.auth.register(self.tenant, email, PASSWORD, role="owner")
        signed_in = await self.auth.sign_in(self.tenant, email, PASSWORD)
        other = await self.auth.sign_in(self.tenant, email, PASSWORD)
        return email, {
            "session": signed_in.token,
            "session-device": signed_in.device_token,
            "session_id": other.session.id,
        }

    def _headers(self, **more: str) -> dict[str, str]:
        return {"Host": self.host, "Sec-Fetch-Site": "same-origin", **more}

    async def _of(
        self, spec: dict[str, Any], path: str, method: str, operation: dict[str, Any]
    ) -> Case:
        email, tokens = await self._user()
        values = {
            "email": email, "tenant": "acme", "workspace": "acme", "password": PASSWORD,
            "current": PASSWORD, "new": PASSWORD, "transport": "cookie", "theme": "dark",
            "device_token": tokens["session-device"], "session_id": tokens["session_id"],
            "widget_id": str(self.widget), "conversation_id": str(self.conversation),
            "allowed_origins": "https://a.example", "q": "refund", "token": "x" * 43,
            "name": "Shop" if path.startswith("/flaws") else f"Name {self.users}",
        }  # fmt: skip

        def marked(name: str) -> str:
            return values.get(name, f"{name}-{self.users}") + MARK

        wanted = "application/json" if path.startswith("/auth/") else "text/html"
        case = Case(method, path, path, self._headers(Accept=wanted))
        cookies = {"session": tokens["session"]} if operation.get("security") else {}
        query = {}
        for each in operation.get("parameters", ()):
            value = marked(each["name"])
            if each["in"] == "path":
                case.target = case.target.replace(f"{{{each['name']}}}", value)
            elif each["in"] == "query":
                query[each["name"]] = value
            elif each["in"] == "header":
                case.headers[each["name"]] = value
            else:
                cookies[each["name"]] = value
        if query:
            case.target += f"?{urlencode(query, safe=MARK)}"
        if cookies:
            case.headers["Cookie"] = _cookie_header(cookies)
        for kind, fields in _bodies(spec, operation):
            case.headers["Content-Type"] = kind
            given = {name: marked(name) for name in fields}
            case.body = json.dumps(given) if "json" in kind else urlencode(given, safe=MARK)
        return case

    async def _credentials(self) -> list[Case]:
        email, tokens = await self._user()
        cookie = _cookie_header(
            {name: tokens[name] + MARK for name in ("session", "session-device")}
        )
        bearer = f"Bearer {tokens['session']}{MARK}"
        key = (await self.auth.issue_api_key(self.tenant)).key + MARK
        body = {"email": email, "tenant": "acme", "password": PASSWORD}
        told = {"User-Agent": f"Firefox{MARK}", "X-Request-ID": f"0198c0de{MARK}"}
        given = [
            ("get", "/auth/session", self._headers(Cookie=cookie, **told), ""),
            ("get", "/auth/session", self._headers(Authorization=bearer), ""),
            ("get", "/sign-in", self._headers(**{"X-API-Key": key}), ""),
            ("get", "/sign-in", self._headers(Authorization=f"Bearer {key}"), ""),
            (
                "post", "/auth/sign-in",
                self._headers(Cookie=cookie, **told, **{"Content-Type": "application/json"}),
                json.dumps(body),
            ),
        ]  # fmt: skip
        return [Case(method, path, path, headers, body) for method, path, headers, body in given]


def _cookie_header(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _bodies(spec: dict[str, Any], operation: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "$ref" in schema:
            schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        yield kind, list(schema["properties"])


@dataclass
class Sqlmap:
    """The program, and how it is run.

    Args:
        program: Its path.
        options: For all runs.
        folder: For its files.
    """

    program: str
    options: list[str]
    folder: Path

    async def attempt(self, case: Case, number: int) -> str | None:
        """Try one request; return what is wrong, or None."""
        request = self.folder / f"{number}.txt"
        request.write_bytes(case.raw().encode())
        process = await asyncio.create_subprocess_exec(
            self.program, "-r", request, "--batch", "--dbms=PostgreSQL", "--flush-session",
            "--ignore-code=*", "--ignore-redirects", "--drop-set-cookie", "--disable-coloring",
            f"--output-dir={self.folder / str(number)}", *self.options,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate())[0].decode("utf-8", "replace")
        (self.folder / f"{number}.log").write_text(output)
        found = "identified the following injection point" in output
        if case.is_flaw:
            return None if found else "a flaw was not found, so that nothing is proven"
        if found:
            return "can be injected into"
        # Those that are marked; at this level sqlmap adds some headers by itself.
        tried = set(re.findall(r"testing for SQL injection on (.+'(?:JSON .+|.*#\d+\*)')", output))
        is_whole = "tested parameters do not appear to be injectable" in output
        if len(tried) < case.marks or not is_whole:
            return f"only {len(tried)} of {case.marks} parameters were tried"
        return None


async def arrives(case: Case, client: httpx.AsyncClient) -> bool:
    """Whether the request without anything injected gets past sign-in and the form."""
    headers = {name: value.replace(MARK, "") for name, value in case.headers.items()}
    target, body = case.target.replace(MARK, ""), case.body.replace(MARK, "")
    answer = await client.request(case.method, target, headers=headers, content=body or None)
    # Mailed tokens are not to be had here, and what is deleted or made is there only once.
    allowed = {401} if case.path.endswith("/redeem") else {404, 409}
    is_sent_away = answer.headers.get("location") == "/sign-in"
    return (answer.is_success or answer.status_code in {303, *allowed}) and not is_sent_away


async def is_still_signed_in(case: Case, client: httpx.AsyncClient) -> bool:
    """Whether a session that was not tried itself has lasted to the end."""
    cookie = case.headers.get("Cookie", "")
    if "session=" not in cookie or f"{MARK};" in cookie:
        return True
    headers = {"Cookie": cookie.replace(MARK, ""), "Accept": "application/json"}
    return (await client.get("/auth/session", headers=headers)).is_success


async def main(given: argparse.Namespace) -> int:
    """Try all, and return the exit code."""
    logging.disable()  # the flaws fail thousands of times, and what else fails is counted
    folder = Path(tempfile.mkdtemp(prefix="sqlmap-"))
    sqlmap = Sqlmap(given.sqlmap, [f"--level={given.level}", f"--risk={given.risk}"], folder)
    slots, wrong = asyncio.Semaphore(given.jobs), []
    async with served() as (recorded, host):
        cases = [case for case in await Cases(recorded.app, host).all() if given.only in case.name]

        async def attempt(case: Case, number: int) -> None:
            async with slots, httpx.AsyncClient(base_url=f"http://{host}") as client:
                fault = "is refused as it is" if not await arrives(case, client) else None
                fault = fault or await sqlmap.attempt(case, number)
                if fault is None and not await is_still_signed_in(case, client):
                    fault = "was signed out on the way"
            told = fault or ("found, as it has to be" if case.is_flaw else "nothing")
            print(f"{number:3} {case.name}: {case.marks} parameters: {told}", flush=True)
            if fault is not None:
                wrong.append(f"{case.name}: {fault}; see {folder / f'{number}.log'}")

        await asyncio.gather(*(attempt(case, number) for number, case in enumerate(cases)))
        parameters = sum(case.marks for case in cases if not case.is_flaw)
        print(f"{parameters} parameters, answers by status: {dict(recorded.statuses)}")
    wrong += [f"failed: {each}" for each in sorted(recorded.failures)[:10]]
    if not cases:
        wrong.append("No operation has this name, so nothing was tried.")
    print("\n".join(wrong) or "Nothing can be injected into but the flaws.")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="sql_injection", description=__doc__)
    parser.add_argument("sqlmap", help="the program")
    parser.add_argument("--level", type=int, default=5)
    parser.add_argument("--risk", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="operations whose name contains this text")
    sys.exit(asyncio.run(main(parser.parse_args())))
