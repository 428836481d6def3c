"""The console as people see it, in a real browser."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from fake_openai_engine import FakeEngine, fake_engine
from proserve_gateway.server import Gateway, GatewayConfig, Listen
from resource_builders import endpoint_pool, keyed_tenant, parse, priority_class, secret

ANY = Listen("127.0.0.1", 0)
AUTH = {"authorization": "Bearer sk-alice"}
NEVER_LATE = {"timeToFirstToken": "1h", "timePerOutputToken": "1h"}
NASTY = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Bench:
    """A gateway with an engine, and a client."""

    def __init__(self, gateway: Gateway, engine: FakeEngine, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self._client = client
        assert gateway.admin is not None
        self.url = f"http://127.0.0.1:{gateway.admin.port}/"

    async def chat(self, **fields: object) -> str:
        """Send a request; returns its id."""
        body = {"model": "outside", "messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
        reply = await self._client.post("/v1/chat/completions", json=body, headers=AUTH)
        return reply.headers["x-proserve-request-id"]


@pytest_asyncio.fixture(loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    """Tests name it before their page, so that the page is closed before the gateway: nothing that it asks fails."""
    async with fake_engine() as engine:
        pool = endpoint_pool("outside", engine.url)
        pool["spec"]["routing"] = {"policy": "late-gain"}
        resources = parse(
            priority_class("high", headroom={"percent": 40}, objectives=NEVER_LATE),
            keyed_tenant("alice"),
            secret(alice="sk-alice"),
            pool,
        )
        gateway = Gateway(GatewayConfig(resources=resources, http=ANY, admin=ANY))
        await gateway.start()
        try:
            async with asyncio.timeout(60):
                while gateway.missing:  # noqa: ASYNC110 readiness is asked for, as a probe does
                    await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http.port}", timeout=60) as client:
                yield Bench(gateway, engine, client)
        finally:
            await gateway.stop(0.0)


async def test_gain_engines_and_decisions_are_shown(bench: Bench, page: Page) -> None:
    for _ in range(2):
        await bench.chat(max_tokens=3)
    await page.goto(bench.url)
    await expect(page.locator("#readiness")).to_have_text("ready")
    tile = page.locator(".tile", has_text="high")
    await expect(tile.locator(".figure")).to_contain_text("100.0%")
    await expect(tile.locator("dd").nth(1)).to_have_text("2")
    row = page.locator("#engines tbody tr").first
    await expect(row).to_contain_text("outside-0")
    await expect(row.locator(".badge")).to_have_text("ready")
    await expect(page.locator("#decisions tbody tr")).to_have_count(2)
    await expect(page.locator("#decisions tbody tr").first).to_contain_text("outside-0")


async def test_headroom_is_shown_as_held_and_used(bench: Bench, page: Page) -> None:
    await page.goto(bench.url)
    row = page.locator("#headroom tbody tr")
    await expect(row).to_contain_text("Entitlement")
    await expect(row.locator("td.number").first).to_have_text("40.0%")
    left = await row.locator(".held").evaluate("mark => mark.style.left")
    assert left == "40%"


async def test_request_is_explained_by_a_click_and_by_its_id(bench: Bench, page: Page) -> None:
    request_id = await bench.chat(max_tokens=3)
    await page.goto(bench.url)
    await page.locator("#decisions button").first.click()
    dialog = page.locator("#explanation")
    await expect(dialog).to_be_visible()
    await expect(dialog).to_contain_text(f"Request {request_id}")
    await expect(dialog).to_contain_text("outside-0 after")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await page.locator("#find-id").fill("nobody")
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("nothing is known of request 'nobody'")


async def test_page_follows_what_happens_without_being_asked(bench: Bench, page: Page) -> None:
    await page.goto(bench.url)
    await expect(page.locator("#decisions")).to_contain_text("No request was routed yet")
    await bench.chat(max_tokens=3)
    await expect(page.locator("#decisions tbody tr button")).to_have_count(1, timeout=60_000)
    await expect(page.locator("#chart path")).to_have_count(1, timeout=60_000)


async def test_what_a_request_says_is_text_and_never_html(bench: Bench, page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.goto(bench.url)
    await page.locator("#find-id").fill(NASTY)
    await page.keyboard.press("Enter")
    await expect(page.locator("#explanation")).to_contain_text(NASTY)
    assert await page.locator("main img, dialog img").count() == 0
    assert dialogs == []


async def test_policy_forbids_whatever_does_not_come_from_the_gateway(bench: Bench, browser: Browser) -> None:
    page = await browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    reply = await page.goto(bench.url)
    await expect(page.locator("#readiness")).to_have_text("ready")
    assert all(url.startswith(bench.url) for url in asked)
    assert reply is not None
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    ran = await page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        " document.body.append(s); return window.hacked === 1; }"
    )
    assert ran is False


async def test_gateway_that_does_not_answer_is_said_and_the_last_figures_stay(bench: Bench, browser: Browser) -> None:
    page = await browser.new_page()
    await bench.chat(max_tokens=3)
    await page.goto(bench.url)
    await expect(page.locator("#decisions tbody tr button")).to_have_count(1)
    await page.route("**/status", lambda route: route.abort())
    await expect(page.locator("#updated")).to_contain_text("not up to date", timeout=60_000)
    await expect(page.locator("#decisions tbody tr button")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_on_its_ground(bench: Bench, browser: Browser, scheme: str) -> None:
    context = await browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = await context.new_page()
    await page.goto(bench.url)
    await expect(page.locator("#readiness")).to_have_text("ready")
    for selector, ground in (("h1", "header"), (".dim", "header"), ("#readiness", "#readiness"), ("td", ".card")):
        ratio = await page.evaluate(CONTRAST, [selector, ground])
        assert ratio >= 4.5, f"{selector} in {scheme}: {ratio:.1f}"
    await context.close()


CONTRAST = """([selector, ground]) => {
  const light = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const text = light(getComputedStyle(document.querySelector(selector)).color);
  const back = light(getComputedStyle(document.querySelector(ground)).backgroundColor);
  return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
}"""
