//! Text to values and back: numbers with units, switches, addresses.

use dejaq_wire::peer::raft::MAX_VOTERS;

use super::QuorumNode;
use super::table::{Kind, Setting};

/// Why a value is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number, or one with an unknown unit.
    #[error("{0:?} is not a number{1}")]
    NotANumber(String, &'static str),
    /// A number out of bounds.
    #[error("{value} is not within {bounds}")]
    OutOfBounds {
        /// What was given.
        value: String,
        /// What is allowed.
        bounds: String,
    },
    /// Neither `true` nor `false`.
    #[error("{0:?} is neither true nor false")]
    NotASwitch(String),
    /// None of the words.
    #[error("{value:?} is none of {words}")]
    NoSuchWord {
        /// What was given.
        value: String,
        /// What is allowed.
        words: String,
    },
    /// Not `host:port`.
    #[error("{0:?} is not an address of the form HOST:PORT")]
    NotAnAddress(String),
    /// Not `id@host:port`.
    #[error("{0:?} is not of the form ID@HOST:PORT,ID@HOST:PORT,…")]
    NotAQuorum(String),
    /// A node votes twice, or there are too many.
    #[error("{0}")]
    NoQuorum(String),
    /// Not `key=value`.
    #[error("{0:?} is not of the form KEY=VALUE")]
    NotAPair(String),
}

/// Each with the suffix and the factor to the unit of the name; the larger first.
const BYTES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];
const MILLIS: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1_000)];

fn units(name: &str) -> &'static [(&'static str, u64)] {
    if name.ends_with("-bytes") {
        BYTES
    } else if name.ends_with("-ms") {
        MILLIS
    } else {
        &[]
    }
}

/// A number of this setting, in the unit of its name, within its bounds.
pub(super) fn number(setting: &Setting, text: &str) -> Result<u64, ParseError> {
    let hint = match units(setting.name).first() {
        Some((suffix, _)) if suffix.ends_with('B') => " of bytes, such as 1048576 or 1MiB",
        Some(_) => " of milliseconds, such as 1500, 90s or 2h",
        None => "",
    };
    let bad = || ParseError::NotANumber(text.to_owned(), hint);
    let plain = text.trim().replace('_', "");
    let digits = plain.find(|c: char| !c.is_ascii_digit()).unwrap_or(plain.len());
    let (head, suffix) = plain.split_at(digits);
    let suffix = suffix.trim();
    let factor = if suffix.is_empty() {
        1
    } else {
        units(setting.name).iter().find(|(name, _)| *name == suffix).ok_or_else(bad)?.1
    };
    let value = head.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    let Kind::Number { min, max, .. } = setting.kind else {
        unreachable!("{} is asked for as a number but is {:?}", setting.name, setting.kind)
    };
    if value < min || value > max {
        return Err(ParseError::OutOfBounds { value: text.to_owned(), bounds: setting.bounds() });
    }
    Ok(value)
}

/// The shortest way to write `value` exactly.
pub(super) fn show(name: &str, value: u64) -> String {
    let best = units(name)
        .iter()
        .filter(|(suffix, _)| suffix.ends_with("iB") || name.ends_with("-ms"))
        .find(|(_, factor)| *factor > 1 && value >= *factor && value.is_multiple_of(*factor));
    match best {
        Some((suffix, factor)) => format!("{}{suffix}", value / factor),
        None => value.to_string(),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, ParseError> {
    match text.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(ParseError::NotASwitch(other.to_owned())),
    }
}

/// Reads `1@host:port,2@host:port`; empty is nobody.
pub(super) fn quorum(text: &str) -> Result<Vec<QuorumNode>, ParseError> {
    let mut nodes: Vec<QuorumNode> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let bad = || ParseError::NotAQuorum(part.to_owned());
        let (id, at) = part.split_once('@').ok_or_else(bad)?;
        let id = id.parse().ok().filter(|id| *id <= i32::MAX as u32).ok_or_else(bad)?;
        let address = address(at).map_err(|_| bad())?;
        if nodes.iter().any(|node| node.id == id) {
            return Err(ParseError::NoQuorum(format!("node {id} is named twice")));
        }
        nodes.push(QuorumNode { id, address });
    }
    if nodes.len() > MAX_VOTERS {
        return Err(ParseError::NoQuorum(format!("{} nodes are more than {MAX_VOTERS}", nodes.len())));
    }
    Ok(nodes)
}

/// Checks `host:port`; a host may be a name, IPv4, or IPv6 in brackets.
pub(super) fn address(text: &str) -> Result<String, ParseError> {
    let text = text.trim();
    let bad = || ParseError::NotAnAddress(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let plain_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || plain_v6 || host.contains(char::is_whitespace) || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    Ok(text.to_owned())
}

/// `key=value` pairs, separated by commas.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ParseError> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(ParseError::NotAPair(pair.to_owned())),
        })
        .collect()
}
