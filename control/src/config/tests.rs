//! Tables of settings: what is taken, from where, and what is refused how.

mod told;

use std::ffi::OsString;

use super::settings::ALL;
use super::*;

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, ConfigErrors> {
    let args = std::iter::once("webrtc-server").chain(args.iter().copied());
    Config::parse(args.map(OsString::from), |name| {
        env.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| OsString::from(value))
    })
}

fn config(args: &[&str], env: &[(&str, &str)]) -> Config {
    match parse(args, env) {
        Ok(Parsed::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn refused(env: &[(&str, &str)]) -> String {
    parse(&[], env).unwrap_err().to_string()
}

/// Defect t: one default of the listen address, 0.0.0.0.
#[test]
fn nothing_set_gives_the_documented_defaults() {
    assert_eq!(config(&[], &[]), Config::default());
}

#[test]
fn empty_variables_count_as_not_set() {
    let env: Vec<(&str, &str)> = ALL.iter().map(|s| (s.variable, "")).collect();
    assert_eq!(config(&[], &env), Config::default());
}

/// Every setting with a value that is not its default.
const GIVEN: &[(&str, &str)] = &[
    ("PROTOO_LISTEN_IP", "::"),
    ("PROTOO_LISTEN_PORT", "443"),
    ("HTTPS_ENABLED", "off"),
    ("TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,fd00::/8"),
    ("HTTPS_CERT_FULLCHAIN", "/etc/tls/chain.pem"),
    ("HTTPS_CERT_PRIVKEY", "/etc/tls/key.pem"),
    ("MEDIASOUP_INGRESS_HOST", "rtc.example.com"),
    ("MEDIASOUP_CLIENT_PROTOOPORT", "8443"),
    ("MEDIASOUP_LISTEN_IP", "192.0.2.1"),
    ("MEDIASOUP_ANNOUNCED_IP", "198.51.100.7, sfu.example.com"),
    ("MEDIASOUP_MIN_PORT", "20000"),
    ("MEDIASOUP_MAX_PORT", "20999"),
    ("MEDIASOUP_NUM_WORKERS", "3"),
    ("MEDIASOUP_WORKER_CPUS", "8,2-3"),
    ("WORKER_TIMEOUT", "3"),
    ("WORKER_MAX_TRANSPORTS", "7"),
    ("WORKER_MAX_CONSUMERS", "8"),
    ("MAX_ROOMS", "9"),
    ("MAX_PEERS", "10"),
    ("DRAIN_TIMEOUT", "0"),
    ("TRANSPORT_MAX_INCOMING_BITRATE", "0"),
    ("TRANSPORT_INITIAL_OUTGOING_BITRATE", "2000000"),
    ("TRANSPORT_MIN_OUTGOING_BITRATE", "100000"),
    ("TRANSPORT_MAX_OUTGOING_BITRATE", "8000000"),
    ("ROUTER_CODECS", "AV1, opus,vp9"),
    ("MEDIASOUP_CLIENT_ENABLE_ICESERVER", "No"),
    (
        "MEDIASOUP_CLIENT_ICESERVER_HOST",
        "turn.example.com,[2001:db8::7]:3480",
    ),
    ("MEDIASOUP_CLIENT_ICESERVER_PORT", "3479"),
    ("MEDIASOUP_CLIENT_ICESERVER_PROTO", "TCP,tls:5349"),
    ("MEDIASOUP_CLIENT_ICESERVER_USER", "ann"),
    ("MEDIASOUP_CLIENT_ICESERVER_PASS", "p w"),
    ("MEDIASOUP_CLIENT_ICESERVER_SECRET", "s e"),
    ("MEDIASOUP_CLIENT_ICESERVER_TTL", "600"),
    ("ADMIN_TOKEN", "tok"),
    ("ADMIN_LISTEN", "127.0.0.1:9090"),
    ("API_TOKEN", "api"),
    ("CORS_ORIGINS", "https://a.example, http://localhost:8080"),
    ("ROOM_AUTO_CREATE", "no"),
    ("ROOM_MAX_PEERS", "12"),
    ("ROOM_MAX_BROADCASTERS", "3"),
    ("ROOM_BROADCASTER_TIMEOUT", "5"),
    ("ROOM_BROADCASTER_SILENCE", "7"),
    ("ROOM_EMPTY_TIMEOUT", "60"),
    ("WEBHOOK_SECRET", "h s"),
    ("WEBHOOK_ALLOW_PRIVATE", "off"),
    ("ROOM_JOIN_TIMEOUT", "20"),
    ("CONSUMER_REPLICAS_MAX", "0"),
    ("NETWORK_THROTTLE_SECRET", "slow down"),
    ("LOG_FORMAT", "JSON"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
    ("LOG_LEVEL", "warn"),
    ("RUST_LOG", "debug,control=trace"),
];

#[test]
fn every_setting_is_read_from_its_variable_and_its_flag() {
    assert_eq!(GIVEN.len(), ALL.len());
    let want = Config {
        listen_ip: "::".parse().unwrap(),
        listen_port: 443,
        https_enabled: false,
        trusted_proxies: ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        tls_cert: "/etc/tls/chain.pem".into(),
        tls_key: "/etc/tls/key.pem".into(),
        tls_default: false,
        ingress_host: Some("rtc.example.com".into()),
        client_port: 8443,
        media_listen_ip: "192.0.2.1".parse().unwrap(),
        announced: ["198.51.100.7", "sfu.example.com"].map(Into::into).to_vec(),
        min_port: 20_000,
        max_port: 20_999,
        num_workers: Some(3),
        worker_cpus: Some(WorkerCpus::List(vec![8, 2, 3])),
        worker_timeout: Duration::from_secs(3),
        worker_max_transports: 7,
        worker_max_consumers: 8,
        max_rooms: 9,
        max_peers: 10,
        drain_timeout: Duration::ZERO,
        max_incoming_bitrate: 0,
        outgoing_bitrate: OutgoingBitrate {
            initial: 2_000_000,
            min: 100_000,
            max: 8_000_000,
        },
        router_codecs: vec![CodecName::Av1, CodecName::Opus, CodecName::Vp9],
        admin_token: Some(Secret::new("tok")),
        admin_listen: Some("127.0.0.1:9090".parse().unwrap()),
        api_token: Some(Secret::new("api")),
        cors_origins: Some(vec![
            "https://a.example".into(),
            "http://localhost:8080".into(),
        ]),
        ice_server: IceServer {
            enabled: false,
            protos: vec![
                TurnProto {
                    transport: TurnTransport::Tcp,
                    port: None,
                },
                TurnProto {
                    transport: TurnTransport::Tls,
                    port: Some(5349),
                },
            ],
            port: 3479,
            user: Some("ann".into()),
            pass: Some(Secret::new("p w")),
            hosts: vec![
                TurnHost {
                    host: "turn.example.com".into(),
                    port: None,
                },
                TurnHost {
                    host: "[2001:db8::7]".into(),
                    port: Some(3480),
                },
            ],
            secret: Some(Secret::new("s e")),
            ttl: Duration::from_secs(600),
        },
        room_max_peers: 12,
        room_max_broadcasters: 3,
        room_broadcaster_timeout: Duration::from_secs(5),
        room_broadcaster_silence: Some(Duration::from_secs(7)),
        room_auto_create: false,
        room_empty_timeout: Duration::from_secs(60),
        webhook_secret: Some(Secret::new("h s")),
        webhook_allow_private: false,
        room_join_timeout: Duration::from_secs(20),
        consumer_replicas_max: 0,
        network_throttle_secret: Some(Secret::new("slow down")),
        log: "debug,control=trace".into(),
        log_format: LogFormat::Json,
        otlp_endpoint: Some("http://collector:4317".into()),
        origins: BTreeMap::new(),
    };
    let from = |origin| Config {
        origins: ALL.iter().map(|s| (s.variable, origin)).collect(),
        ..want.clone()
    };
    assert_eq!(config(&[], GIVEN), from(Origin::Environment));

    let flags: Vec<String> = GIVEN
        .iter()
        .map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(config(&flags, &[]), from(Origin::Flag));

    let file = File::new(|text| {
        for (name, value) in GIVEN {
            text.push_str(&format!("{} = {value:?}\n", name.to_lowercase()));
        }
    });
    assert_eq!(config(&["--config", file.path()], &[]), from(Origin::File));
}

/// A configuration file, removed afterwards.
struct File(PathBuf);

impl File {
    fn new(write: impl FnOnce(&mut String)) -> Self {
        let mut text = String::new();
        write(&mut text);
        let name = format!("config-test-{:x}.toml", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = File::new(|text| {
        text.push_str("protoo_listen_port = 1\nROOM_MAX_PEERS = 11\nadmin_token = \"tok\"\n");
        text.push_str("room_empty_timeout = \"\"\nmediasoup_num_workers = 4\n");
    });
    let env = [
        ("WEBRTC_SERVER_CONFIG", file.path()),
        ("PROTOO_LISTEN_PORT", "2"),
        ("ROOM_MAX_PEERS", "12"),
        ("MEDIASOUP_NUM_WORKERS", ""),
    ];
    let got = config(&["--protoo-listen-port=3", "--admin-token="], &env);
    assert_eq!(got.listen_port, 3);
    assert_eq!(got.room_max_peers, 12);
    assert_eq!(got.num_workers, Some(4));
    assert_eq!(got.admin_token, None);
    assert_eq!(got.room_empty_timeout, Duration::from_secs(300));

    let sources = &got.redacted_json()["sources"];
    for (name, want) in [
        ("PROTOO_LISTEN_PORT", "flag"),
        ("ROOM_MAX_PEERS", "environment"),
        ("MEDIASOUP_NUM_WORKERS", "file"),
        ("ADMIN_TOKEN", "default"),
        ("ROOM_EMPTY_TIMEOUT", "default"),
        ("PROTOO_LISTEN_IP", "default"),
    ] {
        assert_eq!(sources[name], want, "{name}");
    }
    assert_eq!(sources.as_object().unwrap().len(), ALL.len());

    // The flag wins here too.
    let other = File::new(|text| text.push_str("protoo_listen_port = 9"));
    assert_eq!(
        config(&["--config", other.path()], &env[..1]).listen_port,
        9
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let file = File::new(|text| text.push_str("room_max_peers = 1\nno_such = 1\n"));
    let env = [
        ("WEBRTC_SERVER_CONFIG", file.path()),
        ("PROTOO_LISTEN_PORT", "0"),
        ("RUST_LOG", "control=loud"),
        ("LOG_LEVEL", "control=loud"),
        // Only half of a range: not to be blamed on the defaults.
        ("MEDIASOUP_MIN_PORT", "x"),
        ("MEDIASOUP_MAX_PORT", "30000"),
    ];
    let ConfigErrors(problems) = parse(&["--protoo-listen-ip=x"], &env).unwrap_err();
    let mut problems: Vec<String> = problems.iter().map(ConfigError::to_string).collect();
    problems.sort();
    let starts = [
        &format!("{}: there is no setting \"no_such\"", file.path()),
        "LOG_LEVEL=\"control=loud\" ",
        "MEDIASOUP_MIN_PORT=\"x\" ",
        "PROTOO_LISTEN_IP=\"x\" ",
        "PROTOO_LISTEN_PORT=\"0\" ",
        "ROOM_MAX_PEERS=\"1\" ",
        "RUST_LOG=\"control=loud\" ",
    ];
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }

    let Ok(Parsed::Check(config, again)) = parse(&["check", "--protoo-listen-ip=x"], &env) else {
        panic!("no check");
    };
    assert_eq!(again.len(), problems.len());
    assert_eq!(config.max_port, 30_000);
    assert_eq!(config.listen_port, 4443);
}

#[test]
fn a_check_is_asked_for_by_its_name() {
    for args in [
        &["check", "--room-max-peers=5"][..],
        &["--room-max-peers=5", "check"],
    ] {
        match parse(args, &[]) {
            Ok(Parsed::Check(config, problems)) => {
                assert_eq!(config.room_max_peers, 5);
                assert!(problems.is_empty());
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }
}

#[test]
fn a_flag_wins_over_its_variable() {
    let env = [("PROTOO_LISTEN_PORT", "1"), ("ADMIN_TOKEN", "env")];
    let got = config(&["--protoo-listen-port", "2", "--admin-token", ""], &env);
    assert_eq!(got.listen_port, 2);
    assert_eq!(got.admin_token, None);
}

/// Defect seed 19: the original takes `minimumAvailableOutgoingBitrate`, which no
/// part of it knows.
#[test]
fn an_option_that_nothing_knows_is_refused() {
    let name = "minimumAvailableOutgoingBitrate";
    let file = File::new(|text| *text += &format!("{name} = 600000\n"));
    let error = parse(&["--config", file.path()], &[])
        .unwrap_err()
        .to_string();
    let expected = format!("{}: there is no setting {name:?}", file.path());
    assert_eq!(error, expected);
    let flag = format!("--{name}=600000");
    let error = parse(&[&flag], &[]).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
}

#[test]
fn a_codec_that_nobody_knows_is_told_with_all_there_are() {
    let error = refused(&[("ROUTER_CODECS", "opus,vp10")]);
    let start = "ROUTER_CODECS=\"opus,vp10\" makes no sense; allowed: ";
    let allowed = error.strip_prefix(start).expect("it names the setting");
    let words: Vec<&str> = allowed.split([' ', ',']).collect();
    for codec in CodecName::ALL {
        assert!(words.contains(&codec.name()), "{} {error}", codec.name());
        let got = config(&[], &[("ROUTER_CODECS", codec.name())]);
        assert_eq!(got.router_codecs, [codec]);
    }
    let defaults = CodecName::DEFAULT.map(CodecName::name).join(",");
    assert_eq!(super::settings::ROUTER_CODECS.default, defaults);
    let shown = &config(&[], &[("ROUTER_CODECS", "pcmu,av1")]).redacted_json()["routerCodecs"];
    assert_eq!(*shown, serde_json::json!(["pcmu", "av1"]));
}

#[test]
fn lists_of_cpus_are_read_and_written() {
    for (raw, want, shown) in [
        ("0", vec![0], "0"),
        ("2-5,8", vec![2, 3, 4, 5, 8], "2-5,8"),
        ("8, 2-2 ,3", vec![8, 2, 3], "8,2-3"),
        ("1023", vec![1023], "1023"),
    ] {
        let got = config(&[], &[("MEDIASOUP_WORKER_CPUS", raw)]).worker_cpus;
        let got = got.unwrap();
        assert_eq!(got.to_string(), shown);
        assert_eq!(got, WorkerCpus::List(want));
    }
    let got = config(&[], &[("MEDIASOUP_WORKER_CPUS", "NONE")]).worker_cpus;
    assert_eq!(got, Some(WorkerCpus::Unpinned));
}

#[test]
fn rust_log_wins_over_log_level() {
    let table = [
        ("", "", "info"),
        ("warn", "", "warn"),
        ("", "debug", "debug"),
        ("warn", "debug", "debug"),
    ];
    for (level, rust, want) in table {
        let got = config(&[], &[("LOG_LEVEL", level), ("RUST_LOG", rust)]);
        assert_eq!(got.log, want, "LOG_LEVEL={level} RUST_LOG={rust}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let table = [
        ("PROTOO_LISTEN_IP", "localhost"),
        ("PROTOO_LISTEN_IP", "256.0.0.1"),
        ("PROTOO_LISTEN_IP", "0.0.0.0 "),
        ("MEDIASOUP_LISTEN_IP", "224.0.0.1"),
        ("PROTOO_LISTEN_PORT", "0"),
        ("ADMIN_LISTEN", "127.0.0.1"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "::1:9090"),
        ("ADMIN_LISTEN", "localhost:9090"),
        ("ADMIN_LISTEN", "224.0.0.1:9090"),
        ("PROTOO_LISTEN_PORT", "65536"),
        ("PROTOO_LISTEN_PORT", "-5"),
        ("PROTOO_LISTEN_PORT", "+5"),
        ("PROTOO_LISTEN_PORT", "4443x"),
        ("PROTOO_LISTEN_PORT", " 4443"),
        ("MEDIASOUP_MIN_PORT", "70000"),
        ("MEDIASOUP_MAX_PORT", "1e4"),
        ("MEDIASOUP_CLIENT_PROTOOPORT", "https"),
        ("MEDIASOUP_CLIENT_ICESERVER_PORT", "99999999999999999999"),
        ("MEDIASOUP_CLIENT_ICESERVER_PROTO", "sctp"),
        ("MEDIASOUP_CLIENT_ICESERVER_TTL", "0"),
        ("MEDIASOUP_CLIENT_ICESERVER_TTL", "604801"),
        ("MEDIASOUP_CLIENT_ENABLE_ICESERVER", "maybe"),
        ("MEDIASOUP_CLIENT_ICESERVER_HOST", "turn:example.com"),
        ("MEDIASOUP_INGRESS_HOST", "https://example.com"),
        ("MEDIASOUP_INGRESS_HOST", "example.com:443"),
        ("MEDIASOUP_INGRESS_HOST", "exa mple"),
        ("MEDIASOUP_INGRESS_HOST", "a\r\nb"),
        ("MEDIASOUP_INGRESS_HOST", "-a.example"),
        ("MEDIASOUP_INGRESS_HOST", "a..example"),
        ("MEDIASOUP_ANNOUNCED_IP", "1.2.3"),
        ("MEDIASOUP_ANNOUNCED_IP", "300.1.1.1"),
        ("MEDIASOUP_ANNOUNCED_IP", "0.0.0.0"),
        ("MEDIASOUP_ANNOUNCED_IP", "2001:db8::1"),
        ("MEDIASOUP_ANNOUNCED_IP", "192.0.2.1,"),
        ("MEDIASOUP_ANNOUNCED_IP", "192.0.2.1,192.0.2.1"),
        ("MEDIASOUP_ANNOUNCED_IP", "a,b,c,d,e,f,g,h,i"),
        ("MEDIASOUP_NUM_WORKERS", "0"),
        ("MEDIASOUP_NUM_WORKERS", "257"),
        ("TRANSPORT_INITIAL_OUTGOING_BITRATE", "0"),
        ("TRANSPORT_MIN_OUTGOING_BITRATE", "a lot"),
        ("TRANSPORT_MAX_OUTGOING_BITRATE", "29999"),
        ("TRANSPORT_MAX_INCOMING_BITRATE", "-1"),
        ("TRANSPORT_MAX_INCOMING_BITRATE", "5M"),
        ("TRANSPORT_MAX_INCOMING_BITRATE", "1000000001"),
        ("MEDIASOUP_WORKER_CPUS", "1,"),
        ("MEDIASOUP_WORKER_CPUS", "a"),
        ("MEDIASOUP_WORKER_CPUS", "3-2"),
        ("MEDIASOUP_WORKER_CPUS", "0-2,1"),
        ("MEDIASOUP_WORKER_CPUS", "0 1"),
        ("HTTPS_ENABLED", "perhaps"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,"),
        ("TRUSTED_PROXIES", "proxy.example.com"),
        ("MEDIASOUP_WORKER_CPUS", "1024"),
        ("MEDIASOUP_WORKER_CPUS", "0-99999999999"),
        ("ROOM_MAX_PEERS", "1"),
        ("ROOM_MAX_BROADCASTERS", "1001"),
        ("ROUTER_CODECS", "opus,vp10"),
        ("ROUTER_CODECS", "opus,,vp8"),
        ("ROUTER_CODECS", "opus,vp8,Opus"),
        ("ROUTER_CODECS", "video/VP8"),
        ("ROOM_BROADCASTER_TIMEOUT", "0"),
        ("ROOM_BROADCASTER_SILENCE", "0"),
        ("ROOM_EMPTY_TIMEOUT", "0"),
        ("ROOM_AUTO_CREATE", "sometimes"),
        ("WEBHOOK_ALLOW_PRIVATE", "10.0.0.0/8"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://a.example,"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("CORS_ORIGINS", "https://user@a.example"),
        ("ROOM_JOIN_TIMEOUT", "0"),
        ("ROOM_JOIN_TIMEOUT", "86401"),
        ("CONSUMER_REPLICAS_MAX", "101"),
        ("CONSUMER_REPLICAS_MAX", "-1"),
        ("RUST_LOG", "control=loud"),
        ("LOG_LEVEL", "control=loud"),
        ("LOG_FORMAT", "xml"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://collector:4317/v1/traces",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://ann:p@collector:4317"),
    ];
    for (name, value) in table {
        let error = refused(&[(name, value)]);
        assert!(error.starts_with(&format!("{name}={value:?} ")), "{error}");
        assert!(error.contains("allowed: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn ports_have_to_fit_together() {
    let error = refused(&[("MEDIASOUP_MIN_PORT", "50000")]);
    assert_eq!(
        error,
        "MEDIASOUP_MIN_PORT=\"50000\" makes no sense; allowed: 1 to MEDIASOUP_MAX_PORT, which \
         is 49999"
    );
    let range = |max: &str, workers: &str| {
        parse(
            &[],
            &[
                ("MEDIASOUP_MAX_PORT", max),
                ("MEDIASOUP_NUM_WORKERS", workers),
            ],
        )
    };
    assert!(range("40007", "2").is_ok());
    let error = range("40006", "2").unwrap_err().to_string();
    assert!(error.starts_with("MEDIASOUP_MAX_PORT=\"40006\""), "{error}");
    assert!(range("40002", "").is_err());
}

#[test]
fn an_announced_address_has_a_family_that_is_listened_on() {
    let both = |listen: &str, announced: &str| {
        parse(
            &[],
            &[
                ("MEDIASOUP_LISTEN_IP", listen),
                ("MEDIASOUP_ANNOUNCED_IP", announced),
            ],
        )
        .is_ok()
    };
    assert!(both("::", "192.0.2.1"));
    assert!(both("::", "2001:db8::1"));
    assert!(both("::", "192.0.2.1,2001:db8::1"));
    assert!(!both("0.0.0.0", "192.0.2.1,2001:db8::1"));
    assert!(both("0.0.0.0", "sfu.example.com"));
    assert!(both("2001:db8::5", "2001:db8::1"));
    assert!(!both("2001:db8::5", "192.0.2.1"));
    assert!(!both("0.0.0.0", "2001:db8::1"));
}

#[test]
fn hosts_are_ready_for_urls() {
    for (raw, want) in [
        ("localhost", "localhost"),
        ("my_host.example.", "my_host.example."),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
    ] {
        let got = config(&[], &[("MEDIASOUP_INGRESS_HOST", raw)]);
        assert_eq!(got.ingress_host.as_deref(), Some(want));
    }
}

#[test]
fn origins_are_as_browsers_write_them() {
    for (raw, want) in [
        ("https://App.Example:443", "https://app.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
    ] {
        let got = config(&[], &[("CORS_ORIGINS", raw)]);
        assert_eq!(got.cors_origins, Some(vec![want.to_owned()]));
    }
}

/// Defect seed 12: the original's versions want different words.
#[test]
fn every_usual_word_for_yes_and_no() {
    for (raw, want) in [
        ("yes", true),
        ("true", true),
        ("TRUE", true),
        ("1", true),
        ("On", true),
        ("no", false),
        ("false", false),
        ("0", false),
        ("OFF", false),
    ] {
        let env = [
            ("MEDIASOUP_CLIENT_ENABLE_ICESERVER", raw),
            ("ROOM_AUTO_CREATE", raw),
        ];
        let got = config(&[], &env);
        assert_eq!(got.ice_server.enabled, want, "{raw}");
        assert_eq!(got.room_auto_create, want, "{raw}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let env = [
        ("ADMIN_TOKEN", "hunter2token"),
        ("API_TOKEN", "hunter2api"),
        ("WEBHOOK_SECRET", "hunter2hook"),
        ("MEDIASOUP_CLIENT_ICESERVER_USER", "hunter2user"),
        ("MEDIASOUP_CLIENT_ICESERVER_PASS", "hunter2pass"),
        ("NETWORK_THROTTLE_SECRET", "hunter2slow"),
        ("MEDIASOUP_CLIENT_ICESERVER_SECRET", "hunter2secret"),
    ];
    let got = config(&[], &env);
    let json = got.redacted_json();
    assert_eq!(json["adminToken"], REDACTED);
    assert_eq!(json["apiToken"], REDACTED);
    assert_eq!(json["webhooks"]["secret"], REDACTED);
    assert_eq!(json["networkThrottleSecret"], REDACTED);
    assert_eq!(json["iceServer"]["user"], REDACTED);
    assert_eq!(json["iceServer"]["pass"], REDACTED);
    assert_eq!(json["iceServer"]["secret"], REDACTED);
    assert!(!json.to_string().contains("hunter2"));
    assert_eq!(format!("{:?}", got.admin_token), "Some([redacted])");
    assert!(!format!("{:?}", got.ice_server.pass).contains("hunter2"));
    assert!(!format!("{:?}", got.ice_server.secret).contains("hunter2"));

    for (name, bad) in [
        ("ADMIN_TOKEN", "hunter2 with spaces"),
        ("API_TOKEN", "hunter2 with spaces"),
        ("WEBHOOK_SECRET", "hunter2\n"),
        ("MEDIASOUP_CLIENT_ICESERVER_PASS", "hunter2\n"),
        ("MEDIASOUP_CLIENT_ICESERVER_SECRET", "hunter2\n"),
        ("MEDIASOUP_CLIENT_ICESERVER_USER", "hunter2\n"),
    ] {
        let error = refused(&[(name, bad)]);
        assert!(error.starts_with(name), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn secret_settings_are_the_variables_that_workers_do_not_get() {
    let secret: Vec<&str> = ALL
        .iter()
        .filter(|s| s.secret)
        .map(|s| s.variable)
        .collect();
    assert_eq!(secret, SECRET_VARIABLES);
}

#[test]
fn the_configuration_starts_with_the_seeds_shape() {
    let json = Config::default().redacted_json();
    assert_eq!(
        json["https"],
        json!({
            "listenIp": "0.0.0.0",
            "listenPort": 4443,
            "tls": {"cert": "certs/fullchain.pem", "key": "certs/privkey.pem"},
        })
    );
    assert_eq!(json["adminToken"], Value::Null);
}

#[test]
fn help_lists_every_setting_with_variable_and_default() {
    let Ok(Parsed::Print(help)) = parse(&["--help"], &[]) else {
        panic!("no help");
    };
    for setting in ALL {
        assert!(help.contains(&format!("--{} ", setting.flag())), "{help}");
        let line = help
            .lines()
            .find(|line| line.contains(&format!("[env: {}]", setting.variable)))
            .unwrap_or_else(|| panic!("{} is missing:\n{help}", setting.variable));
        if !setting.default.is_empty() {
            assert!(line.contains(&format!("[default: {}]", setting.default)));
        }
    }
    assert!(help.contains("--config <PATH>"), "{help}");
    assert!(help.contains("[env: WEBRTC_SERVER_CONFIG]"), "{help}");
    assert!(matches!(parse(&["--version"], &[]), Ok(Parsed::Print(_))));
}

#[test]
fn unknown_flags_are_refused() {
    for args in [
        &["--no-such-flag"][..],
        &["stray"],
        &["--protoo-listen-port"],
    ] {
        let ConfigErrors(errors) = parse(args, &[]).unwrap_err();
        assert!(matches!(errors[..], [ConfigError::Usage(_)]), "{errors:?}");
    }
}

#[test]
#[cfg(unix)]
fn values_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let error = Config::parse([OsString::from("x")], |name| {
        (name == "HTTPS_CERT_PRIVKEY").then(|| OsString::from_vec(vec![b'/', 0xff]))
    })
    .unwrap_err()
    .to_string();
    assert!(error.starts_with("HTTPS_CERT_PRIVKEY="), "{error}");
}
