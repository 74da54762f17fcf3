//! `postgresql.conf` of a node, which is written anew before each start.

use std::fmt::Write;

use crate::address::conninfo;
use crate::error::ClusterError;

/// Fast to start, not durable, and with all that replication needs.
const BASE: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "100"),
    ("shared_buffers", "16MB"),
    ("dynamic_shared_memory_type", "mmap"),
    // No data needs to survive a loss of power. pg_rewind needs the two settings after it.
    ("fsync", "off"),
    ("full_page_writes", "on"),
    ("wal_log_hints", "on"),
    ("synchronous_commit", "on"),
    ("wal_level", "replica"),
    ("wal_keep_size", "512MB"),
    ("max_wal_senders", "10"),
    ("hot_standby", "on"),
    ("recovery_target_timeline", "latest"),
    // Standbys notice within a fraction of a second that their upstream is back.
    ("wal_retrieve_retry_interval", "200ms"),
    ("wal_receiver_status_interval", "1s"),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] %q%a "),
    ("datestyle", "ISO, MDY"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("default_text_search_config", "pg_catalog.english"),
];

/// Settings that only the cluster itself may set.
const RESERVED: [&str; 6] =
    ["port", "data_directory", "external_pid_file", "cluster_name", "primary_conninfo", "hba_file"];

/// Settings in which a standby must have at least as much as its upstream, and initdb's own values.
const MIN_ON_STANDBY: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// The user's own settings, which override [`BASE`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings(Vec<(String, String)>);

impl Settings {
    pub(crate) fn set(&mut self, name: String, value: String) {
        self.0.push((name, value));
    }

    pub(crate) fn check(&self) -> Result<(), ClusterError> {
        for (name, _) in &self.0 {
            if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
                let why = format!("the setting {name:?} is the cluster's own; leave it out");
                return Err(ClusterError::Invalid(why));
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
            if name.is_empty() || !name.chars().all(fits) {
                let why = format!("{name:?} is no name of a setting");
                return Err(ClusterError::Invalid(why));
            }
        }
        Ok(())
    }

    /// Whether a standby can start from a copy of what initdb made, which remembers initdb's
    /// values: a standby with less than those refuses to start.
    pub(crate) fn allow_pristine_standby(&self) -> bool {
        self.0.iter().all(|(name, value)| {
            let minimum = MIN_ON_STANDBY.iter().find(|(of, _)| name.eq_ignore_ascii_case(of));
            minimum.is_none_or(|(_, min)| value.trim().parse().is_ok_and(|n: u32| n >= *min))
        })
    }

    /// The whole file.
    pub(crate) fn render(&self, node: &str, port: u16, upstream: Option<u16>) -> String {
        let mut text = String::from("# Written by flautino-cluster at each start.\n");
        let mut line = |name: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = '{value}'");
        };
        for (name, value) in BASE {
            line(name, value);
        }
        for (name, value) in &self.0 {
            line(name, value);
        }
        line("port", &port.to_string());
        line("cluster_name", node);
        if let Some(upstream) = upstream {
            line("primary_conninfo", &format!("{} application_name={node}", conninfo(upstream)));
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Settings {
        Settings(vec![(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn values_are_quoted() {
        let text = of("application_name", "it's\\\nso").render("a", 1, None);
        assert!(text.contains("application_name = 'it''s\\\\\\nso'\n"), "{text}");
    }

    #[test]
    fn the_clusters_own_settings_and_names_that_are_none_are_refused() {
        assert!(of("PORT", "1").check().is_err());
        assert!(of("work_mem = 1\nx", "1").check().is_err());
        of("auto_explain.log_min_duration", "0").check().unwrap();
    }

    #[test]
    fn fewer_connections_than_initdb_chose_need_a_base_backup() {
        assert!(!of("max_connections", "20").allow_pristine_standby());
        assert!(of("max_connections", "200").allow_pristine_standby());
        assert!(of("work_mem", "64kB").allow_pristine_standby());
    }
}
