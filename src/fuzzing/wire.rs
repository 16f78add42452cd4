//! Cuts AMQP streams into frames, and spoils frames on their way as an input says. Knows no performative.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::sleep;

/// A protocol header, or a frame's size, offset, type and channel.
const HEADER_BYTES: usize = 8;
/// Longer frames are passed on in pieces.
const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Edits of one input at most.
const MAX_EDITS: usize = 64;
/// Pauses are of this length; with a few of them every patience ends.
const PAUSE: Duration = Duration::from_secs(7);

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToEmulator,
    ToHubClient,
}

/// What happens to one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    way: Way,
    frame: usize,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// These bytes stand there instead, from this place on.
    Overwrite(usize, Vec<u8>),
    /// The same, and the frame's size is put right for what it then ends with.
    Replace(usize, Vec<u8>),
    Drop,
    Double,
    /// These bytes come before it.
    Insert(Vec<u8>),
    /// A well-formed frame of channel and these bytes comes before it.
    InsertFrame(u8, Vec<u8>),
    Delay,
    /// The stream ends here.
    Cut,
}

/// Reads edits: way and kind (1 byte), frame (1), place (1), length (1), so many bytes.
pub(super) fn edits(mut data: &[u8]) -> Vec<Edit> {
    let mut edits = Vec::new();
    while let ([head, frame, place, length, rest @ ..], true) = (data, edits.len() < MAX_EDITS) {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let (place, bytes) = (usize::from(*place), bytes.to_vec());
        let what = match head >> 1 & 7 {
            0 => What::Overwrite(place, bytes),
            1 => What::Replace(place, bytes),
            2 => What::Drop,
            3 => What::Double,
            4 => What::Insert(bytes),
            5 => What::InsertFrame(head >> 4, bytes),
            6 => What::Delay,
            _ => What::Cut,
        };
        let way = if head & 1 == 0 { Way::ToEmulator } else { Way::ToHubClient };
        edits.push(Edit { way, frame: usize::from(*frame), what });
    }
    edits
}

/// A frame with the size that its bytes have.
pub(super) fn framed(channel: u8, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    [&size.to_be_bytes()[..], &[2, 0, 0, channel], body].concat()
}

/// Passes frames on until either side ends, spoiling them; `seen` gets each as it came.
pub(super) async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    edits: Vec<Edit>,
    mut seen: impl FnMut(Way, &[u8]),
) {
    for number in 0.. {
        let Some(mut frame) = next(&mut from).await else { break };
        seen(way, &frame);
        let mut before = Vec::new();
        let mut times = 1;
        for edit in edits.iter().filter(|edit| edit.way == way && edit.frame == number) {
            match &edit.what {
                What::Overwrite(place, bytes) => overwrite(&mut frame, *place, bytes),
                What::Replace(place, bytes) => {
                    let body = frame.get(HEADER_BYTES..).unwrap_or_default();
                    let body = [&body[..(*place).min(body.len())], bytes].concat();
                    frame = framed(frame.last_chunk::<1>().map_or(0, |_| frame[7]), &body);
                }
                What::Drop => times = 0,
                What::Double => times += 1,
                What::Insert(bytes) => before.extend_from_slice(bytes),
                What::InsertFrame(channel, body) => before.extend(framed(*channel, body)),
                What::Delay => sleep(PAUSE).await,
                What::Cut => return,
            }
        }
        if to.write_all(&before).await.is_err() {
            break;
        }
        for _ in 0..times {
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
    _ = to.shutdown().await;
}

fn overwrite(frame: &mut [u8], place: usize, bytes: &[u8]) {
    for (old, new) in frame.iter_mut().skip(place).zip(bytes) {
        *old = *new;
    }
}

/// The next header or frame.
async fn next(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    from.read_exact(&mut frame).await.ok()?;
    let size = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if !frame.starts_with(b"AMQP") {
        frame.resize(size.clamp(HEADER_BYTES, MAX_FRAME_BYTES), 0);
        from.read_exact(&mut frame[HEADER_BYTES..]).await.ok()?;
    }
    Some(frame)
}
