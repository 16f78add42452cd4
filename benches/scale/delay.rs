//! A TCP proxy that hands on what it reads a while later, each way: a longer round trip without the rights that the
//! kernel's own means need. Knows no protocol.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::arguments;

/// Chunks on their way in one direction of one connection; then it reads no more. 16 MiB at most.
const CHUNKS: usize = 256;
const CHUNK_BYTES: usize = 64 * 1024;

/// Prints its port, then serves until it is killed.
pub(crate) fn run(arguments: &arguments::Delay) {
    let (to, delay) = (arguments.to, Duration::from_millis(arguments.one_way_ms));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        println!("{}", listener.local_addr().expect("bound").port());
        loop {
            let (near, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                // The connect itself takes a round trip, too.
                tokio::time::sleep(2 * delay).await;
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.expect("the hub listens");
                for stream in [&near, &far] {
                    stream.set_nodelay(true).expect("a socket");
                }
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::join!(pass(near_in, far_out, delay), pass(far_in, near_out, delay));
            });
        }
    });
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if late.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
