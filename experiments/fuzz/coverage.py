"""One target of `fed.py` under atheris, which mutates bytes and keeps those that reach code no others reached.

It is started by `experiments.fuzz.campaign`, which see; it may also be given an atheris of its own:

    pip install --target /tmp/atheris-site atheris
    PYTHONPATH=/tmp/atheris-site python -m experiments.fuzz.campaign --engine=atheris

What is written in Python is seen to be reached, what is in C (numpy's own, Pillow's, safetensors') is not.
"""

import argparse
import json
import os
import pathlib
import sys
import time

_SEEN = ["tlx", "safetensors", "PIL", "numpy.lib", "zipfile", "gzip", "pickletools", "ast", "tokenize"]


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.fuzz.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="an empty one, for the target")
    parser.add_argument("--into", type=pathlib.Path, required=True, help="a file for the record")
    options = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=_SEEN):  # so nothing of tlx is imported before
        from experiments.fuzz.fed import FED
    from experiments.fuzz.around import changes, listing
    from experiments.fuzz.tally import Tally, keeper, start
    from experiments.fuzz.watch import judge

    fed, tally, keep = FED[options.target](options.folder), Tally(), keeper(options.into)
    start(lambda folder: fed.target, options.folder)
    corpus = options.into.with_name("corpus")
    corpus.mkdir()
    for number, seed in enumerate(fed.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    before, end = listing(options.folder), time.monotonic() + options.seconds

    def attempt(content: bytes) -> None:
        example = fed.example(content)
        tally.add(
            judge(lambda: fed.target.read(example), folder=options.folder, names=fed.target.names),
            example,
            options.folder,
        )
        keep(tally)
        if time.monotonic() > end:
            tally.changed = changes(before, listing(options.folder))
            options.into.write_text(json.dumps(tally.record()))
            sys.stderr.flush()
            os._exit(0)  # Fuzz() does not return, and libFuzzer takes an exit for a crash

    # No limits of libFuzzer's: the judge has its own. Its seed 0 is the clock.
    atheris.Setup([sys.argv[0], str(corpus), f"-seed={options.seed + 1}", "-rss_limit_mb=0", "-max_len=8192"], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
