//! The callers who wait for a connection, in the order in which they came.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::oneshot;

use super::managed::ManagedConnection;

/// What a caller gets: a connection, which is counted as in use already, or the error with which none
/// could be made.
pub(super) type Handed = Result<Box<ManagedConnection>, sqlx::Error>;

/// A caller's place: when it came, and a number that tells apart who came at the same instant.
pub(super) type Place = (Instant, u64);

#[derive(Default)]
pub(super) struct Queue {
    /// Sorted by their places.
    callers: VecDeque<(Place, oneshot::Sender<Handed>)>,
    next_number: u64,
}

impl Queue {
    /// Adds a caller who came at that time. One whose connection could not be used comes back to its
    /// former place.
    pub(super) fn join(&mut self, came: Instant) -> (Place, oneshot::Receiver<Handed>) {
        let (sender, receiver) = oneshot::channel();
        let place = (came, self.next_number);
        self.next_number += 1;
        // Mostly at the end.
        let later = self.callers.iter().rev().take_while(|(other, _)| *other > place).count();
        self.callers.insert(self.callers.len() - later, (place, sender));
        (place, receiver)
    }

    /// Takes a caller out who has got nothing.
    pub(super) fn leave(&mut self, place: Place) {
        if let Ok(number) = self.callers.binary_search_by_key(&place, |(place, _)| *place) {
            self.callers.remove(number);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.callers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// How many are served before this one.
    pub(super) fn ahead_of(&self, place: Place) -> usize {
        self.callers.partition_point(|(other, _)| *other < place)
    }

    /// When the first caller came.
    pub(super) fn first_came(&self) -> Option<Instant> {
        self.callers.front().map(|((came, _), _)| *came)
    }

    /// Hands something to the first caller. Gives it back if nobody waits.
    pub(super) fn hand(&mut self, mut handed: Handed) -> Result<(), Handed> {
        while let Some((_, caller)) = self.callers.pop_front() {
            match caller.send(handed) {
                Ok(()) => return Ok(()),
                // This one is about to leave.
                Err(unclaimed) => handed = unclaimed,
            }
        }
        Err(handed)
    }

    /// Takes everyone out.
    pub(super) fn take(&mut self) -> Self {
        Self { callers: std::mem::take(&mut self.callers), next_number: self.next_number }
    }

    /// Sends everyone away with the error that this makes.
    pub(super) fn dismiss(self, error: impl Fn() -> sqlx::Error) {
        for (_, caller) in self.callers {
            let _ = caller.send(Err(error()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn error(text: &str) -> Handed {
        Err(sqlx::Error::Protocol(text.to_owned()))
    }

    fn got(mut receiver: oneshot::Receiver<Handed>) -> Option<String> {
        receiver
            .try_recv()
            .ok()
            .map(|handed| handed.err().map_or_else(String::new, |err| err.to_string()))
    }

    #[test]
    fn who_came_first_is_served_first_and_one_who_comes_back_keeps_its_place() {
        let mut queue = Queue::default();
        let first = Instant::now();
        let [second, third] = [1, 2].map(|seconds| first + Duration::from_secs(seconds));
        let (place_of_second, second_caller) = queue.join(second);
        let (place_of_third, third_caller) = queue.join(third);
        let (place_of_another, another_third) = queue.join(third);
        let (place_of_first, first_caller) = queue.join(first);
        let places = [place_of_first, place_of_second, place_of_third, place_of_another];
        assert_eq!(places.map(|place| queue.ahead_of(place)), [0, 1, 2, 3]);
        assert_eq!(queue.first_came(), Some(first));

        for text in ["1", "2", "3", "4"] {
            assert!(queue.hand(error(text)).is_ok());
        }
        let callers = [first_caller, second_caller, third_caller, another_third];
        for (caller, text) in callers.into_iter().zip(["1", "2", "3", "4"]) {
            assert!(got(caller).unwrap().ends_with(text));
        }
        assert!(queue.is_empty() && queue.hand(error("5")).is_err());
    }

    #[test]
    fn nothing_is_handed_to_one_who_has_left_or_is_about_to() {
        let mut queue = Queue::default();
        let came = Instant::now();
        let [(left, _left), (_, leaving), (_, stays)] = [(); 3].map(|()| queue.join(came));
        queue.leave(left);
        // Whom it does not know any more, it leaves alone.
        queue.leave(left);
        drop(leaving);
        assert!(queue.hand(error("handed")).is_ok());
        assert!(got(stays).is_some());
        assert!(queue.is_empty());
    }

    #[test]
    fn all_who_wait_are_sent_away_and_later_ones_wait_again() {
        let mut queue = Queue::default();
        let came = Instant::now();
        let [(former, first), (_, second)] = [(); 2].map(|()| queue.join(came));
        let waiting = queue.take();
        let (_, third) = queue.join(came);
        waiting.dismiss(|| sqlx::Error::PoolClosed);
        assert!(got(first).is_some() && got(second).is_some());
        // Another one's place is not mistaken for that of one who was sent away.
        queue.leave(former);
        assert_eq!(queue.len(), 1);
        assert!(got(third).is_none());
    }
}
