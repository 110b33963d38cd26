//! `dejaq log`: looks into a data directory: what is there, and whether all of it is whole.
//!
//! Promises: nothing is changed: the broker's own recovery runs over an [`overlay`], so what is shown is what a start
//! would find. While a broker uses the directory only `--live` looks, since its tail moves meanwhile. The status is 0
//! if all is whole, 1 if something is damaged, 2 if it could not be looked at.
//! Leaves out: repair. What was durable and is damaged is never cut away.

mod files;
mod overlay;
mod show;

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use dejaq_storage::file_disk::FileDisk;
use dejaq_storage::layout::{DELETED, LOCK, META, PARTITIONS};
use dejaq_storage::{
    Disk, LastStop, Log, LogConfig, LogIdentity, OpenOptions, RecoveryReport, ScrubReport, SpaceGuard, Visit,
    layout,
};
use dejaq_wire::ids::{Offset, PartitionId, TopicId};

use self::overlay::Overlay;
use super::client::explain;
use super::output::Table;
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::tokio_net::SocketOptions;

/// Bytes that a batch may decompress to when its records are shown.
const DECOMPRESSED_LIMIT: usize = 256 << 20;

/// Arguments of `dejaq log`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read every byte and check every checksum; name what is damaged.
    #[command(after_help = "\
Without --topic and --partition what is beside the partitions is checked, too: meta.properties, quorum/, boot, and
`closed`, with the partitions that it says were there at the last clean stop.

Status: 0 all is whole, 1 something is damaged or gone, 2 it could not be looked at.

Examples:
  dejaq log verify /var/lib/dejaq
  dejaq log verify /var/lib/dejaq --topic orders --json")]
    Verify(Look),
    /// Print every batch: offsets, bytes, codec, producer, time; with --records what is in it.
    #[command(after_help = "\
Examples:
  dejaq log dump /var/lib/dejaq --topic orders --partition 0
  dejaq log dump /var/lib/dejaq --topic orders --records --from-offset 100 --to-offset 110")]
    Dump(Dump),
}

/// What to look at.
#[derive(Debug, ClapArgs)]
struct Look {
    /// The broker's data directory.
    data_dir: PathBuf,
    /// Only this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Look although a broker uses the directory; what it is writing now may show as a torn tail.
    #[arg(long)]
    live: bool,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
struct Dump {
    #[command(flatten)]
    look: Look,
    /// Print the records of each batch, too.
    #[arg(long)]
    records: bool,
    /// Begin with the batch that holds this offset.
    #[arg(long, value_name = "OFFSET")]
    from_offset: Option<i64>,
    /// End before this offset.
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
}

/// One partition, opened over an overlay.
struct Opened {
    identity: LogIdentity,
    log: Log<Overlay<FileDisk>>,
    report: RecoveryReport,
}

/// Runs one verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = executor.block_on(async {
        match &args.verb {
            Verb::Verify(look) => verify(look).await,
            Verb::Dump(args) => dump(args).await,
        }
    });
    match looked {
        Ok(whole) => Ok(ExitCode::from(u8::from(!whole))),
        Err(error)
            if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("dejaq: {error:#}");
            Ok(ExitCode::from(2))
        }
    }
}

/// A data directory that is only looked at.
struct Directory {
    disk: Overlay<FileDisk>,
    /// Another one over the same disk, for what is no partition.
    files: Overlay<FileDisk>,
    /// What a clean stop still says of them.
    closed: Vec<(TopicId, PartitionId)>,
    now_ms: i64,
}

impl Directory {
    async fn open(look: &Look) -> anyhow::Result<Directory> {
        let shown = look.data_dir.display();
        if !look.data_dir.is_dir() {
            return Err(explain(format!("{shown} is no directory"), "name the --data-dir of the broker"));
        }
        let below = FileDisk::open(&look.data_dir).with_context(|| format!("cannot open {shown}"))?;
        if !below.exists(Path::new(META)) {
            let cause = format!("{shown} is no data directory: it has no {META}");
            return Err(explain(cause, "name the --data-dir of the broker"));
        }
        if below.exists(Path::new(LOCK)) {
            match below.lock(Path::new(LOCK)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !look.live => {
                    let cause = format!("a broker uses {shown} now");
                    return Err(explain(cause, "stop it first, or look all the same with --live"));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    eprintln!("dejaq: a broker uses {shown} now: what it is writing may show as a torn tail");
                }
                // Held until the end, so that no broker starts meanwhile; without the right to write, none is needed.
                Ok(()) | Err(_) => {}
            }
        }
        let closed = layout::closed_cleanly(&below).await.with_context(|| format!("cannot read {shown}"))?;
        let now_ms = TokioRuntime::new(below.clone(), SocketOptions::default()).unix_ms();
        let files = Overlay::new(below.clone());
        Ok(Directory { disk: Overlay::new(below), files, closed, now_ms })
    }

    /// The folders of the partitions that are wanted, by topic and index, and those that do not say whose they are.
    async fn find(
        &self,
        look: &Look,
    ) -> anyhow::Result<(Vec<(LogIdentity, PathBuf)>, Vec<(PathBuf, String)>)> {
        let (mut found, mut nameless) = (Vec::new(), Vec::new());
        for entry in self.disk.list(Path::new(PARTITIONS)).context("cannot list the partitions")? {
            let path = Path::new(PARTITIONS).join(&entry.name);
            if !entry.is_dir || entry.name.ends_with(DELETED) {
                continue;
            }
            match Log::identity_of(&self.disk, &path).await {
                Ok(identity) => {
                    let topic = look.topic.as_ref().is_none_or(|topic| *topic == identity.topic);
                    let partition = look.partition.is_none_or(|partition| partition == identity.partition.0);
                    if topic && partition {
                        found.push((identity, path));
                    }
                }
                Err(error) => nameless.push((path, error.to_string())),
            }
        }
        found.sort_by(|(a, _), (b, _)| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        if found.is_empty() && nameless.is_empty() {
            let topic = look.topic.as_deref().unwrap_or("any topic");
            let partition = look.partition.map_or(String::new(), |p| format!(" with number {p}"));
            let cause = format!("{} holds no partition of {topic}{partition}", look.data_dir.display());
            return Err(explain(cause, "see what it holds: dejaq log verify DATA_DIR"));
        }
        Ok((found, nameless))
    }

    async fn log(&self, identity: LogIdentity, path: PathBuf) -> Result<Opened, String> {
        let clean = self.closed.contains(&(identity.topic_id, identity.partition));
        let options = OpenOptions {
            // A person looks: everything that reads as ours is shown.
            last_stop: if clean { LastStop::CLEAN } else { LastStop::KILLED },
            now_ms: self.now_ms,
            space: SpaceGuard::new(0, 0),
            verify_all: false,
        };
        // Whether the topic is compacted is not known here: gaps of offsets are not taken for damage.
        let config = LogConfig { gaps: true, ..LogConfig::default() };
        let opened = Log::open(self.disk.clone(), path, identity.clone(), config, options).await;
        let (log, report) = opened.map_err(|error| error.to_string())?;
        Ok(Opened { identity, log, report })
    }
}

async fn verify(look: &Look) -> anyhow::Result<bool> {
    let directory = Directory::open(look).await?;
    // What is no partition is part of the whole directory, and not of one topic.
    let mut details = match (&look.topic, look.partition) {
        (None, None) => files::look(&directory.files, directory.now_ms).await?,
        (Some(_), _) | (_, Some(_)) => Vec::new(),
    };
    let (found, nameless) = match directory.find(look).await {
        // The reason why there is none comes first.
        Err(_) if !details.is_empty() => (Vec::new(), Vec::new()),
        other => other?,
    };
    let mut whole = nameless.is_empty() && details.is_empty();
    let mut table = Table::new(&show::VERIFIED);
    for (path, why) in nameless {
        details.push(format!("{}: {why}", path.display()));
    }
    for (identity, path) in found {
        let name = format!("{}-{}", identity.topic, identity.partition);
        let opened = match directory.log(identity.clone(), path).await {
            Ok(opened) => opened,
            Err(why) => {
                whole = false;
                details.push(format!("{name}: it cannot be opened: {why}"));
                continue;
            }
        };
        let scrubbed = opened.log.reader().scrub().await.with_context(|| format!("cannot read {name}"))?;
        whole &= scrubbed.damage.is_empty() && opened.report.damaged.is_empty();
        whole &= show::damaged_files(&opened.report).next().is_none();
        if look.json {
            println!("{}", show::verified_json(&opened.identity, &opened.report, &scrubbed));
            continue;
        }
        table.row(show::verified_row(&opened.identity, &opened.report, &scrubbed));
        details.extend(findings(&name, &opened.report, &scrubbed));
    }
    if !look.json {
        print!("{}", table.render());
    }
    for detail in &details {
        eprintln!("dejaq: {detail}");
    }
    if !look.json {
        println!("{}", if whole { "everything is whole" } else { "something is damaged: see above" });
    }
    Ok(whole)
}

fn findings(name: &str, report: &RecoveryReport, scrubbed: &ScrubReport) -> Vec<String> {
    let mut lines = Vec::new();
    for damage in &scrubbed.damage {
        let (from, to) = (damage.range.from, damage.range.to);
        lines.push(format!("{name}: offsets {from} to {to} (segment {}): {}", damage.segment, damage.why));
    }
    let told = |range| scrubbed.damage.iter().any(|damage| damage.range == range);
    for range in report.damaged.iter().filter(|range| !told(**range)) {
        lines.push(format!("{name}: offsets {} to {} were durable and are damaged", range.from, range.to));
    }
    if let Some(cut) = &report.cut {
        let (from, bytes, why) = (cut.from, cut.bytes, &cut.reason);
        lines.push(format!(
            "{name}: a start would cut {bytes} bytes from offset {from} on, never synced: {why}"
        ));
    }
    if report.rebuilt_indexes > 0 {
        lines.push(format!("{name}: {} index file(s) a start would make again", report.rebuilt_indexes));
    }
    lines.extend(report.notes.iter().map(|note| format!("{name}: {note}")));
    lines
}

async fn dump(args: &Dump) -> anyhow::Result<bool> {
    let directory = Directory::open(&args.look).await?;
    let (found, nameless) = directory.find(&args.look).await?;
    let mut whole = nameless.is_empty();
    for (path, why) in nameless {
        eprintln!("dejaq: {}: {why}", path.display());
    }
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout());
    let (from, to) = (args.from_offset.map_or(Offset::ZERO, Offset), args.to_offset.map(Offset));
    for (identity, path) in found {
        let name = format!("{}-{}", identity.topic, identity.partition);
        let opened = match directory.log(identity, path).await {
            Ok(opened) => opened,
            Err(why) => {
                whole = false;
                eprintln!("dejaq: {name}: it cannot be opened: {why}");
                continue;
            }
        };
        if !args.look.json {
            writeln!(out, "{}", show::heading(&opened.identity, &opened.report))?;
        }
        let (mut written, mut damaged) = (Ok(()), false);
        opened
            .log
            .reader()
            .visit(|visit| {
                damaged |= matches!(visit, Visit::Damage(_));
                let (first, end) = show::span(&visit);
                if to.is_some_and(|to| first >= to) {
                    return false;
                }
                if end > from {
                    written = match args.look.json {
                        true => show::visit_json(&mut out, &opened.identity, &visit, args.records),
                        false => show::visit_text(&mut out, &visit, args.records),
                    };
                }
                written.is_ok()
            })
            .await
            .with_context(|| format!("cannot read {name}"))?;
        written?;
        whole &= !damaged;
        out.flush()?;
        for finding in findings(&name, &opened.report, &ScrubReport::default()) {
            eprintln!("dejaq: {finding}");
        }
    }
    out.flush()?;
    Ok(whole)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests look below the disk")]
mod tests;
