"""A picture of what ``python -m benchmarks.stencil --save`` measured: ``python -m benchmarks.roofline FILE.json``.

Over the arithmetic per byte that one pass must move (2 taps - 1 operations, one read and one write), the operations
per second. The roof is the plain copy loop's rate: what makes one pass per step stays below it, unless its writes
bypass the caches; fused steps go through it. One panel per precision.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = {"Devito": ("s", "tab:orange"), "Numba": ("^", "tab:green"), "OpenCV": ("D", "tab:purple")}
STYLES |= {"JAX": ("v", "tab:brown"), "SciPy": ("P", "tab:gray"), "NumPy slices": ("X", "tab:olive")}
OWN = ("o", "tab:blue")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.roofline", description=__doc__)
    parser.add_argument("file", type=Path, help="results/stencil-DATE.json")
    parser.add_argument("--output", type=Path, help="default: beside the file")
    options = parser.parse_args()
    report = json.loads(options.file.read_text())
    precisions = sorted({result["case"]["dtype"] for result in report["results"]}, reverse=True)
    figure, panels = plt.subplots(1, len(precisions), figsize=(5.5 * len(precisions), 4.5), squeeze=False)
    for axes, dtype in zip(panels[0], precisions, strict=True):
        results = [result for result in report["results"] if result["case"]["dtype"] == dtype]
        roofs = [result["GB_per_s"]["copy loop"] for result in results]
        itemsize = int(dtype[-2:]) // 8
        labelled: set[str] = set()
        for n, result in enumerate(sorted(results, key=lambda result: result["taps"])):
            operations = 2 * result["taps"] - 1
            x = operations / (2 * itemsize)
            axes.annotate(f"{result['taps']} taps", (x, 1), (x, 1.1 + 0.15 * (n % 2)), ha="center", fontsize=8)
            for name, rate in result["GB_per_s"].items():
                if name == "copy loop":
                    continue
                own = name.startswith(("one step", "fused"))
                marker, colour = OWN if own else STYLES[name]
                label = "mpihpc, " + ("one step" if name == "one step" else "fused") if own else name
                filled = name != "one step"
                axes.plot(
                    x, rate * x, marker, color=colour, mfc=colour if filled else "none", ms=8 if own else 6,
                    label=None if label in labelled else label,
                )  # fmt: skip
                labelled.add(label)
        ends = [0.8 * (2 * min(r["taps"] for r in results) - 1) / (2 * itemsize)]
        ends.append(1.3 * (2 * max(r["taps"] for r in results) - 1) / (2 * itemsize))
        for roof, style in ((min(roofs), ":"), (max(roofs), "-")):
            axes.plot(ends, [roof * x for x in ends], f"k{style}", lw=1, label=f"copy loop, {roof:.0f} GB/s")
        axes.set(yscale="log", title=dtype, ylim=(1, None))
        axes.set(xlabel="operations per byte of one pass", ylabel="10⁹ operations per second")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    machine = report["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {report['date']}", fontsize=10)
    figure.tight_layout()
    output = options.output or options.file.with_suffix(".png")
    figure.savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
