//! A request's body that remembers whether it was read to its end. Knows no message.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Progress;

/// The body of one request, as the network gives it. It has no limit of its own.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    progress: Progress,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, progress: Progress) -> Self {
        Self { incoming, progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.incoming.is_end_stream() {
            self.progress.left_unread();
        }
    }
}
