//! The tokens one connection has shown, and what they allow. Plain data; verifying is `credentials`' part.

use std::collections::HashMap;

use crate::emulator::Token;

/// What a token is good for, from its `sr`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// `{host}`: everything its policy allows.
    Hub,
    /// `{host}/devices/{id}`.
    Device(String),
    /// `{host}/{event hub}` and below: reading.
    EventHub,
}

/// A token that was verified.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) scope: Scope,
    pub(super) token: Token,
}

impl Grant {
    /// Seconds since 1970 UTC.
    pub(super) fn expiry(&self) -> u64 {
        self.token.expiry
    }

    /// Whether it may speak for devices at all.
    fn connects(&self) -> bool {
        matches!(self.token.policy.as_deref(), None | Some("device" | "iothubowner"))
    }

    /// Whether it lets `device_id` send.
    fn speaks_for(&self, device_id: &str) -> bool {
        self.connects()
            && match &self.scope {
                Scope::Hub => self.token.policy.is_some(),
                Scope::Device(id) => id == device_id,
                Scope::EventHub => false,
            }
    }

    /// Whether it lets the peer read what arrived.
    fn reads(&self) -> bool {
        let service = matches!(self.token.policy.as_deref(), Some("service" | "iothubowner"));
        service && matches!(self.scope, Scope::Hub | Scope::EventHub)
    }

    /// Whether it lets the peer do what a service does: send to devices, fetch feedback.
    fn serves(&self) -> bool {
        self.reads() && self.scope == Scope::Hub
    }

    /// How a device authenticated by it is described, in IoT Hub's JSON form.
    pub(super) fn auth_method(&self) -> &'static str {
        if self.token.policy.is_some() {
            r#"{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
        } else {
            r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
        }
    }
}

/// The tokens of a connection: a renewed one replaces its forerunner.
#[derive(Debug, Default)]
pub(super) struct TokenBook {
    grants: HashMap<(Scope, Option<String>), Grant>,
}

impl TokenBook {
    /// Takes a token in, unless there are `max` others already. True if it was taken.
    pub(super) fn put(&mut self, grant: Grant, max: usize) -> bool {
        let key = (grant.scope.clone(), grant.token.policy.clone());
        if self.grants.len() >= max && !self.grants.contains_key(&key) {
            return false;
        }
        self.grants.insert(key, grant);
        true
    }

    /// The token that lets `device_id` send at `now_s`: its own before a policy's.
    pub(super) fn for_device(&self, device_id: &str, now_s: u64) -> Option<&Grant> {
        let own = self.grants.get(&(Scope::Device(device_id.to_owned()), None));
        let policy = || {
            let named = |scope: Scope, policy: &str| self.grants.get(&(scope, Some(policy.to_owned())));
            ["device", "iothubowner"].into_iter().find_map(|policy| {
                live(named(Scope::Hub, policy), now_s)
                    .or_else(|| live(named(Scope::Device(device_id.to_owned()), policy), now_s))
            })
        };
        live(own, now_s).or_else(policy).filter(|grant| grant.speaks_for(device_id))
    }

    /// Whether some token lets the peer read at `now_s`.
    pub(super) fn may_read(&self, now_s: u64) -> bool {
        self.grants.values().any(|grant| grant.reads() && grant.expiry() > now_s)
    }

    /// Whether some token lets the peer do what a service does at `now_s`.
    pub(super) fn may_serve(&self, now_s: u64) -> bool {
        self.grants.values().any(|grant| grant.serves() && grant.expiry() > now_s)
    }

    /// Forgets the tokens that speak for `device`, its own before a policy's; for `None` all that speak for any.
    pub(super) fn drop_for(&mut self, device: Option<&str>) {
        let own = device.map(|id| Scope::Device(id.to_owned()));
        let before = self.grants.len();
        self.grants.retain(|(scope, _), _| Some(scope) != own.as_ref());
        if own.is_none() || self.grants.len() == before {
            self.grants.retain(|_, grant| !grant.connects() || (own.is_some() && grant.scope != Scope::Hub));
        }
    }

    /// Forgets what is over at `now_s`; true if there was anything.
    pub(super) fn expire(&mut self, now_s: u64) -> bool {
        let before = self.grants.len();
        self.grants.retain(|_, grant| grant.expiry() > now_s);
        self.grants.len() != before
    }
}

fn live(grant: Option<&Grant>, now_s: u64) -> Option<&Grant> {
    grant.filter(|grant| grant.expiry() > now_s)
}

#[cfg(test)]
mod tests {
    use super::{Grant, Scope, TokenBook};
    use crate::emulator::Token;

    fn grant(scope: Scope, policy: &str, expiry: u64) -> Grant {
        let text = format!("SharedAccessSignature sr=h&sig=s&se={expiry}&skn={policy}");
        Grant { scope, token: Token::parse(&text).unwrap() }
    }

    fn book(grants: impl IntoIterator<Item = Grant>) -> TokenBook {
        let mut book = TokenBook::default();
        for grant in grants {
            assert!(book.put(grant, 10));
        }
        book
    }

    #[test]
    fn a_device_token_speaks_for_that_device_alone_and_only_in_time() {
        let book = book([grant(Scope::Device("a".into()), "", 100)]);
        assert!(book.for_device("a", 99).is_some_and(|grant| grant.auth_method().contains(r#""device""#)));
        assert!(book.for_device("a", 100).is_none());
        assert!(book.for_device("A", 99).is_none(), "device ids are case-sensitive");
        assert!(!book.may_read(99));
    }

    #[test]
    fn a_hub_policy_speaks_for_every_device_if_it_has_the_right() {
        for (policy, sends, reads) in [
            ("device", true, false),
            ("iothubowner", true, true),
            ("service", false, true),
            ("registryReadWrite", false, false),
        ] {
            let book = book([grant(Scope::Hub, policy, 100)]);
            assert_eq!(book.for_device("any", 1).is_some(), sends, "{policy}");
            assert_eq!(book.may_read(1), reads, "{policy}");
            assert_eq!(book.may_serve(1), reads, "{policy}");
        }
    }

    #[test]
    fn an_event_hub_token_reads_but_never_sends() {
        let book = book([grant(Scope::EventHub, "iothubowner", 100)]);
        assert!(book.may_read(1) && book.for_device("a", 1).is_none() && !book.may_serve(1));
    }

    #[test]
    fn tokens_can_be_dropped_for_one_device_or_all() {
        let grants = || {
            [
                grant(Scope::Device("a".into()), "", 100),
                grant(Scope::Device("b".into()), "", 100),
                grant(Scope::Hub, "service", 100),
            ]
        };
        let mut tokens = book(grants());
        tokens.drop_for(Some("a"));
        assert!(tokens.for_device("a", 1).is_none() && tokens.for_device("b", 1).is_some());
        tokens.drop_for(None);
        assert!(tokens.for_device("b", 1).is_none() && tokens.may_serve(1));
        let mut tokens = book([grant(Scope::Hub, "device", 100)]);
        tokens.drop_for(Some("a"));
        assert!(tokens.for_device("a", 1).is_none(), "the policy's token spoke for it");
    }

    #[test]
    fn a_renewed_token_needs_no_new_place() {
        let mut book = TokenBook::default();
        assert!(book.put(grant(Scope::Device("a".into()), "", 100), 1));
        assert!(!book.put(grant(Scope::Device("b".into()), "", 100), 1));
        assert!(book.put(grant(Scope::Device("a".into()), "", 200), 1));
        assert!(!book.expire(199));
        assert!(book.expire(200));
        assert!(book.put(grant(Scope::Device("b".into()), "", 300), 1));
    }
}
