//! Judges a token that a peer shows, by `$cbs` or by SASL PLAIN: whose it is and whether it is genuine.

use super::EVENT_HUB_NAME;
use super::tokens::{Grant, Scope};
use crate::emulator::{DeviceStatus, Hub, Token};

/// Why a token is not accepted, in the words and numbers of a put-token reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// 400, 401, 403 or 404.
    pub(super) status: i32,
    /// For the peer.
    pub(super) description: String,
}

impl Refusal {
    fn new(status: i32, description: impl Into<String>) -> Self {
        Self { status, description: description.into() }
    }
}

/// Verifies a token's text against `hub`. The identity is that of its `sr`, as at IoT Hub.
///
/// # Errors
/// 400 malformed, 401 not genuine, over or for another hub, 403 disabled device, 404 unknown device.
pub(super) fn judge(hub: &Hub, text: &str) -> Result<Grant, Refusal> {
    let token = Token::parse(text).map_err(|error| Refusal::new(400, error.to_string()))?;
    let scope = scope_in(hub, &token)?;
    let device = match &scope {
        Scope::Device(id) => {
            let device = hub.device(id);
            Some(device.ok_or_else(|| Refusal::new(404, format!("Device {id} not registered.")))?)
        }
        Scope::Hub | Scope::EventHub => None,
    };
    let verdict = match (&token.policy, &device) {
        // Event Hubs clients sign with the key's text, IoT Hub clients with the bytes it stands for.
        (Some(_), _) if scope == Scope::EventHub => {
            hub.verify_event_hub(&token).or_else(|_| hub.verify_policy(&token))
        }
        (Some(_), _) => hub.verify_policy(&token),
        (None, Some(device)) => hub.verify_device(&token, &device.device_id),
        (None, None) => {
            return Err(Refusal::new(401, "a token for the whole hub must name its policy (skn)"));
        }
    };
    verdict.map_err(|error| Refusal::new(401, error.to_string()))?;
    match device {
        Some(device) if device.status == DeviceStatus::Disabled => {
            Err(Refusal::new(403, format!("Device {} is disabled.", device.device_id)))
        }
        Some(_) | None => Ok(Grant { scope, token }),
    }
}

/// Verifies SASL PLAIN: `{deviceId}@sas.{hub}` or `{policy}@sas.root.{hub}` with a token as password. `{hub}` is
/// the host or its first label.
///
/// # Errors
/// As [`judge`], and 401 when the name and the token speak of different identities.
pub(super) fn judge_plain(hub: &Hub, user: &str, password: &str) -> Result<Grant, Refusal> {
    let grant = judge(hub, password)?;
    let named = user.rsplit_once("@sas.").is_some_and(|(name, at)| {
        let (root, at) = at.strip_prefix("root.").map_or((false, at), |at| (true, at));
        let first_label = hub.host().split('.').next().unwrap_or_default();
        let here = [hub.host(), first_label].iter().any(|host| host.eq_ignore_ascii_case(at));
        let same = match (&grant.scope, root) {
            (Scope::Device(id), false) => id == name,
            (Scope::Hub, true) => grant.token.policy.as_deref() == Some(name),
            (Scope::Device(_) | Scope::Hub | Scope::EventHub, _) => false,
        };
        here && same
    });
    if named { Ok(grant) } else { Err(Refusal::new(401, "the user name does not fit the token")) }
}

/// The first reading of the token's `sr` that names a registered device, else the fully decoded one.
fn scope_in(hub: &Hub, token: &Token) -> Result<Scope, Refusal> {
    let readings = token.readings();
    let registered = readings
        .iter()
        .filter_map(|reading| scope_of(reading, hub.host()).ok())
        .find(|scope| matches!(scope, Scope::Device(id) if hub.device(id).is_some()));
    registered.map_or_else(|| scope_of(&token.resource(), hub.host()), Ok)
}

fn scope_of(resource: &str, host: &str) -> Result<Scope, Refusal> {
    let mut segments = resource.split('/').filter(|segment| !segment.is_empty());
    if !segments.next().is_some_and(|first| first.eq_ignore_ascii_case(host)) {
        return Err(Refusal::new(401, format!("the token is not for this hub, {host}")));
    }
    let rest: Vec<&str> = segments.collect();
    match rest.as_slice() {
        [] => Ok(Scope::Hub),
        [devices, id] if devices.eq_ignore_ascii_case("devices") => Ok(Scope::Device((*id).to_owned())),
        [hub, ..] if hub.eq_ignore_ascii_case(EVENT_HUB_NAME) => Ok(Scope::EventHub),
        [messages, events, ..]
            if messages.eq_ignore_ascii_case("messages") && events.eq_ignore_ascii_case("events") =>
        {
            Ok(Scope::EventHub)
        }
        _ => Err(Refusal::new(400, "the token's resource (sr) names neither a hub nor a device")),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use sha2::Sha256;

    use super::{judge, judge_plain};
    use crate::emulator::amqp::tokens::Scope;
    use crate::emulator::{DeviceStatus, Hub};
    use crate::model::Clock;

    const NOW_S: u64 = 1_700_000_000;

    fn hub() -> Hub {
        let hub = Hub::new("Hub.example", Clock::manual(1_700_000_000_000));
        hub.create_device("dev", None).unwrap();
        hub
    }

    fn token(resource: &str, key: &str, expiry: u64, policy: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(key).unwrap()).unwrap();
        mac.update(format!("{resource}\n{expiry}").as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={policy}")
    }

    #[test]
    fn either_key_of_the_device_and_every_policy_open() {
        let hub = hub();
        let device = hub.device("dev").unwrap();
        for key in [&device.primary_key, &device.secondary_key] {
            let grant = judge(&hub, &token("hub.example%2fdevices%2fdev", key, NOW_S + 1, "")).unwrap();
            assert_eq!(grant.scope, Scope::Device("dev".into()));
        }
        let owner = hub.policy_key("iothubowner").unwrap();
        let grant = judge(&hub, &token("hub.example", owner, NOW_S + 1, "iothubowner")).unwrap();
        assert_eq!(grant.scope, Scope::Hub);
    }

    #[test]
    fn each_flaw_has_its_status() {
        let hub = hub();
        let key = hub.device("dev").unwrap().primary_key;
        let owner = hub.policy_key("iothubowner").unwrap();
        let status = |text: &str| judge(&hub, text).unwrap_err().status;
        assert_eq!(status("nonsense"), 400);
        assert_eq!(status(&token("hub.example/what/ever/else", &key, NOW_S + 1, "")), 400);
        assert_eq!(status(&token("hub.example/devices/dev", "b3RoZXI=", NOW_S + 1, "")), 401);
        assert_eq!(status(&token("hub.example/devices/dev", &key, NOW_S, "")), 401);
        assert_eq!(status(&token("other.example/devices/dev", &key, NOW_S + 1, "")), 401);
        assert_eq!(status(&token("hub.example", &key, NOW_S + 1, "")), 401);
        assert_eq!(status(&token("hub.example", owner, NOW_S + 1, "service")), 401);
        assert_eq!(status(&token("hub.example/devices/nobody", &key, NOW_S + 1, "")), 404);
        hub.update_device("dev", DeviceStatus::Disabled, None, None).unwrap();
        assert_eq!(status(&token("hub.example/devices/dev", &key, NOW_S + 1, "")), 403);
    }

    #[test]
    fn a_plain_user_name_must_fit_its_token() {
        let hub = hub();
        let device = token("hub.example/devices/dev", &hub.device("dev").unwrap().primary_key, NOW_S + 1, "");
        assert!(judge_plain(&hub, "dev@sas.hub", &device).is_ok());
        assert!(judge_plain(&hub, "dev@sas.HUB.example", &device).is_ok());
        let policy = token("hub.example", hub.policy_key("device").unwrap(), NOW_S + 1, "device");
        assert!(judge_plain(&hub, "device@sas.root.hub", &policy).is_ok());
        for (user, password) in [
            ("other@sas.hub", &device),
            ("dev@sas.elsewhere", &device),
            ("dev", &device),
            ("dev@sas.root.hub", &device),
            ("device@sas.hub", &policy),
            ("service@sas.root.hub", &policy),
        ] {
            assert_eq!(judge_plain(&hub, user, password).unwrap_err().status, 401, "{user}");
        }
    }
}
