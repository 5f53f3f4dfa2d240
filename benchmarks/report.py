"""The page of a run, as Markdown."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from . import accuracy, denormals, ragged, starts
from .bars import (
    WORK,
    Result,
    Run,
    geometric_mean,
    misses,
    results,
)
from .case import PASSES, RATIO_AT_LIMIT, Pass
from .cases import LAYERS, MEANS, pass_title
from .reasons import ACCURACY, MEANS_OF, RAGGED, REASONS, STARTS, Reason, reason_of

METHOD: Final = """\
## How it is measured

- Before time is taken, y and all gradients of every library are compared with a reference computed
  in float64.
- Each library is a process of its own, on all threads. They go in turns, case by case, several
  rounds; while one is measured the others are stopped. Before its turn all cores must reach nine
  tenths of the machine's peak, which is waited for up to a second: a shared host takes cores
  away. Times are medians over the calls of a round, then over rounds; those of every round, and
  minima, are in the JSON file of the page's name, beside it in the repository.
- Networks are trained by a step after the other on one batch: forward, cross-entropy, backward,
  update. Their inference is Lamina's `for_inference` alone. They are compared with Lamina's own
  network in float64, without Dropout.
- *Forward* is inference. *Forward + backward* gives the gradients of x and of all parameters.
- Lamina is called as a user calls it, `layer(x)`, `layer.forward` and `layer.backward`: checks of
  arguments and packing of weights are inside the clock, as is memory for the results. Data are
  channels last.
- PyTorch's modules are given data channels first and channels last, and the better of the two
  counts; torch.compile channels last, its weights packed once where a network infers for batches.
  JAX computes channels last, under `jit`. ONNX Runtime's sessions keep weights packed; the better
  counts of `run` and of a session that writes into the same memory each time. Where Lamina's
  `for_inference` was measured, it is what stands against ONNX Runtime, and the layer itself against
  the others.
- The *limit* of a case is the greater of two times: its arithmetic at the machine's peak; its bytes
  at the bandwidth of its working set. A multiply-add counts as two operations, with the zeros of
  padding, as is usual: a library that passes over them may go beyond 100%. So may Lamina in
  convolutions with 3x3 or 5x5 taps and 16 channels or more, and in networks of them: it takes
  Winograd's products, 4 in the place of 9 or 49 in that of 100, which is no share of the peak.
  Bytes are those of every array once a pass: forward reads x and the parameters and writes y;
  backward reads dy, x and weight and writes the gradients. Bytes that are read while as many are
  written go at the bandwidth of scaling, the rest of those that are read at that of reading.
- *Ratio* is the time of the fastest library over Lamina's: above 1, Lamina is faster.
"""


def page(run: Run, name: str = "benchmarks") -> str:
    """Return the page of a run; its picture is a file of that name."""
    found = {which: list(results(run, which)) for which in PASSES}
    parts = [
        "# Benchmarks" if name == "benchmarks" else f"# Benchmarks: {run['machine']['cpu']}",
        "*Written by `make bench`; times in microseconds, medians.*",
        "\n".join(_machine(run)),
        "## Limits of this machine",
        "\n".join(_limits(run)),
        f"![The share of its limit that each case reaches]({name}.svg)",
        METHOD.rstrip(),
    ]
    for layer in LAYERS:
        for which in PASSES:
            of_layer = [result for result in found[which] if result.case.layer == layer]
            if of_layer:
                parts.append(f"## {LAYERS[layer].TITLE}, {pass_title(layer, which)}")
                parts.append("\n".join(_table(of_layer, run["titles"])))
    networks = [result for which in PASSES for result in found[which] if result.peaks]
    if networks:
        parts += ["## Networks, memory", "\n".join(_memory(networks, run["titles"]))]
    parts += ["## Geometric means", "\n".join(_means(found["forward"] + found["both"]))]
    if "starts" in run:
        parts += ["## Starts", "\n".join(_starts(run["starts"]))]
    if "accuracy" in run:
        parts += ["## Time to an accuracy", "\n".join(_accuracy(run))]
    if "ragged" in run:
        parts += ["## Ragged batches", "\n".join(_ragged(run["ragged"]))]
    if "denormals" in run:
        parts += ["## Denormal numbers", "\n".join(_denormals(run["denormals"]))]
    parts += ["## Below the bars", "\n".join(_below(run, found["forward"] + found["both"]))]
    failures = list(_failures(run))
    if failures:
        parts += ["## Not measured", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def _machine(run: Run) -> Iterator[str]:
    machine = run["machine"]
    yield from _rows(["", ""], ["---", "---"])
    yield f"| CPU | {machine['cpu']}, {machine['vector_bits']}-bit vectors |"
    yield f"| Threads | {run['threads']} of {machine['cores']} cores |"
    yield f"| System | {machine['system']}, Python {machine['python']} |"
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    yield f"| Versions | {versions} |"
    yield f"| Date | {run['date']} |"
    yield f"| Rounds | {run['rounds']}, {run['seconds']:g} s each |"
    left_out = [f"{title} ({reason})" for title, reason in run["left_out"].items()]
    yield f"| Left out | {'; '.join(left_out) or 'none'} |"
    if "stopped" in run:
        yield f"| Stopped | {run['stopped']} |"


def _limits(run: Run) -> Iterator[str]:
    limits = run["limits"]
    for dtype, by_threads in limits["peak"].items():
        peaks = ", ".join(f"{flops / 1e9:.0f} on {n}" for n, flops in by_threads.items())
        yield f"- Peak in {dtype}, GF/s by threads: {peaks}"
    yield "- Bandwidth on all threads, GB/s by working set:"
    yield ""
    yield from _rows(["", *map(_size, limits["sizes"])], ["---"] + ["--:"] * len(limits["sizes"]))
    for do in ("read", "scale"):
        yield f"| {do} | " + " | ".join(f"{rate / 1e9:.0f}" for rate in limits[do]) + " |"


def _table(found: Sequence[Result], titles: dict[str, str]) -> Iterator[str]:
    columns = [name for name in titles if any(name in result.times for result in found)]
    packed = any(result.packed is not None for result in found)
    heads = ["Case", *(titles[name] for name in columns)]
    if packed:
        heads.insert(2, "for_inference")
    heads += ["Ratio", "Limit", "Lamina's share", "The fastest's share"]
    yield from _rows(heads, ["---"] + ["--:"] * (len(heads) - 1))
    for family, group in groupby(found, key=lambda result: result.case.family):
        yield f"| **{family}** |" + " |" * (len(heads) - 1)
        for result in group:
            cells = [_microseconds(result.times.get(name)) for name in columns]
            if packed:
                cells.insert(1, _microseconds(result.packed))
            fastest = result.fastest
            cells += [
                f"{result.ratio:.2f}" if fastest else "",
                _microseconds(result.limit),
                f"{result.share(result.lamina):.0%}",
                f"{result.share(result.times[fastest]):.0%}" if fastest else "",
            ]
            yield f"| {result.case.name} | " + " | ".join(cells) + " |"


def _memory(found: Sequence[Result], titles: dict[str, str]) -> Iterator[str]:
    columns = [name for name in titles if any(name in result.peaks for result in found)]
    yield "MiB at the peak, over what is resident when all that belongs to a network is gone."
    yield ""
    yield from _rows(
        ["Case", *(titles[name] for name in columns)], ["---"] + ["--:"] * len(columns)
    )
    for result in found:
        sizes = (result.peaks.get(name) for name in columns)
        cells = ("" if size is None else f"{size / 2**20:.1f}" for size in sizes)
        yield f"| {result.case.name} | " + " | ".join(cells) + " |"


def _means(found: Sequence[Result]) -> Iterator[str]:
    yield "*At the limit* is what the mean would be if Lamina took no more time than the limit in"
    yield f"each case where that is {WORK * 1e3:g} ms or more."
    yield ""
    names = ["Layer", "Pass", "Cases", "Ratio", "At the limit", "Bar"]
    yield from _rows(names, ["---"] * 2 + ["--:"] * 4)
    for (layer, which), group in _groups(found):
        most = statistics.geometric_mean(result.ratio_at_limit for result in group)
        yield (
            f"| {LAYERS[layer].TITLE} | {pass_title(layer, which)} | {len(group)} "
            f"| {geometric_mean(group):.2f} | {most:.2f} | {MEANS.get((layer, which), '')} |"
        )


def _groups(found: Sequence[Result]) -> Iterator[tuple[tuple[str, Pass], list[Result]]]:
    """Give the results of a layer's pass that are beside other libraries'."""
    for layer, which in itertools.product(LAYERS, PASSES):
        of_pass = (r for r in found if (r.case.layer, r.which) == (layer, which))
        group = [result for result in of_pass if result.fastest]
        if group:
            yield (layer, which), group


def _starts(found: Mapping[str, float]) -> Iterator[str]:
    yield from _rows(["What", "Time", "Bar"], ["---", "--:", "--:"])
    for name, seconds in found.items():
        yield f"| {starts.TITLES[name]} | {starts.said(seconds)} | {starts.bar(name)} |"


def _accuracy(run: Run) -> Iterator[str]:
    found, limits = run["accuracy"], run["limits"]
    least = accuracy.least(limits["peak"]["float32"][str(limits["threads"])])
    yield accuracy.METHOD
    yield ""
    yield from _rows(
        ["", "A step, ms", "An epoch, s", f"{accuracy.EPOCHS} epochs, min"], ["---"] + ["--:"] * 3
    )
    rows = [(accuracy.TITLES[name], times) for name, times in found["times"].items()]
    for title, times in [*rows, ("The arithmetic of the definition, at the peak", least)]:
        epoch = accuracy.epoch(times)
        yield (
            f"| {title} | {times['step'] * 1e3:.1f} | {epoch:.1f} "
            f"| {epoch * accuracy.EPOCHS / 60:.1f} |"
        )
    for name, reason in found["failures"].items():
        yield f"| {accuracy.TITLES[name]}: {reason} | | | |"
    if (ratio := accuracy.ratio(found)) is not None:
        yield ""
        yield (
            f"The fastest of the others takes {ratio:.2f} times as long as Lamina; the bar is "
            + (f"{accuracy.BAR:g}.")
        )


def _ragged(run: Mapping[str, Any]) -> Iterator[str]:
    yield ragged.METHOD
    yield ""
    heads = ["", "Full, ms", "Ragged, ms", "Over the share of real steps", "PyTorch, ms", "Ratio"]
    yield from _rows(heads, ["---"] + ["--:"] * 5)
    for case, found in run.items():
        times, ratio = found["times"], ragged.ratio(found)
        theirs = "|" if ratio is None else f"{times['PyTorch, ragged'] * 1e3:.1f} | {ratio:.2f}"
        yield (
            f"| {case} | {times['Lamina, full'] * 1e3:.1f} | {times['Lamina, ragged'] * 1e3:.1f} "
            f"| {ragged.over_share(found):.2f} | {theirs} |"
        )


def _denormals(found: Mapping[str, float]) -> Iterator[str]:
    yield from _rows(["An RNN with ReLU, forward + backward", "ms"], ["---", "--:"])
    for name, seconds in found.items():
        yield f"| {denormals.TITLES[name]} | {seconds * 1e3:.2f} |"


def _below(run: Run, found: Sequence[Result]) -> Iterator[str]:
    yield (
        f"The bars: a ratio of 1 forward ({RATIO_AT_LIMIT:g} against a library within 5% of the "
        "limit) and 1.15 forward + backward, of 1.3 for RNN and LSTM; 1.3 and 2 for BatchNorm; 10 "
        "for Dropout, 3 below 2^17 values; 1.2 for activations, pooling, losses and optimizers (1 "
        "against a library within 10% of the limit); for a network 1 at inference, 1.3 in "
        "training, and no more memory than the smallest library; where arithmetic takes twice the "
        "time of the bytes or more, 92% of the peak forward and 88% forward + backward (85% for "
        "Linear from 512 features, 80% for convolutions of 1 or 3 channels); for a Linear "
        "of one sample with 256 outputs or more, 77% of the bandwidth; beside the arrays of a "
        "convolution, 32 MiB or a tenth of x; the means, the starts and the ragged batches (1.1 "
        "times the share of their steps, a ratio of 5) above. What misses one stands under the "
        "reason for it, found by measuring and counting on the machines of these pages: figures "
        "within a reason are not of this run."
    )
    by_reason: dict[Reason, list[str]] = {reason: [] for reason in REASONS}
    for result in found:
        if missed := list(misses(result)):
            said = f"{_name(result)}, {pass_title(result.case.layer, result.which)}"
            by_reason[reason_of(result)].append(f"- {said}: " + "; ".join(missed))
    by_reason[MEANS_OF].extend(
        f"- {LAYERS[layer].TITLE}, {pass_title(layer, which)}, geometric mean: "
        f"ratio {mean:.2f}, bar {MEANS[layer, which]:g}"
        for (layer, which), group in _groups(found)
        if (mean := geometric_mean(group)) < MEANS.get((layer, which), 0)
    )
    for reason, lines in (
        (RAGGED, ragged.misses(run.get("ragged", {}))),
        (ACCURACY, accuracy.misses(run.get("accuracy"))),
        (STARTS, starts.misses(run.get("starts", {}))),
    ):
        by_reason[reason].extend(f"- {line}" for line in lines)
    if not any(by_reason.values()):
        yield from ("", "None.")
    for reason, lines in by_reason.items():
        if lines:
            yield from ("", f"### {reason.title}", "", reason.text, "", *lines)


def _name(result: Result) -> str:
    """Return the name of a case, which some begin with their layer's and some do not."""
    title = LAYERS[result.case.layer].TITLE
    return result.case.name if result.case.name.startswith(title) else f"{title} {result.case.name}"


def _failures(run: Run) -> Iterator[str]:
    for name, case in run["cases"].items():
        for peer, reason in case["failures"].items():
            yield f"- {run['titles'][peer]}, {name}: {reason}"


def _rows(heads: Sequence[str], rules: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join(rules) + "|"


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    found = seconds * 1e6
    return f"{found:.1f}" if found < 99.95 else f"{found:.0f}"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
