//! What the handles of one request share: what its next read must see, and what became of its
//! statements.

mod timings;
mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::timings::Timing;
use self::timings::Timings;
use self::token::{Kind, unix_seconds};
pub use self::token::{ParseTokenError, Token};
use crate::router::{Consistency, Floor, Lsn, Position, Reason, Role, Snapshot};

/// How far a token may be ahead of what the primary said when it was probed last, and how much more for
/// each millisecond since. One that is further is forged, since no server writes so fast.
const MAX_AHEAD: u64 = 64 << 20;
const MAX_AHEAD_PER_MILLISECOND: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    timings: Timings,
}

#[derive(Debug, Default)]
struct State {
    /// The position that tokens and writes demand, and when it was demanded last.
    floor: Option<(Position, Instant)>,
    /// A token came that cannot be read, or that contradicts another one.
    unreadable: bool,
    /// Reads go to the primary until then, because a token said so or a position could not be had.
    primary_until: Option<Instant>,
    /// Until then the server may still carry out a write whose end was not seen. No position that is
    /// asked for now would cover it.
    unseen_until: Option<Instant>,
    /// How many writes are under way.
    writing: u32,
    /// A connection was handed out for good, so that writes on it are not seen.
    untracked: bool,
    /// When the latest write ended whose position is not known yet.
    wrote: Option<Instant>,
    /// Reads that later ones must not fall behind, whose positions are not known yet; at most one for
    /// each node.
    reads: Vec<UnplacedRead>,
    /// The client has no token yet for something that the session wrote or saw.
    owes_token: bool,
    served_by: Option<Arc<str>>,
}

/// A read whose position is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UnplacedRead {
    /// The incarnation of its node.
    incarnation: u64,
    ended: Instant,
}

impl UnplacedRead {
    /// The number of its node, if that is still the same incarnation.
    fn number(&self, snapshot: &Snapshot) -> Option<usize> {
        snapshot.nodes.iter().position(|node| node.incarnation == self.incarnation)
    }
}

/// What [`Session::token`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// The session must see nothing in particular.
    None,
    /// This token covers all that the session must see.
    Ready(Token),
    /// The primary's position, asked for after this moment, will cover it.
    AskPrimary(Instant),
    /// The position of the node of this number, asked for after this moment, will cover it.
    AskNode(usize, Instant),
}

/// A write of the session that is under way. The session reads from the primary until this is dropped,
/// and after that until a position is known that covers the write.
#[derive(Debug)]
pub(crate) struct SessionWrite {
    session: Arc<Session>,
    /// How long the session is to read from the primary if the end of the write is not seen.
    window: Duration,
    ended: bool,
}

impl SessionWrite {
    /// Its end was seen, well or not.
    pub(crate) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for SessionWrite {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        // Read under the lock, so that of two writes that end together the later one counts.
        let now = Instant::now();
        state.writing -= 1;
        state.wrote = Some(now);
        state.owes_token = true;
        if !self.ended {
            // The server may still carry it out, or not at all.
            state.ask_primary_until(now + self.window);
            state.unseen_until = state.unseen_until.max(Some(now + self.window));
        }
    }
}

impl Session {
    /// Records from now on where its statements go.
    pub(crate) fn record(&self) {
        self.timings.record();
    }

    /// Takes over what another session must see.
    pub(crate) fn observe(&self, token: Token, max_window: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match token.kind() {
            Kind::At(position) => {
                let before = state.floor.map(|(floor, _)| floor);
                let floor = before.map_or(position, |floor| floor.later(position));
                state.floor = Some((floor, now));
                if before.is_some_and(|before| before.system != position.system) {
                    // One of the two is another app's, and nothing says which.
                    state.unreadable = true;
                }
            }
            Kind::PrimaryUntil(until) => {
                // Clocks differ and tokens may be forged, so it counts for no longer than one made now.
                let left = Duration::from_secs(until.saturating_sub(unix_seconds()));
                state.ask_primary_until(now + left.min(max_window));
                // The client gets a token with a shorter time in its place.
                state.owes_token |= left > max_window * 2;
            }
        }
    }

    /// The client has no token for what the session must see.
    pub(crate) fn owe_token(&self) {
        self.state.lock().owes_token = true;
    }

    /// A token was there, and cannot be read.
    pub(crate) fn observe_unreadable(&self) {
        self.state.lock().unreadable = true;
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
        let mut state = self.state.lock();
        state.learn_positions(snapshot, now, window);
        if state.writing > 0 || state.untracked || state.wrote.is_some() {
            return Floor::Primary(Reason::OwnWrite);
        }
        state.owes_token |= state.unreadable;
        // While there is no primary the time does not run out: a replica of any age might serve then.
        if state.primary_until.is_some_and(|until| now < until || snapshot.primary.is_none()) {
            return Floor::Primary(Reason::TokenWindow);
        }
        let floor = state.floor.map(|(floor, _)| floor);
        if state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now)) {
            // The client gets a token that can be used in its place.
            state.owes_token = true;
            return Floor::Primary(Reason::ForeignToken);
        }
        match (&state.reads[..], level) {
            ([_, ..], Consistency::Session) => {}
            _ => return floor.map_or(Floor::None, Floor::At),
        }
        let number = match &state.reads[..] {
            [read] => {
                read.number(snapshot).filter(|number| snapshot.nodes[*number].role == Role::Replica)
            }
            _ => None,
        };
        // The primary is further than any of its replicas.
        number.map_or(Floor::Primary(Reason::SameNode), |number| Floor::SeenOn(number, floor))
    }

    /// Whether a token is of a later timeline than the primary's, so that there may have been a promotion
    /// that the monitor has not noticed yet.
    pub(crate) fn knows_of_a_promotion(&self, snapshot: &Snapshot) -> bool {
        let state = self.state.lock();
        snapshot
            .primary_position()
            .is_some_and(|(position, _)| state.knows_of_a_promotion_after(position))
    }

    /// A write is sent, or a connection is handed out on which it may be.
    pub(crate) fn write_begins(self: &Arc<Self>, window: Duration) -> SessionWrite {
        let mut state = self.state.lock();
        state.writing += 1;
        state.owes_token = true;
        drop(state);
        SessionWrite { session: Arc::clone(self), window, ended: false }
    }

    /// Keeps the session on the primary from now on, because its writes are not seen any more.
    pub(crate) fn lose_track(&self) {
        let mut state = self.state.lock();
        state.untracked = true;
        state.owes_token = true;
    }

    /// A read ended on the node of that incarnation, and later ones must not fall behind it.
    pub(crate) fn read_ended(&self, incarnation: u64) {
        let mut state = self.state.lock();
        state.reads.retain(|read| read.incarnation != incarnation);
        state.reads.push(UnplacedRead { incarnation, ended: Instant::now() });
        state.owes_token = true;
    }

    /// A statement ended, however.
    pub(crate) fn statement_ended(&self, timing: Timing) {
        self.state.lock().served_by = Some(Arc::clone(&timing.node));
        self.timings.push(timing);
    }

    pub(crate) fn served_by(&self) -> Option<Arc<str>> {
        self.state.lock().served_by.clone()
    }

    pub(crate) fn timings(&self) -> Vec<Timing> {
        self.timings.all()
    }

    /// Whether the client lacks a token for something.
    pub(crate) fn owes_token(&self) -> bool {
        self.state.lock().owes_token
    }

    /// What to hand on to the session's next request.
    pub(crate) fn token(&self, snapshot: &Snapshot, now: Instant, window: Duration) -> TokenState {
        let mut state = self.state.lock();
        state.learn_positions(snapshot, now, window);
        let floor = state.floor.map(|(floor, _)| floor);
        let unsettled = state.writing > 0 || state.untracked;
        let foreign =
            state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now));
        let changed = unsettled || foreign || state.wrote.is_some();
        let tells = snapshot.positions || (!changed && state.reads.is_empty());
        if !tells || state.may_be_written(now) {
            // This token covers all else too, so only what is not over yet needs another one.
            state.owes_token = unsettled;
            return TokenState::Ready(Token::primary_for(window));
        }
        let read = state.reads.iter().map(|read| read.ended).max();
        if changed {
            // The primary's position covers both what was written and what was read.
            let latest = state.wrote.max(read).unwrap_or(now);
            return TokenState::AskPrimary(if unsettled || foreign { now } else { latest });
        }
        let replica = match &state.reads[..] {
            [read] => read.number(snapshot).filter(|number| Some(*number) != snapshot.primary),
            _ => None,
        };
        match (replica, read) {
            (Some(number), Some(read)) => TokenState::AskNode(number, read),
            (None, Some(read)) => TokenState::AskPrimary(read),
            (_, None) => {
                state.owes_token = false;
                let until = state.primary_until.unwrap_or(now);
                match floor {
                    _ if until > now => TokenState::Ready(Token::primary_for(until - now)),
                    Some(floor) => TokenState::Ready(Token::at(floor)),
                    None => TokenState::None,
                }
            }
        }
    }

    /// Makes a token of the position that [`TokenState::AskPrimary`] or [`TokenState::AskNode`] asks for. It
    /// covers all that the session did up to the moment that the state names.
    pub(crate) fn token_at(
        &self,
        asked: TokenState,
        position: Position,
        window: Duration,
    ) -> Token {
        let mut state = self.state.lock();
        let mut token = None;
        let until = match asked {
            TokenState::AskPrimary(until) => {
                if state.knows_of_a_promotion_after(position) {
                    token = Some(Token::primary_for(window));
                }
                state.unreadable = false;
                state.wrote = state.wrote.filter(|wrote| *wrote > until);
                state.is_covered_by_primary(position, until, window);
                until
            }
            TokenState::AskNode(_, until) => {
                state.raise_to(position);
                until
            }
            TokenState::None | TokenState::Ready(_) => return Token::at(position),
        };
        // A replica is asked only if the session read from no other node.
        state.reads.retain(|read| read.ended > until);
        state.owes_token = state.writing > 0
            || state.untracked
            || state.wrote.is_some()
            || !state.reads.is_empty();
        if state.may_be_written(Instant::now()) {
            token = Some(Token::primary_for(window));
        }
        let floor = state.floor.map_or(position, |(floor, _)| floor);
        token.unwrap_or_else(|| Token::at(floor))
    }
}

impl State {
    fn ask_primary_until(&mut self, until: Instant) {
        self.primary_until = Some(self.primary_until.map_or(until, |other| other.max(until)));
    }

    /// Whether the server may still carry out a write whose end was not seen.
    fn may_be_written(&self, now: Instant) -> bool {
        self.unseen_until.is_some_and(|until| now < until)
    }

    /// Raises the floor by what the session wrote and read, as far as the snapshot has positions for it.
    fn learn_positions(&mut self, snapshot: &Snapshot, now: Instant, window: Duration) {
        if let (Some(wrote), false) = (self.wrote, snapshot.positions) {
            self.wrote = Some(wrote).filter(|wrote| now.saturating_duration_since(*wrote) < window);
        }
        if let Some(wrote) = self.wrote
            && let Some((position, as_of)) = snapshot.primary_position()
            && as_of > wrote
        {
            self.is_covered_by_primary(position, as_of, window);
            self.wrote = None;
        }
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain(|read| {
            let Some(number) = read.number(snapshot) else { return true };
            match snapshot.nodes[number].position {
                Some((position, Some(as_of))) if as_of > read.ended => {
                    self.raise_to(position);
                    false
                }
                _ => true,
            }
        });
        self.reads = reads;
    }

    /// Raises the floor, so that it covers this position too.
    fn raise_to(&mut self, position: Position) {
        self.floor = Some(match self.floor {
            Some((floor, since)) if floor.later(position) == floor => (floor, since),
            _ => (position, Instant::now()),
        });
    }

    /// Whether the floor is of a later timeline than the primary's position: there was a promotion that
    /// was not noticed yet, or one that was given up, or the floor is forged.
    fn knows_of_a_promotion_after(&self, position: Position) -> bool {
        self.floor.is_some_and(|(floor, _)| {
            floor.system == position.system && floor.timeline > position.timeline
        })
    }

    /// The primary was asked at `as_of` and is at this position. That covers whatever a client can have
    /// seen until then. So the position becomes the floor; a floor beyond it is forged, unless it was
    /// demanded after the question.
    fn is_covered_by_primary(&mut self, position: Position, as_of: Instant, window: Duration) {
        let now = Instant::now();
        if self.knows_of_a_promotion_after(position) {
            // Until the monitor has noticed it.
            self.ask_primary_until(now + window);
        }
        let stays = self.floor.is_some_and(|(floor, since)| {
            floor.reaches(position) && floor != position && since >= as_of
        });
        if !stays {
            self.floor = Some((position, now));
        }
    }
}

/// Whether the floor is of another system or timeline than the primary, or impossibly far.
fn is_foreign(floor: Position, snapshot: &Snapshot, now: Instant) -> bool {
    snapshot.primary_position().is_some_and(|(primary, as_of)| {
        let age = now.saturating_duration_since(as_of).as_millis();
        let written =
            u64::try_from(age).unwrap_or(u64::MAX).saturating_mul(MAX_AHEAD_PER_MILLISECOND);
        !primary.reaches(Position { lsn: Lsn(0), ..floor })
            || floor.lsn.0.saturating_sub(primary.lsn.0) > MAX_AHEAD.saturating_add(written)
    })
}

#[cfg(test)]
mod tests;
