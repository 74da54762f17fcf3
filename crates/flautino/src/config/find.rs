//! `EngineConfig::find`: where an app's configuration is looked for, and in which order.

use std::path::{Path, PathBuf};

use super::EngineConfig;
use super::environment::{self, PREFIX, URL_VARIABLE, Variables};
use crate::error::ConfigError;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "FLAUTINO_CONF";
/// The file that is looked for in the working directory.
const FILE: &str = "flautino.toml";
/// The variables that say where the main node is.
const MAIN_VARIABLES: [&str; 2] = ["FLAUTINO_URL", "FLAUTINO_HOST"];

impl EngineConfig {
    /// Finds the app's configuration, as Piccolo's `engine_finder()` does: the file that
    /// `FLAUTINO_CONF` names, else `flautino.toml` in the working directory, else the URL in
    /// `DATABASE_URL`. An empty variable counts as unset. A file that `FLAUTINO_CONF` names must
    /// exist: what comes later is not tried then.
    ///
    /// Each key has a variable too, which wins over what was found: `FLAUTINO_LOG_QUERIES=true`,
    /// `FLAUTINO_POOL_MAX_CONNECTIONS=20`, `FLAUTINO_EXTRA_NODES_REPLICA_1_HOST=replica-1` for the key `host` of the
    /// node `replica_1`, `FLAUTINO_OPTIONS_SEARCH_PATH=app` for a key of `options`. Lists have commas. With
    /// `FLAUTINO_URL` or `FLAUTINO_HOST` nothing else need be found.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotFound`] lists what was tried; the others say what is wrong with what
    /// was found.
    pub fn find() -> Result<Self, ConfigError> {
        Self::find_with(&environment::variables()?, Path::new(""))
    }

    fn find_with(variables: &Variables, directory: &Path) -> Result<Self, ConfigError> {
        let (mut config, mut origin) = Self::find_unchecked(variables, directory)?;
        config.apply(variables)?;
        if variables.keys().any(|name| name.starts_with(PREFIX) && name != FILE_VARIABLE) {
            origin += " with the environment";
        }
        config.validate(&origin)?;
        Ok(config)
    }

    /// What is found before the environment's settings are put in place, and where it was found.
    fn find_unchecked(
        variables: &Variables,
        directory: &Path,
    ) -> Result<(Self, String), ConfigError> {
        if let Some(path) = variables.get(FILE_VARIABLE) {
            return Self::read_unchecked(&directory.join(path));
        }
        let path = directory.join(FILE);
        match Self::read_unchecked(&path) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            found => return found,
        }
        if let Some(url) = variables.get(URL_VARIABLE) {
            let mut config = Self::default();
            config.main.url = Some(url.clone());
            return Ok((config, URL_VARIABLE.to_owned()));
        }
        if MAIN_VARIABLES.iter().any(|name| variables.contains_key(*name)) {
            return Ok((Self::default(), "the defaults".to_owned()));
        }
        Err(ConfigError::NotFound {
            tried: vec![
                format!("`{FILE_VARIABLE}` (not set)"),
                format!("{} (no such file)", absolute(path).display()),
                format!("`{URL_VARIABLE}` (not set)"),
                format!("`{}` (not set)", MAIN_VARIABLES.join("` and `")),
            ],
        })
    }

    /// Reads and checks a TOML file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when the file cannot be read, else as [`EngineConfig::from_toml`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let (config, origin) = Self::read_unchecked(path)?;
        config.validate(&origin)?;
        Ok(config)
    }

    fn read_unchecked(path: &Path) -> Result<(Self, String), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: absolute(path.to_owned()), source })?;
        let origin = path.display().to_string();
        Ok((Self::parse_unchecked(&text, &origin)?, origin))
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory that goes away with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("flautino-find-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.join(name), text).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn found(dir: &Dir, variables: &[(&str, &str)]) -> Result<EngineConfig, ConfigError> {
        let set = variables.iter().filter(|(_, value)| !value.trim().is_empty());
        let set = set.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        EngineConfig::find_with(&set.collect(), &dir.0)
    }

    fn user_found(dir: &Dir, variables: &[(&str, &str)]) -> Result<Option<String>, ConfigError> {
        let config = found(dir, variables)?;
        Ok(config.main.user.or(config.main.url))
    }

    #[test]
    fn variables_win_over_the_file_and_nodes_are_found_by_their_names() {
        let dir = Dir::new("variables");
        let text = "host = 'file'\nuser = 'file'\n[pool]\nmin_connections = 20\n\
                    [extra_nodes.read-replica]\nhost = 'r'";
        dir.write("flautino.toml", text);
        let config = found(
            &dir,
            &[
                ("FLAUTINO_HOST", "here"),
                ("FLAUTINO_PASSWORD", "00123"),
                ("FLAUTINO_PORT", "5433"),
                // With the file's alone there would be too many.
                ("FLAUTINO_POOL_MAX_CONNECTIONS", "30"),
                ("FLAUTINO_POOL_ACQUIRE_TIMEOUT", "250ms"),
                ("FLAUTINO_POOL_IDLE_TIMEOUT", "90"),
                ("FLAUTINO_ROUTING_MODE", "primary"),
                ("FLAUTINO_ROUTING_FALLBACK_SHARE", "0.25"),
                ("FLAUTINO_ROUTING_TOKEN_KEYS", "0123456789abcdef, 0123456789abcdeg"),
                ("FLAUTINO_LOG_QUERIES", "true"),
                ("FLAUTINO_EXTENSIONS", "citext, hstore"),
                ("FLAUTINO_OPTIONS_SEARCH_PATH", "app"),
                ("FLAUTINO_EXTRA_NODES_READ_REPLICA_PORT", "5434"),
                ("FLAUTINO_EXTRA_NODES_OTHER_1_LOG_SLOW_THRESHOLD", "2s"),
                ("FLAUTINO_EXTRA_NODES_OTHER_1_HOST", "other"),
                ("FLAUTINO_EXTRA_NODES_OTHER_1_OPTIONS_WORK_MEM", "8MB"),
                ("FLAUTINO_DISCOVERY_INTERVAL", "1m"),
                ("FLAUTINO_DISCOVERY_HOST", "replicas"),
                ("FLAUTINO_PG_BIN", "/no/setting"),
            ],
        );
        let config = config.unwrap();
        let main = &config.main;
        assert_eq!((main.host.as_deref(), main.user.as_deref()), (Some("here"), Some("file")));
        assert_eq!((main.password.as_deref(), main.port), (Some("00123"), Some(5433)));
        assert_eq!(main.options["search_path"], "app");
        assert_eq!((config.pool.max_connections, config.pool.min_connections), (30, 20));
        assert_eq!(config.pool.acquire_timeout.as_millis(), 250);
        assert_eq!(config.pool.idle_timeout.as_secs(), 90);
        assert_eq!(config.routing.mode, crate::config::RoutingMode::Primary);
        assert_eq!(config.routing.token_keys.len(), 2);
        assert!(config.log_queries);
        assert_eq!(config.extensions, ["citext", "hstore"]);
        let nodes: Vec<_> = config.extra_nodes.iter().collect();
        assert_eq!(nodes.len(), 2, "{nodes:?}");
        assert_eq!((nodes[0].0.as_str(), nodes[0].1.host.as_deref()), ("other_1", Some("other")));
        assert_eq!(nodes[0].1.options["work_mem"], "8MB");
        assert_eq!((nodes[1].0.as_str(), nodes[1].1.port), ("read-replica", Some(5434)));
        let discovery = config.discovery.unwrap();
        assert_eq!((discovery.host.as_str(), discovery.interval.as_secs()), ("replicas", 60));
    }

    #[test]
    fn a_bad_variable_is_named_with_its_key_and_without_its_value() {
        let dir = Dir::new("bad-variables");
        dir.write("flautino.toml", "host = 'file'");
        for (name, value, key, told) in [
            ("FLAUTINO_POOL_MAX_CONNECTIONS", "s3cret", "pool.max_connections", "integer"),
            ("FLAUTINO_POOL_MAX_CONNECTIONS", "-1", "pool.max_connections", "integer"),
            ("FLAUTINO_POOL_MAX_CONNECTIONS", "99999999999", "pool.max_connections", "integer"),
            ("FLAUTINO_POOL_MAX_CONECTIONS", "1", "pool.max_conections", "`max_connections`"),
            ("FLAUTINO_LOG_QUERYS", "true", "log_querys", "`log_queries`"),
            ("FLAUTINO_LOG_QUERIES", "s3cret", "log_queries", "bool"),
            ("FLAUTINO_PORT", "70000", "port", "1 to 65535"),
            ("FLAUTINO_PORT", "s3cret", "port", "integer"),
            ("FLAUTINO_POOL", "1", "pool", "is no key"),
            ("FLAUTINO_DRAIN_TIMEOUT", "s3cret", "drain_timeout", "time"),
            ("FLAUTINO_DRAIN_TIMEOUT", "-5", "drain_timeout", "negative"),
            ("FLAUTINO_ROUTING_MODE", "some", "routing.mode", "`auto`"),
            ("FLAUTINO_ROUTING_CONSISTENCY", "some", "routing.consistency", "`session`"),
            ("FLAUTINO_ROUTING_FALLBACK", "some", "routing.fallback", "`stale`"),
            ("FLAUTINO_EXTRA_NODES_A_NOTHING", "1", "extra_nodes.a_nothing", "`host`"),
            ("FLAUTINO_EXTRA_NODES_A_PORT", "s3cret", "extra_nodes.a.port", "integer"),
            ("FLAUTINO_DISCOVERY_HOSTS", "1", "discovery.hosts", "`host`"),
        ] {
            let error = found(&dir, &[(name, value)]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(key) && text.contains(told), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn the_environment_alone_may_say_where_the_server_is() {
        let dir = Dir::new("alone");
        let config = found(&dir, &[("FLAUTINO_HOST", "here")]).unwrap();
        assert_eq!(config.main.host.as_deref(), Some("here"));
        let text = found(&dir, &[("FLAUTINO_LOG_QUERIES", "true")]).unwrap_err().to_string();
        assert!(text.contains("FLAUTINO_URL"), "{text}");
    }

    /// Whatever its type, each key can be read from a text.
    #[test]
    fn every_key_has_a_variable() {
        use crate::config::settings::Settings;
        let mut keys = EngineConfig::keys();
        keys.retain(|key| {
            !["discovery", "extra_nodes", "options", "pool", "routing"].contains(key)
        });
        let of = |prefix: &str, keys: Vec<&str>| -> Vec<_> {
            let name = |key: &str| format!("FLAUTINO_{prefix}{}", key.to_ascii_uppercase());
            keys.into_iter().map(name).collect()
        };
        let names = [
            of("", keys),
            of("POOL_", crate::config::PoolConfig::keys()),
            of("ROUTING_", crate::config::RoutingConfig::keys()),
        ];
        for name in names.concat() {
            let fits = ["1", "true", "primary", "eventual", "wait", "a"].iter().any(|text| {
                let variables = [(name.clone(), (*text).to_owned())].into();
                EngineConfig::default().apply(&variables).is_ok()
            });
            assert!(fits, "{name}");
        }
    }

    #[test]
    fn the_named_file_comes_before_the_directory_and_the_url() {
        let dir = Dir::new("precedence");
        let all = [("FLAUTINO_CONF", "named.toml"), ("DATABASE_URL", "postgres://from_url")];
        dir.write("named.toml", "user = 'named'");
        dir.write("flautino.toml", "user = 'directory'");
        assert_eq!(user_found(&dir, &all).unwrap().unwrap(), "named");
        assert_eq!(user_found(&dir, &all[1..]).unwrap().unwrap(), "directory");
        assert_eq!(user_found(&dir, &[("FLAUTINO_CONF", " ")]).unwrap().unwrap(), "directory");
        std::fs::remove_file(dir.0.join("flautino.toml")).unwrap();
        assert_eq!(user_found(&dir, &all[1..]).unwrap().unwrap(), "postgres://from_url");
    }

    #[test]
    fn nothing_found_lists_what_was_tried() {
        let dir = Dir::new("nothing");
        let text = user_found(&dir, &[("DATABASE_URL", "")]).unwrap_err().to_string();
        for place in ["FLAUTINO_CONF", "flautino.toml", "DATABASE_URL"] {
            assert!(text.contains(place), "{text}");
        }
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_not_skipped() {
        let dir = Dir::new("missing");
        let variables = [("FLAUTINO_CONF", "gone.toml"), ("DATABASE_URL", "postgres://x")];
        let text = user_found(&dir, &variables).unwrap_err().to_string();
        assert!(text.contains("gone.toml"), "{text}");
    }
}
