//! The names, with their kinds, units and descriptions.

use metrics::Unit;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Makes a constant of each name, and the function that describes them all to a recorder.
macro_rules! names {
    ($($constant:ident = $name:literal, $kind:ident in $unit:ident: $text:literal;)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $text, ".")]
            pub const $constant: &str = $name;
        )+

        /// Tells the recorder what each name means.
        pub(crate) fn describe() {
            $(describe_as(Kind::$kind, $name, Unit::$unit, $text);)+
        }

        /// All names.
        #[cfg(test)]
        pub(super) const ALL: &[&str] = &[$($name),+];
    };
}

names! {
    WAIT_TIME = "db.client.connection.wait_time", Histogram in Seconds: "The time it took to get a connection from the pool";
    USE_TIME = "db.client.connection.use_time", Histogram in Seconds: "The time from getting a connection to giving it back";
    CREATE_TIME = "db.client.connection.create_time", Histogram in Seconds: "The time it took to make a connection";
    CONNECTIONS = "db.client.connection.count", Gauge in Count: "Connections of the pool, by state";
    MAX_CONNECTIONS = "db.client.connection.max", Gauge in Count: "The most connections that the pool may have";
    PENDING_REQUESTS = "db.client.connection.pending_requests", Gauge in Count: "Callers who wait for a connection";
    TIMEOUTS = "db.client.connection.timeouts", Counter in Count: "Callers who got no connection in time, by the step in which they waited";
    OPERATION_DURATION = "db.client.operation.duration", Histogram in Seconds: "The time a statement took";
    STATEMENTS = "flautino.statements", Counter in Count: "Statements sent to the node, by the reason why they went there";
    EVENTS = "flautino.events", Counter in Count: "What happened to the node, by kind";
    NODE_FAILURES = "flautino.node.failures", Counter in Count: "Connections that could not be had, and statements that failed because of the server or the way to it";
    NODE_UP = "flautino.node.up", Gauge in Count: "Whether the node answers";
    NODE_PRIMARY = "flautino.node.primary", Gauge in Count: "Whether the node takes the writes";
    NODE_EXCLUDED = "flautino.node.excluded", Gauge in Count: "Whether the node answers and still serves no reads";
    NODE_LAG = "flautino.node.lag", Gauge in Seconds: "Upper bound for the age of what reads see on the node";
    NODE_LAG_SIZE = "flautino.node.lag.size", Gauge in Bytes: "How much of the primary's log the node has not replayed";
    NODE_IN_FLIGHT = "flautino.node.in_flight", Gauge in Count: "Statements, leases and transactions that have a connection or wait for one";
    NODE_PROBES = "flautino.node.probes", Counter in Count: "Probes of the node";
    TOKEN_QUESTIONS = "flautino.token.questions", Counter in Count: "How often the node was asked for a position that a token needed";
    TOKENS_UNREADABLE = "flautino.token.unreadable", Counter in Count: "Tokens of requests that could not be read or checked";
    POSITION_QUESTIONS = "flautino.position.questions", Counter in Count: "How often the node was asked for a position that a read needed";
    REQUEST_REPEATS = "flautino.request.repeats", Counter in Count: "Requests that sent one statement more often than log_repeated allows";
}

fn describe_as(kind: Kind, name: &'static str, unit: Unit, text: &'static str) {
    match kind {
        Kind::Counter => metrics::describe_counter!(name, unit, text),
        Kind::Gauge => metrics::describe_gauge!(name, unit, text),
        Kind::Histogram => metrics::describe_histogram!(name, unit, text),
    }
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn the_module_s_table_has_exactly_the_names() {
        let rows =
            include_str!("../metrics.rs").lines().filter_map(|line| line.strip_prefix("//! | [`"));
        let told: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
        let (mut told, mut all) = (told, ALL.to_vec());
        told.sort_unstable();
        all.sort_unstable();
        assert_eq!(told, all);
    }
}
