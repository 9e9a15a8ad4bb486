"""A Chromium that tests drive through a pair of pipes, in the DevTools protocol.

It needs no package: the protocol's messages are JSON that ends in NUL. What a user does is done as
input: text that is typed, a mouse that clicks.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "chromium"
SECONDS = 20
"""How long anything may take. Nothing waits for it to pass."""

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--ignore-certificate-errors",
    "--remote-debugging-pipe",
)

# The browser reads from 3 and writes to 4.
_AT_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    "os.execv(sys.argv[3], sys.argv[3:])"
)

# What people see on a link, on a button, or beside a field.
_FIND = """
(wanted => {
  const all = [...document.querySelectorAll('a, button, input, textarea, select')];
  const called = each => (each.labels && each.labels.length ? each.labels[0].firstChild.nodeValue
    : each.getAttribute('aria-label') || each.innerText || '').trim();
  const found = all.find(each => called(each) === wanted);
  if (!found) throw new Error(`nothing is called ${wanted}, only ${all.map(called).join(', ')}`);
  found.scrollIntoView({block: 'center'});
  return found;
})(%s)
"""


def find_chromium() -> str | None:
    """The path of a Chromium; None where there is none. ``make test`` has tried to get one."""
    found = subprocess.run(["sh", SCRIPT, "--found"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@dataclass
class Page:
    """A tab."""

    browser: Browser
    session: str
    context: str

    async def send(self, method: str, **parameters: Any) -> Any:
        return await self.browser.send(method, session=self.session, **parameters)

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Waits at the end of the block until a page that was asked for in it is there."""
        loaded = self.browser.next_event(self.session, "Page.loadEventFired")
        yield
        await asyncio.wait_for(loaded, SECONDS)

    async def goto(self, url: str) -> None:
        async with self.loading():
            answer = await self.send("Page.navigate", url=url)
            assert "errorText" not in answer, answer

    async def reload(self) -> None:
        async with self.loading():
            await self.send("Page.reload")

    async def evaluate(self, script: str) -> Any:
        """The value of a script, as the developer's console would say it."""
        answer = await self.send(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def fill(self, label: str, text: str) -> None:
        """Replaces what is in a field."""
        find = _FIND % json.dumps(label)
        await self.evaluate(f"(field => {{ field.focus(); field.select(); }})({find})")
        await self.send("Input.insertText", text=text)

    async def click(self, name: str) -> None:
        """Clicks on what leads to another page."""
        box = await self.evaluate(
            f"(found => {{ const {{x, y, width, height}} = found.getBoundingClientRect();"
            f"return {{x: x + width / 2, y: y + height / 2}} }})({_FIND % json.dumps(name)})"
        )
        async with self.loading():
            for kind in ("mousePressed", "mouseReleased"):
                await self.send(
                    "Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box
                )

    async def text(self) -> str:
        return str(await self.evaluate("document.body.innerText"))

    async def path(self) -> str:
        return str(await self.evaluate("location.pathname"))

    async def cookies(self) -> dict[str, dict[str, Any]]:
        """All that the browser holds for this tab, by name; also what scripts cannot see."""
        answer = await self.send("Network.getCookies")
        return {cookie["name"]: cookie for cookie in answer["cookies"]}

    async def screenshot(self, file: Path, *, width: int = 1000) -> None:
        """Takes a picture of the whole page."""
        height = 1  # in which it is as high as what is in it
        for _ in range(2):
            await self.send(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=False,
            )
            height = await self.evaluate("document.documentElement.scrollHeight")
        answer = await self.send("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))


@dataclass
class Browser:
    """A running Chromium."""

    reader: asyncio.StreamReader
    writer: asyncio.WriteTransport
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    calls: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    events: dict[tuple[str, str], list[asyncio.Future[None]]] = field(default_factory=dict)

    async def person(self) -> Page:
        """A tab with cookies of its own, as of somebody else's browser."""
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        return await self.tab(context)

    async def tab(self, context: str) -> Page:
        """Another tab with the same cookies."""
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"], context)
        await page.send("Page.enable")
        await page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        # Or else its load could be taken for that of the page that is asked for next.
        await page.evaluate(
            "document.readyState === 'complete'"
            " || new Promise(then => addEventListener('load', () => then(true)))"
        )
        return page

    async def leave(self) -> None:
        """Closes all tabs, and their connections: a server that ends waits 5 s for them."""
        for context in (await self.send("Target.getBrowserContexts"))["browserContextIds"]:
            await self.send("Target.disposeBrowserContext", browserContextId=context)

    async def send(self, method: str, *, session: str | None = None, **parameters: Any) -> Any:
        """Calls a method of the protocol, and returns what it answers."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self.calls[number] = call = asyncio.get_running_loop().create_future()
        self.writer.write(json.dumps(message).encode() + b"\0")
        return await asyncio.wait_for(call, SECONDS)

    def next_event(self, session: str, name: str) -> asyncio.Future[None]:
        """What is done when the event comes the next time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events.setdefault((session, name), []).append(future)
        return future

    async def listen(self) -> None:
        """Takes in what the browser says, until it ends."""
        while True:
            try:
                message = json.loads((await self.reader.readuntil(b"\0"))[:-1])
            except asyncio.IncompleteReadError:
                return
            if "id" in message:
                call = self.calls.pop(message["id"])
                if call.done():
                    continue
                if "error" in message:
                    call.set_exception(AssertionError(message["error"]))
                else:
                    call.set_result(message["result"])
            for waiting in self.events.pop(
                (message.get("sessionId", ""), message.get("method", "")), []
            ):
                if not waiting.done():
                    waiting.set_result(None)


@asynccontextmanager
async def running_browser(program: str, folder: Path) -> AsyncIterator[Browser]:
    """A Chromium with an empty profile, closed at the end."""
    loop = asyncio.get_running_loop()
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Not 3 or 4 already, which would be overwritten on the way there.
    given = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs_in, theirs_out)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-ISc", _AT_3_AND_4, *map(str, given)),
        *(program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"),
        pass_fds=given,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    )
    for each in (theirs_in, theirs_out, *given):
        os.close(each)
    reader = asyncio.StreamReader(limit=2**26)
    incoming, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
    )
    writer, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(ours_out, "wb"))
    browser = Browser(reader, writer)
    listening = asyncio.create_task(browser.listen())
    try:
        yield browser
        await browser.send("Browser.close")
        await asyncio.wait_for(process.wait(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        listening.cancel()
        writer.close()
        incoming.close()
