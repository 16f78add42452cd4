//! Direct methods between callers and devices: who can be called, which calls wait for their answer. No wire.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};
use uuid::Uuid;

use super::hub::Hub;

/// Bytes of a payload, each way, as IoT Hub.
pub(super) const MAX_PAYLOAD: usize = 128 * 1024;
/// Calls that wait for one device's link; more wait with their callers.
const WAITING_CALLS: usize = 16;

/// A call on its way to a device.
#[derive(Debug)]
pub(super) struct MethodCall {
    /// The device answers with it.
    pub(super) id: Uuid,
    pub(super) name: String,
    /// JSON.
    pub(super) payload: Bytes,
}

/// What a caller wants.
#[derive(Clone, Debug)]
pub(super) struct Invocation {
    pub(super) name: String,
    /// JSON.
    pub(super) payload: Bytes,
    /// How long to wait for the device to be there.
    pub(super) connect: Duration,
    /// How long to wait for its answer from then on.
    pub(super) response: Duration,
}

/// A device's answer.
#[derive(Clone, Debug)]
pub struct MethodAnswer {
    /// What the device chose; HTTP's numbers by custom.
    pub status: i32,
    /// JSON as the device wrote it; `null` for an empty answer.
    pub payload: Box<RawValue>,
}

impl MethodAnswer {
    /// The payload, parsed.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.payload.get()).unwrap_or(Value::Null)
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MethodError {
    /// There is no such device.
    #[error("device {0} is not registered")]
    NoDevice(String),
    /// The device has no method links, or lost them during the call.
    #[error("device {0} is not online, or takes no direct methods")]
    NotOnline(String),
    /// It did not answer in time.
    #[error("device {0} did not answer in time")]
    TimedOut(String),
    /// Its answer can't be passed on.
    #[error("the answer of the device can't be passed on: {0}")]
    BadAnswer(&'static str),
}

type Answered = Result<MethodAnswer, MethodError>;

/// All lines and waiting calls of a hub.
pub(super) struct MethodDesk {
    state: Mutex<State>,
    /// Counts devices that came.
    came: watch::Sender<u64>,
}

impl fmt::Debug for MethodDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodDesk").finish_non_exhaustive()
    }
}

impl Default for MethodDesk {
    fn default() -> Self {
        Self { state: Mutex::default(), came: watch::channel(0).0 }
    }
}

#[derive(Default)]
struct State {
    lines: HashMap<String, Line>,
    waiting: HashMap<Uuid, Waiting>,
    next_number: u64,
}

struct Line {
    number: u64,
    calls: mpsc::Sender<MethodCall>,
}

struct Waiting {
    device_id: String,
    /// The line that carries the call.
    number: u64,
    answer: oneshot::Sender<Answered>,
}

impl MethodDesk {
    fn line(&self, device_id: &str) -> Option<(u64, mpsc::Sender<MethodCall>)> {
        let state = self.lock();
        state.lines.get(device_id).map(|line| (line.number, line.calls.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device's end: calls come out of it. While it is there, the device can be called; the newest one counts.
pub(super) struct MethodLine<'h> {
    hub: &'h Hub,
    device_id: String,
    number: u64,
    calls: mpsc::Receiver<MethodCall>,
}

impl MethodLine<'_> {
    /// The next call; `None` once a newer line has taken over.
    pub(super) async fn call(&mut self) -> Option<MethodCall> {
        self.calls.recv().await
    }
}

impl Drop for MethodLine<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.methods.lock();
        if state.lines.get(&self.device_id).is_some_and(|line| line.number == self.number) {
            state.lines.remove(&self.device_id);
        }
        // Their callers learn at once that nobody will answer.
        state.waiting.retain(|_, waiting| waiting.number != self.number);
    }
}

/// Takes a waiting call back when its caller is gone.
struct Place<'h> {
    hub: &'h Hub,
    id: Uuid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.hub.methods.lock().waiting.remove(&self.id);
    }
}

impl Hub {
    /// Calls a method of a device that is there, and waits for the answer up to `timeout`.
    ///
    /// # Errors
    /// As [`MethodError`] says.
    pub async fn invoke_method(
        &self,
        device_id: &str,
        name: &str,
        payload: &Value,
        timeout: Duration,
    ) -> Result<MethodAnswer, MethodError> {
        let (name, payload) = (name.to_owned(), Bytes::from(payload.to_string()));
        self.call_device(device_id, Invocation { name, payload, connect: Duration::ZERO, response: timeout })
            .await
    }

    /// Changes whenever a device comes that can be called.
    pub fn method_changes(&self) -> watch::Receiver<u64> {
        self.methods.came.subscribe()
    }

    /// Whether a device can be called: its method links are there.
    pub fn takes_methods(&self, device_id: &str) -> bool {
        self.methods.lock().lines.contains_key(device_id)
    }

    /// Calls a method; waits for the device first, then for its answer.
    ///
    /// # Errors
    /// As [`MethodError`] says.
    pub(super) async fn call_device(&self, device_id: &str, wanted: Invocation) -> Answered {
        let Invocation { name, payload, connect, response } = wanted;
        let (number, calls) = self.line_of(device_id, connect).await?;
        let (answer, answered) = oneshot::channel();
        let id = Uuid::new_v4();
        let waiting = Waiting { device_id: device_id.to_owned(), number, answer };
        self.methods.lock().waiting.insert(id, waiting);
        let _place = Place { hub: self, id };
        let not_online = || MethodError::NotOnline(device_id.to_owned());
        let exchange = async {
            calls.send(MethodCall { id, name, payload }).await.map_err(|_| not_online())?;
            // The line is the device's: this must not keep it open.
            drop(calls);
            answered.await.unwrap_or_else(|_| Err(not_online()))
        };
        match timeout(response, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(MethodError::TimedOut(device_id.to_owned())),
        }
    }

    /// Waits for the device's line up to `patience`.
    async fn line_of(
        &self,
        device_id: &str,
        patience: Duration,
    ) -> Result<(u64, mpsc::Sender<MethodCall>), MethodError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut came = self.methods.came.subscribe();
        loop {
            came.borrow_and_update();
            if self.device(device_id).is_none() {
                return Err(MethodError::NoDevice(device_id.to_owned()));
            }
            if let Some(line) = self.methods.line(device_id) {
                return Ok(line);
            }
            tokio::select! {
                _ = came.changed() => {}
                () = sleep_until(deadline) => return Err(MethodError::NotOnline(device_id.to_owned())),
            }
        }
    }

    /// Opens a device's line; an older one of the device ends.
    pub(super) fn open_method_line(&self, device_id: &str) -> MethodLine<'_> {
        let (sender, calls) = mpsc::channel(WAITING_CALLS);
        let mut state = self.methods.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.lines.insert(device_id.to_owned(), Line { number, calls: sender });
        drop(state);
        self.methods.came.send_modify(|count| *count += 1);
        MethodLine { hub: self, device_id: device_id.to_owned(), number, calls }
    }

    /// Takes a device's answer. One that nobody waits for any more is dropped, as at IoT Hub; so is another device's.
    pub(super) fn answer_method(&self, device_id: &str, id: Uuid, answer: Answered) {
        let mut state = self.methods.lock();
        if state.waiting.get(&id).is_none_or(|waiting| waiting.device_id != device_id) {
            return;
        }
        if let Some(waiting) = state.waiting.remove(&id) {
            _ = waiting.answer.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use serde_json::value::RawValue;

    use super::{Hub, Invocation, MethodAnswer, MethodError};
    use crate::model::Clock;

    fn hub() -> Hub {
        let hub = Hub::new("h", Clock::manual(0));
        hub.create_device("a", None).unwrap();
        hub
    }

    fn answer(status: i32) -> MethodAnswer {
        MethodAnswer { status, payload: RawValue::from_string("{}".to_owned()).unwrap() }
    }

    fn wanted(connect: u64) -> Invocation {
        let (connect, response) = (Duration::from_secs(connect), Duration::from_secs(30));
        Invocation { name: "m".into(), payload: "null".into(), connect, response }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_the_device_and_then_for_its_answer() {
        let hub = hub();
        assert_eq!(hub.call_device("a", wanted(0)).await.unwrap_err(), MethodError::NotOnline("a".into()));
        assert_eq!(hub.call_device("b", wanted(9)).await.unwrap_err(), MethodError::NoDevice("b".into()));
        let device = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut line = hub.open_method_line("a");
            let call = line.call().await.unwrap();
            hub.answer_method("other", call.id, Ok(answer(1)));
            hub.answer_method("a", call.id, Ok(answer(2)));
            line.call().await
        };
        tokio::select! {
            got = hub.call_device("a", wanted(10)) => assert_eq!(got.unwrap().status, 2),
            _ = device => panic!("no second call"),
        }
        assert!(hub.methods.lock().waiting.is_empty() && !hub.takes_methods("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_when_the_device_goes_when_a_newer_line_comes_and_when_time_is_up() {
        let hub = hub();
        let mut line = hub.open_method_line("a");
        let started = tokio::time::Instant::now();
        let called = hub.invoke_method("a", "m", &json!(1), Duration::from_secs(30)).await;
        assert_eq!(called.unwrap_err(), MethodError::TimedOut("a".into()));
        assert_eq!(started.elapsed().as_secs(), 30);
        assert_eq!(line.call().await.unwrap().payload, "1");

        let gone = async {
            assert!(line.call().await.is_some());
            drop(line);
            std::future::pending::<()>().await
        };
        tokio::select! {
            got = hub.call_device("a", wanted(0)) => {
                assert_eq!(got.unwrap_err(), MethodError::NotOnline("a".into()));
            }
            () = gone => {}
        }
        let mut older = hub.open_method_line("a");
        let newer = hub.open_method_line("a");
        assert!(older.call().await.is_none());
        drop(older);
        assert!(hub.takes_methods("a"), "the older one's farewell must not disturb the newer");
        drop(newer);
        assert!(!hub.takes_methods("a") && hub.methods.lock().waiting.is_empty());
    }
}
