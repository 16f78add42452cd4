//! Which end device owns which hub device, so that two never write into one. Does no I/O.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use sha2::{Digest as _, Sha256};

use crate::azure::HubAddress;
use crate::devices::routes::DpsScope;
use crate::model::EndDevice;

/// What is owned: a device at a hub, or a registration at DPS. The text is the store's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimKey(String);

impl ClaimKey {
    /// A device at a hub. Host names have no case, device ids have.
    pub(super) fn hub_device(hub: &HubAddress, device_id: &str) -> Self {
        Self(format!("hub/{}:{}/{device_id}", hub.host.to_ascii_lowercase(), hub.port))
    }

    /// A registration at DPS. Id scopes and registration ids have no case.
    pub(super) fn registration(scope: &DpsScope, registration_id: &str) -> Self {
        let mut text = format!("dps/{}/{}/{registration_id}", scope.endpoint.authority(), scope.id_scope);
        text.make_ascii_lowercase();
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Small and of fixed size, since there is one for every device.
    fn digest(&self) -> [u8; 16] {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        digest
    }
}

/// All claims. One that its owner has not renewed for `life_ms` may be taken over.
#[derive(Debug)]
pub(super) struct Claims {
    by_key: DashMap<[u8; 16], Claim>,
    life_ms: i64,
}

#[derive(Clone, Debug)]
struct Claim {
    owner: EndDevice,
    renewed_ms: i64,
    /// On disk. One that is not yet may be given back when nothing came of it.
    stored: bool,
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Who owns it now: the caller, or the same end device under its fuller name.
    pub(super) owner: EndDevice,
    /// The same end device, as the claim named it until now.
    pub(super) before: Option<EndDevice>,
}

impl Claims {
    pub(super) fn new(life_ms: i64) -> Self {
        Self { by_key: DashMap::new(), life_ms }
    }

    /// How long a claim lives without being renewed, in milliseconds.
    pub(super) fn life_ms(&self) -> i64 {
        self.life_ms
    }

    /// Claims `key` for `device`, or renews its claim.
    ///
    /// The webhook does not always say the tenant. An end device without one is therefore the same as that
    /// with one; the claim passes on to the name with the tenant and stays there.
    ///
    /// # Errors
    /// The end device that owns it.
    pub(super) fn take(&self, key: &ClaimKey, device: &EndDevice, now_ms: i64) -> Result<Granted, EndDevice> {
        let fresh = || Claim { owner: device.clone(), renewed_ms: now_ms, stored: false };
        let mut held = match self.by_key.entry(key.digest()) {
            Entry::Vacant(vacant) => {
                vacant.insert(fresh());
                return Ok(Granted { owner: device.clone(), before: None });
            }
            Entry::Occupied(held) => held,
        };
        let claim = held.get_mut();
        if claim.owner.is_same(device) {
            let before = (claim.owner != *device).then(|| claim.owner.clone());
            if claim.owner.tenant().is_empty() {
                claim.owner = device.clone();
            }
            claim.renewed_ms = now_ms;
            return Ok(Granted { owner: claim.owner.clone(), before });
        }
        if now_ms.saturating_sub(claim.renewed_ms) <= self.life_ms {
            return Err(claim.owner.clone());
        }
        *claim = fresh();
        Ok(Granted { owner: device.clone(), before: None })
    }

    /// The claim is on disk.
    pub(super) fn stored(&self, key: &ClaimKey, owner: &EndDevice) {
        if let Some(mut claim) = self.by_key.get_mut(&key.digest())
            && claim.owner == *owner
        {
            claim.stored = true;
        }
    }

    /// Nothing came of it: gives `key` back, unless it is on disk or another's.
    pub(super) fn give_back(&self, key: &ClaimKey, device: &EndDevice) {
        self.by_key.remove_if(&key.digest(), |_, claim| !claim.stored && claim.owner.is_same(device));
    }

    /// Its owner needs `key` no more. False if it is another's.
    pub(super) fn release(&self, key: &ClaimKey, device: &EndDevice) -> bool {
        self.by_key.remove_if(&key.digest(), |_, claim| claim.owner.is_same(device)).is_some()
    }

    /// Takes up a claim from the store. The first one wins.
    pub(super) fn restore(&self, key: &ClaimKey, owner: &EndDevice, renewed_ms: i64) {
        self.by_key.entry(key.digest()).or_insert_with(|| Claim {
            owner: owner.clone(),
            renewed_ms,
            stored: true,
        });
    }

    /// Forgets what may be taken over by anybody.
    pub(super) fn sweep(&self, now_ms: i64) {
        self.by_key.retain(|_, claim| now_ms.saturating_sub(claim.renewed_ms) <= self.life_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(tenant: &str, application: &str) -> EndDevice {
        EndDevice::new(tenant, application, "dev").expect("valid")
    }

    fn key() -> ClaimKey {
        ClaimKey("hub/h/dev".to_owned())
    }

    #[test]
    fn belongs_to_the_first_until_it_is_long_unused() {
        let claims = Claims::new(1000);
        let (one, two) = (device("t", "a"), device("t", "b"));
        assert!(claims.take(&key(), &one, 0).is_ok());
        assert_eq!(claims.take(&key(), &two, 1000), Err(one.clone()));
        assert!(claims.take(&key(), &one, 900).is_ok());
        assert_eq!(claims.take(&key(), &two, 1900), Err(one.clone()));
        assert_eq!(claims.take(&key(), &two, 1901).map(|granted| granted.owner), Ok(two.clone()));
        assert_eq!(claims.take(&key(), &one, 1902), Err(two));
    }

    #[test]
    fn passes_to_the_name_with_the_tenant_and_stays_there() {
        let claims = Claims::new(1000);
        let (bare, full, foreign) = (device("", "a"), device("t", "a"), device("u", "a"));
        assert!(claims.take(&key(), &bare, 0).is_ok());
        let granted = Granted { owner: full.clone(), before: Some(bare.clone()) };
        assert_eq!(claims.take(&key(), &full, 1), Ok(granted));
        let granted = Granted { owner: full.clone(), before: Some(full.clone()) };
        assert_eq!(claims.take(&key(), &bare, 2), Ok(granted));
        assert_eq!(claims.take(&key(), &foreign, 3), Err(full));
    }

    #[test]
    fn is_given_back_only_before_it_is_stored() {
        let claims = Claims::new(1000);
        let (one, two) = (device("t", "a"), device("t", "b"));
        assert!(claims.take(&key(), &one, 0).is_ok());
        claims.give_back(&key(), &two);
        assert!(claims.take(&key(), &two, 1).is_err());
        claims.give_back(&key(), &one);
        assert!(claims.take(&key(), &two, 2).is_ok());
        claims.stored(&key(), &two);
        claims.give_back(&key(), &two);
        assert_eq!(claims.take(&key(), &one, 3), Err(two));
    }

    #[test]
    fn hosts_and_registrations_have_no_case_device_ids_have() {
        let hub = |host: &str| HubAddress { host: host.into(), port: 5671 };
        let at = |host, id| ClaimKey::hub_device(&hub(host), id);
        assert_eq!(at("H.net", "Dev"), at("h.net", "Dev"));
        assert_ne!(at("h.net", "Dev"), at("h.net", "dev"));
        assert_ne!(at("h.net", "Dev").digest(), at("h.net", "dev").digest());
    }
}
