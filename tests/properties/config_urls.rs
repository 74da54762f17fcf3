//! Passwords in URLs that should have been escaped and were not.

use flautino::EngineConfig;

const SECRET: &str = "Zq7xZq7xZq7x";

fn shown(url: &str) -> Vec<String> {
    let toml = format!("url = {url:?}");
    [EngineConfig::from_url(url), EngineConfig::from_toml(&toml)]
        .into_iter()
        .map(|result| match result {
            Ok(config) => format!("{config:?}"),
            Err(error) => format!("{error} {error:?}"),
        })
        .collect()
}

/// Each character that means something in a URL, before, within and after a part of the password.
#[test]
fn no_error_and_no_debug_output_shows_a_part_of_a_password_that_is_not_escaped() {
    let mut leaks = Vec::new();
    for special in ["?", "#", "/", "@", ":", "%", "&", "=", "[", "]", " ", "\\", "^", "+", "ä"] {
        for password in [
            format!("{special}{SECRET}"),
            format!("1{special}{SECRET}"),
            format!("a{special}{SECRET}"),
            format!("{SECRET}{special}{SECRET}"),
            format!("{SECRET}{special}{SECRET}=1&{SECRET}"),
        ] {
            for url in [
                format!("postgres://me:{password}@localhost:5432/db"),
                format!("postgres://me:{password}@localhost/db?sslmode=disable"),
            ] {
                leaks.extend(
                    shown(&url)
                        .into_iter()
                        .filter(|text| text.contains(SECRET))
                        .map(|text| format!("{url}\n    {text}")),
                );
            }
        }
    }
    assert!(
        leaks.is_empty(),
        "{} leaks, such as\n{}",
        leaks.len(),
        leaks[..leaks.len().min(12)].join("\n")
    );
}
