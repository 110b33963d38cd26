//! What is left out of a run: faults, clients, records, time, topics. A run with cuts is the same run without those.
//!
//! Owns: [`Cuts`] and its text, which travels in a replay line as `cuts=s3+p0+r20`. Promises: every stream of randomness hangs
//! on the number of what draws from it, so that leaving one thing out leaves the draws of the others as they were.
//! Leaves out: choosing what to leave out (`runner::shrink`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// What is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Strikes of the nemesis, by number: their time passes, nothing happens.
    pub strikes: BTreeSet<u64>,
    /// Producers, by number.
    pub producers: BTreeSet<u64>,
    /// Consumers, by number.
    pub consumers: BTreeSet<u64>,
    /// Admin, hostile and raw clients, all of them.
    pub others: bool,
    /// No producer sends more records than this.
    pub records: Option<u64>,
    /// The first act lasts no longer than this many simulated milliseconds.
    pub chaos_ms: Option<u64>,
    /// The time of a strike that is left out does not pass: those behind it come earlier.
    pub quick: bool,
    /// All but the first topic, and all but one partition of that.
    pub narrow: bool,
}

impl Cuts {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Cuts::default()
    }
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |letter: char, numbers: &BTreeSet<u64>| {
            numbers.iter().map(move |number| format!("{letter}{number}")).collect::<Vec<_>>()
        };
        let mut words = some('s', &self.strikes);
        words.extend(some('p', &self.producers));
        words.extend(some('c', &self.consumers));
        words.extend(self.others.then(|| "o".to_owned()));
        words.extend(self.records.map(|records| format!("r{records}")));
        words.extend(self.chaos_ms.map(|ms| format!("t{ms}")));
        words.extend(self.quick.then(|| "q".to_owned()));
        words.extend(self.narrow.then(|| "n".to_owned()));
        f.write_str(&words.join("+"))
    }
}

impl FromStr for Cuts {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Cuts, anyhow::Error> {
        let mut cuts = Cuts::default();
        for word in text.split('+').filter(|word| !word.is_empty()) {
            let (letter, number) = word.split_at(1);
            let number = || number.parse::<u64>().map_err(|error| anyhow::anyhow!("cuts: `{word}`: {error}"));
            match letter {
                "s" => drop(cuts.strikes.insert(number()?)),
                "p" => drop(cuts.producers.insert(number()?)),
                "c" => drop(cuts.consumers.insert(number()?)),
                "o" => cuts.others = true,
                "r" => cuts.records = Some(number()?),
                "t" => cuts.chaos_ms = Some(number()?),
                "q" => cuts.quick = true,
                "n" => cuts.narrow = true,
                _ => anyhow::bail!("cuts: `{word}` is none of sN, pN, cN, o, rN, tN, q, n"),
            }
        }
        Ok(cuts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_survive_their_text() {
        let cuts = Cuts {
            strikes: BTreeSet::from([3, 12]),
            producers: BTreeSet::from([0]),
            consumers: BTreeSet::new(),
            others: true,
            records: Some(20),
            chaos_ms: Some(700),
            quick: true,
            narrow: true,
        };
        assert_eq!(cuts.to_string(), "s3+s12+p0+o+r20+t700+q+n");
        assert_eq!(cuts.to_string().parse::<Cuts>().expect("its own text"), cuts);
        assert!("".parse::<Cuts>().expect("nothing is nothing").is_empty());
        assert!("x1".parse::<Cuts>().is_err());
        assert!("s".parse::<Cuts>().is_err());
    }
}
