//! A link on which replies of `$cbs` or `$management` leave.

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::Sender;
use tokio::sync::mpsc;

use super::outlets::Reply;

/// Sends replies until the link ends. They are settled from the start.
pub(super) async fn serve(mut link: Sender, mut waiting: mpsc::Receiver<Reply>) {
    loop {
        let reply = tokio::select! {
            _ = link.on_detach() => break,
            reply = waiting.recv() => reply,
        };
        let Some(reply) = reply else { break };
        // `send_batchable` writes the transfer's last field, which pyamqp needs in order to read the others.
        if link.send_batchable(Sendable::builder().message(reply).settled(true).build()).await.is_err() {
            break;
        }
    }
    _ = link.close().await;
}
