//! What a directory stands on in these tests: a store in memory, a clock that stands still, a configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tti_connector::azure::HubDevice;
use tti_connector::config;
use tti_connector::devices::{
    Directory, HubIdRule, Kept, Options, Pace, ResolveError, Routes, Store, StoreError,
};
use tti_connector::model::{Clock, EndDevice, ParkReason, Secret};
use tti_connector::net::{Schemes, http_client};

/// 2026-01-01.
pub(crate) const START_MS: i64 = 1_767_225_600_000;
/// Of hub policies and devices in connection strings: `0123456789abcdef0123456789abcdef`.
pub(crate) const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Of the enrollment group: 32 times `g`.
pub(crate) const GROUP_KEY: &str = "Z2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2dnZ2c=";

/// With the time it expires.
type Value = (Vec<u8>, i64);

/// A store that outlives directories. Its values expire with the clock.
#[derive(Clone)]
pub(crate) struct MemoryStore {
    clock: Clock,
    values: Arc<Mutex<BTreeMap<String, Value>>>,
    broken: Arc<AtomicBool>,
}

impl MemoryStore {
    pub(crate) fn break_down(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Everything in it as text.
    pub(crate) fn dump(&self) -> String {
        let values = self.values.lock().unwrap();
        values.iter().map(|(key, (value, _))| format!("{key} {}\n", String::from_utf8_lossy(value))).collect()
    }

    pub(crate) fn insert(&self, key: &str, value: &str) {
        self.values.lock().unwrap().insert(key.to_owned(), (value.into(), i64::MAX));
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) { Err(StoreError("disk full".to_owned())) } else { Ok(()) }
    }
}

impl Store for MemoryStore {
    fn put<'a>(
        &'a self,
        _: &'static str,
        key: &'a str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.check()?;
            self.values.lock().unwrap().insert(key.to_owned(), (value, expires_ms));
            Ok(())
        })
    }

    fn delete<'a>(&'a self, _: &'static str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.check()?;
            self.values.lock().unwrap().remove(key);
            Ok(())
        })
    }

    fn load<'a>(&'a self, _: &'static str) -> BoxFuture<'a, Result<Vec<Kept>, StoreError>> {
        Box::pin(async move {
            self.check()?;
            let now_ms = self.clock.now_ms();
            let values = self.values.lock().unwrap();
            let fresh = values.iter().filter(|(_, (_, expires_ms))| *expires_ms > now_ms);
            Ok(fresh.map(|(key, (value, _))| (key.clone(), value.clone())).collect())
        })
    }
}

/// A directory can be made from it as often as a process is restarted.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) store: MemoryStore,
    pub(crate) azure: config::Azure,
    pub(crate) hub_id: String,
    pub(crate) options: Options,
    pub(crate) tls: rustls::ClientConfig,
}

impl World {
    /// Nothing configured, no roots trusted.
    pub(crate) fn new() -> Self {
        let clock = Clock::manual(START_MS);
        Self {
            store: MemoryStore { clock: clock.clone(), values: Arc::default(), broken: Arc::default() },
            clock,
            azure: config::Azure::default(),
            hub_id: "device_id".to_owned(),
            options: Options {
                assignment_ttl: Duration::from_secs(24 * 3600),
                negative_ttl: Duration::from_secs(30),
                max_registrations: 16,
                pace: Pace {
                    poll_default: Duration::from_millis(5),
                    poll_min: Duration::from_millis(1),
                    ..Pace::default()
                },
            },
            tls: trusting(rustls::RootCertStore::empty()),
        }
    }

    /// One hub for all by policy.
    pub(crate) fn with_hub() -> Self {
        let mut world = Self::new();
        world.azure.iot_hub.connection_string = Some(policy("hub-1.azure-devices.net"));
        world
    }

    pub(crate) async fn directory(&self) -> Directory {
        Directory::load(
            Routes::new(&self.azure).unwrap(),
            HubIdRule::parse(&self.hub_id).unwrap(),
            self.store.clone(),
            self.options,
            http_client(&self.tls, self.azure.proxy.as_deref(), Duration::from_secs(5), Schemes::HttpsOnly)
                .unwrap(),
            self.clock.clone(),
        )
        .await
        .unwrap()
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(i64::try_from(time.as_millis()).unwrap());
    }
}

pub(crate) fn trusting(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn policy(host: &str) -> Secret {
    Secret::new(format!("HostName={host};SharedAccessKeyName=device;SharedAccessKey={KEY}"))
}

/// An end device of tenant `t`.
pub(crate) fn device(application: &str, device: &str) -> EndDevice {
    EndDevice::new("t", application, device).unwrap()
}

/// `hub host:port / device id`.
pub(crate) fn place(hub_device: &HubDevice) -> String {
    format!("{}/{}", hub_device.hub, hub_device.device_id)
}

pub(crate) fn parked<T: std::fmt::Debug>(result: Result<T, ResolveError>) -> (ParkReason, String) {
    match result {
        Err(ResolveError::Park { reason, detail }) => (reason, detail),
        other => panic!("not parked: {other:?}"),
    }
}

pub(crate) fn retried<T: std::fmt::Debug>(result: Result<T, ResolveError>) -> (String, Option<Duration>) {
    match result {
        Err(ResolveError::Retry { detail, after }) => (detail, after),
        other => panic!("not to be tried again: {other:?}"),
    }
}
