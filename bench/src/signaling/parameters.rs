//! RTP parameters and transports as protoo's JSON has them.

use serde_json::{Value, json};

use crate::media::{Kind, ReceiveSpec, Remote, SendSpec, ids};

const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// What `produce` says of streams on one m-line: one, or the layers of a
/// simulcast, worst first.
pub fn produced(transport: &str, streams: &[SendSpec]) -> Value {
    let audio = streams.iter().any(|stream| stream.kind == Kind::Audio);
    let (kind, codecs) = if audio {
        let opus = json!({"mimeType": "audio/opus", "payloadType": ids::OPUS, "clockRate": 48000,
            "channels": 2, "parameters": {"useinbandfec": 1},
            "rtcpFeedback": [{"type": "transport-cc", "parameter": ""}]});
        ("audio", json!([opus]))
    } else {
        let feedback = [
            ("nack", ""),
            ("nack", "pli"),
            ("ccm", "fir"),
            ("transport-cc", ""),
        ]
        .map(|(kind, parameter)| json!({"type": kind, "parameter": parameter}));
        let codecs = json!([
            {"mimeType": "video/VP8", "payloadType": ids::VP8, "clockRate": 90000,
             "parameters": {}, "rtcpFeedback": feedback},
            {"mimeType": "video/rtx", "payloadType": ids::RTX, "clockRate": 90000,
             "parameters": {"apt": ids::VP8}, "rtcpFeedback": []}]);
        ("video", codecs)
    };
    let mut extensions = vec![(MID, ids::MID), (TRANSPORT_CC, ids::TRANSPORT_CC)];
    if audio {
        extensions.push((AUDIO_LEVEL, ids::AUDIO_LEVEL));
    }
    let extensions: Vec<Value> = extensions
        .into_iter()
        .map(|(uri, id)| json!({"uri": uri, "id": id, "encrypt": false, "parameters": {}}))
        .collect();
    let simulcast = streams.len() > 1;
    let encodings: Vec<Value> = streams
        .iter()
        .map(|stream| match stream.kind {
            Kind::Audio => json!({"ssrc": stream.ssrc, "dtx": false}),
            Kind::Video { bitrate } => {
                let mut encoding = json!({"ssrc": stream.ssrc,
                    "rtx": {"ssrc": stream.ssrc.wrapping_add(1)}});
                if simulcast {
                    encoding["maxBitrate"] = bitrate.into();
                    encoding["scalabilityMode"] = "L1T1".into();
                }
                encoding
            }
        })
        .collect();
    let mid = streams.first().map_or("", |stream| stream.mid);
    json!({
        "transportId": transport, "kind": kind, "appData": {"source": "rod"},
        "rtpParameters": {
            "mid": mid, "codecs": codecs, "headerExtensions": extensions, "encodings": encodings,
            "rtcp": {"cname": "rod", "reducedSize": true},
        },
    })
}

/// What `newConsumer` announces; `None` when it makes no sense.
pub fn consumed(data: &Value) -> Option<ReceiveSpec> {
    let parameters = &data["rtpParameters"];
    let encoding = &parameters["encodings"][0];
    let ssrc = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let extensions = parameters["headerExtensions"].as_array();
    let transport_cc = extensions.into_iter().flatten().find_map(|extension| {
        let id = extension["id"]
            .as_u64()
            .filter(|_| extension["uri"] == TRANSPORT_CC);
        u8::try_from(id?).ok()
    });
    Some(ReceiveSpec {
        ssrc: ssrc(&encoding["ssrc"])?,
        rtx: ssrc(&encoding["rtx"]["ssrc"]),
        video: data["kind"] == "video",
        transport_cc,
    })
}

/// What `createWebRtcTransport` answers, with the first UDP candidate.
///
/// # Errors
/// What is missing.
pub fn remote(transport: &Value) -> Result<Remote, String> {
    let missing = |field: &str| format!("createWebRtcTransport: no {field} in {transport}");
    let text = |value: &Value, field: &str| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| missing(field))
    };
    let fingerprints = transport["dtlsParameters"]["fingerprints"].as_array();
    let fingerprint = fingerprints
        .into_iter()
        .flatten()
        .find(|fingerprint| fingerprint["algorithm"] == "sha-256")
        .ok_or_else(|| missing("sha-256 fingerprint"))?;
    let candidates = transport["iceCandidates"].as_array();
    let candidate = candidates
        .into_iter()
        .flatten()
        .find(|candidate| candidate["protocol"] == "udp")
        .ok_or_else(|| missing("UDP candidate"))?;
    let port = candidate["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    // Older servers say `ip`, newer ones `address`, many both.
    let ip = ["ip", "address"]
        .into_iter()
        .find_map(|field| candidate[field].as_str()?.parse().ok());
    let ip: std::net::IpAddr = ip.ok_or_else(|| missing("address of the candidate"))?;
    let ice = &transport["iceParameters"];
    Ok(Remote {
        ufrag: text(&ice["usernameFragment"], "usernameFragment")?,
        password: text(&ice["password"], "password")?,
        fingerprint: text(&fingerprint["value"], "fingerprint")?,
        address: (ip, port.ok_or_else(|| missing("port of the candidate"))?).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_read() {
        let mut transport = json!({
            "id": "t", "iceParameters": {"usernameFragment": "u", "password": "p"},
            "iceCandidates": [{"protocol": "tcp", "ip": "10.0.0.1", "port": 1},
                {"protocol": "udp", "address": "127.0.0.1", "port": 40000}],
            "dtlsParameters": {"fingerprints": [{"algorithm": "sha-1", "value": "00"},
                {"algorithm": "sha-256", "value": "AB:CD"}]},
        });
        let read = remote(&transport).unwrap();
        assert_eq!(read.address.to_string(), "127.0.0.1:40000");
        assert_eq!(
            (read.ufrag.as_str(), read.fingerprint.as_str()),
            ("u", "AB:CD")
        );
        transport["iceCandidates"][1]["port"] = 70_000.into();
        assert!(remote(&transport).unwrap_err().contains("port"));
    }

    #[test]
    fn consumers_are_read() {
        let data = json!({"kind": "video", "rtpParameters": {
            "encodings": [{"ssrc": 5, "rtx": {"ssrc": 6}}],
            "headerExtensions": [{"uri": MID, "id": 1}, {"uri": TRANSPORT_CC, "id": 5}]}});
        let spec = consumed(&data).unwrap();
        assert_eq!((spec.ssrc, spec.rtx, spec.video), (5, Some(6), true));
        assert_eq!(spec.transport_cc, Some(5));
        assert!(consumed(&json!({"kind": "audio"})).is_none());
    }

    #[test]
    fn simulcast_layers_share_an_m_line() {
        let layer = |ssrc, bitrate| SendSpec {
            kind: Kind::Video { bitrate },
            mid: "1",
            ssrc,
        };
        let one = produced("t", &[layer(1, 100)]);
        assert_eq!(
            one["rtpParameters"]["encodings"],
            json!([{"ssrc": 1, "rtx": {"ssrc": 2}}])
        );
        let three = produced("t", &[layer(1, 100), layer(3, 300), layer(5, 900)]);
        let encodings = three["rtpParameters"]["encodings"].as_array().unwrap();
        assert_eq!(encodings.len(), 3);
        assert_eq!(encodings[2]["maxBitrate"], 900);
        assert_eq!(three["kind"], "video");
    }
}
