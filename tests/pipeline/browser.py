"""Chromium, asked over its own protocol what it shows of a page and what it complains of."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
]

# The page's width, its plots' sizes and how many shapes each has, its colours, its title and text.
_ASK = """JSON.stringify({
  wide: document.documentElement.scrollWidth,
  plots: [...document.querySelectorAll('svg')].map(svg => {
    const box = svg.getBoundingClientRect();
    return [box.width, box.height, svg.querySelectorAll('rect, path, polyline, line').length];
  }),
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  title: document.title,
  text: document.body.innerText,
})"""


@dataclass(frozen=True)
class Look:
    """A page at a width in pixels and a colour scheme: what it says of itself, errors, and a picture
    (PNG)."""

    width: int
    scheme: str
    page: dict[str, Any]
    errors: list[str]
    picture: bytes


def look_at(path: Path, profile: Path, widths: Sequence[int], schemes: Sequence[str]) -> list[Look]:
    """The page in a file at each of these widths and colour schemes."""
    browser = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return asyncio.run(
            _look_at(
                path, _port(profile / "DevToolsActivePort", browser), list(itertools.product(widths, schemes))
            )
        )
    finally:
        browser.kill()
        browser.wait()


def _port(file: Path, browser: subprocess.Popen[bytes]) -> int:
    wait_until(lambda: file.exists() and file.read_text().splitlines(), browser)
    assert browser.poll() is None, "Chromium did not start"
    return int(file.read_text().splitlines()[0])


async def _look_at(path: Path, port: int, ways: Sequence[tuple[int, str]]) -> list[Look]:
    looks = []
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            target = await answer.json()
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            numbers, errors = itertools.count(1), list[str]()

            async def ask(method: str, **given: Any) -> dict[str, Any]:
                number = next(numbers)
                await socket.send_json({"id": number, "method": method, "params": given})
                while True:
                    said = await socket.receive_json()
                    if said.get("method") in (
                        "Runtime.exceptionThrown",
                        "Log.entryAdded",
                        "Runtime.consoleAPICalled",
                    ):
                        errors.append(str(said["params"]))
                    if said.get("id") == number:
                        return said.get("result", {})

            for domain in ("Page", "Runtime", "Log"):
                await ask(f"{domain}.enable")
            for width, scheme in ways:
                errors.clear()
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                await ask("Emulation.setDeviceMetricsOverride", **size)
                await ask(
                    "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
                )
                await ask("Page.navigate", url=path.as_uri())
                while (await ask("Runtime.evaluate", expression="document.readyState"))["result"][
                    "value"
                ] != "complete":
                    await asyncio.sleep(0.05)
                page = await ask("Runtime.evaluate", expression=f"JSON.parse({_ASK})", returnByValue=True)
                picture = await ask("Page.captureScreenshot", captureBeyondViewport=True)
                looks.append(
                    Look(
                        width,
                        scheme,
                        page["result"]["value"],
                        list(errors),
                        base64.b64decode(picture["data"]),
                    )
                )
    return looks
