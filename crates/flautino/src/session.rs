//! What the handles of one request share: what its next read must see, and what became of its
//! statements.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::handle::Timing;
use crate::node::Role;
use crate::router::{Consistency, Floor, Lsn, Position, Reason, Snapshot};
use crate::token::{Kind, Token, unix_seconds};

/// How many statements a session remembers, at the most.
const MOST_TIMINGS: usize = 8;

/// A token farther ahead of what the primary said at its latest probe, by this and by as much for
/// each millisecond since, is forged: no server writes so fast.
const FARTHEST_AHEAD: u64 = 64 << 20;
const FARTHEST_PER_MILLISECOND: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    timings: OnceLock<Mutex<Vec<Timing>>>,
}

#[derive(Debug, Default)]
struct State {
    /// What tokens and writes demand, and when that was last said.
    floor: Option<(Position, Instant)>,
    /// A token that cannot be meant was met.
    unreadable: bool,
    /// The primary is asked for until then.
    primary_until: Option<Instant>,
    /// Until then the server may do a write whose end was not seen: no position covers it.
    unseen_until: Option<Instant>,
    /// Writes under way.
    writing: u32,
    /// A connection was handed out for good, and whatever is done on it is not seen.
    untracked: bool,
    /// When the latest write ended whose position is not known yet.
    wrote: Option<Instant>,
    /// Where reads were run that later ones must not fall behind; a node once.
    reads: Vec<Seen>,
    /// The client has no token for something that the session wrote or saw.
    owes_token: bool,
    served_by: Option<Arc<str>>,
}

/// A read whose position is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which life of which node.
    incarnation: u64,
    ended: Instant,
}

impl Seen {
    /// The node's number, if it still lives that life.
    fn number(&self, snapshot: &Snapshot) -> Option<usize> {
        snapshot.nodes.iter().position(|node| node.incarnation == self.incarnation)
    }
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

/// A write under way: until it is dropped the session reads from the primary, and then until its
/// position is known.
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
        let mut state = self.session.lock();
        // Under the lock, so that it never goes back.
        let now = Instant::now();
        state.writing -= 1;
        state.wrote = Some(now);
        state.owes_token = true;
        if !self.ended {
            // The server may do it later, or not at all.
            state.ask_primary_until(now + self.window);
            state.unseen_until = state.unseen_until.max(Some(now + self.window));
        }
    }
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
        let now = Instant::now();
        let mut state = self.lock();
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
                // Clocks differ, and tokens may be forged: no longer than one made now.
                let left = Duration::from_secs(until.saturating_sub(unix_seconds()));
                state.ask_primary_until(now + left.min(longest_window));
                // The client gets the shorter one.
                state.owes_token |= left > longest_window * 2;
            }
        }
    }

    /// The client has no token for what the session must see.
    pub(crate) fn owe_token(&self) {
        self.lock().owes_token = true;
    }

    /// A token was there, and cannot be read.
    pub(crate) fn observe_unreadable(&self) {
        self.lock().unreadable = true;
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
        if state.writing > 0 || state.untracked || state.wrote.is_some() {
            return Floor::Primary(Reason::OwnWrite);
        }
        // Without a primary, a replica of any age might serve.
        state.owes_token |= state.unreadable;
        if state.primary_until.is_some_and(|until| now < until || snapshot.primary.is_none()) {
            return Floor::Primary(Reason::TokenWindow);
        }
        let floor = state.floor.map(|(floor, _)| floor);
        if state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now)) {
            // The response brings a better one.
            state.owes_token = true;
            return Floor::Primary(Reason::ForeignToken);
        }
        match (&state.reads[..], level) {
            ([_, ..], Consistency::Session) => {}
            _ => return floor.map_or(Floor::None, Floor::At),
        }
        let number = match &state.reads[..] {
            [seen] => {
                seen.number(snapshot).filter(|number| snapshot.nodes[*number].role == Role::Replica)
            }
            _ => None,
        };
        // The primary is further than any of its replicas.
        number.map_or(Floor::Primary(Reason::SameNode), |number| Floor::SeenOn(number, floor))
    }

    /// Whether a token came of a later timeline than the primary's: a promotion may not have been
    /// noticed here yet.
    pub(crate) fn knows_of_a_promotion(&self, snapshot: &Snapshot) -> bool {
        let state = self.lock();
        snapshot
            .primary_position()
            .is_some_and(|(position, _)| state.knows_of_a_promotion_after(position))
    }

    /// A write is sent, or a connection is handed out on which it may be.
    pub(crate) fn write_begins(self: &Arc<Self>, window: Duration) -> SessionWrite {
        let mut state = self.lock();
        state.writing += 1;
        state.owes_token = true;
        drop(state);
        SessionWrite { session: Arc::clone(self), window, ended: false }
    }

    /// From now on writes are not seen: the session stays with the primary.
    pub(crate) fn lose_track(&self) {
        let mut state = self.lock();
        state.untracked = true;
        state.owes_token = true;
    }

    /// A read whose state later ones must not fall behind ended, as far as it went.
    pub(crate) fn read_ended(&self, incarnation: u64) {
        let mut state = self.lock();
        state.reads.retain(|seen| seen.incarnation != incarnation);
        state.reads.push(Seen { incarnation, ended: Instant::now() });
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
        let floor = state.floor.map(|(floor, _)| floor);
        let unsettled = state.writing > 0 || state.untracked;
        let foreign =
            state.unreadable || floor.is_some_and(|floor| is_foreign(floor, snapshot, now));
        let changed = unsettled || foreign || state.wrote.is_some();
        let tells = snapshot.positions || (!changed && state.reads.is_empty());
        if !tells || state.may_be_written(now) {
            // From now on, since it stands for all else, too.
            state.owes_token = unsettled;
            return TokenState::Ready(Token::primary_for(window));
        }
        let read = state.reads.iter().map(|seen| seen.ended).max();
        if changed {
            // One position for all of it.
            let latest = state.wrote.max(read).unwrap_or(now);
            return TokenState::Ask(if unsettled || foreign { now } else { latest });
        }
        let seen = match &state.reads[..] {
            [seen] => seen.number(snapshot).filter(|number| Some(*number) != snapshot.primary),
            _ => None,
        };
        match (seen, read) {
            (Some(number), Some(read)) => TokenState::AskNode(number, read),
            (None, Some(read)) => TokenState::Ask(read),
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

    /// The answer to [`TokenState::Ask`] (the primary's position) or [`TokenState::AskNode`], taken
    /// after the moment it names; so it covers all that the session did until then.
    pub(crate) fn answer(&self, asked: TokenState, position: Position, window: Duration) -> Token {
        let mut state = self.lock();
        let mut token = None;
        let until = match asked {
            TokenState::Ask(until) => {
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
        // A single node was asked only where it was the only one read from.
        state.reads.retain(|seen| seen.ended > until);
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

    /// Whether the server may still do a write whose end was not seen.
    fn may_be_written(&self, now: Instant) -> bool {
        self.unseen_until.is_some_and(|until| now < until)
    }

    /// Takes over what the monitor has learnt since: positions for what was written and seen.
    fn settle(&mut self, snapshot: &Snapshot, now: Instant, window: Duration) {
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
        reads.retain(|seen| {
            let Some(number) = seen.number(snapshot) else { return true };
            match snapshot.nodes[number].position {
                Some((position, Some(as_of))) if as_of > seen.ended => {
                    self.raise_to(position);
                    false
                }
                _ => true,
            }
        });
        self.reads = reads;
    }

    /// The session must see this position, too.
    fn raise_to(&mut self, position: Position) {
        self.floor = Some(match self.floor {
            Some((floor, since)) if floor.later(position) == floor => (floor, since),
            _ => (position, Instant::now()),
        });
    }

    /// The floor is of a later timeline than the primary's position: there was a promotion that
    /// was not noticed here yet, or one that was given up, or the floor is forged.
    fn knows_of_a_promotion_after(&self, position: Position) -> bool {
        self.floor.is_some_and(|(floor, _)| {
            floor.system == position.system && floor.timeline > position.timeline
        })
    }

    /// The primary has said where it is, asked at `as_of`. That covers whatever a client can have
    /// seen till then, so a floor beyond it is forged, unless it was brought later.
    fn is_covered_by_primary(&mut self, position: Position, as_of: Instant, window: Duration) {
        let now = Instant::now();
        if self.knows_of_a_promotion_after(position) {
            // Time to notice it.
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
            u64::try_from(age).unwrap_or(u64::MAX).saturating_mul(FARTHEST_PER_MILLISECOND);
        !primary.reaches(Position { lsn: Lsn(0), ..floor })
            || floor.lsn.0.saturating_sub(primary.lsn.0) > FARTHEST_AHEAD.saturating_add(written)
    })
}

#[cfg(test)]
mod tests;
