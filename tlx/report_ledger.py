"""The section of a report on `tlx.ledger`: who taught whom, as a family tree and in a table."""

from collections.abc import Callable, Mapping
from typing import Any

from tlx import ledger, page, plots, plots_ledger, record
from tlx.record import Run
from tlx.workdir import read_json

_HEAD = ("generation", "taught by", "model", "parameters", "noise", "images", "weights", "pseudo-labels", "verdict")


def family_tree(run: Run, draw: Callable) -> page.Html:
    entries = ledger.read(run.path / "ledger.json")
    if not entries:
        return page.Html()
    caption = (
        "From top to bottom, each generation joined to its teacher. Filled: promoted. Hollow: refused, and the teacher "
        "stays. Circled: selected. p: of McNemar's test, or of the config's, "
        "between a student and its teacher on the validation split."
    )
    if any(entry["start"] == "teacher" for entry in entries):
        caption += " Warm: the student began with its teacher's weights."
    refused = [i for i, entry in enumerate(entries) if not entry["promoted"]]
    roles = {entry["phase"]: entry["role"] for entry in entries}
    rows = [_row(entry, roles, entries[0]["parameters"]) for entry in entries]
    note = (
        "× is the ratio to the first teacher's parameters. Weights and pseudo-labels: the first eight digits of their "
        f"sha256. All is on the data {_short(entries[0]['data']['fingerprint'])}."
    )
    table = page.table(_HEAD, rows, numeric=[0, 3], dim=refused)
    return page.section(
        "Family tree",
        _reentry(run),
        draw("family_tree", plots_ledger.family_tree(entries, run.get("selected", {}).get("phase", "")), caption),
        page.folded("The ledger", f"{table}<p class=note>{page.text(note)}</p>"),
    )


def _reentry(run: Run) -> str:
    """Where the run was begun anew, if it was: the earlier rounds are of another config than the page shows."""
    path = run.path / "reentry.json"
    if not path.exists():
        return ""
    mark = read_json(path)
    changes = "; ".join(f"{key} from {old!r} to {new!r}" for key, (old, new) in mark["changes"].items())
    said = f"Begun anew from round {mark['from_round']}" + (f", changing {changes}." if changes else ".")
    return f"<p>{page.text(said)}</p>"


def _row(entry: Mapping[str, Any], roles: Mapping[str, str], first: int) -> tuple:
    data, ratio, verdict = entry["data"], entry["parameters"] / first, "yes" if entry["promoted"] else "no"
    images = [f"{data['labeled']:,} labelled"]
    if entry["taught_by"]:
        images += [f"{data['unlabeled']:,} unlabelled, {data['drawn']:,} drawn"]
    word = "promoted" if entry["promoted"] else "refused"
    return (
        entry["generation"],
        roles.get(entry["taught_by"], "–") + (", warm" if entry["start"] == "teacher" else ""),
        entry["model"]["name"],
        f"{entry['parameters']:,}" + (f" (× {plots.short(ratio)})" if ratio != 1 else ""),
        _noise(entry["noise"]),
        ", ".join(images),
        _short(entry["digest"]),
        _short(data["pseudo_labels"]),
        page.Html(f"<span class={verdict}>{word}</span>: {page.text(entry['reason'])}"),
    )


def _noise(options: Mapping[str, Any]) -> str:
    """Every option that is on, with its value."""
    on = {key: value for key, value in record.flatten(dict(options)).items() if key and value}
    return ", ".join(key if value is True else f"{key} {value}" for key, value in on.items()) or "none"


def _short(digest: str | None) -> str:
    return digest[:8] if digest else "–"
