"""`python -m tests.simulation --seeds 1:5000`: play seeds, print what fails with its trace."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.play import Simulator


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="1:1000", help="first:last, or one seed")
    parser.add_argument("--most-failures", type=int, default=5, help="stop after so many failing seeds")
    parser.add_argument("--trace", action="store_true", help="print the trace of each failing seed (of one: always)")
    parser.add_argument("--without", default="", help="kinds of fault to leave out, such as skew,deploy,unanswered")
    given = parser.parse_args()
    first, colon, last = given.seeds.partition(":")
    seeds = range(int(first), int(last if colon else first) + 1)
    leave_out = set(given.without.split(","))
    simulator = Simulator()
    failed: Counter[str] = Counter()
    began = time.perf_counter()
    count = 0
    for seed in seeds:
        world = simulator.play(seed, leave_out=leave_out)
        count += 1
        if world.violation is not None:
            failed[world.violation.promise] += 1
            print(f"seed {seed}: {world.violation}", flush=True)  # noqa: T201
        if (given.trace and world.violation is not None) or len(seeds) == 1:
            print(simulator.readable(world))  # noqa: T201
        if count % 500 == 0:
            print(f"... {count} seeds, {time.perf_counter() - began:.0f} s", flush=True)  # noqa: T201
        if failed.total() >= given.most_failures:
            break
    seconds = time.perf_counter() - began
    print(f"{count} seeds in {seconds:.0f} s ({count / seconds:.1f} a second), failed: {dict(failed)}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
