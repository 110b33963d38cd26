//! The minimal broker: read frames, CRC-32C of each batch, one write for all that one read brought, acknowledge.
//!
//! Leaves out everything that makes a broker: offsets, an index, recovery, order among connections, syncs. One thread
//! a connection, one log a connection: like a broker's it goes on in a new file when one is full, and deletes nothing.
//! (Until November 2026 it began again at the front of one file. Writing over cached pages costs a third of writing new
//! ones, which no log that keeps its records can do: `--rewrite` is that floor still.) It understands Produce 7 to one partition, as `dejaq bench produce
//! --no-metadata` sends it, and is the unit in which our own speed is told.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::Context;
use dejaq_wire::record::BatchHeader;

/// The largest frame, and so the buffer of a connection.
const BUFFER_BYTES: usize = 2 << 20;
/// A file is full here: the size of our own segments.
const FILE_BYTES: u64 = 1 << 30;
const MAX_VECTORS: usize = 512;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9192", value_name = "HOST:PORT")]
    listen: String,
    /// Where to write.
    #[arg(long, default_value = "./dejaq-floor", value_name = "PATH")]
    data_dir: PathBuf,
    /// One write a request instead of one for all that a read brought.
    #[arg(long)]
    single: bool,
    /// Write over the same file again and again: the least that a disk cache can do, and no log.
    #[arg(long)]
    rewrite: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.data_dir)?;
    let listener =
        TcpListener::bind(&args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    eprintln!("floor listens on {}", listener.local_addr()?);
    for (number, stream) in (0_u32..).zip(listener.incoming()) {
        let log = Log::create(args.data_dir.join(number.to_string()), args.rewrite)?;
        let (stream, single) = (stream?, args.single);
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, log, single) {
                eprintln!("floor: {error:#}");
            }
        });
    }
    Ok(())
}

/// The files of one connection, and where its next write goes.
struct Log {
    stem: PathBuf,
    rewrite: bool,
    file: File,
    /// Files before this one.
    full: u32,
    at: u64,
}

impl Log {
    fn create(stem: PathBuf, rewrite: bool) -> anyhow::Result<Log> {
        let file = create_file(&stem, 0)?;
        Ok(Log { stem, rewrite, file, full: 0, at: 0 })
    }

    /// One write.
    fn append(&mut self, parts: &[IoSlice<'_>]) -> anyhow::Result<()> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.at + total as u64 > FILE_BYTES {
            self.at = 0;
            if !self.rewrite {
                self.full += 1;
                self.file = create_file(&self.stem, self.full)?;
            }
        }
        let written = rustix::io::pwritev(&self.file, parts, self.at)?;
        anyhow::ensure!(written == total, "a short write");
        self.at += total as u64;
        Ok(())
    }
}

fn create_file(stem: &Path, number: u32) -> anyhow::Result<File> {
    let path = stem.with_extension(format!("{number}.log"));
    Ok(OpenOptions::new().create(true).truncate(true).write(true).open(path)?)
}

/// A request of the buffer: its correlation id, its topic, and where its batch lies.
struct Produced {
    correlation: [u8; 4],
    topic: std::ops::Range<usize>,
    partition: [u8; 4],
    batch: std::ops::Range<usize>,
}

fn serve(mut stream: TcpStream, mut log: Log, single: bool) -> anyhow::Result<()> {
    super::link::set_up(&stream)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    let mut requests = Vec::new();
    let mut replies = Vec::new();
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut start = 0;
        while let Some(prefix) = buffer[start..filled].first_chunk::<4>() {
            let length = u32::from_be_bytes(*prefix) as usize;
            anyhow::ensure!(4 + length <= BUFFER_BYTES, "a frame of {length} bytes");
            if filled - start < 4 + length {
                break;
            }
            requests.push(parse(&buffer, start + 4..start + 4 + length)?);
            start += 4 + length;
        }
        for turn in requests.chunks(if single { 1 } else { MAX_VECTORS }) {
            let batches: Vec<IoSlice<'_>> =
                turn.iter().map(|request| IoSlice::new(&buffer[request.batch.clone()])).collect();
            log.append(&batches)?;
            turn.iter().for_each(|request| reply(&mut replies, request, &buffer, log.at));
            if single {
                stream.write_all(&replies)?;
                replies.clear();
            }
        }
        stream.write_all(&replies)?;
        replies.clear();
        requests.clear();
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

fn parse(buffer: &[u8], frame: std::ops::Range<usize>) -> anyhow::Result<Produced> {
    let bytes = &buffer[frame.clone()];
    let short = |at: usize| -> anyhow::Result<usize> {
        let field = bytes.get(at..at + 2).context("a short frame")?;
        Ok(i16::from_be_bytes([field[0], field[1]]).max(0) as usize)
    };
    let client = short(8)?;
    // client id, null transactional id, acks, timeout, one topic
    let name = 10 + client + 2 + 2 + 4 + 4;
    let topic = name + 2..name + 2 + short(name)?;
    // one partition: its index, the length of its records
    let partition = topic.end + 4;
    let batch = partition + 8..bytes.len();
    let run = bytes.get(batch.clone()).context("a short frame")?;
    let header = BatchHeader::parse(run)?;
    header.check_crc(&run[BatchHeader::BYTES..])?;
    let four = |at: usize| bytes[at..at + 4].try_into().expect("four bytes");
    let shift = |range: std::ops::Range<usize>| range.start + frame.start..range.end + frame.start;
    Ok(Produced {
        correlation: four(4),
        topic: shift(topic),
        partition: four(partition),
        batch: shift(batch),
    })
}

fn reply(out: &mut Vec<u8>, request: &Produced, buffer: &[u8], offset: u64) {
    let name = &buffer[request.topic.clone()];
    let length = 4 + 4 + 2 + name.len() + 4 + 4 + 2 + 8 + 8 + 8 + 4;
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&request.correlation);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&(name.len() as u16).to_be_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&request.partition);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&(-1_i64).to_be_bytes());
    out.extend_from_slice(&0_u64.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
}
