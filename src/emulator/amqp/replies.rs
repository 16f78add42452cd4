//! A link on which replies of `$cbs` or `$management` leave.

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::Sender;
use tokio::sync::mpsc;

use super::lifelines::Lifeline;
use super::outlets::Reply;
use super::refusal::Refusal;

/// Sends replies until the link ends. They are settled from the start.
pub(super) async fn serve(mut link: Sender, mut waiting: mpsc::Receiver<Reply>, mut line: Option<Lifeline>) {
    loop {
        let reply = tokio::select! {
            _ = link.on_detach() => break,
            refusal = cut(&mut line) => {
                drop(waiting);
                _ = link.close_with_error(refusal.error()).await;
                return;
            }
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

/// Waits until a fault takes the link away; for ever, if none can.
pub(super) async fn cut(line: &mut Option<Lifeline>) -> Refusal {
    match line {
        Some(line) => line.cut().await,
        None => std::future::pending().await,
    }
}
