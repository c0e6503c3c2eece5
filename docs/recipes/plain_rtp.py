#!/usr/bin/env python3
"""Feeds a room with ffmpeg, or records it, over plain RTP.

  plain_rtp.py feed   URL ROOM INPUT    a file, a device or an rtsp:// camera
  plain_rtp.py record URL ROOM FOLDER   everybody who sends, a file for each

Needs Python 3.10 and ffmpeg, nothing else. It ends with Ctrl-C, or after --seconds,
and takes itself out of the room then. See docs/plain-rtp.md.
"""

import argparse
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

# As the published scripts have them.
AUDIO = {"pt": 100, "ssrc": 1111}
VIDEO = {"pt": 101, "ssrc": 2222}
# Longest time that ffmpeg may take to start, and to end, seconds.
PATIENCE = 10


class Api:
    """The server's HTTP API."""

    def __init__(self, args):
        self.base = args.url.rstrip("/")
        self.token = args.token
        self.context = ssl.create_default_context()
        if args.insecure:
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE

    def call(self, method, path, body=None):
        """Sends a request; ends the script with the server's words if it fails."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data=data, headers=headers, method=method
        )
        https = self.base.startswith("https:")
        context = self.context if https else None
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}")
        except OSError as error:
            raise SystemExit(f"{method} {path}: {error}")
        return json.loads(text) if text else {}


def quoted(text):
    return urllib.parse.quote(text, safe="")


def ended(seconds):
    """A test for the end: with a signal, or some seconds after it was asked first."""
    stopped = []
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.append(True))
    begin = []

    def is_over():
        begin.append(time.monotonic())
        del begin[1:]
        return bool(stopped) or (seconds is not None and time.monotonic() >= begin[0] + seconds)

    return is_over


def stop(process):
    """Ends ffmpeg so that it finishes its file."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------- feed


def feed(api, args):
    room = quoted(args.room)
    done = ended(args.seconds)
    # Any 2xx: the room is there.
    api.call("GET", f"/rooms/{room}")
    name = args.id or f"feed-{uuid.uuid4().hex[:8]}"
    broadcaster = {
        "id": name,
        "displayName": args.name,
        "device": {"name": "ffmpeg"},
    }
    api.call("POST", f"/rooms/{room}/broadcasters", broadcaster)
    me = f"/rooms/{room}/broadcasters/{quoted(name)}"
    try:
        command = feed_command(api, me, args)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not done():
            time.sleep(0.1)
        failed = process.poll() not in (None, 0)
        stop(process)
    finally:
        api.call("DELETE", me)
    if failed:
        raise SystemExit("ffmpeg failed")


def producer(kind, mime, clock_rate, numbers, **more):
    codec = {
        "mimeType": mime,
        "payloadType": numbers["pt"],
        "clockRate": clock_rate,
        **more,
    }
    encodings = [{"ssrc": numbers["ssrc"]}]
    return {"kind": kind, "rtpParameters": {"codecs": [codec], "encodings": encodings}}


def source(args):
    """How ffmpeg and ffprobe open the input."""
    if args.input.startswith("rtsp://"):
        # TCP passes firewalls and loses nothing.
        return ["-rtsp_transport", "tcp", "-i", args.input]
    return ["-i", args.input]


def kinds(args):
    """What the input has: many cameras have no sound."""
    command = ["ffprobe", "-v", "error", *source(args)]
    command += ["-show_entries", "stream=codec_type", "-of", "json"]
    probed = subprocess.run(command, stdout=subprocess.PIPE)
    if probed.returncode != 0:
        raise SystemExit(f"ffprobe cannot read {args.input}")
    streams = json.loads(probed.stdout)["streams"]
    return {stream["codec_type"][0] for stream in streams} & {"a", "v"}


def feed_command(api, me, args):
    """Makes a transport and a producer for each kind, and ffmpeg's command."""
    found = kinds(args)
    if not found:
        raise SystemExit(f"neither sound nor pictures in {args.input}")
    outputs = []
    for kind, numbers, body in (
        (
            "a",
            AUDIO,
            producer(
                "audio",
                "audio/opus",
                48000,
                AUDIO,
                channels=2,
                parameters={"sprop-stereo": 1},
            ),
        ),
        ("v", VIDEO, producer("video", "video/vp8", 90000, VIDEO)),
    ):
        if kind not in found:
            continue
        wanted = {"type": "plain", "comedia": True, "rtcpMux": False}
        transport = api.call("POST", f"{me}/transports", wanted)
        api.call("POST", f"{me}/transports/{transport['id']}/producers", body)
        host = transport["ip"]
        host = f"[{host}]" if ":" in host else host
        outputs.append(
            f"[select={kind}:f=rtp:ssrc={numbers['ssrc']}:payload_type={numbers['pt']}]"
            f"rtp://{host}:{transport['port']}?rtcpport={transport['rtcpPort']}&pkt_size=1200"
        )
    command = ["ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin"]
    if not args.input.startswith("rtsp://"):
        # A camera has its own pace.
        command += ["-re"] + (["-stream_loop", "-1"] if args.loop else [])
    command += source(args)
    if "a" in found:
        command += "-map 0:a:0 -c:a libopus -b:a 128k -ac 2 -ar 48000".split()
    if "v" in found:
        # ffmpeg hears no keyframe requests: who comes late waits for the next one.
        command += "-map 0:v:0 -pix_fmt yuv420p -c:v libvpx -deadline realtime".split()
        command += ["-cpu-used", "4", "-b:v", args.bitrate]
        command += ["-force_key_frames", "expr:gte(t,n_forced*2)"]
    return command + ["-f", "tee", "|".join(outputs)]


# -------------------------------------------------------------------- record


def record(api, args):
    room = quoted(args.room)
    router = api.call("GET", f"/v2/rooms/{room}")["routerRtpCapabilities"]
    capabilities = receivable(router)
    name = args.id or f"recorder-{uuid.uuid4().hex[:8]}"
    recorder = {"peerId": name, "displayName": args.name, "device": {"name": "ffmpeg"}}
    done = ended(args.seconds)
    api.call("POST", f"/v2/rooms/{room}/broadcasters", recorder)
    me = f"/v2/rooms/{room}/broadcasters/{quoted(name)}"
    processes = []
    try:
        api.call("POST", f"{me}/join", {})
        infos = api.call("GET", f"{me}/peerProducersInfos")["peerProducersInfos"]
        if not infos:
            raise SystemExit("nobody sends anything")
        args.folder.mkdir(parents=True, exist_ok=True)
        for info in infos:
            record_peer(api, me, info, capabilities, args, processes)
        while not done() and any(it.poll() is None for it in processes):
            time.sleep(0.1)
        failed = any(it.poll() not in (None, 0) for it in processes)
    finally:
        for process in processes:
            stop(process)
        api.call("DELETE", me)
    if failed:
        raise SystemExit("ffmpeg failed")


def receivable(router):
    """What a WebM file can hold, without what ffmpeg does not know."""
    codecs = [
        codec
        for codec in router["codecs"]
        if codec["mimeType"].lower() in ("audio/opus", "video/vp8")
    ]
    feedback = ("nack", "ccm")
    for codec in codecs:
        given = codec.get("rtcpFeedback", [])
        codec["rtcpFeedback"] = [it for it in given if it["type"] in feedback]
    return {"codecs": codecs, "headerExtensions": []}


def free_ports(family):
    """An even port and the next one."""
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as rtp:
            rtp.bind(("", 0))
            port = rtp.getsockname()[1] & ~1
        if is_free(family, port) and is_free(family, port + 1):
            return port


def is_free(family, port):
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def own_address(server):
    """The address that this machine talks to the server from."""
    found = socket.getaddrinfo(server, 9, type=socket.SOCK_DGRAM)
    family, _, _, _, target = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return probe.getsockname()[0]


def record_peer(api, me, info, capabilities, args, processes):
    """Starts ffmpeg for what one peer sends, then lets it flow."""
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=-", "t=0 0"]
    consumers, ports = [], []
    for one in info["producers"]:
        wanted = {"direction": "consumer", "comedia": False, "rtcpMux": False}
        transport = api.call("POST", f"{me}/transports", wanted)
        address = args.ip or own_address(transport["ip"])
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        port = free_ports(family)
        here = {"ip": address, "port": port, "rtcpPort": port + 1}
        api.call("POST", f"{me}/transports/{transport['transportId']}/connect", here)
        consumer = {
            "transportId": transport["transportId"],
            "producerId": one["producerId"],
            "rtpCapabilities": capabilities,
            "paused": True,
        }
        consumer = api.call("POST", f"{me}/consumers", consumer)
        consumers.append(consumer["consumerId"])
        ports.append((family, port))
        lines += media_lines(one["kind"], family, port, consumer["rtpParameters"])
    sdp = tempfile.NamedTemporaryFile("w", suffix=".sdp", delete=False)
    with sdp:
        sdp.write("\r\n".join(lines) + "\r\n")
    safe = "".join(it if it.isalnum() or it in "-_" else "_" for it in info["peerId"])
    command = ["ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin", "-y"]
    # Its reports go where the server's come from.
    command += ["-protocol_whitelist", "file,udp,rtp", "-sdp_flags", "rtcp_to_source"]
    command += ["-analyzeduration", "5M", "-reorder_queue_size", "500", "-i", sdp.name]
    command += ["-c", "copy", str(args.folder / f"{safe}.webm")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    processes.append(process)
    try:
        listens(process, ports)
    finally:
        os.unlink(sdp.name)
    # This asks for a keyframe, so that the recording starts at once.
    for consumer in consumers:
        api.call("POST", f"{me}/consumers/{consumer}/resume", {})


def media_lines(kind, family, port, parameters):
    here = "IP6 ::" if family == socket.AF_INET6 else "IP4 0.0.0.0"
    codec = parameters["codecs"][0]
    pt, name = codec["payloadType"], codec["mimeType"].split("/")[1]
    channels = f"/{codec['channels']}" if codec.get("channels", 1) > 1 else ""
    # AVPF: ffmpeg asks for what is lost.
    return [
        f"m={kind} {port} RTP/AVPF {pt}",
        f"c=IN {here}",
        f"a=rtcp:{port + 1}",
        f"a=rtpmap:{pt} {name}/{codec['clockRate']}{channels}",
        f"a=ssrc:{parameters['encodings'][0]['ssrc']} cname:{parameters['rtcp']['cname']}",
        "a=recvonly",
    ]


def listens(process, ports):
    """Waits until ffmpeg has opened its ports."""
    until = time.monotonic() + PATIENCE
    while any(is_free(family, it) for family, port in ports for it in (port, port + 1)):
        if process.poll() is not None or time.monotonic() > until:
            stop(process)
            raise SystemExit("ffmpeg does not listen")
        time.sleep(0.05)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("feed", help="send a file or a camera into a room")
    one.add_argument("url", help="the server, for example https://127.0.0.1:4443")
    one.add_argument("room")
    one.add_argument("input", help="file or rtsp:// URL")
    one.add_argument("--loop", action="store_true", help="repeat a file for ever")
    one.add_argument("--bitrate", default="1000k", help="of video (1000k)")
    one.set_defaults(run=feed)
    two = commands.add_parser("record", help="record everybody who sends in a room")
    two.add_argument("url")
    two.add_argument("room")
    two.add_argument("folder", type=Path, help="gets a .webm file for each peer")
    two.add_argument("--ip", help="this machine, as the server reaches it")
    two.set_defaults(run=record)
    for command in (one, two):
        command.add_argument("--seconds", type=float, help="end after this time")
        command.add_argument("--id", help="of the broadcaster; random")
        command.add_argument("--name", default="ffmpeg", help="that others see")
        command.add_argument("--insecure", action="store_true", help="trust any certificate")
        command.add_argument("--token", default=os.environ.get("API_TOKEN"), help="API_TOKEN")
    return parser.parse_args()


def main():
    args = arguments()
    args.run(Api(args), args)


if __name__ == "__main__":
    sys.exit(main())
