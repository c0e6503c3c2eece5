#!/usr/bin/env python3
"""Takes the Dockerfile's steps without Docker: builds in a clean directory, and
starts what comes out of it as the image would.

Usage: docker_steps.py DIRECTORY, as root on Linux with overlayfs, with the tools of
the images on this machine (Rust, Node.js). DIRECTORY gets some gigabytes.

Every stage is a view of this machine's root in which changes stay below DIRECTORY:
so this machine stands in for the images named by FROM, and what they hold beside it
(their versions, their C library) is not tried. Everything else is: each COPY finds
what it copies, in the build context that .dockerignore lets through; each RUN is run
as it is written; and the result starts as the image's user with a read-only root,
becomes healthy by the image's own HEALTHCHECK, and ends with its STOPSIGNAL.
"""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEALTHY_WITHIN = 30  # s
END_WITHIN = 10  # s
CLONE_NEWNET = 0x40000000  # sched.h

# What the images have elsewhere than this machine.
NODE = Path("usr/local/bin/node")
NPM = Path("usr/local/lib/node_modules/npm")


def instructions(text):
    """Pairs of (instruction, rest), with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        yield name.upper(), rest.strip()


def expand(text, variables):
    return re.sub(r"\$\{(\w+)\}", lambda match: variables[match.group(1)], text)


def run(*command, **options):
    subprocess.run(command, check=True, **options)


class Stage:
    """One FROM: a root of its own above those before it."""

    def __init__(self, directory, number, parent):
        self.layer = directory / f"layer-{number}"
        self.root = directory / f"root-{number}"
        work = directory / f"work-{number}"
        for path in [self.layer, self.root, work]:
            path.mkdir(parents=True)
        below = parent.root if parent else "/"
        options = f"lowerdir={below},upperdir={self.layer},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        run("mount", "-t", "proc", "proc", self.root / "proc")
        run("mount", "--rbind", "/dev", self.root / "dev")
        self.environment = dict(parent.environment) if parent else {}
        self.directory = parent.directory if parent else "/"
        self.user = "0:0"
        self.arguments = {}
        self.health = self.entrypoint = self.stop = None

    def inside(self, path):
        """A path of the stage as this machine sees it."""
        return self.root / os.path.join(self.directory, path).lstrip("/")

    def command(self, *command, beside=None):
        """A command in the stage: with its environment, and what is given beside."""
        environment = {"PATH": os.environ["PATH"], **(beside or {}), **self.environment}
        words = [f"{name}={value}" for name, value in environment.items()]
        there = ["env", "-i", "-C", self.directory, *words, *command]
        return ["chroot", str(self.root), *there]

    def run(self, shell):
        print(f"RUN {shell}", flush=True)
        # Of this machine: where it finds registries and their certificates.
        beside = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
        run(*self.command("sh", "-c", shell, beside=beside))

    def copy(self, words, sources):
        *froms, to = words
        print(f"COPY {' '.join(words)}", flush=True)
        target = self.inside(to)
        for source in froms:
            found = sources / source.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, target, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(found, target / found.name if to.endswith("/") else target)


def prepare_image(stage):
    """This machine's Node.js where the image has it."""
    node = shutil.which("node")
    npm = Path(shutil.which("npm")).resolve().parent.parent
    for source, to in [(Path(node).resolve(), NODE), (npm, NPM)]:
        target = stage.root / to
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # Debian keeps what npm needs elsewhere and links to it.
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target)


def build(directory):
    """Takes every step; the last stage."""
    context = directory / "context"
    run(sys.executable, ROOT / "tests/docker_context.py", context)
    stages = {}
    general = {}
    stage = None
    for name, rest in instructions((ROOT / "Dockerfile").read_text()):
        variables = {**general, **(stage.arguments if stage else {})}
        if name == "ARG":
            key, _, value = rest.partition("=")
            (stage.arguments if stage else general)[key] = expand(value, general)
        elif name == "FROM":
            image, _, alias = expand(rest, general).partition(" AS ")
            print(f"FROM {rest}", flush=True)
            stage = Stage(directory, len(stages), stages.get(image))
            if image.startswith("node:"):
                prepare_image(stage)
            stages[alias or image] = stage
        elif name == "RUN":
            stage.run(rest)
        elif name == "COPY":
            words = shlex.split(rest)
            source = re.fullmatch(r"--from=(\w+)", words[0])
            stage.copy(words[1:] if source else words, stages[source[1]].root if source else context)
        elif name == "ENV":
            stage.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            stage.directory = rest
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            stage.user = rest
        elif name == "HEALTHCHECK":
            stage.health = json.loads(rest[rest.index("CMD") + 3 :])
        elif name == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif name == "STOPSIGNAL":
            stage.stop = signal.Signals[rest]
        elif name in ("LABEL", "EXPOSE"):
            expand(rest, variables)
        else:
            raise SystemExit(f"docker_steps: unknown instruction {name}")
    return stage


def start(stage):
    """The image with a read-only root: healthy, and ended by its signal."""
    certs = stage.inside("certs")
    owner = certs.stat()
    run("mount", "-o", "remount,ro", stage.root)
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", stage.root / "tmp")
    run("mount", "-t", "tmpfs", "-o", f"uid={owner.st_uid},gid={owner.st_gid},mode=0750", "tmpfs", certs)
    uid, gid = stage.user.split(":")
    as_user = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"]
    as_user += ["--bounding-set", "-all", "--inh-caps", "-all"]
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        raise SystemExit("docker_steps: no network of its own")
    run("ip", "link", "set", "lo", "up")
    server = subprocess.Popen(stage.command(*as_user, *stage.entrypoint))
    try:
        end = time.monotonic() + HEALTHY_WITHIN
        while subprocess.run(stage.command(*as_user, *stage.health)).returncode != 0:
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("docker_steps: the image's server does not become healthy")
            time.sleep(0.1)
        print("healthy, with a read-only root", flush=True)
        server.send_signal(stage.stop)
        status = server.wait(END_WITHIN)
        if status != 0:
            raise SystemExit(f"docker_steps: ended with status {status}")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def main(directory):
    directory.mkdir(parents=True)
    stage = build(directory)
    for path in sorted(path for path in stage.layer.rglob("*") if path.is_file()):
        print(f"layer: {path.relative_to(stage.layer)} {path.stat().st_size:,} bytes")
    start(stage)


if __name__ == "__main__":
    if "DOCKER_STEPS_INSIDE" not in os.environ:
        # Mounts of its own, which end with the process.
        os.environ["DOCKER_STEPS_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    main(Path(sys.argv[1]).resolve())
