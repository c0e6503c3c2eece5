//! Tables of settings: what is taken, from where, and what is refused how.

use std::ffi::OsString;

use super::settings::ALL;
use super::*;

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, ConfigError> {
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

#[test]
fn nothing_set_gives_the_documented_defaults() {
    assert_eq!(config(&[], &[]), Config::default());
}

#[test]
fn empty_variables_count_as_not_set() {
    let env: Vec<(&str, &str)> = ALL.iter().map(|s| (s.variable, "")).collect();
    assert_eq!(config(&[], &env), Config::default());
}

#[test]
fn every_setting_is_read_from_its_variable_and_its_flag() {
    let given = [
        ("PROTOO_LISTEN_IP", "::"),
        ("PROTOO_LISTEN_PORT", "443"),
        ("HTTPS_CERT_FULLCHAIN", "/etc/tls/chain.pem"),
        ("HTTPS_CERT_PRIVKEY", "/etc/tls/key.pem"),
        ("MEDIASOUP_INGRESS_HOST", "rtc.example.com"),
        ("MEDIASOUP_CLIENT_PROTOOPORT", "8443"),
        ("MEDIASOUP_LISTEN_IP", "192.0.2.1"),
        ("MEDIASOUP_ANNOUNCED_IP", "198.51.100.7"),
        ("MEDIASOUP_MIN_PORT", "20000"),
        ("MEDIASOUP_MAX_PORT", "20999"),
        ("MEDIASOUP_NUM_WORKERS", "3"),
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
        ("ROOM_MAX_PEERS", "12"),
        ("ROOM_EMPTY_TIMEOUT", "60"),
        ("RUST_LOG", "debug,control=trace"),
    ];
    assert_eq!(given.len(), ALL.len());
    let want = Config {
        listen_ip: "::".parse().unwrap(),
        listen_port: 443,
        tls_cert: "/etc/tls/chain.pem".into(),
        tls_key: "/etc/tls/key.pem".into(),
        tls_default: false,
        ingress_host: Some("rtc.example.com".into()),
        client_port: 8443,
        media_listen_ip: "192.0.2.1".parse().unwrap(),
        announced: Some("198.51.100.7".into()),
        min_port: 20_000,
        max_port: 20_999,
        num_workers: Some(3),
        admin_token: Some(Secret::new("tok")),
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
        room_empty_timeout: Duration::from_secs(60),
        log: "debug,control=trace".into(),
    };
    assert_eq!(config(&[], &given), want);

    let flags: Vec<String> = given
        .iter()
        .map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(config(&flags, &[]), want);
}

#[test]
fn a_flag_wins_over_its_variable() {
    let env = [("PROTOO_LISTEN_PORT", "1"), ("ADMIN_TOKEN", "env")];
    let got = config(&["--protoo-listen-port", "2", "--admin-token", ""], &env);
    assert_eq!(got.listen_port, 2);
    assert_eq!(got.admin_token, None);
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let table = [
        ("PROTOO_LISTEN_IP", "localhost"),
        ("PROTOO_LISTEN_IP", "256.0.0.1"),
        ("PROTOO_LISTEN_IP", "0.0.0.0 "),
        ("MEDIASOUP_LISTEN_IP", "224.0.0.1"),
        ("PROTOO_LISTEN_PORT", "0"),
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
        ("MEDIASOUP_NUM_WORKERS", "0"),
        ("MEDIASOUP_NUM_WORKERS", "257"),
        ("ROOM_MAX_PEERS", "1"),
        ("ROOM_EMPTY_TIMEOUT", "0"),
        ("RUST_LOG", "control=loud"),
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
fn secrets_are_never_shown() {
    let env = [
        ("ADMIN_TOKEN", "hunter2token"),
        ("MEDIASOUP_CLIENT_ICESERVER_USER", "hunter2user"),
        ("MEDIASOUP_CLIENT_ICESERVER_PASS", "hunter2pass"),
        ("MEDIASOUP_CLIENT_ICESERVER_SECRET", "hunter2secret"),
    ];
    let got = config(&[], &env);
    let json = got.redacted_json();
    assert_eq!(json["adminToken"], REDACTED);
    assert_eq!(json["iceServer"]["user"], REDACTED);
    assert_eq!(json["iceServer"]["pass"], REDACTED);
    assert_eq!(json["iceServer"]["secret"], REDACTED);
    assert!(!json.to_string().contains("hunter2"));
    assert_eq!(format!("{:?}", got.admin_token), "Some([redacted])");
    assert!(!format!("{:?}", got.ice_server.pass).contains("hunter2"));
    assert!(!format!("{:?}", got.ice_server.secret).contains("hunter2"));

    for (name, bad) in [
        ("ADMIN_TOKEN", "hunter2 with spaces"),
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
    assert!(matches!(parse(&["--version"], &[]), Ok(Parsed::Print(_))));
}

#[test]
fn unknown_flags_are_refused() {
    for args in [
        &["--no-such-flag"][..],
        &["stray"],
        &["--protoo-listen-port"],
    ] {
        assert!(matches!(parse(args, &[]), Err(ConfigError::Usage(_))));
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
