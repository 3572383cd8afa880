"""Takes the pictures of README.md and docs/ from `usage-pipeline dev`, with Debian's chromium and chromium-driver.

READ_TOKEN=$(usage-pipeline tokens create pictures --scope read) \
uv run --with selenium python docs/take_screenshots.py [http://127.0.0.1:3000 [http://127.0.0.1:8000]]
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FOLDER = Path(__file__).parent
TIMEOUT_SECONDS = 60
_GROUPS = "%2C".join(f"global%40global%3A{group}" for group in ("analytics", "redis", "snapshots", "usage"))
_YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
# Picture -> (page, a text that is there once the page is drawn, width, height in pixels).
PICTURES = {
    "lineage.png": (f"/asset-groups?expanded={_GROUPS}", "snapshots", 1500, 1900),
    "partitions.png": (
        f"/assets/usage/api_key_daily?view=partitions&partition={_YESTERDAY}",
        "sum_total_requests",
        1500,
        1100,
    ),
    "windows.png": (
        f"/assets/analytics/usage_daily?view=partitions&partition={_YESTERDAY}",
        "sum_total_tokens",
        1500,
        1100,
    ),
}


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
    options.binary_location = "/usr/bin/chromium"
    with Chrome(options=options, service=ChromeService("/usr/bin/chromedriver")) as browser:
        take_dashboard(browser, api_url, read_token)
        for name, (page, text, width, height) in PICTURES.items():
            browser.set_window_size(width, height)
            browser.get(url + page)
            wait_for(browser, text)
            # Spinners go when the last answer is in.
            WebDriverWait(browser, TIMEOUT_SECONDS).until(
                lambda shown: not shown.find_elements(By.CSS_SELECTOR, "[class*='Spinner'], .bp5-spinner")
            )
            for button in browser.find_elements(By.CSS_SELECTOR, "[aria-label='zoom_out']") * 3:
                button.click()
            browser.save_screenshot(str(FOLDER / name))


def take_dashboard(browser: Chrome, api_url: str, read_token: str) -> None:
    """The dashboard of the HTTP service, as who has a read token sees it."""
    browser.set_window_size(1300, 1700)
    browser.get(api_url)
    field = browser.find_element(By.TAG_NAME, "input")
    field.send_keys(read_token)
    field.submit()
    wait_for(browser, "Popular issues")
    wait_for(browser, "views")
    browser.save_screenshot(str(FOLDER / "dashboard.png"))


def wait_for(browser: Chrome, text: str) -> None:
    """Until the page shows the text."""
    WebDriverWait(browser, TIMEOUT_SECONDS).until(
        lambda shown: text in shown.find_element(By.TAG_NAME, "body").text,
        f"{browser.current_url} never showed {text!r}",
    )


if __name__ == "__main__":
    given = [*sys.argv[1:3], None, None]
    main(given[0] or "http://127.0.0.1:3000", given[1] or "http://127.0.0.1:8000", os.environ["READ_TOKEN"])
