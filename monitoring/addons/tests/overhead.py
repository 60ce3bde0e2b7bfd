#!/usr/bin/env python3
"""What the addon costs: `overhead.py WITH WITHOUT [--path /web/login] [--cpu-with FILE --cpu-without FILE]`.

Two Odoos, alike but for the addon, take turns at the same requests; each pair of turns gives a ratio, and the median of
the pairs is told with its spread. The files are the containers' CPU time in nanoseconds (`cpuacct.usage`) or a cgroup v2
`cpu.stat`: on a machine that does other things, CPU per request says more than requests per second. One client, so that
nothing waits for anything. Python's standard library only.
"""

import argparse
import http.client
import statistics
import time
import urllib.parse
from pathlib import Path


def cpu_seconds(path):
    """Of a container until now; None without a file."""
    if not path:
        return None
    text = Path(path).read_text()
    if text.startswith("usage_usec"):
        return int(text.split()[1]) / 1e6
    return int(text) / 1e9


def turn(url, path, count, cpu_file):
    """`(requests per second, CPU seconds per request)` of so many requests."""
    address = urllib.parse.urlsplit(url).netloc
    cpu, begin = cpu_seconds(cpu_file), time.perf_counter()
    for _ in range(count):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{url}{path}: {answer.status}")
    rate = count / (time.perf_counter() - begin)
    return rate, (cpu_seconds(cpu_file) - cpu) / count if cpu_file else None


def told(name, pairs):
    """Median of both sides and of the pairs' ratios, with and without."""
    ratios = sorted(a / b for a, b in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    with_addon, without = (statistics.median(side) for side in zip(*pairs))
    print(f"{name}: with {with_addon:.6g}, without {without:.6g}, ratio {statistics.median(ratios):.4f}"
          f" (middle half {low:.4f} to {high:.4f}, {len(ratios)} pairs)")


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("with_addon")
    parser.add_argument("without_addon")
    parser.add_argument("--path", default="/web/login")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=100, help="requests of a turn")
    parser.add_argument("--cpu-with")
    parser.add_argument("--cpu-without")
    options = parser.parse_args()
    sides = [(options.with_addon, options.cpu_with), (options.without_addon, options.cpu_without)]
    for url, _ in sides:
        turn(url, options.path, options.count, None)  # caches warm up
    rates, costs = [], []
    for number in range(options.rounds):
        order = sides if number % 2 else sides[::-1]
        seen = {url: turn(url, options.path, options.count, file) for url, file in order}
        pair = [seen[url] for url, _ in sides]
        rates.append([rate for rate, _ in pair])
        costs.append([cost for _, cost in pair])
    told("requests per second", rates)
    if options.cpu_with and options.cpu_without:
        told("CPU seconds per request", costs)


if __name__ == "__main__":
    main()
