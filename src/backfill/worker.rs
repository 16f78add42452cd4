//! One application's loop: catches up with an absence, then looks for gaps as they become due.
//!
//! Knows no page and no queue; decides when, from where to where, and what was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::application::{Application, CatchUp};
use super::gaps::{self, Gap, Noted};
use super::mark::OVERLAP_MS;
use super::order::Summary;
use super::ports::{Observer, Outbox, Storage};
use super::row::{Bounds, Row};
use super::runner::{Range, RunError, Runner, Watcher};
use crate::model::Backoff;
use crate::things_stack::ApiError;

/// With gaps of more devices than this, the whole application is read once instead of each device.
const ONE_BY_ONE: usize = 8;
/// The application server's time lies behind the network server's by less than this.
const BEHIND_MS: i64 = 10_000;
/// A gap whose end is not stored yet is looked for so often at most: it takes a quarter of an hour.
const MAX_TRIES: u32 = 6;
const AGAIN: Backoff = Backoff { initial: Duration::from_secs(30), max: Duration::from_secs(300) };
/// Waits after a failure that may pass.
const FAILED: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };
/// Wait after a refusal, which only a person can change.
const REFUSED: Duration = Duration::from_secs(15 * 60);

/// Works for one application until it is dropped.
pub(super) struct Worker<S, O> {
    pub(super) application: Arc<Application>,
    pub(super) runner: Runner<S, O>,
    /// When no uplink told the tenant yet.
    pub(super) default_tenant: Arc<str>,
    pub(super) delay: Duration,
    /// After a failure nothing is asked before.
    pub(super) not_before: Instant,
    pub(super) failures: u32,
    /// What was said in the log of the failure that lasts.
    pub(super) told: Option<&'static str>,
}

struct CatchingUp<'a> {
    application: &'a Application,
    observer: &'a dyn Observer,
    delay: Duration,
}

impl Watcher for CatchingUp<'_> {
    fn row(&mut self, row: &Row) {
        let due = Instant::now() + self.delay;
        if let Noted::Gap(missing) = self.application.fetched(&row.device_id, &row.frame, due) {
            self.observer.gap(u64::from(missing));
        }
    }

    fn page(&mut self, at_ms: i64, _: &Summary) {
        self.application.caught_up_to(at_ms);
    }
}

struct Looking<'a>(&'a mut HashMap<Box<str>, Vec<Gap>>);

impl Watcher for Looking<'_> {
    fn row(&mut self, row: &Row) {
        if let Some(gaps) = self.0.get_mut(row.device_id.as_str()) {
            let session = gaps::session(&row.frame.session_key_id);
            gaps.iter_mut().for_each(|gap| gap.note(session, row.frame.f_cnt));
        }
    }

    fn page(&mut self, _: i64, _: &Summary) {}
}

impl<S: Storage, O: Outbox> Worker<S, O> {
    /// Waits on: the delay after the start, new gaps, gaps that become due, waits after failures.
    pub(super) async fn run(mut self) {
        if self.application.catch_up().is_some() {
            sleep(self.delay).await;
        }
        while let Some(catch_up) = self.application.catch_up() {
            match self.catch_up(catch_up).await {
                Ok(()) => self.application.end_catch_up(),
                Err(error) => {
                    let wait = self.failed(&error);
                    sleep(wait).await;
                }
            }
        }
        loop {
            match self.application.next_due() {
                Some(due) => tokio::select! {
                    () = sleep_until(due.max(self.not_before)) => {}
                    () = self.application.news.notified() => continue,
                },
                None => {
                    self.application.news.notified().await;
                    continue;
                }
            }
            let mut due = self.application.take_gaps(Instant::now());
            match self.look(&mut due).await {
                Ok(summary) => {
                    let again = self.judge(due, &summary);
                    self.application.looked(again);
                }
                Err(error) => {
                    // New gaps wait as well: a refusal is no other for them.
                    self.not_before = Instant::now() + self.failed(&error);
                    self.application.looked(flat(due));
                }
            }
        }
    }

    async fn catch_up(&mut self, CatchUp { from_ms, until_ms }: CatchUp) -> Result<(), RunError> {
        let application = Arc::clone(&self.application);
        let floor_ms = application.floor_ms(self.runner.clock.now_ms());
        let tenant = self.tenant();
        let range = Range {
            application: &application.id,
            tenant: &tenant,
            device: None,
            after_ms: from_ms.max(floor_ms.saturating_sub(OVERLAP_MS)),
            bounds: Bounds { until_ms, live_ms: until_ms, floor_ms },
            within_window: true,
            dry_run: false,
        };
        let observer = Arc::clone(&self.runner.observer);
        let mut watcher = CatchingUp { application: &application, observer: &*observer, delay: self.delay };
        let summary = self.runner.run(&range, &mut watcher).await?;
        self.succeeded();
        let Summary { queued, known, bad, left_out, .. } = summary;
        let application = &application.id;
        if queued > 0 || bad > 0 {
            info!(
                application,
                queued,
                known,
                bad,
                left_out,
                "Uplinks that were missed while the connector was away are on their way to the hub."
            );
        } else {
            debug!(application, known, left_out, "No uplink was missed while the connector was away.");
        }
        Ok(())
    }

    /// Walks through what is stored around the gaps. Rows that are found are noted in them.
    async fn look(&mut self, due: &mut HashMap<Box<str>, Vec<Gap>>) -> Result<Summary, RunError> {
        let mut sum = Summary::default();
        if due.len() > ONE_BY_ONE {
            self.look_at(None, due, &mut sum).await?;
        } else {
            let devices: Vec<Box<str>> = due.keys().cloned().collect();
            for device_id in devices {
                let Some(gaps) = due.remove_entry(&device_id) else { continue };
                let mut one = HashMap::from([gaps]);
                let looked = self.look_at(Some(&device_id), &mut one, &mut sum).await;
                due.extend(one);
                looked?;
            }
        }
        self.succeeded();
        Ok(sum)
    }

    async fn look_at(
        &self,
        device: Option<&str>,
        due: &mut HashMap<Box<str>, Vec<Gap>>,
        sum: &mut Summary,
    ) -> Result<(), RunError> {
        let gaps = || due.values().flatten();
        let (Some(from_ms), Some(to_ms)) =
            (gaps().map(|gap| gap.from_ms).min(), gaps().map(|gap| gap.to_ms).max())
        else {
            return Ok(());
        };
        let floor_ms = self.application.floor_ms(self.runner.clock.now_ms());
        let tenant = self.tenant();
        let range = Range {
            application: &self.application.id,
            tenant: &tenant,
            device,
            after_ms: from_ms.max(floor_ms).saturating_sub(OVERLAP_MS),
            bounds: Bounds { until_ms: to_ms.saturating_add(BEHIND_MS), live_ms: to_ms, floor_ms },
            within_window: true,
            dry_run: false,
        };
        let summary = self.runner.run(&range, &mut Looking(due)).await?;
        sum.queued += summary.queued;
        sum.bad += summary.bad;
        Ok(())
    }

    /// What is still missing is lost, or looked for again: what came last may not be stored yet.
    fn judge(&self, due: HashMap<Box<str>, Vec<Gap>>, summary: &Summary) -> Vec<(Box<str>, Gap)> {
        let (mut never_stored, mut no_longer_stored, mut again) = (0, 0, Vec::new());
        for (device_id, mut gap) in flat(due) {
            let left = u64::from(gap.left());
            gap.tries += 1;
            if left == 0 {
                continue;
            } else if !gap.caught_up && gap.tries < MAX_TRIES {
                gap.due = Instant::now() + AGAIN.wait(gap.tries);
                again.push((device_id, gap));
            } else if gap.reached {
                never_stored += left;
            } else {
                no_longer_stored += left;
            }
        }
        let application = &self.application.id;
        let &Summary { queued, bad, .. } = summary;
        let observer = &self.runner.observer;
        observer.lost("never_stored", never_stored);
        observer.lost("no_longer_stored", no_longer_stored);
        if no_longer_stored > 0 {
            warn!(
                application,
                queued,
                lost = no_longer_stored,
                "Missed uplinks are lost for good: the Storage Integration does not hold them any more, or never held any of their device."
            );
        } else if queued > 0 || bad > 0 {
            info!(application, queued, never_stored, bad, "Missed uplinks are on their way to the hub.");
        } else {
            debug!(application, never_stored, "No missed uplink was stored: the network did not hear them.");
        }
        again
    }

    fn tenant(&self) -> String {
        self.application.tenant().unwrap_or_else(|| self.default_tenant.to_string())
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        if self.told.take().is_some() {
            info!(application = self.application.id, "Stored uplinks can be read again.");
        }
    }

    /// Says so in the log if it is news; gives how long to wait.
    fn failed(&mut self, error: &RunError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let backoff = FAILED.wait(self.failures);
        let (reason, wait) = match error {
            RunError::Api(ApiError::NotNow { after, .. }) => {
                ("not_now", after.unwrap_or_default().max(backoff))
            }
            RunError::Api(ApiError::Unsure { .. }) => ("unsure", backoff),
            RunError::Api(ApiError::Refused { .. }) => ("refused", REFUSED),
            RunError::Queue(_) => ("spool", backoff),
        };
        self.runner.observer.failed(reason);
        if self.told != Some(reason) {
            self.told = Some(reason);
            let delay_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            warn!(
                application = self.application.id,
                reason,
                %error,
                delay_ms,
                "Missed uplinks can't be fetched now; they are tried again."
            );
        }
        wait
    }
}

fn flat(gaps: HashMap<Box<str>, Vec<Gap>>) -> impl Iterator<Item = (Box<str>, Gap)> {
    gaps.into_iter().flat_map(|(id, gaps)| gaps.into_iter().map(move |gap| (id.clone(), gap)))
}
