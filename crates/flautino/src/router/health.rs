//! Whether a node answers: a flip machine, observation in, transition out.

/// One attempt to reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observation {
    Answered,
    /// Nothing listens there: one is enough.
    Refused,
    /// No answer in time, a lost connection, an error.
    Failed,
}

/// What an observation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    WentUp,
    WentDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It never answered, nor was it found down.
    Unknown,
    Up,
    Down,
}

/// The state of one node, and how many observations speak against it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    state: State,
    contrary: u32,
    /// Something spoke against it that does not count.
    doubted: bool,
    /// Failures that turn it down.
    fall: u32,
    /// Answers that turn it up again.
    rise: u32,
}

impl Health {
    pub(crate) fn new(fall: u32, rise: u32) -> Self {
        Self { state: State::Unknown, contrary: 0, doubted: false, fall, rise }
    }

    pub(crate) fn is_up(self) -> bool {
        self.state == State::Up
    }

    /// Whether it failed and was not yet turned down, or should be looked at again soon.
    pub(crate) fn is_suspect(self) -> bool {
        self.state != State::Down && (self.contrary > 0 || self.doubted)
    }

    /// It did not answer as it should, and yet it lives. Once it is looked at again at once, the next
    /// time not.
    pub(crate) fn doubt(&mut self) {
        self.doubted = !self.doubted;
    }

    /// It has no place for a probe, and so it lives.
    pub(crate) fn is_alive(&mut self) {
        self.doubted = false;
        if self.state == State::Up {
            self.contrary = 0;
        }
    }

    pub(crate) fn observe(&mut self, observation: Observation) -> Option<Transition> {
        self.doubted = false;
        // How many of this kind in a row flip the state; `None` where it agrees.
        let needed = match (self.state, observation) {
            (State::Up, Observation::Answered)
            | (State::Down, Observation::Refused | Observation::Failed) => None,
            (State::Up | State::Unknown, Observation::Refused)
            | (State::Unknown, Observation::Answered) => Some(1),
            (State::Up | State::Unknown, Observation::Failed) => Some(self.fall),
            (State::Down, Observation::Answered) => Some(self.rise),
        };
        self.contrary = if needed.is_some() { self.contrary + 1 } else { 0 };
        if needed.is_none_or(|needed| self.contrary < needed) {
            return None;
        }
        self.contrary = 0;
        let (state, transition) = match observation {
            Observation::Answered => (State::Up, Transition::WentUp),
            Observation::Refused | Observation::Failed => (State::Down, Transition::WentDown),
        };
        self.state = state;
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::Observation::{Answered, Failed, Refused};
    use super::Transition::{WentDown, WentUp};
    use super::*;

    fn run(observations: &[Observation]) -> Vec<Option<Transition>> {
        let mut health = Health::new(2, 2);
        observations.iter().map(|observation| health.observe(*observation)).collect()
    }

    #[test]
    fn one_failure_is_no_flip_but_a_refusal_is() {
        assert_eq!(run(&[Answered, Failed, Answered, Failed]), [Some(WentUp), None, None, None]);
        assert_eq!(
            run(&[Answered, Failed, Failed, Failed]),
            [Some(WentUp), None, Some(WentDown), None]
        );
        assert_eq!(run(&[Answered, Refused, Refused]), [Some(WentUp), Some(WentDown), None]);
    }

    #[test]
    fn the_first_answer_is_enough_and_a_return_is_not() {
        assert_eq!(run(&[Answered]), [Some(WentUp)]);
        assert_eq!(run(&[Refused, Answered, Answered]), [Some(WentDown), None, Some(WentUp)]);
        assert_eq!(
            run(&[Refused, Answered, Failed, Answered, Answered])[1..],
            [None, None, None, Some(WentUp)]
        );
        assert_eq!(run(&[Failed, Answered]), [None, Some(WentUp)]);
    }

    #[test]
    fn a_node_that_flaps_at_every_probe_stays_as_it_is() {
        let mut health = Health::new(2, 2);
        health.observe(Answered);
        for _ in 0..10 {
            assert_eq!(health.observe(Failed), None);
            assert_eq!(health.observe(Answered), None);
        }
        assert!(health.is_up());
    }
}
