//! The uplinks that The Things Stack's Storage Integration keeps, a page at a time. Knows no gap and tries nothing twice.

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Response;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde::de::MapAccess;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::access::Access;
use super::answer::{self, Call};
use super::api::ApiError;
use super::application_up::{self, Details};
use super::client::{Client, MAX_ERROR_BYTES, after, bearer, collect, unusable};
use super::envelope::{Envelope, EnvelopeError};
use super::request;
use super::stored_lines::{Line, Lines};
use super::tolerant::{Scalar, skip};

/// Longest row, in bytes: as the longest body that the webhook takes by default.
const MAX_ROW_BYTES: usize = 1024 * 1024;
/// Rows of one page together, in bytes; the rest of a page is left for the next call.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Rows that can't be read in one page; with more it is no answer of the Storage Integration.
const MAX_BAD: usize = 10_000;
/// A page may take this many times as long as another answer: a database is searched for it.
const PATIENCE: u32 = 6;

/// Which stored uplinks are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredQuery<'a> {
    /// The application's id.
    pub application_id: &'a str,
    /// Only of this device.
    pub device_id: Option<&'a str>,
    /// Only those that the application server received later.
    pub after: Timestamp,
    /// Rows in one page at most.
    pub limit: u32,
}

/// Some stored uplinks, oldest first.
#[derive(Debug, Default)]
pub struct StoredPage {
    /// Each is a message as the webhook would have posted it.
    pub rows: Vec<Bytes>,
    /// Rows that are none, or too long; passed over.
    pub bad: usize,
}

/// A stored uplink, read as far as it takes to decide about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredUplink<'a> {
    /// Kind, device and frame.
    pub envelope: Envelope<'a>,
    /// `received_at`, the application server's time, by which the Storage Integration orders.
    pub received_at: Option<Timestamp>,
}

impl<'a> StoredUplink<'a> {
    /// Reads a row of [`StoredPage::rows`].
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn parse(row: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (envelope, More(received_at)) = application_up::read::<More>(row)?;
        Ok(Self { envelope, received_at })
    }
}

#[derive(Default)]
struct More(Option<Timestamp>);

impl<'de> Details<'de> for More {
    fn top_level<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "received_at" => {
                let text = map.next_value::<Scalar<'_>>()?.text_or_none();
                self.0 = text.and_then(|text| text.parse().ok());
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

impl Client {
    /// One page of stored uplinks, oldest first: `GET …/packages/storage/uplink_message`. A page may hold fewer rows
    /// than asked for although there are more; only an empty one, or one without a later row, is the end.
    ///
    /// The key needs `RIGHT_APPLICATION_TRAFFIC_READ`. Memory stays below some megabytes whatever is answered.
    ///
    /// # Errors
    /// See [`ApiError`]. 404 and 501 are `Refused`: the application has no Storage Integration.
    pub async fn stored_uplinks(
        &self,
        access: &Access,
        query: &StoredQuery<'_>,
    ) -> Result<StoredPage, ApiError> {
        let address = self.address(access)?;
        let path = address.stored_uplinks(query.application_id, query.device_id).map_err(unusable)?;
        let url = request::stored(&path, query);
        let inner = &self.0;
        let Ok(Ok(_permit)) = timeout(inner.request_timeout, inner.permits.acquire()).await else {
            let detail = "too many requests to The Things Stack are under way (`things_stack.max_in_flight`)";
            return Err(ApiError::NotNow { detail: detail.to_owned(), after: None });
        };
        let patience = inner.request_timeout * PATIENCE;
        let deadline = Instant::now() + patience;
        let request = inner.http.get(url).header(ACCEPT, "text/event-stream");
        let sent = request.header(reqwest::header::AUTHORIZATION, bearer(access)?).send();
        let mut response = match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(answer::unsent(&error)),
            Err(_) => {
                let detail = format!("The Things Stack did not answer within {patience:?}");
                return Err(ApiError::Unsure { detail });
            }
        };
        if !response.status().is_success() {
            return Err(refusal(response, deadline).await);
        }
        read(&mut response, deadline, query.limit).await
    }
}

async fn refusal(response: Response, deadline: Instant) -> ApiError {
    let (status, wait) = (response.status().as_u16(), after(response.headers()));
    let body = collect(response, MAX_ERROR_BYTES, deadline).await.unwrap_or_default();
    match (status, answer::read(Call::Read, status, wait, &body)) {
        (404 | 501, error) => ApiError::Refused {
            status: Some(status),
            detail: format!(
                "{error}; add the Storage Integration to the application in the console, or look at its id"
            ),
        },
        (_, error) => error,
    }
}

async fn read(response: &mut Response, deadline: Instant, limit: u32) -> Result<StoredPage, ApiError> {
    let (mut lines, mut gathered) = (Lines::new(MAX_ROW_BYTES), Gathered::default());
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    loop {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) => lines.push(&chunk, |line| gathered.take(line)),
            Ok(Ok(None)) => {
                lines.finish(|line| gathered.take(line));
                return gathered.into_page();
            }
            Ok(Err(error)) => {
                let detail = format!("The Things Stack's answer broke off: {}", answer::causes(error));
                return gathered.cut(detail);
            }
            Err(_) => {
                return gathered.cut("The Things Stack's answer did not arrive whole in time".to_owned());
            }
        }
        if gathered.is_full(limit) {
            return gathered.into_page();
        }
    }
}

/// A page out of an answer that came in pieces of this size. For the fuzz target.
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(super) fn page_of(answer: &[u8], piece: usize) -> Result<StoredPage, ApiError> {
    let (mut lines, mut gathered) = (Lines::new(MAX_ROW_BYTES), Gathered::default());
    answer.chunks(piece).for_each(|piece| lines.push(piece, |line| gathered.take(line)));
    lines.finish(|line| gathered.take(line));
    gathered.into_page()
}

#[derive(Default)]
struct Gathered {
    page: StoredPage,
    bytes: usize,
    error: Option<String>,
}

/// `{"result":{…}}`, or `{"error":{…}}` when the stream fails on its way.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Gathered {
    fn take(&mut self, line: Line) {
        let row = match &line {
            Line::TooLong => None,
            Line::Whole(line) => {
                // As an event stream has it; The Things Stack itself writes the row alone.
                let line = line.strip_prefix(b"data:").unwrap_or(line);
                serde_json::from_slice::<Row<'_>>(line).ok()
            }
        };
        match row {
            Some(Row { result: Some(result), .. }) if result.get().starts_with('{') => {
                self.bytes += result.get().len();
                self.page.rows.push(Bytes::copy_from_slice(result.get().as_bytes()));
            }
            Some(Row { error: Some(error), .. }) => {
                self.error.get_or_insert_with(|| answer::reason_of(error.get().as_bytes()));
            }
            Some(_) | None => self.page.bad += 1,
        }
    }

    fn is_full(&self, limit: usize) -> bool {
        self.bytes >= MAX_PAGE_BYTES
            || self.page.rows.len() >= limit
            || self.page.bad >= MAX_BAD
            || self.error.is_some()
    }

    fn into_page(mut self) -> Result<StoredPage, ApiError> {
        match self.error.take() {
            Some(why) => self.cut(format!("The Things Stack's list of stored uplinks ended with: {why}")),
            None => Ok(self.page),
        }
    }

    /// What came whole before the end is good; the next call goes on behind it.
    fn cut(self, detail: String) -> Result<StoredPage, ApiError> {
        if self.page.rows.is_empty() { Err(ApiError::Unsure { detail }) } else { Ok(self.page) }
    }
}
