//! `EngineConfig::find`: where an app's configuration is looked for, and in which order.

use std::path::{Path, PathBuf};

use super::EngineConfig;
use crate::error::ConfigError;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "FLAUTINO_CONF";
/// The file that is looked for in the working directory.
const FILE: &str = "flautino.toml";
/// The variable with the main node's URL.
const URL_VARIABLE: &str = "DATABASE_URL";

impl EngineConfig {
    /// Finds the app's configuration, as Piccolo's `engine_finder()` does: the file that
    /// `FLAUTINO_CONF` names, else `flautino.toml` in the working directory, else the URL in
    /// `DATABASE_URL`. An empty variable counts as unset. A file that `FLAUTINO_CONF` names must
    /// exist: what comes later is not tried then.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotFound`] lists what was tried; the others say what is wrong with what
    /// was found.
    pub fn find() -> Result<Self, ConfigError> {
        Self::find_with(|name| std::env::var(name).ok(), Path::new(""))
    }

    fn find_with(
        variable: impl Fn(&str) -> Option<String>,
        directory: &Path,
    ) -> Result<Self, ConfigError> {
        let set = |name| variable(name).filter(|value| !value.trim().is_empty());
        if let Some(path) = set(FILE_VARIABLE) {
            return Self::read(&directory.join(path));
        }
        let path = directory.join(FILE);
        match Self::read(&path) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            found => return found,
        }
        if let Some(url) = set(URL_VARIABLE) {
            let mut config = Self::default();
            config.main.url = Some(url);
            config.validate(URL_VARIABLE)?;
            return Ok(config);
        }
        Err(ConfigError::NotFound {
            tried: vec![
                format!("`{FILE_VARIABLE}` (not set)"),
                format!("{} (no such file)", absolute(path).display()),
                format!("`{URL_VARIABLE}` (not set)"),
            ],
        })
    }

    /// Reads and checks a TOML file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when the file cannot be read, else as [`EngineConfig::from_toml`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: absolute(path.to_owned()), source })?;
        Self::parse(&text, &path.display().to_string())
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

    fn user_found(dir: &Dir, variables: &[(&str, &str)]) -> Result<Option<String>, ConfigError> {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let config = EngineConfig::find_with(variable, &dir.0)?;
        Ok(config.main.user.or(config.main.url))
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
