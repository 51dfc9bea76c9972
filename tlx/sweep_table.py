"""The table that a sweep leaves in its experiment's page: a row a variant, between two markers."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tlx.errors import UserError
from tlx.workdir import write_bytes

if TYPE_CHECKING:
    from tlx.sweep import Variant

BEGIN, END = "<!-- table: made by tlx.sweep -->", "<!-- end of table -->"


def table(variants: Sequence["Variant"], records: Sequence[Mapping[str, Any]], figures: Mapping[str, str]) -> str:
    """Markdown: a row a variant; for each column published (where any is) beside measured, mean ± sample deviation."""
    published = {column for variant in variants for column in variant.published}
    head = ["variant", "n"]
    for column in figures:
        head += [f"{column}, published"] * (column in published) + [column]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for variant in variants:
        mine = [record for record in records if record["variant"] == variant.label]
        cells = [variant.label, str(len(mine))]
        for column in figures:
            values = [r["figures"][column] for r in mine if r["figures"].get(column) is not None]
            cells += [variant.published.get(column, "-")] * (column in published) + [mean_and_spread(values)]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """ "0.9823 ± 0.0021": mean and sample standard deviation (ddof = 1); no spread for one value."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def update_table(page: pathlib.Path, content: str, *, begin: str = BEGIN) -> None:
    """Puts the table between the page's markers, `begin` and END; a page without them gets them at its end."""
    text = page.read_text() if page.exists() else f"# {page.parent.name}\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{END}\n"
    before, _, rest = text.partition(begin)
    if END not in rest:
        raise UserError(f"{page}: {begin!r} has no {END!r} after it; put it back")
    write_bytes(page, f"{before}{begin}\n{content}\n{END}{rest.partition(END)[2]}".encode())
