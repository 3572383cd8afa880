"""A headless Chromium that is on this machine; without one, its test is skipped and says what to install."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

TIMEOUT_SECONDS = 120
FAR_HOST = "far.test"
_RUN_AXE = """
const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
axe.run(document, { runOnly: tags, resultTypes: ["violations"] }).then(arguments[0]);
"""
_ARGUMENTS = (
    "--headless=new",
    # Chromium's own sandbox does not work as root, as which it runs in containers; it only visits our pages here.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1500,1100",
    # Proxies of tests sign their certificates themselves.
    "--ignore-certificate-errors",
    # This machine under a name that a browser does not trust as it trusts its own: over http it leaves out Fetch Metadata.
    f"--host-resolver-rules=MAP {FAR_HOST} 127.0.0.1",
    "--no-proxy-server",
)


class Browser:
    """What a person does with a page: looks for texts, clicks them, types."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self._driver = driver
        self.url = url

    def open(self, page: str) -> None:
        self._driver.get(self.url + page)

    def look_at_the_newest_tab(self) -> None:
        self._driver.switch_to.window(self._driver.window_handles[-1])

    def run(self, script: str) -> object:
        """What a script in the page returns."""
        result: object = self._driver.execute_script(script)
        return result

    def set_width(self, pixels: int, height: int = 800, *, is_telephone: bool = True) -> None:
        """That of the page. A window cannot be as narrow as a telephone."""
        metrics = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": is_telephone}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def set_theme(self, theme: str) -> None:
        """`light` or `dark`, as the system of a person says it."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def save_downloads_in(self, folder: Path) -> None:
        self._driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def go_back(self) -> None:
        self._driver.back()

    def go_forward(self) -> None:
        self._driver.forward()

    def reload(self) -> None:
        self._driver.refresh()

    def address(self) -> str:
        return str(self._driver.current_url)

    def faults_by_axe(self, script: Path) -> list[str]:
        """What axe-core finds against WCAG 2.2 A and AA and its own best practices, each with the element."""
        self._driver.execute_script(script.read_text(encoding="utf-8"))
        found = self._driver.execute_async_script(_RUN_AXE)
        return [f"{fault['id']}: {node['html']}" for fault in found["violations"] for node in fault["nodes"]]

    def complaints(self) -> list[str]:
        """What the console has said since this was asked last: scripts and loads that failed, and what a policy forbids."""
        return [
            entry["message"] for entry in self._driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")
        ]

    def wait_for(self, *texts: str) -> None:
        """Until the page shows all of them."""
        self._wait(lambda: all(text in self._shown() for text in texts), f"the texts {texts}")

    def click(self, text: str, *, unless: str | None = None) -> None:
        """The last element with exactly this text (a dialog's comes after the page's), once it can be clicked.

        With `unless`: only if the page does not show that instead.
        """

        def clicked() -> bool:
            if unless is not None and unless in self._shown():
                return True
            found = self._driver.find_elements(By.XPATH, f"//*[normalize-space(text())='{text}']")
            if not found or not found[-1].is_enabled():
                return False
            found[-1].click()
            return True

        self._wait(clicked, f"{text!r} that can be clicked")

    def choose(self, label: str, option: str) -> None:
        """An option of the list that has this label."""

        def chosen() -> bool:
            found = self._driver.find_element(By.XPATH, f"//label[normalize-space(.//text())='{label}']//select")
            Select(found).select_by_visible_text(option)
            return True

        self._wait(chosen, f"{option!r} in the list {label!r}")

    def click_at(self, selector: str) -> None:
        """The first element that a CSS selector finds, once it can be clicked."""

        def clicked() -> bool:
            self._driver.find_element(By.CSS_SELECTOR, selector).click()
            return True

        self._wait(clicked, f"{selector} that can be clicked")

    def click_in(self, heading: str | None, text: str) -> None:
        """The first thing with exactly this text that can be clicked, in the section whose heading begins so."""
        part = "" if heading is None else f"//section[.//h2[starts-with(normalize-space(.),'{heading}')]]"
        path = f"{part}//*[self::a or self::button][normalize-space(text())='{text}' or normalize-space(.)='{text}']"

        def clicked() -> bool:
            self._driver.find_element(By.XPATH, path).click()
            return True

        self._wait(clicked, f"{text!r} that can be clicked under {heading!r}")

    def picture(self, selector: str | None = None) -> bytes:
        """A PNG of what is seen, or of the first element that a CSS selector finds."""
        if selector is None:
            return self._driver.get_screenshot_as_png()
        return self._driver.find_element(By.CSS_SELECTOR, selector).screenshot_as_png

    def press(self, *keys: str) -> None:
        """Keys, one after the other, where the focus is."""
        for key in keys:
            self._driver.switch_to.active_element.send_keys(key)

    def wait_until(self, script: str) -> None:
        """Until a script in the page returns something that is true."""
        self._wait(lambda: bool(self.run(script)), script)

    def type_after(self, heading: str, text: str) -> None:
        """Into the first field after a heading."""

        def field() -> list[WebElement]:
            return self._driver.find_elements(By.XPATH, f"//*[text()='{heading}']/following::input[1]")

        self._wait(lambda: bool(field()), f"a field after {heading!r}")
        field()[0].send_keys(text, Keys.TAB)

    def follow_link_to(self, path: str) -> str:
        """The first link whose address has this path; its text."""
        selector = f"a[href*='{path}']"
        self._wait(lambda: bool(self._driver.find_elements(By.CSS_SELECTOR, selector)), f"a link to {path}")
        link = self._driver.find_elements(By.CSS_SELECTOR, selector)[0]
        text = link.text
        link.click()
        return text

    def visit(self, url: str) -> None:
        """A page of elsewhere."""
        self._driver.get(url)

    def handshakes(self) -> list[int]:
        """The status of each WebSocket's handshake since the last time that somebody asked."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        found = [one["params"] for one in messages if one["method"] == "Network.webSocketHandshakeResponseReceived"]
        return [int(one["response"]["status"]) for one in found]

    def _shown(self) -> str:
        return str(self._driver.find_element(By.TAG_NAME, "body").text)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        # Pages are drawn again while one looks: an element may be gone by then, or under another one.
        waiting = WebDriverWait(self._driver, TIMEOUT_SECONDS, poll_frequency=0.2, ignored_exceptions=[Exception])
        waiting.until(lambda _: condition(), f"{self._driver.current_url} never had {what}")


@contextmanager
def open_browser(url: str, *, has_scripts: bool = True) -> Iterator[Browser]:
    """A browser whose pages are those of `url`, and run their scripts if it `has_scripts`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its driver here; on Debian: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    if not has_scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=ChromeService(driver)) as chrome:
        yield Browser(chrome, url)
