//! Messages and patience that the tests share.

use std::time::Duration;

use serde_json::{Value, json};

/// Nothing takes this long unless it failed; generous, because two cores may be shared with a build.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// An uplink of `device` in `application` with frame counter `f_cnt`, as The Things Stack writes it.
pub(crate) fn uplink(application: &str, device: &str, f_cnt: u32) -> Value {
    let mut message = json!({
        "session_key_id": "AYk3l2bXw1c4e7mVbJQx0A==",
        "f_port": 2,
        "f_cnt": f_cnt,
        "frm_payload": "AWcA5w==",
        "received_at": "2026-11-20T10:11:12.123456789Z",
    });
    if f_cnt == 0 {
        // Zero values are never written.
        message.as_object_mut().expect("an object").remove("f_cnt");
    }
    json!({
        "end_device_ids": {"device_id": device, "application_ids": {"application_id": application}},
        "received_at": "2026-11-20T10:11:12.223456789Z",
        "uplink_message": message,
    })
}
