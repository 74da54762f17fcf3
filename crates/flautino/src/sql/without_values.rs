//! A text without its values, to be shown to people.

use super::lexer::{Token, Tokens};

/// How many bytes of a text are shown.
const MAX_LENGTH: usize = 500;

/// The text with `?` for each constant, and one space for white space and comments.
pub(crate) fn without_values(sql: &str) -> String {
    let mut text = String::new();
    let mut end = 0;
    for (token, place) in Tokens::of(sql) {
        let is_value = matches!(token, Token::Literal | Token::Number);
        let before = text.trim_end_matches([',', ' ']);
        if is_value && before.ends_with('?') && before.len() < text.len() {
            // A list of constants is one, however long it is.
            text.truncate(before.len());
        } else {
            if place.start > end && !text.is_empty() {
                text.push(' ');
            }
            text.push_str(if is_value { "?" } else { &sql[place.clone()] });
        }
        end = place.end;
        // Where a constant with a backslash ends depends on a setting.
        let is_unsure = is_value && sql[place].contains('\\');
        if is_unsure || text.len() > MAX_LENGTH {
            let mut length = text.len().min(MAX_LENGTH);
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            text.truncate(length);
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_without_its_values() {
        for (sql, told) in [
            ("SELECT  1", "SELECT ?"),
            ("select a from b where c = 'secret' and d=$1", "select a from b where c = ? and d=$1"),
            ("SELECT -- a comment\n \"Name\" FROM t", "SELECT \"Name\" FROM t"),
            ("DELETE FROM t WHERE id IN (1, 2,3)", "DELETE FROM t WHERE id IN (?)"),
            (
                "INSERT INTO t VALUES ($tag$a secret$tag$, 2, now())",
                "INSERT INTO t VALUES (?, now())",
            ),
            ("SELECT 'a\\' OR 1 = 'secret'", "SELECT ?…"),
            ("SELECT E'a\\'secret' , b", "SELECT ?…"),
            ("INSERT INTO t VALUES ('a', 'b\\' secret ')", "INSERT INTO t VALUES (?…"),
            ("SELECT 'a secret that is not closed", "SELECT ?"),
        ] {
            assert_eq!(without_values(sql), told);
        }
        let long = format!("SELECT {}", "ä, ".repeat(1_000));
        let told = without_values(&long);
        assert!(told.len() <= MAX_LENGTH + '…'.len_utf8() && told.ends_with('…'), "{told}");
    }
}
