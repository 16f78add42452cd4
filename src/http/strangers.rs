//! Connections that have not shown yet that they have business here, the oldest first. Knows no sockets.
//!
//! When all places are taken these give way to newcomers: whoever opens connections and says nothing, or nothing that
//! is answered with success, keeps nobody out.

use std::collections::VecDeque;

use tokio::task::AbortHandle;

use super::connection::Progress;

/// With fewer, nobody is looked for who is none any more. One that ended keeps its task's memory until then.
const LOOKED_THROUGH_AT: usize = 32;

/// Connections in the order they came; those that became welcome, or ended, drop out by and by.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    all: VecDeque<Stranger>,
    /// How many there were after the last look.
    left: usize,
}

#[derive(Debug)]
struct Stranger {
    progress: Progress,
    task: AbortHandle,
}

impl Strangers {
    /// A connection has come; `places` is how many there can be at once.
    pub(super) fn add(&mut self, progress: Progress, task: AbortHandle, places: usize) {
        let many = LOOKED_THROUGH_AT.min(places).max(self.left) * 2;
        if self.all.len() >= many {
            self.look_through();
        }
        self.all.push_back(Stranger { progress, task });
    }

    fn look_through(&mut self) {
        self.all.retain(Stranger::is_one);
        self.left = self.all.len();
    }

    /// Ends the oldest that waits for nothing of ours. False if there is none.
    pub(super) fn evict(&mut self) -> bool {
        self.look_through();
        let Some(at) = self.all.iter().position(|stranger| !stranger.progress.is_busy()) else {
            return false;
        };
        if let Some(stranger) = self.all.remove(at) {
            stranger.task.abort();
        }
        true
    }
}

impl Stranger {
    fn is_one(&self) -> bool {
        !self.progress.is_welcome() && !self.task.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_but_neither_the_welcome_nor_the_busy() {
        let mut strangers = Strangers::default();
        let mut tasks = Vec::new();
        for number in 0..4 {
            let (progress, task) = (Progress::default(), tokio::spawn(pending::<()>()));
            match number {
                0 => progress.welcome(),
                1 => progress.busy(),
                _ => {}
            }
            strangers.add(progress, task.abort_handle(), 4);
            tasks.push(task);
        }
        assert!(strangers.evict());
        assert!((&mut tasks[2]).await.unwrap_err().is_cancelled());
        assert!(strangers.evict());
        assert!((&mut tasks[3]).await.unwrap_err().is_cancelled());
        assert!(!strangers.evict());
        assert!(!tasks[0].is_finished() && !tasks[1].is_finished());
    }

    /// The most that are remembered while a thousand come and end at once.
    async fn most_remembered(places: usize) -> usize {
        let (mut strangers, mut most) = (Strangers::default(), 0);
        for _ in 0..1000 {
            let task = tokio::spawn(async {});
            let handle = task.abort_handle();
            task.await.unwrap();
            strangers.add(Progress::default(), handle, places);
            most = most.max(strangers.all.len());
        }
        most
    }

    #[tokio::test]
    async fn no_more_are_remembered_than_can_be() {
        assert!(most_remembered(4).await <= 8);
    }

    #[tokio::test]
    async fn those_that_ended_are_forgotten_long_before_all_places_are_taken() {
        assert!(most_remembered(1000).await <= LOOKED_THROUGH_AT * 2);
    }
}
