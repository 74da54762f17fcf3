//! What the handles of one request share: what its next read must see, and what became of its
//! statements.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::handle::Timing;
use crate::router::{Consistency, Floor, Lsn, Position, Reason, Snapshot};
use crate::token::{Kind, Token, unix_seconds};

/// How many statements a session remembers, at the most.
const MOST_TIMINGS: usize = 8;

/// A token so far ahead of what the primary said at its latest probe is forged: no server writes
/// so much in between.
const FARTHEST_AHEAD: u64 = 4 << 30;

#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    timings: OnceLock<Mutex<Vec<Timing>>>,
}

#[derive(Debug, Default)]
struct State {
    /// What tokens and writes demand.
    floor: Option<Position>,
    /// A token that says nothing usable was met.
    unreadable: bool,
    /// A token that asks for the primary was met, for so long.
    primary_until: Option<Instant>,
    /// The end, or else the beginning, of the latest write whose position is not known yet.
    wrote: Option<Instant>,
    /// The client has no token for something that the session wrote or saw.
    owes_token: bool,
    /// The node that the latest read was run on, and when that ended.
    read: Option<(usize, Instant)>,
    served_by: Option<Arc<str>>,
}

/// What [`Session::token`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// The session must see nothing in particular.
    None,
    /// This is all of it.
    Ready(Token),
    /// The primary is to be asked for its position, at a moment after this one.
    Ask(Instant),
    /// The node of this number is to be asked, at a moment after this one.
    AskNode(usize, Instant),
}

impl Session {
    /// Remembers from now on where its statements go.
    pub(crate) fn record(&self) {
        self.timings.get_or_init(Mutex::default);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what another session must see.
    pub(crate) fn observe(&self, token: Token, longest_window: Duration) {
        let mut state = self.lock();
        match token.kind() {
            Kind::At(position) => {
                state.floor = Some(state.floor.map_or(position, |floor| floor.later(position)));
            }
            Kind::PrimaryUntil(until) => {
                // Clocks differ, and tokens may be forged: no longer than one made now.
                let left = Duration::from_secs(until.saturating_sub(unix_seconds()));
                let until = Instant::now() + left.min(longest_window);
                state.primary_until =
                    Some(state.primary_until.map_or(until, |other| other.max(until)));
            }
        }
    }

    /// A token was there, and cannot be read.
    pub(crate) fn observe_unreadable(&self) {
        let mut state = self.lock();
        state.unreadable = true;
        state.owes_token = true;
    }

    /// What the next read must see.
    pub(crate) fn floor(
        &self,
        level: Consistency,
        snapshot: &Snapshot,
        now: Instant,
        window: Duration,
    ) -> Floor {
        match level {
            Consistency::Eventual => return Floor::None,
            Consistency::Strong => return Floor::Primary(Reason::Strong),
            Consistency::ReadYourWrites | Consistency::Session => {}
        }
        let mut state = self.lock();
        state.settle(snapshot, now, window);
        if state.wrote.is_some() {
            return Floor::Primary(Reason::OwnWrite);
        }
        if state.primary_until.is_some_and(|until| now < until) {
            return Floor::Primary(Reason::TokenWindow);
        }
        let implausible = state.floor.is_some_and(|floor| is_foreign(floor, snapshot));
        if state.unreadable || implausible {
            // The response brings a better one.
            state.owes_token = true;
            return Floor::Primary(Reason::ForeignToken);
        }
        match state.read {
            Some(_) if level != Consistency::Session => state.floor.map_or(Floor::None, Floor::At),
            Some((node, _)) if node == snapshot.writer => Floor::Primary(Reason::SameNode),
            Some((node, _)) => Floor::SeenOn(node, state.floor),
            None => state.floor.map_or(Floor::None, Floor::At),
        }
    }

    /// A write is sent, or ended, well or not.
    pub(crate) fn writes(&self) {
        let mut state = self.lock();
        state.wrote = Some(Instant::now());
        state.owes_token = true;
    }

    /// A read whose state later ones must not fall behind ended on that node.
    pub(crate) fn read_ended(&self, node: usize) {
        let mut state = self.lock();
        state.read = Some((node, Instant::now()));
        state.owes_token = true;
    }

    /// A statement ended, however.
    pub(crate) fn statement_ended(&self, timing: Timing) {
        self.lock().served_by = Some(Arc::clone(&timing.node));
        if let Some(timings) = self.timings.get() {
            let mut timings = timings.lock().unwrap_or_else(PoisonError::into_inner);
            if timings.len() < MOST_TIMINGS {
                timings.push(timing);
            }
        }
    }

    pub(crate) fn served_by(&self) -> Option<Arc<str>> {
        self.lock().served_by.clone()
    }

    pub(crate) fn timings(&self) -> Vec<Timing> {
        let Some(timings) = self.timings.get() else { return Vec::new() };
        timings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the client lacks a token for something.
    pub(crate) fn owes_token(&self) -> bool {
        self.lock().owes_token
    }

    /// What to hand on to the session's next request.
    pub(crate) fn token(&self, snapshot: &Snapshot, now: Instant, window: Duration) -> TokenState {
        let mut state = self.lock();
        state.settle(snapshot, now, window);
        let left = state
            .primary_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if !snapshot.positions
            && (state.wrote.is_some() || state.read.is_some() || state.unreadable)
        {
            state.owes_token = false;
            return TokenState::Ready(Token::primary_for(window));
        }
        let foreign = state.floor.is_some_and(|floor| is_foreign(floor, snapshot));
        match (state.wrote, state.read) {
            (Some(wrote), _) => TokenState::Ask(wrote),
            (None, _) if state.unreadable || foreign => TokenState::Ask(now),
            (None, Some((node, read))) if Some(node) == snapshot.primary => TokenState::Ask(read),
            (None, Some((node, read))) => TokenState::AskNode(node, read),
            (None, None) => {
                state.owes_token = false;
                match state.floor {
                    _ if !left.is_zero() => TokenState::Ready(Token::primary_for(left)),
                    Some(floor) => TokenState::Ready(Token::at(floor)),
                    None => TokenState::None,
                }
            }
        }
    }

    /// The answer to [`TokenState::Ask`] (the primary's position) or [`TokenState::AskNode`], taken
    /// after the moment it names; so it covers all that the session did until then.
    pub(crate) fn answer(&self, asked: TokenState, position: Position) -> Token {
        let mut state = self.lock();
        let (until, floor) = match asked {
            TokenState::Ask(until) => (until, state.covered_by_primary(position)),
            TokenState::AskNode(_, until) => {
                (until, state.floor.map_or(position, |floor| floor.later(position)))
            }
            TokenState::None | TokenState::Ready(_) => return Token::at(position),
        };
        state.floor = Some(floor);
        state.unreadable = false;
        state.wrote = state.wrote.filter(|wrote| *wrote > until);
        state.read = state.read.filter(|(_, read)| *read > until);
        state.owes_token = state.wrote.is_some() || state.read.is_some();
        Token::at(floor)
    }
}

impl State {
    /// Takes over what the monitor has learnt since: positions for what was written and seen.
    fn settle(&mut self, snapshot: &Snapshot, now: Instant, window: Duration) {
        if let (Some(wrote), false) = (self.wrote, snapshot.positions) {
            self.wrote = Some(wrote).filter(|wrote| now.saturating_duration_since(*wrote) < window);
        }
        if let Some(wrote) = self.wrote
            && let Some((position, as_of)) = snapshot.primary_position()
            && as_of > wrote
        {
            self.floor = Some(self.covered_by_primary(position));
            self.wrote = None;
        }
        if let Some((node, read)) = self.read
            && let Some((position, as_of)) = snapshot.nodes.get(node).and_then(|node| node.position)
            && as_of.is_some_and(|as_of| as_of > read)
        {
            self.floor = Some(self.floor.map_or(position, |floor| floor.later(position)));
            self.read = None;
        }
    }

    /// The primary's position covers whatever a client can have seen: a floor beyond it is forged.
    /// But one of a later timeline knows of a promotion that was not noticed here yet.
    fn covered_by_primary(&self, position: Position) -> Position {
        let later = |floor: &Position| {
            floor.system == position.system && floor.timeline > position.timeline
        };
        self.floor.filter(later).unwrap_or(position)
    }
}

/// Whether the floor is of another system or timeline than the primary, or impossibly far.
fn is_foreign(floor: Position, snapshot: &Snapshot) -> bool {
    snapshot.primary_position().is_some_and(|(primary, _)| {
        !primary.reaches(Position { lsn: Lsn(0), ..floor })
            || floor.lsn.0.saturating_sub(primary.lsn.0) > FARTHEST_AHEAD
    })
}
