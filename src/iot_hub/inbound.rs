//! The way back over one session: one loop over all of a device's links, from the hub to events and from answers to the hub.
//!
//! Ends with the session, the wish or a lost link, and says which; opens and closes nothing.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::classify::{self, Condition};
use super::event::DeviceEvent;
use super::hub::{Hub, Way};
use super::kept::Kept;
use super::links::OpenLinks;
use super::safe_link::Loss;
use super::{c2d, methods, twin};
use crate::azure::HubDevice;

/// A link that the hub takes away sooner than this, before anything came over it, was refused.
const REFUSAL_COMES_WITHIN: Duration = Duration::from_secs(10);
/// While so many events of one device wait for the reader, no more of its twin is asked for. The other links bound
/// themselves by their credit.
const MAX_WAITING: usize = 4;

/// What the loop needs of those around it.
pub(super) struct Around<'a> {
    pub(super) kept: &'a Kept,
    /// The wish it serves.
    pub(super) edition: u64,
    pub(super) events: &'a mpsc::Sender<DeviceEvent>,
    /// Cancelled when the session closes.
    pub(super) ended: &'a CancellationToken,
    /// Cancelled when the client closes.
    pub(super) leaving: &'a CancellationToken,
    pub(super) hub: &'a Hub,
}

/// Why the loop ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Something else is wished now, or nothing.
    WishChanged,
    /// The client closes.
    Leaving,
    /// Nobody reads events any more.
    NoReader,
    /// The session was closed by somebody else.
    SessionClosed,
    /// A link is gone.
    Lost { way: Way, loss: Loss },
}

/// A device's links while they are open.
pub(super) struct Inbound {
    pub(super) links: Box<OpenLinks>,
    device: Arc<HubDevice>,
    opened: Instant,
    waiting: VecDeque<DeviceEvent>,
    /// Over which ways something came.
    proven: [bool; 3],
    /// The links stayed open beyond the time of refusals.
    lasting: bool,
}

enum News {
    Nothing,
    /// The time of refusals is over.
    Lasting,
    CloudMessages(Result<c2d::News, Loss>),
    Methods(Result<methods::News, Loss>),
    Twin(Result<twin::News, Loss>),
}

impl Inbound {
    pub(super) fn new(links: Box<OpenLinks>, device: Arc<HubDevice>) -> Self {
        let (opened, waiting) = (Instant::now(), VecDeque::new());
        Self { links, device, opened, waiting, proven: [false; 3], lasting: false }
    }

    /// For how long the links have been open.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Whether losing the link so means that the hub refused it, as far as this device can tell.
    pub(super) fn was_refused(&self, way: Way, condition: &Condition) -> bool {
        self.is_young() && !self.proven[way as usize] && classify::not_offered(condition)
    }

    /// Whether a refusal may still be on its way.
    pub(super) fn is_young(&self) -> bool {
        self.age() < REFUSAL_COMES_WITHIN
    }

    /// Waits on: the client's and the session's end, the wish, reports, room for events, and all open links. Once, also on
    /// the time after which the hub is known to offer these links: else one device's trouble could pass for its tier.
    pub(super) async fn run(&mut self, around: &Around<'_>) -> Ending {
        loop {
            if !around.kept.stands(around.edition) {
                return Ending::WishChanged;
            }
            if let Some(loss) = self.send_reports(around.kept).await {
                return Ending::Lost { way: Way::Twin, loss };
            }
            let room = self.waiting.len() < MAX_WAITING;
            let OpenLinks { c2d, methods, twin } = &mut *self.links;
            let news = tokio::select! {
                () = around.leaving.cancelled() => return Ending::Leaving,
                () = around.ended.cancelled() => return Ending::SessionClosed,
                () = around.kept.news.notified() => News::Nothing,
                () = sleep_until(self.opened + REFUSAL_COMES_WITHIN), if !self.lasting => News::Lasting,
                permit = around.events.reserve(), if !self.waiting.is_empty() => {
                    let Ok(permit) = permit else { return Ending::NoReader };
                    if let Some(event) = self.waiting.pop_front() {
                        permit.send(event);
                    }
                    News::Nothing
                }
                news = async { match c2d { Some(link) => link.next().await, None => pending().await } } => {
                    News::CloudMessages(news)
                }
                news = async { match methods { Some(links) => links.next().await, None => pending().await } } => {
                    News::Methods(news)
                }
                news = async { match twin { Some(links) => links.next(room).await, None => pending().await } } => {
                    News::Twin(news)
                }
            };
            match news {
                News::Nothing => continue,
                News::Lasting => {
                    self.lasting = true;
                    around.hub.prove_open(self.links.open());
                    continue;
                }
                News::CloudMessages(_) | News::Methods(_) | News::Twin(_) => {}
            }
            // In a box, as it is large and only needed for a moment.
            if let Err((way, loss)) = Box::pin(self.handle(news, room, around.hub)).await {
                return Ending::Lost { way, loss };
            }
        }
    }

    /// Sends the answers that were given already.
    pub(super) async fn flush(&mut self) {
        if let Some(link) = &mut self.links.c2d {
            link.flush().await;
        }
        if let Some(links) = &mut self.links.methods {
            links.flush().await;
        }
    }

    async fn send_reports(&mut self, kept: &Kept) -> Option<Loss> {
        let twin = self.links.twin.as_mut()?;
        while let Some(request) = kept.next_request() {
            if let Err(loss) = Box::pin(twin.report(request, &self.device)).await {
                return Some(loss);
            }
        }
        None
    }

    async fn handle(&mut self, news: News, room: bool, hub: &Hub) -> Result<(), (Way, Loss)> {
        let device = &self.device;
        let (way, handled) = match news {
            News::Nothing | News::Lasting => return Ok(()),
            News::CloudMessages(news) => {
                let Some(link) = &mut self.links.c2d else { return Ok(()) };
                let handled = match news {
                    Ok(news) => link.handle(news, device).await,
                    Err(loss) => Err(loss),
                };
                (Way::CloudMessages, handled)
            }
            News::Methods(news) => {
                let Some(links) = &mut self.links.methods else { return Ok(()) };
                let handled = match news {
                    Ok(news) => links.handle(news, device).await,
                    Err(loss) => Err(loss),
                };
                (Way::Methods, handled)
            }
            News::Twin(news) => {
                let Some(links) = &mut self.links.twin else { return Ok(()) };
                let handled = match news {
                    Ok(news) => links.handle(news, device, room).await,
                    Err(loss) => Err(loss),
                };
                if links.is_proven() {
                    self.prove(Way::Twin, hub);
                }
                (Way::Twin, handled)
            }
        };
        match handled {
            Ok(Some(event)) => {
                self.prove(way, hub);
                self.waiting.push_back(event);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(loss) => Err((way, loss)),
        }
    }

    fn prove(&mut self, way: Way, hub: &Hub) {
        if !std::mem::replace(&mut self.proven[way as usize], true) {
            hub.prove(way);
        }
    }
}
