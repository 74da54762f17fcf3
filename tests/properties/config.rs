//! Configuration as TOML: an error, never a panic, and never with a password in it.

use flautino::{Engine, EngineConfig};
use proptest::prelude::*;

use crate::common::{cases, mutated};

/// Any six characters of it are unlike all else.
const SECRET: &str = "Zq7xZq7xZq7xZq7xZq7xZq7x";
/// What no error may have in it: a part of the secret that survives mutations.
const PART: &str = "q7xZq7";

const DOCUMENTS: &[&str] = &[
    "host = \"localhost\"\ndatabase = \"my_app\"\nuser = \"me\"\npassword = \"SECRET\"\nport = 5432\n",
    "url = \"postgres://me:SECRET@localhost:5432/my_app?sslmode=prefer\"\nextensions = []\n",
    "url = \"postgres://localhost/a?user=me&password=SECRET\"\nlog_queries = true\n",
    "host = \"a\"\nextensions = [\"uuid-ossp\", \"citext\"]\nstartup_timeout = \"30s\"\n\
     drain_timeout = 20\n[pool]\nmax_connections = 20\nmin_connections = 1\n\
     acquire_timeout = \"5s\"\nidle_timeout = \"10m\"\n",
    "host = \"a\"\n[routing]\nmode = \"auto\"\nconsistency = \"session\"\nmax_lag = \"10s\"\n\
     fallback = \"stale\"\nfallback_share = 0.5\nretries = 2\nfailover_timeout = \"10s\"\n\
     token_keys = [\"SECRETSECRET\", \"SECRET\"]\nstatement_cache = 1000\n",
    "host = \"a\"\n[discovery]\nhost = \"replicas\"\nport = 5432\ninterval = \"30s\"\n",
    "host = \"a\"\n[extra_nodes.read_replica_1]\nhost = \"b\"\npassword = \"SECRET\"\n\
     options = { search_path = \"app\" }\nstatement_timeout = \"1s\"\nconnect_timeout = \"5s\"\n\
     [extra_nodes.\"read replica\"]\nurl = \"postgresql://u:SECRET@b:1/c?options[a]=b\"\n\
     ssl_mode = \"require\"\nlog_statements = \"debug\"\npgbouncer = true\n",
];

const PIECES: &[&str] = &[
    "\"",
    "'",
    "\"\"\"",
    "=",
    "\n",
    "[",
    "]",
    "[[",
    "{",
    "}",
    ".",
    ",",
    "#",
    "\\",
    "\\u0000",
    "0",
    "-1",
    "1e400",
    "nan",
    "true",
    "[pool]",
    "[extra_nodes.main]",
    "url = ",
    "@",
    ":",
    "/",
    "?",
    "&",
    "%",
    "%00",
    "%zz",
    "\0",
    "99999999999999999999",
    "1979-05-27",
];

fn documents() -> Vec<String> {
    DOCUMENTS.iter().map(|text| text.replace("SECRET", SECRET)).collect()
}

fn read(text: &str) -> Option<String> {
    match EngineConfig::from_toml(text) {
        Ok(config) => {
            let shown = format!("{config:?}");
            assert!(Engine::new(config).is_ok(), "validated, and then refused: {text:?}");
            Some(shown)
        }
        Err(error) => Some(format!("{error} {error:?}")),
    }
}

#[test]
fn the_documents_are_valid_but_for_the_name_of_one_node() {
    let wrong: Vec<_> =
        documents().iter().filter_map(|text| EngineConfig::from_toml(text).err()).collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].to_string().contains("read replica"), "{wrong:?}");
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn a_document_to_which_something_happened_is_read_or_refused(
        text in mutated(documents(), PIECES, 5),
    ) {
        read(&text);
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_password(
        document in 0..DOCUMENTS.len(),
        key in proptest::sample::select(&["password", "url", "token_keys", "user", "host"][..]),
        value in proptest::sample::select(&[
            "5", "true", "[\"SECRET\"]", "{ a = \"SECRET\" }", "[[\"SECRET\"]]", "[5, \"SECRET\"]",
            "\"SECRET", "'SECRET", "\"SECRET\" SECRET", "\"SECRET\\q\"", "\"\"\"SECRET\"",
            "\"postgres://me:SECRET@\"", "\"postgres://me:SECRET@h:x/d\"", "\"SECRET\\u12\"",
            "\"me:SECRET@localhost\"", "\"postgres://me:SECRET@[::1/d\"",
            "\"postgres://me:SECRET@h/d?port=x\"", "\"postgres://me:SECRET@h/d?sslmode=x\"",
            "\"postgres://me:SECRET@h/d?statement-cache-capacity=x\"",
            "\"postgres://me:%ff%SECRET@h/d\"", "\"postgres://me:SECRET%ff@h/d\"",
            "\"postgres://h/d?password=SECRET%ff\"", "\"postgres://h/d?password=SECRET&port=0\"",
            "\"postgres://me:SECRET@h:70000/d\"", "\"mysql://me:SECRET@h/d\"",
            "SECRET", "1.5SECRET", "1979-SECRET", "truSECRET",
        ][..]),
    ) {
        let text = format!("{key} = {value}\n{}", DOCUMENTS[document]).replace("SECRET", SECRET);
        // A host or a user is no secret.
        if !matches!(key, "user" | "host") {
            let shown = read(&text).unwrap_or_default();
            prop_assert!(!shown.contains(PART), "{}\nof\n{}", shown, text);
        }
        let routing = format!("[routing]\n{key} = {value}\n").replace("SECRET", SECRET);
        let shown = read(&routing).unwrap_or_default();
        prop_assert!(!shown.contains(PART), "{}\nof\n{}", shown, routing);
    }
}
