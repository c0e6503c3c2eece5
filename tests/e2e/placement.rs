//! Where new rooms go.

use serde_json::Value;

use crate::duplex::Call;
use crate::faults::{worker, worker_of};
use crate::https;
use crate::server::{Options, wait_until};

/// What a call has to cost more than nothing, percent of a core: more than the room that
/// is placed first is expected to, so that the second one goes where that is, too.
const BUSIER_BY: f64 = 3.0;

/// In turns, every other of these rooms would go to the worker that has the call.
#[tokio::test(flavor = "multi_thread")]
async fn new_rooms_go_to_the_worker_that_has_less_to_do() {
    let server = Options::new()
        .env("MEDIASOUP_NUM_WORKERS", 2)
        .env("MEDIASOUP_WORKER_CPUS", "none")
        .start();
    let call = Call::start(&server, "call").await;
    let busy = worker_of(&server, "call");
    let cpu = |slot| worker(&server, slot)["load"]["cpuPercent"].as_f64();
    wait_until("the call shows", || {
        let both = cpu(busy).zip(cpu(1 - busy));
        both.is_some_and(|(busy, idle)| busy > idle + BUSIER_BY)
    });
    for room in ["first", "second"] {
        let made: (u16, Value) =
            https::request("POST", &server.url(&format!("/rooms/{room}")), &[], "");
        assert_eq!(made.0, 200, "{}", made.1);
        assert_eq!(worker_of(&server, room), 1 - busy, "{room}");
    }
    call.lost_nothing();
}
