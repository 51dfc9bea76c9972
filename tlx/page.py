"""The furniture of a page: escaped text, tables, figures, image tiles, and one file that needs nothing but itself."""

import base64
import html
import io
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlx import plots, record
from tlx.errors import UserError
from tlx.workdir import write_bytes

_CSS = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:2rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
header{border-bottom:2px solid var(--ink);margin-bottom:1.5rem}
header p{margin:.3rem 0 .8rem;color:var(--muted)}
h1{font-size:1.7rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:2.6rem 0 .7rem}
h3{font-size:.95rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0;max-width:72ch}
.hero{font-size:clamp(2.6rem,9vw,3.6rem);font-weight:700;line-height:1.05;letter-spacing:-.02em;color:var(--green)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:1rem;margin:1.3rem 0 0;padding:0}
.cards div{border-top:1px solid var(--grid);padding-top:.45rem}
.cards dd{margin:0;font-size:1.2rem;font-weight:600}
.cards dt,figcaption,.note,summary,th{color:var(--muted);font-size:.86rem}
.cards dd,td,.tiles{font-variant-numeric:tabular-nums}
.banner{border-left:4px solid var(--red);padding:.6rem 1rem;background:color-mix(in srgb,var(--red) 9%,transparent)}
.pair{display:grid;gap:1.5rem 2.5rem;align-items:start;
  grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
figure{margin:1rem 0 0}
figure>svg{display:block;width:100%;max-width:620px;height:auto}
figcaption{max-width:72ch;margin-top:.35rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:.38rem .9rem .38rem 0;border-bottom:1px solid var(--grid);text-align:left;vertical-align:top}
th{font-weight:500;vertical-align:bottom}
th:last-child:not(.n){min-width:13rem}
.n{text-align:right;white-space:nowrap}
.dim td{color:var(--muted)}
.yes,.no{font-weight:600;white-space:nowrap;color:var(--green)}
.no{color:var(--red)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(68px,1fr));gap:.7rem .6rem;margin:.6rem 0}
.tiles figure{margin:0;text-align:center;font-size:.78rem;line-height:1.3}
.tiles img{display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;background:#000;
  border:1px solid var(--grid)}
.tiles .bad{color:var(--red)}
.tiles .bad img{border:3px solid var(--red)}
details{margin:.8rem 0}
summary{cursor:pointer}
.mono td,pre{font:.82rem/1.5 ui-monospace,Menlo,"DejaVu Sans Mono",monospace}
.mono td{overflow-wrap:anywhere;min-width:8rem}
pre{overflow-x:auto;padding:.7rem .9rem;background:color-mix(in srgb,var(--ink) 6%,transparent)}
.bar{display:flex;height:.55rem;max-width:620px;gap:2px;margin:.5rem 0}
.bar i{min-width:2px}
"""


class Html(str):
    """Text that is HTML already; every other text is escaped on its way into the page."""


def text(value: Any) -> Html:
    """Escapes whatever is not HTML yet."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def figure_text(name: str, value: float | None) -> str:
    """A figure as people read it: fractions in %, whole numbers with separators, the rest to 4 digits."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if record.is_fraction(name):
        return f"{100 * value:.2f}\u00a0%"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def section(title: str, *parts: str) -> Html:
    """A section with its heading; `parts` are HTML."""
    return Html(f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>")


def table(
    head: Sequence[Any], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = (), dim: Sequence[int] = ()
) -> Html:
    """A table that scrolls by itself on a narrow screen; `numeric` columns stand flush right, `dim` rows stand back."""
    cell = lambda tag, i, value: f"<{tag}{' class=n' if i in numeric else ''}>{text(value)}</{tag}>"
    line = lambda tag, row: "".join(cell(tag, i, value) for i, value in enumerate(row))
    body = "".join(f"<tr{' class=dim' if i in dim else ''}>{line('td', row)}</tr>" for i, row in enumerate(rows))
    head = f"<thead><tr>{line('th', head)}</tr></thead>" if head else ""
    return Html(f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>")


def folded(title: str, content: str) -> Html:
    """Content that opens on a click."""
    return Html(f"<details><summary>{text(title)}</summary>{content}</details>")


def drawer(out: pathlib.Path) -> Callable[..., Html]:
    """Returns `draw(name, figure, caption) -> html`, which also writes `out/plots/name.png`."""
    try:
        (out / "plots").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{out} is not writable ({e.strerror}): choose another folder with --out") from None

    def draw(name: str, figure: Any, caption: str = "") -> Html:
        svg = plots.save(figure, out / "plots" / f"{name}.png")
        label = f"{name.replace('_', ' ')}. {caption}"
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)
        return Html(f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>")

    return draw


def save(path: pathlib.Path, title: str, subtitle: str, sections: Sequence[str]) -> pathlib.Path:
    """Writes one page that needs nothing but itself, whole or not at all."""
    shades = [";".join(f"--{name}:{pair[i]}" for name, pair in plots.THEME.items()) for i in (0, 1)]
    theme = f":root{{{shades[0]}}}@media(prefers-color-scheme:dark){{:root{{{shades[1]}}}}}"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # The browser itself refuses anything from outside, whatever a config's text may hold.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none';img-src data:;style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{theme}{_CSS}</style></head><body>"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p></header><main>{''.join(sections)}</main></body></html>\n"
    )
    try:
        write_bytes(path, page.encode(errors="backslashreplace"))  # JSON can name halves of characters
    except OSError as e:
        raise UserError(f"{path} cannot be written ({e.strerror}): choose another folder with --out") from None
    return path


def tiles(images: np.ndarray, captions: Sequence[str], wrong: Sequence[bool]) -> Html:
    """uint8 images `[n, H, W, 3]` as a grid that flows with the page, the wrong ones framed and named in red."""
    from PIL import Image

    made = []
    for image, caption, bad in zip(images, captions, wrong):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        source = base64.b64encode(buffer.getvalue()).decode()
        made.append(
            f"<figure{' class=bad' if bad else ''}><img alt='' src='data:image/png;base64,{source}'>"
            f"{text(caption).replace(chr(10), '<br>')}</figure>"
        )
    return Html(f"<div class=tiles>{''.join(made)}</div>")


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 1 min 32 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
