"""The picture of README and tutorial: a gallery as a browser shows it.

    make demo && .venv/bin/python docs/picture.py demo/gallery.html docs/images/gallery.png

Needs Chromium with chromedriver.
"""

import shutil
import sys
import time
from pathlib import Path

from selenium import webdriver

FLAGS = (
    "headless=new",
    "no-sandbox",
    "use-angle=swiftshader",
    "enable-unsafe-swiftshader",
    "force-prefers-reduced-motion",
)

if __name__ == "__main__":
    page, picture = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_window_size(1280, 1040)
    browser.get(page.as_uri())
    while not browser.execute_script("return document.querySelectorAll('.card .stage canvas, .card img').length >= 8"):
        time.sleep(0.1)
    time.sleep(2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(picture))
    browser.quit()
