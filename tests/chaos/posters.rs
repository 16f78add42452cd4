//! The network: each device's uplinks one after the other at an even pace, each until it is answered 2xx; some twice,
//! some in the wrong order, and bad bodies among them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::bodies;
use super::cloud::now_ms;
use super::state::State;

/// One in so many uplinks is posted again at once, again later, or after its successor.
const AGAIN: u32 = 60;
const LATER: u32 = 90;
const SWAPPED: u32 = 70;
/// Bad bodies a second.
const BAD_PER_S: u64 = 3;

/// Counts answers by status; 0 is none.
pub(crate) type Answers = BTreeMap<u16, u64>;

/// Runs until `enough`; every uplink that was begun is taken by then.
pub(crate) async fn post_all(
    state: Arc<State>,
    (url, http): (String, reqwest::Client),
    per_s: u32,
    enough: Arc<AtomicBool>,
    mut random: fastrand::Rng,
) {
    let devices = state.devices();
    let pace = Duration::from_secs_f64(devices as f64 / f64::from(per_s));
    let mut tasks = JoinSet::new();
    for device in 0..devices {
        let poster =
            Poster { state: Arc::clone(&state), url: url.clone(), http: http.clone(), random: random.fork() };
        tasks.spawn(poster.run(device, pace, Arc::clone(&enough)));
    }
    let poster = Poster { state, url, http, random };
    tasks.spawn(poster.post_bad(enough));
    tasks.join_all().await;
}

struct Poster {
    state: Arc<State>,
    url: String,
    http: reqwest::Client,
    random: fastrand::Rng,
}

impl Poster {
    async fn run(mut self, device: usize, pace: Duration, enough: Arc<AtomicBool>) {
        let mut due = Instant::now() + pace.mul_f64(self.random.f64());
        let (mut f_cnt, mut later) = (0, None);
        while !enough.load(Ordering::Relaxed) {
            sleep_until(due).await;
            // After a pause of the webhook all that is due comes at once, as from a network.
            due += pace;
            f_cnt += 1;
            if self.random.u32(..SWAPPED) == 0 {
                self.post_until_taken(device, f_cnt + 1).await;
                self.post_until_taken(device, f_cnt).await;
                f_cnt += 1;
                continue;
            }
            self.post_until_taken(device, f_cnt).await;
            if self.random.u32(..AGAIN) == 0 {
                self.post(bodies::uplink(device, f_cnt).into_bytes()).await;
            }
            if let Some(old) = later.take_if(|old| *old + 5 < f_cnt) {
                self.post(bodies::uplink(device, old).into_bytes()).await;
            }
            if later.is_none() && self.random.u32(..LATER) == 0 {
                later = Some(f_cnt);
            }
        }
    }

    async fn post_until_taken(&mut self, device: usize, f_cnt: u32) {
        let body = bodies::uplink(device, f_cnt);
        loop {
            match self.post(body.clone().into_bytes()).await {
                200..=299 => return self.state.taken(device, f_cnt, now_ms()),
                0 | 429 | 503 => sleep(Duration::from_millis(self.random.u64(50..300))).await,
                status => {
                    self.state.breach(format!("a good uplink was answered {status}"));
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn post_bad(mut self, enough: Arc<AtomicBool>) {
        while !enough.load(Ordering::Relaxed) {
            let body = bodies::bad(&mut self.random);
            // An uplink without a usable name of its device is nobody's: taken and dropped.
            match self.send(body).await {
                Some((202, text)) if text.contains("\"ignored\"") => {}
                None | Some((400..=499 | 503, _)) => {}
                Some((status, text)) => {
                    self.state.breach(format!("a bad body was answered {status} {text}"));
                }
            }
            sleep(Duration::from_millis(1000 / BAD_PER_S)).await;
        }
    }

    /// The status, or 0 without an answer.
    async fn post(&self, body: Vec<u8>) -> u16 {
        self.send(body).await.map_or(0, |(status, _)| status)
    }

    async fn send(&self, body: Vec<u8>) -> Option<(u16, String)> {
        let request = self.http.post(&self.url).header("content-type", "application/json").body(body);
        let answer = request.send().await.ok();
        self.state.answered(answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
        let answer = answer?;
        Some((answer.status().as_u16(), answer.text().await.unwrap_or_default()))
    }
}
