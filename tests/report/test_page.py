import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np

from semiscope.report.page import page

NASTY = "</script><script>alert(1)</script> \"#' & ä 欠陥 {{script}}.png"


class Elements(HTMLParser):
    """All start tags with their attributes, and the text of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.raw, self.inside = [], {}, (None, None)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = (tag, dict(attrs).get("id"))

    def handle_data(self, data):
        if self.inside[0] in ("script", "style"):
            self.raw[self.inside] = self.raw.get(self.inside, "") + data

    def handle_endtag(self, tag):
        self.inside = (None, None)


def read(text):
    found = Elements(text)
    return found, json.loads(found.raw["script", "data"])


def test_figures_and_pictures_are_on_the_page(picture, report):
    pictures = [
        picture("a.png", "gap", 0.4, "review", length=30.0),
        picture("b.png", "bridge", 0.9, "accept"),
        picture("b.png", "gap", 0.8, "accept"),
    ]
    text = page(report(pictures, failed=(("c.png", "is empty"),)))
    found, data = read(text)
    tiles = re.findall(r'<div class="tile \w*"><b>([\d,]+)</b><span>([\w ]+)', text)
    assert tiles == [
        ("7", "images inspected"),
        ("3", "images with defects"),
        ("3", "defects"),
        ("1", "for review"),
        ("1", "files failed"),
    ]
    assert data["classes"] == ["bridge", "gap"]
    assert [(i["file"], i["c"], i["d"]) for i in data["items"]] == [
        ("a.png", 1, "review"),
        ("b.png", 0, "accept"),
        ("b.png", 1, "accept"),
    ]
    assert "All 3 defects." in text and "<td>is empty</td>" in text
    assert ("a", {"href": "defects.csv"}) in found.tags


def test_names_from_files_cannot_leave_their_place(picture, report):
    text = page(
        report(
            [picture(NASTY, NASTY, 0.5, "review")],
            title=NASTY,
            facts={NASTY: NASTY},
            failed=((NASTY, NASTY),),
            csv=NASTY,
            model={NASTY: {NASTY: [NASTY]}},
            settings={NASTY: NASTY},
        )
    )
    plain, _ = read(page(report([picture("a", "b", 0.5, "review")], failed=(("a", "b"),))))
    found, data = read(text)
    assert data["items"][0]["file"] == NASTY and data["classes"] == [NASTY]
    assert [t for t, _ in found.tags].count("script") == 2
    handlers = [a for _, attrs in found.tags for a in attrs if a.startswith("on")]
    assert not handlers and "alert" not in found.raw["script", None]
    assert found.raw["script", None] == plain.raw["script", None]


def test_the_page_carries_all_it_needs_and_allows_nothing_else(picture, report):
    text = page(report([picture("a.png", "gap", 0.5, "review")]))
    found, _ = read(text)
    links = [a.get("src") or a.get("href") for _, a in found.tags if "src" in a or "href" in a]
    assert links == ["defects.csv"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        digest = base64.b64encode(
            hashlib.sha256(found.raw[element, None].encode()).digest()
        ).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    # the policy would block these
    assert not any("style" in a for _, a in found.tags)


def test_nothing_found_and_nothing_failed(report):
    text = page(report([], lengths=np.zeros(0), scores=np.zeros(0), review=np.zeros(0, bool)))
    assert "No defects were reported." in text and "Every file could be read." in text


def test_what_is_left_out_is_told(picture, report):
    pictures = [picture(f"{i}.png", "gap", 0.5, "review") for i in range(3)]
    many = {
        "lengths": np.ones(5000),
        "scores": np.full(5000, 0.5),
        "review": np.zeros(5000, bool),
        "failed": [(f"{i}.png", "is empty") for i in range(700)],
    }
    text = page(report(pictures, **many))
    assert "3 of 5,000 defects" in text
    assert "And 200 more, listed in results.json" in text
    assert "499.png" in text and "500.png" not in text
