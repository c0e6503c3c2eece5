"""Copies what `docker build .` would send to the daemon into a directory.

Usage: docker_context.py DIRECTORY. Files that git does not track are left out,
as in a fresh clone; of those it tracks, .dockerignore decides.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path


def rules(text):
    """Pairs of (included, pattern) in the order of the file."""
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        included = line.startswith("!")
        parts = line.removeprefix("!").strip("/").split("/")
        pattern = ""
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if part == "**":
                pattern += ".*" if last else "(?:.*/)?"
                continue
            name = re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
            pattern += name if last else name + "/"
        # A directory's pattern stands for everything below it.
        yield included, re.compile(f"{pattern}(?:/.*)?")


def sent(path, all_rules):
    """Whether a file is part of the context: the last rule that fits decides."""
    answer = True
    for included, pattern in all_rules:
        if pattern.fullmatch(path):
            answer = included
    return answer


def main(target):
    root = Path(__file__).resolve().parent.parent
    all_rules = list(rules((root / ".dockerignore").read_text()))
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    for path in filter(None, files.split("\0")):
        if sent(path, all_rules) and (root / path).is_file():
            copy = target / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
