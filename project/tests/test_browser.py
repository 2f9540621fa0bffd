"""A person in a real browser: signs in, watches a job end without reloading, finds no page broken on a phone.

And brings data: drops a file, maps columns by keyboard, prepares, corrects a row, lifts a block.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

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


# --- data

CHUNK = 4 * 1024**2  # bytes the page sends at a time
READY = 120_000  # milliseconds a small job may take on a busy machine
DROP = """([zone, line, count]) => {
    const data = new DataTransfer();
    data.items.add(new File([line.repeat(count)], "many chats.jsonl", { type: "application/jsonl" }));
    for (const type of ["dragenter", "dragover", "drop"])
        document.querySelector(zone).dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true }));
}"""
LINE = '{"prompt": "Where is my parcel? %s", "completion": "On its way."}\n' % ("x" * 960)
GOOD: list[dict[str, Any]] = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(20)]


def test_a_dropped_file_goes_on_after_the_connection_was_lost(
    product: Product, owner: User, context: BrowserContext
) -> None:
    page, offsets = context.new_page(), list[int]()

    def lose_the_second(route: Route, request: Request) -> None:
        offsets.append(int(request.headers["x-offset"]))
        if len(offsets) == 2:
            context.set_offline(True)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/datasets/uploads/chunk/", lose_the_second)
    page.goto(f"{product.url}/datasets/new/")
    page.evaluate(DROP, ["[data-dropzone]", LINE, 9000])  # nine megabytes are three chunks
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    expect(page.locator("[data-said]")).to_contain_text("4.2 MB of 9.2 MB have arrived and are kept")
    page.get_by_label("Name").fill("dropped")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("button", name="Go on")).to_be_visible()  # nothing is imported that is not here
    context.set_offline(False)  # the page goes on by itself
    expect(page.get_by_text("prompts and completions")).to_be_visible(timeout=30_000)
    assert offsets == [0, CHUNK, CHUNK, 2 * CHUNK], "what had arrived was sent again"
    page.get_by_role("button", name="Import").click()
    page.wait_for_url("**/dataset-versions/**")
    expect(page.get_by_role("heading", level=1)).to_contain_text("dropped:1")


def test_a_file_that_was_given_up_while_it_is_looked_at_stays_given_up(
    product: Product, owner: User, context: BrowserContext
) -> None:
    page, held = context.new_page(), list[Route]()

    def hold(route: Route, request: Request) -> None:
        if request.method == "POST":
            held.append(route)
        else:
            route.continue_()

    page.route("**/datasets/new/", hold)
    page.goto(f"{product.url}/datasets/new/")
    page.evaluate(DROP, ["[data-dropzone]", LINE, 10])
    expect(page.locator("[data-said]")).to_have_text("Looking at the file…")
    while not held:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_label("File", exact=True)).to_be_attached()
    answer = held[0].fetch()
    with suppress(Error):  # nobody waits for it any more
        held[0].fulfill(response=answer)
    page.evaluate("() => fetch(location.href).then((answer) => answer.text())")  # by now it has come
    expect(page.locator("[name=upload]")).to_have_count(0)
    expect(page.get_by_label("File", exact=True)).to_be_attached()


def pick(page: Page, beginning: str) -> None:
    """Choose in the list that has the focus, key by key: letters would mean something else on a slow machine."""
    for _ in range(40):
        chosen = page.evaluate("document.activeElement.selectedOptions?.[0].text.trim() ?? ''")
        if chosen.startswith(beginning):
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"no choice begins with {beginning}")


def test_a_file_is_uploaded_and_its_columns_mapped_by_keyboard(
    product: Product, owner: User, context: BrowserContext, tmp_path: Path
) -> None:
    file = tmp_path / "Kunden.csv"
    file.write_bytes("\ufeffFrage;Antwort;Bereich\r\nWo ist mein Paket?;Unterwegs – äöü.;Versand\r\n".encode())
    page = context.new_page()
    page.on("filechooser", lambda chooser: None)  # from the first key on, so that none is opened unseen
    page.goto(f"{product.url}/datasets/new/")
    page.get_by_label("File", exact=True).focus()
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Enter")
    choosing.value.set_files(file)
    first = page.get_by_label("Frage")
    expect(first).to_be_focused()
    expect(page.locator("[data-upload-part] [role=status]")).to_have_text("Say what the columns are.")
    pick(page, "Prompt")
    expect(page.get_by_text("prompts only as you said")).to_be_visible()
    expect(first).to_be_focused()  # though its part of the page came anew
    page.keyboard.press("Tab")
    pick(page, "Completion")
    expect(page.get_by_text("prompts and completions as you said")).to_be_visible()
    expect(page.locator(".bubble-assistant").get_by_text("Unterwegs – äöü.")).to_be_visible()
    page.get_by_label("Name").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/dataset-versions/**")
    expect(page.get_by_role("heading", level=1)).to_contain_text("kunden:1")


def test_steps_show_their_effect_while_they_are_written(product: Product, owner: User, context: BrowserContext) -> None:
    rows = [{"prompt": f"question {n}", "completion": "short" if n % 2 else "a longer answer"} for n in range(1, 31)]
    version = owner.upload("prepared", rows)
    page = context.new_page()
    page.goto(f"{product.url}/dataset-versions/{version['id']}/prepare/")
    page.get_by_label("Add a step").select_option("filter")
    page.get_by_role("button", name="Add", exact=True).click()
    condition = page.get_by_label("Condition")
    expect(condition).to_be_focused()
    page.evaluate("window.sameDocument = true")
    condition.fill('answer != "short"')
    expect(page.locator("#effect-said")).to_have_text("Of 10 rows 5 dropped, 5 as before.", timeout=30_000)
    expect(page.locator("#effect tbody tr").first).to_contain_text("Dropped by step 1")
    expect(condition).to_be_focused()
    page.get_by_role("button", name="The next ten").click()
    expect(page.get_by_role("heading", name="What becomes of rows 11 to 20")).to_be_visible(timeout=30_000)
    condition.fill('answr != "short"')
    expect(page.locator("#effect")).to_contain_text("Did you mean 'answer'?", timeout=30_000)
    condition.fill('answer != "short"')
    expect(page.locator("#effect tbody tr").first).to_contain_text("Dropped by step 1", timeout=30_000)
    assert page.evaluate("window.sameDocument === true"), "the page was reloaded"
    page.get_by_role("button", name="Prepare", exact=True).click()
    page.wait_for_url("**/dataset-versions/*/")
    ready(page, "prepared:2")
    expect(page.locator(".stats")).to_contain_text("15")


def test_a_row_is_corrected_and_saved_as_a_version(product: Product, owner: User, context: BrowserContext) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(1, 31)]
    version = owner.upload("corrected", rows)
    page = context.new_page()
    page.goto(f"{product.url}/dataset-versions/{version['id']}/rows/?row=25")
    page.get_by_role("link", name="Edit row 25").click()
    page.get_by_label("Answer").fill("أجبتُ بخط اليد")
    page.get_by_role("button", name="Keep the change").click()
    expect(page.locator("#row-25")).to_contain_text("أجبتُ بخط اليد")
    expect(page.get_by_text("1 correction of yours is not saved yet.")).to_be_visible()
    page.get_by_role("button", name="Save as a new version").click()
    page.wait_for_url("**/dataset-versions/*/")
    ready(page, "corrected:2")
    page.get_by_role("link", name="what changed").click()
    expect(page.locator(".side-by-side")).to_contain_text("answer 25")
    expect(page.locator(".side-by-side")).to_contain_text("أجبتُ بخط اليد")


def test_a_block_is_lifted_with_a_reason(product: Product, owner: User, context: BrowserContext) -> None:
    version = owner.upload("blocked", [*GOOD, {"prompt": "Say nothing.", "completion": ""}])
    page = context.new_page()
    page.goto(f"{product.url}/dataset-versions/{version['id']}/")
    heading, train = page.get_by_role("heading", level=1), page.get_by_role("link", name="Fine-tune on it")
    expect(heading).to_contain_text("Blocked")
    expect(train).to_have_count(0)
    page.get_by_role("button", name="Lift the block").press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Lift the block")).to_be_focused()
    page.keyboard.press("Enter")
    dialog.get_by_label("Reason").fill("Silence is the right answer here.")
    dialog.get_by_role("button", name="Lift the block").click()
    expect(page.get_by_text("The block was lifted")).to_be_visible()
    expect(page.locator(".alert-info")).to_contain_text(re.compile("operator.*Silence is the right answer here"))
    expect(heading).not_to_contain_text("Blocked")
    expect(train).to_be_visible()


def ready(page: Page, name: str) -> None:
    """Wait until the version is made, without a reload."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Ready", timeout=READY)
    expect(page.locator(".stats")).to_be_visible()
