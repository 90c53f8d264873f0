"""A process of its own: loads and runs a program, then prints its peak memory in bytes after
loading and after running.

python -m cimc.bench.peak PROGRAM.cim THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    from cimc import api
    from cimc.bench.machine import peak_memory
    from cimc.bench.programs import engine, random_feeds

    file, threads = sys.argv[1:]
    compiled = api.load(Path(file))
    loaded = peak_memory()
    feeds = random_feeds(compiled.program, 1)
    engine(compiled, int(threads))(feeds)
    print(loaded, peak_memory())


if __name__ == "__main__":
    main()
