//! An error answer as `application/problem+json` (RFC 9457). Knows no route.

use std::borrow::Cow;

use serde::Serialize;
use warp::http::header::{CONTENT_TYPE, HeaderName};
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;

/// The Things Stack keeps the first 1,024 bytes of a refusal in its `as.webhook.fail` event: with this
/// much detail the whole body fits, also when a third of it needs escaping.
const MAX_DETAIL_BYTES: usize = 600;

/// What went wrong, and what to do about it. Holds no secret and no payload.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    /// `code` is stable, for machines: the type becomes `urn:tti-connector:problem:<code>`. `detail` says
    /// what to do; it is cut to 600 bytes.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new() }
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("urn:tti-connector:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: cut(&self.detail),
        };
        let json = serde_json::to_vec(&body).expect("strings and a number always serialise");
        let mut response = Response::new(json.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

fn cut(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(MAX_DETAIL_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let long = "é".repeat(MAX_DETAIL_BYTES);
        assert_eq!(cut(&long).len(), MAX_DETAIL_BYTES);
        assert_eq!(cut(&format!("x{long}")).len(), MAX_DETAIL_BYTES - 1);
        assert_eq!(cut("short"), "short");
    }
}
