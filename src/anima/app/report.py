"""The report of a run: one HTML file that stands alone.

A run is looked at long after it ended, on another machine, by someone who was not there: so the
report carries its figures, its configuration and the command that made it, asks the network for
nothing, runs no script, and reads in light, in the dark, on paper and by voice. Files are replaced
whole or not at all: an interrupted writing leaves the report that was there before.
"""

import base64
import html
import io
import re
import string
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anima.app.figures import alt_text
from anima.core.errors import InputError
from anima.core.files import write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPRODUCE = "Reproduce"
"""The name of the fact that holds the command which makes this run again."""


def write_report(
    folder: Path,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    figures: Mapping[str, "tuple[Figure, str]"],
    config_text: str,
    headlines: int = 1,
    films: Mapping[str, tuple[bytes, str]] | None = None,
) -> Path:
    """Writes `folder/report.html` and `folder/figures/<name>.png`; makes the folders it needs.

    **Arguments:**

    - `title`: one line. All texts are plain: whatever looks like HTML is shown, not obeyed.
    - `facts`: (name, value) in the order to show them. The first `headlines` stand large at the
      top, the one named `REPRODUCE` is shown as a command, the others make the table.
    - `figures`: file name without its ending -> (figure, caption). The alternative text is the
      figure's own (`figures.alt_text`), or else the caption.
    - `config_text`: the configuration as it was read, folded away until asked for.

    - `films`: as `figures`, but GIFs: file name without its ending -> (the GIF, caption).

    **Returns:** the path of the report.

    **Raises:** `InputError` for a figure name that is not letters, digits, `-` and `_`, or when the
    disk refuses.

    >>> write_report(run, title="mnist", facts=[("Test error", "1.79 %")], figures={},
    ...              config_text="epochs = 20")
    """
    films = films or {}
    for name in (*figures, *films):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InputError(
                f"report: figure name {name!r}: it names a file, so use letters, digits, - and _"
            )
    drawn = {name: as_png(figure) for name, (figure, _) in figures.items()}
    shown = [_figure(name, drawn[name], *figures[name]) for name in figures]
    shown += [_film(name, *film) for name, film in films.items()]
    page = _page(title, list(facts), shown, config_text, headlines)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        write_bytes_atomically(folder / "figures" / f"{name}.png", png)
    for name, (film, _) in films.items():
        write_bytes_atomically(folder / "figures" / f"{name}.gif", film)
    write_bytes_atomically(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


# The page.


def _page(
    title: str,
    facts: Sequence[tuple[str, str]],
    figures: Sequence[str],
    config_text: str,
    headlines: int,
) -> str:
    commands = [value for name, value in facts if name == REPRODUCE]
    others = [fact for fact in facts if fact[0] != REPRODUCE]
    parts = [
        _table(others[headlines:]),
        *figures,
        *(_command(command) for command in commands),
        _config(config_text),
    ]
    return _PAGE.substitute(
        title=_text(title),
        style=_STYLE,
        headlines=_headlines(others[:headlines]),
        body="\n".join(part for part in parts if part),
    )


def _headlines(facts: Sequence[tuple[str, str]]) -> str:
    each = [f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts]
    return f'<dl class="headlines">{"".join(each)}</dl>' if each else ""


def _table(facts: Sequence[tuple[str, str]]) -> str:
    rows = [
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in facts
    ]
    body = "\n".join(rows)
    return f"<section>\n<h2>Facts</h2>\n<table>\n{body}\n</table>\n</section>" if rows else ""


def _figure(name: str, png: bytes, figure: "Figure", caption: str) -> str:
    size = struct.unpack(">II", png[16:24])  # a PNG's first chunk begins with its size
    return _image(name, "png", png, size, alt_text(figure) or caption, caption)


def _film(name: str, gif: bytes, caption: str) -> str:
    return _image(name, "gif", gif, struct.unpack("<HH", gif[6:10]), caption, caption)


def _image(name: str, kind: str, image: bytes, size, words: str, caption: str) -> str:
    source = base64.b64encode(image).decode("ascii")
    return (
        f'<figure id="{name}">\n'
        f'<div class="card"><img src="data:image/{kind};base64,{source}" width="{size[0]}" '
        f'height="{size[1]}" alt="{_text(words)}"></div>\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>"
    )


def _command(command: str) -> str:
    return (
        "<section>\n<h2>How to reproduce</h2>\n"
        f'<pre tabindex="0"><code>{_text(command)}</code></pre>\n</section>'
    )


def _config(config_text: str) -> str:
    return (
        "<details>\n<summary>Configuration</summary>\n"
        f'<pre tabindex="0"><code>{_text(config_text)}</code></pre>\n</details>'
    )


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


def as_png(figure: "Figure") -> bytes:
    """The figure as PNG, its alternative text within; the name of the drawer is left out."""
    into = io.BytesIO()
    words = {"Software": None, "Description": alt_text(figure) or None}
    figure.savefig(into, format="png", dpi=figure.dpi, facecolor="white", metadata=words)
    return into.getvalue()


_PAGE = string.Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<main>
<header>
<p class="house">anima</p>
<h1>$title</h1>
$headlines
</header>
$body
</main>
</body>
</html>
""")

_STYLE = """\
:root {
  --paper: #fbfbfa; --ink: #1d2430; --quiet: #5c6470; --hair: #e0e3e7; --sunk: #f1f2f4;
  --accent: #2166ac;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --ink: #e6e8eb; --quiet: #9aa3af; --hair: #2d333c; --sunk: #1d2229;
    --accent: #7db5ea;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header { border-bottom: 1px solid var(--hair); padding-bottom: 1.75rem; margin-bottom: 2rem; }
.house { margin: 0; color: var(--quiet); font-size: .85rem; letter-spacing: .08em; }
h1 { margin: .15rem 0 0; font-size: 1.75rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.1rem; }
.headlines { display: flex; flex-wrap: wrap; gap: 1.25rem 3rem; margin: 1.5rem 0 0; }
.headlines dt { color: var(--quiet); font-size: .9rem; }
.headlines dd {
  margin: 0; color: var(--accent); font-size: 2.6rem; font-weight: 650; line-height: 1.15;
  font-variant-numeric: tabular-nums;
}
table { width: 100%; border-collapse: collapse; }
th, td {
  padding: .45rem 0; border-bottom: 1px solid var(--hair); text-align: left; vertical-align: top;
  overflow-wrap: anywhere;
}
th { width: 14rem; max-width: 40%; padding-right: 1rem; color: var(--quiet); font-weight: 400; }
td { font-variant-numeric: tabular-nums; white-space: pre-line; }
figure { margin: 2.5rem 0; }
.card {
  padding: 1rem; border: 1px solid var(--hair); border-radius: 8px; background: #fff;
  text-align: center;
}
.card img { display: inline-block; max-width: 100%; height: auto; vertical-align: middle; }
figcaption { max-width: 46rem; margin-top: .7rem; color: var(--quiet); font-size: .95rem; }
pre {
  margin: 0; padding: .9rem 1.1rem; overflow-x: auto; border-radius: 8px; background: var(--sunk);
  font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
details { margin-top: 2.5rem; }
summary { margin-bottom: .75rem; font-size: 1.1rem; font-weight: 700; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
@media print {
  :root {
    --paper: #fff; --ink: #000; --quiet: #444; --hair: #ccc; --sunk: #f4f4f4; --accent: #1a4f88;
  }
  @page { margin: 18mm; }
  main { max-width: none; padding: 0; }
  figure, tr, header { break-inside: avoid; }
  h2, summary { break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .card { border: 0; padding: 0; text-align: left; }
  .card img { width: auto; max-height: 98mm; }
  figure, details { margin: 1.4rem 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
}"""
