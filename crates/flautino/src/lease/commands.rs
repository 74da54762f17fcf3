//! Several commands in one message.

/// Commands for one message, with the text that is logged in their place.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) sql: String,
    pub(crate) log: String,
}

impl Commands {
    pub(crate) fn push(&mut self, sql: &str, log: &str) {
        for (text, command) in [(&mut self.sql, sql), (&mut self.log, log)] {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(command);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sql.is_empty()
    }
}
