import os
import re
import shutil
import subprocess

import pytest

from semiscope.report.page import page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    "--virtual-time-budget=3000",
)


@pytest.fixture
def seen(tmp_path, picture, report):
    """The page as the browser makes it of a hash, and what its console said."""
    pictures = [
        picture('<img src=x onerror="document.title=1">#1.png', "gap", 0.31, "review", length=50.0),
        picture("b ä.png", "a<b", 0.9, "accept", length=10.0),
        picture("c.png", "gap", 0.8, "accept", length=3000.0, rings=[[1, 1, 9, 1, 9, 9]]),
        picture("d.png", "gap", 0.7, "accept", length=20.0, nm_per_px=None),
    ]
    path = tmp_path / "report.html"
    path.write_text(page(report(pictures)), encoding="utf-8")

    def look(state=""):
        done = subprocess.run(
            [
                BROWSER,
                *FLAGS,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--enable-logging=stderr",
                "--dump-dom",
                f"{path.as_uri()}#{state}",
            ],
            capture_output=True,
            text=True,
            timeout=90,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)

    return look


def cards(dom):
    names = re.findall(r'<span class="file">(.*?)</span>', dom)
    return [name.split("#")[-1] for name in names]


def test_the_gallery_shows_everything_without_complaint(seen):
    dom, console = seen()
    assert console == []
    assert cards(dom) == ["1.png", "b ä.png", "c.png", "d.png"]
    assert dom.count("<image ") == 4 and "4 shown" in dom
    assert "<title>Defect report</title>" in dom and "<img" not in dom
    sizes = re.findall(r"<span>([\d.]+ .m|[\d.]+ px)</span>", dom)
    assert sizes == ["100 nm", "20 nm", "6 µm", "20 px"]
    assert re.findall(r'<option value="(a&lt;b|a<b|gap)">', dom) in (
        ["a<b", "gap"],
        ["a&lt;b", "gap"],
    )
    assert len(re.findall(r'<path d="M1 1 9 1 9 9Z" class="mark', dom)) == 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("class=gap", ["1.png", "c.png", "d.png"]),
        ("class=a%3Cb", ["b ä.png"]),
        ("disposition=review", ["1.png"]),
        ("min=0.75", ["b ä.png", "c.png"]),
        ("q=%C3%84", ["b ä.png"]),
        ("sort=size", ["c.png", "1.png", "b ä.png", "d.png"]),
        ("sort=doubt&class=gap&disposition=accept", ["d.png", "c.png"]),
        ("class=unknown&min=2", []),
    ],
)
def test_the_state_in_the_address_filters_and_sorts(seen, state, expected):
    dom, console = seen(state)
    assert cards(dom) == expected and console == []
    assert f"{len(expected)} shown" in dom


def test_the_same_as_a_table(seen):
    dom, console = seen("view=table&min=0.75")
    assert console == [] and cards(dom) == []
    body = re.search(r'<div id="table".*?<tbody>(.*?)</tbody>', dom, re.S)[1]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", r) for r in body.split("</tr>") if r]
    assert [r[0] for r in rows] == ["b ä.png", "c.png"]
    assert rows[1][2:4] == ["accepted", "0.800"] and rows[1][6] == "6 µm"
