//! The defects of the server that this one takes the place of, and the test that
//! keeps each of them out. Rows with a number are of the version whose protocol
//! is spoken here, rows with a letter of its later rewrite.

use std::path::Path;

/// A row, what went wrong, and the tests: a file each, and functions in it with
/// commas between them.
type Row = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ACCESS: &str = "control/tests/it/access.rs";
const ADMISSION: &str = "control/tests/it/admission.rs";
const ARRIVALS: &str = "control/tests/it/arrivals.rs";
const BAD_INPUT: &str = "control/tests/it/bad_input.rs";
const BROADCASTERS: &str = "control/tests/it/broadcasters.rs";
const CALL: &str = "tests/e2e/call.rs";
const CONFIG: &str = "control/src/config/tests.rs";
const CONSUMERS: &str = "control/tests/it/consumers.rs";
const DATA: &str = "control/tests/it/data.rs";
const HTTP: &str = "control/tests/it/http_api.rs";
const PROCESSES: &str = "tests/e2e/processes.rs";
const QUALITY: &str = "control/tests/it/quality.rs";
const THROTTLE: &str = "control/tests/it/throttle.rs";
const TROUBLE: &str = "control/tests/it/worker_trouble.rs";
const WEBHOOKS: &str = "control/tests/it/webhooks.rs";

const ROWS: &[Row] = &[
    (
        "1",
        "every WebSocket was refused with 500, over a hook on the peer's id",
        &[
            (ARRIVALS, "a_lost_connection_is_peer_closed"),
            (WEBHOOKS, "joins_and_leaves_are_told_in_order"),
        ],
    ),
    (
        "2",
        "POST /rooms answered 500 and left a room behind",
        &[(HTTP, "creating_rooms, bad_requests")],
    ),
    (
        "3",
        "the limit of peers was read from where it was not",
        &[(ADMISSION, "a_full_room")],
    ),
    (
        "4",
        "webhooks went to undefined",
        &[(WEBHOOKS, "joins_and_leaves_are_told_in_order")],
    ),
    (
        "5",
        "any request made a room, so a limit in POST never held",
        &[
            (HTTP, "bad_requests"),
            (ADMISSION, "admission_answers_without_creating"),
        ],
    ),
    (
        "6",
        "rooms made over HTTP never expired",
        &[(ADMISSION, "rooms_made_over_http_wait_for_a_while")],
    ),
    (
        "7",
        "a room's URI outlived the room",
        &[(WEBHOOKS, "a_room_made_anew_gets_into_line")],
    ),
    (
        "8",
        "a room that exists was answered with any text",
        &[(HTTP, "creating_rooms")],
    ),
    (
        "9",
        "the limit was checked before a peer was replaced, and unjoined sockets counted",
        &[
            (ADMISSION, "a_full_room"),
            (ARRIVALS, "who_does_not_join_in_time_loses_the_seat"),
        ],
    ),
    (
        "10",
        "replacing the last peer closed its room",
        &[(ARRIVALS, "a_second_session_replaces_the_first")],
    ),
    (
        "11",
        "peer-joined was told of sockets that never joined",
        &[
            (ARRIVALS, "a_lost_connection_is_peer_closed"),
            (WEBHOOKS, "joins_and_leaves_are_told_in_order"),
        ],
    ),
    (
        "12",
        "yes and true were not the same",
        &[(CONFIG, "every_usual_word_for_yes_and_no")],
    ),
    (
        "13",
        "the configuration was served and logged with its secrets",
        &[
            (
                HTTP,
                "config_without_an_admin_token, config_with_an_admin_token",
            ),
            (ACCESS, "admin_paths_answer_no_page"),
        ],
    ),
    (
        "14",
        "a client could ask for any number of consumers",
        &[("control/tests/it/replicas.rs", "no_more_than_configured")],
    ),
    (
        "15",
        "a flag was taken and passed to nobody",
        &[(ADMISSION, "unknown_parameters_mean_nothing")],
    ),
    (
        "16",
        "appData did not say whose it was, and broadcasters' messages reached nobody",
        &[
            (CONSUMERS, "a_producer_reaches_another_peer"),
            (DATA, "chat_reaches_everybody_who_joined"),
            (
                BROADCASTERS,
                "a_broadcaster_is_seen_and_received, messages_of_a_broadcaster",
            ),
            (QUALITY, "who_speaks"),
        ],
    ),
    (
        "17",
        "the death of a worker ended the server",
        &[(TROUBLE, "a_dead_worker_sends_clients_to_a_fresh_room")],
    ),
    (
        "18",
        "workers were counted without the container's quota",
        &[("control/src/workers/cpu.rs", "quota_of_cgroup_v2")],
    ),
    (
        "19",
        "an option that nothing knows was taken without a word",
        &[(CONFIG, "an_option_that_nothing_knows_is_refused")],
    ),
    (
        "20",
        "the start script overwrote the announced address",
        &[("control/src/addresses.rs", "addresses_are_chosen")],
    ),
    (
        "21",
        "a debugging socket was open, versions were not pinned, webhooks had no time-out, \
         retry, signature or guard",
        &[
            (
                WEBHOOKS,
                "what_fails_is_tried_again_unchanged, private_addresses_can_be_refused, \
                 joins_and_leaves_are_told_in_order",
            ),
            (PROCESSES, "nothing_listens_but_what_is_documented"),
        ],
    ),
    (
        "22",
        "wss://host:undefined",
        &[("control/src/http/ws_url.rs", "else_the_host_of_the_request")],
    ),
    (
        "23",
        "two peers were the default limit, and anybody could make rooms",
        &[
            (ADMISSION, "the_default_limit"),
            (ACCESS, "the_api_token, peers_may_not_make_rooms"),
        ],
    ),
    (
        "24",
        "a join counted before it was checked, closed transports were kept, early producers \
         were never consumed",
        &[
            (BAD_INPUT, "bad_fields_are_named"),
            (
                CONSUMERS,
                "producers_from_before_the_receiving_transport, a_transport_that_the_worker_closed",
            ),
            (DATA, "data_from_before_the_receiving_transport"),
        ],
    ),
    (
        "25",
        "the network of the whole host was throttled",
        &[(THROTTLE, "only_with_the_secret")],
    ),
    (
        "26",
        "jokes for errors",
        &[
            (BAD_INPUT, "unknown_methods_and_ids"),
            (THROTTLE, "only_with_the_secret"),
        ],
    ),
    (
        "a",
        "leaveRoom was answered on a closed socket, and told twice",
        &[(ARRIVALS, "two_peers_meet_and_part")],
    ),
    (
        "b",
        "nobody was told who speaks",
        &[(QUALITY, "who_speaks")],
    ),
    (
        "c",
        "text for an error's code, objects for its reason",
        &[(BAD_INPUT, "unknown_methods_and_ids")],
    ),
    (
        "d",
        "a full room took the socket, told of the peer, and closed without a reason",
        &[
            (ADMISSION, "a_full_room"),
            (ACCESS, "peers_may_not_make_rooms"),
            (WEBHOOKS, "who_is_turned_away_is_not_told"),
        ],
    ),
    (
        "e",
        "two at once made two rooms of one id",
        &[
            (ADMISSION, "many_at_once_make_one_room"),
            (
                "tests/e2e/races.rs",
                "two_who_come_at_the_same_moment_meet_in_one_room",
            ),
        ],
    ),
    (
        "f",
        "chat reached nobody, and the bot was gone",
        &[(
            DATA,
            "chat_reaches_everybody_who_joined, everybody_hears_the_bot_from_the_join_on, \
             the_bot_repeats_to_everybody_what_it_hears",
        )],
    ),
    (
        "g",
        "a port for each transport, UDP although TCP was forced, a message size that was not used",
        &[
            (CALL, "transports_share_a_port_and_never_offer_udp_for_tcp"),
            (DATA, "every_transport_can_have_data_channels"),
        ],
    ),
    ("h", "an error within an error", &[(HTTP, "creating_rooms")]),
    (
        "i",
        "asking for a room, and messages of broadcasters, made rooms",
        &[
            (BROADCASTERS, "what_does_not_exist"),
            (ADMISSION, "admission_answers_without_creating"),
        ],
    ),
    (
        "j",
        "a peer's end waited for the webhook",
        &[(WEBHOOKS, "a_receiver_that_hangs_delays_nobody")],
    ),
    (
        "k",
        "a webhook that failed counted as sent, and most ends of rooms were not told",
        &[(
            WEBHOOKS,
            "what_fails_is_tried_again_unchanged, every_end_of_a_room_is_told_once",
        )],
    ),
    (
        "l",
        "the death of a worker ended the server at once",
        &[(TROUBLE, "a_dead_worker_sends_clients_to_a_fresh_room")],
    ),
    (
        "m",
        "turn:undefined was offered, with one login for all, and secrets were logged",
        &[
            (
                "control/src/rooms/requests/ice_servers.rs",
                "nothing_is_offered_without_a_host_or_when_switched_off",
            ),
            (HTTP, "config_with_an_admin_token"),
            (CONFIG, "secrets_are_never_shown"),
        ],
    ),
    (
        "n",
        "what workers log could not be set",
        &[("control/src/logging.rs", "workers_are_quiet_unless_asked")],
    ),
    (
        "o",
        "fields that nobody knows were refused",
        &[(HTTP, "creating_rooms")],
    ),
    (
        "p",
        "a load balancer counted free places without holding them, and anybody could register",
        &[
            (ADMISSION, "the_last_seats_are_given_once"),
            (HTTP, "there_is_nothing_to_register_at"),
        ],
    ),
    (
        "q",
        "a server that was stopped left its sockets open",
        &[(ARRIVALS, "shutdown_closes_sockets_with_its_code")],
    ),
    (
        "r",
        "the type of a transport was guessed from a name in the code",
        &[("control/src/rooms/broadcaster.rs", "transports")],
    ),
    (
        "s",
        "a room's URI was looked up too early, and webhooks said too little",
        &[(WEBHOOKS, "joins_and_leaves_are_told_in_order")],
    ),
    (
        "t",
        "two defaults of the listen address, one of them loopback",
        &[(CONFIG, "nothing_set_gives_the_documented_defaults")],
    ),
];

#[test]
fn every_defect_is_kept_out_by_a_test() {
    let rows: Vec<String> = ROWS.iter().map(|(row, ..)| (*row).to_owned()).collect();
    let numbers = (1..=26).map(|row| row.to_string());
    let letters = ('a'..='t').map(String::from);
    assert_eq!(rows, numbers.chain(letters).collect::<Vec<_>>());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (row, what, tests) in ROWS {
        assert!(!what.is_empty() && !tests.is_empty(), "{row}");
        for (file, names) in *tests {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            for name in names.split(',').map(str::trim) {
                assert!(is_test(&text, name), "{row}: no test {name} in {file}");
            }
        }
    }
}

/// Whether there is a test of this name in a source text.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let function = format!("fn {name}(");
    let mut found = lines.iter().enumerate();
    found.any(|(at, line)| {
        let before = at.checked_sub(1).map_or("", |at| lines[at]);
        let is_marked = before.starts_with("#[test]") || before.starts_with("#[tokio::test");
        line.trim_start_matches("async ").starts_with(&function) && is_marked
    })
}
