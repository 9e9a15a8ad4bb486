"""What goes out: problems, transactions that have ended, documentation; and the end itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import TypeAdapter
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tenantry import errors
from tenantry.asgi import bodies
from tenantry.asgi.problems import STATUSES, invalid_request, status_of
from tenantry.asgi.readiness import Readiness
from tenantry.auth import SessionInfo
from tenantry.errors import PasswordRefusedError, RetryLaterError, TenantryError
from tenantry.fastapi import TenantTx
from tenantry.schema import Widget
from tenantry.settings import url_text
from tests.auth.gateway import gateway
from tests.conftest import TenantPair, Urls
from tests.fastapi.conftest import EMAIL, GATES, PASSWORD, Site, eventually, running, sign_in

pytestmark = pytest.mark.untraced

SECRET = "correct-horse-and-its-secret"


def tree(error: type[TenantryError] = TenantryError) -> Iterator[type[TenantryError]]:
    for each in error.__subclasses__():
        if each.__module__ == errors.__name__:  # a door's own never leave it
            yield each
            yield from tree(each)


def make(error: type[TenantryError]) -> TenantryError:
    if issubclass(error, RetryLaterError):
        return error("too much", retry_after_seconds=7)
    if issubclass(error, PasswordRefusedError):
        return error("bad", reason="common")
    return error(f"found {SECRET}; run `tenantry db migrate`")


def test_every_error_has_a_status() -> None:
    """A new kind of error has to be given one; the table of the documentation says the same."""
    assert TenantryError not in STATUSES
    expected = {
        errors.InvalidCredentialsError: 401, errors.InvalidTokenError: 401,
        errors.ThrottledError: 429, errors.BusyError: 503, errors.DatabaseUnavailableError: 503,
        errors.PasswordRefusedError: 422, errors.InvalidValueError: 422,
        errors.ConflictError: 409, errors.LastOwnerError: 409,
        errors.UserUnknownError: 404, errors.TenantUnknownError: 404,
    }  # fmt: skip
    for error in tree():
        assert STATUSES.keys() & set(error.__mro__), error
        assert 400 <= status_of(make(error)) < 600
    assert status_of(type("OfAnApplication", (TenantryError,), {})()) == 500
    for error, status in expected.items():
        assert status_of(make(error)) == status


def test_a_message_that_quotes_the_input_is_left_out() -> None:
    """Pydantic's, and a validator's of the application, may hold what was typed or a part of it."""
    wrong: dict[str, Any] = {"loc": ("body", "x"), "type": "value_error", "msg": f"no {SECRET}"}
    wrong["input"] = SECRET
    nested = {**wrong, "input": {"who": ["ada", {"password": SECRET}]}}
    parsed = {**wrong, "type": "uuid_parsing", "msg": "No UUID, found `q` at 1", "input": "q"}
    parsed["ctx"] = {"error": "found `q` at 1"}
    told = invalid_request([wrong, nested, parsed, {**wrong, "msg": "no", "input": None}])
    messages = [each["msg"] for each in told.members("id")["errors"]]
    assert messages == ["The value cannot be used.", "The value cannot be used.", "No UUID", "no"]


def test_a_message_is_compared_with_inputs_of_any_depth() -> None:
    """Also with those on which recursion would fail: what lies at the bottom is not told."""
    deep: Any = [SECRET]
    for _ in range(9_000):
        deep = {"a": [deep]}
    wrong = {"loc": ("body",), "type": "value_error", "msg": f"no {SECRET}", "input": deep}
    told = invalid_request([wrong, {**wrong, "msg": "no"}]).members("id")["errors"]
    assert [each["msg"] for each in told] == ["The value cannot be used.", "no"]


async def test_no_letter_of_an_email_or_password_comes_back(site: Site) -> None:
    """Whatever is wrong with them: a 422 may be logged, or shown on a shared screen."""
    client = await site.signed_in()
    emails = ['"§ "@x.example', "§(ü)@x.example", "x@§¤.example", "ü§ <x@x.example>", "ü" * 300]
    bodies: list[tuple[str, dict[str, str]]] = [
        ("/auth/sign-up", {"email": email, "tenant": "acme"}) for email in emails
    ]
    bodies += [
        ("/auth/password", {"current": PASSWORD, "new": new})
        for new in ("§", "§" * 2000, "\0§§§§§§§§", "\ud800§§§§§§§§")
    ]
    kind = {"Content-Type": "application/json"}
    for path, body in bodies:
        response = await client.post(path, content=json.dumps(body), headers=kind)
        assert (response.status_code, "errors" in response.text) == (422, False), (path, body)
        assert not set("§¤ü") & set(response.text), response.text


async def test_errors_are_problems(site: Site) -> None:
    """Each of the tree, and what lies below: the right status, RFC 9457, and nothing else."""
    site.raises = False
    client = site.client()
    raised: list[Exception] = [make(error) for error in tree()]
    raised += [NoResultFound(SECRET), PoolTimeoutError(SECRET), ValueError(SECRET)]
    expected = [status_of(each) for each in raised if isinstance(each, TenantryError)]
    for error, status in zip(raised, [*expected, 404, 503, 500], strict=True):
        site.app.state.error = error
        response = await client.get("/api/fails")
        assert response.status_code == status, error
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == status
        assert problem["instance"] == response.headers["x-request-id"]
        assert {"type", "title", "detail"} < set(problem)
        if status >= 500 or status in {403, 404}:
            assert SECRET not in response.text
        assert ("retry-after" in response.headers) is (status in {429, 503})
        if isinstance(error, RetryLaterError):
            assert response.headers["retry-after"] == "7"


async def test_our_own_faults_are_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Each 500 once, with the request's id and the place; of what others raise only the kind."""
    site.raises = False
    client = await site.signed_in()
    database = DBAPIError(f"SELECT {SECRET}", {"password": SECRET}, Exception(SECRET))
    for error, told in (
        (errors.SchemaMissingError("run `tenantry db migrate`"), "run `tenantry db migrate`"),
        (ValueError(f"bad password {SECRET}"), ""),
        (database, ""),
    ):
        caplog.clear()
        site.app.state.error = error
        response = await client.get(f"/api/fails?password={SECRET}")
        assert response.status_code == 500
        records = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert [each.name for each in records] == ["tenantry.asgi"], records
        assert vars(records[0])["request_id"] == response.headers["x-request-id"]
        text = records[0].getMessage()
        for part in (type(error).__name__, told, response.headers["x-request-id"], "conftest.py:"):
            assert part in text
        assert SECRET not in repr(vars(records[0]))


async def test_an_answer_without_content_names_no_type(site: Site) -> None:
    """204 of the door's routes and of the application's, for which FastAPI would say JSON."""

    @site.app.delete("/gone", status_code=204)
    async def gone() -> None:
        """Nothing."""

    client = await site.signed_in()
    for method, path in (
        ("DELETE", "/gone"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("DELETE", "/auth/sessions"),
        ("POST", "/auth/sign-out"),
    ):
        response = await client.request(method, path)
        assert (response.status_code, response.content) == (204, b""), path
        assert "content-type" not in response.headers, path


async def test_who_asks_for_readiness_takes_one_connection(site: Site) -> None:
    """However many strangers do; else a flood of them would compete with who is signed in."""
    engine = site.app.state.tenantry.db._app.sync_engine
    asked: list[str] = []

    def note(*args: Any) -> None:
        asked.append(args[2])

    event.listen(engine, "before_cursor_execute", note)
    client = site.client()
    responses = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
    event.remove(engine, "before_cursor_execute", note)
    assert {each.status_code for each in responses} == {204}
    assert 1 <= asked.count("SELECT 1") < 10  # one for each second that it has taken


async def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    """The question goes on for the others; a failure is told to all of them, and asked anew."""
    gate, asked = asyncio.Event(), 0

    async def ping() -> None:
        nonlocal asked
        asked += 1
        await gate.wait()
        raise errors.DatabaseUnavailableError("gone")

    readiness = Readiness(ping, kept_seconds=0)
    first, second = (asyncio.create_task(readiness.ask()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(errors.DatabaseUnavailableError):
        await second
    with pytest.raises(errors.DatabaseUnavailableError):
        await readiness.ask()
    assert asked == 2


async def test_what_the_application_refuses_is_a_problem_too(site: Site) -> None:
    """Unknown paths, wrong methods, and bodies that are not as documented."""
    client = await site.signed_in()
    for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/auth/session", 405)):
        response = await client.request(method, path)
        assert (response.status_code, response.json()["status"]) == (status, status)
    response = await client.post("/api/widgets", json={"name": 7, "password": SECRET})
    assert response.status_code == 422
    assert [each["loc"] for each in response.json()["errors"]] == [["body", "name"]]
    assert SECRET not in response.text
    assert "input" not in response.text
    response = await client.post("/api/widgets", json={"name": "a\x00b"})
    assert response.status_code == 422


async def test_no_transaction_is_open_while_a_response_streams(
    site: Site, admin: asyncpg.Connection
) -> None:
    """When the first line is out, no connection is in a transaction."""
    gate = GATES[site.app.state.tenantry] = asyncio.Event()
    client = await site.signed_in()
    await client.post("/api/widgets", json={"name": "streamed"})
    messages: asyncio.Queue[Any] = asyncio.Queue()
    headers = [(b"cookie", f"__Host-session={client.cookies['__Host-session']}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/api/stream",
        "raw_path": b"/api/stream", "query_string": b"", "headers": headers, "http_version": "1.1",
        "scheme": "https", "client": ("127.0.0.1", 1), "server": ("x", 443), "root_path": "",
    }  # fmt: skip

    async def receive() -> Any:
        await asyncio.sleep(60)

    task = asyncio.create_task(site.app(scope, receive, messages.put))
    async with asyncio.timeout(20):
        assert (await messages.get())["status"] == 200
        assert (await messages.get())["body"] == b"first\n"
        states = await admin.fetch(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = 'tenantry_app'"
        )
        # What has begun goes on without the session, as the threat model says.
        assert (await client.post("/auth/sign-out")).status_code == 204
        gate.set()
        assert (await messages.get())["body"] == b"['streamed']\n"
        await task
    assert {row["state"] for row in states} == {"idle"}


async def test_errors_below_a_mount_are_problems_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A mounted application knows nothing of ours, and would answer 500 to strangers."""
    below = FastAPI()

    async def widget(widget_id: UUID, tx: TenantTx) -> str:
        return (await tx.get_one(Widget, widget_id)).name

    async def fails() -> None:
        raise ValueError("a defect")

    async def refuses() -> JSONResponse:
        return JSONResponse({"own": "answer"}, 500)

    below.get("/widgets/{widget_id}")(widget)
    below.get("/fails")(fails)
    below.get("/refuses")(refuses)
    site.app.mount("/below", below)
    site.raises = False
    stranger, ada = site.client(), await site.signed_in()
    for client, path, status in (
        (stranger, f"/below/widgets/{uuid4()}", 401),
        (ada, f"/below/widgets/{uuid4()}", 404),
        (ada, "/below/fails", 500),
    ):
        caplog.clear()
        response = await client.get(path)
        assert (response.status_code, response.json()["status"]) == (status, status)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers.get_list("x-request-id") == [response.json()["instance"]]
        faults = [each for each in caplog.records if each.levelno >= logging.ERROR]
        assert len(faults) == (status == 500)
    response = await ada.get("/below/refuses")
    assert (response.status_code, response.json()) == (500, {"own": "answer"})


async def test_a_stream_that_breaks_is_logged_by_what_broke_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Too late for an answer, frameworks put an error of their own around it."""
    site.raises = False

    async def lines() -> AsyncIterator[str]:
        yield "first"
        raise errors.SessionUseError("its block has ended")

    async def late() -> StreamingResponse:
        return StreamingResponse(lines())

    site.app.get("/late")(late)
    await site.client().get("/late")
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "SessionUseError at" in record.getMessage()
    assert "block has ended" in record.getMessage()


async def test_a_commit_that_fails_is_no_success(site: Site, admin: asyncpg.Connection) -> None:
    """The answer tells of it, and nothing is kept."""
    await admin.execute(
        "ALTER TABLE widgets ADD UNIQUE (tenant_id, name) DEFERRABLE INITIALLY DEFERRED"
    )
    client = await site.signed_in()
    response = await client.post("/api/twice")
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert "INSERT" not in response.text
    assert (await client.get("/api/widgets")).json() == []


async def test_constraints_are_told_apart(site: Site, admin: asyncpg.Connection) -> None:
    """What can never be stored is 422; what is in the way of what is there, 409; none is quoted."""
    await admin.execute("""
        ALTER TABLE widgets ADD CHECK (name <> 'checked');
        ALTER TABLE widgets ADD EXCLUDE USING btree (name WITH =) WHERE (name = 'excluded');
        CREATE UNIQUE INDEX ON widgets (tenant_id, name) WHERE name = 'unique';
        ALTER TABLE widgets ADD COLUMN needed text DEFAULT '';
        CREATE INDEX ON widgets (needed);
        ALTER TABLE widgets ADD COLUMN parent uuid REFERENCES tenants;
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.name = 'needless' THEN NEW.needed = NULL; END IF;
            IF NEW.name = 'large' THEN
                NEW.needed = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 999) i);
            END IF;
            IF NEW.name = 'orphan' THEN NEW.parent = gen_random_uuid(); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON widgets FOR EACH ROW EXECUTE FUNCTION spoil();
        ALTER TABLE widgets ALTER COLUMN needed SET NOT NULL;
    """)
    client = await site.signed_in()
    for name, status, detail in (
        ("checked", 422, "A value cannot be used."),
        ("needless", 422, "A value is missing."),
        ("large", 422, "A value is too long, or too complex."),
        ("unique", 409, "It exists already, or is in use."),
        ("excluded", 409, "It exists already, or is in use."),
        ("orphan", 409, "What it refers to is not there, or it is itself in use."),
    ):
        if detail.startswith("It exists"):
            first = await client.post("/api/widgets", json={"name": name})
            assert first.status_code == 201, first.text
        response = await client.post("/api/widgets", json={"name": name})
        assert (response.status_code, response.json()["detail"]) == (status, detail), name
        assert response.headers["content-type"] == "application/problem+json"
        assert name not in response.text


@pytest.mark.parametrize("is_cut", [True, False], ids=["lost", "hanging"])
async def test_an_unreachable_database_signs_nobody_out(
    urls: Urls, tenants: TenantPair, is_cut: bool
) -> None:
    """503 and no word about the cookie; the process is alive, and not ready."""
    async with gateway(urls.app) as way:
        database = replace(
            urls.settings,
            database_url=way.url,
            connect_timeout_seconds=0.5,
            statement_timeout_seconds=0.5,
        )
        async with running(urls, database=database) as site:
            await site.auth.register(tenants.a.id, EMAIL, PASSWORD)
            client = await site.signed_in()
            assert (await client.get("/readyz")).status_code == 204
            way.passing = False
            if is_cut:
                way.cut()
            for path in ("/auth/session", "/api/widgets", "/api/who"):
                response = await client.get(path)
                assert response.status_code == 503, path
                if path == "/api/widgets":  # with a body, before it is read
                    response = await client.post(path, content=b"[")
                    assert response.status_code == 503
                assert response.headers["content-type"] == "application/problem+json"
                assert "set-cookie" not in response.headers
            assert (await sign_in(client)).status_code == 503
            assert (await client.get("/healthz")).status_code == 204

            async def is_not_ready() -> bool:  # once the last answer is a second old
                return (await client.get("/readyz")).status_code == 503

            await eventually(is_not_ready)
            way.passing = True
            assert (await client.get("/auth/session")).status_code == 200


async def test_the_documentation_is_complete(site: Site) -> None:
    """Every operation names its credentials and its problems, and FastAPI's own are gone."""
    spec = site.app.openapi()
    assert spec == site.app.openapi()
    assert set(spec["components"]["securitySchemes"]) == {
        "apiKey", "apiKeyHeader", "sessionCookie", "sessionToken",
    }  # fmt: skip
    assert "HTTPValidationError" not in str(spec)
    assert "tenantry:" not in str(spec)
    widgets = spec["paths"]["/api/widgets"]
    kinds = [next(iter(each)) for each in widgets["get"]["security"]]
    assert kinds == ["sessionCookie", "sessionToken", "apiKey", "apiKeyHeader"]
    assert {} in spec["paths"]["/api/who"]["get"]["security"]
    # A route may ask for several: whoever calls has to be right for all.
    program = spec["paths"]["/api/program/widgets"]["get"]["security"]
    assert program == [{"apiKey": []}, {"apiKeyHeader": []}]
    assert "security" not in spec["paths"]["/auth/sign-in"]["post"]
    assert {"401", "403", "404", "409", "422", "500", "503"} < set(widgets["get"]["responses"])
    for path in spec["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                assert status < "400" or response["$ref"].endswith(f"Problem{status}")


async def test_what_is_refused_before_the_route_is_documented(
    urls: Urls, tenants: TenantPair
) -> None:
    """A body that is too long, with any method; and in development what is not of this machine."""
    for insecure in (False, True):
        async with running(urls, insecure_http=insecure) as site:
            paths = site.app.openapi()["paths"]
            near, far = site.client(base="http://localhost"), site.client(base="http://x.example")
            for path in ("/healthz", "/api/owners", "/auth/session"):
                documented = set(paths[path]["get"]["responses"])
                too_long = {"Content-Length": str(10**9)}
                answers = [
                    await near.request("GET", path, headers=too_long, content=b"x"),
                    await far.get(path),
                ]
                assert answers[0].status_code == 413
                assert (answers[1].status_code == 403) is insecure
                assert {str(each.status_code) for each in answers} <= documented, (path, insecure)
            assert ("403" in paths["/healthz"]["get"]["responses"]) is insecure


async def test_bodies_and_answers_have_examples_that_fit(site: Site) -> None:
    """Every field of a body, and every answer of the door's with a body of its own."""
    spec = site.app.openapi()
    own = [
        operation
        for item in spec["paths"].values()
        for operation in item.values()
        if "x-tenantry-door" in operation
    ]
    assert len(own) >= 14
    names, answers = set(), 0
    for operation in own:
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            names.add(schema["$ref"].rpartition("/")[2])
        for content in (
            response["content"]["application/json"]
            for status, response in operation["responses"].items()
            if status < "300" and "content" in response
        ):
            if ref := content["schema"].get("$ref"):
                name = ref.rpartition("/")[2]
                (example,) = spec["components"]["schemas"][name]["examples"]
                user = {"disabled_at": None, **example["user"]}  # FastAPI leaves nulls out
                getattr(bodies, name).model_validate({**example, "user": user})
            elif content["schema"]:
                TypeAdapter(list[SessionInfo]).validate_python(content["example"])
            answers += 1
    assert answers >= 3
    for name in names:
        for field, schema in spec["components"]["schemas"][name]["properties"].items():
            assert schema.get("examples") or "enum" in schema, f"{name}.{field}"


PROGRAM = """
import asyncio
import uvicorn
from fastapi import FastAPI
from tenantry.fastapi import CurrentDoor, DoorSettings, install, lifespan
app = FastAPI(lifespan=lifespan)
install(app, DoorSettings(insecure_http=True))
server = uvicorn.Server(uvicorn.Config(app, port={port}))

@app.get("/slow")
async def slow(door: CurrentDoor) -> str:
    print("under way", flush=True)
    while not server.should_exit:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # the server looks ten times a second
    await door.db.ping()
    return "answered"

server.run()
"""


async def test_it_comes_to_a_clean_end(urls: Urls, admin: asyncpg.Connection) -> None:
    """On SIGTERM uvicorn answers what is under way, with the database still open, and ends without
    an error; no connection to the database is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM.format(port=port),
        env={**os.environ, "TENANTRY_DATABASE_URL": url_text(urls.app)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

        async def is_ready() -> bool:
            assert process.returncode is None
            try:
                return (await client.get("/readyz")).status_code == 204
            except httpx.ConnectError:
                return False

        await eventually(is_ready)
        slow = asyncio.create_task(client.get("/slow"))
        async with asyncio.timeout(20):
            while b"under way" not in await process.stdout.readline():
                assert not slow.done(), slow.result()
        process.send_signal(signal.SIGTERM)
        assert (await slow).json() == "answered"
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert b"Application shutdown complete" in said
    assert b"INSECURE" in said
    assert b"Traceback" not in said
    assert process.returncode in {0, -signal.SIGTERM}
    left = (
        "SELECT count(*) = 0 FROM pg_stat_activity"
        " WHERE usename = 'tenantry_app' AND datname = current_database()"
    )
    await eventually(lambda: admin.fetchval(left))
