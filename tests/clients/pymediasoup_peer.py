"""A participant of a room in the seed dialect: pymediasoup over aiortc.

Lines of JSON on standard input and output, as the other helpers speak them:
{"id", "cmd", "argument"} is answered by {"id", "ok", "value" or "error"}. The
commands are those of participant.mjs. It ends with its standard input.
"""

import array
import asyncio
import fractions
import json
import math
import random
import sys
import time
import traceback

import av
import websockets
from aiortc import MediaStreamTrack, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from pymediasoup import AiortcHandler, Device
from pymediasoup.models.transport import DtlsParameters, IceCandidate, IceParameters
from pymediasoup.rtp_parameters import RtpCapabilities, RtpParameters
from pymediasoup.sctp_parameters import SctpParameters, SctpStreamParameters

SAMPLE_RATE = 48_000
SAMPLES = 960  # 20 ms
TONE_HZ = 500  # whole periods in a frame
WIDTH, HEIGHT = 320, 240
REQUEST_TIMEOUT = 20  # s
MAX_MESSAGE = 960_000  # bytes of a protoo frame


class Tone(MediaStreamTrack):
    """A stereo sine of half the full level."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.pts = 0
        self.started = None
        step = 2 * math.pi * TONE_HZ / SAMPLE_RATE
        samples = array.array("h")
        for i in range(SAMPLES):
            samples.extend([int(16_000 * math.sin(i * step))] * 2)
        self.samples = samples.tobytes()

    async def recv(self):
        if self.started is None:
            self.started = time.monotonic()
        due = self.started + self.pts / SAMPLE_RATE
        await asyncio.sleep(max(0, due - time.monotonic()))
        frame = av.AudioFrame(format="s16", layout="stereo", samples=SAMPLES)
        frame.planes[0].update(self.samples)
        frame.sample_rate = SAMPLE_RATE
        frame.pts = self.pts
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self.pts += SAMPLES
        return frame


class Picture(VideoStreamTrack):
    """A gradient that moves sideways."""

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        luma, *chroma = frame.planes
        shift = pts // 3000
        line = bytes((x + shift) % 256 for x in range(luma.line_size))
        luma.update(line * luma.height)
        for plane in chroma:
            plane.update(bytes([128]) * plane.buffer_size)
        frame.pts = pts
        frame.time_base = time_base
        return frame


class Protoo:
    """A protoo client; `on_request` and `on_notification` hear the server."""

    def __init__(self, on_request, on_notification):
        self.on_request = on_request
        self.on_notification = on_notification
        self.pending = {}
        self.tasks = set()

    async def connect(self, url):
        # The certificate is trusted by SSL_CERT_FILE.
        self.socket = await websockets.connect(
            url, subprotocols=["protoo"], max_size=MAX_MESSAGE, proxy=None
        )
        self.spawn(self.receive())

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def receive(self):
        async for text in self.socket:
            message = json.loads(text)
            if message.get("response"):
                answer = self.pending.pop(message["id"], None)
                if answer is None or answer.done():
                    continue
                if message.get("ok"):
                    answer.set_result(message["data"])
                else:
                    answer.set_exception(RuntimeError(message["errorReason"]))
            elif message.get("request"):
                self.spawn(self.answer(message))
            else:
                self.spawn(self.on_notification(message["method"], message["data"]))

    async def answer(self, request):
        reply = {"response": True, "id": request["id"]}
        try:
            await self.on_request(request["method"], request["data"])
            reply |= {"ok": True, "data": {}}
        except Exception as error:
            reply |= {"errorCode": 500, "errorReason": str(error)}
        await self.socket.send(json.dumps(reply))

    async def request(self, method, data=None):
        number = random.randrange(10_000_000)
        answer = self.pending[number] = asyncio.get_running_loop().create_future()
        message = {"request": True, "id": number, "method": method, "data": data or {}}
        await self.socket.send(json.dumps(message))
        return await asyncio.wait_for(answer, REQUEST_TIMEOUT)

    async def close(self):
        await self.socket.close()


def plain(model):
    """A pydantic model as JSON has it, without what is not set."""
    return model.model_dump(mode="json", exclude_none=True)


class Participant:
    def __init__(self):
        self.consumers = {}
        self.data_consumers = {}
        self.data_producers = {}
        self.peers = {}
        self.messages = []
        self.notifications = {}
        self.problems = []
        # pymediasoup has no queue of its own: one change of a transport at a time.
        self.receiving = asyncio.Lock()

    async def join(self, argument):
        self.protoo = Protoo(self.on_request, self.on_notification)
        await self.protoo.connect(argument["url"])
        self.device = Device(handlerFactory=AiortcHandler.createFactory())
        capabilities = await self.protoo.request("getRouterRtpCapabilities")
        await self.device.load(RtpCapabilities.model_validate(capabilities))
        self.send_transport = await self.create_transport(sending=True)
        self.recv_transport = await self.create_transport(sending=False)
        joined = await self.protoo.request(
            "join",
            {
                "displayName": argument["displayName"],
                "device": {"flag": "python", "name": "pymediasoup", "version": "1.5.0"},
                "rtpCapabilities": plain(self.device.rtpCapabilities),
                "sctpCapabilities": self.sctp_capabilities(),
            },
        )
        self.peers.update((peer["id"], peer) for peer in joined["peers"])
        return {"peers": joined["peers"], "handler": self.device.handlerName}

    def sctp_capabilities(self):
        return plain(self.device.sctpCapabilities)

    async def create_transport(self, sending):
        answer = await self.protoo.request(
            "createWebRtcTransport",
            {
                "forceTcp": False,
                "producing": sending,
                "consuming": not sending,
                "sctpCapabilities": self.sctp_capabilities(),
            },
        )
        sctp = answer.get("sctpParameters")
        create = self.device.createSendTransport if sending else self.device.createRecvTransport
        transport = create(
            id=answer["id"],
            iceParameters=IceParameters.model_validate(answer["iceParameters"]),
            iceCandidates=[IceCandidate.model_validate(c) for c in answer["iceCandidates"]],
            dtlsParameters=DtlsParameters.model_validate(answer["dtlsParameters"]),
            sctpParameters=SctpParameters.model_validate(sctp) if sctp else None,
            # Not None, which would ask a public STUN server.
            iceServers=[],
        )

        @transport.on("connect")
        async def on_connect(dtls):
            data = {"transportId": transport.id, "dtlsParameters": plain(dtls)}
            await self.noting("connect", self.protoo.request("connectWebRtcTransport", data))

        @transport.on("produce")
        async def on_produce(kind, rtp, app_data):
            data = {
                "transportId": transport.id,
                "kind": kind,
                "rtpParameters": plain(rtp),
                "appData": app_data,
            }
            return (await self.noting("produce", self.protoo.request("produce", data)))["id"]

        @transport.on("producedata")
        async def on_producedata(sctpStreamParameters, label, protocol, appData):
            data = {
                "transportId": transport.id,
                "sctpStreamParameters": plain(sctpStreamParameters),
                "label": label,
                "protocol": protocol or "",
                "appData": appData,
            }
            return (await self.noting("producedata", self.protoo.request("produceData", data)))["id"]

        return transport

    async def noting(self, what, awaitable):
        """pymediasoup swallows what its listeners raise."""
        try:
            return await awaitable
        except Exception as error:
            self.problems.append(f"{what}: {error}")
            raise

    async def sendMedia(self, _):
        await self.send_transport.produce(track=Tone(), stopTracks=True)
        producer = await self.send_transport.produce(track=Picture(), stopTracks=True)
        return plain(producer.rtpParameters)

    async def produceData(self, _):
        for label, options in {
            "chat": {"maxRetransmits": 1},
            "bot": {"maxPacketLifeTime": 2000},
        }.items():
            producer = await self.send_transport.produceData(
                ordered=False, label=label, appData={"info": label}, **options
            )
            opened = asyncio.Event()
            producer.on("open", opened.set)
            if producer.readyState != "open":
                await asyncio.wait_for(opened.wait(), REQUEST_TIMEOUT)
            self.data_producers[label] = producer

    async def say(self, argument):
        count = argument.get("bytes")
        data = argument["text"] if count is None else bytes(count)
        self.data_producers[argument["label"]].send(data)

    async def on_request(self, method, data):
        handlers = {"newConsumer": self.new_consumer, "newDataConsumer": self.new_data_consumer}
        async with self.receiving:
            await self.noting(method, handlers[method](data))

    async def new_consumer(self, data):
        consumer = await self.recv_transport.consume(
            id=data["id"],
            producerId=data["producerId"],
            kind=data["kind"],
            rtpParameters=RtpParameters.model_validate(data["rtpParameters"]),
        )
        entry = {
            "peerId": data["peerId"],
            "kind": data["kind"],
            "paused": data["producerPaused"],
            "codec": consumer.rtpParameters.codecs[0].mimeType,
            "frames": 0,
            "width": 0,
            "energy": 0,
        }
        self.consumers[data["id"]] = (consumer, entry)
        self.protoo.spawn(self.take(consumer.track, entry))

    async def take(self, track, entry):
        """Counts what is decoded; energy as browsers define it (peak², seconds)."""
        try:
            while True:
                frame = await track.recv()
                entry["frames"] += 1
                if track.kind == "video":
                    entry["width"] = frame.width
                else:
                    samples = array.array("h", bytes(frame.planes[0]))
                    level = max(max(samples), -min(samples)) / 32_768
                    entry["energy"] += level * level * frame.samples / frame.sample_rate
        except MediaStreamError:
            pass  # the track has ended

    async def new_data_consumer(self, data):
        entry = {"peerId": data["peerId"], "label": data["label"]}
        consumer = await self.recv_transport.consumeData(
            id=data["id"],
            dataProducerId=data["dataProducerId"],
            sctpStreamParameters=SctpStreamParameters.model_validate(data["sctpStreamParameters"]),
            label=data["label"],
            protocol=data["protocol"],
        )

        @consumer.on("message")
        def on_message(message):
            text = message if isinstance(message, str) else None
            count = None if text is not None else len(message)
            self.messages.append({**entry, "text": text, "bytes": count})

        self.data_consumers[data["id"]] = (consumer, entry)

    async def on_notification(self, method, data):
        self.notifications[method] = self.notifications.get(method, 0) + 1
        consumer, entry = self.consumers.get(data.get("consumerId"), (None, None))
        if method == "newPeer":
            self.peers[data["id"]] = data
        elif method == "peerClosed":
            self.peers.pop(data["peerId"], None)
        elif method == "consumerClosed" and consumer:
            del self.consumers[data["consumerId"]]
            async with self.receiving:
                await consumer.close()
        elif method in ("consumerPaused", "consumerResumed") and entry:
            entry["paused"] = method == "consumerPaused"
        elif method == "dataConsumerClosed":
            consumer, _ = self.data_consumers.pop(data["dataConsumerId"], (None, None))
            if consumer:
                await consumer.close()

    async def stats(self, _):
        return {
            "peers": list(self.peers),
            "consumers": [entry for _, entry in self.consumers.values()],
            "dataConsumers": [entry for _, entry in self.data_consumers.values()],
            "messages": self.messages,
            "notifications": self.notifications,
            "problems": self.problems,
            "dtlsRoles": [self.dtls_role(t) for t in (self.send_transport, self.recv_transport)],
        }

    def dtls_role(self, transport):
        """The end of the handshake that it took, which aiortc tells nobody."""
        roles = {it.sender.transport._role for it in transport.handler.pc.getTransceivers()}
        return roles.pop() if len(roles) == 1 else sorted(roles)

    async def leave(self, _):
        await self.protoo.close()
        await self.send_transport.close()
        await self.recv_transport.close()


async def commands():
    """Lines of standard input."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def answer(message):
    print(json.dumps(message), flush=True)


async def main():
    participant = Participant()
    answer({"ready": True})
    async for command in commands():
        number = command["id"]
        try:
            method = getattr(participant, command["cmd"])
            answer({"id": number, "ok": True, "value": await method(command["argument"])})
        except Exception as error:
            traceback.print_exc()
            answer({"id": number, "ok": False, "error": f"{type(error).__name__}: {error}"})


asyncio.run(main())
