"""Signing in, in a real browser: what cookies, redirects and other sites do there."""

from __future__ import annotations

import json

import pytest

from support_desk.demo import PASSWORD
from tests.conftest import Urls, open_connection
from tests.example.browser import Browser, Page
from tests.example.conftest import NOW, Site, desk_app
from tests.serving import serving

pytestmark = pytest.mark.untraced

SESSION, DEVICE = "__Host-session", "__Host-session-device"


async def count_messages(urls: Urls, content: str) -> int:
    connection = await open_connection(urls.admin)
    try:
        query = "SELECT count(*) FROM messages WHERE content = $1"
        return int(await connection.fetchval(query, content))
    finally:
        await connection.close()


async def test_sign_in_use_and_sign_out(site: Site) -> None:
    """Who signs in sees the own company's desk, works with it, and after signing out nothing."""
    page = await site.browser.person()
    await page.goto(f"{site.url}/costs")
    assert await page.path() == "/sign-in"
    await site.sign_in(page)
    assert await page.path() == "/"
    assert "Acme Bicycles" in await page.text()
    await page.click("Do you deliver to the islands?")
    await page.fill("Your answer", "We also deliver by boat.")
    await page.click("Send")
    assert "We also deliver by boat." in await page.text()
    await page.click("Knowledge")
    await page.fill("Search the documents", "refund")
    await page.click("Search")
    marked = await page.evaluate("document.querySelector('mark').innerText")
    assert marked == "refund"
    await page.click("Costs")
    assert await page.evaluate("document.querySelectorAll('svg rect').length") == 21

    token = (await page.cookies())[SESSION]["value"]
    await page.click("Sign out")
    assert await page.path() == "/sign-in"
    assert SESSION not in await page.cookies()
    async with page.loading():
        await page.evaluate("history.back()")
    assert await page.path() == "/sign-in"
    kept = {"name": SESSION, "value": token, "url": site.url, "secure": True}
    await page.send("Network.setCookie", **kept)  # as of somebody who has read it before
    await page.goto(f"{site.url}/")
    assert await page.path() == "/sign-in"


async def test_a_wrong_password_opens_nothing_and_says_so(site: Site) -> None:
    """The form comes again with one sentence, and the browser gets no cookie."""
    page = await site.browser.person()
    await page.goto(f"{site.url}/sign-in")
    await page.fill("Workspace", "acme")
    await page.fill("Email", "ada@acme.example")
    await page.fill("Password", "nine herons over the harbor")
    await page.click("Sign in")
    assert "Email and password do not match an account." in await page.text()
    assert await page.cookies() == {}


async def test_the_cookies_are_as_closed_as_browsers_can_have_them(site: Site) -> None:
    """Over HTTPS: for this host only, out of scripts' sight, and not from other sites' pages."""
    page = await site.signed_in()
    cookies = await page.cookies()
    assert set(cookies) == {SESSION, DEVICE}
    for cookie in cookies.values():
        assert cookie["secure"] is True
        assert cookie["httpOnly"] is True
        assert cookie["sameSite"] == "Lax"
        assert (cookie["domain"], cookie["path"]) == ("127.0.0.1", "/")
    assert await page.evaluate("document.cookie") == ""


async def test_a_session_that_has_expired_leads_to_the_sign_in_page(site: Site) -> None:
    """After its end a reload shows nothing more, and whoever signs in again goes on."""
    page = await site.signed_in("ben@acme.example")
    await page.goto(f"{site.url}/widgets")
    token = (await page.cookies())[SESSION]["value"]
    connection = await open_connection(site.urls.admin)
    changed = await connection.execute(
        "UPDATE sessions SET created_at = now() - interval '2 days', expires_at = now()"
        " - interval '1 second' WHERE id = $1",
        token.split(".")[1],
    )
    await connection.close()
    assert changed == "UPDATE 1"
    await page.reload()
    assert await page.path() == "/sign-in"
    assert "Acme" not in await page.text()
    await site.sign_in(page, email="ben@acme.example")
    assert "Acme Bicycles" in await page.text()
    assert (await page.cookies())[SESSION]["value"] != token


FORM = """
(fields => {
  const form = Object.assign(document.createElement('form'), {method: 'post', action: %s});
  for (const [name, value] of Object.entries(fields)) {
    form.append(Object.assign(document.createElement('input'), {name, value}));
  }
  document.body.append(form);
  form.submit();
})(%s)
"""
FETCH = """
fetch(%s, {method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams(%s)})
  .then(answer => answer.type, error => String(error))
"""

HOLD = """
(async () => {
  const opened = window.open(%s);
  if (!opened) throw new Error('no window was opened');
  for (let left = 100; left && !opened.closed; left--) await new Promise(go => setTimeout(go, 50));
  return !opened.closed;
})()
"""


async def conversation_path(page: Page) -> str:
    path = "document.querySelector('main li a').getAttribute('href')"
    return f"{await page.evaluate(path)}/messages"


@pytest.mark.parametrize("place", ["near", "far"])
async def test_pages_of_other_sites_change_nothing(site: Site, place: str) -> None:
    """Neither a form nor a fetch with credentials; of another port, to which cookies do go, too."""
    page = await site.signed_in()
    path = await conversation_path(page)
    stranger, target = getattr(site, place), json.dumps(site.url + path)
    content = f"Sent from {place}"
    await page.goto(stranger)
    site.desk.requests.clear()
    await page.evaluate(FETCH % (target, json.dumps({"content": content})))
    async with page.loading():
        await page.evaluate(FORM % (target, json.dumps({"content": content})))
    assert "This comes from another site" in await page.text()

    posts = [seen for seen in site.desk.requests if seen.method == "POST"]
    assert [(seen.path, seen.status) for seen in posts] == [(path, 403), (path, 403)]
    assert {seen.site for seen in posts} == {"same-site" if place == "near" else "cross-site"}
    # From afar the browser itself keeps the cookie back; from nearby only the door is a wall.
    assert all((SESSION in seen.cookies) == (place == "near") for seen in posts)
    assert await count_messages(site.urls, content) == 0

    await page.goto(site.url)  # the same from the desk's own page
    target = json.dumps(path)
    async with page.loading():
        await page.evaluate(FORM % (target, json.dumps({"content": content})))
    assert await count_messages(site.urls, content) == 1


@pytest.mark.parametrize("place", ["near", "far"])
async def test_pages_of_other_sites_hold_no_window_of_the_desk(site: Site, place: str) -> None:
    """Else they could turn it, when its user looks away, to a page that looks like signing in.

    Nor is what they ask for brought to their own process.
    """
    page = await site.signed_in()
    await page.goto(getattr(site, place))
    url = json.dumps(f"{site.url}/knowledge?q=refund")
    asked = "fetch(%s, {mode: 'no-cors', credentials: 'include'}).then(a => a.type, e => e.name)"
    assert await page.evaluate(asked % url) == "TypeError"
    assert await page.evaluate(HOLD % url) is False


async def test_no_other_site_signs_a_browser_in_or_out(site: Site) -> None:
    """Else a visitor would go on in an account of the attacker's, or lose the session."""
    page = await site.signed_in()
    before = (await page.cookies())[SESSION]["value"]
    theirs = {"workspace": "globex", "email": "gil@globex.example", "password": PASSWORD}
    for path, fields in (("/sign-in", theirs), ("/sign-out", {}), ("/auth/sign-out", {})):
        await page.goto(site.near)
        async with page.loading():
            await page.evaluate(FORM % (json.dumps(site.url + path), json.dumps(fields)))
        assert "This comes from another site" in await page.text()
    await page.goto(site.url)
    assert "Acme Bicycles" in await page.text()
    assert (await page.cookies())[SESSION]["value"] == before


async def test_a_planted_cookie_is_not_adopted(site: Site) -> None:
    """Whatever session a browser has been given, who signs in gets a new one, and that one ends."""
    attacker = await site.signed_in("ben@acme.example")
    planted = (await attacker.cookies())[SESSION]["value"]
    victim = await site.browser.person()
    # Cookies know no ports: a page nearby can plant one, as long as there is none.
    await victim.goto(site.near)
    await victim.evaluate(f"document.cookie = '{SESSION}={planted}; Path=/; Secure'")
    await victim.goto(f"{site.url}/")
    assert "Ben Okafor" in await victim.text()
    await victim.click("Sign out")
    await attacker.goto(site.url)
    assert await attacker.path() == "/sign-in"

    await site.sign_in(attacker, email="ben@acme.example")
    planted = (await attacker.cookies())[SESSION]["value"]
    await victim.goto(f"{site.url}/sign-in")
    await victim.goto(site.near)
    await victim.evaluate(f"document.cookie = '{SESSION}={planted}; Path=/; Secure'")
    signed_in = await sign_in_by_form(victim, site)
    assert signed_in != planted
    await victim.goto(site.url)
    assert "Ada Larsen" in await victim.text()
    await attacker.goto(site.url)
    assert await attacker.path() == "/sign-in"


async def sign_in_by_form(page: Page, site: Site) -> str:
    """Signs in while the browser already has a session, where the page does not show the form."""
    await page.goto(f"{site.url}/nothing-here")
    fields = {"workspace": "acme", "email": "ada@acme.example", "password": PASSWORD}
    async with page.loading():
        await page.evaluate(FORM % (json.dumps("/sign-in"), json.dumps(fields)))
    return str((await page.cookies())[SESSION]["value"])


async def test_sign_out_there_ends_the_other_browsers_session(site: Site) -> None:
    """The list shows both devices, and the button ends the one and keeps the other."""
    here = await site.signed_in("mia@globex.example")
    there = await site.signed_in("mia@globex.example")
    await here.goto(f"{site.url}/sessions")
    text = await here.text()
    assert text.count("This browser") == 1
    assert text.count("Sign out there") == 1
    name = "document.querySelector('button[aria-label]').getAttribute('aria-label')"
    await here.click(await here.evaluate(name))
    assert await here.path() == "/sessions"
    assert "Sign out there" not in await here.text()
    await there.reload()
    assert await there.path() == "/sign-in"


async def test_what_is_planted_in_data_does_not_run(site: Site) -> None:
    """Markup that visitors send is text, and a script that got through all the same is refused."""
    page = await site.signed_in("gil@globex.example")
    await page.click("I'm away in August. Can you hold my subscription?")
    planted = (
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    )
    await page.fill("Your answer", planted)
    await page.click("Send")
    assert planted in await page.text()
    await page.evaluate(
        "document.body.append(document.createRange().createContextualFragment("
        f"{json.dumps(planted)}))"
    )
    assert "owned" not in str(await page.evaluate("document.title"))


# Every text, field and bar whose contrast with what is behind it is less than WCAG's AA asks for.
TOO_FAINT = """
(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]]
    .reduce((sum, [each, weight]) => sum + weight * linear(each / 255), 0);
  const behind = each => {
    for (; each; each = each.parentElement) {
      const [r, g, b, alpha = 1] = numbers(getComputedStyle(each).backgroundColor);
      if (alpha > 0) return [r, g, b];
    }
  };
  const contrast = (one, other) => {
    const [more, less] = [light(one), light(other)].sort((a, b) => b - a);
    return (more + 0.05) / (less + 0.05);
  };
  const has_text = each => each.matches('input, select, textarea, rect')
    || [...each.childNodes].some(part => part.nodeType === Node.TEXT_NODE && part.nodeValue.trim());
  return [...document.querySelectorAll('main, main *, header *')]
    .filter(each => has_text(each) && !each.matches('title, option, svg *:not(text, rect)'))
    .map(each => {
      const style = getComputedStyle(each), drawn = each.matches('svg *');
      const found = contrast(numbers(drawn ? style.fill : style.color), behind(each));
      return found < (each.matches('rect') ? 3 : 4.5) ? `${each.tagName} ${found}` : null;
    })
    .filter(Boolean);
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_can_be_read_by_day_and_by_night(site: Site, scheme: str) -> None:
    """In the colours that the browser asks for, with the plot and what is wrong in a form."""
    page = await site.signed_in()
    asked = {"name": "prefers-color-scheme", "value": scheme}
    await page.send("Emulation.setEmulatedMedia", features=[asked])
    for path in ("/widgets", "/knowledge?q=refund", "/costs", "/replies", "/sessions", "/"):
        await page.goto(site.url + path)
        assert await page.evaluate(TOO_FAINT) == [], path
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].partition(",")[0]) < 64) == (scheme == "dark")
    await page.click("Do you deliver to the islands?")
    assert await page.evaluate(TOO_FAINT) == []
    await page.click("Widgets")
    await page.click("Workshop")
    await page.fill("Name", "")
    await page.click("Save widget")
    assert await page.evaluate("document.querySelectorAll('.error').length") == 1
    assert await page.evaluate(TOO_FAINT) == []


async def test_pages_fit_a_small_screen_whatever_was_spent(site: Site) -> None:
    """Nothing is wider than 360 pixels but what scrolls by itself."""
    page = await site.signed_in("gil@globex.example")
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    await page.send("Emulation.setDeviceMetricsOverride", **size)
    connection = await open_connection(site.urls.admin)
    await connection.execute(
        "INSERT INTO cost_events (tenant_id, provider, model, tokens, cost, created_at)"
        " SELECT id, 'x', 'a-large-model-with-a-long-name', 9e18, 9999999999, $1"
        " FROM tenants, generate_series(1, 99) WHERE slug = 'globex'",
        NOW,
    )
    try:
        for path in ("/costs", "/", "/widgets", "/knowledge?q=coffee", "/replies", "/sessions"):
            await page.goto(site.url + path)
            assert await page.evaluate("document.documentElement.scrollWidth") == 360, path
        await page.goto(f"{site.url}/costs")
        letters = "document.querySelector('svg text').getBoundingClientRect().height"
        assert await page.evaluate(letters) > 9
    finally:
        await connection.execute("DELETE FROM cost_events WHERE provider = 'x'")
        await connection.close()


async def test_development_over_plain_http(browser: Browser, desk_urls: Urls) -> None:
    """On this machine it works without HTTPS, the host naming the company; no cookie is Secure."""
    async with serving(desk_app(desk_urls, insecure_http=True)) as port:
        page = await browser.person()
        await page.goto(f"http://globex.localhost:{port}/")
        assert "to the workspace globex" in await page.text()
        await page.fill("Email", "gil@globex.example")
        await page.fill("Password", PASSWORD)
        await page.click("Sign in")
        assert "Globex Coffee" in await page.text()
        cookies = await page.cookies()
        assert set(cookies) == {"session", "session-device"}
        assert all(each["httpOnly"] and not each["secure"] for each in cookies.values())
        await page.goto(f"http://acme.localhost:{port}/")
        assert await page.path() == "/sign-in"
