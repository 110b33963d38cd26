//! Text and JSON for people and scripts: tables, times, sizes, bytes; and the one place that writes them. The rest is pure.

use std::fmt;
use std::io::{ErrorKind, Write as _};

use serde_json::{Value, json};

const MS_PER_DAY: i64 = 86_400_000;

/// What a shell says of a program that was ended because nobody read it any more.
const NOBODY_READS: i32 = 141;

/// Writes to standard output. Does not return if that cannot be done: what was to be told is not told.
#[allow(clippy::disallowed_methods, reason = "as a signal would: what a verb has to tell cannot be told")]
pub(super) fn say(text: fmt::Arguments<'_>) {
    let Err(error) = std::io::stdout().lock().write_fmt(text) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(NOBODY_READS);
    }
    eprintln!("dejaq: the output could not be written: {error}");
    std::process::exit(2);
}

/// Writes a line to standard error, if that can be done.
pub(super) fn complain(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A table: a row of headings, then rows as wide as they. Columns of numbers stand to the right.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(super) fn new(headings: &[&str]) -> Table {
        assert!(!headings.is_empty(), "a table has a column");
        Table { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "as many cells as headings: {cells:?}");
        self.rows.push(cells);
    }

    /// The table as lines.
    pub(super) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let numeric = |c: usize| {
            let body = &self.rows[1..];
            !body.is_empty() && body.iter().all(|row| row[c].parse::<f64>().is_ok() || row[c] == "-")
        };
        let shape: Vec<_> = (0..columns).map(|c| (width(c), numeric(c))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, numeric)) in row.iter().zip(&shape) {
                let gap = " ".repeat(width - cell.chars().count());
                line += &if *numeric { format!("{gap}{cell}  ") } else { format!("{cell}{gap}  ") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Bytes as a person says them: `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

/// Bytes as JSON: a string where they are UTF-8, else `{"base64": …}`, else null.
pub(super) fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => json!(text),
        Some((bytes, Err(_))) => json!({ "base64": base64(bytes) }),
    }
}

/// Standard base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Milliseconds since 1970 as RFC 3339 in UTC: `2026-11-22T18:48:02.123Z`; the plain number outside of the years 0 to 9999.
pub(super) fn time(ms: i64) -> String {
    let (day, in_day) = (ms.div_euclid(MS_PER_DAY), ms.rem_euclid(MS_PER_DAY));
    let (year, month, date) = civil(day);
    if !(0..=9999).contains(&year) {
        return ms.to_string();
    }
    let (hour, minute, second, milli) =
        (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// A point in time as a person gives it: ms since 1970, RFC 3339 in UTC, a date, or a while ago such as `-10m`.
///
/// # Errors
/// Says what would be understood.
pub(super) fn parse_time(text: &str, now_ms: i64) -> Result<i64, String> {
    let refused = || {
        format!(
            "{text:?} is no time; use ms since 1970, 2026-01-31, 2026-01-31T12:00:00Z, or a while ago: -30s, -10m, -2h, -1d"
        )
    };
    if let Some(ago) = text.strip_prefix('-')
        && let Some(unit) = ago.chars().last().filter(|unit| "smhd".contains(*unit))
    {
        let count: i64 = ago[..ago.len() - 1].parse().map_err(|_| refused())?;
        let unit_ms = match unit {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            _ => MS_PER_DAY,
        };
        let ago_ms = count.checked_mul(unit_ms).ok_or_else(refused)?;
        return now_ms.checked_sub(ago_ms).ok_or_else(refused);
    }
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    rfc3339(text).ok_or_else(refused)
}

fn rfc3339(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut hands = clock.split(':').map(str::parse::<i64>);
    let (hour, minute) = (hands.next()?.ok()?, hands.next()?.ok()?);
    let second = hands.next().map_or(Some(0), Result::ok)?;
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range || !(0..=9999).contains(&year) || parts.next().is_some() || hands.next().is_some() {
        return None;
    }
    let digits: String = fraction.chars().chain("00".chars()).take(3).collect();
    let milli: i64 = digits.parse().ok()?;
    let days = days_since_1970(year, month, day);
    (civil(days) == (year, month, day))
        .then_some(days * MS_PER_DAY + hour * 3_600_000 + minute * 60_000 + second * 1000 + milli)
}

/// Days since 1970 of a date of the Gregorian calendar; years begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970: year, month, day.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let calendar_month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(calendar_month <= 2), calendar_month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_stand_to_the_right() {
        let mut table = Table::new(&["NAME", "COUNT"]);
        table.row(vec!["a".into(), "7".into()]);
        table.row(vec!["long".into(), "1234567".into()]);
        assert_eq!(table.render(), "NAME    COUNT\na           7\nlong  1234567\n");
    }

    #[test]
    fn times_are_utc_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(ms), text);
            assert_eq!(parse_time(text, 0), Ok(ms));
        }
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
        for day in -200_000..200_000 {
            let (year, month, date) = civil(day);
            assert_eq!(days_since_1970(year, month, date), day);
        }
    }

    #[test]
    fn a_time_may_be_given_in_five_ways() {
        let now = 1_000_000_000_000;
        assert_eq!(parse_time("1234", now), Ok(1234));
        assert_eq!(parse_time("-10m", now), Ok(now - 600_000));
        assert_eq!(parse_time("2024-02-29", now), Ok(1_709_164_800_000));
        assert_eq!(parse_time("2024-02-29 12:34", now), Ok(1_709_210_040_000));
        assert_eq!(parse_time("2024-02-29T12:34:56.5Z", now), Ok(1_709_210_096_500));
        for bad in ["", "x", "2024-02-30", "2024-13-01", "-10y", "-m", "25:00", "2024-02-29T24:00:00Z"] {
            assert!(parse_time(bad, now).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_in_json() {
        assert_eq!(bytes_json(Some(b"text")), json!("text"));
        assert_eq!(bytes_json(Some(b"\xff\xfe")), json!({ "base64": "//4=" }));
        assert_eq!(bytes_json(None), Value::Null);
        assert_eq!(
            (base64(b"a"), base64(b"ab"), base64(b"abc")),
            ("YQ==".into(), "YWI=".into(), "YWJj".into())
        );
    }

    #[test]
    fn sizes_are_said_in_binary_units() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
