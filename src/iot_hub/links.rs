//! Attaches a device's further links on its session, beside telemetry, and says which of them the hub refused.
//!
//! Waits for nothing that comes over them.

use std::sync::Arc;

use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::c2d::CloudMessages;
use super::classify::{self, Condition};
use super::event::Links;
use super::hub::Way;
use super::link_names::{address, link_properties};
use super::methods::Methods;
use super::options::IotHubOptions;
use super::safe_link::{Home, Loss, SafeReceiver, SafeSender, Terms};
use super::session::SessionSeat;
use super::twin::Twin;
use crate::azure::HubDevice;

/// A device's open links besides telemetry.
#[derive(Default)]
pub(super) struct OpenLinks {
    pub(super) c2d: Option<CloudMessages>,
    /// In a box, like the twin: most devices have neither.
    pub(super) methods: Option<Box<Methods>>,
    pub(super) twin: Option<Box<Twin>>,
}

impl OpenLinks {
    /// Which are open.
    pub(super) fn open(&self) -> Links {
        Links { c2d: self.c2d.is_some(), methods: self.methods.is_some(), twin: self.twin.is_some() }
    }

    /// Lets a way go.
    pub(super) fn close(&mut self, way: Way) {
        match way {
            Way::CloudMessages => self.c2d = None,
            Way::Methods => self.methods = None,
            Way::Twin => self.twin = None,
        }
    }
}

/// Opens links on one session.
pub(super) struct Opener<'a> {
    pub(super) session: &'a SessionSeat,
    pub(super) device: &'a Arc<HubDevice>,
    pub(super) lost: CancellationToken,
    pub(super) options: &'a IotHubOptions,
    pub(super) home: &'a Home,
}

/// The hub refused these ways at once, though the session goes on.
pub(super) type RefusedWays = Vec<(Way, Condition)>;

impl Opener<'_> {
    /// Attaches the wanted links, one after the other. Not to be cancelled.
    pub(super) async fn open(self, wanted: Links) -> Result<(Box<OpenLinks>, RefusedWays), Loss> {
        let mut links = Box::<OpenLinks>::default();
        let mut refused = Vec::new();
        if wanted.c2d {
            let opened = self.c2d().await;
            links.c2d = unless_refused(opened, Way::CloudMessages, &mut refused)?;
        }
        if wanted.methods {
            let opened = self.methods().await;
            links.methods = unless_refused(opened, Way::Methods, &mut refused)?;
        }
        if wanted.twin {
            let opened = self.twin().await;
            links.twin = unless_refused(opened, Way::Twin, &mut refused)?;
        }
        Ok((links, refused))
    }

    async fn c2d(&self) -> Result<CloudMessages, Loss> {
        let properties = link_properties(self.device);
        let terms = self.terms("c2d", "messages/devicebound", properties, false);
        let receiver = self.receiver(terms).await?;
        CloudMessages::start(receiver, self.options.c2d_credit).await
    }

    async fn methods(&self) -> Result<Box<Methods>, Loss> {
        let (sender, receiver) = self.pair("methods", "methods/devicebound").await?;
        Methods::start(sender, receiver).await.map(Box::new)
    }

    async fn twin(&self) -> Result<Box<Twin>, Loss> {
        let (sender, receiver) = self.pair("twin", "twin").await?;
        Twin::start(sender, receiver, self.options.send_timeout).await.map(Box::new)
    }

    /// Two links to one node; the hub tells by the same id on both that they belong together.
    async fn pair(&self, kind: &str, node: &str) -> Result<(SafeSender, SafeReceiver), Loss> {
        let mut properties = link_properties(self.device);
        let id = format!("{kind}:{}", Uuid::new_v4());
        properties.insert(Symbol::from("com.microsoft:channel-correlation-id"), Value::String(id));
        let terms = self.terms(&format!("{kind}-in"), node, properties.clone(), true);
        let receiver = self.receiver(terms).await?;
        let terms = self.terms(&format!("{kind}-out"), node, properties, true);
        let (lost, home) = (self.lost.clone(), Some(self.home.clone()));
        let attach = async |session: &mut _| SafeSender::attach(session, terms, lost, home).await;
        let sender = self.session.attach(attach).await?;
        Ok((sender, receiver))
    }

    async fn receiver(&self, terms: Terms) -> Result<SafeReceiver, Loss> {
        let (lost, home) = (self.lost.clone(), self.home.clone());
        self.session.attach(async |session| SafeReceiver::attach(session, terms, lost, home).await).await
    }

    fn terms(&self, kind: &str, node: &str, properties: Fields, settled: bool) -> Terms {
        Terms {
            name: format!("{kind}-{}", Uuid::new_v4()),
            address: address(&self.device.device_id, node),
            properties: Some(properties),
            settled,
        }
    }
}

fn unless_refused<T>(
    opened: Result<T, Loss>,
    way: Way,
    refused: &mut RefusedWays,
) -> Result<Option<T>, Loss> {
    match opened {
        Ok(link) => Ok(Some(link)),
        Err(Loss::Link(condition)) if classify::not_offered(&condition) => {
            refused.push((way, condition));
            Ok(None)
        }
        Err(loss) => Err(loss),
    }
}
