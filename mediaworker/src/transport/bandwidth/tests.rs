use super::*;
use str0m::bwe::Bitrate;

fn twcc(bps: u64, can_probe: bool) -> BweKind {
    BweKind::Twcc {
        estimate: Bitrate::bps(bps),
        can_probe,
    }
}

#[test]
fn limits_are_checked_and_kept() {
    let limits = |initial, min, max| BitrateLimits::new(initial, min, max);
    assert_eq!(limits(None, None, None), Ok(BitrateLimits::default()));
    assert_eq!(limits(None, None, Some(500_000)).unwrap().initial, 500_000);
    assert_eq!(
        limits(None, Some(2_000_000), None).unwrap().initial,
        2_000_000
    );
    assert_eq!(limits(None, None, Some(10_000)).unwrap().min, 10_000);
    for (min, max) in [(None, Some(0)), (Some(2), Some(1))] {
        let error = limits(None, min, max).unwrap_err().to_string();
        assert!(error.starts_with("max_outgoing_bitrate: "), "{error}");
    }
    let now = Instant::now();
    let mut bandwidth = Bandwidth::new(limits(None, Some(100), Some(1000)).unwrap());
    for (estimate, available) in [(50, 100), (500, 525), (5000, 1000)] {
        bandwidth.handle_estimate(&twcc(0, false));
        bandwidth.handle_estimate(&twcc(estimate, true));
        assert_eq!(bandwidth.available(now, 0), Some(available));
    }
}

#[test]
fn who_sends_no_feedback_is_not_limited() {
    let start = Instant::now();
    let later = start + FEEDBACK_WITHIN;
    let mut bandwidth = Bandwidth::new(BitrateLimits::default());
    assert_eq!(bandwidth.available(start, 0), None);
    assert!(bandwidth.handle_estimate(&twcc(1_000_000, true)));
    assert_eq!(bandwidth.want(start, 1, false), Some(1_000_000));
    assert_eq!(bandwidth.available(start, 0), Some(1_050_000));
    assert_eq!(bandwidth.available(later, 0), None);
    assert!(!bandwidth.handle_estimate(&twcc(1_000_000, true)));
    let remb = BweKind::Remb {
        estimate: Bitrate::bps(300_000),
        mid: "0".into(),
    };
    assert!(!bandwidth.handle_estimate(&remb), "we know better");
    assert!(bandwidth.handle_estimate(&twcc(1, false)));
    assert!(bandwidth.handle_estimate(&remb));
    assert_eq!(bandwidth.available(later, 0), Some(300_000));
    let remb = BweKind::Remb {
        estimate: Bitrate::bps(u64::MAX),
        mid: "0".into(),
    };
    assert!(bandwidth.handle_estimate(&remb));
    assert_eq!(bandwidth.available(later, 0), Some(MAX_ESTIMATE));
    bandwidth.estimate = None;
    assert_eq!(bandwidth.available(later, 0), None);
}

#[test]
fn a_collapse_refutes_the_estimator() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let stats = |bps, ms| PeerStats {
        peer_bytes_rx: 0,
        peer_bytes_tx: 0,
        bytes_rx: 0,
        bytes_tx: 0,
        timestamp: start,
        bwe_tx: Some(Bitrate::bps(bps)),
        egress_loss_fraction: Some(0.0),
        ingress_loss_fraction: None,
        rtt: Some(Duration::from_millis(ms)),
        selected_candidate_pair: None,
    };
    let mut bandwidth = Bandwidth::new(BitrateLimits::default());
    bandwidth.handle_estimate(&twcc(100_000_000, true));
    let mut lower = Vec::new();
    for ms in (0..4000).step_by(5) {
        bandwidth.note_departure();
        let narrow = ms > 1000;
        if ms % 50 == 0 {
            let arrived = if narrow { 2 } else { 10 };
            if bandwidth.handle_feedback(at(ms), (arrived, 0), 1_000_000) {
                lower.push(ms);
            }
            // It goes on saying what it made of the wide link.
            bandwidth.handle_stats(at(ms), &stats(100_000_000, if narrow { 250 } else { 50 }));
        }
    }
    assert!(lower.first().is_some_and(|ms| *ms < 1300), "{lower:?}");
    assert!(bandwidth.available(at(4000), 0) < Some(400_000));
    let from = bandwidth.stalls(at(4000), false).unwrap();
    assert!(from < 400_000, "{from}");
    assert_eq!(bandwidth.stalls(at(4000), false), None, "once");
    // Begun anew, it is believed.
    bandwidth.handle_stats(at(4001), &stats(350_000, 50));
    bandwidth.handle_stats(at(8000), &stats(900_000, 50));
    assert!(bandwidth.available(at(8000), 0) > Some(900_000));
}
