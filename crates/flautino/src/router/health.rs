//! Whether a node is up: counts the outcomes of its probes, and reports each transition.

/// The outcome of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observation {
    Answered,
    /// Nothing listens at the node's address, or the server is starting or stopping. One such
    /// outcome is enough to find the node down.
    Refused,
    /// No answer in time, a lost connection, or another error.
    Failed,
}

/// A change of state that an observation led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    WentUp,
    WentDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The node has neither answered yet nor been found down.
    Unknown,
    Up,
    Down,
}

/// The state of one node, and how many observations in a row contradict it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Health {
    state: State,
    /// How many of the latest observations contradict the state.
    contrary: u32,
    /// Whether the latest probe failed although the node answers statements. Such a failure does
    /// not count as contrary.
    doubted: bool,
    /// How many failures in a row make the node go down.
    failures_to_down: u32,
    /// How many answers in a row make a node that is down go up.
    answers_to_up: u32,
}

impl Health {
    pub(crate) fn new(failures_to_down: u32, answers_to_up: u32) -> Self {
        Self { state: State::Unknown, contrary: 0, doubted: false, failures_to_down, answers_to_up }
    }

    pub(crate) fn is_up(self) -> bool {
        self.state == State::Up
    }

    /// Whether the node should be probed again at once, because its latest probe failed and it is
    /// not down yet.
    pub(crate) fn is_suspect(self) -> bool {
        self.state != State::Down && (self.contrary > 0 || self.doubted)
    }

    /// Records that a probe failed although the node answers statements. After every other such
    /// failure in a row, beginning with the first, the node is probed again at once; not after
    /// each, so that a busy machine is not probed without a pause.
    pub(crate) fn doubt(&mut self) {
        self.doubted = !self.doubted;
    }

    /// Records that the server refused a probe because all its connections are in use, which shows
    /// that it is running.
    pub(crate) fn observe_full(&mut self) {
        self.doubted = false;
        if self.state == State::Up {
            self.contrary = 0;
        }
    }

    /// Records the outcome of a probe. Returns the transition, if this outcome leads to one.
    pub(crate) fn observe(&mut self, observation: Observation) -> Option<Transition> {
        self.doubted = false;
        // How many such observations in a row change the state; `None` if they agree with it.
        let needed = match (self.state, observation) {
            (State::Up, Observation::Answered)
            | (State::Down, Observation::Refused | Observation::Failed) => None,
            (State::Up | State::Unknown, Observation::Refused)
            | (State::Unknown, Observation::Answered) => Some(1),
            (State::Up | State::Unknown, Observation::Failed) => Some(self.failures_to_down),
            (State::Down, Observation::Answered) => Some(self.answers_to_up),
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
    fn a_node_goes_down_at_the_second_failure_or_the_first_refusal() {
        assert_eq!(run(&[Answered, Failed, Answered, Failed]), [Some(WentUp), None, None, None]);
        assert_eq!(
            run(&[Answered, Failed, Failed, Failed]),
            [Some(WentUp), None, Some(WentDown), None]
        );
        assert_eq!(run(&[Answered, Refused, Refused]), [Some(WentUp), Some(WentDown), None]);
    }

    #[test]
    fn a_new_node_goes_up_at_its_first_answer_and_one_that_was_down_at_the_second() {
        assert_eq!(run(&[Answered]), [Some(WentUp)]);
        assert_eq!(run(&[Refused, Answered, Answered]), [Some(WentDown), None, Some(WentUp)]);
        assert_eq!(
            run(&[Refused, Answered, Failed, Answered, Answered])[1..],
            [None, None, None, Some(WentUp)]
        );
        assert_eq!(run(&[Failed, Answered]), [None, Some(WentUp)]);
    }

    #[test]
    fn a_node_that_answers_every_other_probe_stays_up() {
        let mut health = Health::new(2, 2);
        health.observe(Answered);
        for _ in 0..10 {
            assert_eq!(health.observe(Failed), None);
            assert_eq!(health.observe(Answered), None);
        }
        assert!(health.is_up());
    }
}
