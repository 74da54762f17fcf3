//! What a text is about, without its values and in few words: `INSERT orders SELECT carts`.

use super::lexer::{Token, Tokens};

/// How many bytes a summary may have, as OpenTelemetry has it.
const MAX_LENGTH: usize = 255;

/// Commands that are told wherever they stand.
const COMMANDS: &[&str] = &["select", "insert", "update", "delete", "merge", "values"];
/// What is named behind one of these is told.
const BEFORE_NAMES: &[&str] = &["from", "join", "into", "update", "table", "call", "using"];
/// Words that may stand between.
const BETWEEN: &[&str] = &["only", "lateral", "if", "not", "exists"];

/// The commands of a text and the names of what they are about, after OpenTelemetry's "Generating a summary
/// of the query": `SELECT notes`. It depends on the words alone, so that one text has one summary.
pub(crate) fn summary(sql: &str) -> String {
    let mut summary = String::new();
    let mut before = Token::Symbol(b';');
    let mut tokens = Tokens::of(sql).peekable();
    while let Some((token, place)) = tokens.next() {
        let is_first = before == Token::Symbol(b';');
        // `FOR UPDATE`, `DO UPDATE`, `IS DISTINCT FROM` begin and name nothing.
        let is_part = before.is_any(&["for", "do", "no", "on", "distinct"]);
        let is_command =
            token.is_any(COMMANDS) || (is_first && token.is_name() && !token.is("with"));
        if is_command && !is_part {
            add(&mut summary, &sql[place.clone()].to_ascii_uppercase());
        }
        if is_first && token == Token::Symbol(b';') {
            continue;
        }
        before = token;
        if is_part || !token.is_any(BEFORE_NAMES) {
            continue;
        }
        while tokens.next_if(|(next, _)| next.is_any(BETWEEN)).is_some() {}
        let Some((_, mut named)) =
            tokens.next_if(|(next, _)| next.is_name() && !next.is_any(COMMANDS))
        else {
            continue;
        };
        // Its schema before it.
        while tokens.next_if(|(next, _)| *next == Token::Symbol(b'.')).is_some() {
            if let Some((_, place)) = tokens.next_if(|(next, _)| next.is_name()) {
                named.end = place.end;
            }
        }
        add(&mut summary, &sql[named]);
        before = Token::Symbol(b'.');
    }
    summary
}

fn add(summary: &mut String, word: &str) {
    let space = if summary.is_empty() { "" } else { " " };
    if summary.len() + space.len() + word.len() <= MAX_LENGTH {
        summary.push_str(space);
        summary.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_names_are_told_and_no_values() {
        for (sql, told) in [
            ("SELECT id, title FROM notes WHERE id = $1", "SELECT notes"),
            (
                "select * from a.\"B c\" join only d on true where e = 'from secret'",
                "SELECT a.\"B c\" d",
            ),
            ("INSERT INTO orders SELECT * FROM carts FOR UPDATE", "INSERT orders SELECT carts"),
            ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2", "INSERT t VALUES"),
            ("UPDATE notes SET title = 'x' WHERE a IS DISTINCT FROM b", "UPDATE notes"),
            ("WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone", "DELETE a SELECT gone"),
            ("CREATE TABLE IF NOT EXISTS notes (id int)", "CREATE notes"),
            ("SELECT 1; -- nothing\n SELECT 2 FROM b;", "SELECT SELECT b"),
            ("CALL tidy(17)", "CALL tidy"),
            ("SET search_path TO secret", "SET"),
            ("VALUES (1)", "VALUES"),
            ("", ""),
        ] {
            assert_eq!(summary(sql), told, "{sql}");
        }
        let many = (0..200).map(|n| format!("a_long_name_{n}")).collect::<Vec<_>>().join(" JOIN ");
        assert!(summary(&format!("SELECT * FROM {many}")).len() <= MAX_LENGTH);
    }
}
