//! A Things Stack in memory: queues downlinks, fails as told, and can be stopped at any step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tti_connector::downlink::ports::Network;
use tti_connector::model::EndDevice;
use tti_connector::things_stack::{ApiError, Downlink, Operation, QueuedDownlink, Whereabouts};

/// What a call does instead of what was asked.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// As asked.
    None,
    /// Nothing, and the caller is told so.
    Fails(ApiError),
    /// As asked, but the answer is lost.
    Loses,
    /// Nothing, without an answer for ever.
    Hangs,
    /// As asked, without an answer for ever.
    HangsAfter,
    /// As asked, after a while.
    Slow(Duration),
}

pub(crate) fn not_now(after: Option<u64>) -> Fault {
    Fault::Fails(ApiError::NotNow { detail: "as told".to_owned(), after: after.map(Duration::from_secs) })
}

pub(crate) fn unsure() -> ApiError {
    ApiError::Unsure { detail: "as told".to_owned() }
}

pub(crate) fn refused(status: u16) -> Fault {
    Fault::Fails(ApiError::Refused { status: Some(status), detail: format!("refused with {status}") })
}

#[derive(Default)]
struct State {
    served: HashSet<String>,
    /// Per device id; the last one stays.
    push_faults: HashMap<String, VecDeque<Fault>>,
    ask_faults: HashMap<String, VecDeque<Fault>>,
    queued: Vec<Pushed>,
    asked: usize,
    tried: usize,
}

/// A downlink that entered a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) device: String,
    pub(crate) f_port: u8,
    pub(crate) correlation_ids: Vec<String>,
    pub(crate) operation: Operation,
}

/// Survives a crash of the connector.
#[derive(Clone)]
pub(crate) struct ThingsStack {
    state: Arc<Mutex<State>>,
    /// Counts calls, so that a test can wait for one.
    calls: watch::Sender<usize>,
}

impl ThingsStack {
    pub(crate) fn new() -> Self {
        let state = State { served: HashSet::from(["app".to_owned()]), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), calls: watch::channel(0).0 }
    }

    pub(crate) fn serve(&self, application: &str, serves: bool) {
        let mut state = self.state.lock().unwrap();
        if serves {
            state.served.insert(application.to_owned());
        } else {
            state.served.remove(application);
        }
    }

    pub(crate) fn on_push(&self, device: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().push_faults.insert(device.to_owned(), faults.into_iter().collect());
    }

    pub(crate) fn on_ask(&self, device: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().ask_faults.insert(device.to_owned(), faults.into_iter().collect());
    }

    /// All that was queued, in order.
    pub(crate) fn queued(&self) -> Vec<Pushed> {
        self.state.lock().unwrap().queued.clone()
    }

    pub(crate) fn ports(&self, device: &str) -> Vec<u8> {
        self.queued().iter().filter(|pushed| pushed.device == device).map(|pushed| pushed.f_port).collect()
    }

    pub(crate) fn pushes_tried(&self) -> usize {
        self.state.lock().unwrap().tried
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// Waits until so many calls were begun in all.
    pub(crate) async fn called(&self, times: usize) {
        self.calls.subscribe().wait_for(|calls| *calls >= times).await.unwrap();
    }

    /// Waits until it is asked once more.
    pub(crate) async fn asked_more_than(&self, times: usize) {
        self.calls.subscribe().wait_for(|_| self.asked() > times).await.unwrap();
    }

    fn count(&self) {
        self.calls.send_modify(|calls| *calls += 1);
    }
}

fn next(faults: &mut HashMap<String, VecDeque<Fault>>, device: &EndDevice) -> Fault {
    let Some(faults) = faults.get_mut(device.device_id()) else { return Fault::None };
    let fault = faults.front().cloned().unwrap_or(Fault::None);
    if faults.len() > 1 {
        faults.pop_front();
    }
    fault
}

impl Network for ThingsStack {
    fn serves(&self, application_id: &str) -> bool {
        self.state.lock().unwrap().served.contains(application_id)
    }

    async fn push(
        &self,
        device: &EndDevice,
        operation: Operation,
        downlink: &Downlink,
    ) -> Result<(), ApiError> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.tried += 1;
            next(&mut state.push_faults, device)
        };
        self.count();
        let queue = || {
            self.state.lock().unwrap().queued.push(Pushed {
                device: device.device_id().to_owned(),
                f_port: downlink.f_port,
                correlation_ids: downlink.correlation_ids.clone(),
                operation,
            });
        };
        match fault {
            Fault::None => queue(),
            Fault::Fails(error) => return Err(error),
            Fault::Loses => {
                queue();
                return Err(unsure());
            }
            Fault::Hangs => std::future::pending().await,
            Fault::HangsAfter => {
                queue();
                std::future::pending().await
            }
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                queue();
            }
        }
        Ok(())
    }

    async fn whereabouts(&self, device: &EndDevice, correlation_id: &str) -> Result<Whereabouts, ApiError> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.asked += 1;
            next(&mut state.ask_faults, device)
        };
        self.count();
        match fault {
            Fault::Fails(error) => return Err(error),
            Fault::Hangs | Fault::HangsAfter => std::future::pending().await,
            Fault::None | Fault::Loses | Fault::Slow(_) => {}
        }
        let state = self.state.lock().unwrap();
        let here =
            state.queued.iter().any(|pushed| pushed.correlation_ids.iter().any(|id| id == correlation_id));
        Ok(if here { Whereabouts::Queued } else { Whereabouts::Nowhere })
    }

    async fn queue(&self, _: &EndDevice) -> Result<Vec<QueuedDownlink>, ApiError> {
        Err(unsure())
    }

    async fn clear(&self, _: &EndDevice) -> Result<(), ApiError> {
        Err(unsure())
    }
}
