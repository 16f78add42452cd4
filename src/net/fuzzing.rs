//! Fuzz targets: where AMQP frames end, which nobody should read, and what a proxy answers.

use futures_util::FutureExt as _;

use super::frame_bytes::{Boundaries, FrameKind, frame_kind};
use super::frame_guard::FrameGuard;
use super::proxy::Proxy;
use crate::model::fuzzing::head_and_body;

/// The same frames, however the bytes are cut; the first byte says how.
pub(crate) fn frames(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let at_once = seen(bytes, usize::MAX);
    let piece = usize::from(*cut).max(1);
    assert_eq!(seen(bytes, piece), at_once);
    assert_eq!(refused(bytes, piece), refused(bytes, usize::MAX));
    for (head, kind) in at_once.0 {
        assert!(head.len() <= 1024);
        assert!(!matches!(kind, FrameKind::Open(Some(idle)) if idle.is_zero()));
    }
}

fn seen(bytes: &[u8], size: usize) -> (Vec<(Vec<u8>, FrameKind)>, bool) {
    let (mut boundaries, mut frames) = (Boundaries::of_open(), Vec::new());
    for piece in bytes.chunks(size) {
        boundaries.feed(piece, |head| frames.push((head.to_vec(), frame_kind(head))));
    }
    (frames, boundaries.at_boundary())
}

/// What the guard says of them.
fn refused(bytes: &[u8], size: usize) -> Option<String> {
    let mut guard = FrameGuard::new((), 64 * 1024);
    bytes.chunks(size).find_map(|piece| guard.check(piece).err()).map(|error| error.to_string())
}

/// A tunnel is one only after a 2xx, and no error shows the password. The first line names the proxy, the second its
/// password; the rest is what it answers.
pub(crate) fn proxy(data: &[u8]) {
    let (lines, answer) = head_and_body(data);
    let [address, password, ..] = lines[..] else { return };
    _ = Proxy::parse(address).map_err(|error| assert!(error.to_string().len() < 300, "{error}"));
    let Ok(mut address) = url::Url::parse("http://user@localhost:3128") else { return };
    if address.set_password(Some(password)).is_err() {
        return;
    }
    let proxy = Proxy::parse(address.as_str()).expect("a good address");
    assert!(!format!("{proxy:?}").contains(password) || password.len() < 12);
    let mut stream = stream_of(answer);
    let asked = proxy.tunnel(&mut stream, "hub.example", 5671).now_or_never().expect("nothing to wait for");
    match asked {
        Ok(()) => assert!(answer.starts_with(b"HTTP/1.") && answer.windows(4).any(|end| end == b"\r\n\r\n")),
        Err(error) => assert!(error.to_string().chars().count() <= 300, "{error}"),
    }
}

/// Reads `answer` and swallows what is written.
fn stream_of(answer: &[u8]) -> tokio::io::Join<&[u8], tokio::io::Sink> {
    tokio::io::join(answer, tokio::io::sink())
}
