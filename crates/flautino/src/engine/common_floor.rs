//! What all new sessions must see, for a while: a migration, say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::session::Token;

#[derive(Debug, Default)]
pub(super) struct CommonFloor(ArcSwapOption<Floor>);

#[derive(Debug, Clone, Copy)]
struct Floor {
    /// The furthest position that is demanded, and the primary for a while. Neither makes up for the other: the
    /// while may be over already.
    tokens: [Option<Token>; 2],
    until: Instant,
}

impl CommonFloor {
    /// The tokens of all new sessions. It costs a few nanoseconds where there is none.
    pub(super) fn current(&self) -> impl Iterator<Item = Token> + use<> {
        let current = self.0.load();
        let floor = current.as_ref().map(|floor| **floor);
        let holds = floor.filter(|floor| Instant::now() < floor.until);
        if floor.is_some() && holds.is_none() {
            // Unless there is another one by now.
            self.0.compare_and_swap(&*current, None);
        }
        holds.into_iter().flat_map(|floor| floor.tokens).flatten()
    }

    /// From now on new sessions see what this token covers, and what those before it do, for this long.
    pub(super) fn observe(&self, token: Token, lasts: Duration) {
        let until = Instant::now() + lasts;
        self.0.rcu(|before| {
            let mut tokens = before.as_ref().map_or([None; 2], |floor| floor.tokens);
            let same = &mut tokens[usize::from(token.is_position())];
            *same = Some(same.map_or(token, |before| before.later(token)));
            Some(Arc::new(Floor { tokens, until }))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Lsn, Position};

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(lsn: u64) -> Token {
        Token::at(Position::new(1, 1, Lsn(lsn)))
    }

    fn current(floor: &CommonFloor) -> Vec<Token> {
        floor.current().collect()
    }

    #[test]
    fn the_furthest_token_counts_until_its_time_is_over() {
        let floor = CommonFloor::default();
        assert_eq!(current(&floor), []);
        floor.observe(at(7), MINUTE);
        floor.observe(at(5), MINUTE);
        assert_eq!(current(&floor), [at(7)]);
        floor.observe(at(9), Duration::ZERO);
        assert_eq!(current(&floor), []);
        floor.observe(at(3), MINUTE);
        assert_eq!(current(&floor), [at(3)]);
    }

    #[test]
    fn a_token_for_the_primary_takes_no_position_away_in_either_order() {
        let (long, short) = (Token::primary_for(MINUTE), Token::primary_for(Duration::ZERO));
        let floor = CommonFloor::default();
        floor.observe(at(7), MINUTE);
        floor.observe(long, MINUTE);
        floor.observe(short, MINUTE);
        assert_eq!(current(&floor), [long, at(7)]);
        floor.observe(at(9), MINUTE);
        assert_eq!(current(&floor), [long, at(9)]);
    }
}
