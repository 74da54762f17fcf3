//! What all new sessions must see, for a while: a migration, say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::session::Token;

#[derive(Debug, Default)]
pub(super) struct CommonFloor(ArcSwapOption<Floor>);

#[derive(Debug)]
struct Floor {
    token: Token,
    until: Instant,
}

impl CommonFloor {
    /// The token of all new sessions. It costs a few nanoseconds where there is none.
    pub(super) fn current(&self) -> Option<Token> {
        let current = self.0.load();
        let floor = current.as_ref()?;
        if Instant::now() < floor.until {
            return Some(floor.token);
        }
        // Unless there is another one by now.
        self.0.compare_and_swap(&*current, None);
        None
    }

    /// From now on new sessions see what this token covers, and what those before it do, for this long.
    pub(super) fn observe(&self, token: Token, lasts: Duration) {
        let until = Instant::now() + lasts;
        self.0.rcu(|before| {
            let before = before.as_ref().map(|floor| floor.token);
            let token = before.map_or(token, |before| before.later(token));
            Some(Arc::new(Floor { token, until }))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Lsn, Position};

    fn at(lsn: u64) -> Token {
        Token::at(Position::new(1, 1, Lsn(lsn)))
    }

    #[test]
    fn the_furthest_token_counts_until_its_time_is_over() {
        let floor = CommonFloor::default();
        assert_eq!(floor.current(), None);
        floor.observe(at(7), Duration::from_secs(60));
        floor.observe(at(5), Duration::from_secs(60));
        assert_eq!(floor.current(), Some(at(7)));
        floor.observe(at(9), Duration::ZERO);
        assert_eq!(floor.current(), None);
        floor.observe(at(3), Duration::from_secs(60));
        assert_eq!(floor.current(), Some(at(3)));
    }
}
