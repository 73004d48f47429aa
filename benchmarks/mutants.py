"""How many small errors in the losses the tests notice: mutmut's counts, and every change that none noticed.

An interrupted run goes on where it stopped; mutants of a function that was edited are tested again. Write
names to test some again (patterns as for the shell), --survivors to test again what survived, and delete
mutants/ to begin anew. The report goes to stdout and to mutants/report.md.

    make mutants
    .venv/bin/python benchmarks/mutants.py 'trimtab.losses.kl.*'
"""

from __future__ import annotations

import argparse
import os
from collections import Counter, defaultdict
from pathlib import Path

import libcst as cst
from mutmut.__main__ import cli
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

REPORT = Path("mutants/report.md")
COLUMNS = ("killed", "timeout", "survived", "no tests", "not checked")
PYTEST_REFUSED = 255
"""What mutmut's fork server makes of an exception in its own run; mutmut counts it as a timeout."""


def leave_strings_alone() -> None:
    """No mutants inside string literals, f-strings included: mutmut has no option for that."""
    skip = MutationVisitor._skip_node_and_children
    MutationVisitor._skip_node_and_children = lambda self, node: (
        isinstance(node, cst.BaseString) or skip(self, node)
    )


def verdicts() -> dict[Path, dict[str, str]]:
    """For each source file the verdict on each of its mutants, as far as there is one."""
    found = {}
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        if data.exit_code_by_key:
            found[path] = {
                name: "not run" if code == PYTEST_REFUSED else status_by_exit_code[code]
                for name, code in data.exit_code_by_key.items()
            }
    return found


def report(found: dict[Path, dict[str, str]]) -> str:
    """The table of counts and the diffs of all mutants that are neither killed nor left to check."""
    counts = {path.name: Counter(by_name.values()) for path, by_name in found.items()}
    counts["all"] = sum(counts.values(), Counter())
    lines = [
        f"| file | mutants | {' | '.join(COLUMNS)} | other | killed, % of checked |",
        "|---|" + "---:|" * (len(COLUMNS) + 3),
    ]
    for name, count in counts.items():
        checked = count.total() - count["not checked"]
        cells = [count[status] for status in COLUMNS]
        share = f"{100 * count['killed'] / checked:.1f}" if checked else ""
        row = [name, count.total(), *cells, count.total() - sum(cells), share]
        lines.append(f"| {' | '.join(map(str, row))} |")

    rest = defaultdict(list)
    for by_name in found.values():
        for name, status in by_name.items():
            if status not in ("killed", "not checked"):
                rest[status].append(name)
    for status, names in sorted(rest.items()):
        lines += ["", f"## {status}: {len(names)}"]
        for name in names:
            lines += ["", f"`{name}`", "", "```diff", *get_diff_for_mutant(name).splitlines()[2:], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Test what has no verdict yet, and report on all that has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants to test again; default: all without a verdict")
    parser.add_argument("--survivors", action="store_true", help="test again what survived")
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="mutants tested at a time")
    options = parser.parse_args()
    names = options.names
    if options.survivors:
        names = [name for by in verdicts().values() for name, status in by.items() if status == "survived"]
        if not names:
            parser.error("no mutant survived")

    leave_strings_alone()
    cli(["run", "--max-children", str(options.children), *names], standalone_mode=False)
    text = report(verdicts())
    REPORT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
