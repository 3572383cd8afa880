"""Takes the pictures of README.md and docs/ from `usage-pipeline dev` after a demo, with chromium and chromium-driver.

make demo; usage-pipeline dev      # and in another terminal, with the variables that it prints:
READ_TOKEN=$(usage-pipeline tokens create pictures --scope read --expires 12h) \
.venv/bin/python docs/take_screenshots.py [http://127.0.0.1:3000 [http://127.0.0.1:8000]]
It launches a backfill of the last 60 days of usage/api_key_daily, which changes nothing that is right.

With `tasks` alone it takes those of docs/workspace.md and docs/reports.md: tests leave them.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).parent
TIMEOUT_SECONDS = 180
_SHOWN_GROUPS = ("analytics", "redis", "snapshots", "usage")
_GROUPS = "%2C".join(f"global%40global%3A{group}" for group in _SHOWN_GROUPS)
_SELECTION = "%20or%20".join(f"group%3A%22{group}%22" for group in _SHOWN_GROUPS)
_SHOW = "Show Markdown"
_TASKS = ("usage_pipeline_tests/api/dashboard/test_tasks.py", "usage_pipeline_tests/reports/test_making.py")
_YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Picture:
    """A page, the texts that are there once it is drawn, its size in pixels; `opens` is clicked then."""

    page: str
    texts: tuple[str, ...]
    width: int = 1500
    height: int = 1100
    opens: str | None = None


PICTURES = {
    "lineage.png": Picture(f"/asset-groups~{_SELECTION}?expanded={_GROUPS}", ("snapshots",), height=1800),
    "windows.png": Picture(
        f"/assets/analytics/usage_daily?view=partitions&partition={_YESTERDAY}", ("sum_total_tokens",)
    ),
    "backfill.png": Picture("/runs/b/{backfill}", ("Succeeded", "100% completed"), height=700),
    # After the backfill, whose newest day has a plot: Markdown in the metadata, which the UI shows when asked.
    "partitions.png": Picture(
        f"/assets/usage/api_key_daily?view=partitions&partition={_YESTERDAY}",
        ("sum_total_requests", _SHOW),
        opens=_SHOW,
    ),
}
_LAUNCH = """mutation ($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters) {
    ... on LaunchBackfillSuccess { backfillId } } }"""


def main(url: str, api_url: str, read_token: str) -> None:
    """Writes each picture beside this file."""
    options = ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or "/usr/bin/chromium"
    with Chrome(options=options, service=ChromeService(shutil.which("chromedriver"))) as browser:
        take_dashboard(browser, api_url, read_token)
        backfill = launch_backfill(url)
        for name, picture in PICTURES.items():
            browser.set_window_size(picture.width, picture.height)
            browser.get(url + picture.page.format(backfill=backfill))
            for text in picture.texts:
                wait_for(browser, text)
            # Spinners go when the last answer is in.
            WebDriverWait(browser, TIMEOUT_SECONDS).until(
                lambda shown: not shown.find_elements(By.CSS_SELECTOR, "[class*='Spinner'], .bp5-spinner")
            )
            if picture.opens:
                browser.find_element(By.XPATH, f"//*[contains(text(), '{picture.opens}')]").click()
                wait_for_images(browser)
            for button in browser.find_elements(By.CSS_SELECTOR, "[aria-label='zoom_out']") * 3:
                button.click()
            browser.save_screenshot(str(FOLDER / name))


def launch_backfill(url: str) -> str:
    """The last 60 days of usage/api_key_daily; its id. The picture of it waits for its end."""
    days = [str(_YESTERDAY - timedelta(days=ago)) for ago in range(59, -1, -1)]
    parameters = {"assetSelection": [{"path": ["usage", "api_key_daily"]}], "partitionNames": days}
    query = {"query": _LAUNCH, "variables": {"parameters": parameters}}
    answer = httpx.post(f"{url}/graphql", json=query, timeout=TIMEOUT_SECONDS, trust_env=False).raise_for_status()
    return str(answer.json()["data"]["launchPartitionBackfill"]["backfillId"])


def wait_for_images(browser: Chrome) -> None:
    """Until what is opened has drawn its images."""
    script = "return [...document.images].every(image => image.complete)"
    WebDriverWait(browser, TIMEOUT_SECONDS).until(lambda shown: shown.execute_script(script))


def take_dashboard(browser: Chrome, api_url: str, read_token: str) -> None:
    """The page of the HTTP service, as who has a read token sees it: cost by service, where the demo has its rise."""
    browser.set_window_size(1360, 1500)
    browser.get(f"{api_url}/?group_by=service")
    wait_for(browser, "Sign in")
    field = browser.find_element(By.TAG_NAME, "input")
    field.send_keys(read_token)
    field.submit()
    wait_for(browser, "Why did it change?")
    wait_for(browser, "Merchants")
    WebDriverWait(browser, TIMEOUT_SECONDS).until(
        lambda shown: not shown.find_elements(By.CSS_SELECTOR, "[aria-busy='true']")
    )
    browser.save_screenshot(str(FOLDER / "dashboard.png"))


def wait_for(browser: Chrome, text: str) -> None:
    """Until the page shows the text."""
    WebDriverWait(browser, TIMEOUT_SECONDS).until(
        lambda shown: text in shown.find_element(By.TAG_NAME, "body").text,
        f"{browser.current_url} never showed {text!r}",
    )


def take_tasks() -> int:
    """The pictures of docs/workspace.md and docs/reports.md; the status of the tests that take them."""
    command = [sys.executable, "-m", "pytest", "-q", *_TASKS]
    environment = {**os.environ, "PICTURES": str(FOLDER)}
    return subprocess.run(command, cwd=FOLDER.parent, env=environment, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    if sys.argv[1:] == ["tasks"]:
        sys.exit(take_tasks())
    given = [*sys.argv[1:3], None, None]
    main(given[0] or "http://127.0.0.1:3000", given[1] or "http://127.0.0.1:8000", os.environ["READ_TOKEN"])
