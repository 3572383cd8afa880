"""Takes the pictures of README.md from the UI of `usage-pipeline dev`, with Debian's chromium and chromium-driver.

uv run --with selenium python docs/take_screenshots.py [http://127.0.0.1:3000]
"""

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
    "lineage.png": (f"/asset-groups?expanded={_GROUPS}", "merchant_counters", 1500, 1900),
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


def main(url: str) -> None:
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
        for name, (page, text, width, height) in PICTURES.items():
            browser.set_window_size(width, height)
            browser.get(url + page)
            wait = WebDriverWait(browser, TIMEOUT_SECONDS)
            wait.until(lambda shown, text=text: text in shown.find_element(By.TAG_NAME, "body").text)
            # Spinners go when the last answer is in.
            wait.until(lambda shown: not shown.find_elements(By.CSS_SELECTOR, "[class*='Spinner'], .bp5-spinner"))
            for button in browser.find_elements(By.CSS_SELECTOR, "[aria-label='zoom_out']") * 3:
                button.click()
            browser.save_screenshot(str(FOLDER / name))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000")
