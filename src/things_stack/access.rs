//! Which API key serves which application: the configured ones, and those that requests to the webhook show
//! (`X-Downlink-Apikey`), believed only under conditions. Makes no calls.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tracing::{debug, info, warn};
use url::Url;

use super::address::{Address, InvalidAddress};
use super::offered_url::{self, Target};
use crate::model::{EndDevice, Secret};

/// Applications whose keys are learnt at most, and of which is remembered that they were warned about. Each takes
/// less than a kilobyte; a cluster's tenant has fewer.
const MAX_APPLICATIONS: usize = 1000;
/// Longest key taken from a header, in bytes. The Things Stack's own have about a hundred.
const MAX_KEY_BYTES: usize = 1024;

/// What a call to the API needs beside the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// API key of the application; writing needs `RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE`, reading the queue
    /// `RIGHT_APPLICATION_TRAFFIC_READ`, and asking the Network Server `RIGHT_APPLICATION_DEVICES_READ`.
    pub key: Secret,
    /// The webhook in whose name downlinks are queued.
    pub webhook_id: Option<String>,
    /// The allow-listed host that a learnt key is for; `None` for `base_url`.
    pub(super) at: Option<Arc<Address>>,
}

impl Access {
    /// A key for the API at `base_url`.
    pub fn new(key: Secret, webhook_id: Option<String>) -> Self {
        Self { key, webhook_id, at: None }
    }
}

/// What [`Keys`] start with.
#[derive(Clone, Debug, Default)]
pub struct KeyOptions {
    /// Headers that name this address are believed.
    pub base_url: Option<String>,
    /// Headers that name these (`host` or `host:port`) are believed too; without port it is the scheme's own.
    pub allowed_hosts: Vec<String>,
    /// Keys by application id. For these applications no header counts.
    pub configured: BTreeMap<String, Access>,
}

/// What a request's headers offer for downlinks. The Things Stack sends them when a key is stored on the webhook.
#[derive(Clone, Copy)]
pub struct DownlinkOffer<'a> {
    /// `X-Downlink-Apikey`.
    pub api_key: &'a str,
    /// `X-Downlink-Push`: a whole URL.
    pub push: Option<&'a str>,
    /// `X-Downlink-Replace`: a whole URL.
    pub replace: Option<&'a str>,
}

/// Without the key.
impl fmt::Debug for DownlinkOffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownlinkOffer").field("push", &self.push).field("replace", &self.replace).finish()
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The first key of an application.
    New,
    /// Another key or webhook for an application that had one. Two webhooks of one application make this of every
    /// message.
    Renewed,
    /// The same as before.
    Known,
    /// Not believed.
    Ignored(NotLearnt),
}

/// Why an offer was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLearnt {
    /// The application's key is configured.
    Configured,
    /// The key is empty, too long, or holds what no key holds.
    Key,
    /// There is no URL, or it is not the API's for just this application and device.
    Url,
    /// The URL's scheme, host or port is neither `base_url`'s nor allowed.
    Host,
    /// Keys of as many applications as can be are known.
    TooMany,
}

/// The keys. Cheap to clone; clones share what is learnt. Nothing is written to disk.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    configured: HashMap<String, Arc<Access>>,
    base: Option<Arc<Address>>,
    allowed: Vec<Arc<Address>>,
    learnt: RwLock<Shelf>,
    warned: Mutex<HashSet<String>>,
}

/// Keys by application id. Tenants of one cluster may use the same application id, so each has its own.
#[derive(Debug, Default)]
struct Shelf {
    by_application: HashMap<String, Vec<Entry>>,
    entries: usize,
}

#[derive(Debug)]
struct Entry {
    tenant: String,
    access: Arc<Access>,
    /// The offered URL up to the device id; the same for all devices of the application.
    url_start: String,
}

impl Shelf {
    fn find(&self, device: &EndDevice) -> Option<&Entry> {
        let tenants = self.by_application.get(device.application_id())?;
        tenants.iter().find(|entry| entry.tenant == device.tenant())
    }
}

impl Keys {
    /// Takes over the configuration.
    ///
    /// # Errors
    /// `base_url` is no URL, or one of `allowed_hosts` no host.
    pub fn new(options: KeyOptions) -> Result<Self, InvalidAddress> {
        let mut allowed = Vec::new();
        for host in &options.allowed_hosts {
            let address = Address::of_host("https", host)?;
            if address.is_loopback() {
                allowed.push(Arc::new(Address::of_host("http", host)?));
            }
            allowed.push(Arc::new(address));
        }
        Ok(Self(Arc::new(Inner {
            configured: options.configured.into_iter().map(|(id, access)| (id, Arc::new(access))).collect(),
            base: options.base_url.as_deref().map(Address::parse).transpose()?.map(Arc::new),
            allowed,
            learnt: RwLock::default(),
            warned: Mutex::default(),
        })))
    }

    /// The key for a device's application: the configured one, else the one learnt.
    pub fn access(&self, device: &EndDevice) -> Option<Arc<Access>> {
        if let Some(access) = self.0.configured.get(device.application_id()) {
            return Some(Arc::clone(access));
        }
        self.shelf().find(device).map(|entry| Arc::clone(&entry.access))
    }

    /// Whether a key is known for the application, in any tenant.
    pub fn serves(&self, application_id: &str) -> bool {
        self.0.configured.contains_key(application_id)
            || self.shelf().by_application.contains_key(application_id)
    }

    /// Takes note of a request's headers. The request must have shown the webhook's secret.
    ///
    /// Believed only if the URL's scheme, host and port are those of `base_url` or of an allowed host (https, or
    /// http on this machine), its path is the API's for exactly this application and device, and the application has
    /// no configured key. The URL itself is never called: only the webhook's id is taken from it. A learnt key is
    /// used at the very host it was offered for. Costs two comparisons when nothing has changed.
    pub fn learn(&self, device: &EndDevice, offer: DownlinkOffer<'_>) -> Learnt {
        let application = device.application_id();
        if self.0.configured.contains_key(application) {
            return Learnt::Ignored(NotLearnt::Configured);
        }
        if self.shelf().find(device).is_some_and(|entry| entry.is_offered_by(device, offer)) {
            return Learnt::Known;
        }
        if offer.api_key.is_empty()
            || offer.api_key.len() > MAX_KEY_BYTES
            || !offer.api_key.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Learnt::Ignored(NotLearnt::Key);
        }
        let (at, target) = match self.recognise(device, offer) {
            Ok(recognised) => recognised,
            Err(reason) => return Learnt::Ignored(reason),
        };
        let access = Access { key: Secret::new(offer.api_key), webhook_id: target.webhook_id, at };
        self.keep(device, access, target.url_start)
    }

    /// The address the URL is for (`None` is `base_url`), and what its path says.
    fn recognise(
        &self,
        device: &EndDevice,
        offer: DownlinkOffer<'_>,
    ) -> Result<(Option<Arc<Address>>, Target), NotLearnt> {
        let text = offer.push.or(offer.replace).ok_or(NotLearnt::Url)?;
        let url = offered_url::parse(text).ok_or(NotLearnt::Url)?;
        let base = self.0.base.iter().map(|address| (None, address));
        let allowed = self.0.allowed.iter().map(|address| (Some(Arc::clone(address)), address));
        let mut ours = base.chain(allowed).filter(|(_, address)| address.has_origin_of(&url)).peekable();
        if ours.peek().is_none() {
            self.warn_of_host(device.application_id(), &url);
            return Err(NotLearnt::Host);
        }
        ours.find_map(|(at, address)| Some((at, offered_url::target(text, &url, address, device)?)))
            .ok_or(NotLearnt::Url)
    }

    fn keep(&self, device: &EndDevice, access: Access, url_start: String) -> Learnt {
        let application = device.application_id();
        let mut shelf = self.0.learnt.write().unwrap_or_else(PoisonError::into_inner);
        let full = shelf.entries >= MAX_APPLICATIONS;
        let known = shelf
            .by_application
            .get_mut(application)
            .and_then(|tenants| tenants.iter_mut().find(|entry| entry.tenant == device.tenant()));
        let first = known.is_none();
        match known {
            Some(entry) => {
                // Of the same key with another URL (the device's id needs encoding, say) nothing is new.
                let same = *entry.access == access;
                entry.url_start = url_start;
                if same {
                    return Learnt::Known;
                }
                entry.access = Arc::new(access);
            }
            None if full => return Learnt::Ignored(NotLearnt::TooMany),
            None => {
                let entry = Entry { tenant: device.tenant().to_owned(), access: Arc::new(access), url_start };
                shelf.by_application.entry(application.to_owned()).or_default().push(entry);
                shelf.entries += 1;
            }
        }
        drop(shelf);
        if first {
            info!(application, "Learnt an API key from the webhook's headers; downlinks are possible.");
            return Learnt::New;
        }
        debug!(
            application,
            "The webhook's headers hold another API key or name another webhook; they replace the former."
        );
        Learnt::Renewed
    }

    fn warn_of_host(&self, application: &str, url: &Url) {
        let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < MAX_APPLICATIONS && warned.insert(application.to_owned()) {
            drop(warned);
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            warn!(
                application,
                host,
                port,
                scheme = url.scheme(),
                "The webhook offers an API key for an address that is neither `things_stack.base_url` nor in `things_stack.allowed_hosts`; the key is not used."
            );
        }
    }

    fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.0.learnt.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_offered_by(&self, device: &EndDevice, offer: DownlinkOffer<'_>) -> bool {
        let (text, operation) = match (offer.push, offer.replace) {
            (Some(push), _) => (push, "/down/push"),
            (None, Some(replace)) => (replace, "/down/replace"),
            (None, None) => return false,
        };
        let rest = text.strip_prefix(self.url_start.as_str());
        rest.and_then(|rest| rest.strip_prefix(device.device_id())) == Some(operation)
            && self.access.key.reveal() == offer.api_key
    }
}
