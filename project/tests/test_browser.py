"""A person in a real browser: signs in, watches a job end without reloading, and finds no page broken on a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from project.tests.product import Product, User
from project.tests.test_core_path import JOB, ROWS

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER TESTS: Chromium is not installed (Debian: chromium)"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("browser")).running() as running:
        yield running


@pytest.fixture(scope="module")
def owner(product: Product) -> User:
    """The workspace already has a base model and a data set."""
    owner = product.api(product.token())
    owner.finish(owner.post("/api/v1/models/import/", {"source": "dir:tiny", "name": "tiny"})["job"])
    owner.upload("sums", ROWS)
    return owner


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(product: Product, owner: User, browser: Browser) -> dict[str, Any]:
    """The cookies of the operator, who came by the one-time link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(product.manage("sign_in_link", "--url", product.url))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{product.url}/")
    state = context.storage_state()
    context.close()
    return dict(state)


class Problems(list[str]):
    """What the browser complained about."""

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(f"{page.url}: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.append(f"{message.location.get('url')}: {message.text}")


@pytest.fixture
def context(browser: Browser, signed_in: dict[str, Any]) -> Iterator[BrowserContext]:
    context = browser.new_context(storage_state=signed_in)  # type: ignore[arg-type]
    yield context
    context.close()


def test_a_sign_in_link_works_once(product: Product, owner: User, browser: Browser) -> None:
    link = product.manage("sign_in_link", "--url", product.url)
    for attempt in range(2):
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        page.get_by_role("button", name="Sign in").click()
        if attempt:
            expect(page.get_by_text("used already or is too old")).to_be_visible()
        else:
            page.wait_for_url(f"{product.url}/")
        context.close()


def test_a_job_goes_from_queued_to_succeeded_without_a_reload(
    product: Product, owner: User, context: BrowserContext
) -> None:
    problems = Problems()
    page = context.new_page()
    problems.watch(page)
    page.goto(f"{product.url}/training/new/")
    page.get_by_label("Name").first.fill("adder")
    page.locator("[name=base_model]").select_option(index=1)
    page.locator("[name=dataset]").select_option(index=1)
    page.locator("form button[type=submit], form .btn-primary").last.click()
    page.wait_for_url("**/jobs/*/")
    page.evaluate("window.sameDocument = true")
    expect(page.locator("h1")).to_contain_text("Succeeded", timeout=180_000)
    assert page.evaluate("window.sameDocument === true"), "the page was reloaded"
    expect(page.locator(".uplot canvas").first).to_be_visible()
    assert not problems, problems


@pytest.fixture(scope="module")
def furnished(owner: User) -> dict[str, str]:
    """The addresses of pages that need something to show."""
    job = owner.finish(owner.post("/api/v1/jobs/", {**JOB, "name": "furnish"})["id"])
    version = owner.get(f"/api/v1/model-versions/{job['result']['model_version']}/")
    data = owner.get("/api/v1/datasets/")["results"][0]
    return {
        "job": f"/jobs/{job['id']}/",
        "dataset": f"/datasets/{data['id']}/",
        "model": f"/models/{version['model']}/",
    }


PATHS = [
    *("/", "/datasets/", "/jobs/", "/training/new/", "/models/", "/models/import/", "/playground/", "/feedback/"),
    *("/abtests/", "/tokens/", "/members/", "/workspaces/new/", "/docs/", "/docs/errors/", "/nothing-here/"),
    *("job", "dataset", "model"),
]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_broken(
    product: Product, browser: Browser, signed_in: dict[str, Any], furnished: dict[str, str], width: int, scheme: Any
) -> None:
    context = browser.new_context(
        storage_state=signed_in,  # type: ignore[arg-type]
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    page = context.new_page()
    problems = Problems()
    problems.watch(page)
    for path in PATHS:
        response = page.goto(product.url + furnished.get(path, path))
        assert response is not None
        assert response.status < 500, path
        if path == "/nothing-here/":
            problems.clear()  # the browser reports the 404 itself
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{path} is {wide} px wider than the screen at {width} px"
        assert page.locator("h1").count() == 1, f"{path} needs one h1"
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, a, input:not([type=hidden]), select, textarea')]"
            ".filter(e => e.offsetParent && !e.textContent?.trim() && !e.getAttribute('aria-label')"
            " && !e.labels?.length && !e.title && !e.querySelector('[aria-label], .visually-hidden, title'))"
            ".map(e => e.outerHTML.slice(0, 120))"
        )
        assert not unnamed, f"{path}: without a name: {unnamed}"
    context.close()
    assert not problems, problems


def test_everything_works_without_javascript(
    product: Product, browser: Browser, signed_in: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "people.csv"
    file.write_text("prompt,completion\nHello?,Hi.\nBye?,See you.\n")
    context = browser.new_context(storage_state=signed_in, java_script_enabled=False)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{product.url}/datasets/new/")
    page.locator("[name=name]").fill("people")
    page.locator("input[type=file]").set_input_files(file)
    page.locator("form .btn-primary").last.click()
    page.wait_for_url("**/dataset-versions/**")
    expect(page.get_by_role("heading", name="people").first).to_be_visible()
    context.close()
