//! [`Session`]: what the handles of one request share. It knows what the session's next read must
//! see, makes the token for its next request, and records where its statements went.

mod repeats;
mod state;
mod timings;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::repeats::Repeats;
use self::state::{State, UncoveredRead, is_foreign};
pub use self::timings::Timing;
use self::timings::Timings;
use self::token::{Kind, unix_seconds};
pub use self::token::{ParseTokenError, Token};
use crate::router::{Consistency, Floor, Position, Reason, Role, Snapshot};

/// Shared by a handle, its clones and the handles made from it.
#[derive(Debug)]
pub(crate) struct Session {
    /// For how long it reads from the primary where no position can be learnt.
    window: Duration,
    state: Mutex<State>,
    timings: Timings,
    repeats: Repeats,
    /// How many leases are taken for the session and not given back.
    leases: AtomicU32,
}

/// What [`Session::token`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// There is nothing in particular that the session must see.
    None,
    /// This token covers all that the session must see.
    Ready(Token),
    /// A position that the primary is asked for after this moment covers all that the session must
    /// see.
    AskPrimary(Instant),
    /// A position that the node of this number is asked for after this moment covers all that the
    /// session must see.
    AskNode(usize, Instant),
}

/// A write of the session that is under way. The session reads from the primary until this is
/// dropped, and then until a position is known that covers the write.
#[derive(Debug)]
pub(crate) struct SessionWrite {
    session: Arc<Session>,
    /// Whether the end of the write was seen.
    ended: bool,
}

impl SessionWrite {
    /// Records that the end of the write was seen, whether it succeeded or failed.
    pub(crate) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for SessionWrite {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        // Read the clock under the lock: otherwise, of two writes that end together, the earlier
        // time could overwrite the later one.
        let now = Instant::now();
        state.writing -= 1;
        state.uncovered_write = Some(now);
        state.owes_token = true;
        if !self.ended {
            // The server may carry out the write later, or never.
            let until = now + self.session.window;
            state.read_from_primary_until(until);
            state.unseen_until = state.unseen_until.max(Some(until));
        }
    }
}

impl Session {
    /// A session that reads from the primary for `window` where no position can be learnt.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            state: Mutex::default(),
            timings: Timings::default(),
            repeats: Repeats::default(),
            leases: AtomicU32::new(0),
        }
    }

    /// Records where the session's statements go, from now on.
    pub(crate) fn record(&self) {
        self.timings.record();
    }

    /// Counts how often the session sends which statement, from now on.
    pub(crate) fn count_repeats(&self) {
        self.repeats.start();
    }

    /// A statement is about to be sent.
    pub(crate) fn statement_starts(&self, sql: &str) {
        self.repeats.count(sql);
    }

    /// The statement that was sent most often, if they are counted and that is more than so many times.
    pub(crate) fn repeated_above(&self, limit: u32) -> Option<(String, u32)> {
        self.repeats.above(limit)
    }

    /// A lease was taken for the session.
    pub(crate) fn lease_taken(&self) {
        self.leases.fetch_add(1, Ordering::Relaxed);
    }

    /// A lease that was taken for the session was given back.
    pub(crate) fn lease_returned(&self) {
        self.leases.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many leases the session has.
    pub(crate) fn leases(&self) -> u32 {
        self.leases.load(Ordering::Relaxed)
    }

    /// Makes the session see what the token's session must see.
    pub(crate) fn observe(&self, token: Token) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match token.kind() {
            Kind::At(position) => {
                let before = state.floor.map(|(floor, _)| floor);
                let floor = before.map_or(position, |floor| floor.later(position));
                state.floor = Some((floor, now));
                if before.is_some_and(|before| before.system != position.system) {
                    // One of the two tokens is of another app's database, and nothing shows which.
                    state.unreadable = true;
                }
            }
            Kind::PrimaryUntil(until) => {
                // Clocks differ and tokens may be forged, so the token counts no longer than one
                // that is made now.
                let left = Duration::from_secs(until.saturating_sub(unix_seconds()));
                state.read_from_primary_until(now + left.min(self.window));
                // Replace a token that would still be valid long after that.
                state.owes_token |= left > self.window * 2;
            }
        }
    }

    /// Records that the client has no token for what the session must see.
    pub(crate) fn owe_token(&self) {
        self.state.lock().owes_token = true;
    }

    /// Records that the client brought a token that cannot be read.
    pub(crate) fn observe_unreadable(&self) {
        self.state.lock().unreadable = true;
    }

    /// What the next read must see, at this level of consistency.
    pub(crate) fn floor(&self, level: Consistency, snapshot: &Snapshot, now: Instant) -> Floor {
        match level {
            Consistency::Eventual => return Floor::None,
            Consistency::Strong => return Floor::Primary(Reason::Strong),
            Consistency::ReadYourWrites | Consistency::Session => {}
        }
        let mut state = self.state.lock();
        state.learn_positions(snapshot, now, self.window);
        if state.writing > 0 || state.untracked || state.uncovered_write.is_some() {
            return Floor::Primary(Reason::OwnWrite);
        }
        state.owes_token |= state.unreadable;
        // While there is no primary this time does not run out: without a floor, a replica that
        // lacks the write might serve the read.
        if state.primary_until.is_some_and(|until| now < until || snapshot.primary.is_none()) {
            return Floor::Primary(Reason::TokenWindow);
        }
        let floor = state.floor.map(|(floor, _)| floor);
        if state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now)) {
            // Replace the client's token by one that can be used.
            state.owes_token = true;
            return Floor::Primary(Reason::ForeignToken);
        }
        match (&state.uncovered_reads[..], level) {
            ([_, ..], Consistency::Session) => {}
            _ => return floor.map_or(Floor::None, Floor::At),
        }
        let number = match &state.uncovered_reads[..] {
            [read] => {
                read.number(snapshot).filter(|number| snapshot.nodes[*number].role == Role::Replica)
            }
            _ => None,
        };
        // If no single replica served the reads, only the primary is sure to be ahead of them all.
        number.map_or(Floor::Primary(Reason::SameNode), |number| Floor::SeenOn(number, floor))
    }

    /// Whether a token is of a later timeline than the primary's: the monitor may not have noticed
    /// a promotion yet.
    pub(crate) fn knows_of_a_promotion(&self, snapshot: &Snapshot) -> bool {
        let state = self.state.lock();
        snapshot
            .primary_position()
            .is_some_and(|(position, _)| state.is_on_later_timeline_than(position))
    }

    /// Records that a write is about to be sent, or may be sent on a connection that is handed out.
    pub(crate) fn write_begins(self: &Arc<Self>) -> SessionWrite {
        let mut state = self.state.lock();
        state.writing += 1;
        state.owes_token = true;
        drop(state);
        SessionWrite { session: Arc::clone(self), ended: false }
    }

    /// Makes the session read from the primary from now on, because its writes are no longer seen.
    pub(crate) fn lose_track(&self) {
        let mut state = self.state.lock();
        state.untracked = true;
        state.owes_token = true;
    }

    /// Records that a read ended on the node of this incarnation, and that later reads must not
    /// fall behind it.
    pub(crate) fn read_ended(&self, incarnation: u64) {
        let mut state = self.state.lock();
        state.uncovered_reads.retain(|read| read.incarnation != incarnation);
        state.uncovered_reads.push(UncoveredRead { incarnation, ended: Instant::now() });
        state.owes_token = true;
    }

    /// Records that a statement ended, whether it succeeded, failed or was cancelled.
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

    /// Whether the session wrote or saw something that no token of the client covers.
    pub(crate) fn owes_token(&self) -> bool {
        self.state.lock().owes_token
    }

    /// The token for the session's next request, or whose position has to be asked for to make one.
    pub(crate) fn token(&self, snapshot: &Snapshot, now: Instant) -> TokenState {
        let mut state = self.state.lock();
        state.learn_positions(snapshot, now, self.window);
        let floor = state.floor.map(|(floor, _)| floor);
        let unsettled = state.writing > 0 || state.untracked;
        let foreign =
            state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now));
        let needs_primary = unsettled || foreign || state.uncovered_write.is_some();
        let needs_position = needs_primary || !state.uncovered_reads.is_empty();
        if (needs_position && !snapshot.positions) || state.has_unseen_write(now) {
            // This token covers everything but writes that have not ended yet.
            state.owes_token = unsettled;
            return TokenState::Ready(Token::primary_for(self.window));
        }
        let read = state.uncovered_reads.iter().map(|read| read.ended).max();
        if needs_primary {
            // The primary's position covers both the session's writes and its reads.
            let latest = state.uncovered_write.max(read).unwrap_or(now);
            return TokenState::AskPrimary(if unsettled || foreign { now } else { latest });
        }
        let replica = match &state.uncovered_reads[..] {
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

    /// Makes a token of the position that was asked for, as `asked` demanded. The token covers all
    /// that the session did up to the moment in `asked`.
    pub(crate) fn token_at(&self, asked: TokenState, position: Position) -> Token {
        let mut state = self.state.lock();
        let mut token = None;
        let until = match asked {
            TokenState::AskPrimary(until) => {
                if state.is_on_later_timeline_than(position) {
                    token = Some(Token::primary_for(self.window));
                }
                state.unreadable = false;
                state.uncovered_write = state.uncovered_write.filter(|wrote| *wrote > until);
                state.replace_by_primary(position, until, self.window);
                until
            }
            TokenState::AskNode(_, until) => {
                state.raise_to(position);
                until
            }
            TokenState::None | TokenState::Ready(_) => return Token::at(position),
        };
        // The position covers all these reads: a replica is asked only if it served all of them.
        state.uncovered_reads.retain(|read| read.ended > until);
        state.owes_token = state.writing > 0
            || state.untracked
            || state.uncovered_write.is_some()
            || !state.uncovered_reads.is_empty();
        if state.has_unseen_write(Instant::now()) {
            token = Some(Token::primary_for(self.window));
        }
        let floor = state.floor.map_or(position, |(floor, _)| floor);
        token.unwrap_or_else(|| Token::at(floor))
    }
}

#[cfg(test)]
mod tests;
