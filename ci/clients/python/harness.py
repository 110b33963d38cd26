"""The check protocol of `cargo ci clients` (ci/src/clients/mod.rs), in Python."""

import os
import time

BROKER = os.environ["DEJAQ_BROKER"]
RUN = os.environ["DEJAQ_RUN"]
GROUPS = os.environ.get("DEJAQ_GROUPS") == "1"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
_behind = os.environ.get("DEJAQ_AFTER", "")


def check(name, function, *args):
    """Runs one check and prints its result; an exception is a failure."""
    global _behind
    if _behind:
        if name == _behind:
            _behind = ""
        return
    if os.environ.get("DEJAQ_ONLY", "") not in name:
        return
    print(f"start {name}", flush=True)
    try:
        function(*args)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
        print(f"not ok {name}: {text}", flush=True)
    else:
        print(f"ok {name}", flush=True)


def equal(got, wanted, what):
    assert got == wanted, f"{what}: got {str(got)[:120]}, wanted {str(wanted)[:120]}"


def corpus():
    """The file to carry, as lines."""
    with open(os.environ["DEJAQ_FILE"], "rb") as file:
        return file.read().removesuffix(b"\n").split(b"\n")


def numbers(start, end):
    return [str(n).encode() for n in range(start, end)]


def same(got, wanted):
    """The very values in order; says where they part."""
    for index, (one, other) in enumerate(zip(got, wanted)):
        assert one == other, f"record {index}: got {one[:60]!r}, wanted {other[:60]!r}"
    equal(len(got), len(wanted), "count of records")


def raises(wanted, function, *args, **kwargs):
    """The error of a call that must fail, if `wanted(error)` holds."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        assert wanted(error), f"another error: {type(error).__name__}: {error}"
        return error
    raise AssertionError("it succeeded")


def eventually(what, done, seconds=10):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.1)
