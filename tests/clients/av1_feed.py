"""Sends a test picture in AV1 over RTP, key frames once a second, until it is ended.

With the ffmpeg inside PyAV: the one that Debian has packs no AV1 into RTP yet (8.0 does).
Arguments: rtp:// URL, SSRC, payload type.
"""

import sys
import time

import av

RATE = 25

url, ssrc, payload_type = sys.argv[1:]
source = av.open(f"testsrc=size=320x240:rate={RATE},format=yuv420p", format="lavfi")
options = {"ssrc": ssrc, "payload_type": payload_type, "strict": "experimental"}
sink = av.open(url, mode="w", format="rtp", options=options)
# Every picture leaves as soon as it is there.
encoder = {"preset": "12", "svtav1-params": "pred-struct=1:lookahead=0"}
stream = sink.add_stream("libsvtav1", rate=RATE, options=encoder)
stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
stream.codec_context.gop_size = RATE
begin = time.monotonic()
for number, frame in enumerate(source.decode(video=0)):
    # Else each would be a key frame, as the source has it.
    frame.pict_type = 0
    time.sleep(max(0, begin + number / RATE - time.monotonic()))
    for packet in stream.encode(frame):
        sink.mux(packet)
