"""What a schema cannot tell of the deployment files.

Usage: deploy_checks.py DIRECTORY, with the rendered files k8s-*.yaml,
monitoring-*.yaml and compose-*.yaml that tests/deploy makes. Prints every finding, and fails if there
is one.
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent

# What the original server's documentation lists: none may get lost.
ORIGINAL_VARIABLES = {
    "HTTPS_CERT_FULLCHAIN",
    "HTTPS_CERT_PRIVKEY",
    "MEDIASOUP_ANNOUNCED_IP",
    "MEDIASOUP_CLIENT_ENABLE_ICESERVER",
    "MEDIASOUP_CLIENT_ICESERVER_HOST",
    "MEDIASOUP_CLIENT_ICESERVER_PASS",
    "MEDIASOUP_CLIENT_ICESERVER_PORT",
    "MEDIASOUP_CLIENT_ICESERVER_PROTO",
    "MEDIASOUP_CLIENT_ICESERVER_USER",
    "MEDIASOUP_CLIENT_PROTOOPORT",
    "MEDIASOUP_INGRESS_HOST",
    "MEDIASOUP_LISTEN_IP",
    "MEDIASOUP_MAX_PORT",
    "MEDIASOUP_MIN_PORT",
    "PROTOO_LISTEN_PORT",
}

# And its endpoints, which docs/migration.md has to tell of one by one.
ORIGINAL_ENDPOINTS = [
    "GET `/getRoomId`",
    "POST `/rooms/:roomId?`",
    "GET `/config`",
    "GET `/rooms/:roomId`",
    "POST `/rooms/:roomId/broadcasters`",
    "DELETE `/rooms/:roomId/broadcasters/:broadcasterId`",
    "POST `…/:broadcasterId/transports`",
    "POST `…/transports/:transportId/connect`",
    "POST `…/transports/:transportId/producers`",
    "POST `…/transports/:transportId/consume`",
    "POST `…/transports/:transportId/consume/data`",
    "POST `…/transports/:transportId/produce/data`",
]

# Variables of the pods that are there to be named by others.
POD_VARIABLES = {"NODE_IP", "POD_NAME"}

# What a relay must have: logins that expire, one peer, no peer in our network.
COTURN_FLAGS = [
    "--use-auth-secret",
    "--denied-peer-ip=0.0.0.0-255.255.255.255",
    "--denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "--allowed-peer-ip=",
    "--no-multicast-peers",
    "--no-cli",
]

# Time that the server's own end takes at most once calls have ended, seconds.
SERVER_END = 2

findings = []


def check(holds, finding):
    if not holds:
        findings.append(finding)


def same_names(what, got, want):
    check(not got - want, f"{what} has what the code does not know: {sorted(got - want)}")
    check(not want - got, f"{what} lacks: {sorted(want - got)}")


# --- settings


def settings():
    """Name → default of every setting in the code."""
    text = (ROOT / "control/src/config/settings.rs").read_text()
    table = text[text.index("\nsettings! {") :]
    table = table[: table.index("\n}\n")]
    found = {}
    for name, body in re.findall(r"^    ([A-Z][A-Z_]+) \{\n(.*?)^    \}", table, re.M | re.S):
        default = re.search(r'^        default: "(.*)",$', body, re.M)
        found[name] = default.group(1) if default else ""
    return found


def documented_names(text, known):
    """Variables that a document names; `…_PASS` continues the one before it."""
    families = "|".join(sorted({name.split("_")[0] for name in known}))
    names = set()
    last = ""
    for match in re.finditer(rf"\b(?:{families})_[A-Z_]*[A-Z]\b|…((?:_[A-Z]+)+)", text):
        if match.group(1):
            names.add(last.rsplit("_", 1)[0] + match.group(1))
        else:
            last = match.group(0)
            names.add(last)
    return names


def check_documents(known):
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    everywhere = set()
    for document in documents:
        names = documented_names(document.read_text(), known)
        unknown = names - set(known)
        where = document.relative_to(ROOT)
        check(not unknown, f"{where} names what the code does not know: {sorted(unknown)}")
        everywhere |= names
    check(not set(known) - everywhere, f"undocumented: {sorted(set(known) - everywhere)}")


def table_rows(text):
    """The first cells of the rows of a document's tables, with the other cells."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not re.fullmatch(r"[-: ]*", cells[0]):
            yield cells[0], cells[1:]


def row_variables(cell):
    """Variables in the first cell of a row, in their order."""
    names = []
    for name in re.findall(r"`([A-Z…][A-Z_]+)`", cell):
        # `…_PASS` continues the one before it.
        names.append(names[-1].rsplit("_", 1)[0] + name[1:] if name.startswith("…") else name)
    return names


def check_readme(known):
    """README.md's table has a row for every setting, with its default."""
    listed = {}
    for first, rest in table_rows((ROOT / "README.md").read_text()):
        names = row_variables(first)
        if not names or len(rest) != 2:
            continue
        # Several settings of one row have their defaults in the same order, or
        # under their names: port `3478`, `udp`.
        defaults = re.findall(r"`([^`]*)`", rest[1])
        for position, name in enumerate(names):
            check(name not in listed, f"README.md's table has {name} twice")
            wanted = known.get(name, "")
            listed[name] = wanted in defaults if wanted else True
            if len(names) == len(defaults):
                listed[name] = not wanted or defaults[position] == wanted
            if len(names) == 1 and not wanted:
                listed[name] = not defaults or rest[1] != f"`{defaults[0]}`"
    same_names("README.md's table", set(listed), set(known))
    for name, right in listed.items():
        default = known.get(name)
        check(right, f"README.md's table: the default of {name} is {default or 'none'}")


def check_migration():
    """docs/migration.md has a row for all that the original has."""
    rows = [first for first, _ in table_rows((ROOT / "docs/migration.md").read_text())]
    variables = {name for row in rows for name in row_variables(row)}
    lost = ORIGINAL_VARIABLES - variables
    check(not lost, f"docs/migration.md has no row for {sorted(lost)}")
    for endpoint in ORIGINAL_ENDPOINTS:
        check(endpoint in rows, f"docs/migration.md has no row for {endpoint}")


def check_links():
    """What the documents link to is there, headings included."""
    for document in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")]:
        where = document.relative_to(ROOT)
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if re.match(r"\w+:", link):
                continue
            name, _, heading = link.partition("#")
            target = document.parent / name if name else document
            check(target.exists(), f"{where} links to {link}, which is not there")
            if heading and target.exists():
                headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                anchors = {re.sub(r"[^\w\- ]", "", it.lower()).replace(" ", "-") for it in headings}
                check(heading in anchors, f"{where} links to {link}: no such heading")


# --- systemd


def check_unit(known):
    """The unit knows the settings, and leaves the time that a drain takes."""
    unit = {}
    for line in (ROOT / "deploy/webrtc-server.service").read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            unit.setdefault(name, []).append(value)
    for variable in unit.get("Environment", []):
        name = variable.partition("=")[0]
        check(name in known, f"the unit sets {name}, which the code does not know")
    stop = int(unit["TimeoutStopSec"][0])
    drain = int(known["DRAIN_TIMEOUT"])
    check(drain + SERVER_END < stop, f"the unit: {stop} s are too few to drain in")
    # With any other mode the workers would get SIGTERM too, and end the calls.
    check(unit["KillMode"] == ["mixed"], "the unit: KillMode is not mixed")
    check("User" in unit, "the unit runs as root")


# --- ports


class Ports:
    """Ports of one machine: nothing may be taken twice."""

    def __init__(self, what):
        self.what = what
        self.taken = []

    def take(self, owner, protocol, first, last):
        first, last = int(first), int(last)
        check(first <= last, f"{self.what}: {owner}: {first}-{last} is no range")
        for other, other_protocol, other_first, other_last in self.taken:
            overlap = first <= other_last and other_first <= last
            check(
                protocol != other_protocol or not overlap,
                f"{self.what}: {owner} {first}-{last} and {other} "
                f"{other_first}-{other_last} overlap ({protocol})",
            )
        self.taken.append((owner, protocol, first, last))


def take_all(ports, server, coturn):
    """Takes the ports that the processes themselves listen on."""
    ports.take("HTTPS", "tcp", server["PROTOO_LISTEN_PORT"], server["PROTOO_LISTEN_PORT"])
    for protocol in ["udp", "tcp"]:
        media = (server["MEDIASOUP_MIN_PORT"], server["MEDIASOUP_MAX_PORT"])
        ports.take("media", protocol, *media)
    flags = dict(re.findall(r"--(listening-port|min-port|max-port)=(\d+)", coturn))
    for protocol in ["udp", "tcp"]:
        ports.take("TURN", protocol, flags["listening-port"], flags["listening-port"])
    ports.take("relays", "udp", flags["min-port"], flags["max-port"])
    turn_port = server["MEDIASOUP_CLIENT_ICESERVER_PORT"]
    check(
        turn_port == flags["listening-port"],
        f"{ports.what}: clients are told of TURN port {turn_port}",
    )


def check_coturn(what, command):
    for flag in COTURN_FLAGS:
        check(flag in command, f"{what}: coturn lacks {flag}")
    check("--user" not in command, f"{what}: coturn has a login for everybody")


# --- compose


def published_port(port):
    """Protocol, port of the machine, port in the container: compose writes it
    in several ways."""
    if isinstance(port, str):
        outside, inside, protocol = re.fullmatch(r"(\d+):(\d+)(?:/(\w+))?", port).groups()
        return protocol or "tcp", int(outside), int(inside)
    return port.get("protocol", "tcp"), int(port["published"]), int(port["target"])


def check_turnserver_conf(compose):
    """The configuration file in docs/deployment.md is the command of the compose file."""
    text = (ROOT / "docs/deployment.md").read_text()
    (block,) = re.findall(r"^```conf\n(.*?)^```$", text, re.M | re.S)
    lines = [line for line in block.splitlines() if not line.startswith("#")]
    what = "docs/deployment.md"
    check_coturn(what, " ".join(f"--{line}" for line in lines))
    # The log goes to the system's; the values of these are the operator's.
    own = {"--log-file", "-n", "--static-auth-secret", "--external-ip", "--allowed-peer-ip"}
    command = yaml.safe_load(compose.read_text())["services"]["coturn"]["command"]
    there = {f"--{line}" for line in lines if f"--{line.partition('=')[0]}" not in own}
    same_flags = {flag for flag in command if flag.partition("=")[0] not in own}
    check(there == same_flags, f"{what}: turnserver.conf differs: {sorted(there ^ same_flags)}")


def check_compose(path, known):
    what = path.stem
    services = yaml.safe_load(path.read_text())["services"]
    environment = {
        name: "" if value is None else str(value)
        for name, value in services["server"]["environment"].items()
    }
    same_names(what, set(environment), set(known))
    coturn = " ".join(services["coturn"]["command"])
    check_coturn(what, coturn)
    secret = environment["MEDIASOUP_CLIENT_ICESERVER_SECRET"]
    check(len(secret) == 64, f"{what}: the secret is {secret!r}")
    check(f"--static-auth-secret={secret}" in coturn, f"{what}: coturn has another secret")
    grace = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services["server"]["stop_grace_period"])
    grace = int(grace.group(1) or 0) * 60 + int(grace.group(2))
    drain = int(environment["DRAIN_TIMEOUT"])
    check(drain + SERVER_END < grace, f"{what}: {grace} s are too few to drain in")
    take_all(Ports(what), environment, coturn)
    published = Ports(f"{what}, published")
    for name, service in services.items():
        check(service.get("network_mode") in ("host", "bridge"), f"{what}: {name}'s network")
        for port in service.get("ports", []):
            protocol, outside, inside = published_port(port)
            published.take(name, protocol, outside, outside)
            # Clients are told of inner numbers, except for HTTPS.
            check(outside == inside or inside == 4443, f"{what}: {name}: {port}")
    if what.endswith("port-443"):
        server = services["server"]
        check(server["cap_add"] == ["NET_BIND_SERVICE"], f"{what}: {server['cap_add']}")
        check(server["cap_drop"] == ["ALL"], f"{what}: {server['cap_drop']}")
        check(server["user"] == "0:10001", f"{what}: {server['user']}")
    if what.endswith("bridge"):
        for protocol, first, last in [
            ("tcp", 443, 443),
            ("udp", environment["MEDIASOUP_MIN_PORT"], environment["MEDIASOUP_MAX_PORT"]),
            ("tcp", environment["MEDIASOUP_MIN_PORT"], environment["MEDIASOUP_MAX_PORT"]),
        ]:
            wanted = set(range(int(first), int(last) + 1))
            found = {a for _, p, a, _ in published.taken if p == protocol}
            check(wanted <= found, f"{what}: {protocol} {first}-{last} is not published")


def check_example(known):
    """.env.example names variables of the compose file, with its values."""
    text = (ROOT / ".env.example").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"^#?([A-Z][A-Z_]+)=", text, re.M):
        check("${" + name in compose, f".env.example has {name}, docker-compose.yml does not")
        check(name in known or name == "CERTS", f".env.example has {name}, the code does not")
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose):
        # Host networking has clients connect to the server's own port, and
        # coturn speaks TCP too.
        if name in known and name not in (
            "MEDIASOUP_CLIENT_PROTOOPORT",
            "MEDIASOUP_CLIENT_ICESERVER_PROTO",
            "HTTPS_CERT_FULLCHAIN",
            "HTTPS_CERT_PRIVKEY",
        ):
            check(default == known[name], f"docker-compose.yml: {name} is {default!r} by default")


# --- Kubernetes


def containers(workload):
    pod = workload["spec"]["template"]["spec"]
    return pod.get("initContainers", []) + pod["containers"]


def check_order_of_variables(what, container):
    defined = set()
    for variable in container.get("env", []):
        for name in re.findall(r"\$\(([A-Z_]+)\)", variable.get("value", "")):
            check(name in defined, f"{what}: {variable['name']} names {name}, which comes later")
        check(variable["name"] not in defined, f"{what}: {variable['name']} is there twice")
        defined.add(variable["name"])


def setting(container, objects, name):
    """The value of a setting that a container's ConfigMap has."""
    for source in container.get("envFrom", []):
        data = objects[("ConfigMap", source["configMapRef"]["name"])]["data"]
        if name in data:
            return data[name]
    return None


def check_workload(what, workload, objects):
    pod = workload["spec"]["template"]["spec"]
    grace = pod["terminationGracePeriodSeconds"]
    for container in containers(workload):
        where = f"{what}: {container['name']}"
        check_order_of_variables(where, container)
        resources = container.get("resources", {})
        guaranteed = resources.get("requests") == resources.get("limits") is not None
        check(guaranteed or "k8s-local" in what, f"{where} is not of guaranteed quality of service")
        check(":latest" not in container["image"] and ":" in container["image"], f"{where}: no tag")
        security = container.get("securityContext", {})
        check(security.get("readOnlyRootFilesystem"), f"{where}: its root can be written")
        check(not security.get("allowPrivilegeEscalation", True), f"{where}: may gain privileges")
        pause = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        if pause:
            drain = setting(container, objects, "DRAIN_TIMEOUT")
            needed = int(pause[1]) + int(drain) + SERVER_END
            check(needed < grace, f"{where}: {grace} s are too few")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            check(mount["name"] in volumes, f"{where}: no volume {mount['name']}")
        for source in container.get("envFrom", []):
            name = source["configMapRef"]["name"]
            check(("ConfigMap", name) in objects, f"{where}: no ConfigMap {name}")
    check(pod["securityContext"]["runAsNonRoot"], f"{what} may be root")


def check_references(what, objects):
    pods = [
        workload["spec"]["template"]["metadata"]["labels"]
        for (kind, _), workload in objects.items()
        if kind in ("StatefulSet", "Deployment")
    ]
    for (kind, name), thing in objects.items():
        spec = thing.get("spec", {})
        if kind == "Service":
            wanted = {k: v for k, v in spec["selector"].items() if not k.startswith("statefulset")}
            found = any(wanted.items() <= labels.items() for labels in pods)
            check(found, f"{what}: Service {name} selects no pod")
            one = spec["selector"].get("statefulset.kubernetes.io/pod-name")
            replicas = objects[("StatefulSet", "webrtc-server")]["spec"]["replicas"]
            names = [f"webrtc-server-{i}" for i in range(replicas)]
            check(one is None or one in names, f"{what}: Service {name}: there is no pod {one}")
        elif kind == "Ingress":
            for rule in spec["rules"]:
                backend = rule["http"]["paths"][0]["backend"]["service"]["name"]
                check(("Service", backend) in objects, f"{what}: no Service {backend}")
                check(rule["host"] in spec["tls"][0]["hosts"], f"{what}: {rule['host']}: no TLS")


def port_ranges(ports):
    return {
        (port["protocol"].lower(), str(port["port"]), str(port.get("endPort", port["port"])))
        for port in ports
    }


def check_policy(what, objects, name, wanted):
    opened = port_ranges(objects[("NetworkPolicy", name)]["spec"]["ingress"][0]["ports"])
    check(opened == wanted, f"{what}: the NetworkPolicy of {name} opens {opened}")


def check_spread(what, objects):
    """No two servers on a node, and no drain of a node that waits for ever."""
    server = objects[("StatefulSet", "webrtc-server")]["spec"]
    labels = server["template"]["metadata"]["labels"]
    affinity = server["template"]["spec"]["affinity"]["podAntiAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    apart = any(
        term["topologyKey"] == "kubernetes.io/hostname"
        and term["labelSelector"]["matchLabels"].items() <= labels.items()
        for term in terms
    )
    check(apart, f"{what}: two servers may be on one node")
    budget = objects[("PodDisruptionBudget", "webrtc-server")]["spec"]
    check(budget["selector"]["matchLabels"].items() <= labels.items(), f"{what}: whose budget?")
    check(budget.get("maxUnavailable") == 1, f"{what}: a node with a server cannot be drained")


def check_monitor(path, base):
    """The ServiceMonitor, for which there is no schema: what it names is there."""
    what = path.stem
    (monitor,) = [d for d in yaml.safe_load_all(path.read_text()) if d]
    base = [d for d in yaml.safe_load_all(base.read_text()) if d]
    check(monitor["kind"] == "ServiceMonitor", f"{what}: {monitor['kind']}")
    namespaces = {thing["metadata"].get("namespace") for thing in base} - {None}
    check({monitor["metadata"]["namespace"]} == namespaces, f"{what}: its namespace")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [d for d in base if d["kind"] == "Service" and wanted <= d["metadata"]["labels"].items()]
    check(len(services) == 1, f"{what}: it finds {len(services)} Services for each pod")
    (endpoint,) = monitor["spec"]["endpoints"]
    ports = [port["name"] for service in services for port in service["spec"]["ports"]]
    check(ports == [endpoint["port"]], f"{what}: no port {endpoint['port']}")
    credentials = endpoint["authorization"]["credentials"]
    token = [
        variable["valueFrom"]["secretKeyRef"]
        for thing in base
        if thing["kind"] == "StatefulSet"
        for variable in containers(thing)[-1]["env"]
        if variable["name"] == "ADMIN_TOKEN"
    ]
    check(token == [credentials], f"{what}: {credentials} is not the admin token")
    way = (endpoint["scheme"], endpoint["path"])
    check(way == ("https", "/metrics"), f"{what}: {way}")


def check_kubernetes(path, known):
    what = path.stem
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    objects = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    if set(kind for kind, _ in objects) == {"Secret"}:
        values = documents[0]["stringData"].values()
        check(len(set(values)) == 2 and min(map(len, values)) == 64, f"{what}: weak values")
        return
    for (kind, name), thing in objects.items():
        if kind in ("StatefulSet", "Deployment"):
            check_workload(f"{what}: {name}", thing, objects)
    check_references(what, objects)

    server = containers(objects[("StatefulSet", "webrtc-server")])[-1]
    environment = {}
    for source in server["envFrom"]:
        environment |= objects[("ConfigMap", source["configMapRef"]["name"])]["data"]
    own = {variable["name"] for variable in server["env"]}
    same_names(what, (set(environment) | own) - POD_VARIABLES, set(known))

    coturn = containers(objects[("Deployment", "coturn")])[-1]
    command = " ".join(coturn.get("command", []) + coturn["args"])
    check_coturn(what, command)
    take_all(Ports(what), environment, command)
    https = environment["PROTOO_LISTEN_PORT"]
    media = ("udp", environment["MEDIASOUP_MIN_PORT"], environment["MEDIASOUP_MAX_PORT"])
    over_tcp = ("tcp", *media[1:])
    check_policy(what, objects, "webrtc-server", {("tcp", https, https), media, over_tcp})
    flags = dict(re.findall(r"--(listening-port|min-port|max-port)=(\d+)", command))
    turn = flags["listening-port"]
    relays = ("udp", flags["min-port"], flags["max-port"])
    check_policy(what, objects, "coturn", {("udp", turn, turn), ("tcp", turn, turn), relays})
    outgoing = objects[("NetworkPolicy", "coturn")]["spec"]["egress"][0]["ports"]
    check(port_ranges(outgoing) == {media}, f"{what}: coturn gets to {port_ranges(outgoing)}")
    check_spread(what, objects)
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        check(str(server[probe]["httpGet"]["port"]) == https, f"{what}: {probe}")


def main(directory):
    known = settings()
    check(len(known) > 20, f"only {len(known)} settings found in the code")
    lost = ORIGINAL_VARIABLES - set(known)
    check(not lost, f"variables of the original that the code does not know: {sorted(lost)}")
    check_documents(known)
    check_readme(known)
    check_migration()
    check_links()
    check_unit(known)
    check_example(known)
    rendered = sorted(directory.glob("k8s-*.yaml"))
    composed = sorted(directory.glob("compose-*.yaml"))
    monitors = sorted(directory.glob("monitoring-*.yaml"))
    check(len(rendered) >= 6 and len(composed) == 3 and monitors, "files are missing")
    for path in composed:
        check_compose(path, known)
    check_turnserver_conf(directory / "compose-host.yaml")
    for path in rendered:
        check_kubernetes(path, known)
    for path in monitors:
        check_monitor(path, directory / path.name.replace("monitoring", "k8s-base"))
    for finding in findings:
        print(f"deploy: {finding}", file=sys.stderr)
    if findings:
        return 1
    print(f"consistent: {len(known)} settings in code, documents, compose and Kubernetes")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
