//! Whose link is lost must not cost its neighbours on the connection theirs, whatever is on the way to it just then.

use serde_json::json;
use tti_connector::emulator::{Fault, FaultKind};

use super::trial::stage;

const ROUNDS: usize = 4;
/// Updates on their way to a device that is losing a link; fewer than cost it its links.
const UPDATES: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_lost_amid_much_traffic_costs_no_other_device_its_links() {
    let stage = stage().await;
    for device in ["first", "second"] {
        stage.meet_anywhere(device).await;
        stage.until(|| stage.hub().takes_methods(device).then_some(())).await;
        stage.desire(device, &json!({ "seen": 0 }));
    }
    stage.settled("second").await;
    let before = stage.hub().links_attached("second");
    for round in 0..ROUNDS {
        let attached = stage.hub().links_attached("first");
        stage.hub().inject(Fault::new(FaultKind::KillAmqpMethodReqLink).of("first")).expect("within limits");
        for update in 0..UPDATES {
            stage.desire("first", &json!({ "seen": round * UPDATES + update }));
            tokio::task::yield_now().await;
        }
        let again = || stage.hub().links_attached("first") > attached && stage.hub().takes_methods("first");
        stage.until(|| again().then_some(())).await;
        assert_eq!(stage.hub().links_attached("second"), before, "round {round}");
    }
    stage.end().await;
}
