"""Pictures of the pages, for the documentation: ``make screenshots`` puts them there."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import open_connection
from tests.example.conftest import NOW, ROOT, Site

IMAGES = ROOT / "docs" / "images"
NAMES = ("sign-in", "conversations", "conversation", "knowledge", "costs", "sessions", "widget")
WIDTH = 1000
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
PHONE = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/126.0 Mobile Safari/537.36"


async def test_the_documentations_pictures_can_be_taken_again(site: Site, tmp_path: Path) -> None:
    """Of every page that the tutorial shows, as wide as its picture there."""
    folder = IMAGES if os.environ.get("SCREENSHOTS") else tmp_path
    page = await site.browser.person()

    async def take(name: str) -> None:
        await page.screenshot(folder / f"{name}.png", width=WIDTH)

    await page.goto(f"{site.url}/sign-in")
    await take("sign-in")
    phone = await site.browser.person()
    for tab, agent in ((phone, PHONE), (page, FIREFOX)):
        await tab.send("Network.setUserAgentOverride", userAgent=agent)
        await site.sign_in(tab, email="ben@acme.example")
    await page.goto(site.url)
    await take("conversations")
    await page.click("Hi! My battery was in the shed all winter and now it doesn't charge.")
    await take("conversation")
    await page.goto(f"{site.url}/knowledge?q=refund")
    await take("knowledge")
    await page.goto(f"{site.url}/costs")
    await take("costs")
    connection = await open_connection(site.urls.admin)
    await connection.execute("UPDATE sessions SET created_at = $1", NOW)
    await connection.close()
    await page.goto(f"{site.url}/sessions")
    await take("sessions")
    await page.click("Sign out")
    await site.sign_in(page)
    await page.click("Widgets")
    await page.click("Workshop")
    await page.fill("Sites that may show it, one per line", "workshop.acme.example")
    await page.click("Save widget")
    await take("widget")
    for name in NAMES:
        assert width_of(folder / f"{name}.png") == width_of(IMAGES / f"{name}.png") == WIDTH, name


def width_of(picture: Path) -> int:
    """From the header of a PNG."""
    return int.from_bytes(picture.read_bytes()[16:20], "big")
