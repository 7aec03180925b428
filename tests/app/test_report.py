"""The report stands alone, shows text as text, and is written whole or not at all."""

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from anima.app.figures import alt_text, learning_curve
from anima.app.report import REPRODUCE, write_report
from anima.core.errors import InputError

ROWS = [{"epoch": n, "test_accuracy": 1 - 0.1 / n, "cost": 1 / n} for n in (1, 2, 3)]
FACTS = [
    ("Test accuracy", "96.67%"),
    ("Seed", "0"),
    (REPRODUCE, "anima learn digits --set 'a=\"<b>\"'"),
]
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Reads a page and holds that every tag opened is closed, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.words.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def write(folder: Path, **changes) -> Path:
    given = dict(
        title="digits by ep",
        facts=FACTS,
        figures={"learning-curve": (learning_curve(ROWS), "Error, epoch by epoch.")},
        config_text="[train]\nepochs = 3\n",
    )
    return write_report(folder, **{**given, **changes})


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def test_the_folder_holds_the_page_and_the_figures(tmp_path):
    path = write(tmp_path / "runs" / "one")
    assert path == tmp_path / "runs" / "one" / "report.html"
    png = (path.parent / "figures" / "learning-curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 8_000


def test_the_page_is_well_formed_and_tells_the_reader_its_language_and_width(tmp_path):
    page = read(write(tmp_path))
    assert page.all("html") == [{"lang": "en"}]
    assert "width=device-width" in str([m for m in page.all("meta") if m.get("name") == "viewport"])
    assert page.words["h1"] == page.words["title"] == ["digits by ep"]


def test_the_page_asks_for_nothing_from_outside(tmp_path):
    path = write(tmp_path)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text("utf-8"))
    assert not re.search(r"https?://|//[a-z]|url\(|@import", text)
    assert "default-src 'none'" in text
    page = read(path)
    assert not page.all("script")
    sources = [a[k] for _, a in page.seen for k in ("src", "href") if k in a]
    assert all(source.startswith("data:") for source in sources)


def test_the_figure_is_inlined_with_its_own_words_and_size(tmp_path):
    figure = learning_curve(ROWS)
    path = write(tmp_path, figures={"curve": (figure, "A caption.")})
    page = read(path)
    (image,) = page.all("img")
    inlined = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert inlined == (tmp_path / "figures" / "curve.png").read_bytes()
    assert image["alt"] == alt_text(figure)
    assert (image["width"], image["height"]) == ("910", "611")
    assert page.words["figcaption"] == ["A caption."]


def test_a_figure_made_elsewhere_is_described_by_its_caption(tmp_path):
    (image,) = read(write(tmp_path, figures={"blank": (Figure(), "Nothing yet.")})).all("img")
    assert image["alt"] == "Nothing yet."


def test_headlines_stand_apart_from_the_table_and_the_command_from_both(tmp_path):
    page = read(write(tmp_path))
    assert page.words["dd"] == ["96.67%"]
    assert (page.words["th"], page.words["td"]) == (["Seed"], ["0"])
    assert page.words["code"] == [FACTS[-1][1], "[train]\nepochs = 3\n"]
    assert read(write(tmp_path, headlines=2)).words["dd"] == ["96.67%", "0"]


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", "\"'><img src=x>", "$title & co"])
def test_text_is_shown_and_not_obeyed(tmp_path, nasty):
    figures = {"blank": (Figure(), nasty)}
    facts = [(nasty, nasty), (nasty, nasty), (REPRODUCE, nasty)]
    page = read(write(tmp_path, title=nasty, facts=facts, figures=figures, config_text=nasty))
    assert not page.all("script")
    (image,) = page.all("img")
    assert image["alt"] == nasty
    for tag in ("title", "h1", "dt", "dd", "th", "td", "figcaption"):
        assert "".join(page.words[tag]) == nasty
    assert "".join(page.words["code"]) == nasty * 2


def test_a_report_of_nothing_is_still_a_page(tmp_path):
    page = read(write(tmp_path, facts=[], figures={}, config_text=""))
    assert page.words["h1"] == ["digits by ep"]
    assert not page.all("table")


def test_a_name_that_is_no_text_does_not_lose_the_report(tmp_path):
    write(tmp_path, facts=[("run", "bad \udcff byte")])


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b", "end\n"])
def test_a_figure_name_that_is_no_file_name_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(InputError, match="figure name"):
        write(tmp_path / "run", figures={name: (Figure(), "")})
    assert not (tmp_path / "run").exists()


def test_writing_that_fails_leaves_the_report_that_was_there(tmp_path, monkeypatch):
    path = write(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def refuse(source, target):
        assert Path(source).parent == Path(target).parent, "a rename across folders is no rename"
        assert Path(source).read_bytes(), "nothing was drafted"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left"):
        write(tmp_path, title="another")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert "digits by ep" in path.read_text("utf-8")


def test_a_figure_that_cannot_be_drawn_leaves_the_report_that_was_there(tmp_path):
    class Torn(Figure):
        def savefig(self, *args, **kwargs):
            raise RuntimeError("torn")

    before = write(tmp_path).read_bytes()
    good = (learning_curve(ROWS), "")
    with pytest.raises(RuntimeError, match="torn"):
        write(tmp_path, figures={"fine": good, "torn": (Torn(), "")})
    assert (tmp_path / "report.html").read_bytes() == before
    assert not (tmp_path / "figures" / "fine.png").exists()
