//! A WebSocket as a plain byte stream: what is written travels in binary messages, what arrives in them is read.
//!
//! Works for both ends. Knows neither HTTP upgrades nor what the bytes mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Largest message taken from the peer: a few AMQP frames of 64 KiB in one, with much room to spare.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes put into one message, so that a large write cannot grow the send buffer without bound.
const MAX_CHUNK_BYTES: usize = 64 * 1024;
/// Per connection and direction; the crate's 128 KiB would be 250 MiB at a thousand connections.
const BUFFER_BYTES: usize = 16 * 1024;

/// Bytes over the binary messages of a WebSocket.
///
/// The peer's close message reads as the end of the stream. `shutdown` sends ours.
/// As with any buffered stream, written bytes leave for sure only with `flush`.
#[derive(Debug)]
pub struct WebSocketBytes<S> {
    socket: WebSocketStream<S>,
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketBytes<S> {
    /// Wraps a socket whose HTTP upgrade is done. The socket should have been made with [`limits`].
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, unread: Bytes::new() }
    }

    /// Wraps a raw stream behind a finished HTTP upgrade, as the end that accepted it.
    pub async fn server(stream: S) -> Self {
        Self::new(WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits())).await)
    }
}

/// The limits that both ends set on their WebSocket: message size and buffers.
pub fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketBytes<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                // A pong goes out by itself with the next read or flush; an empty message carries no bytes.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    let text = "the peer sent a text message; only binary ones carry bytes";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
            }
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketBytes<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(Pin::new(&mut this.socket).poll_ready(cx)).map_err(as_io)?;
        let count = buf.len().min(MAX_CHUNK_BYTES);
        let message = Message::Binary(Bytes::copy_from_slice(&buf[..count]));
        Pin::new(&mut this.socket).start_send(message).map_err(as_io)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(as_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.get_mut().socket).poll_close(cx)) {
            Ok(()) | Err(Error::AlreadyClosed | Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(as_io(error))),
        }
    }
}

fn as_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    async fn client(stream: DuplexStream) -> WebSocketStream<DuplexStream> {
        WebSocketStream::from_raw_socket(stream, Role::Client, Some(limits())).await
    }

    #[tokio::test]
    async fn bytes_larger_than_any_buffer_arrive_unchanged_in_both_directions() {
        let (left, right) = duplex(1000);
        let mut server = WebSocketBytes::server(right).await;
        let mut client = WebSocketBytes::new(client(left).await);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let echo = tokio::spawn(async move {
            let mut buffer = vec![0; 777];
            loop {
                let count = server.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                server.write_all(&buffer[..count]).await.unwrap();
                server.flush().await.unwrap();
            }
        });
        let mut back = vec![0; sent.len()];
        let (mut read, mut write) = tokio::io::split(&mut client);
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
        };
        tokio::join!(send, async { _ = read.read_exact(&mut back).await.unwrap() });
        assert_eq!(back, sent);
        client.shutdown().await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn the_peers_close_is_the_end_of_the_stream_and_writing_after_it_fails() {
        let (left, right) = duplex(1000);
        let mut server = WebSocketBytes::server(right).await;
        let mut client = client(left).await;
        client.send(Message::Binary(Bytes::from_static(b"ab"))).await.unwrap();
        client.send(Message::Ping(Bytes::new())).await.unwrap();
        client.close(None).await.unwrap();
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"ab");
        server.write_all(b"c").await.unwrap_err();
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn text_and_oversized_messages_are_errors() {
        let (left, right) = duplex(1000);
        let mut server = WebSocketBytes::server(right).await;
        let mut client = client(left).await;
        client.send(Message::Text("ab".into())).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);

        let (left, right) = duplex(1000);
        let mut server = WebSocketBytes::server(right).await;
        let mut client = super::tests::client(left).await;
        let large = Message::Binary(vec![0; MAX_MESSAGE_BYTES + 1].into());
        let sending = tokio::spawn(async move {
            _ = client.send(large).await;
            client.next().await
        });
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(server);
        _ = sending.await.unwrap();
    }
}
