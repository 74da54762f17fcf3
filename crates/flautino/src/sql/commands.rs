//! Where the commands of a text end.

use super::lexer::Token;

/// Follows a text token by token, and tells the semicolons that end a command from those in the body of
/// a `CREATE` (`BEGIN ATOMIC … END`).
#[derive(Debug, Default)]
pub(super) struct CommandEnds {
    /// Whether the command begins with `CREATE`; `None` before its first word.
    creates: Option<bool>,
    /// How many `BEGIN ATOMIC` and `CASE` are open.
    depth: u32,
    /// Whether the token before was `BEGIN`.
    follows_begin: bool,
}

impl CommandEnds {
    /// Takes in the next token. Returns whether it is a semicolon that ends a command.
    pub(super) fn is_end(&mut self, token: Token<'_>) -> bool {
        if token == Token::Symbol(b';') && self.depth == 0 {
            *self = Self::default();
            return true;
        }
        if matches!(token, Token::Word(_)) && *self.creates.get_or_insert(token.is("create")) {
            let opens = (token.is("atomic") && self.follows_begin)
                || (self.depth > 0 && token.is_any(&["begin", "case"]));
            if opens {
                self.depth += 1;
            } else if token.is("end") {
                self.depth = self.depth.saturating_sub(1);
            }
        }
        self.follows_begin = token.is("begin");
        false
    }
}
