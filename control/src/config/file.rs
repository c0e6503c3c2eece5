//! The configuration file: TOML, its keys the names of the variables in
//! whatever case. One flat table, for the settings are one.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use toml::{Table, Value};

use super::ConfigError;
use super::settings::{ALL, Setting};

/// Longest file that is read, bytes: much more than all settings together.
const MAX_FILE: u64 = 1 << 20;

/// What a value of the file has to be.
const ALLOWED: &str =
    "a string, a whole number, true or false, or a list of strings or whole numbers";

/// The settings of the file at `path`, as text as if from the environment, and
/// everything that is wrong with it.
pub fn read(path: &Path) -> (Vec<(&'static Setting, String)>, Vec<ConfigError>) {
    match read_text(path) {
        Ok(text) => parse(path, &text),
        Err(error) => {
            let error = ConfigError::file(path, format!("cannot be read: {error}"));
            (Vec::new(), vec![error])
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    // A pipe without a writer would hold up the start for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let file = fs::File::open(path)?;
    // One byte more shows that there is more.
    let size = file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(size).is_ok_and(|size| size <= MAX_FILE) {
        Ok(text)
    } else {
        Err(io::Error::other(format!(
            "it has more than {MAX_FILE} bytes"
        )))
    }
}

pub(super) fn parse(
    path: &Path,
    text: &str,
) -> (Vec<(&'static Setting, String)>, Vec<ConfigError>) {
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            // The library's own text repeats the line, with whatever secret is
            // in it.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            let reason = error.message().replace('\n', " ");
            let error = ConfigError::file(path, format!("line {line}: {reason}"));
            return (Vec::new(), vec![error]);
        }
    };
    let mut given: Vec<(&'static Setting, String)> = Vec::new();
    let mut problems = Vec::new();
    for (key, value) in &table {
        let found = ALL.iter().find(|s| s.variable.eq_ignore_ascii_case(key));
        let reason = match (found, as_text(value)) {
            (None, _) => format!("there is no setting {key:?}"),
            (Some(setting), _) if given.iter().any(|(it, _)| it.variable == setting.variable) => {
                format!("{} is given twice", setting.variable)
            }
            (Some(setting), None) => format!("{} has to be {ALLOWED}", setting.variable),
            (Some(setting), Some(text)) => {
                given.push((setting, text));
                continue;
            }
        };
        problems.push(ConfigError::file(path, reason));
    }
    (given, problems)
}

/// A value as the environment would have it.
fn as_text(value: &Value) -> Option<String> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(list) => {
            let texts: Option<Vec<String>> = list.iter().map(one).collect();
            Some(texts?.join(","))
        }
        value => one(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = (Vec<(&'static str, String)>, Vec<String>);

    fn parsed(text: &str) -> Parsed {
        let (given, problems) = parse(Path::new("x.toml"), text);
        let given = given.into_iter().map(|(s, text)| (s.variable, text));
        let problems = problems.iter().map(ConfigError::to_string);
        (given.collect(), problems.collect())
    }

    #[test]
    fn values_of_every_kind_are_taken() {
        let (given, problems) = parsed(
            "# a comment\nprotoo_listen_port = 8443\nPROTOO_LISTEN_IP = \"::\"\n\
             MEDIASOUP_client_enable_iceserver = false\nmediasoup_worker_cpus = [\"2-3\", 5]\n",
        );
        let text = |(name, text): &(&'static str, String)| format!("{name}={text}");
        let mut given: Vec<String> = given.iter().map(text).collect();
        given.sort();
        assert_eq!(
            given,
            [
                "MEDIASOUP_CLIENT_ENABLE_ICESERVER=false",
                "MEDIASOUP_WORKER_CPUS=2-3,5",
                "PROTOO_LISTEN_IP=::",
                "PROTOO_LISTEN_PORT=8443",
            ]
        );
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(parsed(""), (Vec::new(), Vec::new()));
    }

    #[test]
    fn everything_wrong_is_told_by_name() {
        let (given, problems) = parsed(
            "protoo_listen_prot = 1\n\"a\\nb\" = 1\nroom_max_peers = 2.5\nlog_level = []\n\
             admin_token = [[\"x\"]]\nrust_log = \"info\"\nRUST_LOG = \"warn\"\n\
             [https]\nlistenPort = 1\n",
        );
        assert_eq!(given.len(), 2, "{given:?}");
        for part in [
            "x.toml: there is no setting \"protoo_listen_prot\"",
            "x.toml: there is no setting \"a\\nb\"",
            "x.toml: there is no setting \"https\"",
            "x.toml: ROOM_MAX_PEERS has to be a string",
            "x.toml: ADMIN_TOKEN has to be a string",
            "x.toml: RUST_LOG is given twice",
        ] {
            let told = problems.iter().filter(|p| p.starts_with(part)).count();
            assert_eq!(told, 1, "{part}: {problems:?}");
        }
        assert_eq!(problems.len(), 6, "{problems:?}");
    }

    #[test]
    fn what_is_no_toml_is_told_by_line_and_without_its_text() {
        for (text, line) in [
            ("a = 1\nadmin_token = \"hush\n", 2),
            ("a = 1\n\nadmin_token = hush\n", 3),
            ("log_level = \"info\"\nlog_level = \"hush\"\n", 2),
            ("hush", 1),
        ] {
            let (given, problems) = parsed(text);
            assert!(given.is_empty());
            assert_eq!(problems.len(), 1);
            let start = format!("x.toml: line {line}: ");
            assert!(problems[0].starts_with(&start), "{problems:?}");
            assert!(!problems[0].contains("hush"), "{problems:?}");
            assert_eq!(problems[0].lines().count(), 1);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for (path, reason) in [
            ("/nonexistent/x.toml", "No such file"),
            ("/dev/null", "not a regular file"),
        ] {
            let (given, problems) = read(Path::new(path));
            assert!(given.is_empty());
            let problem = problems[0].to_string();
            assert!(problem.starts_with(&format!("{path}: cannot be read: ")));
            assert!(problem.contains(reason), "{problem}");
        }
    }
}
