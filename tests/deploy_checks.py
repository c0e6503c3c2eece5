"""What a schema cannot tell of the deployment files.

Usage: deploy_checks.py DIRECTORY, with the rendered files k8s-*.yaml and
compose-*.yaml that tests/deploy makes. Prints every finding, and fails if there
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
    ports.take("media", "udp", server["MEDIASOUP_MIN_PORT"], server["MEDIASOUP_MAX_PORT"])
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
    if what.endswith("bridge"):
        for protocol, first, last in [
            ("tcp", 443, 443),
            ("udp", environment["MEDIASOUP_MIN_PORT"], environment["MEDIASOUP_MAX_PORT"]),
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


def check_workload(what, workload, objects, known):
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
            needed = int(pause[1]) + int(known["DRAIN_TIMEOUT"]) + SERVER_END
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
            check_workload(f"{what}: {name}", thing, objects, known)
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
    policy = objects[("NetworkPolicy", "webrtc-server")]["spec"]["ingress"][0]["ports"]
    opened = {(p["protocol"].lower(), str(p["port"]), str(p.get("endPort", p["port"]))) for p in policy}
    https = environment["PROTOO_LISTEN_PORT"]
    media = ("udp", environment["MEDIASOUP_MIN_PORT"], environment["MEDIASOUP_MAX_PORT"])
    check(opened == {("tcp", https, https), media}, f"{what}: the NetworkPolicy opens {opened}")
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        check(str(server[probe]["httpGet"]["port"]) == https, f"{what}: {probe}")


def main(directory):
    known = settings()
    check(len(known) > 20, f"only {len(known)} settings found in the code")
    lost = ORIGINAL_VARIABLES - set(known)
    check(not lost, f"variables of the original that the code does not know: {sorted(lost)}")
    check_documents(known)
    check_example(known)
    rendered = sorted(directory.glob("k8s-*.yaml"))
    composed = sorted(directory.glob("compose-*.yaml"))
    check(len(rendered) >= 6 and len(composed) == 2, "files are missing")
    for path in composed:
        check_compose(path, known)
    for path in rendered:
        check_kubernetes(path, known)
    for finding in findings:
        print(f"deploy: {finding}", file=sys.stderr)
    if findings:
        return 1
    print(f"consistent: {len(known)} settings in code, documents, compose and Kubernetes")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
