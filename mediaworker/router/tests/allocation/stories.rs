//! One situation each.

use router::allocation::{CALM, FAILED_WITHIN, LAST_LAYER_PATIENCE, PATIENCE};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_first_call_shares_what_there_is() {
    let temporal: &[&[u64]] = &[&[60, 90, 150], &[200, 300, 500], &[600, 900, 1500]];
    let svc: &[&[u64]] = &[&[60, 100], &[250, 400], &[900, 1200]];
    let wants = |spatial, temporal| Layers::new(spatial, temporal);
    let all = Layers::HIGHEST;
    type Case<'a> = (&'a str, u64, &'a [(&'a [&'a [u64]], u8, Layers)], &'a str);
    let cases: &[Case<'_>] = &[
        ("no consumer", 1000, &[], ""),
        ("nothing at all", 0, &[(SIMULCAST, 1, all)], "-"),
        (
            "more than everything",
            u64::MAX / 1000,
            &[(SIMULCAST, 1, all)],
            "2/0",
        ),
        ("not even the lowest", 149, &[(SIMULCAST, 1, all)], "-"),
        ("the lowest", 150, &[(SIMULCAST, 1, all)], "0/0"),
        (
            "no headroom for the next",
            549,
            &[(SIMULCAST, 1, all)],
            "0/0",
        ),
        ("with headroom", 550, &[(SIMULCAST, 1, all)], "1/0"),
        ("the top", 1650, &[(SIMULCAST, 1, all)], "2/0"),
        ("capped", 5000, &[(SIMULCAST, 1, wants(1, 7))], "1/0"),
        (
            "capped to the lowest",
            5000,
            &[(SIMULCAST, 1, wants(0, 0))],
            "0/0",
        ),
        ("one stream", 5000, &[(&[&[700]], 1, all)], "0/0"),
        (
            "one stream that does not fit",
            699,
            &[(&[&[700]], 1, all)],
            "-",
        ),
        (
            "a layer is missing",
            1000,
            &[(&[&[150], &[0], &[1500]], 1, all)],
            "0/0",
        ),
        (
            "above a missing layer",
            1650,
            &[(&[&[150], &[0], &[1500]], 1, all)],
            "2/0",
        ),
        (
            "only what is not wanted",
            5000,
            &[(&[&[0], &[0], &[1500]], 1, wants(0, 0))],
            "2/0",
        ),
        ("nothing flows", 5000, &[(&[], 1, all)], "-"),
        ("frame rate first", 250, &[(temporal, 1, all)], "0/2"),
        (
            "then resolution at half the rate",
            330,
            &[(temporal, 1, all)],
            "1/1",
        ),
        ("all frames", 560, &[(temporal, 1, all)], "1/2"),
        ("a cap of both", 5000, &[(temporal, 1, wants(1, 1))], "1/1"),
        (
            "a cap of the frame rate",
            5000,
            &[(temporal, 1, wants(2, 0))],
            "2/0",
        ),
        (
            "below such a cap",
            600,
            &[(temporal, 1, wants(2, 0))],
            "1/2",
        ),
        ("svc", 500, &[(svc, 1, all)], "1/1"),
        (
            "two in turns",
            1110,
            &[(SIMULCAST, 1, all), (SIMULCAST, 1, all)],
            "1/0 1/0",
        ),
        (
            "the rest to the older",
            900,
            &[(SIMULCAST, 1, all), (SIMULCAST, 1, all)],
            "1/0 0/0",
        ),
        (
            "by priority",
            900,
            &[(SIMULCAST, 1, all), (SIMULCAST, 9, all)],
            "0/0 1/0",
        ),
        (
            "nobody starves for a priority",
            1800,
            &[(SIMULCAST, 1, all), (SIMULCAST, 9, all)],
            "0/0 2/0",
        ),
        (
            "priority decides who starves",
            299,
            &[(SIMULCAST, 1, all), (SIMULCAST, 2, all)],
            "- 0/0",
        ),
        (
            "a smaller one still fits",
            400,
            &[(&[&[700]], 9, all), (SIMULCAST, 1, all)],
            "- 0/0",
        ),
        (
            "two steps against one",
            2300,
            &[(SIMULCAST, 1, all), (SIMULCAST, 2, all)],
            "1/0 2/0",
        ),
    ];
    for (name, available, demands, expected) in cases {
        let consumers: Vec<_> = (1..)
            .zip(*demands)
            .map(|(number, (kbits, priority, preferred))| Consumer {
                priority: *priority,
                preferred: *preferred,
                ..Consumer::new(number, kbits)
            })
            .collect();
        let mut transport = Transport::new();
        let got = transport.call(available * 1000, &consumers);
        assert_eq!(targets(got), *expected, "{name}");
        for (allocation, consumer) in got.iter().zip(&consumers) {
            assert_eq!(allocation.key, consumer.key, "{name}");
            let cost = allocation.target.map_or(Some(0), |l| consumer.costs.get(l));
            assert_eq!(Some(allocation.bitrate), cost, "{name}");
        }
    }
}

#[test]
fn reasons_say_what_is_missing() {
    let mut transport = Transport::new();
    let consumers = [
        Consumer::new(1, SIMULCAST),
        Consumer::new(2, &[&[200]]),
        Consumer::new(3, &[]),
        Consumer::new(4, &[&[2000]]),
    ];
    let got = transport.call(1_000_000, &consumers);
    assert_eq!(targets(got), "1/0 0/0 - -");
    let next = Layers::new(2, 0);
    let needs = 200_000 + 1_650_000;
    assert_eq!(got[0].reason, Reason::Bandwidth { next, needs });
    assert_eq!(got[1].reason, Reason::Preferred);
    assert_eq!(got[2].reason, Reason::NotFlowing);
    let next = Layers::new(0, 0);
    let needs = 700_000 + 2_200_000;
    assert_eq!(got[3].reason, Reason::Bandwidth { next, needs });
    let demands: Vec<_> = consumers
        .iter()
        .map(|consumer| Demand {
            key: consumer.key,
            priority: NonZeroU8::MIN,
            preferred: consumer.preferred,
            current: None,
            costs: &consumer.costs,
        })
        .collect();
    assert_eq!(transport.allocator.desired(&demands), 3_700_000);
}

/// The link of the acceptance test, without the estimator: 2 Mbit/s, 300 kbit/s, and back.
#[test]
fn a_link_that_drops_and_recovers_costs_no_time_down_and_little_up() {
    let mut transport = Transport::new();
    let consumers = [Consumer::new(1, SIMULCAST)];
    let got = transport.stay(10 * SECOND, 1_900_000, &consumers);
    assert_eq!(targets(got), "2/0");
    // Estimates fall in steps. The picture does not go with the lowest of them.
    assert_eq!(targets(transport.call(900_000, &consumers)), "1/0");
    assert_eq!(targets(transport.call(400_000, &consumers)), "0/0");
    assert_eq!(targets(transport.stay(SECOND, 110_000, &consumers)), "0/0");
    assert_eq!(
        targets(transport.stay(10 * SECOND, 250_000, &consumers)),
        "0/0"
    );
    let back = transport.now;
    let mut available = 250_000.0_f64;
    let (mut middle, mut top) = (None, None);
    while top.is_none() {
        let got = targets(transport.call(available as u64, &consumers));
        match got.as_str() {
            "1/0" => middle = middle.or(Some(transport.now - back)),
            "2/0" => top = Some(transport.now - back),
            _ => {}
        }
        // Doubles in a second.
        available = (available * 1.15).min(1_900_000.0);
        assert!(transport.now < back + 8 * SECOND, "{got} at the end");
    }
    assert!(middle.is_some_and(|time| time < 3 * SECOND), "{middle:?}");
    assert!(top.is_some_and(|time| time < 5 * SECOND), "{top:?}");
}

#[test]
fn a_rise_has_to_fit_for_a_while() {
    let mut transport = Transport::new();
    let consumers = [Consumer::new(1, SIMULCAST)];
    assert_eq!(targets(transport.call(300_000, &consumers)), "0/0");
    let got = transport.call(1_700_000, &consumers)[0].reason;
    let until = transport.now - CALL + PATIENCE;
    let hold = |next| Reason::Hold { next, until };
    assert_eq!(got, hold(Layers::new(2, 0)));
    // What has not fitted all the time is not taken, but what has is.
    assert_eq!(
        transport.call(600_000, &consumers)[0].reason,
        hold(Layers::new(1, 0))
    );
    transport.call(1_700_000, &consumers);
    while transport.now < until {
        let got = targets(transport.call(1_700_000, &consumers));
        assert_eq!(got, "0/0");
    }
    assert_eq!(targets(transport.call(1_700_000, &consumers)), "1/0");
    // A gap starts the time anew.
    transport.stay(PATIENCE - CALL, 1_700_000, &consumers);
    transport.call(700_000, &consumers);
    let got = transport.stay(PATIENCE, 1_700_000, &consumers);
    assert_eq!(targets(got), "1/0");
    assert_eq!(targets(transport.call(1_700_000, &consumers)), "2/0");
}

#[test]
fn rises_that_fail_take_longer_and_longer() {
    let mut transport = Transport::new();
    let consumers = [Consumer::new(1, SIMULCAST)];
    assert_eq!(targets(transport.call(300_000, &consumers)), "0/0");
    let mut waits = Vec::new();
    for _ in 0..7 {
        let since = transport.now;
        while targets(transport.call(600_000, &consumers)) == "0/0" {}
        waits.push((transport.now - CALL - since).as_secs());
        assert_eq!(targets(transport.call(450_000, &consumers)), "0/0");
    }
    assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8]);
    // What held for long counts for itself.
    transport.stay(17 * SECOND, 600_000, &consumers);
    transport.stay(FAILED_WITHIN, 600_000, &consumers);
    assert_eq!(targets(transport.call(450_000, &consumers)), "0/0");
    let since = transport.now;
    while targets(transport.call(600_000, &consumers)) == "0/0" {}
    assert_eq!((transport.now - CALL - since).as_secs(), 4);
    // And calm minutes make good.
    transport.stay(3 * CALM, 600_000, &consumers);
    assert_eq!(targets(transport.call(450_000, &consumers)), "0/0");
    let since = transport.now;
    while targets(transport.call(600_000, &consumers)) == "0/0" {}
    assert_eq!(transport.now - CALL - since, PATIENCE);
}

#[test]
fn a_fall_in_steps_is_one_failure() {
    let mut transport = Transport::new();
    let consumers = [Consumer::new(1, SIMULCAST)];
    // The start is not an attempt that could fail.
    for (start, waits) in [(true, PATIENCE), (false, 2 * PATIENCE)] {
        if !start {
            transport.stay(2 * PATIENCE, 1_700_000, &consumers);
        }
        assert_eq!(targets(transport.call(1_700_000, &consumers)), "2/0");
        assert_eq!(targets(transport.call(1_000_000, &consumers)), "1/0");
        assert_eq!(targets(transport.call(200_000, &consumers)), "0/0");
        let since = transport.now;
        while targets(transport.call(600_000, &consumers)) == "0/0" {}
        assert_eq!(transport.now - CALL - since, waits);
    }
}

#[test]
fn a_link_that_breaks_down_is_no_failure_of_a_rise() {
    // What is left of the 1.5 Mbit/s, and how long a rise has to fit afterwards.
    for (left, waits) in [(760_000, 2 * PATIENCE), (740_000, PATIENCE)] {
        let mut transport = Transport::new();
        let consumers = [Consumer::new(1, SIMULCAST)];
        transport.stay(SECOND, 600_000, &consumers);
        let got = transport.stay(2 * PATIENCE, 1_700_000, &consumers);
        assert_eq!(targets(got), "2/0");
        assert_eq!(targets(transport.call(left, &consumers)), "1/0");
        let since = transport.now;
        while targets(transport.call(1_700_000, &consumers)) == "1/0" {}
        assert_eq!(transport.now - CALL - since, waits, "{left}");
    }
}

#[test]
fn the_lowest_layer_goes_last_and_late() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST), Consumer::new(2, &[&[150]])];
    consumers[0].priority = 2;
    assert_eq!(
        targets(transport.stay(SECOND, 1_900_000, &consumers)),
        "2/0 0/0"
    );
    let until = transport.now + LAST_LAYER_PATIENCE;
    let got = transport.call(200_000, &consumers);
    assert_eq!(targets(got), "0/0 0/0");
    assert_eq!(needs(&got[0]), Some(150_000 + 550_000));
    let needs = 300_000 * 100 / 105;
    assert_eq!(got[1].reason, Reason::LastLayer { needs, until });
    while transport.now < until {
        assert_eq!(targets(transport.call(200_000, &consumers)), "0/0 0/0");
    }
    assert_eq!(targets(transport.call(200_000, &consumers)), "0/0 -");
    // It comes back with headroom, after a while.
    assert_eq!(
        targets(transport.stay(20 * SECOND, 307_000, &consumers)),
        "0/0 -"
    );
    assert_eq!(
        targets(transport.stay(PATIENCE, 308_000, &consumers)),
        "0/0 -"
    );
    assert_eq!(
        targets(transport.stay(20 * SECOND, 308_000, &consumers)),
        "0/0 0/0"
    );
    // Far too little is not waited for.
    assert_eq!(targets(transport.call(190_000, &consumers)), "0/0 -");
    // But one small picture is.
    assert_eq!(targets(transport.call(0, &consumers)), "0/0 -");
    assert_eq!(
        targets(transport.stay(LAST_LAYER_PATIENCE - CALL, 0, &consumers)),
        "0/0 -"
    );
    assert_eq!(targets(transport.call(0, &consumers)), "- -");
}

#[test]
fn who_asks_for_something_else_gets_it_at_once() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST), Consumer::new(2, SIMULCAST)];
    consumers[1].preferred = Layers::new(0, 0);
    assert_eq!(
        targets(transport.stay(5 * SECOND, 1_900_000, &consumers)),
        "2/0 0/0"
    );
    consumers[0].preferred = Layers::new(0, 0);
    consumers[1].preferred = Layers::HIGHEST;
    assert_eq!(targets(transport.call(1_900_000, &consumers)), "0/0 2/0");
    // Equals take turns.
    consumers[0].preferred = Layers::HIGHEST;
    assert_eq!(targets(transport.call(1_900_000, &consumers)), "1/0 1/0");
    consumers[0].priority = 5;
    assert_eq!(targets(transport.call(1_900_000, &consumers)), "2/0 0/0");
    consumers[1].priority = 9;
    assert_eq!(targets(transport.call(1_900_000, &consumers)), "0/0 2/0");
}

#[test]
fn a_higher_priority_takes_what_others_have_when_it_takes_it() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST), Consumer::new(2, SIMULCAST)];
    consumers[1].priority = 2;
    // The stream of the second one has no higher layers at first.
    consumers[1].costs = costs(&[&[150]]);
    assert_eq!(
        targets(transport.stay(5 * SECOND, 1_900_000, &consumers)),
        "2/0 0/0"
    );
    consumers[1].costs = costs(SIMULCAST);
    for _ in 0..5 {
        assert_eq!(targets(transport.call(1_900_000, &consumers)), "2/0 0/0");
    }
    assert_eq!(targets(transport.call(1_900_000, &consumers)), "0/0 2/0");
}

#[test]
fn equals_do_not_take_from_each_other() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(2, SIMULCAST), Consumer::new(1, SIMULCAST)];
    let alone = targets(transport.call(2_150_000, &consumers[..1]));
    assert_eq!(alone, "2/0");
    for _ in 0..100 {
        assert_eq!(targets(transport.call(2_150_000, &consumers)), "2/0 1/0");
        consumers.reverse();
        assert_eq!(targets(transport.call(2_150_000, &consumers)), "1/0 2/0");
        consumers.reverse();
    }
    // But a step that the other one has already comes first.
    assert_eq!(targets(transport.call(1_500_000, &consumers)), "1/0 1/0");
}

#[test]
fn layers_that_vanish_and_return_are_not_held_against_anyone() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST)];
    for _ in 0..5 {
        assert_eq!(
            targets(transport.stay(2 * SECOND, 5_000_000, &consumers)),
            "2/0"
        );
        consumers[0].costs = costs(&[&[150], &[500]]);
        assert_eq!(targets(transport.call(5_000_000, &consumers)), "1/0");
        consumers[0].costs = costs(SIMULCAST);
        assert_eq!(
            targets(transport.stay(PATIENCE, 5_000_000, &consumers)),
            "1/0"
        );
        assert_eq!(targets(transport.call(5_000_000, &consumers)), "2/0");
    }
    // When nothing was left there is nothing to wait for.
    consumers[0].costs = costs(&[]);
    let got = transport.stay(5 * SECOND, 5_000_000, &consumers);
    assert_eq!((got[0].target, got[0].reason), (None, Reason::NotFlowing));
    consumers[0].costs = costs(SIMULCAST);
    assert_eq!(targets(transport.call(5_000_000, &consumers)), "2/0");
    // Nor when only a higher one is left.
    consumers[0].preferred = Layers::new(0, 0);
    assert_eq!(targets(transport.call(5_000_000, &consumers)), "0/0");
    consumers[0].costs = costs(&[&[0], &[500]]);
    assert_eq!(targets(transport.call(5_000_000, &consumers)), "1/0");
}

/// The first packets of a stream look cheap.
#[test]
fn a_better_layer_that_looks_cheaper_has_to_wait_too() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST)];
    assert_eq!(
        targets(transport.stay(2 * SECOND, 700_000, &consumers)),
        "1/0"
    );
    consumers[0].costs = costs(&[&[150], &[500], &[20]]);
    assert_eq!(targets(transport.call(700_000, &consumers)), "1/0");
    consumers[0].costs = costs(SIMULCAST);
    assert_eq!(
        targets(transport.stay(5 * SECOND, 700_000, &consumers)),
        "1/0"
    );
}

#[test]
fn what_is_sent_before_the_first_call_is_kept_if_it_fits() {
    let first = |current, available| {
        let mut transport = Transport::new();
        let consumers = [Consumer {
            current,
            ..Consumer::new(1, SIMULCAST)
        }];
        targets(transport.call(available, &consumers))
    };
    let top = Some(Layers::new(2, 0));
    assert_eq!(first(top, 1_500_000), "2/0");
    assert_eq!(first(None, 1_500_000), "1/0");
    assert_eq!(first(top, 1_400_000), "1/0");
    assert_eq!(first(top, 0), "0/0");
    assert_eq!(first(None, 0), "-");
}

#[test]
fn who_is_not_named_is_forgotten() {
    let mut transport = Transport::new();
    let consumers = [Consumer::new(1, SIMULCAST), Consumer::new(2, SIMULCAST)];
    transport.call(5_000_000, &consumers);
    assert_eq!(transport.allocator.remembered(), 2);
    transport.call(5_000_000, &consumers[1..]);
    assert_eq!(transport.allocator.remembered(), 1);
    // A consumer that was paused starts again like a new one.
    assert_eq!(targets(transport.call(5_000_000, &consumers)), "2/0 2/0");
    transport.call(5_000_000, &[]);
    assert_eq!(transport.allocator.remembered(), 0);
}

/// The example of `docs/bandwidth.md`.
#[test]
fn the_documentation_tells_the_truth() {
    let mut transport = Transport::new();
    let mut consumers = [Consumer::new(1, SIMULCAST), Consumer::new(2, SIMULCAST)];
    let rows = [
        (3500, "2/0 2/0"),
        (2500, "2/0 1/0"),
        (900, "1/0 0/0"),
        (290, "0/0 0/0"),
        (250, "0/0 0/0"),
        (307, "0/0 -"),
        (2200, "2/0 1/0"),
    ];
    for (available, expected) in rows {
        let got = transport.stay(4 * SECOND, available * 1000, &consumers);
        assert_eq!(targets(got), expected, "{available}");
        transport.stay(4 * SECOND, available * 1000, &consumers);
    }
    consumers[1].priority = 2;
    let got = transport.call(2_500_000, &consumers);
    assert_eq!(targets(got), "1/0 2/0");
}
